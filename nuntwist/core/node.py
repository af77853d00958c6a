"""A node: its databases, its log, its snapshots, and the road through them, put together.

Everything it needs of the world is an argument, so a test builds one on a Clock with a log in
memory, and ``nuntwist.service`` builds the same on a reactor with files.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from nuntwist.core.catalogue import Catalogue
from nuntwist.core.client import Client
from nuntwist.core.counters import Counters, NodeInfo
from nuntwist.core.handlers import HANDLERS
from nuntwist.core.limits import Limits
from nuntwist.core.pipeline import Pipeline
from nuntwist.core.recovery import Recovery
from nuntwist.core.removals import LateRemovals
from nuntwist.core.snapshots import Snapshots
from nuntwist.interfaces import IElection, IOplog, ISecrets, IStorage
from nuntwist.values import ADMIN_ID, DROP_DATABASE, VALUE, Epoch, Op, StampClock


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
        self.storage = LateRemovals(storage, oplog)
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
        self.snapshots = Snapshots(self.catalogue, self.storage, self.pipeline)

    # -- the start ---------------------------------------------------------------------------

    def recover(self) -> Deferred[int]:
        """Load the snapshots, then replay what the log has beyond them.

        :return: fires with how many operations were replayed; fails with CorruptData or StartError.
        """
        recovered = Recovery(self.catalogue, self.oplog, self.storage).run()
        return recovered.addCallback(self._recovered)

    def _recovered(self, replayed: int) -> int:
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
