"""Snapshots in memory: for tests, and for nodes that may forget."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from nuntwist.interfaces import ISnapshotWriter, IStorage, SnapshotHeader
from nuntwist.values import Op

Parts = dict[int, list[Sequence[Op]]]
Saved = tuple[SnapshotHeader, Parts]


@implementer(ISnapshotWriter)
class _Writer:
    def __init__(self, saved: dict[int, Saved], header: SnapshotHeader, kept: Parts) -> None:
        self._saved = saved
        self._header = header
        self._parts = kept

    def write(self, partition: int, entries: Sequence[Op]) -> None:
        """Keep some entries."""
        self._parts.setdefault(partition, []).append(list(entries))

    def commit(self) -> Deferred[None]:
        """Make it the one."""
        self._saved[self._header.database_id] = (self._header, self._parts)
        return succeed(None)

    def abort(self) -> None:
        """Forget it."""
        self._parts = {}


@implementer(IStorage)
class MemoryStorage:
    """A dictionary of snapshots.

    :ivar saved: header and partitions, by the id of the database.
    """

    at_once = 1

    def __init__(self) -> None:
        self.saved: dict[int, Saved] = {}

    @property
    def held(self) -> Mapping[int, SnapshotHeader]:
        """The headers of what is kept."""
        return {number: header for number, (header, _) in self.saved.items()}

    def open(self) -> None:
        """Nothing to open."""

    def load(
        self,
        database: Callable[[SnapshotHeader], None],
        entries: Callable[[Sequence[Op]], None],
    ) -> Deferred[None]:
        """Give all of them, by rising id."""
        for _, (header, parts) in sorted(self.saved.items(), key=_number):
            database(header)
            for _, pieces in sorted(parts.items()):
                for piece in pieces:
                    entries(piece)
        return succeed(None)

    def tidy(self) -> Deferred[None]:
        """Nothing is left."""
        return succeed(None)

    def begin(self, header: SnapshotHeader, changed: Collection[int] | None) -> ISnapshotWriter:
        """Begin one."""
        kept: Parts = {}
        if changed is not None:
            before, parts = self.saved[header.database_id]
            if before.partitions != header.partitions:
                raise ValueError("partitions can be taken over only where there are as many")
            kept = {number: part for number, part in parts.items() if number not in changed}
        return _Writer(self.saved, header, kept)

    def drop(self, database_id: int) -> Deferred[None]:
        """Remove one."""
        self.saved.pop(database_id, None)
        return succeed(None)

    def close(self) -> None:
        """Nothing to close."""


def _number(item: tuple[int, Saved]) -> int:
    return item[0]
