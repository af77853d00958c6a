"""A simulated set without an adversary: whole nodes on one clock, told what to do by a test."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from nuntwist.cluster.states import State
from nuntwist.config import NodeConfig
from nuntwist.simulation.network import Network, Way
from nuntwist.simulation.node import SimulatedNode, address_of
from nuntwist.simulation.process import Process
from nuntwist.simulation.reader import ask
from nuntwist.testing import PASSWORD, USER, HeapClock

CLIENT = 100


class QuietSet:
    """Some nodes; none runs at first.

    :param seed: of all chance.
    :param settings: of all nodes.
    """

    def __init__(self, size: int = 3, seed: int = 1, **settings: object) -> None:
        self.clock = HeapClock()
        self.network = Network(self.clock, random.Random(f"{seed} network"), lambda line: None)
        self.places = list(range(1, size + 1))
        told = tuple(address_of(place) for place in self.places)
        config = replace(NodeConfig(replicate_addresses=told), **settings)  # type: ignore[arg-type]  # any setting
        self.nodes = {
            place: SimulatedNode(
                place,
                replace(config, external_address=address_of(place)),
                self.network,
                random.Random(f"{seed} {place}"),
                lambda: Process(self.clock),
            )
            for place in self.places
        }

    def start(self, *places: int) -> None:
        """Start some, at the same moment; all if none is named."""
        for place in places or self.places:
            self.nodes[place].start()

    def run(self, seconds: float) -> None:
        """Let time go by."""
        self.clock.advance(seconds)

    def until(self, holds: Callable[[], object], limit: float = 30.0) -> float:
        """Let time go by until something holds; gives how many seconds that took."""
        began = self.clock.seconds()
        while not holds():
            assert self.clock.seconds() < began + limit, f"waited {limit:g} s in vain"
            self.clock.advance(0.01)
        return self.clock.seconds() - began

    def form(self) -> int:
        """Start all, and wait until they are one set; gives the primary."""
        self.start(1)
        self.until(self.primaries)
        self.start(*self.places[1:])
        self.until(self.is_formed)
        return self.primaries()[0]

    # -- how it is ---------------------------------------------------------------------------

    def running(self) -> list[SimulatedNode]:
        """Those that run."""
        return [node for node in self.nodes.values() if node.running]

    def primaries(self) -> list[int]:
        """Those that take themselves for the primary."""
        return [n.place for n in self.running() if n.member.election.state is State.PRIMARY]

    def is_formed(self) -> bool:
        """Whether all that run are members, follow the same primary and have the same log."""
        members = [node.member for node in self.running()]
        return (
            len(self.primaries()) == 1
            and all(len(m.belonging.membership.members) == len(self.places) for m in members)
            and all(m.belonging.hello().formed for m in members)
            and len({(m.election.number, m.election.primary, m.oplog.last) for m in members}) == 1
            and members[0].election.primary is not None
        )

    def epochs(self) -> list[int]:
        """Which epoch each one that runs is in."""
        return [node.member.election.number for node in self.running()]

    def turns(self) -> list[list[str]]:
        """The transitions on each that runs, as ``debug elections`` shows them."""
        return [list(node.member.diary.lines) for node in self.running()]

    # -- clients -----------------------------------------------------------------------------

    def ask(self, place: int, *commands: str) -> list[str]:
        """What a node answers an admin, but for its log in; time goes on until it has."""
        process = Process(self.clock)
        way = Way(self.network, CLIENT, process, address_of(place))
        given: Sequence[str] = (f"auth {USER} {PASSWORD}", *commands)
        answers = ask(self.clock, way, given)
        process.end()
        return answers[1:]
