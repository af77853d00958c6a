"""Commands by the rate: late, but all of them, in order, and nobody else waits."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuntwist.net.guard import Rules
from nuntwist.net.rate import Bucket
from nuntwist.testing import Connection, MemoryNode, client_frame

RATE = 100


@pytest.fixture
def node() -> MemoryNode:
    return made(RATE)


def made(rate: int) -> MemoryNode:
    node = MemoryNode(rules=Rules(rate=rate))
    client = node.tcp()
    for command in ("auth nun nun-pwd", "create-db d t"):
        client.send(command)
        node.clock.advance(2.0)
    client.close()
    return node


def selected(node: MemoryNode, kind: str) -> Connection:
    client: Connection = node.tcp() if kind == "tcp" else node.ws()
    client.deliver(encoded(kind, [b"use-db d t"]))
    node.clock.advance(1.0)
    client.taken()
    return client


def encoded(kind: str, commands: list[bytes]) -> bytes:
    if kind == "tcp":
        return b"".join(command + b"\n" for command in commands)
    return b"".join(client_frame(command) for command in commands)


def pairs(numbers: range) -> list[bytes]:
    return [command for n in numbers for command in (b"set k %d" % n, b"get k")]


def values(connection: Connection) -> list[int]:
    """The numbers among what was answered."""
    return [int(part.split(b"\n")[0]) for part in connection.taken().split(b"value ")[1:]]


@given(
    st.integers(1, 50), st.lists(st.tuples(st.integers(0, 90), st.integers(0, 300)), max_size=30)
)
def test_a_bucket_gives_the_rate_and_a_burst_at_most(
    rate: int, steps: list[tuple[int, int]]
) -> None:
    now, taken = 0.0, 0
    bucket = Bucket(rate, now)
    for wanted, hundredths in steps:
        now += hundredths / 100
        got = bucket.take(wanted, now)
        taken += got
        assert 0 <= got <= wanted
        assert taken <= rate * (now + 1.0) + 1e-6
    # What it has not given it gives as soon as it has filled.
    assert bucket.take(10_000, now + 2.0) == rate


@pytest.mark.parametrize("kind", ["tcp", "ws"])
def test_a_thousand_in_a_chunk_come_by_the_rate(node: MemoryNode, kind: str) -> None:
    client = selected(node, kind)
    client.protocol.dataReceived(encoded(kind, pairs(range(500))))
    node.settle()
    seen, passed = values(client), 0.0
    assert len(seen) <= RATE / 2 + 1
    assert client.transport.producerState == "paused"
    while len(seen) < 500 and passed < 60.0:
        before = len(seen)
        node.clock.advance(0.05)
        passed += 0.05
        seen += values(client)
        assert len(seen) - before <= RATE / 20 + 1
    assert seen == list(range(500))
    assert 8.5 <= passed <= 9.5
    node.clock.advance(0.1)
    assert client.transport.producerState == "producing"
    assert node.node.counters.slowed == 1


@pytest.mark.parametrize("kind", ["tcp", "ws"])
def test_who_keeps_to_the_rate_never_waits(node: MemoryNode, kind: str) -> None:
    client = selected(node, kind)
    for _ in range(200):
        node.clock.advance(1.0)
        client.deliver(encoded(kind, [b"ping"] * RATE))
        assert client.taken().count(b"pong") == RATE
    assert node.node.counters.slowed == 0


def test_others_do_not_wait(node: MemoryNode) -> None:
    client, other = selected(node, "tcp"), node.tcp()
    client.protocol.dataReceived(b"ping\n" * 5_000)
    for _ in range(50):
        node.clock.advance(0.1)
        assert other.ask("ping") == "pong\nok \n"
    assert client.taken().count(b"pong") < 5_000


def test_without_a_rate_chunks_go_to_the_pipeline_itself() -> None:
    node = MemoryNode()
    line, frames = node.tcp(), node.ws()
    assert line.protocol._receive == node.node.pipeline.receive
    assert frames.protocol._pass_on == node.node.pipeline.receive


def test_who_sends_no_more_is_answered_all_the_same(node: MemoryNode) -> None:
    client = selected(node, "tcp")
    client.protocol.dataReceived(b"ping\n" * 300)
    client.protocol.readConnectionLost()
    node.clock.advance(1.0)
    assert not client.closed
    node.clock.advance(2.0)
    assert client.taken().count(b"pong") == 300
    assert client.closed


def test_a_websocket_that_closes_is_answered_all_the_same(node: MemoryNode) -> None:
    client = node.ws()
    client.protocol.dataReceived(client_frame(b"ping") * 300 + client_frame(b"\x03\xe8", 8))
    # What comes behind the close is nothing.
    client.protocol.dataReceived(client_frame(b"ping") * 300)
    node.clock.advance(5.0)
    frames = client.received_frames()
    assert [opcode for opcode, _ in frames] == [1] * 600 + [8]
    assert client.closed


def test_what_waits_of_one_that_is_gone_or_sent_away_is_dropped(node: MemoryNode) -> None:
    gone, sent_away = selected(node, "tcp"), selected(node, "tcp")
    for client in (gone, sent_away):
        client.protocol.dataReceived(b"increment n\n" * 300)
    gone.close()
    node.node.pipeline.connections.dismiss(sent_away.protocol.client)
    node.clock.advance(10.0)
    assert sent_away.closed
    assert not node.guard.rate._waiting  # type: ignore[union-attr]
    assert 2 * (RATE - 1) <= int(node.post("use-db d t; get n").split("value ")[1]) <= 2 * RATE + 10


def test_at_a_stop_what_waits_is_run(node: MemoryNode) -> None:
    client = selected(node, "tcp")
    client.protocol.dataReceived(b"ping\n" * 2_000)
    rate = node.guard.rate
    assert rate is not None
    rate.end()
    node.lines.finish_all()
    node.settle()
    assert client.taken().count(b"pong") == 2_000
    assert client.closed


def request(count: int) -> bytes:
    body = b";".join([b"ping"] * count)
    return b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def test_all_requests_of_a_connection_count_together(node: MemoryNode) -> None:
    connection = Connection(node, node.site)
    connection.deliver(request(RATE))
    assert connection.taken().count(b"pong") == RATE
    connection.deliver(request(RATE) + request(10))
    assert connection.taken() == b""
    node.clock.advance(0.9)
    assert connection.taken() == b""
    node.clock.advance(0.3)
    assert connection.taken().count(b"pong") == RATE + 10
    # Another connection has its own.
    other = Connection(node, node.site)
    other.deliver(request(RATE))
    assert other.taken().count(b"pong") == RATE


def test_who_takes_no_answers_does_not_use_up_its_rate(node: MemoryNode) -> None:
    client = selected(node, "tcp")
    client.protocol.dataReceived(b"ping\n" * 1_000)
    producer = client.transport.producer
    producer.pauseProducing()
    node.clock.advance(60.0)
    waited = len(client.protocol.client.backlog)
    assert waited <= 1
    producer.resumeProducing()
    node.clock.advance(60.0)
    assert client.taken().count(b"pong") == 1_000
    assert client.transport.producerState == "producing"


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["tcp", "ws"]),
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 200), st.booleans()), max_size=12),
)
def test_whatever_comes_is_run_once_and_in_order(
    kind: str, rate: int, steps: list[tuple[int, int, bool]]
) -> None:
    node = made(rate)
    client = selected(node, kind)
    total, answers = 0, b""
    for count, hundredths, pauses in steps:
        numbers = range(total, total + count)
        total += count
        client.deliver(encoded(kind, pairs(numbers)))
        if pauses:
            client.transport.producer.pauseProducing()
        node.clock.advance(hundredths / 100)
        if pauses:
            client.transport.producer.resumeProducing()
        answers += client.taken()
    for _ in range(200):
        client.deliver(b"")
        node.clock.advance(1 + 120 / rate)
        answers += client.taken()
        if answers.count(b"value ") == total:
            break
    client.taken()
    found = [int(part.split(b"\n")[0]) for part in answers.split(b"value ")[1:]]
    assert found == list(range(total))
