"""Simulated sets: they are what they seem, a seed is a run, and faults in the code are found."""

from __future__ import annotations

import random
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from twisted.internet.error import ConnectionLost, ConnectionRefusedError, TimeoutError
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.cluster.checks import Checks
from nuntwist.core.hashing import Hashing
from nuntwist.interfaces import Received
from nuntwist.simulation.__main__ import main
from nuntwist.simulation.adversary import FAULTS
from nuntwist.simulation.choice import PROGRAM
from nuntwist.simulation.history import from_lines
from nuntwist.simulation.invariants import WatchOrder
from nuntwist.simulation.linearizability import check
from nuntwist.simulation.network import CONNECT_SECONDS, Network, Way
from nuntwist.simulation.plan import MIX, PLANS, USUAL_FAULTS, Plan, plan_of
from nuntwist.simulation.process import Process
from nuntwist.simulation.promises import Promises, Violation
from nuntwist.simulation.runner import Runner
from nuntwist.simulation.running import Run, simulate
from nuntwist.simulation.verdict import Verdict
from nuntwist.testing import HeapClock
from nuntwist.values import SET, Epoch, Op

pytestmark = pytest.mark.many_cases

SHORT = Plan(seconds=5.0)


# -- processes -------------------------------------------------------------------------------------


def test_what_happens_to_a_paused_process_happens_when_it_goes_on_in_order() -> None:
    clock = HeapClock()
    process, happened = Process(clock), list[str]()
    process.callLater(1.0, happened.append, "timer")
    process.pause()
    clock.advance(0.5)
    process.run(lambda: happened.append("bytes"))
    clock.advance(1.0)
    assert happened == []
    process.go_on()
    assert happened == ["bytes", "timer"]
    assert process.getDelayedCalls() == []


def test_an_overdue_timer_of_a_paused_process_can_still_be_cancelled_or_moved() -> None:
    clock = HeapClock()
    process, happened = Process(clock), list[str]()
    first = process.callLater(1.0, happened.append, "cancelled")
    second = process.callLater(1.0, happened.append, "moved")
    process.pause()
    process.run(first.cancel)
    process.run(lambda: second.reset(5.0))
    clock.advance(2.0)
    assert first.active()
    process.go_on()
    assert not first.active()
    assert happened == []
    clock.advance(5.0)
    assert happened == ["moved"]


def test_nothing_happens_to_a_process_that_has_ended() -> None:
    clock = HeapClock()
    after = list[int]()
    process = Process(clock, lambda: after.append(1))
    process.callLater(1.0, after.append, 2)
    process.run(lambda: None)
    process.end()
    process.run(lambda: after.append(3))
    clock.advance(2.0)
    assert (after, process.getDelayedCalls()) == ([1], [])


# -- the network -----------------------------------------------------------------------------------


class Told(Protocol):
    """Keeps what comes."""

    def __init__(self) -> None:
        self.data = b""
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason


class Net:
    """Two processes, the second of which listens."""

    def __init__(self) -> None:
        self.clock = HeapClock()
        self.lines = list[str]()
        self.network = Network(self.clock, random.Random(1), self.lines.append)
        self.one, self.two = Process(self.clock), Process(self.clock)
        self.server, self.client = Told(), Told()
        self.failed = list[Failure]()
        self.network.listen("two", 2, self.two, lambda: self.server)

    def connect(self, address: str = "two") -> None:
        factory = Factory()
        factory.buildProtocol = lambda addr: self.client  # type: ignore[method-assign]  # one
        way = Way(self.network, 1, self.one, address)
        way.connect(factory).addErrback(self.failed.append)
        self.clock.advance(0.1)


@pytest.fixture
def net() -> Net:
    return Net()


def test_bytes_arrive_in_order(net: Net) -> None:
    net.connect()
    for number in range(50):
        net.client.transport.write(b"%d " % number)
        net.clock.advance(0.0005)
    net.server.transport.write(b"back")
    net.clock.advance(0.1)
    assert net.server.data == b"".join(b"%d " % number for number in range(50))
    assert net.client.data == b"back"


