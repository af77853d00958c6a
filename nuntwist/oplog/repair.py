"""Making a damaged log one that a node starts with, by cutting it; nothing is thrown away.

A segment is cut where its first damaged record begins; what stood from there on is kept beside
it, in ``oplog-….seg.cut-OFFSET``. A segment that then no longer follows on the one before it is
renamed to ``oplog-….seg.cut-0``. No start and no other repair looks at such names, nor uses one
that is taken. What is cut off is on the disk under its new name before it goes.

Each step leaves a log that is either still damaged, and then the plan for it is the rest of
this plan, or right. So a repair that is interrupted anywhere is completed by another one.
"""

from __future__ import annotations

from dataclasses import dataclass

from nuntwist.errors import CorruptData
from nuntwist.files import Files, pieces_of, write_durably
from nuntwist.oplog import base
from nuntwist.oplog.inspect import SegmentReport, damage_of_base, gap, look


@dataclass(frozen=True, slots=True)
class Cut:
    """One step.

    :ivar name: of the file.
    :ivar offset: where it is cut, in bytes.
    :ivar size: how many bytes it has.
    :ivar damage: why.
    :ivar whole_file: it is renamed, and nothing stays under its name.
    """

    name: str
    offset: int
    size: int
    damage: CorruptData
    whole_file: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What there is to do.

    :ivar cuts: the steps, in order; none for a log that is right.
    :ivar first: the index of the first operation of the log.
    :ivar last: the index of the last operation that stays.
    :ivar lost: the first and last index of the operations that go, None for a last one that
        nobody knows; None where none goes.
    :ivar newer: the first index of whole segments that go though nothing is wrong with them nor
        after them: where snapshots cover what is before, going without that loses nothing.
        None where there are none.
    """

    cuts: tuple[Cut, ...]
    first: int
    last: int
    lost: tuple[int, int | None] | None
    newer: int | None


def plan(files: Files) -> Plan:
    """Find out what there is to do; changes nothing.

    :raise OSError: a file cannot be read.
    """
    reports = list(look(files))
    cuts = []
    wrong_base = damage_of_base(files)
    if wrong_base is not None:
        cuts.append(Cut(base.NAME, 0, files.size(base.NAME), wrong_base, True))
    staying: list[SegmentReport] = []
    for report in reports:
        if staying and report.first != staying[-1].last + 1:
            why = gap(report.name, report.first, staying[-1].last)
            cuts.append(Cut(report.name, 0, report.size, why, True))
            continue
        if report.damage is not None:
            cuts.append(Cut(report.name, report.whole, report.size, report.damage, False))
        staying.append(report)
    first = reports[0].first if reports else 1
    last = staying[-1].last if staying else 0
    return Plan(tuple(cuts), first, last, _lost(reports, staying), _newer(reports, staying))


def _lost(
    reports: list[SegmentReport], staying: list[SegmentReport]
) -> tuple[int, int | None] | None:
    # The segments that stay follow on each other, so what is lost is after the last of them.
    if not staying:
        return None
    kept, highest = staying[-1], reports[-1]
    if _is_cut_short(highest):
        return kept.last + 1, None
    end = max(report.last for report in reports)
    return (kept.last + 1, end) if end > kept.last else None


def _newer(reports: list[SegmentReport], staying: list[SegmentReport]) -> int | None:
    kept = {report.name for report in staying}
    newer: SegmentReport | None = None
    for report in reversed(reports):
        follows = newer is None or report.last + 1 == newer.first
        if report.name in kept or _is_cut_short(report) or not report.operations or not follows:
            break
        newer = report
    return None if newer is None else newer.first


def _is_cut_short(report: SegmentReport) -> bool:
    return report.damage is not None and report.whole < report.size


def carry_out(files: Files, cut: Cut) -> str:
    """Do one step; it is on the disk on return.

    :param files: locked by the caller: no node may use them.
    :return: the name of the file that keeps what was cut off.
    :raise OSError: it could not be done; the segment is as it was, or cut and perhaps not yet
        on the disk. In both cases the plan can be made and carried out again.
    """
    kept = _free_name(files, f"{cut.name}.cut-{cut.offset}")
    if cut.whole_file:
        files.rename(cut.name, kept)
        return kept
    write_durably(files, kept, pieces_of(files, cut.name, cut.offset))
    handle = files.append_to(cut.name)
    try:
        handle.truncate(cut.offset)
        handle.sync()
    finally:
        handle.close()
    return kept


def _free_name(files: Files, wanted: str) -> str:
    taken, name, number = set(files.names()), wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}.{number}"
    return name
