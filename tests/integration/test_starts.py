"""Real nodes that start: alone, and all at once; and slow links between them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.harness import ROOT, USER, Lines, Process, no_trace_of_trouble
from tests.integration.replica_set import Nodes
from tests.integration.steady import steadily
from tests.ports import free_ports

SERVES_WITHIN = 2.0
"""Seconds from the beginning of a first node's process until it takes a write: the default
NUN_ELECTION_TIMEOUT, and one."""
TRIES = 3
"""A machine that is busy with something else may be slow once, or all the time: then what Python
takes to import the node is beside the point."""
AFTER_IMPORT = 1.5
"""Seconds that it may take beyond that."""
FLUSHES = 30
"""How often it flushes something to the disk, at most; that takes as long as the disk takes."""
SLOW_SECONDS = float(os.environ.get("NUN_SLOW_SECONDS", "8"))
"""How long nodes run over slow links."""
DELAY = 0.4
TRANSITION = re.compile(
    r"^\d+\.\d{3} [A-Z]+ -> [A-Z]+, as [a-z ,]+; epoch \d+, log ends at \d+:\d+, runs since \S+"
    r"(, \S+ log ends at \d+:\d+, runs since \S+)?$"
)


def flush_seconds(path: Path) -> float:
    """What a flush of a small file takes here."""
    took = []
    for _ in range(5):
        began = time.monotonic()
        with path.open("wb") as file:
            file.write(b"x")
            os.fsync(file.fileno())
        took.append(time.monotonic() - began)
    return sum(took) / len(took)


def test_a_first_node_serves_soon_whoever_is_dead(tmp_path: Path) -> None:
    took = []
    for number in range(TRIES):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import nuntwist.service"], cwd=ROOT, check=True)
        limit = max(SERVES_WITHIN, time.monotonic() - began + AFTER_IMPORT)
        limit += FLUSHES * flush_seconds(tmp_path / "flushed")
        port, *dead = free_ports(3)
        others = ",".join(f"127.0.0.1:{port}" for port in dead)
        process = Process(
            tmp_path / f"node-{number}",
            variables={
                "NUN_TCP_ADDR": f"tcp:{port}:interface=127.0.0.1",
                "NUN_REPLICATE_ADDR": f"{others},127.0.0.1:{port}",
            },
        )
        began = time.monotonic()
        with process:
            client = process.tcp()
            client.ask(f"auth {USER} {process.variables['NUN_PWD']}")
            # It waits for a primary as long as one may take.
            for command in ("create-db d t", "use-db d t", "set k 1"):
                assert client.ask(command)[-1] == b"ok \n"
            took.append((time.monotonic() - began, limit))
            client.close()
            no_trace_of_trouble(process.log)
        if took[-1][0] <= limit:
            break
    print("it served after " + ", ".join("{:.2f} of {:.2f} s".format(*one) for one in took))
    assert any(seconds <= limit for seconds, limit in took)


def elections(nodes: Nodes) -> list[list[str]]:
    """The transitions that each node tells of."""
    found = []
    for place in nodes.running:
        with nodes.admin(place) as client:
            client.send(b"debug elections\n")
            lines = [line.decode().strip() for line in client.answer()]
            assert (lines[0], lines[-1]) == ("elections", "ok")
            found.append(lines[1:-1])
    return found


@pytest.fixture
def settings() -> dict[str, str]:
    """Of all nodes; some tests have others."""
    return {}


@pytest.fixture
def nodes(tmp_path: Path, settings: dict[str, str]) -> Iterator[Nodes]:
    with Nodes(tmp_path, NUN_HTTP_ADDR="off", NUN_WS_ADDR="off", **settings) as nodes:
        yield nodes


@steadily(Nodes.forget)
def test_nodes_started_at_once_are_one_set(nodes: Nodes) -> None:
    """And each transition is told with its cause, its epoch and the ranks."""
    nodes.start_at_once()
    nodes.wait_until_formed()
    primary = nodes.primary()
    told = elections(nodes)
    for place, lines in enumerate(told):
        assert [line for line in lines if not TRANSITION.match(line)] == []
        logged = [line for line in nodes.processes[place].log.splitlines() if "election: " in line]
        assert [line.partition("election: ")[2] for line in logged] == [
            line.partition(" ")[2] for line in lines
        ]
        assert lines[-1].split(" ")[3] == ("PRIMARY," if place == primary else "FOLLOWING,")
    nodes.admin(primary, "create-db d t", "use-db d t", "set k 1").close()
    nodes.wait_until_equal()


SLOW = {
    "NUN_HEARTBEAT_INTERVAL": "200",
    "NUN_SUSPICION_TIMEOUT": "2000",
    "NUN_ELECTION_TIMEOUT": "4000",
}


@pytest.mark.parametrize("settings", [SLOW], ids=["documented"])
@steadily(Nodes.forget)
def test_slow_links_make_no_elections(nodes: Nodes) -> None:
    """With the time-outs that docs/replication.md tells; NUN_SLOW_SECONDS runs it for longer."""
    primary = nodes.form()
    nodes.admin(primary, "create-db d t").close()
    nodes.wait_until_equal()
    before = elections(nodes)
    nodes.switch.delay = DELAY
    use = ("use-db d t", "write-concern majority 4000", "read-concern linearizable")
    clients = [nodes.admin(place, *use) for place in range(3)]
    end, number = time.monotonic() + SLOW_SECONDS, 0
    while time.monotonic() < end:
        number += 1
        assert_written(clients[number % 3], number)
        assert elections(nodes) == before
    assert nodes.primaries() == [primary]
    nodes.switch.delay = 0.0
    nodes.wait_until_equal()
    for process in nodes.processes:
        no_trace_of_trouble(process.log)


def assert_written(client: Lines, number: int) -> None:
    """Write, and read it: each takes a round trip or two."""
    began = time.monotonic()
    assert client.ask(f"set k {number}") == [b"ok \n"]
    assert time.monotonic() - began >= 2 * DELAY
    assert client.ask("get k") == [b"value %d\n" % number, b"ok \n"]