def test_what_is_cut_arrives_late(net: Net) -> None:
    net.connect()
    net.network.cut.add((1, 2))
    net.client.transport.write(b"there ")
    net.server.transport.write(b"back")
    net.clock.advance(5.0)
    assert (net.server.data, net.client.data) == (b"", b"back")
    net.client.transport.write(b"again")
    net.network.mend({(1, 2)})
    net.clock.advance(1.0)
    assert net.server.data == b"there again"


def test_a_side_that_is_cut_off_does_not_notice_the_end(net: Net) -> None:
    net.connect()
    net.network.cut.add((1, 2))
    net.client.transport.abortConnection()
    net.clock.advance(5.0)
    assert net.client.lost is not None
    assert net.server.lost is None
    net.network.heal()
    net.clock.advance(1.0)
    assert net.server.lost is not None


def test_who_sends_to_one_that_is_gone_is_told(net: Net) -> None:
    net.connect()
    net.network.cut.add((2, 1))
    net.network.hang_up(2)
    net.clock.advance(1.0)
    assert net.client.lost is None
    net.network.cut.clear()
    net.client.transport.write(b"x")
    net.clock.advance(1.0)
    assert net.client.lost is not None
    assert net.server.data == b""


def test_a_lost_connection_is_lost_at_both_ends(net: Net) -> None:
    net.connect()
    assert net.network.drop(1, 2) == 1
    for side in (net.client, net.server):
        assert side.lost is not None
        assert side.lost.check(ConnectionLost)
    assert net.network.drop(1, 2) == 0


def test_nobody_listens_or_the_way_is_cut(net: Net) -> None:
    net.connect("three")
    assert net.failed[0].check(ConnectionRefusedError)
    net.network.cut.add((2, 1))
    net.connect()
    net.clock.advance(CONNECT_SECONDS)
    assert net.failed[1].check(TimeoutError)


def test_input_waits_while_it_is_not_taken(net: Net) -> None:
    net.connect()
    net.server.transport.pauseProducing()
    net.client.transport.write(b"x")
    net.clock.advance(1.0)
    assert net.server.data == b""
    net.server.transport.resumeProducing()
    net.clock.advance(0.0)
    assert net.server.data == b"x"


# -- runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", PLANS)
def test_seeds_pass(plan: str) -> None:
    outcome = simulate(5, replace(PLANS[plan], seconds=5.0))
    assert outcome.failure is None
    assert outcome.operations > 50


@pytest.mark.parametrize("plan", ["usual", "copies", "starts", "disk"])
def test_a_seed_is_a_run(plan: str) -> None:
    short = replace(PLANS[plan], seconds=4.0)
    first, second = simulate(3, short, traced=True), simulate(3, short, traced=True)
    assert first.trace == second.trace
    assert first.history is not None
    assert second.history is not None
    assert first.history.to_lines() == second.history.to_lines()
    assert any("FAULT" in line for line in first.trace)
    assert simulate(4, short, traced=True).trace != first.trace


def test_every_plan_has_its_turn() -> None:
    assert set(MIX) == set(PLANS)
    assert {plan_of(seed) for seed in range(len(MIX))} == set(PLANS)
    for plan in PLANS.values():
        assert {*plan.faults, *plan.start_faults} <= set(FAULTS)


class Counted:
    """Gives a plan that takes little time, with a name by the seed."""

    def plan_of(self, seed: int) -> tuple[str, Plan]:
        return f"plan {seed % 2}", replace(SHORT, seconds=0.5)


def test_many_processes_find_what_one_finds() -> None:
    serial = list(Runner(Counted().plan_of, 1).run(range(1, 10)))
    assert [told.seed for told in serial] == list(range(1, 10))
    assert {told.plan for told in serial} == {"plan 0", "plan 1"}
    assert list(Runner(Counted().plan_of, 3).run(range(1, 10))) == serial


def faults_of(plan: Plan, seeds: range) -> set[str]:
    """What happens in some seeds: the first words of what the trace tells of faults."""
    lines = [line for seed in seeds for line in simulate(seed, plan, traced=True).trace]
    return {line.split(" ")[2] for line in lines if " FAULT " in line}


