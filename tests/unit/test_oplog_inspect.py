"""Looking at a log beside a node, and repairing a damaged one."""

from __future__ import annotations

import errno
import io
from collections.abc import Sequence
from contextlib import suppress
from typing import BinaryIO

import pytest

from nuntwist.errors import CorruptData
from nuntwist.files import MemoryFiles, Stopped, write_all
from nuntwist.oplog import inspect, reader
from nuntwist.oplog.base import NAME as BASE
from nuntwist.oplog.base import write_base
from nuntwist.oplog.inspect import Logged, SegmentReport, look, operations
from nuntwist.oplog.record import Newer, encode
from nuntwist.oplog.repair import Plan, carry_out, plan
from nuntwist.oplog.segment import SEGMENT_HEAD, segment_name, segments_in
from nuntwist.oplog.segments import FileOplog
from nuntwist.values import Op, Position
from tests.unit.conformance_oplog import EPOCH, LATER, all_of, op, run

ORIGIN = 0x55
ONE, TWO, THREE = segment_name(1), segment_name(5), segment_name(8)


def put(files: MemoryFiles, name: str, data: bytes) -> None:
    """Write a file so that no loss of power takes it."""
    handle = files.create(name)
    write_all(handle, data)
    handle.sync()


def segment(*batches: Sequence[Op]) -> bytes:
    return SEGMENT_HEAD + b"".join(encode(EPOCH, ORIGIN, ops) for ops in batches)


def log_of(*segments: bytes, names: Sequence[str] = (ONE, TWO, THREE)) -> MemoryFiles:
    files = MemoryFiles()
    for name, data in zip(names, segments, strict=False):
        put(files, name, data)
    return files


def three() -> MemoryFiles:
    """Operations 1 to 4, 5 to 7, and 8 to 9."""
    return log_of(
        segment(run(1, 1), run(2, 3)), segment(run(5, 1), run(6, 2)), segment(run(8, 1), run(9, 1))
    )


def opened(files: MemoryFiles) -> FileOplog:
    log = FileOplog(files, ORIGIN)
    log.open()
    return log


def contents(files: MemoryFiles) -> dict[str, bytes]:
    return {name: bytes(data) for name, data in files.contents.items()}


def damages(files: MemoryFiles) -> list[CorruptData]:
    return [report.damage for report in look(files) if report.damage is not None]


def repaired(files: MemoryFiles) -> Plan:
    todo = plan(files)
    for cut in todo.cuts:
        carry_out(files, cut)
    return todo


def ops_of(files: MemoryFiles, start: int = 1, database: int | None = None) -> list[Op]:
    return [one.op for one in operations(files, start, database) if isinstance(one, Logged)]


# -- looking ---------------------------------------------------------------------------------------


def test_what_a_whole_log_holds() -> None:
    files = three()
    put(files, segment_name(10), SEGMENT_HEAD + encode(LATER, 3, run(10, 4)))
    put(files, segment_name(14), SEGMENT_HEAD)
    before, steps = contents(files), files.steps
    reports = list(look(files))
    assert [(report.first, report.last, report.operations) for report in reports] == [
        *((1, 4, 4), (5, 7, 3), (8, 9, 2), (10, 13, 4), (14, 13, 0)),
    ]
    assert [report.epoch for report in reports] == [EPOCH, EPOCH, EPOCH, LATER, None]
    assert [(report.first_stamp, report.last_stamp) for report in reports[2:]] == [
        *((1008, 1009), (1010, 1013), (0, 0)),
    ]
    assert [report.name for report in reports] == [one.name for one in segments_in(files)]
    assert all(report.size == report.whole == len(before[report.name]) for report in reports)
    assert [(report.torn, report.damage) for report in reports] == [(0, None)] * 5
    assert (files.steps, contents(files)) == (steps, before)


def test_an_incomplete_last_record_is_no_damage() -> None:
    whole = three()
    size = len(whole.contents[THREE])
    kept = len(segment(run(8, 1)))
    for cut in range(kept, size):
        files = three()
        del files.contents[THREE][cut:]
        report = list(look(files))[-1]
        assert (report.last, report.whole, report.torn, report.damage) == (
            *(8, kept, cut - kept),
            None,
        )
        assert plan(files).cuts == ()
        given = list(operations(files))
        if cut > kept:
            torn = given.pop()
            assert isinstance(torn, SegmentReport)
            assert (torn.name, torn.torn) == (THREE, cut - kept)
        assert [one.op for one in given if isinstance(one, Logged)] == run(1, 8)


