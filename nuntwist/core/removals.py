"""Storage that removes a snapshot only when the log is on the disk.

The file of a dropped database is removed at once and for good, while the operation that drops
it may still be in the memory of the operating system. A loss of power between the two would
leave a database that is there by the log and has no snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from nuntwist.errors import StorageUnavailable
from nuntwist.interfaces import IOplog, ISnapshotWriter, IStorage, SnapshotHeader
from nuntwist.values import Op


@implementer(IStorage)
class LateRemovals:
    """Another storage, with removals behind the log.

    :param storage: the other.
    :param oplog: the log that says what is dropped.
    """

    _log = Logger()

    def __init__(self, storage: IStorage, oplog: IOplog) -> None:
        self._storage = storage
        self._oplog = oplog

    @property
    def held(self) -> Mapping[int, SnapshotHeader]:
        """As the other."""
        held: Mapping[int, SnapshotHeader] = self._storage.held
        return held

    @property
    def at_once(self) -> int:
        """As the other."""
        at_once: int = self._storage.at_once
        return at_once

    def open(self) -> None:
        """As the other."""
        self._storage.open()

    def load(
        self,
        database: Callable[[SnapshotHeader], None],
        entries: Callable[[Sequence[Op]], None],
    ) -> Deferred[None]:
        """As the other."""
        loaded: Deferred[None] = self._storage.load(database, entries)
        return loaded

    def tidy(self) -> Deferred[None]:
        """As the other."""
        tidied: Deferred[None] = self._storage.tidy()
        return tidied

    def begin(self, header: SnapshotHeader, changed: Collection[int] | None) -> ISnapshotWriter:
        """As the other."""
        return self._storage.begin(header, changed)

    def drop(self, database_id: int) -> Deferred[None]:
        """Remove a snapshot when the log is on the disk; where it cannot be put there, the
        next start does it."""
        synced: Deferred[None] = self._oplog.sync()
        return synced.addCallbacks(
            lambda _: self._storage.drop(database_id), self._not_synced, errbackArgs=(database_id,)
        )

    def _not_synced(self, reason: Failure, database_id: int) -> None:
        reason.trap(StorageUnavailable)
        self._log.error(
            "the snapshot of the dropped database {number} stays until the next start, because"
            " the log could not be flushed: {error}",
            number=database_id,
            error=str(reason.value),
        )

    def close(self) -> None:
        """As the other."""
        self._storage.close()
