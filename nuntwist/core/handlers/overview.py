"""What ``debug list-dbs json`` tells: how large each database is, and when it was used last.

Sizes are counted when asked for, a slice a turn, because counting them as they change would
cost every write.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from nuntwist.core.database import Database
from nuntwist.language.replies import Reply
from nuntwist.values import INDEX, KEY, STAMP, VALUE

if TYPE_CHECKING:
    from nuntwist.core.node import Node

SLICE = 10_000
"""Entries looked at in one turn, about."""
_MILLISECONDS_AT = 16
"""Bits of a stamp below its milliseconds."""


def describe_all(node: Node) -> Deferred[Reply]:
    """Describe all databases.

    :return: fires with a reply that holds a JSON list, one object a database, by name.
    """
    described: list[dict[str, Any]] = []
    databases = [database for _, database in sorted(node.catalogue.by_name.items())]

    def steps() -> Iterator[None]:
        for database in databases:
            yield from _describe(database, described)

    def reply(_: object) -> Reply:
        text = json.dumps(described, ensure_ascii=False).encode()
        return Reply((b"dbs-list-json " + text + b"\n",))

    return node.pipeline.streams.work(steps()).addCallback(reply)


def _describe(database: Database, described: list[dict[str, Any]]) -> Iterator[None]:
    keys = size = looked_at = 0
    last = database.removed_stamp
    for shard in database.shards:
        held = [op for op in shard.values() if op[VALUE] is not None and op[INDEX] > 0]
        keys += len(held)
        size += sum(len(op[KEY]) + len(op[VALUE] or b"") for op in held)
        last = max([last, *(op[STAMP] for op in held)])
        looked_at += len(shard)
        if looked_at >= SLICE:
            looked_at = 0
            yield None
    described.append(
        {
            "name": database.name.decode(),
            "strategy": database.strategy.decode(),
            "keys": keys,
            "bytes": size,
            "last_write": _of_stamp(last),
            "last_selected": _time(database.selected_at),
            "connections": len(database.selected),
            "watched_keys": len(database.watchers),
            "last_snapshot": _of_stamp(database.saved_stamp),
            "changed_since": database.last_index > database.saved_index,
        }
    )


def _of_stamp(stamp: int) -> str | None:
    return _time((stamp >> _MILLISECONDS_AT) / 1000.0)


def _time(seconds: float) -> str | None:
    """Wall time as ISO 8601; None for never, or not known."""
    if not seconds:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