@pytest.mark.parametrize("begin", [b"", SEGMENT_HEAD[:7], bytes(16)])
def test_a_torn_head_of_the_last_segment_is_no_damage(begin: bytes) -> None:
    files = three()
    put(files, segment_name(10), begin)
    report = list(look(files))[-1]
    assert (report.operations, report.torn, report.damage) == (0, len(begin), None)
    assert all_of(opened(files)) == run(1, 9)


def test_operations_from_anywhere() -> None:
    files = three()
    for start in range(1, 12):
        assert ops_of(files, start) == run(1, 9)[start - 1 :], start
    first = next(operations(files))
    assert first == Logged(EPOCH, ORIGIN, op(1, b"key-1", b"x"))


def test_operations_of_one_database() -> None:
    other: Op = (b"v", 0, 2, 1002, 1, 9, b"k")
    files = log_of(segment([op(1), other, op(3)], [op(4)]))
    assert ops_of(files, 1, 9) == [other]
    assert ops_of(files, 2, 7) == [op(3), op(4)]
    assert ops_of(files, 1, 0) == []


def test_operations_before_damage_are_given() -> None:
    files = three()
    files.contents[TWO][-1] ^= 1
    given: list[Op] = []
    found = operations(files, 3)
    with pytest.raises(CorruptData) as caught:
        given.extend(one.op for one in found if isinstance(one, Logged))
    assert caught.value.path == TWO
    assert given == run(3, 3)
    # Damage before the segment that is asked for is not looked at.
    assert ops_of(files, 8) == run(8, 2)
    del files.contents[TWO]
    with pytest.raises(CorruptData, match="begins with index 8, where 5 must stand"):
        ops_of(files)


class Dropping(MemoryFiles):
    """A node drops a segment between the listing and the reading of it."""

    gone = ""

    def size(self, name: str) -> int:
        if name == self.gone:
            raise FileNotFoundError(errno.ENOENT, "No such file", name)
        return super().size(name)


def test_a_segment_that_the_node_drops_meanwhile() -> None:
    files = Dropping()
    files.contents = three().contents
    files.gone = ONE
    assert [report.name for report in look(files)] == [TWO, THREE]
    assert damages(files) == []
    assert ops_of(files) == run(5, 5)
    files.gone = TWO
    with pytest.raises(FileNotFoundError):
        ops_of(files)


class Window(io.BytesIO):
    """A file that tells how much is read at once."""

    largest = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0
        Window.largest = max(Window.largest, size)
        return super().read(size)


class Windows(MemoryFiles):
    def open_read(self, name: str) -> BinaryIO:
        return Window(super().open_read(name).read())


def test_a_long_log_is_read_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "WINDOW", 4096)
    files = Windows()
    put(files, ONE, segment(*[run(first, 1) for first in range(1, 1000)]))
    assert len(files.contents[ONE]) > 100_000
    assert [report.last for report in look(files)] == [999]
    assert len(ops_of(files)) == 999
    assert 0 < Window.largest <= 4096


# -- damage ----------------------------------------------------------------------------------------


@pytest.mark.many_cases
def test_every_flipped_bit_is_found_and_repaired_to_what_stands_before_it() -> None:
    batches = [[run(1, 1), run(2, 3)], [run(5, 1), run(6, 2)]]
    whole = [segment(*each) for each in batches]
    # Where records end, and how many operations stand before that.
    ends = [
        *((0, len(SEGMENT_HEAD), 0), (0, len(segment(run(1, 1))), 1), (0, len(whole[0]), 4)),
        *((1, len(SEGMENT_HEAD), 4), (1, len(segment(run(5, 1))), 5), (1, len(whole[1]), 7)),
    ]
    for number, name in enumerate((ONE, TWO)):
        for at in range(len(whole[number])):
            before = max(
                (count for of, end, count in ends if of < number or (of == number and end <= at)),
                default=0,
            )
            for bit in range(8):
                files = log_of(*whole)
                files.contents[name][at] ^= 1 << bit
                damaged = contents(files)
                with pytest.raises(CorruptData) as caught:
                    opened(files)
                assert [str(one) for one in damages(files)] == [str(caught.value)]
                todo = repaired(files)
                assert (todo.first, todo.last) == (1, before), (name, at, bit)
                assert damages(files) == []
                log = opened(files)
                assert all_of(log) == run(1, before), (name, at, bit)
                assert kept_bytes(files) == b"".join(damaged.values())
                log.append(LATER, run(before + 1, 1))
                assert all_of(opened(files)) == run(1, before + 1)


