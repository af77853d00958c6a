"""What ``nun-db oplog`` says: segments, operations and repairs in words, and as data for JSON.

Hashes of tokens are never shown. Bytes are shown as text; what is not UTF-8 is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from nuntwist.core.database import is_secret
from nuntwist.oplog.inspect import Logged, SegmentReport
from nuntwist.oplog.repair import Cut, Plan
from nuntwist.values import (
    BEGIN_EPOCH,
    CREATE_DATABASE,
    DROP_DATABASE,
    NAME_DATABASE,
    REMOVE,
    SET,
    Epoch,
)

HIDDEN: Final = "<hidden>"
KINDS: Final = {
    SET: "set",
    REMOVE: "remove",
    CREATE_DATABASE: "create-database",
    DROP_DATABASE: "drop-database",
    NAME_DATABASE: "name-database",
    BEGIN_EPOCH: "begin-epoch",
}
_1970 = datetime(1970, 1, 1, tzinfo=UTC)


def in_words(report: SegmentReport) -> str:
    """What a segment holds, in one line."""
    parts = [f"{report.size} bytes"]
    if report.epoch is not None:
        times = f"{_time(report.first_stamp)} to {_time(report.last_stamp)}"
        parts.insert(0, f"operations {report.first} to {report.last}")
        parts += [times, f"epoch {_epoch(report.epoch)}"]
    else:
        parts.insert(0, "no operations")
    if report.torn:
        parts.append(incomplete(report))
    if report.damage is not None:
        parts.append(f"damaged at byte {report.damage.offset}: {report.damage.reason}")
    return ", ".join(parts)


def incomplete(report: SegmentReport) -> str:
    """Tell of a torn tail."""
    return f"incomplete last record of {report.torn} bytes (being written, or cut off at a start)"


def planned(cut: Cut) -> str:
    """Tell of a step that is not done."""
    if cut.whole_file:
        return f"{cut.damage}: it would be renamed to {cut.name}.cut-0"
    size = cut.size - cut.offset
    return f"{cut.damage}: {size} bytes would be moved to {cut.name}.cut-{cut.offset}"


def done(cut: Cut, kept: str) -> str:
    """Tell of a step that was done."""
    if cut.whole_file:
        return f"{cut.damage}: it was renamed to {kept}"
    return f"{cut.damage}: {cut.size - cut.offset} bytes were moved to {kept}"


def consequences(todo: Plan, done: bool) -> Iterator[str]:
    """What comes of a repair, and what can be done about it."""
    if todo.lost is None:
        yield "No operation is lost."
        return
    first, last = todo.lost
    lost = f"from {first} on" if last is None else f"{first} to {last}"
    yield f"Lost are operations {lost}; the log ends at operation {todo.last}."
    if todo.newer is not None and not done:
        yield (
            f"Perhaps nothing need be lost: where snapshots cover operation {todo.newer - 1}, move"
            f" all segments that begin before {todo.newer} away instead; the start says whether"
            " they do."
        )
    way = "restore the whole data directory from a backup"
    if todo.first == 1:
        way = "move all its database-* files away, then all is read from the log"
    yield (
        f"A start refuses a snapshot that holds a later operation than {todo.last}"
        f' ("The log ends at operation {todo.last}, but the snapshot ..."): {way}.'
    )


def as_data(report: SegmentReport) -> dict[str, Any]:
    """What a segment holds, for JSON."""
    damage = report.damage
    return {
        "name": report.name,
        "first": report.first,
        "last": report.last,
        "operations": report.operations,
        "bytes": report.size,
        "epoch": None if report.epoch is None else _epoch(report.epoch),
        "first_stamp": report.first_stamp,
        "last_stamp": report.last_stamp,
        "incomplete_bytes": report.torn,
        "damage": None if damage is None else {"offset": damage.offset, "reason": damage.reason},
    }


# -- operations ----------------------------------------------------------------------------------


def text_line(logged: Logged) -> str:
    """An operation as fields parted by tabs."""
    (value, version, index, stamp, kind, database, key), shown = logged.op, _shown(logged)
    fields = (
        *(index, _time(stamp), KINDS[kind], database, _escaped(key)),
        "-" if value is None or kind == DROP_DATABASE else shown or _escaped(value),
        *(version, stamp, _epoch(logged.epoch), f"{logged.origin:016x}"),
    )
    return "\t".join(map(str, fields))


def json_line(logged: Logged) -> str:
    """An operation as a JSON object."""
    value, version, index, stamp, kind, database, key = logged.op
    data: dict[str, Any] = {"index": index, "time": _time(stamp), "kind": KINDS[kind]}
    data["db"] = database
    _put(data, "key", key)
    if value is not None and kind != DROP_DATABASE:
        shown = _shown(logged)
        if shown is None:
            _put(data, "value", value)
        else:
            data["value"] = shown
    data |= {"version": version, "stamp": stamp, "epoch": _epoch(logged.epoch)}
    data["origin"] = f"{logged.origin:016x}"
    return json.dumps(data, ensure_ascii=False)


def _put(data: dict[str, Any], name: str, text: bytes) -> None:
    """Put bytes in as text; where they are not UTF-8 also as they are, in hexadecimal."""
    try:
        data[name] = text.decode()
    except UnicodeDecodeError:
        data[name] = text.decode("utf-8", "backslashreplace")
        data[f"{name}_hex"] = text.hex()


def _shown(logged: Logged) -> str | None:
    """What stands for a value that must not be shown; None for one that may be."""
    value, _, _, _, kind, _, key = logged.op
    if kind == CREATE_DATABASE:
        strategy, space, _ = (value or b"").partition(b" ")
        return f"{_escaped(strategy)} {HIDDEN}" if space else HIDDEN
    return HIDDEN if kind == SET and is_secret(key) else None


def _escaped(text: bytes) -> str:
    """Bytes as text in one piece of a line: what is not UTF-8, and what would spoil the line, is
    escaped as Python does it."""
    decoded = text.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    if decoded.isprintable():
        return decoded
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in decoded
    )


def _time(stamp: int) -> str:
    """The time in a stamp, UTC, to the millisecond; ``-`` for one that no calendar has."""
    try:
        moment = _1970 + timedelta(milliseconds=stamp >> 16)
    except OverflowError:
        return "-"
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _epoch(epoch: Epoch) -> str:
    return f"{epoch.number}.{epoch.node:016x}"
