"""The nodes of a run: those there are at first, and those that come and go.

Everything is on one clock, and all chance comes from the seed. A node has a *place*, which is its
number in the network and gives its address; one that is replaced has a new id and empty files at
the same place. Nodes that are *gone* will never be started again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from nuntwist.errors import StartError
from nuntwist.simulation.invariants import Invariants
from nuntwist.simulation.network import Network, Way
from nuntwist.simulation.node import SimulatedNode, address_of
from nuntwist.simulation.plan import Plan
from nuntwist.simulation.process import Process
from nuntwist.simulation.promises import Violation
from nuntwist.testing import HeapClock

BUSY: Final = 1_000
"""Events of a second, on average of a run, that are taken for an endless loop."""
AGAIN_SECONDS: Final = 0.5
"""Until a node that could not be started is started again."""
CLIENTS: Final = 100
"""Above the places of nodes in the network."""


class Cluster:
    """The nodes of one run.

    :param traced: whether what happens is written down.
    :ivar nodes: by place, from 1 on, whatever has become of them.
    :ivar former: those that were replaced.
    """

    def __init__(self, seed: int, plan: Plan, traced: bool = False) -> None:
        self.seed = seed
        self.plan = plan
        self.clock = HeapClock()
        self.trace: list[str] = []
        self.events = 0
        self._most_events = BUSY * (plan.start_seconds + plan.seconds + plan.rest)
        self._traced = traced
        self.network = Network(self.clock, self.chance("network"), self.note if traced else None)
        self.nodes: list[SimulatedNode] = []
        self.invariants = Invariants(lambda: self.nodes)
        self.former: list[SimulatedNode] = []
        told = [address_of(place) for place in range(1, plan.nodes + 1)]
        for _ in range(plan.nodes):
            self.add(told)

    def chance(self, name: str) -> random.Random:
        """Chance of its own for each part, so that a change of one does not change all others."""
        return random.Random(f"{self.seed} {name}")

    # -- nodes -------------------------------------------------------------------------------

    @property
    def places(self) -> list[int]:
        """Where nodes are that may be there."""
        return [node.place for node in self.nodes if not node.gone]

    @property
    def living(self) -> list[SimulatedNode]:
        """Those that are not gone."""
        return [node for node in self.nodes if not node.gone]

    def add(self, told: list[str]) -> SimulatedNode:
        """One more, which is not started yet.

        :param told: the addresses of the set, as it is told.
        """
        node = self._make(len(self.nodes) + 1, told)
        self.nodes.append(node)
        return node

    def replace(self, old: SimulatedNode) -> SimulatedNode:
        """Put a new node with empty files in the place of one that does not run, for good."""
        old.gone = True
        self.former.append(old)
        told = [address_of(place) for place in self.places if place != old.place]
        new = self._make(old.place, told, old.generation + 1)
        self.nodes[old.place - 1] = new
        self.invariants.restarted(new)
        return new

    def _make(self, place: int, told: list[str], generation: int = 0) -> SimulatedNode:
        def process() -> Process:
            return Process(self.clock, lambda: self._step(node))

        config = replace(
            self.plan.config,
            replicate_addresses=tuple(told),
            external_address=address_of(place),
        )
        chance = self.chance(f"node {place}.{generation}")
        node = SimulatedNode(place, config, self.network, chance, process)
        node.generation = generation
        node.on_written = lambda first, data: self.invariants.written(node, first, data)
        return node

    def restart(self, node: SimulatedNode) -> None:
        """Start a node that has ended."""
        if not node.running and not node.gone and not node.stopping:
            self.note(f"start {node.place}")
            self.invariants.restarted(node)
            try:
                node.start()
            except StartError as error:
                # Whatever keeps processes running tries again.
                self.note(f"node {node.place} does not start: {error}")
                node.crash()
                self.clock.callLater(AGAIN_SECONDS, self.restart, node)

    def primary(self) -> SimulatedNode | None:
        """The one that serves, if it is one."""
        now = self.clock.seconds()
        serving = [n for n in self.nodes if n.running and n.member.election.serves(now)]
        return serving[0] if len(serving) == 1 else None

    def members(self) -> list[SimulatedNode]:
        """The nodes that are in the set, as the primary has it."""
        primary = self.primary()
        if primary is None:
            return []
        members = primary.member.belonging.membership.members
        return [node for node in self.living if node.node_id in members]

    def way_from(self, number: int, process: Process) -> Callable[[int], Way]:
        """How a client reaches the places of nodes."""
        return lambda place: Way(self.network, number, process, address_of(place))

    # -- what happens ------------------------------------------------------------------------

    def note(self, what: str) -> None:
        """Write something down."""
        if self._traced:
            self.trace.append(f"{self.clock.seconds():.6f} {what}")

    def _step(self, node: SimulatedNode) -> None:
        self.events += 1
        if self.events > self._most_events:
            raise Violation(f"{self.events} events: this is an endless loop")
        if not node.running:
            return
        self.invariants.look(node)
        if self._traced:
            election = node.member.election
            said = (
                f"node {node.place} {election.state.name} {election.number} of {election.primary}"
            )
            if said != node.said:
                node.said = said
                self.note(said)
