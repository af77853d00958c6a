"""Simulated sets: they are what they seem, a seed is a run, and faults in the code are found."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from twisted.internet.error import ConnectionLost, ConnectionRefusedError, TimeoutError
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from nuntwist.cluster.commits import Commits
from nuntwist.cluster.identity import Identity
from nuntwist.cluster.outgoing import Log
from nuntwist.cluster.stream import Have
from nuntwist.config import NodeConfig
from nuntwist.simulation.__main__ import main
from nuntwist.simulation.adversary import FAULTS
from nuntwist.simulation.cluster import USUAL_FAULTS, Cluster, Plan, simulate
from nuntwist.simulation.history import Fate, from_lines
from nuntwist.simulation.invariants import Violation, WatchOrder
from nuntwist.simulation.linearizability import Verdict, check
from nuntwist.simulation.network import CONNECT_SECONDS, Network, Way
from nuntwist.simulation.process import Process
from nuntwist.testing import HeapClock
from nuntwist.values import Epoch

SHORT = Plan(seconds=8.0)


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


@pytest.mark.parametrize("seed", range(1, 6))
def test_seeds_pass(seed: int) -> None:
    outcome = simulate(seed, SHORT)
    assert outcome.failure is None
    assert outcome.operations > 100


@pytest.mark.parametrize("seed", range(1, 4))
def test_seeds_pass_where_machines_fail(seed: int) -> None:
    config = NodeConfig(write_concern="majority", durability="disk")
    assert simulate(seed, replace(SHORT, config=config)).failure is None


def test_a_seed_is_a_run() -> None:
    first, second = simulate(3, SHORT, trace=True), simulate(3, SHORT, trace=True)
    assert first.trace == second.trace
    assert first.history is not None
    assert second.history is not None
    assert first.history.to_lines() == second.history.to_lines()
    assert any("FAULT" in line for line in first.trace)
    assert simulate(4, SHORT, trace=True).trace != first.trace


def test_without_faults_everything_is_answered() -> None:
    outcome = simulate(1, replace(SHORT, faults=()))
    assert outcome.failure is None
    assert outcome.history is not None
    # But what a client was about to ask when it was stopped.
    last = {operation.client: operation for operation in outcome.history.operations}
    for operation in outcome.history.operations:
        not_asked = operation.fate is Fate.REFUSED and operation is last[operation.client]
        assert operation.answer is not None or not_asked


def test_a_fault_that_is_not_known_is_an_error() -> None:
    with pytest.raises(AttributeError):
        simulate(1, replace(SHORT, faults=("flood",)))
    assert set(USUAL_FAULTS) < set(FAULTS)


# -- with faults in the code -----------------------------------------------------------------------


def found(plan: Plan = SHORT, seeds: int = 15) -> str:
    """What the first of some seeds fails with."""
    for seed in range(1, 1 + seeds):
        failure = simulate(seed, plan).failure
        if failure is not None:
            return failure
    return "nothing"


def test_an_answer_before_a_majority_has_it_is_found() -> None:
    config = NodeConfig(write_concern="primary")
    # A failover may show a watcher what was before.
    plan = replace(SHORT, config=config, watchers=0, reads=False)
    assert "not linearizable" in found(plan)


def test_a_commit_that_nobody_else_has_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def advance(self: Commits) -> bool:
        reached = self.held_by(1)
        if reached < self._begins or reached <= self.index:
            return False
        self.index = reached
        return True

    monkeypatch.setattr(Commits, "_advance", advance)
    assert found() != "nothing"


def test_an_epoch_that_is_not_kept_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: Identity, epoch: Epoch, reached: int = 0) -> None:
        self.epoch = max(self.epoch, epoch)

    monkeypatch.setattr(Identity, "raise_epoch", forgetful)
    assert "has two primaries" in found(Plan(faults=("crash", "isolate")))


def test_a_stream_to_a_log_of_its_own_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(log: Log, have: Have) -> int | None:
        return min(log.last.index, have.position.index)

    monkeypatch.setattr("nuntwist.cluster.outgoing.common_index", blind)
    assert "endless loop" in found()


def test_a_timer_that_is_left_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(self: Cluster) -> None:
        for node in self.nodes:
            node.process.callLater(1e6, lambda: None)

    usual = Cluster._read_all

    def read_all(self: Cluster) -> None:
        usual(self)
        leave(self)

    monkeypatch.setattr(Cluster, "_read_all", read_all)
    assert "delayed calls are left" in found(seeds=1)


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
    assert main(["--seeds", "2", "--start", "5", "--seconds", "2"]) == 0
    assert capsys.readouterr().out.startswith("2 seeds, 0 failed, ")


def test_a_failing_seed_is_told_and_replayed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def never(self: object, nodes: object, now: object) -> str:
        return "never"

    monkeypatch.setattr("nuntwist.simulation.invariants.Invariants.unlike", never)
    assert main(["--seeds", "1", "--start", "7", "--seconds", "2"]) == 1
    told = capsys.readouterr().out
    assert told.startswith("seed 7 FAILED: at ")
    assert "1 seeds, 1 failed" in told
    file = tmp_path / "history"
    words = ["--seed", "7", "--trace", "--seconds", "2", "--history", str(file)]
    assert main(words) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == told.splitlines()[0]
    assert any(line.endswith("HEAL") for line in lines)
    assert check(from_lines(file.read_text())).verdict is Verdict.LINEARIZABLE