def kept_bytes(files: MemoryFiles) -> bytes:
    """What segments and side files hold together, in order of the log; not the heads that
    an opened log has written anew."""
    parts = {}
    for name, data in files.contents.items():
        place, _, cut = name.partition(".seg")
        assert not cut or cut.startswith(".cut-")
        offset = int(cut.removeprefix(".cut-").partition(".")[0]) if cut else 0
        parts[(place, offset, bool(cut))] = bytes(data)
    told = {(place, offset) for place, offset, cut in parts if cut}
    return b"".join(
        data
        for (place, offset, cut), data in sorted(parts.items())
        if cut or (place, offset) not in told
    )


def test_side_files_are_named_by_what_they_hold() -> None:
    files = three()
    files.contents[TWO][-1] ^= 1
    before = contents(files)
    at = len(segment(run(5, 1)))
    todo = plan(files)
    assert contents(files) == before
    assert [(cut.name, cut.offset, cut.size, cut.whole_file) for cut in todo.cuts] == [
        (TWO, at, len(before[TWO]), False),
        (THREE, 0, len(before[THREE]), True),
    ]
    assert (todo.last, todo.lost, todo.newer) == (5, (6, 9), 8)
    assert [carry_out(files, cut) for cut in todo.cuts] == [f"{TWO}.cut-{at}", f"{THREE}.cut-0"]
    assert contents(files) == {
        ONE: before[ONE],
        TWO: before[TWO][:at],
        f"{TWO}.cut-{at}": before[TWO][at:],
        f"{THREE}.cut-0": before[THREE],
    }
    assert plan(files) == Plan((), 1, 5, None, None)


def test_a_second_repair_overwrites_nothing() -> None:
    files = three()
    files.contents[THREE][-1] ^= 1
    at = repaired(files).cuts[0].offset
    first = bytes(files.contents[f"{THREE}.cut-{at}"])
    for number in (2, 3):
        log = opened(files)
        log.append(EPOCH, [op(9, b"another", b"%d" % number)])
        files.contents[THREE][-1] ^= 1
        repaired(files)
        assert f"{THREE}.cut-{at}.{number}" in files.contents
    assert files.contents[f"{THREE}.cut-{at}"] == first
    assert all_of(opened(files)) == run(1, 8)


def test_what_is_lost() -> None:
    def lost(files: MemoryFiles) -> tuple[object, object, object]:
        todo = plan(files)
        return todo.last, todo.lost, todo.newer

    files = three()
    files.contents[THREE][-1] ^= 1
    assert lost(files) == (8, (9, None), None)
    files.contents[ONE][-1] ^= 1
    assert lost(files) == (1, (2, None), None)
    files = three()
    files.contents[ONE][3] ^= 1
    assert lost(files) == (0, (1, 9), 5)
    files = three()
    del files.contents[TWO]
    assert lost(files) == (4, (5, 9), 8)
    files = three()
    del files.contents[ONE]
    assert lost(files) == (9, None, None)
    assert plan(files).first == 5
    assert plan(MemoryFiles()) == Plan((), 1, 0, None, None)


def test_bytes_between_two_segments_that_follow_on_each_other_cost_no_operation() -> None:
    files = three()
    files.contents[ONE] += b"xyz"
    assert [str(one) for one in damages(files)] == [
        f"{ONE} is damaged at byte {len(files.contents[ONE]) - 3}:"
        " it ends within a record, and another segment follows"
    ]
    todo = repaired(files)
    assert (len(todo.cuts), todo.last, todo.lost) == (1, 9, None)
    assert all_of(opened(files)) == run(1, 9)