def test_members_join_leave_and_are_replaced() -> None:
    plan = replace(PLANS["members"], faults=("join", "leave", "replace"))
    assert faults_of(plan, range(1, 4)) == {"join", "leave", "replace"}


def test_a_first_start_is_in_any_order_amid_faults() -> None:
    plan = replace(PLANS["starts"], seconds=0.5)
    traces = [simulate(seed, plan, traced=True).trace for seed in (1, 2, 3)]
    orders = {tuple(line[-7:] for line in trace if " start " in line)[:3] for trace in traces}
    assert len(orders) > 1
    assert any("FAULT" in line for line in traces[0])


def test_an_exception_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Run) -> None:
        raise ZeroDivisionError("x")

    monkeypatch.setattr(Run, "_read_all", fails)
    failure = simulate(1, replace(SHORT, seconds=0.5)).failure
    assert failure is not None
    assert "ZeroDivisionError: x, raised in fails, " in failure


def test_an_error_that_is_only_logged_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def logs(self: Run) -> None:
        Logger().failure("it is logged", Failure(ZeroDivisionError("x")))

    monkeypatch.setattr(Run, "_read_all", logs)
    failure = simulate(1, replace(SHORT, seconds=0.5)).failure
    assert failure is not None
    assert "an error that nobody has handled" in failure


def test_states_are_compared_in_every_run() -> None:
    outcome = simulate(1, replace(SHORT, faults=()))
    assert (outcome.failure, outcome.alarms) == (None, 0)
    assert outcome.compared > 100


@pytest.mark.parametrize("seed", [2, 4])
def test_a_memory_that_fails_is_found_and_mended(seed: int) -> None:
    outcome = simulate(seed, replace(PLANS["corrupt"], seconds=6.0), traced=True)
    assert outcome.failure is None
    assert any("FAULT corrupt" in line for line in outcome.trace)


def test_a_memory_that_fails_is_not_mended_where_nobody_compares(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Checks, "theirs", lambda self, node, index, sum: None)
    plan = replace(PLANS["corrupt"], faults=("corrupt",), seconds=6.0, rest=20.0)
    failure = simulate(1, plan).failure
    assert failure is not None
    assert "states differ" in failure


def test_a_false_alarm_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Hashing.final

    def partly(self: Hashing, ops: Sequence[Op], replaced: Sequence[Op | None]) -> None:
        # Nodes have the same operations in batches of their own.
        if len(ops) < 3:
            usual(self, ops, replaced)

    monkeypatch.setattr(Hashing, "final", partly)
    outcome = simulate(1, SHORT)
    assert outcome.failure is not None
    assert "a false alarm" in outcome.failure


def test_without_faults_everything_is_answered() -> None:
    outcome = simulate(1, replace(SHORT, faults=()))
    assert outcome.failure is None
    assert outcome.history is not None
    # But what a client was asking when it was stopped.
    last = {operation.client: operation for operation in outcome.history.operations}
    for operation in outcome.history.operations:
        assert operation.answer is not None or operation is last[operation.client]


def test_a_fault_that_is_not_known_is_an_error() -> None:
    with pytest.raises(ValueError, match="no faults: flood"):
        simulate(1, replace(SHORT, faults=("flood",)))
    with pytest.raises(SystemExit):
        main(["--faults", "flood"])
    assert set(USUAL_FAULTS) < set(FAULTS)


# -- invariants ------------------------------------------------------------------------------------


def test_what_survives_after_a_cut_may_be_older_once() -> None:
    cuts = [0]
    order = WatchOrder("somebody", lambda: cuts[0])
    order.take("changed-version k 2 a")
    cuts[0] = 1
    order.take("changed-version k 3 b")
    order.take("changed-version k 1 c")
    with pytest.raises(Violation, match="somebody was sent k"):
        order.take("changed-version k 0 d")


def logged(promises: Promises, index: int, value: bytes, before: bytes) -> bytes:
    """Put a record into some log; its hash."""
    op = (value, 0, index, 0, SET, 1, b"k")
    hashed = before + b"%d" % index + value
    promises.logged(Received(Epoch(1, 1), [op], b""), hashed, before)
    return hashed


