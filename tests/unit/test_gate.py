"""How many may be connected."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher

from nuntwist.core.counters import Counters
from nuntwist.net.gate import SPARE, TELL_SECONDS, Gate, Gated
from nuntwist.net.guard import make_guard
from nuntwist.net.tcp import EXCESS_SECONDS
from nuntwist.net.tcp_port import LineFactory
from nuntwist.testing import MemoryNode, MemoryTransport


def made(most: int = 3, most_of_one: int = 0) -> tuple[Clock, Counters, Gate]:
    clock, counters = Clock(), Counters()
    return clock, counters, Gate(most, most_of_one, counters, clock.seconds)


def test_so_many_and_no_more() -> None:
    _, counters, gate = made(3)
    assert [gate.enter(host) for host in "aabbb"] == [True, True, True, False, False]
    assert counters.refused_connections == 2
    gate.leave("a")
    assert [gate.enter("c"), gate.enter("c")] == [True, False]


def test_so_many_of_one_address() -> None:
    _, _, gate = made(100, 2)
    assert [gate.enter(host) for host in "aaab"] == [True, True, False, True]
    # A customer's addresses are one.
    assert [gate.enter(f"2001:db8::{n}") for n in range(3)] == [True, True, False]
    gate.leave("2001:db8::ffff")
    assert gate.enter("2001:db8::7")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_what_goes_makes_room_for_as_many(steps: list[tuple[str, bool]]) -> None:
    _, _, gate = made(5, 2)
    there: list[str] = []
    for host, comes in steps:
        if comes:
            fits = len(there) < 5 and there.count(host) < 2
            assert gate.enter(host) == fits
            if fits:
                there.append(host)
        elif host in there:
            there.remove(host)
            gate.leave(host)
    for host in there:
        gate.leave(host)
    assert [gate.enter(host) for host in "aabbc"] == [True] * 5


def test_it_is_logged_once_a_minute_with_a_count() -> None:
    clock, _, gate = made(0)
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    try:
        for _ in range(10):
            gate.enter("a")
        assert [event["count"] for event in events] == [1]
        clock.advance(TELL_SECONDS)
        gate.enter("b")
        assert [(event["count"], event["host"]) for event in events[1:]] == [(10, "b")]
    finally:
        globalLogPublisher.removeObserver(events.append)


def test_a_factory_that_makes_none_counts_none() -> None:
    _, _, gate = made(1)

    class Refusing(Factory):
        def buildProtocol(self, addr: object) -> None:
            return None

    there = IPv4Address("TCP", "a", 1)
    assert Gated(Refusing(), gate).buildProtocol(there) is None
    protocol = Gated(Factory.forProtocol(Protocol), gate).buildProtocol(there)
    assert isinstance(protocol, Protocol)
    assert Gated(Factory.forProtocol(Protocol), gate).buildProtocol(there) is None


# -- the port where nodes come too --


class Halves(MemoryTransport):
    """One whose other side closes as soon as it is told of the end."""

    def loseWriteConnection(self) -> None:
        self.loseConnection()


class Port:
    """A port for lines with a gate, and what connects to it."""

    def __init__(self, most: int) -> None:
        self.node = MemoryNode()
        counters, clock = self.node.node.counters, self.node.clock
        self.gate = Gate(most, 0, counters, clock.seconds)
        self.peers: list[Protocol] = []
        guard = make_guard(counters, clock.callLater, clock.seconds, gate=self.gate)
        self.factory = LineFactory(self.node.node.pipeline, guard, clock.callLater, self._peer)
        self.gated = Gated(self.factory, self.gate)

    def _peer(self) -> Protocol:
        self.peers.append(Protocol())
        return self.peers[-1]

    def connect(self) -> tuple[Protocol, MemoryTransport] | None:
        protocol = self.gated.buildProtocol(IPv4Address("TCP", "10.0.0.1", 1))
        if protocol is None:
            return None
        assert isinstance(protocol, Protocol)
        transport = Halves()
        protocol.makeConnection(transport)
        return protocol, transport


@pytest.fixture
def port() -> Port:
    port = Port(2)
    assert port.connect() is not None
    assert port.connect() is not None
    return port


def test_a_client_over_the_limit_is_told(port: Port) -> None:
    over = port.connect()
    assert over is not None
    protocol, transport = over
    protocol.dataReceived(b"ping\n")
    assert transport.value() == b"ok \nerror there are too many connections \n"
    assert transport.disconnecting
    assert port.node.node.counters.refused_connections == 1


def test_who_says_nothing_over_the_limit_is_told_soon(port: Port) -> None:
    over = port.connect()
    assert over is not None
    over[0].dataReceived(b"pee")
    port.node.clock.advance(EXCESS_SECONDS)
    assert over[1].value() == b"ok \nerror there are too many connections \n"
    assert over[1].disconnecting


def test_a_node_over_the_limit_goes_on(port: Port) -> None:
    over = port.connect()
    assert over is not None
    over[0].dataReceived(b"peer 1 0\n")
    port.node.clock.advance(10 * EXCESS_SECONDS)
    assert len(port.peers) == 1
    assert over[1].value() == b"ok \n"


def test_the_spare_ones_are_not_many(port: Port) -> None:
    assert [port.connect() is not None for _ in range(SPARE + 2)] == [*[True] * SPARE, False, False]
