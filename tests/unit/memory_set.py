"""A replica set in memory: real nodes, and real bytes between them, on one clock."""

from __future__ import annotations

import random
from collections.abc import Callable

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from nuntwist.cluster.bargains import Bargains
from nuntwist.cluster.belonging import Terms
from nuntwist.cluster.comparing import Comparing
from nuntwist.cluster.effects import Timing
from nuntwist.cluster.elections import BULLY
from nuntwist.cluster.forwards import Forwards
from nuntwist.cluster.handshake import Accepting, Connecting, Self
from nuntwist.cluster.identity import Identity
from nuntwist.cluster.member import Member
from nuntwist.cluster.overview import Overview
from nuntwist.cluster.serving import Serving
from nuntwist.cluster.states import State
from nuntwist.core.concern import PRIMARY, Concern
from nuntwist.core.following import Following
from nuntwist.core.limits import Limits
from nuntwist.core.state_hash import EVERY
from nuntwist.files import MemoryFiles
from nuntwist.interfaces import IElectionKind, IOplog
from nuntwist.net.peer import PeerProtocol
from nuntwist.oplog.flushed import FlushedOplog
from nuntwist.oplog.segments import FileOplog
from nuntwist.storage.disk import DiskStorage
from nuntwist.testing import HeapClock, MemoryNode, MemoryTransport
from nuntwist.values import Epoch
from tests.unit.lost import Threads

KEY = b"k" * 32


class Elsewhere:
    """The member elects."""

    def start(self, elected: Callable[[Epoch], None]) -> None:
        """Nothing to do."""


class Pipe(MemoryTransport):
    """One end of a connection with a delay."""

    def __init__(self, set_: MemorySet, place: int) -> None:
        super().__init__()
        self.set, self.place = set_, place
        self.protocol: PeerProtocol | None = None
        self.other: Pipe | None = None
        self.open, self.deaf = True, False
        self.lose = self.hang_up

    def write(self, data: bytes) -> None:
        """Let it arrive, unless the way is cut."""
        other = self.other
        assert other is not None
        self.set.clock.callLater(self.set.delay, other.arrive, data, self.place)

    def arrive(self, data: bytes, sender: int) -> None:
        """Bytes come, in the order they were sent; behind what was lost nothing comes any more."""
        self.deaf = self.deaf or (sender, self.place) in self.set.cut
        if self.open and self.protocol is not None and not self.deaf:
            self.protocol.dataReceived(data)
            self.set.arrived(sender, self.place)

    def hang_up(self) -> None:
        """Both ends are told, behind all that was sent."""
        self.set.clock.callLater(self.set.delay, self.end)
        if self.other is not None:
            self.set.clock.callLater(self.set.delay, self.other.end)

    def end(self) -> None:
        """The connection is gone."""
        if self.open and self.protocol is not None:
            self.open = False
            self.protocol.connectionLost(Failure(ConnectionDone()))