def test_a_segment_from_elsewhere_is_taken_out_alone() -> None:
    files = three()
    put(files, segment_name(6), segment(run(6, 1)))
    with pytest.raises(CorruptData):
        opened(files)
    assert [one.path for one in damages(files)] == [segment_name(6)]
    repaired(files)
    assert f"{segment_name(6)}.cut-0" in files.contents
    assert all_of(opened(files)) == run(1, 9)


def test_a_log_without_its_beginning_stays_where_it_is() -> None:
    files = three()
    del files.contents[ONE]
    files.contents[TWO][0] ^= 1
    repaired(files)
    log = opened(files)
    assert (log.first, log.last.index, log.count) == (5, 4, 0)


def test_what_recovery_would_stop_at_is_found() -> None:
    """A right checksum over what no release wrote, in a record before the last one."""
    record = encode(EPOCH, ORIGIN, [(b"", 0, 1, 5, 200, 7, b"k")])
    files = log_of(SEGMENT_HEAD + record + encode(EPOCH, ORIGIN, [op(2)]))
    (damage,) = damages(files)
    assert isinstance(damage, Newer)
    assert damage.offset == len(SEGMENT_HEAD)


def test_a_damaged_base_is_put_aside() -> None:
    files = three()
    write_base(files, Position(EPOCH, 3))
    assert inspect.damage_of_base(files) is None
    assert plan(files).cuts == ()
    files.contents[BASE][0] ^= 1
    with pytest.raises(CorruptData):
        opened(files)
    todo = repaired(files)
    assert [cut.name for cut in todo.cuts] == [BASE]
    assert todo.lost is None
    assert f"{BASE}.cut-0" in files.contents
    assert all_of(opened(files)) == run(1, 9)


# -- crashes and disks that fail ------------------------------------------------------------------


def damaged() -> MemoryFiles:
    files = log_of(
        segment(run(1, 1), run(2, 3)),
        segment(run(5, 1), run(6, 2)),
        segment(run(8, 1)),
        segment(run(9, 2)),
        names=(ONE, TWO, THREE, segment_name(9)),
    )
    files.contents[TWO][-1] ^= 1
    return files


@pytest.mark.parametrize("power_lost", [False, True])
def test_a_repair_that_ends_in_any_step_is_completed_by_the_next(power_lost: bool) -> None:
    whole = damaged()
    steps = whole.steps
    cut = whole.contents[TWO][len(segment(run(5, 1))) :]
    repaired(whole)
    steps = whole.steps - steps
    assert steps > 7
    for stop_at in range(steps + 1):
        files = damaged()
        files.stop_at = files.steps + stop_at
        with suppress(Stopped):
            repaired(files)
            assert stop_at == steps
        files.restart(power_lost=power_lost)
        # Either a start still refuses it, or it is right.
        todo = repaired(files)
        assert damages(files) == []
        assert todo.last == 5
        assert all_of(opened(files)) == run(1, 5), stop_at
        after = contents(files)
        for name, data in whole.contents.items():
            assert after[name] == data, (stop_at, name)
        for name in set(after) - set(whole.contents):
            # A copy that was whole before the end, beside the one of the second repair.
            assert name.startswith(f"{TWO}.cut-"), stop_at
            assert after[name] == cut


@pytest.mark.parametrize("operation", ["open", "write", "sync", "rename", "truncate"])
def test_a_disk_that_fails_loses_nothing(operation: str) -> None:
    files = damaged()
    before = contents(files)
    files.failing[operation] = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        repaired(files)
    files.failing.clear()
    assert all(files.contents[name] == data for name, data in before.items())
    repaired(files)
    assert all_of(opened(files)) == run(1, 5)


def test_a_full_disk_changes_no_segment() -> None:
    files = damaged()
    before = contents(files)
    for room in (0, 1, 50):
        files.room = room
        with pytest.raises(OSError, match="No space left"):
            repaired(files)
        assert {name: bytes(files.contents[name]) for name in before} == before
    files.room = None
    repaired(files)
    assert all_of(opened(files)) == run(1, 5)
