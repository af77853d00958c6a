"""A node of a set, whole, as a process in memory.

Its part in the set is put together by :mod:`nuntwist.replicas`, as for a reactor; its log and its
snapshots are in files in memory that live on when it ends, and its connections are those of the
simulated network.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, execute, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from nuntwist.cluster.afresh import take_log_away
from nuntwist.cluster.identity import Identity
from nuntwist.config import NodeConfig
from nuntwist.core.counters import NodeInfo
from nuntwist.core.installing import begin_afresh
from nuntwist.core.limits import Limits
from nuntwist.core.node import Node
from nuntwist.errors import CommandError
from nuntwist.files import MemoryFiles
from nuntwist.interfaces import IOplog, ISecrets
from nuntwist.net.guard import make_guard
from nuntwist.net.tcp_port import LineFactory
from nuntwist.oplog.flushed import FlushedOplog
from nuntwist.oplog.segments import FileOplog
from nuntwist.replicas import Replicas, World
from nuntwist.simulation.network import Network, Way
from nuntwist.simulation.process import Process
from nuntwist.storage.disk import DiskStorage
from nuntwist.testing import EPOCH_2026, PASSWORD, USER
from nuntwist.values import Epoch

CHECK_EVERY = 20
"""Positions from one check of the state to the next: so few that each run has many."""
FLUSH = 0.0002, 0.004
"""Seconds that the work of a thread takes, at least and at most."""
CLOSING = 0.3
"""Seconds until the connections of a node that stops are closed."""

GENERATION = 1_000
"""Between the ids of two nodes at the same place."""

_KEY = b"k" * 32


class _Elsewhere:
    """The member elects."""

    def start(self, elected: Callable[[Epoch], None]) -> None:
        """Nothing to do."""


@implementer(ISecrets)
class _QuickSecrets:
    """Tokens are checked here a thousand times a minute, and keep nobody out."""

    nobodys = b"hash:nobody"

    def hash(self, secret: bytes) -> Deferred[bytes]:
        """Fires with the string to store."""
        return succeed(b"hash:" + secret.hex().encode())

    def verify(self, secret: bytes, stored: bytes) -> Deferred[bool]:
        """Fires with whether that is the secret."""
        return succeed(stored == b"hash:" + secret.hex().encode())

    def seal(self, text: bytes) -> Deferred[bytes]:
        """Fires with the string to store."""
        return succeed(b"$sealed$" + text.hex().encode())

    def unseal(self, stored: bytes) -> Deferred[bytes | None]:
        """Fires with what it was made from."""
        return succeed(bytes.fromhex(stored.removeprefix(b"$sealed$").decode()))


class SimulatedNode:
    """One node, and what outlives its process.

    :param place: its number in the network.
    :param config: of the node; what it says of files, ports and credentials is not used.
    :param make_process: gives a new process.
    :ivar process: of now, or the last one.
    :ivar running: whether it runs.
    :ivar lives: how many times it was started.
    :ivar stopping: whether it stops in order just now.
    :ivar gone: whether it will never be started again.
    :ivar asked_out: whether an operator has asked for it to leave.
    :ivar generation: how many have been at its place before it.
    :ivar disk: its data directory, with its log and its snapshots.
    :ivar identity_files: where it keeps its id and its epoch: these are small, so they fit on a
        disk that is full.
    :ivar wall_offset: how far its wall clock is off, in seconds.
    :ivar on_written: is told of records that are written to its log, with the index of the first
        operation.
    :ivar said: what the trace has last said of it.
    """

    def __init__(
        self,
        place: int,
        config: NodeConfig,
        network: Network,
        chance: random.Random,
        make_process: Callable[[], Process],
        limits: Limits | None = None,
    ) -> None:
        self.place = place
        self.address = address_of(place)
        self.durability = config.durability
        self.identity_files = MemoryFiles()
        self.disk = MemoryFiles()
        self.wall_offset = 0.0
        self.running = False
        self.lives = 0
        self.stopping = self.gone = self.asked_out = False
        self.generation = 0
        self.said = ""
        self.on_written: Callable[[int, bytes], None] = lambda first, data: None
        self._config = config
        self._boots = 1
        self._starts = False
        self._network = network
        self._chance = chance
        self._make_process = make_process
        self._limits = limits

    @property
    def node_id(self) -> int:
        """Its id, which can be read; it is random otherwise, and outlives the process."""
        return self.place + self.generation * GENERATION

    @property
    def set_id(self) -> int:
        """Of the set it is in."""
        return self.member.belonging.set_id

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
            identity.node_id = self.node_id
        self._starts = True
        self._make_node(identity)
        self._starts = False
        self._make_replicas(identity)
        self.running = True
        self.replicas.start()
        self.node.desk.start(self.process, self._config.arbiter_seconds)
        self._tell_written()
        process = self.process
        guard = self._guard = make_guard(self.node.counters, process.callLater, process.seconds)
        lines = LineFactory(self.node.pipeline, guard, None, self.replicas.open_door)
        self._lines = lines
        self._network.listen(
            self.address, self.place, self.process, lambda: lines.buildProtocol(None)
        )
        self.replicas.connect()

    def _make_node(self, identity: Identity) -> None:
        process = self.process
        afresh = take_log_away(self.disk, identity)
        limit = self._config.max_oplog_bytes
        oplog: IOplog = FileOplog(self.disk, self.node_id, self._in_thread, limit)
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
            secrets=_QuickSecrets(),
            election=_Elsewhere(),
            wall=self.wall,
            call_later=process.callLater,
            seconds=process.seconds,
            limits=self._limits or Limits(arbiter_window=self._config.arbiter_window),
            in_set=True,
        )
        if afresh:
            begin_afresh(self.node, self.disk)
            return
        failed: list[Failure] = []
        self.node.recover().addErrback(failed.append)
        if failed:
            failed[0].raiseException()

    def _make_replicas(self, identity: Identity) -> None:
        process = self.process
        self.replicas = Replicas(
            self._config,
            self.node,
            identity,
            self.disk,
            process,
            World(
                self._chance,
                lambda address: Way(self._network, self.place, process, address),
                f"boot {self._boots}",
                _KEY,
                CHECK_EVERY,
            ),
        )
        self.member = self.replicas.member

    def _tell_written(self) -> None:
        sent = self.oplog.written

        def written(first: int, last: int, data: bytes) -> None:
            self.on_written(first, data)
            sent(first, last, data)

        self.oplog.written = written

    def crash(self, power_lost: bool = False) -> None:
        """The process ends, as killed; or the machine, and what was not flushed is gone."""
        self.running = self.stopping = False
        self._boots += power_lost
        self.process.end()
        self._network.hang_up(self.place)
        for files in (self.identity_files, self.disk):
            files.restart(power_lost=power_lost)

    def terminate(self, ended: Callable[[], None]) -> None:
        """Stop in order, as after SIGTERM: another node is primary first.

        :param ended: is called when nothing is left of it but its files.
        """
        process, self.stopping = self.process, True

        def close() -> None:
            self.close()
            process.end()
            for files in (self.identity_files, self.disk):
                files.restart()
            self.stopping = False
            ended()

        def handed_over(_: object) -> None:
            self.stop()
            process.callLater(CLOSING, close)

        self.replicas.hand_over().addCallback(handed_over)

    def stop(self) -> None:
        """Stop in order. After a moment nothing is left of it but its files."""
        self._lines.finish_all()
        self.replicas.stop()
        self.node.desk.stop()
        self.node.snapshots.wait_no_more()
        self.running = False

    def close(self) -> None:
        """The end of an orderly stop."""
        self._guard.stop()
        self._network.hang_up(self.place)
        self.oplog.close()
        self.replicas.note_stopped()

    def snapshot(self) -> None:
        """Take a snapshot, and let the log drop what it covers, as an operator may ask for."""
        node = self.node
        taken = node.snapshots.take_changed()
        taken.addCallback(lambda _: node.pipeline.journal.forget(node.snapshots.covered(), 0))
        taken.addErrback(lambda reason: reason.trap(CommandError))


def address_of(place: int) -> str:
    """Where a node is."""
    return f"node-{place}:3014"
