"""A whole set with its clients under an adversary, from a seed.

Everything is on one clock, and all chance comes from the seed, so that a seed is a run: it does
the same again, step by step, and its trace is the same text. A run goes::

    the nodes start ──▶ a primary; the database is made ──▶ clients, and faults
        ──▶ the faults end, all nodes run ──▶ all are alike ──▶ every key is read once more
        ──▶ everything is stopped, and nothing is left

After each step the :class:`Invariants` are looked at; in the end the history of the clients has to
be linearizable.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from nuntwist.config import NodeConfig
from nuntwist.simulation.adversary import Adversary
from nuntwist.simulation.clients import DATABASE, TOKEN, Watcher, Writer
from nuntwist.simulation.history import GET_SAFE, History
from nuntwist.simulation.invariants import Invariants, Violation
from nuntwist.simulation.linearizability import Report, Verdict, check
from nuntwist.simulation.network import Network, Way
from nuntwist.simulation.node import SimulatedNode, address_of
from nuntwist.simulation.process import Process
from nuntwist.simulation.reader import ask
from nuntwist.testing import PASSWORD, USER, HeapClock

USUAL_FAULTS: Final = (
    *("one-way", "isolate", "bridge", "slow", "drop", "pause", "crash", "clock"),
)
BUSY: Final = 1_000
"""Events of a second, on average of a run, that are taken for an endless loop."""
CLIENTS: Final = 100
"""Above the places of nodes in the network."""


@dataclass(frozen=True)
class Plan:
    """What kind of run it is.

    :ivar apart: seconds between the starts of two nodes.
    :ivar seconds: of faults.
    :ivar rest: seconds at most until all are alike again after that.
    :ivar config: of the nodes, but for their addresses.
    :ivar reads: whether clients read, too, and ask for linearizable reads.
    """

    nodes: int = 3
    writers: int = 4
    watchers: int = 2
    keys: int = 4
    apart: float = 0.01
    seconds: float = 20.0
    rest: float = 30.0
    config: NodeConfig = field(default_factory=lambda: NodeConfig(write_concern="majority"))
    reads: bool = True
    faults: tuple[str, ...] = USUAL_FAULTS


@dataclass
class Outcome:
    """What a run has come to.

    :ivar failure: what was wrong; None where nothing was.
    :ivar operations: answered ones.
    """

    seed: int
    failure: str | None = None
    operations: int = 0
    events: int = 0
    trace: list[str] = field(default_factory=list)
    history: History | None = None
    report: Report | None = None


class Cluster:
    """The nodes of one run.

    :param trace: whether what happens is written down.
    :ivar places: the numbers of the nodes.
    """

    def __init__(self, seed: int, plan: Plan, trace: bool = False) -> None:
        self.seed = seed
        self.plan = plan
        self.clock = HeapClock()
        self.trace: list[str] = []
        self.events = 0
        self._most_events = BUSY * (plan.seconds + plan.rest)
        self._traces = trace
        self.network = Network(self.clock, self._chance("network"), self._note_bytes)
        self.places = list(range(1, plan.nodes + 1))
        self.invariants = Invariants()
        self.history = History()
        told = [address_of(place) for place in self.places]
        self.nodes = [self._make(place, told) for place in self.places]
        self.clients: list[Writer | Watcher] = []

    def _chance(self, name: str) -> random.Random:
        """Chance of its own for each part, so that a change of one does not change all others."""
        return random.Random(f"{self.seed} {name}")

    def _make(self, place: int, told: list[str]) -> SimulatedNode:
        def process() -> Process:
            return Process(self.clock, lambda: self._step(node))

        config = replace(
            self.plan.config,
            replicate_addresses=tuple(told),
            external_address=address_of(place),
        )
        chance = self._chance(f"node {place}")
        node = SimulatedNode(place, config, self.network, chance, process)
        node.on_written = lambda first, data: self.invariants.written(node, first, data)
        return node

    # -- what happens ------------------------------------------------------------------------

    def note(self, what: str) -> None:
        """Write something down."""
        if self._traces:
            self.trace.append(f"{self.clock.seconds():.6f} {what}")

    def _note_bytes(self, what: str) -> None:
        self.note(what)

    def _step(self, node: SimulatedNode) -> None:
        self.events += 1
        if self.events > self._most_events:
            raise Violation(f"{self.events} events: this is an endless loop")
        if node.running:
            before = node.said
            self.invariants.look(node)
            election = node.member.election
            state = f"{election.state.name} {election.number} of {election.primary}"
            node.said = f"node {node.place} {state}"
            if node.said != before:
                self.note(node.said)

    def restart(self, node: SimulatedNode) -> None:
        """Start a node that has ended."""
        if not node.running:
            self.note(f"start {node.place}")
            self.invariants.restarted(node)
            node.start()

    # -- a run -------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """The whole of it."""
        outcome = Outcome(self.seed, trace=self.trace, history=self.history)
        try:
            self._run(outcome)
        except Violation as violation:
            outcome.failure = f"at {self.clock.seconds():.3f} s: {violation}"
        outcome.operations = sum(o.answer is not None for o in self.history.operations)
        outcome.events = self.events
        return outcome

    def _run(self, outcome: Outcome) -> None:
        for node in self.nodes:
            node.start()
            self.clock.advance(self.plan.apart)
        self._until(self._serves, "no primary at the start")
        self._say_at_primary(f"auth {USER} {PASSWORD}", f"create-db {DATABASE} {TOKEN}")
        self._until(self._has_database, "the database is not everywhere")
        adversary = Adversary(self, self._chance("adversary"), self.plan.faults)
        self._start_clients()
        adversary.start()
        self.clock.advance(self.plan.seconds)
        adversary.stop()
        self._heal()
        self.clock.advance(2.0)
        for client in self.clients:
            client.stop()
        self._until(self._are_alike, "not alike")
        self._read_all()
        self._stop()
        report = outcome.report = check(self.history)
        if report.verdict is not Verdict.LINEARIZABLE:
            raise Violation(str(report))

    def _heal(self) -> None:
        self.note("HEAL")
        self.network.heal()
        for node in self.nodes:
            node.disk.room = None
            if node.process.paused:
                node.process.go_on()
            self.restart(node)

    def _until(self, holds: Callable[[], str | None], otherwise: str) -> None:
        end = self.clock.seconds() + self.plan.rest
        while (why := holds()) is not None:
            if self.clock.seconds() >= end:
                raise Violation(f"{otherwise}: {why}")
            self.clock.advance(0.1)

    def primary(self) -> SimulatedNode | None:
        """The one that serves, if it is one."""
        now = self.clock.seconds()
        serving = [n for n in self.nodes if n.running and n.member.election.serves(now)]
        return serving[0] if len(serving) == 1 else None

    def _serves(self) -> str | None:
        primary = self.primary()
        if primary is None:
            return "none"
        members = primary.member.belonging.membership.members
        return None if len(members) == len(self.nodes) else f"{len(members)} members"

    def _has_database(self) -> str | None:
        name = DATABASE.encode()
        lacking = [node.place for node in self.nodes if name not in node.node.catalogue.by_name]
        return f"not on {lacking}" if lacking else None

    def _are_alike(self) -> str | None:
        return self.invariants.unlike(self.nodes, self.clock.seconds())

    def _start_clients(self) -> None:
        plan = self.plan
        for number in range(CLIENTS + 1, CLIENTS + 1 + plan.writers + plan.watchers):
            process = Process(self.clock)
            chance = self._chance(f"client {number}")
            way = self._way_from(number, process)
            if number - CLIENTS <= plan.writers:
                writer = Writer(
                    number, process, chance, self.places, way, self.history, plan.keys, plan.reads
                )
                self.clients.append(writer)
            else:
                self.clients.append(Watcher(number, process, chance, self.places, way, plan.keys))
        for client in self.clients:
            client.start()

    def _way_from(self, number: int, process: Process) -> Callable[[int], Way]:
        return lambda place: Way(self.network, number, process, address_of(place))

    def _say_at_primary(self, *commands: str) -> list[str]:
        primary = self.primary()
        if primary is None:
            raise Violation("there is no primary to ask")
        process = Process(self.clock)
        answers = ask(self.clock, Way(self.network, CLIENTS, process, primary.address), commands)
        process.end()
        return answers

    def _read_all(self) -> None:
        keys = sorted({operation.key for operation in self.history.operations})
        for key in keys:
            read = self.history.call(0, GET_SAFE, key)
            *_, answer = self._say_at_primary(f"use-db {DATABASE} {TOKEN}", read.command())
            self.history.close(read, answer)

    def _stop(self) -> None:
        for node in self.nodes:
            node.stop()
        self.clock.advance(1.0)
        for node in self.nodes:
            node.close()
        self.clock.advance(3.0)
        left: list[Any] = [timer for node in self.nodes for timer in node.process.getDelayedCalls()]
        left += [timer for client in self.clients for timer in client.process.getDelayedCalls()]
        if left:
            raise Violation(f"{len(left)} delayed calls are left: {left[:3]}")


def simulate(seed: int, plan: Plan, trace: bool = False) -> Outcome:
    """Run one seed."""
    return Cluster(seed, plan, trace).run()
