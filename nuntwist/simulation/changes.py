"""Nodes that join a set, leave it and are replaced while everything else goes on.

An operator makes one change at a time, and waits for it to be done: more than a minority at once
would be lost for good, and no set survives that. So a member leaves only where three are left, and
one whose disk is lost is a member of three or more whose last change is committed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from nuntwist.simulation.network import Way
from nuntwist.simulation.process import Process
from nuntwist.simulation.reader import Asking
from nuntwist.testing import PASSWORD, USER

if TYPE_CHECKING:
    from nuntwist.simulation.cluster import Cluster
    from nuntwist.simulation.node import SimulatedNode

OPERATOR: Final = 99
"""The place of the operator in the network."""
LOOK_SECONDS: Final = 0.5
"""How often it is seen whether a change is done."""


class Changes:
    """The changes of one set.

    :param later: calls after some seconds, unless the faults have ended by then.
    :ivar under_way: whether there is one.
    """

    def __init__(
        self,
        cluster: Cluster,
        chance: random.Random,
        later: Callable[[float, Callable[[], object]], object],
    ) -> None:
        self._cluster = cluster
        self._chance = chance
        self._later = later
        self.under_way = False

    def _settled(self) -> bool:
        """Whether a primary has all who are there as members, and a majority knows."""
        primary = self._cluster.primary()
        if primary is None or self.under_way:
            return False
        reign = primary.member.reign
        members = self._cluster.members()
        return (
            reign is not None
            and reign.is_settled
            and len(members) == len(reign.membership.members) >= 3
        )

    def join(self) -> None:
        """A new node is started, which was told of those that are there."""
        cluster = self._cluster
        if len(cluster.nodes) >= cluster.plan.nodes + cluster.plan.spare or self.under_way:
            return
        node = cluster.add([node.address for node in cluster.living])
        cluster.note(f"FAULT join {node.place}")
        cluster.restart(node)
        self._wait_for(node)

    def replace(self) -> None:
        """The machine of a node is lost, and a new one with empty disks takes its address."""
        cluster = self._cluster
        if not self._settled():
            return
        old = self._chance.choice(cluster.members())
        cluster.note(f"FAULT replace {old.place}")
        if old.running:
            old.crash()
        elif old.stopping:
            return
        new = cluster.replace(old)
        self.under_way = True
        self._later(self._chance.uniform(0.0, 3.0), lambda: self._start(new))

    def _start(self, new: SimulatedNode) -> None:
        self._cluster.restart(new)
        self._wait_for(new)

    def _wait_for(self, node: SimulatedNode) -> None:
        self.under_way = True

        def look() -> None:
            if node in self._cluster.members():
                self.under_way = False
            else:
                self._later(LOOK_SECONDS, look)

        self._later(LOOK_SECONDS, look)

    def leave(self) -> None:
        """An operator takes a member out, and stops it once that is answered."""
        cluster = self._cluster
        if not self._settled() or len(cluster.members()) < 4:
            return
        node = self._chance.choice(cluster.members())
        primary = cluster.primary()
        assert primary is not None
        cluster.note(f"FAULT leave {node.place}")
        node.asked_out = self.under_way = True
        process = Process(cluster.clock)

        def answered() -> None:
            self.under_way = False
            # Where nobody answers it may be in or out.
            if not asking.failed and asking.answers[-1] == "ok \n":
                cluster.note(f"left {node.place}")
                self._later(0.5, lambda: self._stop(node))

        way = Way(cluster.network, OPERATOR, process, primary.address)
        commands = [f"auth {USER} {PASSWORD}", f"leave {node.address}"]
        asking = Asking(way, commands, answered)
        self._later(8.0, asking.give_up)

    def _stop(self, node: SimulatedNode) -> None:
        if node.running and not node.stopping:
            node.crash()
        node.gone = True
