"""Takes snapshots while clients go on: a slice a turn, from live shards.

The entries of one snapshot are of slightly different moments; replaying the log from the
index at its beginning sets that right, because operations are outcomes (see
:class:`nuntwist.interfaces.SnapshotHeader`). A snapshot is made final only when the log is
durable past all it holds, so it never tells of what the log does not have; where something of
that is taken back meanwhile, the snapshot is given up. In a set, a majority must have all it
holds as well: what a snapshot holds can never be taken off again. That is waited for only so long
(``Limits.snapshot_commit``).

A database is split into partitions by a hash of the key, and only those are written in which
something has changed: an entry with an index above that of the last snapshot tells so, and
:attr:`Database.removed_from` notes where keys have gone. Entries are encoded as they are come
upon, so no copy of the database is made.

The snapshot of ``$admin`` is taken last, and only when all databases have been: so where it
exists, with index M, every database that lived at M has a snapshot, and recovery needs no
operation before M. It names those databases, so one that is missing is known to be, and one
that was dropped before M as well.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeVar
from zlib import crc32

from twisted.internet.defer import Deferred, DeferredLock, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.core.catalogue import Catalogue
from nuntwist.core.database import SHARDS, Database
from nuntwist.core.pipeline import Pipeline
from nuntwist.errors import CommandError, StorageUnavailable
from nuntwist.interfaces import ISnapshotWriter, IStorage, SnapshotHeader
from nuntwist.values import INDEX, KEY, Op

SLICE = 1_000
"""Entries looked at and encoded in one turn."""
BLOCK = 500
"""Entries of a partition that are written together, at least."""

_T = TypeVar("_T")
Steps = Iterator[Deferred[Any] | None]


class Unsettled(StorageUnavailable):
    """What a snapshot would hold may still be taken off by the set, or was; nothing is lost by
    waiting, as the log has all."""


class Snapshots:
    """The snapshots of a node; one round of them is taken at a time.

    :param call_later: IReactorTime.callLater.
    """

    _log = Logger()

    def __init__(
        self,
        catalogue: Catalogue,
        storage: IStorage,
        pipeline: Pipeline,
        call_later: Callable[..., IDelayedCall],
    ) -> None:
        self._call_later = call_later
        self._patience = pipeline.limits.snapshot_commit
        self._hurried = 0
        self._expires: dict[Callable[[], None], None] = {}
        self._catalogue = catalogue
        self._storage = storage
        self._pipeline = pipeline
        self._lock = DeferredLock()
        self._taken_at = 0

    # -- asking for them ---------------------------------------------------------------------

    def take(self, databases: Sequence[Database], whole: bool = False) -> Deferred[None]:
        """Snapshot databases; with ``$admin``, all others that changed as well.

        :param whole: write every partition of those that are named, changed or not.
        :return: fires with None when all are durable; fails with CommandError where one
            could not be written (its last snapshot stays).
        """
        done: Deferred[Any] = self._lock.run(self._work, databases, whole)
        return done.addCallbacks(lambda _: None, self._failed)

    def take_changed(self) -> Deferred[None]:
        """Snapshot every database that changed since its last one, ``$admin`` at the end."""
        admin = self._catalogue.admin
        if not self._changed() and admin.saved_index >= self._pipeline.journal.revealed:
            return self.take([])
        return self.take([admin])

    def wait_no_more(self) -> None:
        """The node stops, or has left its set: what is not committed by now is in no snapshot."""
        self._patience = 0.0
        self._expire()

    def _expire(self) -> None:
        for expire in tuple(self._expires):
            expire()

    def hold(self, work: Callable[[], Deferred[_T]]) -> Deferred[_T]:
        """Do something while no round of snapshots is under way; one that waits for a majority is
        given up, as what it holds may be about to go.

        :return: as what ``work`` gives.
        """

        def alone() -> Deferred[_T]:
            self._hurried -= 1
            return work()

        self._hurried += 1
        self._expire()
        done: Deferred[_T] = self._lock.run(alone)
        return done

    def note_recovered(self) -> None:
        """Count what the log holds beyond the snapshots as logged since the last: else one that
        never lives long enough for a snapshot would fill its log."""
        oplog = self._pipeline.journal.oplog
        beyond = max(0, oplog.last.index - max(0, self.covered()))
        self._taken_at = -(oplog.size * beyond // max(1, oplog.count))

    def covered(self) -> int:
        """The index up to which the log is not needed any more: recovery replays from the
        snapshot of ``$admin``, and each database from its own where it has changed since; one
        that has none from its creation, whose index is its id."""
        behind = [max(d.saved_index, d.number - 1) for d in self._changed()]
        return min([self._catalogue.admin.saved_index, *behind])

    def are_due(self) -> bool:
        """Whether so much was logged since the last snapshots of all that a replay would take
        long."""
        appended: int = self._pipeline.journal.oplog.appended
        return appended - self._taken_at >= self._pipeline.limits.replay

    def _changed(self) -> list[Database]:
        return [d for d in self._catalogue.by_id.values() if d.last_index > d.saved_index]

    def _failed(self, reason: Failure) -> None:
        error = reason.value
        if not isinstance(error, StorageUnavailable):
            reason.raiseException()
        if isinstance(error, Unsettled):
            self._log.warn(
                "no snapshot was written this time, the one before and the log have everything:"
                " {error}",
                error=str(error),
            )
        else:
            self._log.error(
                "a snapshot could not be written, the one before stays: {error}", error=str(error)
            )
        raise CommandError(b"storage unavailable: " + str(error).encode())

    # -- one round ---------------------------------------------------------------------------

    def _work(self, databases: Sequence[Database], whole: bool) -> Deferred[Any]:
        return self._pipeline.streams.work(self._steps(databases, whole))

    def _steps(self, databases: Sequence[Database], whole: bool) -> Steps:
        journal, admin = self._pipeline.journal, self._catalogue.admin
        start = journal.revealed
        names = tuple((d.number, d.name) for d in self._catalogue.by_id.values() if d is not admin)
        named = frozenset(databases) if whole else frozenset()
        if admin in databases:
            self._taken_at = journal.oplog.appended
            databases = [*databases, *self._changed()]
        failures: list[Failure] = []
        committing: list[Deferred[None]] = []
        for database in dict.fromkeys(databases):
            if database is not admin and self._is_there(database) and not failures:
                done = yield from self._one(_Taken(database), database in named)
                committing.append(done.addErrback(failures.append))
                if len(committing) >= self._storage.at_once:
                    yield committing.pop(0)
        for done in committing:
            yield done
        if admin in databases and not failures:
            done = yield from self._one(_Taken(admin, start, names), admin in named)
            yield done.addErrback(failures.append)
            yield journal.forget(self.covered())
        if failures:
            failures[0].raiseException()

    def _is_there(self, database: Database) -> bool:
        return self._catalogue.by_id.get(database.number) is database

    def _one(
        self, taken: _Taken, whole: bool
    ) -> Generator[Deferred[Any] | None, Any, Deferred[None]]:
        """Write one snapshot.

        :return: (when all steps are done) fires when it is committed; fails with
            StorageUnavailable.
        """
        database, journal = taken.database, self._pipeline.journal
        self._pipeline.commit()
        if taken.index is None:
            taken.index = journal.revealed
        taken.undone = journal.undone
        taken.removed_from, database.removed_from = database.removed_from, set()
        taken.stamp = journal.stamps.catch_up()
        held = self._storage.held.get(database.number)
        taken.partitions = self.partitions(database, held)
        as_before = held is not None and held.index == database.saved_index
        if as_before and not whole and taken.partitions == database.partitions:
            yield from self._find_changed(taken)
        writer: ISnapshotWriter | None = None
        try:
            writer = self._storage.begin(self._header(taken), taken.changed)
            yield from self._write(taken, writer)
            return self._commit(taken, writer)
        except BaseException as error:
            database.removed_from |= taken.removed_from
            if writer is not None:
                writer.abort()
            if isinstance(error, StorageUnavailable):
                return fail(error)
            raise

    def partitions(self, database: Database, held: SnapshotHeader | None) -> int:
        """Into how many partitions a database is split: a small one is not, one that has
        been stays so, or each time it shrinks and grows all of it would be written."""
        limits = self._pipeline.limits
        if held is not None and 1 < held.partitions <= limits.partitions:
            return held.partitions
        return limits.partitions if database.key_count() >= limits.one_partition else 1

    def _header(self, taken: _Taken) -> SnapshotHeader:
        database = taken.database
        return SnapshotHeader(
            database_id=database.number,
            name=database.name,
            strategy=database.strategy,
            index=taken.index or 0,
            epoch=self._pipeline.journal.epoch,
            partitions=taken.partitions,
            stamp=taken.stamp,
            databases=taken.names,
        )

    def _find_changed(self, taken: _Taken) -> Steps:
        database, count = taken.database, taken.partitions
        changed = taken.changed = set(taken.removed_from)
        since, looked_at = database.saved_index, 0
        for shard in database.shards:
            if len(changed) == count:
                return
            changed.update(crc32(op[KEY]) % count for op in shard.values() if op[INDEX] > since)
            looked_at += len(shard)
            if looked_at >= SLICE:
                looked_at = 0
                yield None

    def _write(self, taken: _Taken, writer: ISnapshotWriter) -> Steps:
        count, changed = taken.partitions, taken.changed
        if changed is not None and not changed:
            return
        blocks: list[list[Op]] = [[] for _ in range(count)]
        for entries in self._slices(taken):
            if count == 1:
                blocks[0] += entries
            else:
                for op in entries:
                    blocks[crc32(op[KEY]) % count].append(op)
            for number, block in enumerate(blocks):
                if changed is not None and number not in changed:
                    block.clear()
                elif len(block) >= BLOCK:
                    writer.write(number, block)
                    block.clear()
            yield None
        for number, block in enumerate(blocks):
            if block:
                writer.write(number, block)

    def _slices(self, taken: _Taken) -> Iterator[list[Op]]:
        """The entries, some a turn: large shards in pieces, small ones together."""
        journal, found = self._pipeline.journal, list[Op]()
        for shard in range(SHARDS):
            self._pipeline.commit()
            taken.exposed |= journal.undo is not None or journal.index > journal.revealed
            found += taken.database.entries(shard)
            if len(found) >= SLICE:
                for start in range(0, len(found), SLICE):
                    yield found[start : start + SLICE]
                found = []
        if found:
            yield found

    def _commit(self, taken: _Taken, writer: ISnapshotWriter) -> Deferred[None]:
        journal = self._pipeline.journal
        self._pipeline.commit()
        done: Deferred[Any] = self._settled(journal.index)
        done.addCallback(lambda _: journal.oplog.sync())
        done.addCallback(lambda _: self._check(taken))
        done.addErrback(_give_up, writer)
        done.addCallback(lambda _: writer.commit())
        return done.addCallbacks(self._note, self._note_failed, (taken,), {}, (taken,))

    def _settled(self, index: int) -> Deferred[None]:
        """Wait until an operation stays, but not for ever."""
        journal = self._pipeline.journal
        settled = journal.settled(index)
        if journal.undo is None or settled.called:
            return settled

        def expire() -> None:
            settled.errback(Unsettled("what it would hold is not committed by a majority"))

        def stop(result: _T) -> _T:
            self._expires.pop(expire, None)
            if waiting.active():
                waiting.cancel()
            return result

        waiting = self._call_later(0.0 if self._hurried else self._patience, expire)
        self._expires[expire] = None
        return settled.addBoth(stop)

    def _check(self, taken: _Taken) -> None:
        if taken.exposed and self._pipeline.journal.undone != taken.undone:
            raise Unsettled("writes it may hold were taken back")

    def _note(self, _: object, taken: _Taken) -> Deferred[None] | None:
        database = taken.database
        if not self._is_there(database):
            dropped: Deferred[None] = self._storage.drop(database.number)
            return dropped
        database.saved_index = taken.index or 0
        database.saved_stamp = taken.stamp
        if database.partitions != taken.partitions:
            database.partitions = taken.partitions
            if database.removed_from:
                # Noted meanwhile by the numbers of before.
                database.removed_from = set(range(taken.partitions))
        return None

    def _note_failed(self, reason: Failure, taken: _Taken) -> Failure | Deferred[None]:
        if reason.check(StorageUnavailable) and not self._is_there(taken.database):
            dropped: Deferred[None] = self._storage.drop(taken.database.number)
            return dropped
        taken.database.removed_from |= taken.removed_from
        return reason


class _Taken:
    """A snapshot being taken.

    :ivar index: at which it begins; None until it does.
    :ivar stamp: when it was begun.
    :ivar names: of the other databases, for ``$admin``.
    :ivar changed: the partitions to write; None for all.
    :ivar removed_from: what the database had noted of removed keys at the beginning.
    :ivar undone: what the journal had counted at the beginning.
    :ivar exposed: whether entries were read that the log might still refuse.
    """

    __slots__ = (
        *("changed", "database", "exposed", "index"),
        *("names", "partitions", "removed_from", "stamp", "undone"),
    )

    def __init__(
        self,
        database: Database,
        index: int | None = None,
        names: tuple[tuple[int, bytes], ...] | None = None,
    ) -> None:
        self.database = database
        self.index = index
        self.names = names
        self.partitions = 1
        self.changed: set[int] | None = None
        self.removed_from: set[int] = set()
        self.undone = 0
        self.stamp = 0
        self.exposed = False


def _give_up(reason: Failure, writer: ISnapshotWriter) -> Failure:
    writer.abort()
    return reason
