"""Cutting the end off a log in files, on a disk that fails and in a process that ends, at every
step of it."""

from __future__ import annotations

import errno
from collections import Counter
from typing import Any

import pytest

from nuntwist.errors import StorageUnavailable
from nuntwist.files import COPIED_AT_ONCE, MemoryFiles, Stopped
from nuntwist.oplog.inspect import Logged, operations
from nuntwist.oplog.record import split
from nuntwist.oplog.segment import NOTE_EVERY, SEGMENT_HEAD, segment_name
from nuntwist.oplog.segments import FileOplog
from nuntwist.values import Epoch, Position
from tests.unit.conformance_oplog import EPOCH, LATER, all_of, op, run
from tests.unit.faulty import FaultyFiles, Threads

NAME = "divergent-3-8.op"
LIMIT = 3_000
ENDS = pytest.mark.parametrize("power_lost", [False, True], ids=["killed", "power lost"])
PLACES = pytest.mark.parametrize("index", [0, 2, 8, 12, 18, 30])
"""Before the first operation, within a segment, at the end of one, in the last one."""
ALL = 32


def opened(files: MemoryFiles) -> FileOplog:
    log = FileOplog(files, 1, limit=LIMIT)
    log.open()
    return log


def several(files: MemoryFiles) -> FileOplog:
    """A log of some segments, on the disk."""
    log = opened(files)
    for first in range(1, ALL, 2):
        log.append(EPOCH if first < 20 else LATER, run(first, 2))
    log.sync()
    assert log.segments > 4
    return log


def segments(files: MemoryFiles) -> list[str]:
    return [name for name in files.contents if name.startswith("oplog-0")]


# -- cutting ---------------------------------------------------------------------------------------


def test_a_cut_at_every_record_leaves_a_log_that_goes_on() -> None:
    ends = set()
    for index in range(0, ALL, 2):
        files = FaultyFiles()
        log = several(files)
        tail = b"".join(bytes(files.contents[name])[16:] for name in segments(files))
        assert log.cut(index, NAME) == ALL - index
        kept = bytes(files.contents[NAME])
        assert kept.startswith(SEGMENT_HEAD)
        assert tail.endswith(kept[16:])
        assert [one.ops[0][2] for one in split(kept[16:], NAME)] == [*range(index + 1, ALL, 2)]
        assert log.size == sum(len(files.contents[name]) for name in segments(files))
        ends.add(log.segments)
        for first in range(index + 1, index + 20, 2):
            log.append(Epoch(9, 9), run(first, 2))
        assert all_of(log) == run(1, index + 20)
        log.close()
        files.restart(power_lost=True)
        again = opened(files)
        assert (again.size, again.segments, again.last) == (log.size, log.segments, log.last)
        assert all_of(again) == run(1, index + 20)
    assert ends == set(range(1, 1 + max(ends)))


def interrupted(files: FaultyFiles, index: int, power_lost: bool) -> None:
    """After a cut that was not completed: what is there, and that another one completes it."""
    files.restart(power_lost=power_lost)
    log = opened(files)
    last = log.last.index
    assert index <= last <= ALL
    assert all_of(log) == run(1, last)
    if last < ALL:
        kept = split(bytes(files.contents[NAME])[16:], NAME)
        assert [one for record in kept for one in record.ops] == run(index + 1, ALL - index)
    assert log.cut(index, NAME) == last - index
    assert all_of(log) == run(1, index)
    log.append(Epoch(9, 9), run(index + 1, 2))
    log.sync()
    files.restart(power_lost=True)
    assert all_of(opened(files)) == run(1, index + 2)
    # (Where the cut was complete and only its last flush failed, nothing was left to cut.)
    kept = split(bytes(files.contents[NAME])[16:], NAME)
    assert [one for record in kept for one in record.ops] == run(index + 1, ALL - index)


@ENDS
@PLACES
def test_a_cut_that_ends_in_any_step_is_completed_by_another(index: int, power_lost: bool) -> None:
    for stop_at in range(100):
        files = FaultyFiles()
        log = several(files)
        files.stop_at = files.steps + stop_at
        try:
            log.cut(index, NAME)
        except Stopped:
            interrupted(files, index, power_lost)
        else:
            break
    # At least: open, twice write, sync and rename the copy; truncate and sync.
    assert stop_at >= 7


