"""Segments are flushed one at a time, and never again after a flush that failed."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nuntwist.errors import StorageUnavailable
from nuntwist.files import WRITE_BACK_EVERY
from nuntwist.oplog.flushing import Flushing
from tests.unit.lost import Threads

FAILED = "the log could not be flushed (Input/output error); check the disk, then restart"


class Segment:
    """Notes what is done to it.

    :ivar breaks: it cannot be flushed.
    """

    def __init__(self) -> None:
        self.done: list[str] = []
        self.breaks = False
        self.size = self.handed = 0
        self.handle: Any = self

    def sync(self) -> None:
        self.done.append("sync")
        if self.breaks:
            raise OSError(errno.EIO, "Input/output error")

    def close(self) -> None:
        self.done.append("close")

    def write_back(self) -> None:
        self.sync()


class Disk:
    """Flushing whose threads do their work when they are told to."""

    def __init__(self) -> None:
        self.threads = Threads()
        self.threads.hold = True
        self.flushing: Any = Flushing(self.threads)
        self.told: list[str] = []

    def sync(self, segment: Segment, name: str) -> None:
        done: Deferred[None] = self.flushing.sync(segment)
        done.addCallbacks(lambda _: self.told.append(name), self._failed)

    def _failed(self, reason: Failure) -> None:
        reason.trap(StorageUnavailable)
        self.told.append(str(reason.value))


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_one_is_flushed_at_a_time(disk: Disk) -> None:
    one, other = Segment(), Segment()
    disk.sync(one, "one")
    disk.sync(other, "other")
    disk.threads.run_one()
    assert (disk.told, other.done) == (["one"], [])
    disk.threads.run_one()
    assert (disk.told, other.done) == (["one", "other"], ["sync"])


def test_what_waits_behind_a_flush_that_fails_is_not_believed(disk: Disk) -> None:
    one, other = Segment(), Segment()
    one.breaks = True
    disk.sync(one, "one")
    disk.sync(other, "other")
    disk.threads.run_one()
    assert disk.told == ["Input/output error"]
    if disk.threads.busy:
        disk.threads.run_one()
    assert disk.told == ["Input/output error", FAILED]


def test_after_a_flush_that_failed_there_is_none(disk: Disk) -> None:
    one = Segment()
    one.breaks = True
    disk.sync(one, "one")
    disk.threads.run_one()
    one.breaks = False
    disk.sync(one, "one")
    assert not disk.threads.busy
    assert disk.told == ["Input/output error", FAILED]


def test_a_flush_is_not_believed_where_the_log_has_failed_meanwhile(disk: Disk) -> None:
    disk.sync(Segment(), "one")
    disk.flushing.failed = "it could not be cut"
    disk.threads.run_one()
    assert disk.told == ["it could not be cut"]


def test_a_full_segment_is_flushed_once(disk: Disk) -> None:
    full = Segment()
    assert not disk.flushing.is_flushed(full)
    assert not disk.flushing.is_flushed(full)
    disk.threads.run_one()
    assert not disk.threads.busy
    assert disk.flushing.is_flushed(full)
    disk.flushing.finish(full)
    assert full.done == ["sync", "sync"]
    disk.flushing.begin_anew()
    assert not disk.flushing.is_flushed(full)
    assert disk.threads.busy


def test_the_rest_of_a_full_segment_that_cannot_be_flushed_fails_the_log(disk: Disk) -> None:
    full = Segment()
    full.breaks = True
    with pytest.raises(StorageUnavailable, match="check the disk"):
        disk.flushing.finish(full)
    assert disk.flushing.failed == FAILED


@pytest.mark.parametrize("closed", [False, True])
def test_a_full_segment_that_cannot_be_flushed_fails_the_log_unless_that_is_closed(
    disk: Disk, closed: bool
) -> None:
    full = Segment()
    full.breaks = True
    disk.flushing.is_flushed(full)
    if closed:
        disk.flushing.close()
    disk.threads.run_one()
    assert disk.flushing.failed == (None if closed else FAILED)
    assert not disk.flushing.is_flushed(full)


def test_none_is_closed_while_one_is_flushed(disk: Disk) -> None:
    one = Segment()
    disk.sync(one, "one")
    disk.flushing.close_segment(one)
    assert one.done == []
    disk.threads.run_one()
    assert one.done == ["sync", "close"]


def test_the_system_is_told_now_and_then_and_may_refuse(disk: Disk) -> None:
    one = Segment()
    one.breaks = True
    one.size = WRITE_BACK_EVERY - 1
    disk.flushing.write_back(one)
    assert not disk.threads.busy
    one.size += 1
    disk.flushing.write_back(one)
    one.size += WRITE_BACK_EVERY
    disk.flushing.write_back(one)
    disk.threads.run_one()
    assert (one.done, disk.threads.busy, disk.flushing.failed) == (["sync"], False, None)
    disk.flushing.write_back(one)
    assert disk.threads.busy
