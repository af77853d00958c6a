"""Recovery: the state of a node from its snapshots and what its log has beyond them.

The snapshots are loaded, then the log is replayed from the index of the snapshot of ``$admin``
(see :mod:`nuntwist.core.snapshots` for why that is enough); what a database's own snapshot has
already is passed over. A crash at any moment leaves what this can set right:

- A snapshot of a database that was dropped: the log says so, or ``$admin`` no longer names it.
  It is removed, at this start and at every later one that finds it.
- A database younger than the snapshot of ``$admin``, with or without a snapshot of its own.
- A snapshot with some entries later than its index: replaying leaves them as they are.

A node without a log of its own, whose snapshots are kept elsewhere, begins with what they hold:
its log goes on after the last operation in any of them.

What a crash cannot leave stops the start, because going on would lose writes in silence: a log
that ends before what a snapshot holds or begins after it, and a database without its snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger

from nuntwist.core.catalogue import Catalogue
from nuntwist.core.database import MASK
from nuntwist.core.undo import Undo
from nuntwist.errors import StartError
from nuntwist.interfaces import IOplog, IStorage, SnapshotHeader
from nuntwist.values import (
    ADMIN_ID,
    CREATE_DATABASE,
    DATABASE,
    DROP_DATABASE,
    INDEX,
    KEY,
    KIND,
    NAME_DATABASE,
    NO_EPOCH,
    STAMP,
    VALUE,
    Op,
    Position,
)

_index, _stamp = itemgetter(INDEX), itemgetter(STAMP)


class Recovery:
    """One recovery.

    :param catalogue: new; filled here.
    :param oplog: open.
    :param storage: open.
    :param elsewhere: whether snapshots are not kept where the log is, so that a node may begin
        without one.
    :param undo: gets what is replayed, so that the end of it can be taken back.
    :ivar last_stamp: the highest stamp found.
    """

    _log = Logger()

    def __init__(
        self,
        catalogue: Catalogue,
        oplog: IOplog,
        storage: IStorage,
        elsewhere: bool = False,
        undo: Undo | None = None,
    ) -> None:
        self._undo = undo
        self._held_to = 0
        self._catalogue = catalogue
        self._oplog = oplog
        self._storage = storage
        self._gone: set[int] = set()
        self._listed: dict[int, bytes] | None = None
        self._elsewhere = elsewhere
        self._without_log = elsewhere and oplog.count == 0
        self._reached = oplog.last
        self.last_stamp = oplog.last_stamp

    def run(self) -> Deferred[int]:
        """Recover.

        :return: fires with how many operations were replayed; fails with CorruptData or
            StartError, and then nothing on the disk was changed.
        """
        loaded = maybeDeferred(self._storage.load, self._restore, self._load)
        return loaded.addCallback(lambda _: self._go_on())

    def _go_on(self) -> int:
        if self._reached > self._oplog.last:
            self._oplog.begin_after(self._reached)
        replayed = self._replay()
        self._check_snapshots()
        self._note_held()
        self._catalogue.relist()
        for database in self._catalogue.by_id.values():
            database.mend_conflicts()
        # Whatever comes of these two: the next start does them again.
        self._storage.tidy()
        for number in sorted(self._gone):
            self._storage.drop(number)
        return replayed

    # -- snapshots ---------------------------------------------------------------------------

    def _restore(self, header: SnapshotHeader) -> None:
        admin = self._catalogue.admin
        self._held_to = max(self._held_to, header.index)
        self._check_end(Position(header.epoch, header.index), header.name)
        if admin.saved_index >= header.database_id and not self._is_listed(header):
            # Dropped before the snapshot of $admin was begun; only the file was left.
            self._gone.add(header.database_id)
            return
        if header.database_id == ADMIN_ID:
            database = admin
            if header.databases is not None:
                self._listed = dict(header.databases)
        else:
            database = self._catalogue.restore(header.database_id, header.name, header.strategy)
        database.saved_index = database.last_index = header.index
        database.partitions = header.partitions

    def _is_listed(self, header: SnapshotHeader) -> bool:
        """Whether the snapshot of ``$admin`` tells of a database."""
        if self._listed is None:
            return self._catalogue.is_listed(header.database_id, header.name)
        return header.database_id in self._listed

    def _load(self, entries: Sequence[Op]) -> None:
        if not entries or entries[0][DATABASE] in self._gone:
            return
        database = self._catalogue.by_id[entries[0][DATABASE]]
        last = max(map(_index, entries))
        self._held_to = max(self._held_to, last)
        self._check_end(Position(NO_EPOCH, last), database.name)
        if self._oplog.count == 0:
            self.last_stamp = max(self.last_stamp, max(map(_stamp, entries)))
        shards = database.shards
        for op in entries:
            key = op[KEY]
            if key[:1] == b"$":
                database.store(op)
            else:
                shards[hash(key) & MASK][key] = op
        if database.usage is not None:
            database.usage.add(op for op in entries if op[KEY][:1] != b"$")

    def _check_end(self, held: Position, name: bytes) -> None:
        """Refuse a log that ends before what a snapshot holds: it would give the same
        indexes again, and recovery would take new operations for old ones.

        :raise StartError: it does.
        """
        last = self._oplog.last.index
        if held.index <= last:
            return
        if self._without_log:
            reached = self._reached
            self._reached = Position(max(reached.epoch, held.epoch), max(reached.index, held.index))
            return
        way = (
            ", or move all database-* files away: then all is read from the log, without what came"
            " after that operation"
        )
        raise StartError(
            f"The log ends at operation {last}, but the snapshot of the database"
            f" {name.decode()} has operation {held.index}: the end of the log is missing."
            " Nothing was changed; restore the whole data directory from a backup"
            f"{way if self._oplog.first == 1 and not self._elsewhere else ''}."
        )

    def _check_begin(self, covered: int) -> None:
        """Refuse a log that begins beyond what the snapshots cover.

        :raise StartError: it does.
        """
        first = self._oplog.first
        if first > covered + 1 and first != self._oplog.base + 1:
            raise StartError(
                f"The log begins with operation {first}, but the snapshots cover no more than"
                f" operation {covered}: a snapshot or the beginning of the log is missing."
                " Nothing was changed; read them from where they were written to"
                " (NUN_STORAGE_READ_STRATEGY), or restore the whole data directory from a backup."
            )

    # -- the log -----------------------------------------------------------------------------

    def _replay(self) -> int:
        catalogue, replayed = self._catalogue, 0
        by_id = catalogue.by_id
        covered = max(0, catalogue.admin.saved_index)
        self._check_begin(covered)
        apply = catalogue.apply if self._undo is None else self._begin_undo(self._undo)
        for ops in self._oplog.read(covered):
            for op in ops:
                kind, database = op[KIND], by_id.get(op[DATABASE])
                if kind == DROP_DATABASE:
                    apply(op)
                    self._gone.add(op[DATABASE])
                    replayed += 1
                elif kind == NAME_DATABASE:
                    apply(op)
                    if op[VALUE]:
                        self._gone.add(int(op[VALUE]))
                    replayed += 1
                elif kind == CREATE_DATABASE:
                    if database is None:
                        apply(op)
                        replayed += 1
                elif database is not None and op[INDEX] > database.saved_index:
                    held = database.find(op[KEY])
                    if held is None or held[INDEX] < op[INDEX]:
                        apply(op)
                        replayed += 1
        return replayed

    def _begin_undo(self, undo: Undo) -> Callable[[Op], None]:
        """Give what applies an operation so that it can be taken back. Up to where any snapshot
        reaches nothing can be, as that is part of the state whatever is replayed."""
        catalogue = self._catalogue
        undo.begin_at(max(self._held_to, self._oplog.first - 1), "a snapshot of this node holds it")

        def apply(op: Op) -> None:
            undo.keep_replayed(op, catalogue)
            catalogue.apply(op)

        return apply

    def _check_snapshots(self) -> None:
        """Refuse to go on without a database that the snapshot of ``$admin`` names: it was
        there at that time, so it had one of its own, and what came before is only there.

        :raise StartError: there is one.
        """
        covered = self._catalogue.admin.saved_index
        for number, name in (self._listed or {}).items():
            if number > covered or number in self._catalogue.by_id or number in self._gone:
                continue
            if self._without_log or covered <= self._oplog.base:
                # It may have been dropped after that: without the log nobody knows.
                self._log.warn(
                    "there is no snapshot of the database {name}, number {number}: it was dropped,"
                    " or is lost",
                    name=name.decode(),
                    number=number,
                )
                continue
            way = ", or move all database-* files away: then all is read from the log"
            raise StartError(
                f"The snapshot of the database {name.decode()}, number {number}, is missing."
                " Nothing was changed; restore the data directory from a backup"
                f"{way if self._oplog.first == 1 else ''}."
            )

    def _note_held(self) -> None:
        """Take up what the storage that is written to holds (it may not be the one that was
        read): what it has not is to be written, and what nobody knows goes."""
        by_id, held = self._catalogue.by_id, self._storage.held
        for number, database in by_id.items():
            header = held.get(number)
            if header is not None and header.index > self._oplog.last.index:
                # Of another time than what was read: nothing of it is taken over.
                header = None
            database.saved_index = -1 if header is None else header.index
            database.saved_stamp = 0 if header is None else header.stamp
            if header is not None and database.partitions != header.partitions:
                database.partitions = header.partitions
                if database.removed_from:
                    database.removed_from = set(range(header.partitions))
        self._gone.update(number for number in held if number not in by_id)
