"""A node: its databases, its log, its snapshots, and the road through them, put together.

Everything it needs of the world is an argument, so a test builds one on a Clock with a log in
memory, and ``nuntwist.service`` builds the same on a reactor with files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger

from nuntwist.core.catalogue import Catalogue
from nuntwist.core.client import Client
from nuntwist.core.counters import Counters, NodeInfo
from nuntwist.core.database import MASK
from nuntwist.core.handlers import HANDLERS
from nuntwist.core.limits import Limits
from nuntwist.core.pipeline import Pipeline
from nuntwist.core.snapshots import Snapshots
from nuntwist.errors import StartError
from nuntwist.interfaces import IElection, IOplog, ISecrets, IStorage, SnapshotHeader
from nuntwist.values import (
    ADMIN_ID,
    CREATE_DATABASE,
    DATABASE,
    DROP_DATABASE,
    INDEX,
    KEY,
    KIND,
    VALUE,
    Epoch,
    Op,
    StampClock,
)

_index = itemgetter(INDEX)


class Node:
    """One node of a replica set; alone, the whole of it.

    :param info: who it is.
    :param oplog: open.
    :param storage: open.
    :param wall: wall time in seconds since 1970; dates operations, decides nothing.
    :param call_later: IReactorTime.callLater.
    :param seconds: monotonic time, in seconds.
    :param call_at_end: as for the pipeline.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        info: NodeInfo,
        oplog: IOplog,
        storage: IStorage,
        secrets: ISecrets,
        election: IElection,
        wall: Callable[[], float],
        call_later: Callable[..., Any],
        seconds: Callable[[], float],
        limits: Limits | None = None,
        call_at_end: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self.info = info
        self.oplog = oplog
        self.storage = storage
        self.secrets = secrets
        self.election = election
        self.limits = limits or Limits()
        self.counters = Counters()
        self.catalogue = Catalogue()
        self.stamps = StampClock(wall)
        self.pipeline = Pipeline(
            catalogue=self.catalogue,
            oplog=oplog,
            stamps=self.stamps,
            call_later=call_later,
            seconds=seconds,
            limits=self.limits,
            counters=self.counters,
            call_at_end=call_at_end,
        )
        self.pipeline.handlers = {
            word: partial(handler, self) for word, handler in HANDLERS.items()
        }
        self.snapshots = Snapshots(self.catalogue, storage, self.pipeline)

    # -- the start ---------------------------------------------------------------------------

    def recover(self) -> Deferred[int]:
        """Load the snapshots, then replay what the log has beyond them.

        :return: fires with how many operations were replayed; fails with CorruptData or StartError.
        """
        self._gone: set[int] = set()
        loaded = maybeDeferred(self.storage.load, self._restore, self._load)
        return loaded.addCallback(lambda _: self._replay())

    def _restore(self, header: SnapshotHeader) -> None:
        admin = self.catalogue.admin
        self._check_end(header.index, header.name)
        if admin.saved_index >= header.database_id and not self.catalogue.is_listed(
            header.database_id, header.name
        ):
            # Dropped before the snapshot of $admin was begun; only the file was left.
            self._gone.add(header.database_id)
            return
        if header.database_id == ADMIN_ID:
            database = admin
        else:
            database = self.catalogue.restore(header.database_id, header.name, header.strategy)
        database.saved_index = database.last_index = header.index

    def _load(self, entries: Sequence[Op]) -> None:
        if not entries or entries[0][DATABASE] in self._gone:
            return
        database = self.catalogue.by_id[entries[0][DATABASE]]
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
        last = self.oplog.last.index
        if index > last:
            raise StartError(
                f"The log ends at operation {last}, but the snapshot of the database"
                f" {name.decode()} has operation {index}: the end of the log is missing."
                " Nothing was changed; restore the whole data directory from a backup."
            )

    def _replay(self) -> int:
        catalogue, replayed = self.catalogue, 0
        by_id = catalogue.by_id
        for ops in self.oplog.read(max(0, catalogue.admin.saved_index)):
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
        catalogue.relist()
        for number in sorted(self._gone):
            # Whatever comes of it: the log or $admin says at the next start that it is gone.
            self.storage.drop(number)
        self.stamps.observe(self.oplog.last_stamp)
        return replayed

    def start(self) -> None:
        """Stand for election; alone, that is to become primary."""
        self.election.start(self._elected)

    def _elected(self, epoch: Epoch) -> None:
        self.pipeline.commit()
        self.pipeline.journal.epoch = epoch
        self.info.role = "Primary"
        self._log.info(
            "this node is primary in epoch {number} at index {index}",
            number=epoch.number,
            index=self.pipeline.journal.index,
        )

    def stand_again(self) -> None:
        """Stand for election anew."""
        self.election.start(self._elected)

    # -- what handlers tell ------------------------------------------------------------------

    def tell_catalogue(self, name: bytes) -> None:
        """A database came or went: tell those who watch its key in ``$admin``."""
        admin = self.catalogue.admin
        entry = admin.find(name)
        if entry is None:
            gone: Op = (None, -1, 0, 0, DROP_DATABASE, ADMIN_ID, name)
            self.pipeline.notify(admin, gone)
        elif entry[VALUE] is not None:
            self.pipeline.notify(admin, entry)

    def note_refused_login(self, client: Client) -> None:
        """Log that somebody gave wrong credentials, without them."""
        self._log.info("wrong credentials from {peer}", peer=client.peer)
