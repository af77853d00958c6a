"""A node of a set, whole, as a process in memory.

It is put together as :mod:`nuntwist.replicas` and the composition root do it for a reactor, with
its log and snapshots in files in memory that live on when it ends, and connections of the
simulated network.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.python.failure import Failure
from zope.interface import implementer

from nuntwist.cluster.belonging import Terms
from nuntwist.cluster.effects import Timing
from nuntwist.cluster.forwards import Forwards
from nuntwist.cluster.handshake import Self
from nuntwist.cluster.identity import Identity
from nuntwist.cluster.member import Member
from nuntwist.core.counters import NodeInfo
from nuntwist.core.following import Following
from nuntwist.core.limits import Limits
from nuntwist.core.node import Node
from nuntwist.files import MemoryFiles
from nuntwist.interfaces import IElection, IOplog
from nuntwist.net.peering import Doors, Manner, Peering
from nuntwist.net.tcp import LineFactory
from nuntwist.oplog.flushed import FlushedOplog
from nuntwist.oplog.segments import FileOplog
from nuntwist.secrets import ScryptSecrets
from nuntwist.simulation.network import Network, Way
from nuntwist.simulation.process import Process
from nuntwist.storage.disk import DiskStorage
from nuntwist.testing import EPOCH_2026, PASSWORD, USER
from nuntwist.values import Epoch

KEY = b"k" * 32
FLUSH = 0.0002, 0.004
"""Seconds that the work of a thread takes, at least and at most."""


@implementer(IElection)
class _Elsewhere:
    """The member elects."""

    def start(self, elected: Callable[[Epoch], None]) -> None:
        """Nothing to do."""

    def stop(self) -> None:
        """Nothing to do."""


class SimulatedNode:
    """One node, and what outlives its process.

    :param place: its number in the network.
    :param told: the addresses it is told of when it starts, its own included.
    :param make_process: gives a new process.
    :param durability: ``os`` or ``disk``.
    :param by_commit: whether clients are told only of what a majority has.
    :ivar process: of now, or the last one.
    :ivar running: whether it runs.
    :ivar lives: how many times it was started.
    :ivar identity_files: where it keeps its id and its epoch; ``disk`` holds everything else.
    :ivar wall_offset: how far its wall clock is off, in seconds.
    :ivar said: what the trace has last said of it.
    """

    def __init__(
        self,
        place: int,
        told: list[str],
        network: Network,
        chance: random.Random,
        make_process: Callable[[], Process],
        timing: Timing,
        durability: str = "os",
        by_commit: bool = True,
        limits: Limits | None = None,
    ) -> None:
        self.place = place
        self.address = address_of(place)
        self.durability = durability
        self.by_commit = by_commit
        self.identity_files = MemoryFiles()
        self.disk = MemoryFiles()
        self.wall_offset = 0.0
        self.running = False
        self.lives = 0
        self.said = ""
        self._starts = False
        self._told = told
        self._network = network
        self._chance = chance
        self._make_process = make_process
        self._timing = timing
        self._limits = limits

    def wall(self) -> float:
        """Wall time as this node has it."""
        return EPOCH_2026 + self._network.clock.seconds() + self.wall_offset

    def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        if self._starts:
            # It reads its files before anything else happens.
            return execute(function, *arguments)
        done: Deferred[Any] = Deferred()

        def work() -> None:
            execute(function, *arguments).chainDeferred(done)

        self.process.callLater(self._chance.uniform(*FLUSH), work)
        return done

    # -- its life ----------------------------------------------------------------------------

    def start(self) -> None:
        """Begin a process, with what the files hold."""
        self.process = self._make_process()
        self.lives += 1
        identity = Identity(self.identity_files, self._chance)
        if self.lives == 1:
            # Ids that can be read; they are random otherwise, and outlive the process.
            identity.node_id = self.place
        identity.note_start("", self.durability == "disk")
        self._starts = True
        self._make_node()
        self._starts = False
        self._make_member(identity)
        self.running = True
        self.member.start()
        lines = LineFactory(self.node.pipeline, None, self.doors.open)
        self._lines = lines
        self._network.listen(
            self.address, self.place, self.process, lambda: lines.buildProtocol(None)
        )
        self._reach()

    def _make_node(self) -> None:
        process = self.process
        oplog: IOplog = FileOplog(self.disk, self.place, self._in_thread)
        if self.durability == "disk":
            oplog = FlushedOplog(oplog, before_answers=True)
        storage = DiskStorage(self.disk, self._in_thread)
        oplog.open()
        storage.open()
        started = int(self.wall() * 1000.0)
        self.oplog = oplog
        self.node = Node(
            info=NodeInfo(self.address, USER.encode(), PASSWORD.encode(), started),
            oplog=oplog,
            storage=storage,
            secrets=ScryptSecrets(execute, self._chance.randbytes, log_n=1),
            election=_Elsewhere(),
            wall=self.wall,
            call_later=process.callLater,
            seconds=process.seconds,
            limits=self._limits,
            in_set=True,
        )
        failed: list[Failure] = []
        self.node.recover().addErrback(failed.append)
        if failed:
            failed[0].raiseException()

    def _make_member(self, identity: Identity) -> None:
        node, process, timing = self.node, self.process, self._timing
        self.identity = identity
        self.member = Member(
            identity,
            Following(node),
            self.oplog,
            process,
            timing,
            self._chance,
            node.info.process_id,
            Terms(self.address, len(self._told)),
        )
        node.pipeline.journal.by_commit = self.by_commit
        self.forwards = Forwards(self.member, node, timing.round)
        manner = Manner(
            lambda: Self(identity.node_id, self.member.belonging.set_id, self.address),
            KEY,
            self.member,
            process,
            self._chance,
            timing.beat,
            2 * timing.suspicion,
        )
        self.doors = Doors(manner)
        self._peering = Peering(
            manner,
            lambda address: Way(self._network, self.place, process, address),
            lambda other: other in self.member.links,
        )
        self.member.on_addresses = self._reach

    def _reach(self) -> None:
        others = {*self._told, *self.member.belonging.addresses()} - {self.address}
        self._peering.set_addresses(sorted(others))

    def crash(self, power_lost: bool = False) -> None:
        """The process ends, as killed; or the machine, and what was not flushed is gone."""
        self.running = False
        self.process.end()
        self._network.hang_up(self.place)
        for files in (self.identity_files, self.disk):
            files.restart(power_lost=power_lost)

    def stop(self) -> None:
        """Stop in order. After a moment nothing is left of it but its files."""
        self.forwards.stop()
        self.member.stop()
        self._lines.finish_all()
        self._peering.stop()
        self.running = False

    def close(self) -> None:
        """The end of an orderly stop."""
        self._network.hang_up(self.place)
        self.oplog.close()


def address_of(place: int) -> str:
    """Where a node is."""
    return f"node-{place}:3014"
