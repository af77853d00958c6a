"""One snapshot under way, of one database.

    begun ──▶ what has changed ──▶ entries written ──▶ settled ──▶ the log flushed ──▶ committed
                                      │                  │            │                   │
                                      └── given up: the one before stays ◀────────────────┘

Its entries are read a slice a turn, from live shards, so they are of slightly different moments:
the log from the index at which it began sets that right. What the log might still refuse while it
was read, and has then refused, gives it up. It is made final only when the log is on the disk past
all it holds; :mod:`nuntwist.core.snapshots` says when that is *settled* in a set.

What the database had noted of removed keys is taken at the beginning, as what goes from then on
counts for the next one; where this one is given up it is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any
from zlib import crc32

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from nuntwist.core.catalogue import Catalogue
from nuntwist.core.database import SHARDS, Database
from nuntwist.core.partitions import Blocks, partitions_for
from nuntwist.core.pipeline import Pipeline
from nuntwist.errors import StorageUnavailable
from nuntwist.interfaces import ISnapshotWriter, IStorage, SnapshotHeader
from nuntwist.values import INDEX, KEY, Op

SLICE = 1_000
"""Entries looked at and encoded in one turn."""
BLOCK = 500
"""Entries of a partition that are written together, at least."""

Steps = Iterator[Deferred[Any] | None]


class Unsettled(StorageUnavailable):
    """What a snapshot would hold may still be taken off by the set, or was; nothing is lost by
    waiting, as the log has all."""


class Taking:
    """See the module's header.

    :param settled: gives, for an index, what fires when nothing up to it can be taken off, and
        fails with :class:`Unsettled`.
    :param whole: write every partition, changed or not.
    :param index: at which it begins; None for the one of when it does.
    :param names: of the other databases, for ``$admin``.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        storage: IStorage,
        catalogue: Catalogue,
        settled: Callable[[int], Deferred[None]],
        database: Database,
        whole: bool,
        index: int | None = None,
        names: tuple[tuple[int, bytes], ...] | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._storage = storage
        self._catalogue = catalogue
        self._settled = settled
        self._database = database
        self._whole = whole
        self._index = index
        self._names = names
        self._partitions = 1
        self._changed: set[int] | None = None
        self._removed_from: set[int] = set()
        self._undone = 0
        self._stamp = 0
        # Whether entries were read that the log might still refuse.
        self._exposed = False

    def steps(self) -> Generator[Deferred[Any] | None, Any, Deferred[None]]:
        """Write it, a slice a step.

        :return: (when all steps are done) fires when it is committed; fails with
            StorageUnavailable.
        """
        self._begin()
        database = self._database
        held = self._storage.held.get(database.number)
        self._partitions = partitions_for(database, held, self._pipeline.limits)
        as_before = held is not None and held.index == database.saved_index
        if as_before and not self._whole and self._partitions == database.partitions:
            yield from self._find_changed()
        writer: ISnapshotWriter | None = None
        try:
            writer = self._storage.begin(self._header(), self._changed)
            yield from self._write(writer)
            return self._commit(writer)
        except BaseException as error:
            database.removed_from |= self._removed_from
            if writer is not None:
                writer.abort()
            if isinstance(error, StorageUnavailable):
                return fail(error)
            raise

    def _begin(self) -> None:
        database, journal = self._database, self._pipeline.journal
        self._pipeline.commit()
        if self._index is None:
            self._index = journal.revealed
        self._undone = journal.undone
        self._removed_from, database.removed_from = database.removed_from, set()
        self._stamp = journal.stamps.catch_up()

    def _header(self) -> SnapshotHeader:
        database = self._database
        return SnapshotHeader(
            database_id=database.number,
            name=database.name,
            strategy=database.strategy,
            index=self._index or 0,
            epoch=self._pipeline.journal.epoch,
            partitions=self._partitions,
            stamp=self._stamp,
            databases=self._names,
        )

    def _find_changed(self) -> Steps:
        database, count = self._database, self._partitions
        changed = self._changed = set(self._removed_from)
        since, looked_at = database.saved_index, 0
        for shard in database.shards:
            if len(changed) == count:
                return
            changed.update(crc32(op[KEY]) % count for op in shard.values() if op[INDEX] > since)
            looked_at += len(shard)
            if looked_at >= SLICE:
                looked_at = 0
                yield None

    def _write(self, writer: ISnapshotWriter) -> Steps:
        if self._changed is not None and not self._changed:
            return
        blocks = Blocks(writer, self._partitions, BLOCK, self._changed)
        for entries in self._slices():
            blocks.add(entries)
            yield None
        blocks.finish()

    def _slices(self) -> Iterator[list[Op]]:
        """The entries, some a turn: large shards in pieces, small ones together."""
        journal, found = self._pipeline.journal, list[Op]()
        for shard in range(SHARDS):
            self._pipeline.commit()
            self._exposed |= journal.undo is not None or journal.index > journal.revealed
            found += self._database.entries(shard)
            if len(found) >= SLICE:
                for start in range(0, len(found), SLICE):
                    yield found[start : start + SLICE]
                found = []
        if found:
            yield found

    # -- the end -----------------------------------------------------------------------------

    def _commit(self, writer: ISnapshotWriter) -> Deferred[None]:
        journal = self._pipeline.journal
        self._pipeline.commit()
        done: Deferred[Any] = self._settled(journal.index)
        done.addCallback(lambda _: journal.oplog.sync())
        done.addCallback(lambda _: self._check())
        done.addErrback(_give_up, writer)
        done.addCallback(lambda _: writer.commit())
        return done.addCallbacks(self._note, self._note_failed)

    def _check(self) -> None:
        if self._exposed and self._pipeline.journal.undone != self._undone:
            raise Unsettled("writes it may hold were taken back")

    def _is_there(self) -> bool:
        return self._catalogue.by_id.get(self._database.number) is self._database

    def _note(self, _: object) -> Deferred[None] | None:
        database = self._database
        if not self._is_there():
            dropped: Deferred[None] = self._storage.drop(database.number)
            return dropped
        database.saved_index = self._index or 0
        database.saved_stamp = self._stamp
        if database.partitions != self._partitions:
            database.partitions = self._partitions
            if database.removed_from:
                # Noted meanwhile by the numbers of before.
                database.removed_from = set(range(self._partitions))
        return None

    def _note_failed(self, reason: Failure) -> Failure | Deferred[None]:
        if reason.check(StorageUnavailable) and not self._is_there():
            dropped: Deferred[None] = self._storage.drop(self._database.number)
            return dropped
        self._database.removed_from |= self._removed_from
        return reason


def _give_up(reason: Failure, writer: ISnapshotWriter) -> Failure:
    writer.abort()
    return reason
