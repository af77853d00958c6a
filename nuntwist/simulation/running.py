"""A whole run: a set with its clients under an adversary, from a seed.

A seed and a plan are a run: it does the same again, step by step, and its trace is the same text.
It goes::

    the nodes start, perhaps amid faults ──▶ a primary has all as members ──▶ a database is made
        ──▶ clients, and faults ──▶ the faults end, all nodes run
        ──▶ all are alike ──▶ what was lost is accounted for, every key is read once more
        ──▶ everything is stopped, and nothing is left

After each step the :class:`~nuntwist.simulation.invariants.Invariants` are looked at; in the end
the history of the clients has to be linearizable, where their writes waited for a majority.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.logger import ILogObserver, globalLogPublisher
from zope.interface import implementer

from nuntwist.simulation.adversary import FAULTS, Adversary
from nuntwist.simulation.client import DATABASE, TOKEN
from nuntwist.simulation.cluster import CLIENTS, Cluster
from nuntwist.simulation.crowd import Crowd
from nuntwist.simulation.decisions import count_decided
from nuntwist.simulation.disputes import DISPUTED
from nuntwist.simulation.history import GET_SAFE, SET, History
from nuntwist.simulation.linearizability import check
from nuntwist.simulation.network import Way
from nuntwist.simulation.node import CHECK_EVERY
from nuntwist.simulation.plan import Plan
from nuntwist.simulation.process import Process
from nuntwist.simulation.promises import Violation
from nuntwist.simulation.reader import ask
from nuntwist.simulation.tails import values_in_tails
from nuntwist.simulation.verdict import Report, Verdict
from nuntwist.testing import PASSWORD, USER

LAST_VALUES: Final = 1_000_000_000
"""Above the numbers that clients write."""


@dataclass
class Outcome:
    """What a run has come to.

    :ivar failure: what was wrong; None where nothing was.
    :ivar operations: answered ones.
    :ivar alarms: how many times the processes that run in the end have found a state to differ.
    :ivar compared: up to which index the primary has found all states to be its own.
    :ivar lost: how many writes that were answered were cut off, and are in files.
    :ivar conflicts: how many conflicts there were, all of which are decided.
    """

    seed: int
    failure: str | None = None
    operations: int = 0
    events: int = 0
    lost: int = 0
    conflicts: int = 0
    alarms: int = 0
    compared: int = 0
    trace: list[str] = field(default_factory=list)
    history: History | None = None
    report: Report | None = None


@implementer(ILogObserver)
class _Unhandled:
    """Sees the errors that are logged because nothing else was done about them."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Something is logged."""
        failure = event.get("log_failure")
        if failure is not None:
            self.seen.append(failure.getTraceback())


