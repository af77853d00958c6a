"""Three real nodes are one database, whatever becomes of one of them."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.harness import no_trace_of_trouble, wait_until
from tests.integration.replica_set import Nodes


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with Nodes(tmp_path) as nodes:
        yield nodes


def test_nodes_started_one_after_another_are_one_set(nodes: Nodes) -> None:
    """The first takes writes at once, and loses none of them."""
    began = time.monotonic()
    nodes.start(0)
    assert nodes.primary() == 0
    assert time.monotonic() - began < 2.5
    admin = nodes.admin(0, "create-db d t", "use-db d t", "set before 1")
    nodes.start(1)
    time.sleep(1.0)
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


def test_a_change_reaches_watchers_on_every_node(nodes: Nodes) -> None:
    primary = nodes.form()
    admin = nodes.admin(primary, "create-db d t", "use-db d t")
    nodes.wait_until_equal()
    watchers = [nodes.admin(place, "use-db d t", "watch k") for place in range(3)]
    assert admin.ask("set k 1") == [b"ok \n"]
    for watcher in watchers:
        assert [watcher.line(), watcher.line()] == [b"changed k 1\n", b"changed-version k 0 1\n"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_another_takes_over(nodes: Nodes, number: int) -> None:
    primary = nodes.form()
    nodes.admin(primary, "create-db d t", "use-db d t", "set k 1")
    nodes.wait_until_equal()
    if number == signal.SIGKILL:
        nodes.kill(primary)
    else:
        nodes.processes[primary].send_signal(number)
    others = [place for place in range(3) if place != primary]
    began = time.monotonic()
    wait_until(
        lambda: [p for p in others if nodes.role(p) == "Primary"], "another primary", limit=5.0
    )
    assert time.monotonic() - began < 3.0
    (successor,) = [p for p in others if nodes.role(p) == "Primary"]
    client = nodes.admin(successor, "use-db d t", "set k 2")
    if number == signal.SIGKILL:
        nodes.start(primary)
    else:
        nodes.processes[primary].send_signal(signal.SIGCONT)
    nodes.wait_until_formed()
    nodes.wait_until_equal()
    assert nodes.primaries() == [successor]
    assert client.ask("get k") == [b"value 2\n", b"ok \n"]
    back = nodes.admin(primary, "use-db d t")
    assert back.ask("get k") == [b"value 2\n", b"ok \n"]


def test_a_primary_that_is_cut_off_loses_its_tail_and_says_so(nodes: Nodes) -> None:
    primary = nodes.form()
    admin = nodes.admin(primary, "create-db d t", "use-db d t", "set k 1", "watch k")
    nodes.wait_until_equal()
    nodes.switch.isolate(primary)
    assert admin.ask("set k lost")[-1] == b"ok \n"
    others = [place for place in range(3) if place != primary]
    wait_until(
        lambda: [p for p in others if nodes.role(p) == "Primary"], "another primary", limit=5.0
    )
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


def test_what_a_primary_that_is_cut_off_took_is_made_again_where_it_may_be(nodes: Nodes) -> None:
    primary = nodes.form()
    admin = nodes.admin(primary, "create-db d t newer", "use-db d t", "set k 1")
    nodes.wait_until_equal()
    nodes.switch.isolate(primary)
    admin.send(b"".join(b"set k%d %d\n" % (number, number) for number in range(500)))
    assert {admin.line() for _ in range(500)} == {b"ok \n"}
    assert admin.ask("set k later")[-1] == b"ok \n"
    others = [place for place in range(3) if place != primary]
    wait_until(
        lambda: [p for p in others if nodes.role(p) == "Primary"], "another primary", limit=5.0
    )
    nodes.switch.heal()
    nodes.wait_until_formed()
    wait_until(
        lambda: "501 were made again" in nodes.processes[primary].log, "the offer", limit=5.0
    )
    nodes.wait_until_equal()
    for place in range(3):
        client = nodes.admin(place, "use-db d t")
        assert client.ask("get k499") == [b"value 499\n", b"ok \n"]
        assert client.ask("get k") == [b"value later\n", b"ok \n"]
