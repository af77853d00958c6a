"""Snapshots in memory: for tests, and for nodes that may forget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from nuntwist.interfaces import ISnapshotWriter, IStorage, SnapshotHeader
from nuntwist.values import Op

Saved = tuple[SnapshotHeader, list[Sequence[Op]]]


@implementer(ISnapshotWriter)
class _Writer:
    def __init__(self, saved: dict[int, Saved], header: SnapshotHeader) -> None:
        self._saved = saved
        self._header = header
        self._pieces: list[Sequence[Op]] = []

    def write(self, entries: Sequence[Op]) -> None:
        """Keep some entries."""
        self._pieces.append(list(entries))

    def commit(self) -> Deferred[None]:
        """Make it the one."""
        self._saved[self._header.database_id] = (self._header, self._pieces)
        return succeed(None)

    def abort(self) -> None:
        """Forget it."""
        self._pieces = []


@implementer(IStorage)
class MemoryStorage:
    """A dictionary of snapshots.

    :ivar saved: header and entries, by the id of the database.
    """

    def __init__(self) -> None:
        self.saved: dict[int, Saved] = {}

    def open(self) -> None:
        """Nothing to open."""

    def load(
        self,
        database: Callable[[SnapshotHeader], None],
        entries: Callable[[Sequence[Op]], None],
    ) -> Deferred[None]:
        """Give all of them, by rising id."""
        for _, (header, pieces) in sorted(self.saved.items(), key=_number):
            database(header)
            for piece in pieces:
                entries(piece)
        return succeed(None)

    def begin(self, header: SnapshotHeader) -> ISnapshotWriter:
        """Begin one."""
        return _Writer(self.saved, header)

    def drop(self, database_id: int) -> Deferred[None]:
        """Remove one."""
        self.saved.pop(database_id, None)
        return succeed(None)

    def close(self) -> None:
        """Nothing to close."""


def _number(item: tuple[int, Saved]) -> int:
    return item[0]
