"""A log that follows another: a cut beside its flushes, and records of the other on a disk that
fails and in a process that ends, at every step."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from nuntwist.errors import OutcomeUnknown, StorageUnavailable, TakenBack
from nuntwist.files import Stopped
from nuntwist.interfaces import Received
from nuntwist.oplog.epochs import Epochs
from nuntwist.oplog.flushed import FlushedOplog
from nuntwist.oplog.record import split
from nuntwist.oplog.segment import segment_name
from nuntwist.oplog.segments import FileOplog
from nuntwist.values import Epoch, Position
from tests.unit.conformance_oplog import EPOCH, LATER, all_of, run
from tests.unit.conformance_records import received
from tests.unit.faulty import FaultyFiles, Threads
from tests.unit.test_oplog_cutting import ENDS, LIMIT, NAME, opened

# -- a log that is flushed -------------------------------------------------------------------------


class Flushed:
    """A log whose flushes end when they are told to."""

    def __init__(self, before_answers: bool = True) -> None:
        self.files, self.threads = FaultyFiles(), Threads()
        inner = FileOplog(self.files, 1, self.threads, LIMIT)
        self.log = FlushedOplog(inner, before_answers)
        self.log.open()
        self.outcomes: dict[int, Any] = {}

    def append(self, first: int) -> None:
        durable: Deferred[None] | None = self.log.append(EPOCH, run(first, 2))
        if durable is not None:
            durable.addBoth(lambda outcome: self.outcomes.__setitem__(first, outcome))

    def became(self, first: int) -> object:
        outcome = self.outcomes.get(first, "waits")
        return getattr(outcome, "type", outcome)


def test_a_cut_beside_a_flush_writes_and_keeps_what_waits() -> None:
    log = Flushed()
    for first in (1, 3, 5, 7):
        log.append(first)
    assert all_of(log.log) == run(1, 2)
    assert log.log.cut(4, NAME) == 4
    assert [log.became(first) for first in (1, 3)] == ["waits"] * 2
    assert [log.became(first) for first in (5, 7)] == [TakenBack] * 2
    assert "cut after operation 4" in str(log.outcomes[5].value)
    kept = split(bytes(log.files.contents[NAME])[16:], NAME)
    assert [one for record in kept for one in record.ops] == run(5, 4)
    log.append(5)
    log.threads.run_all()
    assert [log.became(first) for first in (1, 3, 5)] == [None] * 3
    assert (log.log.last, log.log.count) == (Position(EPOCH, 6), 6)
    log.files.restart(power_lost=True)
    assert all_of(opened(log.files)) == run(1, 6)


def test_what_a_flush_covers_is_not_durable_when_it_was_cut_off() -> None:
    log = Flushed()
    log.append(1)
    log.threads.run_all()
    log.append(3)
    synced: list[Any] = []
    log.log.sync().addBoth(synced.append)
    log.log.cut(2, NAME)
    assert log.became(3) is TakenBack
    assert synced == []
    log.threads.run_all()
    assert synced == [None]
    assert log.log.failed is None


def test_a_cut_from_the_callback_of_a_flush() -> None:
    log = Flushed()
    log.append(1)
    log.threads.run_all()
    cut: list[int] = []
    log.log.append(EPOCH, run(3, 2)).addCallback(lambda _: cut.append(log.log.cut(4, NAME)))
    log.append(5)
    log.threads.run()
    assert (cut, log.became(5)) == ([2], TakenBack)
    assert all_of(log.log) == run(1, 4)
    # Two are flushed at once, and the first to hear of it cuts off the second.
    log = Flushed()
    log.append(1)
    first: Deferred[None] = log.log.append(EPOCH, run(3, 2))
    log.append(5)
    first.addCallback(lambda _: cut.append(log.log.cut(4, NAME)))
    log.threads.run_all()
    assert (cut, log.became(1), log.became(5)) == ([2, 2], None, TakenBack)
    log.append(5)
    log.threads.run_all()
    assert log.became(5) is None


def test_nothing_takes_the_indexes_while_those_who_wait_are_told() -> None:
    log = Flushed()
    refused: list[str] = []

    def lost(_: object) -> None:
        with pytest.raises(StorageUnavailable, match="cut after operation 0") as caught:
            log.append(1)
        refused.append(str(caught.value))
        with pytest.raises(StorageUnavailable):
            log.log.cut(0, NAME)

    for first in (1, 3):
        log.log.append(EPOCH, run(first, 2)).addErrback(lost)
    log.log.cut(0, NAME)
    assert len(refused) == 2
    log.append(1)
    log.threads.run_all()
    assert log.became(1) is None


def test_who_waits_beside_a_cut_that_fails_does_not_know() -> None:
    log = Flushed()
    for first in range(1, 20, 2):
        log.append(first)
        log.threads.run_all()
    log.append(21)
    log.append(23)
    log.files.fail_next("remove")
    with pytest.raises(StorageUnavailable, match="could not be cut after operation 2"):
        log.log.cut(2, NAME)
    assert log.log.failed is not None
    log.threads.run_all()
    assert (log.became(21), log.became(23)) == (OutcomeUnknown, OutcomeUnknown)
    with pytest.raises(StorageUnavailable, match="could not be cut"):
        log.append(25)


def test_every_second_what_is_written_was_answered_though_it_is_cut_off() -> None:
    log = Flushed(before_answers=False)
    log.append(1)
    log.log.flush_now()
    log.append(3)
    assert log.log.cut(0, NAME) == 4
    assert log.became(3) is None
    kept = split(bytes(log.files.contents[NAME])[16:], NAME)
    assert [one for record in kept for one in record.ops] == run(1, 4)


# -- records of another node -----------------------------------------------------------------------


def theirs() -> list[Received]:
    return [received(3, 2), received(5, 3, LATER), received(8, 1, LATER)]


def parts() -> Iterator[list[int]]:
    """What may be there after the process has ended in the write: the first records, whole."""
    for last in (2, 4, 7, 8):
        yield [*range(1, last + 1)]


@ENDS
@pytest.mark.parametrize("at_most", [None, 40, 130])
def test_records_whose_writing_ends_in_any_step(at_most: int | None, power_lost: bool) -> None:
    found = set()
    for stop_at in range(100):
        files = FaultyFiles()
        log = opened(files)
        log.append(EPOCH, run(1, 2))
        log.sync()
        files.at_most = at_most
        files.stop_at = files.steps + stop_at
        try:
            log.append_records(theirs())
        except Stopped:
            files.restart(power_lost=power_lost)
            log = opened(files)
            last = log.last.index
            assert [one[2] for one in all_of(log)] in list(parts())
            assert all_of(log) == run(1, last)
            found.add(last)
            log.append(LATER, run(last + 1, 1))
        else:
            break
    assert stop_at >= 1
    assert found == ({2} if power_lost else {4} if at_most is None else {4, 7})


@pytest.mark.parametrize("at_most", [None, 40, 130])
def test_records_that_cannot_be_written_are_none_of_them_there(at_most: int | None) -> None:
    said = set()
    for call in range(1, 100):
        files = FaultyFiles()
        log = opened(files)
        log.append(EPOCH, run(1, 2))
        before = bytes(files.contents[segment_name(1)])
        told: list[object] = []
        log.written = lambda *what, told=told: told.append(what)  # type: ignore[misc]
        files.at_most = at_most
        files.faults["write", files.calls["write"] + call] = errno.ENOSPC
        try:
            log.append_records(theirs())
        except StorageUnavailable as error:
            said.add(str(error))
        else:
            break
        assert files.contents[segment_name(1)] == before
        assert (log.last, log.reigns(3), told) == (Position(EPOCH, 2), ((EPOCH, 1),), [])
        log.append_records(theirs())
        assert all_of(log) == run(1, 8)
        assert [what[:2] for what in told] == [(3, 8)]  # type: ignore[index]
    assert call > (1 if at_most is None else 2)
    assert said == {"No space left on device"}


def test_records_that_cannot_be_cut_back_are_unknown() -> None:
    files = FaultyFiles()
    log = opened(files)
    log.append(EPOCH, run(1, 2))
    files.at_most = 130
    files.faults["write", files.calls["write"] + 2] = errno.EIO
    files.fail_next("truncate")
    with pytest.raises(OutcomeUnknown):
        log.append_records(theirs())
    with pytest.raises(StorageUnavailable):
        log.append_records(theirs())
    files.restart()
    again = opened(files)
    assert [one[2] for one in all_of(again)] in list(parts())


def test_many_records_are_one_write_and_are_indexed_as_others() -> None:
    records = [
        Received(EPOCH, one.ops, one.data)
        for one in (received(first, 20) for first in range(1, 8_001, 20))
    ]
    files = FaultyFiles()
    log = FileOplog(files, 1)
    log.open()
    writes = files.calls["write"]
    log.append_records(records)
    assert files.calls["write"] == writes + 1
    again = FileOplog(files, 1)
    again.open()
    places = [(one._segments[0]._firsts, one._segments[0]._offsets) for one in (log, again)]
    assert places[0] == places[1]
    assert len(places[0][0]) > 5


# -- epochs ----------------------------------------------------------------------------------------


def test_the_row_of_epochs() -> None:
    row = Epochs()
    assert (row.newest, row.at(5), row.latest(3)) == (None, None, ())
    first, second, third = Epoch(1, 1), Epoch(1, 2), Epoch(4, 1)
    for epoch, index in ((first, 3), (first, 4), (second, 7), (third, 9), (third, 12)):
        row.note(epoch, index)
    assert row.latest(9) == ((first, 3), (second, 7), (third, 9))
    assert [row.at(index) for index in (2, 3, 6, 7, 8, 9, 99)] == [
        None,
        first,
        first,
        second,
        second,
        third,
        third,
    ]
    row.cut(9)
    assert (row.newest, row.latest(1)) == (third, ((third, 9),))
    row.cut(8)
    assert (row.newest, row.latest(2)) == (second, ((first, 3), (second, 7)))
    row.note(third, 9)
    row.forget(8)
    assert row.latest(9) == ((second, 7), (third, 9))
    assert (row.at(6), row.at(7)) == (None, second)
    row.forget(9)
    assert row.at(8) == second
    row.cut(2)
    assert (row.newest, row.latest(2)) == (None, ())