@ENDS
@PLACES
@pytest.mark.parametrize("operation", ["open", "write", "sync", "rename", "remove", "truncate"])
def test_a_disk_that_fails_in_any_step_of_a_cut(
    operation: str, index: int, power_lost: bool
) -> None:
    calls = calls_of_a_cut(index)[operation]
    assert calls > 0 or operation in ("remove", "truncate")
    for call in range(1, calls + 1):
        files = FaultyFiles()
        log = several(files)
        files.faults[operation, files.calls[operation] + call] = errno.EIO
        with pytest.raises(StorageUnavailable, match="Input/output error"):
            log.cut(index, NAME)
        last = log.last.index
        assert all_of(log) == run(1, last)
        if log.failed is None:
            # Nothing is cut; it may be tried again at once.
            assert last == ALL
            assert NAME + ".new" not in files.contents
            assert log.cut(index, NAME) == ALL - index
            assert all_of(log) == run(1, index)
            continue
        with pytest.raises(StorageUnavailable, match=f"could not be cut after operation {index}"):
            log.append(LATER, run(last + 1, 1))
        with pytest.raises(StorageUnavailable, match="could not be cut"):
            log.cut(index, NAME)
        log.close()
        interrupted(files, index, power_lost)


def calls_of_a_cut(index: int) -> Counter[str]:
    files = FaultyFiles()
    log = several(files)
    before = files.calls.copy()
    log.cut(index, NAME)
    return files.calls - before


def test_what_is_kept_can_be_read_as_a_segment() -> None:
    files, other = FaultyFiles(), FaultyFiles()
    several(files).cut(8, NAME)
    other.contents[segment_name(9)] = files.contents[NAME]
    found = [one for one in operations(other) if isinstance(one, Logged)]
    assert [one.op for one in found] == run(9, ALL - 8)
    assert [one.epoch for one in found] == [EPOCH] * 12 + [LATER] * 12


def test_a_full_disk_cuts_nothing_and_is_left_as_it_was() -> None:
    for room in range(0, 700, 9):
        files = FaultyFiles()
        log = several(files)
        before = {name: bytes(data) for name, data in files.contents.items()}
        files.room = room
        with pytest.raises(StorageUnavailable, match="No space left"):
            log.cut(12, NAME)
        assert files.contents == before
        assert files.room == room
        assert log.failed is None


def test_the_copy_is_made_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    assert COPIED_AT_ONCE == 1 << 20
    for size in (1, 7, 51, 52, 100, 1_000):
        monkeypatch.setattr("nuntwist.files.COPIED_AT_ONCE", size)
        files = FaultyFiles()
        log = several(files)
        wanted = b"".join(bytes(files.contents[name])[16:] for name in segments(files))
        writes = files.calls["write"]
        log.cut(0, NAME)
        assert bytes(files.contents[NAME]) == SEGMENT_HEAD + wanted
        assert files.calls["write"] - writes >= len(wanted) // size


def test_a_file_that_holds_a_part_of_what_goes_is_not_taken_for_it() -> None:
    for size in (0, 10, 16, 80):
        files = FaultyFiles()
        log = several(files)
        log.cut(12, NAME)
        part = files.contents[NAME][:size]
        files = FaultyFiles()
        log = several(files)
        files.contents[NAME] = part
        with pytest.raises(ValueError, match="there is a file"):
            log.cut(12, NAME)
        assert all_of(log) == run(1, ALL)


def test_after_a_cut_reading_begins_near_as_before() -> None:
    files = FaultyFiles()
    log = FileOplog(files, 1)
    log.open()
    value = b"x" * 1_000
    for index in range(1, 400):
        log.append(EPOCH, [op(index, b"k", value)])
    log.cut(200, NAME)
    for index in range(201, 400):
        log.append(EPOCH, [op(index, b"k", value + value)])
    again = FileOplog(files, 1)
    again.open()
    places = [(one._segments[0]._firsts, one._segments[0]._offsets) for one in (log, again)]
    assert places[0] == places[1]
    assert len(places[0][0]) > 200_000 // NOTE_EVERY + 400_000 // (NOTE_EVERY + 2_000)
    for after in range(399):
        assert all_of(log, after)[0][2] == after + 1


