"""Takes snapshots while clients go on: a slice a turn, from live shards. Here is when they are
taken, in which order, and for how long one waits; how one is written is
:mod:`nuntwist.core.taking`.

The entries of one snapshot are of slightly different moments; replaying the log from the
index at its beginning sets that right, because operations are outcomes (see
:class:`nuntwist.interfaces.SnapshotHeader`). A snapshot is made final only when the log is
durable past all it holds, so it never tells of what the log does not have; where something of
that is taken back meanwhile, the snapshot is given up. In a set, a majority must have all it
holds as well: what a snapshot holds can never be taken off again. That is waited for only so long
(``Limits.snapshot_commit``).

A database is split into partitions (:mod:`nuntwist.core.partitions`), and only those are written
in which something has changed: an entry with an index above that of the last snapshot tells so,
and :attr:`Database.removed_from` notes where keys have gone. Entries are encoded as they are come
upon, so no copy of the database is made.

The snapshot of ``$admin`` is taken last, and only when all databases have been: so where it
exists, with index M, every database that lived at M has a snapshot, and recovery needs no
operation before M. It names those databases, so one that is missing is known to be, and one
that was dropped before M as well.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.core.catalogue import Catalogue
from nuntwist.core.database import Database
from nuntwist.core.pipeline import Pipeline
from nuntwist.core.taking import Steps, Taking, Unsettled
from nuntwist.errors import CommandError, StorageUnavailable
from nuntwist.interfaces import IStorage

_T = TypeVar("_T")


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
            is_there = self._catalogue.by_id.get(database.number) is database
            if database is not admin and is_there and not failures:
                done = yield from self._one(database, database in named)
                committing.append(done.addErrback(failures.append))
                if len(committing) >= self._storage.at_once:
                    yield committing.pop(0)
        for done in committing:
            yield done
        if admin in databases and not failures:
            done = yield from self._one(admin, admin in named, start, names)
            yield done.addErrback(failures.append)
            yield journal.forget(self.covered())
        if failures:
            failures[0].raiseException()

    def _is_there(self, database: Database) -> bool:
        return self._catalogue.by_id.get(database.number) is database

    def _one(
        self,
        database: Database,
        whole: bool,
        index: int | None = None,
        names: tuple[tuple[int, bytes], ...] | None = None,
    ) -> Generator[Deferred[Any] | None, Any, Deferred[None]]:
        pipeline, storage, catalogue = self._pipeline, self._storage, self._catalogue
        taking = Taking(pipeline, storage, catalogue, self._settled, database, whole, index, names)
        return taking.steps()

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
