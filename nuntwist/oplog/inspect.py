"""Looking at a log without opening it: nothing is changed, a node may run beside.

:func:`look` walks over all records and tells of each segment what it holds and what is wrong
with it; :func:`operations` gives the operations themselves. Both find what a start would stop at
(:mod:`nuntwist.oplog.segments`), and what recovery would, as every record is decoded. A log of
any length takes the memory of one window, or of its largest record.

A running node goes on meanwhile. What it appends after the length of a file was asked for is not
looked at; a record that was being appended just then ends too early, as a torn tail does. A
segment that it drops is not told of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from nuntwist.errors import CorruptData
from nuntwist.files import Files
from nuntwist.oplog.base import read_base
from nuntwist.oplog.reader import records
from nuntwist.oplog.record import HEAD_SIZE, Head, decode
from nuntwist.oplog.segment import SEGMENT_HEAD, begins_well, segments_in
from nuntwist.values import DATABASE, INDEX, STAMP, Epoch, Op


@dataclass(slots=True)
class SegmentReport:
    """What one segment holds.

    :ivar first: the index of its first operation, as its name says.
    :ivar last: the index of the last one that is whole; ``first - 1`` where there is none.
    :ivar size: its bytes.
    :ivar whole: how many of them hold whole records, from the beginning.
    :ivar epoch: of the last record; None where there is none.
    :ivar first_stamp: of the first operation, and ``last_stamp`` of the last; 0 for none.
    :ivar damage: what is wrong at byte ``whole``; None where nothing is.
    """

    name: str
    first: int
    last: int
    size: int
    whole: int = 0
    epoch: Epoch | None = None
    first_stamp: int = 0
    last_stamp: int = 0
    damage: CorruptData | None = None

    @property
    def operations(self) -> int:
        """How many whole ones it holds."""
        return self.last - self.first + 1

    @property
    def torn(self) -> int:
        """Bytes of an incomplete last record, which the next start cuts off."""
        return 0 if self.damage is not None else self.size - self.whole


class Logged(NamedTuple):
    """An operation as it was logged."""

    epoch: Epoch
    origin: int
    op: Op


def look(files: Files) -> Iterator[SegmentReport]:
    """Check all segments, by rising index.

    :raise OSError: one cannot be read.
    """
    segments = [(segment.name, segment.first) for segment in segments_in(files)]
    before: SegmentReport | None = None
    for name, first in segments:
        try:
            report = _look_at(files, name, first)
        except FileNotFoundError:
            # The node has dropped it, and all that were before it.
            before = None
            continue
        if report.damage is None:
            report.damage = _misplaced(report, before, name == segments[-1][0])
        yield report
        before = report


def _misplaced(
    report: SegmentReport, before: SegmentReport | None, is_last: bool
) -> CorruptData | None:
    """What is wrong with the place of a segment in the row.

    After damage nobody knows what the next one should begin with.
    """
    if before is not None and before.damage is None and report.first != before.last + 1:
        return gap(report.name, report.first, before.last)
    if report.torn and not is_last:
        return _not_the_end(report.name, report.whole)
    return None


def gap(name: str, first: int, before: int) -> CorruptData:
    """Tell of a segment that does not follow on the one before it."""
    what = f"it begins with index {first}, where {before + 1} must stand"
    return CorruptData(name, 0, what)


def _not_the_end(name: str, offset: int) -> CorruptData:
    return CorruptData(name, offset, "it ends within a record, and another segment follows")


def _look_at(files: Files, name: str, first: int) -> SegmentReport:
    report = SegmentReport(name, first, first - 1, files.size(name))
    try:
        for head, ops, end in _decoded(files, name, first, report.size):
            report.whole = end
            if head is None:
                continue
            if report.epoch is None:
                report.first_stamp = ops[0][STAMP]
            report.last, report.epoch, report.last_stamp = head.last, head.epoch, ops[-1][STAMP]
    except CorruptData as damage:
        report.damage = damage
    return report


def _decoded(
    files: Files, name: str, first: int | None, size: int, after: int = 0
) -> Iterator[tuple[Head | None, list[Op], int]]:
    """Give the whole records of a segment with their operations, and where each ends; before
    them once None, with the end of the segment's own head.

    :param first: the index it begins with; None where it may be any.
    :param after: records with no operation after this index are not given.
    :raise CorruptData: at the first record that is damaged.
    """
    begin = len(SEGMENT_HEAD)
    wanted = first
    with files.open_read(name) as file:
        if not begins_well(file.read(begin), name, size):
            return
        yield None, [], begin
        for head, body, offset in records(file, name, begin, size):
            if wanted is not None and head.first != wanted:
                raise CorruptData(name, offset, f"index {head.first} stands where {wanted} must")
            wanted = head.last + 1
            ops = decode(head, body, name, offset) if wanted > after else []
            yield head, ops, offset + HEAD_SIZE + head.length


def operations(
    files: Files, start: int = 1, database: int | None = None
) -> Iterator[Logged | SegmentReport]:
    """Give operations in order.

    :param start: the index of the first one wanted.
    :param database: the id of the only one wanted; None for all.
    :return: the operations; where the log ends with an incomplete record, at last a report on
        that segment (its name, size and whole bytes).
    :raise CorruptData: the log is damaged; all before that has been given.
    :raise OSError: it cannot be read, or the node dropped a segment after the first.
    """
    segments = [(segment.name, segment.first) for segment in segments_in(files)]
    # The last segment that begins at or before the first operation wanted.
    skip = max(0, sum(first <= start for _, first in segments) - 1)
    last: int | None = None
    for name, first in segments[skip:]:
        if last is not None and first != last + 1:
            raise gap(name, first, last)
        try:
            report = SegmentReport(name, first, first - 1, files.size(name))
            for head, ops, end in _decoded(files, name, first, report.size, start):
                report.whole = end
                if head is not None:
                    report.last = head.last
                    for op in ops:
                        if op[INDEX] >= start and database in (None, op[DATABASE]):
                            yield Logged(head.epoch, head.origin, op)
        except FileNotFoundError:
            if last is not None:
                raise
            continue
        last = report.last
        if report.torn:
            if name != segments[-1][0]:
                raise _not_the_end(name, report.whole)
            yield report


def operations_in(
    files: Files, name: str, start: int = 1, database: int | None = None
) -> Iterator[Logged | SegmentReport]:
    """Give the operations of one file that has the form of a segment: what was cut off a log.

    :param name: of the file, which says nothing of the index it begins with.
    :param start: as of :func:`operations`, and ``database``.
    :return: as of :func:`operations`.
    :raise CorruptData: the file is damaged; all before that has been given.
    :raise OSError: it cannot be read.
    """
    report = SegmentReport(name, 0, 0, files.size(name))
    for head, ops, end in _decoded(files, name, None, report.size, start - 1):
        report.whole = end
        if head is not None:
            for op in ops:
                if op[INDEX] >= start and database in (None, op[DATABASE]):
                    yield Logged(head.epoch, head.origin, op)
    if report.torn:
        yield report


def damage_of_base(files: Files) -> CorruptData | None:
    """What is wrong with the file that says where the log begins, if there is one.

    :raise OSError: it cannot be read.
    """
    try:
        read_base(files)
    except CorruptData as damage:
        return damage
    return None
