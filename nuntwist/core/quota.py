"""How many databases there may be, and how much each may hold: what a client may use up.

A write that would go beyond is refused with an error that begins with ``quota``; whoever removes
keys, or makes values shorter, has room again. Only the primary decides, but every node counts, as
it may be primary next; a node without quotas does not count. What an admin brings in by a restore
is not refused, nor is what arbiters decide, and ``$admin`` has no quota.

The hot road asks how many of a run of commands have room whatever they are, and counts what they
did when they are done (:mod:`nuntwist.core.hotroad`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from nuntwist.errors import CommandError
from nuntwist.values import INDEX, KEY, VALUE, Op

_ROOM_AGAIN: Final = 0.95
"""Below this part of its quota a database is not full any more, and the log tells when it is."""
TELL_SECONDS: Final = 60.0
"""How often at most the log tells that a database is full."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What a node allows; 0 for any number.

    :ivar databases: how many, without ``$admin``.
    :ivar keys: of one database.
    :ivar size: bytes of keys and values of one database.
    """

    databases: int = 0
    keys: int = 0
    size: int = 0

    def usage(self) -> Usage | None:
        """For a new database; None where nothing has to be counted."""
        return Usage(self) if self.keys or self.size else None


UNLIMITED: Final = Quota()


Write: TypeAlias = tuple[Op | None, bytes, bytes]
"""The entry that a write would replace, its key and its value."""


class Usage:
    """What one database holds.

    :ivar keys: how many that hold a value.
    :ivar size: bytes of these keys and their values.
    :ivar full: whether something was refused, and much is not gone since.
    :ivar told_at: when the log has told of that, by the monotonic clock; None for never.
    """

    __slots__ = ("full", "keys", "quota", "size", "told_at")

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.keys = self.size = 0
        self.full = False
        self.told_at: float | None = None

    def note(self, old: Op | None, new: Op | None) -> None:
        """An entry has taken the place of another one."""
        for op, sign in ((old, -1), (new, 1)):
            # What has no index lives on this node only.
            if op is not None and op[INDEX] and (value := op[VALUE]) is not None:
                self.keys += sign
                self.size += sign * (len(op[KEY]) + len(value))

    def note_all(self, replaced: Sequence[Op | None], ops: Sequence[Op]) -> None:
        """Entries have taken the places of others, each of the one beside it."""
        for old, new in zip(replaced, ops, strict=True):
            self.note(old, new)

    def add(self, ops: Iterable[Op]) -> None:
        """Entries have come, each of another key."""
        for op in ops:
            self.note(None, op)

    def free_keys(self) -> int:
        """How many keys may come."""
        most = self.quota.keys
        return max(0, most - self.keys) if most else sys.maxsize

    def fits(self, lines: Sequence[bytes], at: int, stop: int) -> int:
        """How far there is room for the bytes of whatever commands set, be every key of theirs a
        new one.

        :param at: the place of the first, and ``stop`` of the one after the last.
        :return: the place of the first for which there may be none, or that is no ``set``.
        """
        if self.full:
            self.full = not self._has_room_again()
        most = self.quota.size
        if not most:
            return stop
        size = self.size
        for place in range(at, stop):
            line = lines[place]
            size += len(line)
            if size > most or line[:4] != b"set ":
                return place
        return stop

    def refusal(self, *writes: Write) -> bytes | None:
        """Why keys cannot be set to values, all together; None where they can."""
        quota, keys, more = self.quota, 0, 0
        for old, key, value in writes:
            held = None if old is None else old[VALUE]
            keys += held is None
            more += len(value) - len(held) if held is not None else len(key) + len(value)
        if quota.keys and keys and self.keys + keys > quota.keys:
            return b"quota of %d keys of this database is used up" % quota.keys
        if quota.size and more > 0 and self.size + more > quota.size:
            return b"quota of %d bytes of this database is used up" % quota.size
        if self.full:
            self.full = not self._has_room_again()
        return None

    def _has_room_again(self) -> bool:
        quota = self.quota
        return (not quota.keys or self.keys < quota.keys * _ROOM_AGAIN) and (
            not quota.size or self.size < quota.size * _ROOM_AGAIN
        )


def refuse_database(quota: Quota, there: int, coming: int = 1) -> None:
    """See that there is room for more databases.

    :param there: how many there are, without ``$admin``.
    :raise CommandError: there is not.
    """
    if quota.databases and there + coming > quota.databases:
        raise CommandError(b"quota of %d databases is used up" % quota.databases)
