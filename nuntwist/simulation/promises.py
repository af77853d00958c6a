"""What clients were answered, and what must come of it.

Writers of a simulation never write a value twice, so the value of a write that was answered tells
where it is in logs, and its name where a conflict is. Each record is known by a hash of all up to
it, whose *parent* is that of the record before. So it can be told, for any log that ends with some
hash, whether a write is in it, even where that log has forgotten its beginning.

A write that was answered with a majority behind it must be in the log of every primary of a later
epoch than there was at that time (:meth:`Promises.leads`). One that was answered with less behind
it may be cut off, but is then in a file of a node (:meth:`Promises.lost`).
"""

from __future__ import annotations

from collections.abc import Iterator

from nuntwist.core.database import CONFLICT_PREFIX
from nuntwist.interfaces import Received
from nuntwist.values import KEY, KIND, SET, VALUE


class Violation(AssertionError):
    """Something happened that must never happen."""


class Promises:
    """The writes of one run.

    :ivar set_id: of the set that clients write to; a node that has not joined it yet may lead one
        of its own meanwhile.
    :ivar answered: values that were answered, each with the highest epoch there was by then; kept
        apart by whether a majority had them.
    """

    def __init__(self) -> None:
        self._parents: dict[bytes, bytes] = {}
        self._places: dict[bytes, set[bytes]] = {}
        self._highest = 0
        self.set_id = 0
        self.kept: dict[bytes, int] = {}
        self.answered: dict[bytes, int] = {}

    def logged(self, record: Received, hashed: bytes, before: bytes) -> None:
        """A record is in a log."""
        if hashed in self._parents:
            return
        self._parents[hashed] = before
        for op in record.ops:
            if op[KIND] != SET or op[VALUE] is None:
                continue
            if op[KEY].startswith(CONFLICT_PREFIX):
                # What its writer was told is its name.
                self._places.setdefault(op[KEY], set()).add(hashed)
            elif not op[KEY].startswith(b"$"):
                self._places.setdefault(op[VALUE], set()).add(hashed)

    def made(self, value: bytes, majority: bool) -> None:
        """A write was answered.

        :raise Violation: it is in no log.
        """
        if value not in self._places:
            raise Violation(f"the write of {value!r} was answered, and is in no log")
        (self.kept if majority else self.answered)[value] = self._highest

    def leads(self, place: int, set_id: int, number: int, end: bytes) -> None:
        """A node is primary of a set.

        :param number: of its epoch.
        :param end: the hash of all that is in its log.
        :raise Violation: it lacks what was promised.
        """
        if set_id != self.set_id:
            return
        line = set(self._line(end))
        for value, highest in self.kept.items():
            if highest < number and not self._places[value] & line:
                raise Violation(
                    f"node {place}, primary of epoch {number}, lacks the write of {value!r}, which"
                    " was answered before"
                )
        self._highest = max(self._highest, number)

    def lost(self, end: bytes) -> list[bytes]:
        """The values that were answered and are not in a log that ends with a hash."""
        line = set(self._line(end))
        values = {**self.kept, **self.answered}
        return [value for value in values if not self._places[value] & line]

    def _line(self, end: bytes) -> Iterator[bytes]:
        while end:
            yield end
            end = self._parents.get(end, b"")