def test_a_cut_ends_with_a_flush() -> None:
    """So that a loss of power does not bring back what was cut off."""
    for index in range(0, ALL, 2):
        assert calls_of_a_cut(index)["sync"] == 2, index


def test_a_segment_that_is_full_again_is_flushed_again_before_the_next() -> None:
    files, threads = FaultyFiles(), Threads()
    log = FileOplog(files, 1, threads, LIMIT)
    log.open()

    def fill() -> None:
        while log.size < LIMIT // 10:
            log.append(EPOCH, run(log.last.index + 1, 2))
        assert threads.calls == []
        # The next one is begun when a thread has flushed this one.
        log.append(EPOCH, run(log.last.index + 1, 2))
        assert (log.segments, len(threads.calls)) == (1, 1)
        threads.run_all()
        log.append(EPOCH, run(log.last.index + 1, 2))
        assert (log.segments, threads.calls) == (2, [])

    fill()
    log.cut(2, NAME)
    fill()


def test_a_flush_under_way_does_not_mind_a_cut() -> None:
    """What it flushes is removed and closed only when it has ended."""
    files, threads = FaultyFiles(), Threads()
    log = FileOplog(files, 1, threads, LIMIT)
    log.open()
    for first in range(1, 14, 2):
        log.append(EPOCH, run(first, 2))
        threads.run_all()
    synced: list[Any] = []
    log.sync().addBoth(synced.append)
    flushed = log._segments[-1]
    log.cut(2, NAME)
    assert flushed.handle is not None
    assert synced == []
    threads.run_all()
    assert synced == [None]
    assert flushed.handle is None
    assert log.failed is None
    for first in range(3, 40, 2):
        log.append(LATER, run(first, 2))
        threads.run_all()
    assert log.segments > 3
    assert all_of(log) == run(1, 40)


def test_a_flush_under_way_does_not_mind_the_next_segment_nor_the_end() -> None:
    """As above; it is asked for while the segment is flushed because it is full."""
    files, threads = FaultyFiles(), Threads()
    log = FileOplog(files, 1, threads, LIMIT)
    log.open()
    while not threads.calls:
        log.append(EPOCH, run(log.last.index + 1, 2))
    full = log._segments[-1]
    synced: list[Any] = []
    log.sync().addBoth(synced.append)
    threads.run()
    log.append(EPOCH, run(log.last.index + 1, 2))
    assert log.segments == 2
    assert full.handle is not None
    threads.run_all()
    assert (synced, full.handle, log.failed) == ([None], None, None)
    last = log._segments[-1]
    log.sync().addBoth(synced.append)
    log.close()
    assert last.handle is not None
    threads.run_all()
    assert (synced, last.handle, log.failed) == ([None, None], None, None)


def test_what_is_being_dropped_is_not_cut() -> None:
    files, threads = FaultyFiles(), Threads()
    log = FileOplog(files, 1, threads, LIMIT)
    log.open()
    for first in range(1, ALL, 2):
        log.append(EPOCH, run(first, 2))
        threads.run_all()
    dropped: list[Any] = []
    log.forget(ALL, keep=900).addBoth(dropped.append)
    going = log._dropping
    assert going > 2
    for index in (2, going):
        with pytest.raises(ValueError, match=f"index {index} is being dropped"):
            log.cut(index, NAME)
    assert log.cut(ALL - 4, NAME) == 4
    threads.run_all()
    assert dropped != [0]
    assert log.first == going + 1
    assert all_of(log, going) == run(going + 1, ALL - 4 - going)
    # Down to the last one it has: what it follows on is known as long as the process lives.
    log.cut(going, NAME + "2")
    assert (log.last, log.count) == (Position(EPOCH, going), 0)


def test_a_segment_that_has_just_gone_is_no_longer_given() -> None:
    files = FaultyFiles()
    log = several(files)
    files.remove(segment_name(1))
    with pytest.raises(ValueError, match="no record begins with index 1"):
        log.records(0, 1_000)
