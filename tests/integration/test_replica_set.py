"""Three real nodes are one database, whatever becomes of one of them."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.harness import Lines, no_trace_of_trouble, wait_until
from tests.integration.replica_set import Nodes
from tests.integration.steady import steadily

SOON = 8.0
"""Seconds until a node is primary, at most; it is about one on a machine that keeps up."""


@pytest.fixture
def settings() -> dict[str, str]:
    """Of all nodes; some tests have others."""
    return {}


@pytest.fixture
def nodes(tmp_path: Path, settings: dict[str, str]) -> Iterator[Nodes]:
    with Nodes(tmp_path, **settings) as nodes:
        yield nodes


@steadily(Nodes.forget)
def test_nodes_started_one_after_another_are_one_set(nodes: Nodes) -> None:
    """The first takes writes at once, and loses none of them."""
    began = time.monotonic()
    nodes.start(0)
    assert nodes.primary() == 0
    assert time.monotonic() - began < SOON
    admin = nodes.admin(0, "create-db d t", "use-db d t", "set before 1")
    nodes.start(1)
    nodes.wait_until_formed()
    nodes.start(2)
    assert admin.ask("set meanwhile 2") == [b"ok \n"]
    nodes.wait_until_formed()
    assert nodes.primaries() == [0]
    nodes.wait_until_equal()
    for place in range(3):
        client = nodes.admin(place, "use-db d t")
        assert client.ask("get before") == [b"value 1\n", b"ok \n"]
        assert client.ask("get meanwhile") == [b"value 2\n", b"ok \n"]
    for process in nodes.processes:
        no_trace_of_trouble(process.log, allowed=["cannot be reached"])


@steadily(Nodes.forget)
def test_a_change_reaches_watchers_on_every_node(nodes: Nodes) -> None:
    primary = nodes.form()
    admin = nodes.admin(primary, "create-db d t", "use-db d t")
    nodes.wait_until_equal()
    watchers = [nodes.admin(place, "use-db d t", "watch k") for place in range(3)]
    assert admin.ask("set k 1") == [b"ok \n"]
    for watcher in watchers:
        assert [watcher.line(), watcher.line()] == [b"changed k 1\n", b"changed-version k 0 1\n"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@steadily(Nodes.forget)
def test_another_takes_over(nodes: Nodes, number: int) -> None:
    primary = nodes.form()
    nodes.admin(primary, "create-db d t", "use-db d t", "set k 1")
    nodes.wait_until_equal()
    if number == signal.SIGKILL:
        nodes.kill(primary)
    else:
        nodes.pause(primary)
    others = [place for place in range(3) if place != primary]
    wait_until(lambda: [p for p in others if nodes.role(p) == "Primary"], "another primary", SOON)
    (successor,) = [p for p in others if nodes.role(p) == "Primary"]
    client = nodes.admin(successor, "use-db d t", "set k 2")
    if number == signal.SIGKILL:
        nodes.start(primary)
    else:
        nodes.go_on(primary)
    nodes.wait_until_formed()
    nodes.wait_until_equal()
    assert nodes.primaries() == [successor]
    assert client.ask("get k") == [b"value 2\n", b"ok \n"]
    back = nodes.admin(primary, "use-db d t")
    assert back.ask("get k") == [b"value 2\n", b"ok \n"]


@steadily(Nodes.forget)
def test_a_primary_that_is_cut_off_loses_its_tail_and_says_so(nodes: Nodes) -> None:
    primary = nodes.form()
    admin = nodes.admin(primary, "create-db d t", "use-db d t", "set k 1", "watch k")
    nodes.wait_until_equal()
    nodes.switch.isolate(primary)
    assert admin.ask("set k lost")[-1] == b"ok \n"
    others = [place for place in range(3) if place != primary]
    wait_until(lambda: [p for p in others if nodes.role(p) == "Primary"], "another primary", SOON)
    (successor,) = [p for p in others if nodes.role(p) == "Primary"]
    nodes.admin(successor, "use-db d t", "set k kept")
    nodes.switch.heal()
    nodes.wait_until_formed()
    nodes.wait_until_equal()
    assert nodes.admin(primary, "use-db d t").ask("get k") == [b"value kept\n", b"ok \n"]
    log = nodes.processes[primary].log
    assert "were taken off, because the set does not have them" in log
    kept = [p.name for p in nodes.processes[primary].data.iterdir() if "divergent" in p.name]
    assert len(kept) == 1


@steadily(Nodes.forget)
def test_what_a_primary_that_is_cut_off_took_is_made_again_where_it_may_be(nodes: Nodes) -> None:
    primary = nodes.form()
    admin = nodes.admin(primary, "create-db d t newer", "use-db d t", "set k 1")
    nodes.wait_until_equal()
    nodes.switch.isolate(primary)
    admin.send(b"".join(b"set k%d %d\n" % (number, number) for number in range(500)))
    assert {admin.line() for _ in range(500)} == {b"ok \n"}
    assert admin.ask("set k later")[-1] == b"ok \n"
    others = [place for place in range(3) if place != primary]
    wait_until(lambda: [p for p in others if nodes.role(p) == "Primary"], "another primary", SOON)
    nodes.switch.heal()
    nodes.wait_until_formed()
    wait_until(lambda: "501 were made again" in nodes.processes[primary].log, "the offer")
    nodes.wait_until_equal()
    for place in range(3):
        client = nodes.admin(place, "use-db d t")
        assert client.ask("get k499") == [b"value 499\n", b"ok \n"]
        assert client.ask("get k") == [b"value later\n", b"ok \n"]


def is_in_parts(admin: Lines) -> bool:
    """Whether the log of a node has several segments."""
    return b"segments: 1," not in b"".join(admin.ask("oplog-state"))


@pytest.mark.parametrize("settings", [{"NUN_MAX_OP_LOG_SIZE": "4MiB"}], ids=["short-log"])
@steadily(Nodes.forget)
def test_a_node_that_comes_late_gets_a_copy_of_all(nodes: Nodes) -> None:
    """The log of the primary does not reach back to the beginning any more."""
    nodes.start(0, 1)
    nodes.wait_until_formed()
    primary = nodes.primary()
    admin = nodes.admin(primary, "create-db d t", "use-db d t")
    admin.send(b"".join(b"set k%d %b\n" % (n, b"x" * 200) for n in range(3_000)))
    for _ in range(3_000):
        assert admin.answer() == [b"ok \n"]
    # A segment is followed by the next when it has been flushed.
    wait_until(lambda: admin.ask("set more 1") and is_in_parts(admin), "a second segment")
    nodes.wait_until_equal()
    for command in ("snapshot true $admin|d", "oplog-clean 0", "set last 1"):
        assert admin.ask(command)[-1] == b"ok \n"
    nodes.start(2)
    nodes.wait_until_formed()
    nodes.wait_until_equal()
    late = nodes.admin(2, "use-db d t")
    assert late.ask("get k2999") == [b"value " + b"x" * 200 + b"\n", b"ok \n"]
    assert late.ask("get last") == [b"value 1\n", b"ok \n"]
    assert "takes a copy of all" in nodes.processes[2].log
    admin.ask("set last 2")
    nodes.wait_until_equal()
    nodes.kill(2)
    nodes.start(2)
    nodes.wait_until_formed()
    nodes.wait_until_equal()
    assert nodes.admin(2, "use-db d t").ask("get last") == [b"value 2\n", b"ok \n"]


@steadily(Nodes.forget)
def test_a_node_with_data_of_its_own_keeps_them_aside(nodes: Nodes) -> None:
    """Two sets meet: the one with data that runs longer stays."""
    nodes.switch.isolate(2)
    nodes.start(0, 2)
    wait_until(lambda: len(nodes.primaries()) == 2, "two lone primaries")
    nodes.admin(0, "create-db d t", "use-db d t", "set k first")
    nodes.admin(2, "create-db d t", "use-db d t", "set k second", "create-db e t")
    nodes.switch.heal()
    nodes.wait_until_formed()
    nodes.wait_until_equal()
    for place in (0, 2):
        assert nodes.admin(place, "use-db d t").ask("get k") == [b"value first\n", b"ok \n"]
        assert nodes.admin(place).ask("use-db e t")[-1] != b"ok \n"
    kept = [p.name for p in nodes.processes[2].data.iterdir() if "divergent" in p.name]
    assert kept == ["divergent-1-1.op"]


@steadily(Nodes.forget)
def test_members_leave_and_come_back(nodes: Nodes) -> None:
    primary = nodes.form()
    leaves = next(place for place in range(3) if place != primary)
    admin = nodes.admin(primary)
    assert admin.ask(f"leave {nodes.addresses[leaves]}") == [b"ok \n"]

    def members() -> set[str]:
        return {r["address"] for r in nodes.state(primary)["replicas"] if r["member"]}

    assert nodes.addresses[leaves] not in members()
    nodes.processes[leaves].stop()
    nodes.start(leaves)
    assert nodes.addresses[leaves] not in members()
    assert admin.ask(f"join {nodes.addresses[leaves]}") == [b"ok \n"]
    wait_until(lambda: nodes.addresses[leaves] in members(), "the node to be a member again")


@steadily(Nodes.forget)
def test_a_rolling_restart_loses_nothing(nodes: Nodes) -> None:
    primary = nodes.form()
    nodes.admin(primary, "create-db d t")
    for number in range(3):
        before = nodes.primary()
        client = nodes.admin(before, "use-db d t")
        assert client.ask("increment n 1") == [b"ok \n"]
        place = (before + 1 + number) % 3
        assert nodes.processes[place].stop() == 0
        nodes.start(place)
        nodes.wait_until_formed()
    nodes.wait_until_equal()
    assert nodes.admin(0, "use-db d t").ask("get n") == [b"value 3\n", b"ok \n"]


@steadily(Nodes.forget)
def test_a_lone_survivor_takes_over_where_that_is_asked_for(nodes: Nodes) -> None:
    """As the documents tell to do when a majority is lost for good."""
    primary = nodes.form()
    nodes.admin(primary, "create-db d t", "use-db d t", "set k 1")
    nodes.wait_until_equal()
    survivor, *dead = [place for place in range(3) if place != primary] + [primary]
    for place in dead:
        nodes.kill(place)
    refused = nodes.admin(survivor, "use-db d t")
    assert refused.ask("set k 2") == [b"error no primary \n"]
    nodes.processes[survivor].stop()
    nodes.processes[survivor].variables["NUN_ELECTION_QUORUM"] = "none"
    nodes.start(survivor)
    assert nodes.primary() == survivor
    client = nodes.admin(survivor, "use-db d t", "set k 3")
    for place in dead:
        assert client.ask(f"leave {nodes.addresses[place]}") == [b"ok \n"]
    nodes.processes[survivor].stop()
    del nodes.processes[survivor].variables["NUN_ELECTION_QUORUM"]
    nodes.start(survivor)
    assert nodes.primary() == survivor
    assert nodes.admin(survivor, "use-db d t").ask("get k") == [b"value 3\n", b"ok \n"]
