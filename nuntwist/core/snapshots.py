"""Takes snapshots while clients go on: a slice a turn, copied from live shards.

The entries of one snapshot are of slightly different moments; replaying the log from the
index at its beginning sets that right, because operations are outcomes (see
:class:`nuntwist.interfaces.SnapshotHeader`). A snapshot is made final only when the log is
durable past all it holds, so it never tells of what the log does not have.

The snapshot of ``$admin`` is taken last, and only when all databases have been: so where it
exists, with index M, every database that lived at M has a snapshot, and recovery needs no
operation before M. It names those databases, so a snapshot of one that was dropped before M
is known for what it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.core.catalogue import Catalogue
from nuntwist.core.database import SHARDS, Database
from nuntwist.core.pipeline import Pipeline
from nuntwist.errors import CommandError, StorageUnavailable
from nuntwist.interfaces import ISnapshotWriter, IStorage, SnapshotHeader
from nuntwist.values import INDEX, Op

SLICE = 1_000
"""Entries encoded in one turn."""


class Snapshots:
    """The snapshots of a node; one is taken at a time."""

    _log = Logger()

    def __init__(self, catalogue: Catalogue, storage: IStorage, pipeline: Pipeline) -> None:
        self._catalogue = catalogue
        self._storage = storage
        self._pipeline = pipeline
        self._lock = DeferredLock()
        self._bytes_between = pipeline.limits.replay
        self._taken_at = 0

    def take(self, databases: Sequence[Database]) -> Deferred[None]:
        """Snapshot databases; with ``$admin``, all others that changed as well.

        :return: fires with None when all are durable; fails with CommandError where one
            could not be written (its last snapshot stays).
        """
        done: Deferred[Any] = self._lock.run(self._work, databases)
        return done.addCallbacks(lambda _: None, self._failed)

    def take_changed(self) -> Deferred[None]:
        """Snapshot every database that changed since its last one, ``$admin`` at the end."""
        admin = self._catalogue.admin
        if not self._changed() and admin.saved_index >= self._pipeline.journal.revealed:
            return self.take([])
        return self.take([admin])

    def _changed(self) -> list[Database]:
        return [d for d in self._catalogue.by_id.values() if d.last_index > d.saved_index]

    def _work(self, databases: Sequence[Database]) -> Deferred[Any]:
        return self._pipeline.streams.work(self._steps(databases))

    def _failed(self, reason: Failure) -> None:
        error = reason.value
        if not isinstance(error, StorageUnavailable):
            reason.raiseException()
        self._log.error(
            "a snapshot could not be written, the one before stays: {error}", error=str(error)
        )
        raise CommandError(b"storage unavailable: " + str(error).encode())

    def _steps(self, databases: Sequence[Database]) -> Iterator[Deferred[None] | None]:
        start = self._pipeline.journal.revealed
        admin = self._catalogue.admin
        if admin in databases:
            self._taken_at = self._pipeline.journal.oplog.appended
            asked = [*databases, *self._changed()]
            databases = [*dict.fromkeys(d for d in asked if d is not admin), admin]
        for database in databases:
            if self._catalogue.by_id.get(database.number) is not database:
                continue
            index = start if database is admin else None
            yield from self._one(database, index)
        if admin in databases:
            forgotten: Deferred[Any] = self._pipeline.journal.oplog.forget(self.covered())
            yield forgotten

    def covered(self) -> int:
        """The index up to which the log is not needed any more: recovery replays from the
        snapshot of ``$admin``, and each database from its own where it has changed since."""
        behind = [d.saved_index for d in self._changed()]
        return min([self._catalogue.admin.saved_index, *behind])

    def are_due(self) -> bool:
        """Whether so much was logged since the last snapshots of all that a replay would take
        long."""
        appended: int = self._pipeline.journal.oplog.appended
        return appended - self._taken_at >= self._bytes_between

    def _one(self, database: Database, index: int | None) -> Iterator[Deferred[None] | None]:
        journal = self._pipeline.journal
        self._pipeline.commit()
        begun_at = journal.revealed if index is None else index
        writer: ISnapshotWriter = self._storage.begin(
            SnapshotHeader(database.number, database.name, database.strategy, begun_at)
        )
        highest = 0
        try:
            for entries in self._slices(database):
                highest = max(highest, max((op[INDEX] for op in entries), default=0))
                writer.write(entries)
                yield None
            self._pipeline.commit()
            lost: list[Failure] = []
            yield journal.durable(highest).addErrback(lost.append)
            if not lost:
                yield journal.oplog.sync().addErrback(lost.append)
            if lost:
                lost[0].raiseException()
        except BaseException:
            writer.abort()
            raise
        yield writer.commit()
        if self._catalogue.by_id.get(database.number) is database:
            database.saved_index = begun_at
        else:
            yield self._storage.drop(database.number)

    def _slices(self, database: Database) -> Iterator[list[Op]]:
        for shard in range(SHARDS):
            self._pipeline.commit()
            entries = database.entries(shard)
            for start in range(0, len(entries), SLICE):
                yield entries[start : start + SLICE]
