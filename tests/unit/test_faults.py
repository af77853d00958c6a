"""Every fault of the disk at every place of a small log has an outcome that is defined, and what
a restart finds is what was acknowledged, perhaps with more that was under way, in order.

Nothing that was refused is ever there: :meth:`Written.restart` checks that each time.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress

import pytest
from twisted.logger import LogEvent

from nuntwist.errors import CorruptData, StartError, StorageUnavailable
from nuntwist.files import Stopped
from nuntwist.oplog import unflushed
from nuntwist.oplog.segment import SEGMENT_HEAD
from nuntwist.oplog.segments import FileOplog
from tests.unit.conformance_oplog import all_of
from tests.unit.faulty import DURABILITIES, FaultyFiles, Written
from tests.unit.test_oplog_segments import warnings as warnings

pytestmark = pytest.mark.many_cases

BATCHES = 10
"""With the limit below they take three segments."""
FULL = "No space left on device"
BROKEN = "Input/output error"
ENDS = pytest.mark.parametrize("power_lost", [False, True], ids=["killed", "power lost"])


@pytest.fixture(params=DURABILITIES)
def durability(request: pytest.FixtureRequest) -> str:
    text: str = request.param
    return text


def begun(durability: str) -> Written:
    return Written(durability, FaultyFiles())


def whole(durability: str) -> Written:
    """A log of some segments, without a fault."""
    written = begun(durability)
    written.go_on(BATCHES)
    assert len(written.files.contents) == 3
    assert written.became == ["kept"] * BATCHES
    return written


def sizes(durability: str) -> list[int]:
    """How long the log is after each batch of such a log."""
    written = begun(durability)
    found = [written.log.size]
    for _ in range(BATCHES):
        written.go_on(1)
        found.append(written.log.size)
    return found


def goes_on(written: Written, power_lost: bool) -> None:
    """After a restart a log takes writes and keeps them."""
    written.go_on(2)
    assert written.became[-2:] == ["kept", "kept"]
    if written.durability != "os":
        assert written.restart(power_lost)[-2:] == [
            len(written.became) - 2,
            len(written.became) - 1,
        ]


# -- writes ----------------------------------------------------------------------------------------


def test_short_writes_of_every_size_change_nothing(durability: str) -> None:
    expected = dict(whole(durability).files.contents)
    for at_most in range(1, 200):
        written = begun(durability)
        written.files.at_most = at_most
        written.go_on(BATCHES)
        assert written.files.contents == expected, at_most
        assert written.restart() == list(range(BATCHES))


def test_a_disk_full_at_every_byte_refuses_and_then_goes_on(durability: str) -> None:
    total = sizes(durability)[-1]
    for room in range(total):
        written = begun(durability)
        written.files.room = room
        while "refused" not in written.became:
            before = {name: bytes(data) for name, data in written.files.contents.items()}
            written.go_on(1)
        assert written.said == {len(written.became) - 1: FULL}
        # What was there is as it was; a segment may have been begun.
        for name, data in before.items():
            assert written.files.contents[name] == data, room
        assert len(written.files.contents) - len(before) in (0, 1)
        assert written.log.failed is None
        written.files.room = None
        written.go_on(2)
        assert written.became[-2:] == ["kept", "kept"], room
        written.restart(power_lost=durability != "os")
        goes_on(written, power_lost=True)


def test_a_disk_full_while_batches_wait_for_a_flush() -> None:
    for room in range(1_100):
        written = begun("disk")
        written.append()
        for _ in range(5):
            written.append()
        written.files.room = room
        written.threads.run_all()
        became = written.became
        assert became[0] == "kept"
        assert "unknown" not in became
        fits = became.count("kept")
        assert became == ["kept"] * fits + ["refused"] * (6 - fits), room
        assert set(written.said.values()) <= {FULL}
        written.files.room = None
        written.go_on(1)
        assert written.restart(power_lost=True) == [*range(fits), 6]
    assert fits == 6


@ENDS
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_any_write_that_fails_is_refused_and_the_next_is_taken(
    durability: str, number: int, power_lost: bool
) -> None:
    calls = whole(durability).files.calls["write"]
    assert calls > BATCHES
    for call in range(2, calls + 1):
        for at_most in (None, 60):
            written = begun(durability)
            written.files.faults["write", call] = number
            written.files.at_most = at_most
            written.go_on(BATCHES)
            assert sorted(written.became) == ["kept"] * (BATCHES - 1) + ["refused"], call
            assert list(written.said.values()) == [FULL if number == errno.ENOSPC else BROKEN]
            written.restart(power_lost)
            goes_on(written, power_lost)


@ENDS
def test_what_cannot_be_cut_back_is_unknown_and_ends_writing(
    durability: str, power_lost: bool
) -> None:
    for call in range(3, 1_000):
        written = begun(durability)
        written.files.at_most = 70
        written.files.faults["write", call] = errno.EIO
        written.files.faults["truncate", 1] = errno.EIO
        written.go_on(BATCHES)
        if not written.said:
            break
        failed = min(written.said)
        assert written.became[:failed] == ["kept"] * failed
        if written.log.failed is None:
            # It was the head of a segment that failed, which is mended by the next write.
            assert written.became[failed:] == ["refused"] + ["kept"] * (BATCHES - failed - 1)
        else:
            assert written.became[failed:] == ["unknown"] + ["refused"] * (BATCHES - failed - 1)
            assert set(written.said.values()) == {f"{BROKEN}, then {BROKEN}"}
        kept = [n for n, became in enumerate(written.became) if became == "kept"]
        found = written.restart(power_lost)
        if not power_lost:
            # What was torn is cut off.
            assert found == kept
        goes_on(written, power_lost)
    assert call == calls_of_short_writes(durability) + 1


def calls_of_short_writes(durability: str) -> int:
    written = begun(durability)
    written.files.at_most = 70
    written.go_on(BATCHES)
    return written.files.calls["write"]


# -- the next segment ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EMFILE])
def test_a_segment_that_cannot_be_opened_refuses_until_it_can(durability: str, number: int) -> None:
    opens = whole(durability).files.calls["open"]
    assert opens == 3
    for call in range(2, opens + 1):
        written = begun(durability)
        written.files.faults |= {("open", call): number, ("open", call + 1): number}
        written.go_on(BATCHES)
        assert written.became.count("refused") == 2
        (first, second) = written.said
        assert second == first + 1
        assert written.log.segments == len(written.files.contents)
        written.restart(power_lost=durability == "disk")


# -- flushes ---------------------------------------------------------------------------------------


@ENDS
def test_a_flush_that_fails_ends_writing_until_a_restart(durability: str, power_lost: bool) -> None:
    opened = begun(durability).files.calls["sync"]
    calls = whole(durability).files.calls["sync"]
    assert calls - opened >= (2 if durability == "os" else BATCHES)
    for call in range(opened + 1, calls + 1):
        written = begun(durability)
        written.files.faults["sync", call] = errno.EIO
        written.go_on(BATCHES)
        assert written.log.failed is not None
        assert BROKEN in written.log.failed
        lost = min(written.said, default=BATCHES)
        assert written.became[:lost] == ["kept"] * lost
        if durability == "disk":
            # Whoever waited for the flush does not know; in the other cases nobody waited.
            assert set(written.became[lost + 1 :]) <= {"refused"}
            assert set(written.became[lost:][:1]) <= {"unknown", "refused"}
        else:
            assert set(written.became[lost:]) <= {"refused"}
        assert all(BROKEN in said for said in written.said.values())
        synced: list[object] = []
        written.log.sync().addErrback(synced.append)
        assert len(synced) == 1
        written.restart(power_lost)
        goes_on(written, power_lost)


def test_what_came_during_a_flush_that_fails_is_not_acknowledged() -> None:
    for appended in range(1, 6):
        for power_lost in (False, True):
            written = begun("disk")
            written.go_on(1)
            for _ in range(appended):
                written.append()
            written.files.fail_next("sync")
            written.threads.run_all()
            assert written.became == ["kept"] + ["unknown"] * appended
            assert written.append() == "refused"
            assert len(written.restart(power_lost)) == (1 if power_lost else 2)
            goes_on(written, power_lost)


def test_a_second_without_a_flush_is_what_a_loss_of_power_may_take() -> None:
    written = begun("interval")
    written.go_on(3)
    for _ in range(2):
        assert written.append() == "kept"
    assert written.flushed == 3
    assert written.restart(power_lost=True) == [0, 1, 2]
    goes_on(written, power_lost=True)


def test_after_a_flush_that_failed_a_start_puts_on_the_disk_what_it_goes_on_from(
    durability: str,
) -> None:
    """The system takes for written what it could not write: flushed again, it keeps nothing."""
    for batches in (0, 1, 4):
        written = begun(durability)
        written.go_on(batches)
        written.append()
        written.files.fail_next("sync")
        written.log.sync().addErrback(lambda reason: reason.trap(StorageUnavailable))
        written.threads.run_all()
        assert written.append() == "refused"
        found = written.restart()
        assert unflushed.NAME not in written.files.contents
        # The disk still keeps nothing of the file of that time.
        assert written.restart(power_lost=True) == found
        goes_on(written, power_lost=True)


def test_a_segment_that_cannot_be_written_anew_stops_the_start() -> None:
    written = begun("disk")
    written.go_on(2)
    written.files.fail_next("sync")
    written.append()
    written.threads.run_all()
    before = {**written.files.contents, unflushed.NAME: bytearray()}
    for operation in ("open", "write", "sync", "rename", "remove"):
        written.files.restart()
        written.files.failing[operation] = errno.EIO
        with pytest.raises(StartError, match="cannot be opened: Input/output error"):
            FileOplog(written.files, 1).open()
        assert written.files.contents == before, operation
    # The last of them had only the note left to remove: what nobody was told of is there as well.
    assert written.restart(power_lost=True) == [0, 1, 2]


# -- an end in the middle --------------------------------------------------------------------------


@ENDS
@pytest.mark.parametrize("lazy", [False, True], ids=["flushed", "waiting"])
def test_an_end_in_every_step(durability: str, power_lost: bool, lazy: bool) -> None:
    for stop_at in range(3, 200):
        written = begun(durability)
        written.files.stop_at = stop_at
        # (Where it ends in a callback, Twisted takes the exception.)
        with suppress(Stopped):
            for number in range(BATCHES):
                written.append()
                if not lazy or number % 4 == 3:
                    written.flush()
        if written.files.steps <= stop_at:
            break
        written.restart(power_lost)
        goes_on(written, power_lost)
    assert stop_at > BATCHES


# -- what a start finds ----------------------------------------------------------------------------


def test_a_tail_torn_at_every_byte_of_the_last_record_is_cut_off_and_told(
    durability: str, warnings: list[LogEvent]
) -> None:
    ends = sizes(durability)
    record = ends[-1] - ends[-2]
    for cut in range(record + 1):
        written = whole(durability)
        last = max(written.files.contents)
        data = written.files.contents[last]
        warnings.clear()
        del data[len(data) - cut :]
        if cut:
            # This is what was never acknowledged.
            written.became[-1] = "unknown"
        found = written.restart()
        assert found == list(range(BATCHES - (cut > 0))), cut
        torn = [(event["name"], event["lost"]) for event in warnings]
        assert torn == ([(last, record - cut)] if 0 < cut < record else [])
        goes_on(written, power_lost=False)


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_a_flip_at_every_byte_stops_the_start_and_changes_nothing(flip: int) -> None:
    clean = whole("os").files.contents
    for name, data in clean.items():
        begins = record_begins(clean, name)
        for at in range(len(data)):
            files = FaultyFiles()
            files.contents = {one: bytearray(content) for one, content in clean.items()}
            files.contents[name][at] ^= flip
            damaged = {one: bytes(content) for one, content in files.contents.items()}
            with pytest.raises(CorruptData) as caught:
                FileOplog(files, 1, limit=3_000).open()
            error = caught.value
            assert error.path == name
            head = at < len(SEGMENT_HEAD)
            wanted = (0, 8) if head else (max(one for one in begins if one <= at),)
            assert error.offset in wanted, (name, at)
            assert files.contents == damaged


def record_begins(contents: dict[str, bytearray], name: str) -> list[int]:
    """Where the records of a segment begin."""
    found, at, data = [], len(SEGMENT_HEAD), contents[name]
    while at < len(data):
        found.append(at)
        at += 52 + int.from_bytes(data[at + 8 : at + 12], "little")
    return found


def test_a_cut_at_every_byte_of_an_earlier_segment_stops_the_start() -> None:
    clean = whole("os").files.contents
    name = sorted(clean)[1]
    for size in range(len(clean[name])):
        files = FaultyFiles()
        files.contents = {one: bytearray(content) for one, content in clean.items()}
        del files.contents[name][size:]
        damaged = {one: bytes(content) for one, content in files.contents.items()}
        with pytest.raises(CorruptData) as caught:
            FileOplog(files, 1, limit=3_000).open()
        assert caught.value.path >= name
        assert files.contents == damaged


@pytest.mark.parametrize("operation", ["open", "truncate", "sync", "write"])
def test_a_start_that_fails_changes_nothing_that_counts(durability: str, operation: str) -> None:
    def torn(written: Written) -> None:
        del written.files.contents[max(written.files.contents)][-1:]
        written.became[-1] = "unknown"

    def headless(written: Written) -> None:
        last = max(written.files.contents)
        written.files.contents[last][:] = SEGMENT_HEAD[:5]
        first = int(last.removeprefix("oplog-").removesuffix(".seg"))
        written.became = written.became[: first // 2]

    spoils: list[Callable[[Written], None]] = [torn, headless]
    for spoil in spoils:
        written = whole(durability)
        spoil(written)
        written.files.failing[operation] = errno.EIO
        log = FileOplog(written.files, 1, limit=3_000)
        if (operation, spoil) == ("write", torn):
            # It has no need of what fails.
            log.open()
        else:
            with pytest.raises(StartError, match=rf"cannot be opened: {BROKEN}\.$"):
                log.open()
        assert written.restart() == [n for n, one in enumerate(written.became) if one == "kept"]
        goes_on(written, power_lost=False)


def test_reading_goes_on_when_writing_has_ended(durability: str) -> None:
    written = begun(durability)
    written.go_on(BATCHES - 1)
    before = all_of(written.log)
    written.files.faults |= {("write", written.files.calls["write"] + 1): errno.EIO}
    written.files.fail_next("truncate")
    written.go_on(2)
    assert written.log.failed is not None
    assert all_of(written.log) == before
