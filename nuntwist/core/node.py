"""A node: its databases, its log, its snapshots, and the road through them, put together.

Everything it needs of the world is an argument, so a test builds one on a Clock with a log in
memory, and ``nuntwist.service`` builds the same on a reactor with files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.core.backup import Backup
from nuntwist.core.catalogue import Catalogue
from nuntwist.core.client import Client
from nuntwist.core.counters import Counters, NodeInfo
from nuntwist.core.database import Database
from nuntwist.core.desk import Desk
from nuntwist.core.enact import enact
from nuntwist.core.foreign_stamps import ForeignStamps
from nuntwist.core.handlers import HANDLERS
from nuntwist.core.keyring import Keyring
from nuntwist.core.limits import Limits
from nuntwist.core.logins import Logins
from nuntwist.core.pipeline import Pipeline
from nuntwist.core.quota import TELL_SECONDS
from nuntwist.core.recovery import Recovery
from nuntwist.core.removals import LateRemovals
from nuntwist.core.replica_set import ReplicaSet
from nuntwist.core.restore import Restore
from nuntwist.core.snapshots import Snapshots
from nuntwist.core.transfers import Transfers
from nuntwist.core.undo import Undo
from nuntwist.errors import CommandError
from nuntwist.interfaces import IOplog, ISecrets, IStorage
from nuntwist.values import ADMIN_ID, DROP_DATABASE, VALUE, Epoch, Op, StampClock


class Winning(Protocol):
    """What makes a node that has no part in a set primary; in a set its election does."""

    def start(self, elected: Callable[[Epoch], None]) -> None:
        """Win a new epoch, each time it is called.

        :param elected: is called with it when it is on the disk.
        :raise StartError: it could not be kept.
        """


class Node:
    """One node of a replica set; alone, the whole of it.

    :param info: who it is.
    :param oplog: open.
    :param storage: open.
    :param wall: wall time in seconds since 1970; dates operations, decides nothing.
    :param call_later: IReactorTime.callLater.
    :param seconds: monotonic time, in seconds.
    :param call_at_end: as for the pipeline.
    :param elsewhere: as for the recovery.
    :param in_set: whether it is a node of a set, which may have to take back what it has
        recovered.
    :ivar replica_set: the set it is in; None for a node alone.
    :ivar desk: knows which arbiter decides what.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        info: NodeInfo,
        oplog: IOplog,
        storage: IStorage,
        secrets: ISecrets,
        election: Winning,
        wall: Callable[[], float],
        call_later: Callable[..., Any],
        seconds: Callable[[], float],
        limits: Limits | None = None,
        call_at_end: Callable[[Callable[[], None]], object] | None = None,
        elsewhere: bool = False,
        in_set: bool = False,
    ) -> None:
        self._elsewhere = elsewhere
        self.info = info
        self.oplog = oplog
        self.storage = LateRemovals(storage, oplog)
        self.secrets = secrets
        self.keyring = Keyring(secrets)
        self.election = election
        self.replica_set: ReplicaSet | None = None
        self.limits = limits or Limits()
        self.counters = Counters()
        self.catalogue = Catalogue(self.limits.quota)
        self.stamps = StampClock(wall)
        self.foreign_stamps = ForeignStamps(self.stamps, self.counters)
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
        self.pipeline.deciding.handlers = {
            word: partial(handler, self) for word, handler in HANDLERS.items()
        }
        self.desk = Desk(self, seconds)
        self.wall = wall
        self.call_later = call_later
        self._seconds = seconds
        self.logins = Logins(self.limits.failed_logins, seconds)
        self.backups: Transfers[Backup] = Transfers("backup", call_later)
        self.restores: Transfers[Restore] = Transfers("restore", call_later)
        self.snapshots = Snapshots(self.catalogue, self.storage, self.pipeline, call_later)
        if in_set:
            self.pipeline.journal.undo = Undo(oplog.last.index, self.limits.undo)

    # -- the start ---------------------------------------------------------------------------

    def recover(self) -> Deferred[int]:
        """Load the snapshots, then replay what the log has beyond them.

        :return: fires with how many operations were replayed; fails with CorruptData or StartError.
        """
        journal = self.pipeline.journal
        recovery = Recovery(self.catalogue, self.oplog, self.storage, self._elsewhere, journal.undo)

        def recovered(replayed: int) -> int:
            journal.index = journal.revealed = self.oplog.last.index
            if journal.undo is not None:
                journal.undo.durable = journal.index
            self.stamps.observe(recovery.last_stamp)
            self.snapshots.note_recovered()
            return replayed

        return recovery.run().addCallback(recovered)

    def start(self) -> None:
        """Stand for election; alone, that is to become primary."""
        self.election.start(self.lead)

    def lead(self, epoch: Epoch) -> None:
        """Be the primary, in an epoch that was won."""
        self.pipeline.commit()
        self.pipeline.journal.epoch = epoch
        self.info.role = "Primary"
        self._log.info(
            "this node is primary in epoch {number} at index {index}",
            number=epoch.number,
            index=self.pipeline.journal.index,
        )
        self.drop_staged(self.catalogue.staged())
        if not self.desk.in_set and not self.desk.leads:
            self.desk.lead()

    def stand_again(self) -> None:
        """Hold an election; alone, that is to win a new epoch."""
        if self.replica_set is None:
            self.election.start(self.lead)
        else:
            self.replica_set.force_election()

    # -- restores ----------------------------------------------------------------------------

    def drop_staged(self, databases: Sequence[Database]) -> None:
        """Drop what a restore has not come to an end with; where that cannot be logged now,
        the next start does it."""
        journal = self.pipeline.journal

        def drop(database: Database) -> Deferred[None]:
            if self.catalogue.by_id.get(database.number) is not database:
                return succeed(None)
            self.pipeline.commit()
            op = journal.make(DROP_DATABASE, database.number, database.name, None)
            return journal.append_alone(op, partial(self._drop, database, op))

        for database in databases:
            journal.alone(partial(drop, database)).addErrback(self._not_dropped)

    def end_transfers(self) -> None:
        """Give up backups and restores: the node stops."""
        self.backups.drop_all()
        self.restores.drop_all()

    def _drop(self, database: Database, op: Op) -> None:
        self._log.info("dropped what an unfinished restore has left")
        enact(self, op)
        self.storage.drop(database.number)

    def _not_dropped(self, reason: Failure) -> None:
        reason.trap(CommandError)
        self._log.error(
            "what is left of an unfinished restore cannot be dropped now, the next start does"
            " it: {error}",
            error=str(reason.value),
        )

    # -- what handlers tell ------------------------------------------------------------------

    def tell_catalogue(self, name: bytes, index: int) -> None:
        """A database came or went by the operation of an index: tell those who watch its key in
        ``$admin``."""
        admin = self.catalogue.admin
        entry = admin.find(name)
        if entry is None:
            gone: Op = (None, -1, index, 0, DROP_DATABASE, ADMIN_ID, name)
            self.pipeline.notify(admin, gone)
        elif entry[VALUE] is not None:
            self.pipeline.notify(admin, entry)

    def note_arbiter_gone(self, client: Client) -> None:
        """Log that a connection resolves conflicts no more, as it has no right to."""
        self._log.warn(
            "the permissions of the arbiter at {peer} were changed: it is sent no more conflicts;"
            " give it the letter a again, or let another one connect",
            peer=client.peer,
        )

    def note_quota(self, database: Database) -> None:
        """Count a write that was refused as its database is full, and log the first one."""
        self.counters.quota_refusals += 1
        usage = database.usage
        if usage is None or usage.full:
            return
        usage.full = True
        now = self._seconds()
        if usage.told_at is not None and now < usage.told_at + TELL_SECONDS:
            # A few keys around a small quota would be a line each.
            return
        usage.told_at = now
        self._log.warn(
            "the database {name} is full, its writes are refused: {keys} keys of {size} bytes"
            " (NUN_MAX_KEYS {most_keys}, NUN_MAX_DATABASE_SIZE {most_size}; 0: any); remove keys"
            " or raise the quota",
            name=database.name.decode(),
            keys=usage.keys,
            size=usage.size,
            most_keys=usage.quota.keys,
            most_size=usage.quota.size,
        )

    def note_refused_login(self, client: Client) -> None:
        """Log that somebody gave wrong credentials, without them."""
        self.counters.failed_logins += 1
        self._log.info("wrong credentials from {peer}", peer=client.peer)
        if self.logins.failed(client.peer):
            self._log.warn(
                "there were {count} failed logins in a row from the address of {peer}: its logins"
                " have to wait now, longer with each failure; if these are your own clients, give"
                " them the right token, or raise NUN_FAILED_LOGINS",
                count=self.limits.failed_logins,
                peer=client.peer,
            )
