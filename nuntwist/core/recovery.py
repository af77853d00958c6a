"""Recovery: the state of a node from its snapshots and what its log has beyond them.

The snapshots are loaded, then the log is replayed from the index of the snapshot of ``$admin``
(see :mod:`nuntwist.core.snapshots` for why that is enough); what a database's own snapshot has
already is passed over. A crash at any moment leaves what this can set right:

- A snapshot of a database that was dropped: the log says so, or ``$admin`` no longer names it.
  It is removed, at this start and at every later one that finds it.
- A database younger than the snapshot of ``$admin``, with or without a snapshot of its own.
- A snapshot with some entries later than its index: replaying leaves them as they are.

What a crash cannot leave stops the start, because going on would lose writes in silence: a log
that ends before what a snapshot holds or begins after it, and a database without its snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter

from twisted.internet.defer import Deferred, maybeDeferred

from nuntwist.core.catalogue import NAMED, Catalogue
from nuntwist.core.database import MASK, SHARDS, Database
from nuntwist.errors import StartError
from nuntwist.interfaces import IOplog, IStorage, SnapshotHeader
from nuntwist.values import (
    ADMIN_ID,
    CREATE_DATABASE,
    DATABASE,
    DROP_DATABASE,
    IN_RESOLUTION,
    INDEX,
    KEY,
    KIND,
    VALUE,
    VERSION,
    Op,
)

_index = itemgetter(INDEX)


class Recovery:
    """One recovery.

    :param catalogue: new; filled here.
    :param oplog: open.
    :param storage: open.
    """

    def __init__(self, catalogue: Catalogue, oplog: IOplog, storage: IStorage) -> None:
        self._catalogue = catalogue
        self._oplog = oplog
        self._storage = storage
        self._gone: set[int] = set()

    def run(self) -> Deferred[int]:
        """Recover.

        :return: fires with how many operations were replayed; fails with CorruptData or
            StartError, and then nothing on the disk was changed.
        """
        loaded = maybeDeferred(self._storage.load, self._restore, self._load)
        return loaded.addCallback(lambda _: self._go_on())

    def _go_on(self) -> int:
        replayed = self._replay()
        self._check_snapshots()
        self._catalogue.relist()
        for database in self._catalogue.by_id.values():
            _mend_conflicts(database)
        for number in sorted(self._gone):
            # Whatever comes of it: the log or $admin says at the next start that it is gone.
            self._storage.drop(number)
        return replayed

    # -- snapshots ---------------------------------------------------------------------------

    def _restore(self, header: SnapshotHeader) -> None:
        admin = self._catalogue.admin
        self._check_end(header.index, header.name)
        if admin.saved_index >= header.database_id and not self._catalogue.is_listed(
            header.database_id, header.name
        ):
            # Dropped before the snapshot of $admin was begun; only the file was left.
            self._gone.add(header.database_id)
            return
        if header.database_id == ADMIN_ID:
            database = admin
        else:
            database = self._catalogue.restore(header.database_id, header.name, header.strategy)
        database.saved_index = database.last_index = header.index

    def _load(self, entries: Sequence[Op]) -> None:
        if not entries or entries[0][DATABASE] in self._gone:
            return
        database = self._catalogue.by_id[entries[0][DATABASE]]
        self._check_end(max(map(_index, entries)), database.name)
        shards = database.shards
        for op in entries:
            key = op[KEY]
            if key[:1] == b"$":
                database.store(op)
            else:
                shards[hash(key) & MASK][key] = op

    def _check_end(self, index: int, name: bytes) -> None:
        """Refuse a log that ends before what a snapshot holds: it would give the same
        indexes again, and recovery would take new operations for old ones.

        :raise StartError: it does.
        """
        last = self._oplog.last.index
        if index > last:
            raise StartError(
                f"The log ends at operation {last}, but the snapshot of the database"
                f" {name.decode()} has operation {index}: the end of the log is missing."
                " Nothing was changed; restore the whole data directory from a backup."
            )

    def _check_begin(self, covered: int) -> None:
        """Refuse a log that begins beyond what the snapshots cover.

        :raise StartError: it does.
        """
        first = self._oplog.first
        if first > covered + 1:
            raise StartError(
                f"The log begins with operation {first}, but the snapshots cover no more than"
                f" operation {covered}: a snapshot or the beginning of the log is missing."
                " Nothing was changed; restore the whole data directory from a backup."
            )

    # -- the log -----------------------------------------------------------------------------

    def _replay(self) -> int:
        catalogue, replayed = self._catalogue, 0
        by_id = catalogue.by_id
        covered = max(0, catalogue.admin.saved_index)
        self._check_begin(covered)
        for ops in self._oplog.read(covered):
            for op in ops:
                kind, database = op[KIND], by_id.get(op[DATABASE])
                if kind == DROP_DATABASE:
                    catalogue.apply(op)
                    self._gone.add(op[DATABASE])
                    replayed += 1
                elif kind == CREATE_DATABASE:
                    if database is None:
                        catalogue.apply(op)
                        replayed += 1
                elif database is not None and op[INDEX] > database.saved_index:
                    held = database.find(op[KEY])
                    if held is None or held[INDEX] < op[INDEX]:
                        catalogue.apply(op)
                        replayed += 1
        return replayed

    def _check_snapshots(self) -> None:
        """Refuse to go on without a database that ``$admin`` names: it was older than the
        snapshot of ``$admin``, so it had one of its own, and what came before is only there.

        :raise StartError: there is one.
        """
        for name, index in self._names_without_database():
            ops: Sequence[Op] = next(iter(self._oplog.read(index - 1)), ())
            # A client may have written such a key; the log knows, where it reaches so far back.
            if ops and ops[0][KIND] == CREATE_DATABASE and ops[0][KEY] == name:
                way = ", or move all its *.snapshot files away: then all is read from the log"
                raise StartError(
                    f"The snapshot of the database {name.decode()}, number {index}, is missing."
                    " Nothing was changed; restore the data directory from a backup"
                    f"{way if self._oplog.first == 1 else ''}."
                )

    def _names_without_database(self) -> Iterator[tuple[bytes, int]]:
        catalogue = self._catalogue
        for shard in range(SHARDS):
            for op in catalogue.admin.entries(shard):
                if op[VALUE] == NAMED and op[INDEX] not in catalogue.by_id:
                    yield op[KEY], op[INDEX]


def _mend_conflicts(database: Database) -> None:
    """Put open conflicts in their order, and find the version of a key before its first one:
    a snapshot keeps neither, but the first conflict key, which arbiters are sent, tells it."""

    def age(key: bytes) -> int:
        entry = database.find(key)
        return 0 if entry is None else entry[INDEX]

    for pending in database.conflicts.values():
        pending.sort(key=age)
    in_order = sorted(database.conflicts.items(), key=lambda item: age(item[1][0]))
    database.conflicts = dict(in_order)
    for key, pending in in_order:
        entry = database.find(key)
        if entry is None or entry[VERSION] != IN_RESOLUTION or key in database.version_before:
            continue
        # resolve NUMBER DATABASE VERSION KEY OLD NEW
        words = (database.value(pending[0]) or b"").split(b" ", 4)
        if len(words) == 5 and words[3].isdigit():
            database.version_before[key] = int(words[3])
