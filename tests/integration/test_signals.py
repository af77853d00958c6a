"""Stopping a real node: what is in flight is answered, nothing new comes in, status 0."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
from collections.abc import Callable

import pytest

from tests.integration.conftest import Start
from tests.integration.harness import (
    CLOSE,
    LIMIT,
    OK,
    PASSWORD,
    TEXT,
    USER,
    Process,
    barely_reading,
    close_code,
    frame,
    no_trace_of_trouble,
    wait_until,
)

GOING_AWAY = 1001
HASHES = 10
"""Commands that wait for a hash, one after the other: the node is busy with them for a while."""

SLOW = [b"create-db in-flight-%d tok" % number for number in range(HASHES)]
CREATED = [b"create-db success\n", OK]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda one: one.name)
def test_an_idle_node_ends_with_status_0(start: Start, number: signal.Signals) -> None:
    node = start()
    assert node.stop(number) == 0
    no_trace_of_trouble(node.log)
    assert f"stopping on {number.name}" in node.log
    assert not list(node.directory.glob("twistd*"))


def test_open_connections_are_closed_each_in_its_way(node: Process) -> None:
    node.create("d")
    line, frames, half = node.select("d"), node.ws(), node.ws()
    assert frames.ask("use-db d tok; watch k")[:1] == [OK]
    assert frames.answer() == [OK]
    half.socket.sendall(frame(b"get k")[:3])
    raw = socket.create_connection(node.address("WebSocket"), LIMIT)
    kept = http.client.HTTPConnection(*node.address("HTTP"), timeout=LIMIT)
    kept.request("POST", "/", b"ping")
    assert kept.getresponse().read() == b"pong\n"
    node.send_signal(signal.SIGTERM)
    assert line.rest() == b""
    for client in (frames, half):
        ((opcode, payload),) = client.rest()
        assert (opcode, close_code(payload)) == (CLOSE, GOING_AWAY)
        assert payload[2:] == b"the node is stopping"
    assert raw.recv(1) == b""
    assert kept.sock.recv(1) == b""
    assert node.wait() == 0
    no_trace_of_trouble(node.log)


def test_commands_that_wait_for_a_hash_are_answered(start: Start) -> None:
    """They are in flight when the signal comes; so are those behind them."""
    # Where this process stands still for a second, they are done when it looks.
    assert any(_stopped_within_hashes(start()) for _ in range(4))


def _stopped_within_hashes(node: Process) -> bool:
    """Stop a node that hashes; gives whether it was seen at work, and accepted nobody any more."""
    line = node.tcp()
    frames = node.ws()
    assert line.ask(f"auth {USER} {PASSWORD}")[0] == b"valid auth\n"
    assert frames.ask(f"auth {USER} {PASSWORD}")[0] == b"valid auth\n"
    line.send(b"ping\n" + b"\n".join(SLOW) + b"\nping\n")
    assert line.answer() == [b"pong\n", OK]
    frames.socket.sendall(frame(b"ping") + frame(b"; ".join(SLOW).replace(b"in-", b"ws-")))
    assert frames.answer() == [b"pong\n", OK]
    node.send_signal(signal.SIGTERM)
    wait_until(lambda: "stopping on" in node.log, "the stop to begin")
    assert node.child is not None
    _refused(node)
    at_work = node.child.poll() is None
    assert [line.answer() for _ in SLOW] == [CREATED] * HASHES
    assert line.answer() == [b"pong\n", OK]
    assert line.rest() == b""
    assert [frames.answer() for _ in SLOW] == [CREATED] * HASHES
    ((opcode, payload),) = frames.rest()
    assert (opcode, close_code(payload)) == (CLOSE, GOING_AWAY)
    assert node.wait() == 0
    no_trace_of_trouble(node.log)
    node.start()
    assert node.admin("debug list-dbs").count("-flight-") == 2 * HASHES
    assert node.stop() == 0
    return at_work


def _refused(node: Process) -> None:
    """Nothing new is accepted: asked before the waiting commands can be done."""
    for what in ("TCP", "WebSocket", "HTTP"):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(node.address(what), LIMIT)


def test_a_request_under_way_is_answered(node: Process) -> None:
    body = "; ".join(["auth admin s3cr3t-pwd", *(one.decode() for one in SLOW)])
    answers: list[str] = []
    request = threading.Thread(target=lambda: answers.append(node.post(body)))
    request.start()
    with node.tcp() as watcher:
        watcher.ask(f"auth {USER} {PASSWORD}")
        wait_until(lambda: b"in-flight-0 " in b"".join(watcher.ask("debug list-dbs")), "a first")
        node.send_signal(signal.SIGTERM)
        request.join(LIMIT)
    assert answers == ["valid auth\n" + ";create-db success\n" * HASHES]
    assert node.wait() == 0


@pytest.mark.parametrize("by", ["tcp", "ws"])
def test_writers_under_way_lose_no_answer(node: Process, by: str) -> None:
    """Whatever was answered is kept; the answers are a whole row without a gap or an error."""
    node.create("d")
    client = node.select("d") if by == "tcp" else node.ws()
    if by == "ws":
        client.ask("use-db d tok")
    encode: Callable[[bytes], bytes] = frame if by == "ws" else lambda text: text + b"\n"
    stop = threading.Event()

    def write() -> None:
        number = 0
        try:
            while not stop.is_set():
                some = range(number, number + 100)
                client.socket.sendall(b"".join(encode(b"set k%d %d" % (n, n)) for n in some))
                number += 100
        except OSError:
            # The node has hung up.
            pass

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(2_000):
            assert client.answer() == [OK]
        node.send_signal(signal.SIGTERM)
        acknowledged = 2_000 + _count_to_the_end(client, by)
    finally:
        stop.set()
        writer.join(LIMIT)
    assert node.wait() == 0
    no_trace_of_trouble(node.log)
    node.start()
    with node.select("d") as reader:
        reader.send(b"".join(b"get k%d\n" % n for n in range(acknowledged)))
        for number in range(acknowledged):
            assert reader.answer() == [b"value %d\n" % number, OK]
        # Nothing was done without an answer, either.
        assert reader.ask(f"get k{acknowledged}") == [b"value <Empty>\n", OK]


def _count_to_the_end(client: object, by: str) -> int:
    if by == "tcp":
        rest = _rest_of(client)
        assert rest == OK * (len(rest) // len(OK))
        return len(rest) // len(OK)
    count = 0
    try:
        while True:
            opcode, payload = client.next()  # type: ignore[attr-defined]
            if opcode != TEXT:
                return count
            assert payload == OK
            count += 1
    except ConnectionResetError:
        return count


def _rest_of(client: object) -> bytes:
    """To the end, which is a reset where the node closed before it had read all."""
    lines = []
    try:
        while line := client.line():  # type: ignore[attr-defined]
            lines.append(line)
    except ConnectionResetError:
        pass
    return b"".join(line for line in lines if line.endswith(b"\n"))


def test_a_stop_writes_a_snapshot_and_the_next_start_replays_nothing(start: Start) -> None:
    node = start()
    node.create("d")
    with node.select("d") as client:
        client.send(b"".join(b"set k%d %d\n" % (n, n) for n in range(5_000)))
        for _ in range(5_000):
            assert client.answer() == [OK]
    assert node.stop() == 0
    assert list(node.data.glob("database-*.manifest"))
    node.start()
    assert ", 0 operations of the log replayed" in node.log
    with node.select("d") as client:
        assert client.ask("get k4999") == [b"value 4999\n", OK]
    node.kill()
    node.start()
    assert ", 0 operations of the log replayed" in node.log
    assert node.stop() == 0


def test_a_second_signal_does_no_harm(node: Process) -> None:
    node.create("d")
    with node.tcp() as line:
        line.ask(f"auth {USER} {PASSWORD}")
        line.send(b"ping\n" + b"\n".join(SLOW) + b"\n")
        assert line.answer() == [b"pong\n", OK]
        node.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping on" in node.log, "the stop to begin")
        node.send_signal(signal.SIGINT)
        node.send_signal(signal.SIGTERM)
        assert [line.answer() for _ in SLOW] == [CREATED] * HASHES
    assert node.wait() == 0
    no_trace_of_trouble(node.log)


def test_a_client_that_reads_nothing_cannot_hold_up_the_stop(node: Process) -> None:
    """It has answers in its queue that it never takes; the stop waits a little, then ends."""
    node.create("d")
    with node.select("d") as client, node.select("d") as deaf:
        client.ask("set k " + "x" * 100_000)
        barely_reading(deaf)
        deaf.send(b"get k\n" * 200)
        client.ask("ping")
        node.send_signal(signal.SIGTERM)
        assert node.wait() == 0
    assert "did not take their last answers" in node.log
    assert "Traceback" not in node.log


def test_the_log_of_a_stop_is_json_to_the_last_line(start: Start) -> None:
    node = start("--log-format", "json")
    with node.ws():
        assert node.stop() == 0
    messages = [json.loads(line)["message"] for line in node.log.splitlines()]
    assert any("stopping on SIGTERM" in message for message in messages)
    assert "stopped" in messages
