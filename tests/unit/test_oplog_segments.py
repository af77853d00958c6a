"""The log in files: faults of the disk while it writes, and what a restart makes of the rest."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from twisted.internet.defer import Deferred, execute
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import provider

from nuntwist.errors import CorruptData, OutcomeUnknown, StartError, StorageUnavailable
from nuntwist.files import MemoryFiles, Stopped
from nuntwist.interfaces import IOplog
from nuntwist.oplog import reader, segment
from nuntwist.oplog.record import encode
from nuntwist.oplog.segment import SEGMENT_HEAD, segment_name
from nuntwist.oplog.segments import FileOplog
from nuntwist.values import START, Position
from tests.unit.conformance_oplog import EPOCH, LATER, all_of, op, run
from tests.unit.conformance_records import RecordsConformance

NAME = segment_name(1)
ORIGIN = 0x55


class TestFileOplog(RecordsConformance):
    def make(self) -> IOplog:
        self.files = MemoryFiles()
        return FileOplog(self.files, ORIGIN)

    def again(self, log: IOplog) -> IOplog:
        log = FileOplog(self.files, ORIGIN)
        log.open()
        return log

    def test_the_same_object_can_be_opened_again(self) -> None:
        log = self.filled(run(1, 3))
        log.close()
        log.open()
        assert all_of(log) == run(1, 3)
        assert log.count == 3

    def test_a_window_may_end_anywhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        log = self.filled(run(1, 1), run(2, 3), run(5, 40), run(45, 1), run(46, 2))
        log.close()
        for window in (53, 64, 99, 100, 127, 1000, log.size - 1, log.size, log.size + 1):
            monkeypatch.setattr(reader, "WINDOW", window)
            assert all_of(self.again(log)) == run(1, 47), window

    def test_reading_on_begins_near(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(segment, "NOTE_EVERY", 500)
        log = self.filled(*[run(first, 4) for first in range(1, 400, 4)])
        log.close()
        for one in (log, self.again(log)):
            if one is log:
                log.open()
            for after in range(0, 401, 7):
                assert all_of(one, after) == run(1, 400)[after:], after
            # Damage before the place it begins at is not even looked at.
            before = bytes(self.files.contents[NAME])
            self.files.contents[NAME][len(SEGMENT_HEAD)] ^= 1
            assert all_of(one, 390) == run(391, 10)
            with pytest.raises(CorruptData):
                all_of(one, 0)
            self.files.contents[NAME][:] = before


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles()


@pytest.fixture
def warnings() -> Iterator[list[LogEvent]]:
    """What the log says at warning level or above. (Twisted itself may tell, whenever garbage is
    collected, of a process of an earlier test that ended in a thread.)"""
    events: list[LogEvent] = []

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        told = event["log_level"].name in ("warn", "error", "critical")
        if told and event["log_namespace"].startswith("nuntwist"):
            events.append(event)

    globalLogPublisher.addObserver(observe)
    yield events
    globalLogPublisher.removeObserver(observe)


def opened(files: MemoryFiles) -> FileOplog:
    log = FileOplog(files, ORIGIN)
    log.open()
    return log


def fill(files: MemoryFiles, batches: int = 3) -> bytes:
    """Some batches of two operations; what the file holds then."""
    log = opened(files)
    for number in range(batches):
        log.append(EPOCH, run(1 + 2 * number, 2))
    return bytes(files.contents[NAME])


# -- what is written -----------------------------------------------------------------------------


def test_a_batch_is_one_record_written_at_once(files: MemoryFiles) -> None:
    log = opened(files)
    steps = files.steps
    log.append(EPOCH, run(1, 100))
    assert files.steps == steps + 1
    assert files.contents[NAME] == SEGMENT_HEAD + encode(EPOCH, ORIGIN, run(1, 100))


def test_what_was_appended_survives_a_kill(files: MemoryFiles) -> None:
    fill(files)
    files.restart()
    assert all_of(opened(files)) == run(1, 6)


def test_a_close_makes_it_survive_a_loss_of_power(files: MemoryFiles) -> None:
    log = opened(files)
    log.append(EPOCH, run(1, 2))
    log.close()
    log.open()
    log.append(EPOCH, run(3, 2))
    files.restart(power_lost=True)
    assert all_of(opened(files)) == run(1, 2)


# -- the end of a file that was being written ------------------------------------------------------


def test_a_tail_torn_at_any_byte_is_cut_off_and_told(
    files: MemoryFiles, warnings: list[LogEvent]
) -> None:
    whole = fill(files, 3)
    kept = len(fill(MemoryFiles(), 2))
    for size in range(kept, len(whole)):
        files.contents[NAME][:] = whole[:size]
        warnings.clear()
        log = opened(files)
        assert all_of(log) == run(1, 4), size
        assert (log.count, log.size, log.last) == (4, kept, Position(EPOCH, 4))
        assert files.contents[NAME] == whole[:kept]
        assert [event["lost"] for event in warnings] == ([size - kept] if size > kept else [])
        log.append(LATER, run(5, 1))
        assert all_of(opened(files)) == run(1, 5)
    files.contents[NAME][:] = whole
    assert all_of(opened(files)) == run(1, 6)


def test_a_torn_beginning_is_an_empty_log(files: MemoryFiles) -> None:
    for size in range(len(SEGMENT_HEAD) + 1):
        for begin in (SEGMENT_HEAD[:size], bytes(size)):
            files.contents[NAME] = bytearray(begin)
            log = opened(files)
            assert (log.last, log.size) == (START, len(SEGMENT_HEAD))
            log.append(EPOCH, run(1, 1))
            assert all_of(opened(files)) == run(1, 1)


@pytest.mark.parametrize("size", [1, 51, 52, 53, 4096])
def test_zeros_at_the_end_are_a_torn_tail(
    files: MemoryFiles, warnings: list[LogEvent], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "WINDOW", 100)
    whole = fill(files)
    files.contents[NAME] += bytes(size)
    assert all_of(opened(files)) == run(1, 6)
    assert files.contents[NAME] == whole
    assert [event["lost"] for event in warnings] == [size]


def test_zeros_with_anything_after_them_are_damage(files: MemoryFiles) -> None:
    whole = fill(files)
    files.contents[NAME] += bytes(500) + b"x"
    with pytest.raises(CorruptData) as caught:
        opened(files)
    assert caught.value.offset == len(whole)


def test_a_process_that_ends_in_any_step_leaves_what_it_acknowledged(files: MemoryFiles) -> None:
    for stop_at in range(12):
        files = MemoryFiles()
        files.stop_at = stop_at
        acknowledged = 0
        with suppress(Stopped):
            log = opened(files)
            while True:
                log.append(EPOCH, run(acknowledged + 1, 3))
                acknowledged += 3
        files.restart()
        assert all_of(opened(files)) == run(1, acknowledged), stop_at
    assert acknowledged > 20


# -- damage --------------------------------------------------------------------------------------


def test_every_flipped_bit_stops_the_start_and_changes_nothing(files: MemoryFiles) -> None:
    whole = fill(files)
    ends = [len(SEGMENT_HEAD)]
    for number in range(3):
        ends.append(len(fill(MemoryFiles(), number + 1)))
    for at in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            files.contents[NAME] = damaged
            before = bytes(damaged)
            with pytest.raises(CorruptData) as caught:
                opened(files)
            error = caught.value
            begin = max((end for end in ends if end <= at), default=0)
            assert error.path == NAME
            assert error.offset in ((begin,) if at >= ends[0] else (0, 8)), (at, bit)
            assert str(error).startswith(f"{NAME} is damaged at byte {error.offset}: ")
            assert bytes(files.contents[NAME]) == before


def test_a_record_lost_from_the_middle_is_damage(files: MemoryFiles) -> None:
    log = opened(files)
    sizes = [log.size]
    for number in range(3):
        log.append(EPOCH, run(1 + 2 * number, 2))
        sizes.append(log.size)
    del files.contents[NAME][sizes[1] : sizes[2]]
    with pytest.raises(CorruptData, match="index 5 stands where 3 must"):
        opened(files)


def test_damage_that_comes_while_the_node_runs_is_not_served(files: MemoryFiles) -> None:
    fill(files)
    log = opened(files)
    files.contents[NAME][-1] ^= 1
    with pytest.raises(CorruptData):
        all_of(log)


@pytest.mark.parametrize(
    "begin", [b"something else entirely", b"NUNLOG\n" + bytes(9), b"x", bytes(17)]
)
def test_another_file_is_left_alone(files: MemoryFiles, begin: bytes) -> None:
    files.contents[NAME] = bytearray(begin)
    with pytest.raises(CorruptData, match="does not begin as a log does"):
        opened(files)
    assert files.contents[NAME] == begin


def test_a_newer_format_is_told(files: MemoryFiles) -> None:
    files.contents[NAME] = bytearray(SEGMENT_HEAD.replace(b"\x01", b"\x02"))
    with pytest.raises(CorruptData, match="newer release"):
        opened(files)


# -- a disk that fails -----------------------------------------------------------------------------


def test_a_full_disk_is_told_and_taken_up_again_when_there_is_room(files: MemoryFiles) -> None:
    whole = fill(files)
    record = len(encode(EPOCH, ORIGIN, run(7, 2)))
    for room in range(record):
        files.restart()
        files.contents[NAME][:] = whole
        log = opened(files)
        before = log.last, log.last_stamp, log.count, log.size
        files.room = room
        for _ in range(2):
            with pytest.raises(StorageUnavailable, match=r"^No space left on device$"):
                log.append(EPOCH, run(7, 2))
            assert files.contents[NAME] == whole
            assert files.room == room
            assert (log.last, log.last_stamp, log.count, log.size) == before
        files.room = record
        assert log.append(EPOCH, run(7, 2)) is None
        files.room = None
        assert all_of(log) == all_of(opened(files)) == run(1, 8)


def test_a_small_batch_may_fit_where_a_large_one_did_not(files: MemoryFiles) -> None:
    log = opened(files)
    files.room = 200
    with pytest.raises(StorageUnavailable):
        log.append(EPOCH, [op(1, b"k", b"v" * 200)])
    log.append(EPOCH, [op(1)])
    assert all_of(opened(files)) == [op(1)]


@pytest.mark.parametrize("at_most", [1, 7, 52, 100])
def test_short_writes_are_gone_on_with(files: MemoryFiles, at_most: int) -> None:
    log = opened(files)
    files.at_most = at_most
    log.append(EPOCH, run(1, 5))
    log.append(EPOCH, run(6, 1))
    assert files.contents[NAME] == (
        SEGMENT_HEAD + encode(EPOCH, ORIGIN, run(1, 5)) + encode(EPOCH, ORIGIN, run(6, 1))
    )


def test_a_write_that_takes_nothing_is_a_full_disk(files: MemoryFiles) -> None:
    log = opened(files)
    files.at_most = 0
    with pytest.raises(StorageUnavailable, match="No space left on device"):
        log.append(EPOCH, run(1, 1))


def test_an_error_of_the_disk_is_told(files: MemoryFiles) -> None:
    log = opened(files)
    files.failing["write"] = errno.EIO
    with pytest.raises(StorageUnavailable, match=r"^Input/output error$"):
        log.append(EPOCH, run(1, 1))
    files.failing.clear()
    log.append(EPOCH, run(1, 1))
    assert all_of(opened(files)) == run(1, 1)


def test_what_cannot_be_cut_back_ends_writing_until_a_restart(
    files: MemoryFiles, warnings: list[LogEvent]
) -> None:
    whole = fill(files)
    log = opened(files)
    files.room, files.failing["truncate"] = 70, errno.EIO
    reason = "No space left on device, then Input/output error"
    with pytest.raises(OutcomeUnknown, match=f"^{reason}$"):
        log.append(EPOCH, run(7, 2))
    files.room = None
    files.failing.clear()
    left = bytes(files.contents[NAME])
    assert len(left) == len(whole) + 70
    for _ in range(2):
        with pytest.raises(StorageUnavailable, match=f"^{reason}$"):
            log.append(EPOCH, run(7, 2))
    assert files.contents[NAME] == left
    assert all_of(log) == run(1, 6)
    log.close()
    assert warnings == []
    again = log
    again.open()
    assert [event["lost"] for event in warnings] == [70]
    again.append(EPOCH, run(7, 2))
    assert all_of(opened(files)) == run(1, 8)


def test_a_batch_too_large_for_a_record_is_refused(
    files: MemoryFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = opened(files)
    monkeypatch.setattr("nuntwist.oplog.record.LARGEST_BODY", 100)
    with pytest.raises(StorageUnavailable, match="too large"):
        log.append(EPOCH, [op(1, b"k", b"v" * 100)])
    log.append(EPOCH, [op(1)])
    assert log.count == 1


@pytest.mark.parametrize("operation", ["open", "write"])
def test_a_log_that_cannot_be_opened_is_one_sentence(files: MemoryFiles, operation: str) -> None:
    files.failing[operation] = errno.EROFS
    with pytest.raises(
        StartError, match=r"^The log \S+ cannot be opened: Read-only file system\.$"
    ):
        opened(files)


@pytest.mark.parametrize("operation", ["truncate", "sync"])
def test_a_tail_that_cannot_be_cut_stops_the_start(files: MemoryFiles, operation: str) -> None:
    whole = fill(files)
    del files.contents[NAME][-1:]
    files.failing[operation] = errno.EIO
    with pytest.raises(StartError, match="cannot be opened: Input/output error"):
        opened(files)
    files.failing.clear()
    assert all_of(opened(files)) == run(1, 4)
    assert len(files.contents[NAME]) < len(whole)


def test_a_last_flush_that_fails_is_logged(files: MemoryFiles, warnings: list[LogEvent]) -> None:
    log = opened(files)
    log.append(EPOCH, run(1, 1))
    files.failing["sync"] = errno.EIO
    log.close()
    assert [event["error"] for event in warnings] == ["Input/output error"]


def test_operations_are_tuples_that_the_collector_can_forget(files: MemoryFiles) -> None:
    fill(files)
    (first, *_) = all_of(opened(files))
    assert type(first) is tuple
    assert [type(field) for field in first] == [bytes, int, int, int, int, int, bytes]


def test_a_sync_that_fails_says_so() -> None:
    files = MemoryFiles()
    log = FileOplog(files, 1)
    log.open()
    log.append(EPOCH, run(1, 1))
    files.failing["sync"] = errno.EIO
    outcome: list[Failure] = []
    log.sync().addErrback(outcome.append)
    assert outcome[0].check(StorageUnavailable)
    assert str(outcome[0].value) == "Input/output error"
    files.failing.clear()
    # The system may have forgotten what it could not write: the next flush would lie.
    log.sync().addErrback(outcome.append)
    assert str(outcome[1].value) == (
        "the log could not be flushed (Input/output error); check the disk, then restart"
    )
    with pytest.raises(StorageUnavailable, match="could not be flushed"):
        log.append(EPOCH, run(2, 1))
    log.close()
    log.open()
    synced: list[None] = []
    log.sync().addCallback(synced.append)
    assert synced == [None]
    log.close()
    log.sync().addErrback(outcome.append)
    assert str(outcome[2].value) == "the log is closed"


# -- many segments ---------------------------------------------------------------------------------


def small(files: MemoryFiles, limit: int = 5_000) -> FileOplog:
    """A log whose segments hold some hundred bytes."""
    log = FileOplog(files, ORIGIN, limit=limit)
    log.open()
    return log


def filled(files: MemoryFiles, batches: int, limit: int = 5_000) -> FileOplog:
    log = small(files, limit)
    for number in range(batches):
        log.append(EPOCH, run(1 + 3 * number, 3))
    return log


def full(files: MemoryFiles) -> FileOplog:
    """A log whose next batch begins its second segment."""
    log = small(files)
    while log.size < 500:
        log.append(EPOCH, run(log.count + 1, 3))
    assert log.segments == 1
    return log


def done(deferred: Deferred[int]) -> int:
    fired: list[int] = []
    deferred.addCallback(fired.append)
    return fired[0]


def test_a_full_segment_is_followed_by_the_next(files: MemoryFiles) -> None:
    log = filled(files, 30)
    assert log.segments == len(files.contents) > 5
    for name, data in files.contents.items():
        assert len(data) < 500 + 300, name
    assert log.size == sum(map(len, files.contents.values()))
    again = small(files)
    for one in (log, again):
        assert all_of(one) == run(1, 90)
        for after in range(91):
            assert all_of(one, after) == run(after + 1, 90 - after)
        assert (one.first, one.count, one.last) == (1, 90, Position(EPOCH, 90))
        assert (one.size, one.segments, one.last_stamp) == (log.size, log.segments, 1_090)
    again.append(LATER, run(91, 1))
    assert all_of(small(files), 89) == run(90, 2)


def test_all_but_the_last_segment_are_on_the_disk(files: MemoryFiles) -> None:
    log = filled(files, 30)
    last = list(files.contents)[-1]
    files.restart(power_lost=True)
    kept = small(files).last.index
    assert kept + 1 == int(last.removeprefix("oplog-").removesuffix(".seg"))
    assert log.last.index > kept


def test_a_process_that_ends_in_any_step_of_many_segments(files: MemoryFiles) -> None:
    for stop_at in range(60):
        files = MemoryFiles()
        files.stop_at = stop_at
        acknowledged = 0
        with suppress(Stopped):
            log = small(files)
            while True:
                log.append(EPOCH, run(acknowledged + 1, 3))
                acknowledged += 3
        files.restart()
        log = small(files)
        assert all_of(log) == run(1, acknowledged), stop_at
        log.append(EPOCH, run(acknowledged + 1, 30))
        log.append(EPOCH, run(acknowledged + 31, 30))
        assert all_of(small(files)) == run(1, acknowledged + 60)
    assert acknowledged > 50


def test_a_gap_between_segments_stops_the_start(files: MemoryFiles) -> None:
    filled(files, 30)
    names = list(files.contents)
    del files.contents[names[2]]
    with pytest.raises(CorruptData, match="it begins with index") as caught:
        small(files)
    assert caught.value.path == names[3]


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_tail_torn_before_the_last_segment_stops_the_start(files: MemoryFiles, cut: int) -> None:
    filled(files, 30)
    name = list(files.contents)[2]
    del files.contents[name][-cut:]
    with pytest.raises(CorruptData):
        small(files)


def test_a_segment_that_cannot_be_begun_refuses_the_write(files: MemoryFiles) -> None:
    log = full(files)
    last = log.last.index
    files.failing["open"] = errno.ENOSPC
    for _ in range(2):
        with pytest.raises(StorageUnavailable, match="No space left"):
            log.append(EPOCH, run(last + 1, 3))
    files.failing.clear()
    files.room = 10
    with pytest.raises(StorageUnavailable, match="No space left"):
        log.append(EPOCH, run(last + 1, 3))
    files.room = None
    log.append(EPOCH, run(last + 1, 3))
    assert log.segments == 2
    assert all_of(small(files)) == all_of(log) == run(1, last + 3)


def test_covered_segments_go_from_the_beginning_while_the_log_is_too_large(
    files: MemoryFiles,
) -> None:
    log = filled(files, 60, limit=9_000)
    assert log.size > 9_000
    names = list(files.contents)
    assert done(log.forget(2)) == 0
    assert list(files.contents) == names
    freed = done(log.forget(1_000))
    assert freed > 0
    assert log.size <= 9_000 < log.size + 1_500
    gone = len(names) - len(files.contents)
    assert list(files.contents) == names[gone:]
    assert log.first == int(names[gone].removeprefix("oplog-").removesuffix(".seg"))
    assert log.count == 180 - log.first + 1
    again = small(files, limit=9_000)
    assert (again.first, again.count, again.size) == (log.first, log.count, log.size)
    assert all_of(again, log.first + 1) == run(log.first + 2, 180 - log.first - 1)
    assert done(log.forget(1_000, keep=0)) > 0
    assert log.segments == 1
    log.append(EPOCH, run(181, 1))
    assert all_of(small(files), 179) == run(180, 2)


def test_what_no_snapshot_covers_stays_and_at_twice_the_limit_writes_are_refused(
    files: MemoryFiles, warnings: list[LogEvent]
) -> None:
    log = small(files, limit=3_000)
    while log.size < 6_000:
        log.append(EPOCH, run(log.count + 1, 3))
    with suppress(StorageUnavailable):
        log.append(EPOCH, run(log.count + 1, 3))
    written = log.last.index
    with pytest.raises(StorageUnavailable, match="twice its limit of 3000 bytes"):
        log.append(EPOCH, run(written + 1, 3))
    assert 6_000 <= log.size < 6_600
    assert [event["limit"] for event in warnings] == [3_000]
    assert done(log.forget(0)) == 0
    assert all_of(log) == run(1, written)
    assert done(log.forget(written)) > 0
    log.append(EPOCH, run(written + 1, 3))
    assert all_of(small(files), written) == run(written + 1, 3)


def test_a_segment_that_cannot_be_removed_leaves_no_gap(
    files: MemoryFiles, warnings: list[LogEvent]
) -> None:
    log = filled(files, 60, limit=9_000)
    before = list(files.contents)
    files.failing["remove"] = errno.EACCES
    assert done(log.forget(1_000)) == 0
    assert list(files.contents) == before
    assert warnings[-1]["error"] == "Permission denied"
    files.failing.clear()
    assert done(log.forget(1_000)) > 0
    assert small(files).last.index == 180


def test_a_segment_that_may_not_be_on_the_disk_lets_no_sync_succeed(
    files: MemoryFiles, warnings: list[LogEvent]
) -> None:
    log = full(files)
    files.failing["sync"] = errno.EIO
    log.append(EPOCH, run(log.count + 1, 3))
    files.failing.clear()
    assert [event["log_level"].name for event in warnings] == ["critical"]
    before = log.last
    with pytest.raises(StorageUnavailable, match="could not be flushed"):
        log.append(EPOCH, run(log.count + 1, 3))
    assert (log.last, log.failed is not None) == (before, True)
    outcome: list[Failure] = []
    log.sync().addErrback(outcome.append)
    assert outcome[0].check(StorageUnavailable)


def test_the_next_segment_waits_until_the_full_one_is_on_the_disk(files: MemoryFiles) -> None:
    """Otherwise a loss of power could leave a gap between the two."""
    log = full(files)
    log.close()
    waiting: list[Deferred[None]] = []

    def in_thread(function: object) -> Deferred[None]:
        waiting.append(Deferred())
        return waiting[-1]

    log = FileOplog(files, ORIGIN, in_thread, limit=5_000)
    log.open()
    for _ in range(5):
        log.append(EPOCH, run(log.count + 1, 3))
    assert (log.segments, len(waiting)) == (1, 1)
    waiting[0].callback(None)
    assert log.segments == 1
    log.append(EPOCH, run(log.count + 1, 3))
    assert log.segments == 2
    last = log.last.index
    files.restart(power_lost=True)
    assert all_of(small(files)) == run(1, last - 3)


def test_segments_go_once_however_often_that_is_asked_for(
    files: MemoryFiles, warnings: list[LogEvent]
) -> None:
    filled(files, 60, limit=9_000)
    calls: list[tuple[Callable[..., int], Any, Deferred[int]]] = []

    def later(function: Callable[..., int], *args: Any) -> Deferred[int]:
        calls.append((function, args, Deferred()))
        return calls[-1][2]

    log = FileOplog(files, ORIGIN, later, limit=9_000)
    log.open()
    freed: list[int] = []
    for _ in range(3):
        log.forget(1_000).addCallback(freed.append)
    assert len(calls) == 1
    function, args, fires = calls[0]
    fires.callback(function(*args))
    assert freed[:2] == [0, 0]
    assert freed[2] > 0
    assert log.size == sum(map(len, files.contents.values())) <= 9_000
    assert [event for event in warnings if "error" in event] == []


def test_the_system_is_asked_to_write_as_the_log_grows(
    files: MemoryFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def in_thread(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        asked.append(function.__name__)
        return execute(function, *args)

    monkeypatch.setattr("nuntwist.oplog.flushing.WRITE_BACK_EVERY", 1_000)
    monkeypatch.setattr(segment, "NOTE_EVERY", 100)
    log = FileOplog(files, ORIGIN, in_thread)
    log.open()
    while log.size < 5_500:
        log.append(EPOCH, run(log.count + 1, 3))
    assert asked in (["write_back"] * 4, ["write_back"] * 5)
    # On a slow disk only one is under way.
    never: list[Deferred[Any]] = []

    def slow(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        never.append(Deferred())
        return never[-1]

    log = FileOplog(MemoryFiles(), ORIGIN, slow)
    log.open()
    while log.size < 5_500:
        log.append(EPOCH, run(log.count + 1, 3))
    assert len(never) == 1