def test_a_primary_that_lacks_what_a_majority_was_said_to_have_is_found() -> None:
    promises = Promises()
    first = logged(promises, 1, b"a", b"")
    second, other = logged(promises, 2, b"b", first), logged(promises, 2, b"c", first)
    promises.set_id = 9
    promises.leads(1, 9, 5, first)
    promises.made(b"a", majority=True)
    promises.made(b"b", majority=True)
    # It was elected before, and turns late.
    promises.leads(3, 9, 5, other)
    # Another set has epochs of its own.
    promises.leads(3, 8, 7, other)
    promises.leads(2, 9, 6, second)
    with pytest.raises(Violation, match="primary of epoch 7, lacks the write of b'b'"):
        promises.leads(3, 9, 7, other)


def test_a_write_that_is_in_no_log_is_found() -> None:
    promises = Promises()
    with pytest.raises(Violation, match="in no log"):
        promises.made(b"a", majority=False)


def test_what_was_answered_and_cut_off_is_told() -> None:
    promises = Promises()
    first = logged(promises, 1, b"a", b"")
    logged(promises, 2, b"b", first)
    other = logged(promises, 2, b"c", first)
    for value in (b"a", b"b", b"c"):
        promises.made(value, majority=False)
    assert promises.lost(other) == [b"b"]


@pytest.mark.parametrize("later", ["k 1 b", "k 2 other", "k 2"])
def test_an_older_version_after_a_newer_one_is_found(later: str) -> None:
    order = WatchOrder("somebody")
    order.take("changed k x")
    order.take("changed-version k 1 b")
    order.take("changed-version l 0 c")
    order.take("changed-version k 2 d")
    order.take("changed-version k 2 d")
    with pytest.raises(Violation, match="somebody was sent k"):
        order.take(f"changed-version {later} ")
    assert order.seen == 5


# -- the command line ------------------------------------------------------------------------------


def test_seeds_are_run_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "2", "--start", "5", "--seconds", "0.5", "--jobs", "1"]) == 0
    *plans, total = capsys.readouterr().out.splitlines()
    assert total.startswith("2 seeds, 0 failed, ")
    assert plans == [f"  {plan}: 1 seeds, 0 failed" for plan in sorted((plan_of(5), plan_of(6)))]


def test_the_program_runs_seeds_in_processes() -> None:
    words = [sys.executable, "-m", "nuntwist.simulation", "--seeds", "9", "--jobs", "2"]
    words += ["--plan", "usual", "--seconds", "0.1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.startswith("  usual: 9 seeds, 0 failed\n9 seeds, 0 failed, ")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_failing_seed_is_told_with_the_command_that_replays_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def never(self: object, nodes: object, now: object) -> str:
        return "never"

    monkeypatch.setattr("nuntwist.simulation.invariants.Invariants.unlike", never)
    words = ["--seconds", "4", "--share", "0.5", "--faults", "crash"]
    assert main(["--seeds", "1", "--start", "6", *words]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"seed 6 of plan {plan_of(6)} FAILED: at ")
    assert told[-1].startswith("1 seeds, 1 failed")
    again = told[1].strip().removeprefix(f"again: {PROGRAM} ")
    asked = "--seconds 4.0 --share 0.5 --faults crash"
    assert again == f"--seed 6 --plan {plan_of(6)} {asked} --trace"
    file = tmp_path / "history"
    assert main([*shlex.split(again), "--history", str(file)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == told[:2]
    assert any(line.endswith("HEAL") for line in lines)
    assert check(from_lines(file.read_text())).verdict is Verdict.LINEARIZABLE


def test_a_seed_that_passes_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "6", "--plan", "primary", "--seconds", "0.5", "--nodes", "2"]) == 0
    assert capsys.readouterr().out.startswith("seed 6 of plan primary: ")


def test_a_secondary_whose_flush_fails_for_want_of_room_follows_again() -> None:
    """It heard of that only after it had taken the records (found by the simulation)."""
    plan = replace(PLANS["disk"], seconds=4.0)
    assert simulate(216, plan).failure is None