class Run:
    """One run.

    :param traced: whether what happens is written down.
    :raise ValueError: the plan asks for faults that there are not.
    """

    def __init__(self, seed: int, plan: Plan, traced: bool = False) -> None:
        unknown = {*plan.faults, *plan.start_faults} - set(FAULTS)
        if unknown:
            raise ValueError(f"these are no faults: {', '.join(sorted(unknown))}")
        self.plan = plan
        self.cluster = Cluster(seed, plan, traced)
        self.clock = self.cluster.clock
        self.history = History()
        self.crowd = Crowd(self.cluster, self.history)
        self.outcome = Outcome(seed, trace=self.cluster.trace, history=self.history)
        self._unhandled = _Unhandled()

    def run(self) -> Outcome:
        """The whole of it."""
        outcome = self.outcome
        globalLogPublisher.addObserver(self._unhandled)
        try:
            self._all()
        except Violation as violation:
            outcome.failure = f"at {self.clock.seconds():.3f} s: {violation}"
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            outcome.failure = (
                f"at {self.clock.seconds():.3f} s: {type(error).__name__}: {error}, raised in"
                f" {where.name}, {where.filename}:{where.lineno}"
            )
        finally:
            globalLogPublisher.removeObserver(self._unhandled)
        outcome.operations = sum(o.answer is not None for o in self.history.operations)
        outcome.events = self.cluster.events
        return outcome

    def _all(self) -> None:
        plan = self.plan
        self._start_nodes()
        self._until(self._is_formed, "not formed")
        self._say_at_primary(f"auth {USER} {PASSWORD}", f"create-db {DATABASE} {TOKEN}")
        if plan.disputers:
            create = f"create-db {DISPUTED} {TOKEN} arbiter"
            self._say_at_primary(f"auth {USER} {PASSWORD}", create)
        self._until(self._has_database, "the database is not everywhere")
        self.crowd.start()
        self._be_troubled(plan.faults, plan.seconds, "adversary")
        self.clock.advance(2.0)
        self.crowd.stop()
        if plan.disputers:
            self._decide_all()
        if self.cluster.invariants.corrupted:
            self._until(self._is_formed, "no primary after the faults")
            self._write_all()
        self._until(self._are_alike, "not alike")
        self._note_compared()
        self._account()
        if plan.disputers:
            node = min(self.cluster.members(), key=lambda one: one.oplog.first)
            self.outcome.conflicts = count_decided(node, DISPUTED, self.crowd.given)
        self._read_all()
        self._stop()
        if self._unhandled.seen:
            raise Violation(f"an error that nobody has handled: {self._unhandled.seen[0]}")
        report = self.outcome.report = check(self.history) if plan.keeps_all else None
        if report is not None and report.verdict is not Verdict.LINEARIZABLE:
            raise Violation(str(report))

    # -- the beginning -----------------------------------------------------------------------

    def _start_nodes(self) -> None:
        cluster, plan = self.cluster, self.plan
        chance = cluster.chance("start")
        nodes = list(cluster.nodes)
        if plan.shuffled:
            chance.shuffle(nodes)
        due = 0.0
        for node in nodes:
            self.clock.callLater(due, cluster.restart, node)
            due += chance.uniform(*plan.apart)
        self.clock.advance(due)
        if plan.start_faults:
            self._be_troubled(plan.start_faults, plan.start_seconds, "start adversary")

    def _be_troubled(self, faults: tuple[str, ...], seconds: float, name: str) -> None:
        adversary = Adversary(self.cluster, self.cluster.chance(name), faults)
        adversary.start()
        self.clock.advance(seconds)
        adversary.stop()
        adversary.heal()

    # -- what is waited for ------------------------------------------------------------------

    def _until(self, holds: Callable[[], str | None], otherwise: str) -> None:
        end = self.clock.seconds() + self.plan.rest
        while (why := holds()) is not None:
            if self.clock.seconds() >= end:
                raise Violation(f"{otherwise}: {why}")
            self.clock.advance(0.1)

    def _is_formed(self) -> str | None:
        cluster = self.cluster
        primary = cluster.primary()
        if primary is None:
            return "no primary"
        lacking = [n.place for n in cluster.living if n not in cluster.members()]
        return f"{lacking} are no members" if lacking else None

    def _has_database(self) -> str | None:
        name = DATABASE.encode()
        nodes = self.cluster.nodes
        names = {name, DISPUTED.encode()} if self.plan.disputers else {name}
        lacking = [n.place for n in nodes if not names <= n.node.catalogue.by_name.keys()]
        return f"not on {lacking}" if lacking else None

    def _are_alike(self) -> str | None:
        cluster = self.cluster
        members = cluster.members()
        for node in cluster.living:
            if node not in members and not node.asked_out:
                return f"node {node.place} is no member"
        return cluster.invariants.unlike(members, self.clock.seconds())

    # -- the end -----------------------------------------------------------------------------

    def _decide_all(self) -> None:
        self.crowd.let_decide()
        self._until(self._are_decided, "not decided")
        self.crowd.stop_arbiters()

    def _are_decided(self) -> str | None:
        primary = self.cluster.primary()
        if primary is None:
            return "no primary"
        conflicts = primary.node.catalogue.by_name[DISPUTED.encode()].conflicts
        return f"{conflicts}" if conflicts else None

    def _account(self) -> None:
        """See that what was answered and is not there any more is in files."""
        cluster = self.cluster
        promises = cluster.invariants.promises
        lost = promises.lost(cluster.invariants.end_of(cluster.members()[0]))
        if not lost:
            return
        kept = values_in_tails(node.disk for node in [*cluster.nodes, *cluster.former])
        for value in lost:
            if value in promises.kept or value not in kept:
                raise Violation(f"the write of {value!r} was answered, and is lost")
        self.outcome.lost = len(lost)

    def _say_at_primary(self, *commands: str) -> list[str]:
        primary = self.cluster.primary()
        if primary is None:
            raise Violation("there is no primary to ask")
        process = Process(self.clock)
        way = Way(self.cluster.network, CLIENTS, process, primary.address)
        answers = ask(self.clock, way, commands)
        process.end()
        return answers

    def _note_compared(self) -> None:
        nodes = self.cluster.members()
        self.outcome.alarms = sum(node.node.counters.states_differed for node in nodes)
        primary = self.cluster.primary()
        replica_set = None if primary is None else primary.node.replica_set
        if replica_set is not None:
            others = [one for one in replica_set.view().replicas if one.member and not one.is_self]
            self.outcome.compared = min((one.agreed or 0 for one in others), default=0)

    def _write_all(self) -> None:
        """A damaged entry is noticed when its key is written, at the next check after that."""
        use = f"use-db {DATABASE} {TOKEN}"
        for number, key in enumerate(sorted({op.key for op in self.history.operations})):
            write = self.history.call(0, SET, key, b"%d" % (LAST_VALUES + number))
            *_, answer = self._say_at_primary(use, write.command())
            self.history.close(write, answer)
        self._say_at_primary(use, *(f"set filler {number}" for number in range(2 * CHECK_EVERY)))

    def _read_all(self) -> None:
        keys = sorted({operation.key for operation in self.history.operations})
        for key in keys:
            read = self.history.call(0, GET_SAFE, key)
            *_, answer = self._say_at_primary(f"use-db {DATABASE} {TOKEN}", read.command())
            self.history.close(read, answer)

    def _stop(self) -> None:
        nodes = [node for node in self.cluster.nodes if node.running]
        for node in nodes:
            node.stop()
        self.clock.advance(1.0)
        for node in nodes:
            node.close()
        self.clock.advance(3.0)
        processes = [*(node.process for node in nodes), *self.crowd.processes]
        left = [timer for process in processes for timer in process.getDelayedCalls()]
        if left:
            raise Violation(f"{len(left)} delayed calls are left: {left[:3]}")
        if self.cluster.network.open:
            raise Violation(f"connections are left: {self.cluster.network.open}")


def simulate(seed: int, plan: Plan, traced: bool = False) -> Outcome:
    """Run one seed."""
    return Run(seed, plan, traced).run()