class MemorySet:
    """Some nodes that are members of one set, connected.

    :ivar cut: pairs of nodes between which nothing arrives in that direction.
    :ivar delay: of every message, in seconds.
    :ivar files: where each node keeps its epoch.
    :ivar disks: where each has its log and its snapshots; ``threads`` flush the log there.
    :ivar arrived: called when a node has taken bytes, with the ids of the sender and the receiver.
    :param check_every: positions from one check of the state to the next.
    :param durability: of all nodes: ``os`` or ``disk``.
    :param kind: makes the elections, and ``fixed`` is the node that they may heed.
    """

    def __init__(
        self,
        size: int = 3,
        seed: int = 1,
        durability: str = "os",
        limits: Limits | None = None,
        concern: Concern | None = None,
        kind: IElectionKind = BULLY,
        fixed: int | None = None,
        check_every: int = EVERY,
    ) -> None:
        self.kind = kind
        self.check_every = check_every
        self.fixed = None if fixed is None else f"node-{fixed}:3014"
        self.concern = concern or Concern(PRIMARY, 1000)
        self.durability, self.limits = durability, limits
        self.clock = HeapClock()
        self.chance = random.Random(seed)
        self.timing = Timing()
        self.delay = 0.001
        self.cut: set[tuple[int, int]] = set()
        self.arrived: Callable[[int, int], None] = lambda sender, receiver: None
        self.ids = list(range(1, size + 1))
        self.files: dict[int, MemoryFiles] = {}
        self.disks: dict[int, MemoryFiles] = {}
        self.threads: dict[int, Threads] = {}
        self.nodes: dict[int, MemoryNode] = {}
        self.members: dict[int, Member] = {}
        self.forwards: dict[int, Forwards] = {}
        self.bargains: dict[int, Bargains] = {}
        self.comparing: dict[int, Comparing] = {}
        self.names: dict[int, str] = {}
        self.pipes: dict[tuple[int, int], Pipe] = {}
        for me in self.ids:
            self.start(me)
        for me in self.ids:
            for other in self.ids[me:]:
                self.connect(me, other)

    def start(self, me: int) -> None:
        """Begin a node, with what its disk holds."""
        files = self.files.setdefault(me, MemoryFiles())
        disk = self.disks.setdefault(me, MemoryFiles())
        threads = self.threads[me] = Threads()
        oplog: IOplog = FileOplog(disk, me, threads)
        if self.durability == "disk":
            oplog = FlushedOplog(oplog, before_answers=True)
        node = MemoryNode(
            oplog,
            DiskStorage(disk, threads),
            self.limits,
            clock=self.clock,
            election=Elsewhere(),
            in_set=True,
        )
        following = Following(node.node)
        identity = Identity(files, self.chance)
        identity.node_id = me
        self.nodes[me] = node
        self.members[me] = Member(
            identity,
            following,
            node.oplog,
            self.clock,
            self.timing,
            self.chance,
            started=int(1_000 * self.clock.seconds()) + me,
            terms=Terms(f"node-{me}:3014", len(self.ids), fixed=self.fixed),
            kind=self.kind,
        )
        serving = Serving(
            *(self.members[me], node.node, following, disk, self.timing.round, self.concern),
            self.check_every,
        )
        self.comparing[me] = serving.comparing
        self.forwards[me], self.bargains[me] = serving.forwards, serving.bargains
        catalogue = node.node.catalogue
        node.node.replica_set = Overview(
            self.members[me],
            node.oplog,
            [f"node-{other}:3014" for other in self.ids if other != me],
            lambda address: self.reach(me, address),
            lambda number: catalogue.by_id[number].name.decode(),
            serving.comparing,
        )
        self.members[me].start()

    def reach(self, me: int, address: str) -> None:
        """A node wants a connection with whoever is at an address."""
        for other in self.members:
            if other != me and self.names.get(other, f"node-{other}:3014") == address:
                self.connect(me, other)

    def connect(self, one: int, other: int) -> None:
        """Make the first connect to the second."""
        pipes = Pipe(self, one), Pipe(self, other)
        pipes[0].other, pipes[1].other = pipes[1], pipes[0]
        for pipe, side in zip(pipes, (Connecting, Accepting), strict=True):
            me = Self(pipe.place, 0, self.names.get(pipe.place, f"node-{pipe.place}:3014"))
            pipe.protocol = PeerProtocol(
                side(me, KEY, self.chance),
                self.members[pipe.place],
                self.clock,
                self.timing.beat,
                2 * self.timing.suspicion,
            )
        for pipe in pipes:
            assert pipe.protocol is not None
            pipe.protocol.makeConnection(pipe)
            self.pipes[pipe.place, pipe.other.place if pipe.other else 0] = pipe

    def run(self, seconds: float) -> None:
        """Let time go by."""
        self.clock.advance(seconds)

    def primary(self) -> int:
        """The one that serves."""
        now = self.clock.seconds()
        (one,) = [me for me, member in self.members.items() if member.election.serves(now)]
        return one

    def secondaries(self) -> list[int]:
        """Those that follow it."""
        return [me for me in self.ids if self.members[me].election.state is State.FOLLOWING]

    def isolate(self, node: int) -> None:
        """Nothing comes to a node, nor from it."""
        for other in self.ids:
            self.cut |= {(node, other), (other, node)}

    def restart(self, node: int) -> None:
        """Start a node that was killed, with what it has left on its disk; the others connect."""
        for files in (self.files[node], self.disks[node]):
            files.restart()
        self.start(node)
        for other in self.ids:
            if other != node:
                self.connect(min(node, other), max(node, other))

    def heal(self) -> None:
        """Everything arrives again; who has no connection makes one, as it would by itself."""
        self.cut.clear()
        for one in self.ids:
            for other in self.ids:
                if one < other and other not in self.members[one].links:
                    self.connect(one, other)

    def kill(self, node: int) -> None:
        """End a node; the others are told by their sockets."""
        self.members[node].stop()
        # What its threads have under way comes to no end.
        self.threads[node].hold = True
        for (one, other), pipe in self.pipes.items():
            if node in (one, other):
                pipe.end()
