"""Snapshots of a node in a set hold only what a majority has: nothing they hold is taken off."""

from __future__ import annotations

import pytest
from twisted.logger import LogLevel, capturedLogs

from nuntwist.errors import CommandError
from tests.unit.memory_set import MemorySet
from tests.unit.test_divergent import SETUP, assert_all_alike


@pytest.fixture
def three() -> MemorySet:
    nodes = MemorySet()
    nodes.run(2.0)
    nodes.nodes[1].admin(*SETUP)
    nodes.run(0.2)
    return nodes


def take(nodes: MemorySet, me: int) -> list[object]:
    outcome: list[object] = []
    nodes.nodes[me].node.snapshots.take_changed().addBoth(outcome.append)
    nodes.nodes[me].settle()
    return outcome


def held(nodes: MemorySet, me: int) -> set[int]:
    return set(nodes.nodes[me].storage.held)


@pytest.mark.parametrize("me", [1, 2])
def test_what_is_committed_is_in_a_snapshot_at_once(three: MemorySet, me: int) -> None:
    assert take(three, me) == [None]
    assert 0 in held(three, me)
    assert len(held(three, me)) == 2


def test_a_snapshot_waits_for_the_majority(three: MemorySet) -> None:
    three.delay = 0.05
    three.nodes[1].tcp().send("auth nun nun-pwd\nuse-db d t\nset a 2")
    outcome = take(three, 1)
    assert outcome == []
    three.run(0.09)
    assert outcome == []
    assert held(three, 1) == set()
    three.run(0.5)
    assert outcome == [None]
    assert len(held(three, 1)) == 2
    assert not [call for call in three.clock.getDelayedCalls() if call.getTime() > 30.0]


def test_what_is_never_committed_is_in_no_snapshot(three: MemorySet) -> None:
    admin = three.nodes[1].admin("use-db d t")
    three.isolate(1)
    admin.send("set a 2")
    outcome = take(three, 1)
    three.run(59.0)
    assert outcome == []
    three.run(1.5)
    (failure,) = outcome
    assert failure.check(CommandError)  # type: ignore[attr-defined]
    assert "not committed by a majority" in str(failure.value)  # type: ignore[attr-defined]
    assert held(three, 1) == set()
    three.heal()
    three.run(3.0)
    assert_all_alike(three)
    # The next one is taken.
    assert take(three, 1) == [None]
    three.kill(1)
    three.restart(1)
    three.run(3.0)
    assert_all_alike(three)


def test_a_node_that_stops_waits_for_no_majority(three: MemorySet) -> None:
    three.isolate(1)
    three.nodes[1].admin("use-db d t", "set a 2")
    outcome = take(three, 1)
    assert outcome == []
    with capturedLogs() as logged:
        three.nodes[1].node.snapshots.wait_no_more()
        three.run(0)
        assert len(outcome) == 1
        outcome = take(three, 1)
        three.run(0)
    assert len(outcome) == 1
    # Nothing is lost by it, so it is nothing to be alarmed by.
    assert [event["log_level"] for event in logged] == [LogLevel.warn] * 2
    assert held(three, 1) == set()


def test_a_snapshot_of_what_is_taken_off_is_given_up(three: MemorySet) -> None:
    admin = three.nodes[1].admin("use-db d t")
    three.isolate(1)
    for number in range(20):
        admin.send(f"set a{number} 2")
    outcome = take(three, 1)
    three.run(3.0)
    three.heal()
    three.run(3.0)
    (failure,) = outcome
    assert failure.check(CommandError)  # type: ignore[attr-defined]
    assert held(three, 1) == set()
    assert_all_alike(three)
    assert take(three, 1) == [None]
    three.kill(1)
    three.restart(1)
    assert b"a1" not in str(three.nodes[1].node.catalogue.by_name[b"d"].find(b"a1")).encode()
    three.run(3.0)
    assert_all_alike(three)


def test_the_tail_after_a_snapshot_is_undone_after_a_restart(three: MemorySet) -> None:
    admin = three.nodes[1].admin("use-db d t")
    assert take(three, 1) == [None]
    three.isolate(1)
    for command in ("remove gone", "set a 2", "set c 1", "remove b"):
        admin.send(command)
    three.run(3.0)
    three.kill(1)
    three.cut.clear()
    three.restart(1)
    three.run(3.0)
    assert_all_alike(three)
    # And what is changed since then is found by the next snapshot.
    assert take(three, 1) == [None]
    three.kill(1)
    three.restart(1)
    three.run(3.0)
    assert_all_alike(three)


def test_what_a_lone_node_has_in_a_snapshot_is_replaced_by_a_copy() -> None:
    """Its snapshots told of what was never committed by the set it comes into."""
    nodes = MemorySet()
    nodes.run(2.0)
    nodes.nodes[1].admin(*SETUP)
    nodes.run(0.2)
    nodes.isolate(1)
    admin = nodes.nodes[1].admin("use-db d t", "set a 2")
    del admin
    journal = nodes.nodes[1].node.pipeline.journal
    kept, journal.undo = journal.undo, None
    assert take(nodes, 1) == [None]
    journal.undo = kept
    nodes.run(3.0)
    nodes.kill(1)
    nodes.cut.clear()
    nodes.restart(1)
    nodes.run(3.0)
    assert_all_alike(nodes)
    assert nodes.nodes[1].node.counters.copies_taken == 1
