"""How many may connect to a real node, and how often they may fail to log in."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

from tests.integration.conftest import Start
from tests.integration.harness import (
    ANY_PORT,
    LIMIT,
    PASSWORD,
    USER,
    Process,
    no_trace_of_trouble,
    run_to_end,
    wait_until,
)

MOST = 5
ANY_PORTS = {f"NUN_{kind}_ADDR": ANY_PORT for kind in ("WS", "HTTP", "TCP")}


def is_closed(connection: socket.socket) -> bool:
    """Whether the node closes it without a word."""
    connection.settimeout(LIMIT)
    try:
        return connection.recv(100) == b""
    except ConnectionResetError:
        return True


def counted(node: Process, name: str) -> int:
    """A counter, as an admin over the port for lines sees it."""
    with node.tcp() as admin:
        admin.ask(f"auth {USER} {PASSWORD}")
        told = json.loads(admin.ask("cluster-state json")[0].partition(b" ")[2])
    number = told["counters"][name]
    assert isinstance(number, int)
    return number


def test_so_many_may_connect_over_all_transports(start: Start) -> None:
    node = start(variables={"NUN_MAX_CONNECTIONS": str(MOST)})
    node.create("d")
    there = [node.tcp(), node.tcp(), node.ws(), node.ws()]
    fifth = socket.create_connection(node.address("HTTP"), LIMIT)
    for kind in ("WebSocket", "HTTP"):
        with socket.create_connection(node.address(kind), LIMIT) as over:
            assert is_closed(over)
    # On the port where nodes come too it is said.
    with node.tcp() as over:
        over.send(b"ping\n")
        assert over.rest() == b"error there are too many connections \n"
    # Those who are there are served, and who leaves makes room.
    assert there[0].ask("ping") == [b"pong\n", b"ok \n"]
    fifth.close()
    there.pop().close()
    wait_until(lambda: _may_ask(node), "room")
    assert counted(node, "refused_connections") >= 3
    # For all that came and went nothing is left.
    for client in there:
        client.close()
    for _ in range(3 * MOST):
        assert node.post("ping") == "pong\n"
        node.tcp().close()
        node.ws().close()
    no_trace_of_trouble(node.log)


def _may_ask(node: Process) -> bool:
    with node.tcp() as client:
        client.send(b"ping\n")
        return client.line() == b"pong\n"


def test_so_many_may_connect_from_one_address(start: Start) -> None:
    node = start(variables={"NUN_MAX_CONNECTIONS_PER_ADDRESS": "2"})
    there = [node.ws(), node.ws()]
    with socket.create_connection(node.address("WebSocket"), LIMIT) as over:
        assert is_closed(over)
    with socket.socket() as other:
        # Another address of the loopback network.
        other.bind(("127.0.0.2", 0))
        other.settimeout(LIMIT)
        other.connect(node.address("TCP"))
        assert other.recv(100) == b"ok \n"
        other.sendall(b"ping\n")
        assert other.recv(100) == b"pong\nok \n"
    for client in there:
        client.close()


def test_who_guesses_waits_and_nobody_else(start: Start) -> None:
    node = start(variables={"NUN_FAILED_LOGINS": "3"})
    node.create("d")
    guessing = [node.tcp() for _ in range(5)]
    for client in guessing:
        client.send(b"use-db d wrong\n" * 20)
    wait_until(lambda: "have to wait now" in node.log, "a line in the log")
    # From another address all is as ever.
    with socket.socket() as other:
        other.bind(("127.0.0.2", 0))
        other.settimeout(LIMIT)
        other.connect(node.address("TCP"))
        began = time.monotonic()
        other.sendall(b"use-db d tok\nget k\n")
        came = b""
        while came.count(b"\n") < 4:
            came += other.recv(100)
        assert came == b"ok \nok \nvalue <Empty>\nok \n"
        assert time.monotonic() - began < LIMIT / 2
    for client in guessing:
        client.close()
    assert node.log.count("have to wait now") == 1


def test_logins_and_admins_are_written_down(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    node = start(variables={"NUN_AUDIT_FILE": str(path)})
    node.create("d", "hush")
    assert node.post("use-db d wrong") == "Invalid token"
    node.stop()
    events = [json.loads(line)["fields"] for line in path.read_text().splitlines()]
    assert [(event["command"], event["outcome"]) for event in events] == [
        ("auth", "ok"),
        ("create-db", "ok"),
        ("use-db", "error Invalid token"),
    ]
    assert "hush" not in path.read_text()
    assert "create-db" not in node.log


def test_an_audit_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    where = str(tmp_path / "nowhere" / "audit.json")
    status, _, told = run_to_end(cwd=tmp_path, NUN_AUDIT_FILE=where, **ANY_PORTS)
    assert status == 1
    assert f"The audit cannot be written to {where}: No such file or directory." in told
