"""Snapshots read from one place at the start and written to another: how a node moves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from twisted.internet.defer import Deferred
from zope.interface import implementer

from nuntwist.interfaces import ISnapshotWriter, IStorage, SnapshotHeader
from nuntwist.values import Op


@implementer(IStorage)
class SplitStorage:
    """Two storages as one.

    :param read: what a start loads; never written.
    :param write: holds the snapshots from then on.
    """

    def __init__(self, read: IStorage, write: IStorage) -> None:
        self._read = read
        self._write = write

    @property
    def at_once(self) -> int:
        """As many as the one that is written."""
        at_once: int = self._write.at_once
        return at_once

    @property
    def held(self) -> Mapping[int, SnapshotHeader]:
        """What the one holds that is written."""
        held: Mapping[int, SnapshotHeader] = self._write.held
        return held

    def open(self) -> None:
        """Open both."""
        self._read.open()
        self._write.open()

    def load(
        self,
        database: Callable[[SnapshotHeader], None],
        entries: Callable[[Sequence[Op]], None],
    ) -> Deferred[None]:
        """Load from the one that is read."""
        loaded: Deferred[None] = self._read.load(database, entries)
        return loaded

    def tidy(self) -> Deferred[None]:
        """Tidy the one that is written."""
        tidied: Deferred[None] = self._write.tidy()
        return tidied

    def begin(self, header: SnapshotHeader, changed: Collection[int] | None) -> ISnapshotWriter:
        """Begin one where it is written."""
        return self._write.begin(header, changed)

    def drop(self, database_id: int) -> Deferred[None]:
        """Remove one where it is written."""
        dropped: Deferred[None] = self._write.drop(database_id)
        return dropped

    def close(self) -> None:
        """Close both."""
        self._read.close()
        self._write.close()
