"""Handshakes, commands and silence have an end; who is honest, or waits for us, has not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher

from nuntwist.core.limits import Limits
from nuntwist.net import guard
from nuntwist.net.guard import Rules
from nuntwist.net.patience import (
    Patience,
)
from nuntwist.testing import Connection, FrameConnection, HeapClock, MemoryNode, client_frame

HANDSHAKE, COMMAND = 10.0, 60.0
TEXT, CONTINUATION, CLOSE, PING, PONG = 1, 0, 8, 9, 10
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture
def logged() -> Iterator[list[LogEvent]]:
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


@pytest.fixture
def node() -> MemoryNode:
    node = MemoryNode(limits=Limits(line=10_000), rules=Rules(HANDSHAKE, COMMAND))
    node.admin("create-db d t").close()
    return node


def part(payload: bytes, opcode: int, final: bool) -> bytes:
    """A frame of a fragmented message."""
    whole = client_frame(payload, opcode)
    return bytes((whole[0] if final else whole[0] & 0x7F,)) + whole[1:]


def dribble(connection: Connection, data: bytes, seconds: float, every: float = 1.0) -> float:
    """Deliver a byte a while; how long it took until the connection was closed, or to the end."""
    clock = connection.node.clock
    began = clock.seconds()
    at = 0
    while not connection.closed and clock.seconds() - began < seconds:
        connection.deliver(data[at : at + 1])
        at += 1
        clock.advance(every)
    return clock.seconds() - began


# -- by itself --


class One:
    """A connection."""

    def __init__(self, name: str, clock: Clock | HeapClock, says: bool = True) -> None:
        self.name, self.clock, self.says = name, clock, says
        self.ended: float | None = None

    def out_of_time(self) -> str | None:
        if not self.says:
            return None
        assert self.ended is None
        self.ended = self.clock.seconds()
        return self.name


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 700)), max_size=40))
def test_each_has_its_time_and_little_more(steps: list[tuple[int, bool, int]]) -> None:
    clock, ended = HeapClock(), list[str]()
    patience = Patience(10.0, clock.callLater, clock.seconds, ended.append)
    began: dict[int, float] = {}
    ones = [One(str(number), clock) for number in range(5)]
    for number, begins, hundredths in steps:
        one = ones[number]
        if begins and one.ended is None:
            patience.begin(one)
            began[number] = clock.seconds()
        elif one.ended is None:
            patience.forget(one)
            began.pop(number, None)
        clock.advance(hundredths / 100)
    clock.advance(22.0)
    assert sorted(ended) == sorted(str(number) for number in began)
    for number, since in began.items():
        at = ones[number].ended
        assert at is not None
        assert since + 10.0 <= at + 1e-6
        assert at <= since + 11.0
    assert not patience._since
    assert not clock.getDelayedCalls()


def test_none_is_timed_where_any_time_is_allowed() -> None:
    clock = Clock()
    patience = Patience(0.0, clock.callLater, clock.seconds, lambda _: None)
    patience.begin(One("a", clock))
    patience.forget(One("a", clock))
    assert not clock.getDelayedCalls()


def test_one_that_is_not_ended_is_not_told_of() -> None:
    clock, ended = Clock(), list[str]()
    patience = Patience(10.0, clock.callLater, clock.seconds, ended.append)
    patience.begin(One("a", clock, says=False))
    patience.begin(One("b", clock))
    clock.advance(11.0)
    assert ended == ["b"]


def test_sentences_are_right_for_one_too() -> None:
    sentences = {name: text for name, text in vars(guard).items() if name.isupper()}
    assert len(sentences) == 9
    for text in sentences.values():
        told = text.format(count=1, limit=10.0, last="192.168.1.1:54321", why="rubbish")
        assert not re.search(r"\b1 \w", told), told
        assert ": 1, the last one" in told


# -- handshakes --


def test_the_upgrade_of_a_websocket(node: MemoryNode, logged: list[LogEvent]) -> None:
    assert HANDSHAKE <= dribble(Connection(node, node.frames), UPGRADE, 100.0) <= HANDSHAKE + 2
    assert node.node.counters.late_handshakes == 1
    (line,) = [event for event in logged if "NUN_HANDSHAKE_TIMEOUT" in event["log_format"]]
    assert line["count"] == 1


def test_a_websocket_that_is_open_is_left_alone(node: MemoryNode) -> None:
    client = node.ws()
    node.clock.advance(1_000.0)
    assert client.ask("ping") == ["pong\n", "ok \n"]
    assert not client.closed


REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 100


def test_the_head_of_a_request(node: MemoryNode) -> None:
    connection = Connection(node, node.site)
    assert HANDSHAKE <= dribble(connection, REQUEST, 100.0) <= HANDSHAKE + 2
    assert connection.taken().startswith(b"HTTP/1.1 408 ")
    assert node.node.counters.late_handshakes == 1


def test_who_sends_nothing_over_http(node: MemoryNode) -> None:
    connection = Connection(node, node.site)
    node.clock.advance(HANDSHAKE + 1)
    assert connection.closed
    assert connection.taken() == b""


def test_the_head_of_a_later_request(node: MemoryNode) -> None:
    """Between two requests there is more time than within one."""
    connection = Connection(node, node.site)
    whole = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nping"
    connection.deliver(whole)
    node.clock.advance(HANDSHAKE + 10)
    connection.deliver(whole)
    assert connection.taken().count(b"pong") == 2
    node.clock.advance(HANDSHAKE + 10)
    assert not connection.closed
    assert HANDSHAKE <= dribble(connection, REQUEST, 100.0) <= HANDSHAKE + 2


@pytest.mark.parametrize("length", [b"Content-Length: 4\r\n\r\nping", b"\r\n"])
def test_a_head_that_came_behind_another_request(node: MemoryNode, length: bytes) -> None:
    connection = Connection(node, node.site)
    connection.deliver(b"POST / HTTP/1.1\r\nHost: x\r\n" + length + b"\r\nPOST / HT")
    assert connection.taken().count(b"HTTP/1.1 200") == 1
    node.clock.advance(HANDSHAKE + 1)
    assert connection.taken().startswith(b"HTTP/1.1 408 ")
    node.clock.advance(3)
    assert connection.closed


# -- commands --


def test_a_line_that_does_not_end(node: MemoryNode, logged: list[LogEvent]) -> None:
    client = node.tcp()
    client.deliver(b"use-db d t\n")
    assert COMMAND <= dribble(client, b"set k " + b"x" * 500, 300.0) <= COMMAND + 5
    assert client.received() == "ok \nerror a command that has begun must end within 60 s \n"
    assert node.node.counters.late_commands == 1
    assert any("NUN_COMMAND_TIMEOUT" in event["log_format"] for event in logged)


def test_a_line_that_is_too_long_has_to_end_too(node: MemoryNode) -> None:
    client = node.tcp()
    client.deliver(b"x" * 20_000)
    assert COMMAND <= dribble(client, b"x" * 500, 300.0) <= COMMAND + 5


def test_half_of_a_node_has_to_go_on(node: MemoryNode) -> None:
    node.lines._peers = lambda: None
    client = node.tcp()
    client.deliver(b"pe")
    node.clock.advance(COMMAND + 5)
    assert client.closed


@pytest.mark.parametrize("kind", ["tcp", "ws"])
def test_slow_commands_that_end_in_time_go_on_for_ever(node: MemoryNode, kind: str) -> None:
    """Each chunk ends one command and begins another."""
    client: Connection = node.tcp() if kind == "tcp" else node.ws()
    whole = b"ping\n" if kind == "tcp" else client_frame(b"ping")
    client.deliver(whole[:2])
    for _ in range(20):
        node.clock.advance(COMMAND / 2)
        client.deliver(whole[2:] + whole[:2])
    assert not client.closed
    assert client.taken().count(b"pong") == 20
    client.deliver(whole[2:])
    node.clock.advance(10 * COMMAND)
    assert not client.closed
    assert node.node.counters.late_commands == 0


def closing(client: FrameConnection) -> tuple[int, str]:
    opcode, payload = client.received_frames()[-1]
    assert opcode == CLOSE
    return int.from_bytes(payload[:2], "big"), payload[2:].decode()


@pytest.mark.parametrize(
    "beginning",
    [
        client_frame(b"ping")[:1],
        client_frame(b"ping")[:8],
        client_frame(b"set k " + b"x" * 1_000)[:100],
        part(b"set k ", TEXT, False),
        part(b"set k ", TEXT, False) + part(b"x", CONTINUATION, False),
        client_frame(b"hello", PING)[:4],
    ],
)
def test_a_message_that_does_not_end(node: MemoryNode, beginning: bytes) -> None:
    client = node.ws()
    client.deliver(client_frame(b"ping") + beginning)
    node.clock.advance(COMMAND - 1)
    assert not client.closed
    node.clock.advance(COMMAND / 10)
    assert closing(client) == (1008, "a message that has begun must end within 60 s")
    node.clock.advance(5)
    assert client.closed
    assert node.node.counters.late_commands == 1


@pytest.mark.parametrize(
    "between", [part(b"x", CONTINUATION, False), client_frame(b"", PING), client_frame(b"", PONG)]
)
def test_nothing_within_a_message_prolongs_it(node: MemoryNode, between: bytes) -> None:
    client = node.ws()
    client.deliver(part(b"set k ", TEXT, False))
    began = node.clock.seconds()
    while not client.closed and node.clock.seconds() < began + 300:
        client.deliver(between)
        node.clock.advance(5)
    assert COMMAND <= node.clock.seconds() - began <= COMMAND + 12


def test_a_flood_that_we_are_slow_with_is_not_late(node: MemoryNode) -> None:
    client = node.ws()
    client.protocol.dataReceived(client_frame(b"x" * 50, PING) * 200)
    assert client.protocol._feeding
    node.guard.commands._look()
    node.clock.advance(10 * COMMAND)
    assert not client.closed
    assert node.node.counters.late_commands == 0


@pytest.mark.parametrize("kind", ["tcp", "ws"])
def test_who_is_not_read_cannot_be_late(node: MemoryNode, kind: str) -> None:
    client: Connection = node.tcp() if kind == "tcp" else node.ws()
    whole = b"ping\n" if kind == "tcp" else client_frame(b"ping")
    client.protocol.dataReceived(whole[:3])
    producer = client.transport.producer
    assert producer is not None
    producer.pauseProducing()
    node.clock.advance(10 * COMMAND)
    assert not client.closed
    producer.resumeProducing()
    node.settle()
    # From now on it has the whole time.
    node.clock.advance(COMMAND - 1)
    assert not client.closed
    node.clock.advance(5)
    assert client.closed or closing(client)  # type: ignore[arg-type]
    assert node.node.counters.late_commands == 1


@pytest.mark.parametrize("kind", ["tcp", "ws"])
def test_what_was_sent_before_is_answered_first(node: MemoryNode, kind: str) -> None:
    client: Connection = node.tcp() if kind == "tcp" else node.ws()
    client.deliver(b"pi" if kind == "tcp" else client_frame(b"ping")[:3])
    client.protocol.client.waiting = True
    node.clock.advance(1.5 * COMMAND)
    assert client.taken() == b""
    client.protocol.client.waiting = False
    node.clock.advance(COMMAND)
    assert b"must end within" in client.taken()
    assert node.node.counters.late_commands == 1


def test_a_body_that_does_not_end(node: MemoryNode) -> None:
    connection = Connection(node, node.site)
    connection.deliver(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
    assert COMMAND <= dribble(connection, b"x" * 500, 300.0) <= COMMAND + 5
    assert connection.taken().startswith(b"HTTP/1.1 408 ")
    assert node.node.counters.late_commands == 1


def test_chunks_that_do_not_end(node: MemoryNode) -> None:
    connection = Connection(node, node.site)
    connection.deliver(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert COMMAND <= dribble(connection, b"1\r\nx\r\n" * 100, 300.0) <= COMMAND + 5


def test_a_slow_body_that_ends_in_time_is_answered(node: MemoryNode) -> None:
    connection = Connection(node, node.site)
    connection.deliver(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n")
    dribble(connection, b"ping", 40.0, 10.0)
    assert connection.taken().endswith(b"pong\n")
    node.clock.advance(30)
    assert not connection.closed


# -- silence --


@pytest.fixture
def impatient() -> MemoryNode:
    node = MemoryNode(rules=Rules(idle=80.0))
    node.admin("create-db d t").close()
    return node


def every(seconds: float, times: int, node: MemoryNode, act: Callable[[], object]) -> None:
    for _ in range(times):
        node.clock.advance(seconds)
        act()


def test_a_silent_client_over_tcp(impatient: MemoryNode, logged: list[LogEvent]) -> None:
    client = impatient.tcp()
    every(60.0, 5, impatient, lambda: client.ask("ping"))
    assert not client.closed
    impatient.clock.advance(79.0)
    assert not client.closed
    impatient.clock.advance(22.0)
    assert client.closed
    assert impatient.node.counters.idle_closed == 1
    assert any("NUN_IDLE_TIMEOUT" in event["log_format"] for event in logged)


def test_a_websocket_that_answers_pings_lives(impatient: MemoryNode) -> None:
    client = impatient.ws()
    pings = 0

    def look() -> None:
        nonlocal pings
        for opcode, payload in client.received_frames():
            assert (opcode, payload) == (PING, b"")
            pings += 1
            client.deliver(client_frame(payload, PONG))

    every(10.0, 100, impatient, look)
    assert not client.closed
    assert 10 <= pings <= 25


def test_a_websocket_that_does_not_answer_is_closed(impatient: MemoryNode) -> None:
    client = impatient.ws()
    impatient.clock.advance(60.0)
    assert client.received_frames() == [(PING, b"")]
    impatient.clock.advance(35.0)
    assert closing(client) == (1001, "silent for too long")
    impatient.clock.advance(5.0)
    assert client.closed
    assert impatient.node.counters.idle_closed == 1
    assert not impatient.timers()


def test_who_waits_for_us_is_not_silent(impatient: MemoryNode) -> None:
    client = impatient.tcp()
    client.protocol.client.waiting = True
    impatient.clock.advance(1_000.0)
    assert not client.closed
    client.protocol.client.waiting = False
    impatient.clock.advance(120.0)
    assert client.closed


def test_by_default_silence_is_right() -> None:
    node = MemoryNode()
    line, frames = node.tcp(), node.ws()
    node.clock.advance(1_000_000.0)
    assert not line.closed
    assert frames.received_frames() == []


def test_http_is_silent_no_longer_than_others() -> None:
    node = MemoryNode(rules=Rules(idle=5.0))
    connection = Connection(node, node.site)
    connection.deliver(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nping")
    node.clock.advance(4.0)
    assert not connection.closed
    node.clock.advance(2.0)
    assert connection.closed
