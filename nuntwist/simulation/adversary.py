"""What goes wrong, and when: drawn from a seed.

A fault that has begun ends by itself after a while, or when all is healed. Any number can be
there at once; safety must hold under all of them, and what is asked of liveness is that all
works again when they have ended.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Collection
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from twisted.internet.interfaces import IDelayedCall

from nuntwist.core.database import MASK, SHARDS, TOKEN_KEY
from nuntwist.simulation.changes import Changes
from nuntwist.simulation.client import DATABASE
from nuntwist.values import INDEX, KEY

if TYPE_CHECKING:
    from nuntwist.simulation.cluster import Cluster
    from nuntwist.simulation.node import SimulatedNode

BETWEEN: Final = (0.5, 1.0, 2.0, 4.0)
"""Seconds between faults, on average: one of these for a run."""


class Adversary:
    """Makes faults in a set.

    :param faults: the names of those to choose from; the methods ``do_...`` of this class. One
        that is named twice comes twice as often.
    """

    def __init__(self, cluster: Cluster, chance: random.Random, faults: Collection[str]) -> None:
        self._cluster = cluster
        self._chance = chance
        self._faults = sorted(faults)
        self._changes = Changes(cluster, chance, self._later)
        self._over = False
        self._between = chance.choice(BETWEEN)
        self._timers: dict[IDelayedCall, None] = {}

    def start(self) -> None:
        """Begin."""
        if self._faults:
            self._later(self._chance.expovariate(1.0 / self._between), self._make)

    def stop(self) -> None:
        """Make no more; what there is stays until all is healed."""
        self._over = True
        for timer in self._timers:
            if timer.active():
                timer.cancel()
        self._timers.clear()

    def heal(self) -> None:
        """End all faults, and let all nodes run."""
        cluster = self._cluster
        cluster.note("HEAL")
        cluster.network.heal()
        for node in cluster.living:
            node.disk.room = None
            node.disk.failing.clear()
            if node.lives and node.process.paused:
                node.process.go_on()
            if node.running and node.oplog.failed is not None:
                node.crash()
            cluster.restart(node)

    def _later(self, seconds: float, call: Callable[[], object]) -> None:
        if not self._over:
            self._timers[self._cluster.clock.callLater(seconds, call)] = None

    def _for_a_while(self, longest: float, end: Callable[[], object]) -> None:
        self._later(self._chance.uniform(0.05, longest), end)

    def _make(self) -> None:
        name = self._chance.choice(self._faults)
        getattr(self, method_name(name))()
        self._later(self._chance.expovariate(1.0 / self._between), self._make)

    def _note(self, what: str) -> None:
        self._cluster.note(f"FAULT {what}")

    def _node(self) -> SimulatedNode:
        return self._chance.choice(self._cluster.living)

    def _two(self) -> tuple[int, int]:
        one, other = self._chance.sample(self._cluster.places, 2)
        return one, other

    def _cut(self, ways: set[tuple[int, int]], what: str) -> None:
        self._note(what)
        network = self._cluster.network
        network.cut |= ways
        self._for_a_while(8.0, lambda: network.mend(ways))

    # -- the network -------------------------------------------------------------------------

    def do_one_way(self) -> None:
        """Nothing gets from one node to another, but back."""
        way = self._two()
        self._cut({way}, f"cut {way[0]}>{way[1]}")

    def do_isolate(self) -> None:
        """A node reaches no other, and no other reaches it."""
        me = self._node().place
        others = [place for place in self._cluster.places if place != me]
        ways = {(me, other) for other in others} | {(other, me) for other in others}
        self._cut(ways, f"isolate {me}")

    def do_bridge(self) -> None:
        """Two nodes do not reach each other; both reach the others."""
        one, other = self._two()
        self._cut({(one, other), (other, one)}, f"cut {one}<>{other}")

    def do_slow(self) -> None:
        """One direction is slow."""
        way, network = self._two(), self._cluster.network
        low = self._chance.uniform(0.0, 0.3)
        self._note(f"slow {way[0]}>{way[1]} {low:.3f}")
        network.delays[way] = low, 2 * low
        self._for_a_while(5.0, lambda: network.delays.pop(way, None))

    def do_drop(self) -> None:
        """The connections between two nodes are lost."""
        one, other = self._two()
        self._note(f"drop {one}-{other}")
        self._cluster.network.drop(one, other)
        self._cluster.network.drop(other, one)

    def do_no_links(self) -> None:
        """No connection between two nodes can be made: it is refused, or soon lost again."""
        one, other = self._two()
        self._note(f"no links {one}-{other}")
        network, pair = self._cluster.network, frozenset((one, other))
        network.drop(one, other)
        network.drop(other, one)
        network.unsteady.add(pair)
        self._for_a_while(3.0, lambda: network.unsteady.discard(pair))

    # -- the processes -----------------------------------------------------------------------

    def do_pause(self) -> None:
        """A node stands still."""
        node = self._node()
        if node.running and not node.process.paused:
            self._note(f"pause {node.place}")
            node.process.pause()
            self._for_a_while(3.0, node.process.go_on)

    def do_crash(self) -> None:
        """A process is killed; where the log is flushed before it answers, perhaps the machine."""
        node = self._node()
        if node.running:
            power = node.durability == "disk" and self._chance.random() < 0.5
            self._note(f"{'power' if power else 'crash'} {node.place}")
            node.crash(power_lost=power)
            self._for_a_while(6.0, lambda: self._cluster.restart(node))

    def do_stop(self) -> None:
        """A node is stopped in order, as for a rolling restart."""
        node = self._node()
        if node.running and not node.stopping:
            self._note(f"stop {node.place}")

            def ended() -> None:
                self._cluster.note(f"stopped {node.place}")
                if self._over:
                    self._cluster.restart(node)
                else:
                    self._for_a_while(4.0, lambda: self._cluster.restart(node))

            node.process.run(lambda: node.terminate(ended))

    def do_clock(self) -> None:
        """The wall clock of a node is set."""
        node = self._node()
        node.wall_offset = self._chance.uniform(-60.0, 60.0)
        self._note(f"clock {node.place} {node.wall_offset:.1f}")

    # -- the disks ---------------------------------------------------------------------------

    def do_disk_full(self) -> None:
        """The disk of a node is full."""
        node = self._node()
        if node.disk.room is None:
            node.disk.room = self._chance.randrange(200)
            self._note(f"full {node.place}")
            self._for_a_while(4.0, lambda: setattr(node.disk, "room", None))

    def do_disk_fails(self) -> None:
        """The disk of a node fails to keep what it is given; after that it has to be restarted."""
        node = self._node()
        if not node.disk.failing:
            operation = self._chance.choice(("sync", "write"))
            self._note(f"disk of {node.place} fails to {operation}")
            node.disk.failing[operation] = errno.EIO
            self._for_a_while(3.0, lambda: self._mend(node))

    def _mend(self, node: SimulatedNode) -> None:
        node.disk.failing.clear()
        if node.running and node.oplog.failed is not None:
            self._note(f"restart {node.place}")
            node.crash()
            self._cluster.restart(node)

    def do_corrupt(self) -> None:
        """Two entries change in the memory of a node, and nobody is told: their stamps, which no
        client is shown. One is of a key that clients write, the other of one that nobody does."""
        node = self._node()
        database = node.node.catalogue.by_name.get(DATABASE.encode()) if node.running else None
        if database is None:
            return
        # What is not in the hash yet may be written over before anybody has looked at it.
        hashed = node.replicas.comparing.hashing.state.index
        entries = [op for number in range(SHARDS) for op in database.entries(number)]
        found = [op for op in entries if op[INDEX] <= hashed and op[KEY][:1] != b"$"]
        if found:
            chosen = self._chance.choice(sorted(found, key=itemgetter(INDEX)))
            self._note(f"corrupt {node.place} {chosen[KEY].decode()}")
            self._cluster.invariants.corrupted = True
            for value, version, index, stamp, kind, number, key in entries:
                if key in (chosen[KEY], TOKEN_KEY):
                    other = stamp ^ 1 << self._chance.randrange(48)
                    changed = value, version, index, other, kind, number, key
                    database.shards[hash(key) & MASK][key] = changed

    def do_snapshot(self) -> None:
        """An operator takes a snapshot, and lets the log drop what it covers."""
        node = self._node()
        if node.running and not node.stopping:
            self._note(f"snapshot {node.place}")
            node.process.run(node.snapshot)

    # -- who is in the set -------------------------------------------------------------------

    def do_join(self) -> None:
        """A new node joins."""
        self._changes.join()

    def do_leave(self) -> None:
        """A member is taken out, and stopped."""
        self._changes.leave()

    def do_replace(self) -> None:
        """A member is lost with its disks, and a new one takes its place."""
        self._changes.replace()


def method_name(fault: str) -> str:
    """``one-way`` is made by ``do_one_way``."""
    return "do_" + fault.replace("-", "_")


FAULTS: Final = tuple(
    sorted(name[3:].replace("_", "-") for name in vars(Adversary) if name.startswith("do_"))
)
"""All there are."""
