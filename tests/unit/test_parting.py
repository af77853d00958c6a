"""Who is sent away goes, and holds up nobody on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from nuntwist.core.client import Client
from nuntwist.core.counters import Counters
from nuntwist.net.gate import Gate
from nuntwist.net.guard import Rules
from nuntwist.net.parting import SECONDS, Parting, unsent
from nuntwist.net.patience import AT_ONCE, Patience
from nuntwist.net.proxies import Trusted
from nuntwist.testing import Connection, MemoryNode, client_frame


class Transport:
    """With something that waits for the socket."""

    def __init__(self, waiting: int) -> None:
        self.dataBuffer = b"x" * waiting
        self.offset = 0
        self._tempDataLen = 0
        self.aborted = False

    def abortConnection(self) -> None:
        self.aborted = True

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 7)


def patience(clock: Clock, allowed: float = SECONDS) -> Patience:
    return Patience(allowed, clock.callLater, clock.seconds, lambda who: None)


def run(clock: Clock, seconds: float) -> None:
    for _ in range(int(seconds * 4)):
        clock.advance(0.25)


# -- who does not go --


def test_whoever_takes_nothing_is_cut_off() -> None:
    clock, transport, told = Clock(), Transport(100), list[str]()
    Parting(transport, Patience(SECONDS, clock.callLater, clock.seconds, told.append))
    run(clock, SECONDS - 1)
    assert not transport.aborted
    run(clock, 3)
    assert transport.aborted
    assert told == ["192.0.2.1:7"]
    assert clock.getDelayedCalls() == []


def test_whoever_takes_some_has_time_for_the_rest() -> None:
    clock, transport = Clock(), Transport(100)
    Parting(transport, patience(clock))
    for _ in range(5):
        transport.offset += 10
        run(clock, SECONDS)
        assert not transport.aborted
    transport.offset = 100
    assert unsent(transport) == 0
    # All is taken, and it has not said goodbye.
    run(clock, 2 * SECONDS)
    assert transport.aborted


def test_whoever_goes_is_left_alone() -> None:
    clock, transport = Clock(), Transport(100)
    parting = Parting(transport, patience(clock))
    parting.gone()
    run(clock, 3 * SECONDS)
    assert not transport.aborted


# -- the looks --


class Busy:
    """Has to be waited for again and again."""

    def __init__(self, waits: Patience) -> None:
        self._waits = waits

    def out_of_time(self) -> str | None:
        self._waits.begin(self)
        return None


def test_there_is_one_timer_however_many_begin_anew() -> None:
    clock = Clock()
    waits = patience(clock, 60.0)
    for _ in range(20):
        waits.begin(Busy(waits))
        run(clock, 3)
    for _ in range(20):
        run(clock, 60)
        assert len(clock.getDelayedCalls()) == 1


def test_thousands_that_came_together_are_ended_a_few_at_a_time() -> None:
    clock, ended = Clock(), list[int]()

    class Late:
        def out_of_time(self) -> str | None:
            ended.append(1)
            return "somebody"

    # A clock would run what is due at once in the same go; a reactor has a round between.
    looks: list[Callable[[], None]] = []
    waits = Patience(10.0, lambda _, look: looks.append(look), clock.seconds, lambda _: None)
    for _ in range(3 * AT_ONCE):
        waits.begin(Late())
    clock.advance(10.0)
    counts = []
    while looks:
        looks.pop()()
        counts.append(len(ended))
    assert counts == [AT_ONCE, 2 * AT_ONCE, 3 * AT_ONCE]


def test_a_node_that_has_stopped_waits_for_nobody() -> None:
    node = MemoryNode(rules=Rules(handshake=10.0, command=10.0, idle=10.0))
    node.tcp().deliver(b"half")
    node.ws().deliver(client_frame(b"", 8))
    assert node.clock.getDelayedCalls() != []
    node.guard.stop()
    assert [one for one in node.clock.getDelayedCalls() if one not in node.timers()] == []
    node.tcp().deliver(b"half")
    node.clock.advance(30)
    assert node.node.counters.late_commands == 0


# -- what one does to others --


def fails_for(node: MemoryNode, connection: Any) -> None:
    """Make ``ping`` of one connection fail in a way nobody foresaw."""
    handlers = node.node.pipeline.deciding.handlers
    usual = handlers["ping"]

    def ping(client: Client, arguments: Any) -> Any:
        if connection is None or client is connection.protocol.client:
            raise RuntimeError("unforeseen")
        return usual(client, arguments)

    handlers["ping"] = ping


def test_an_error_of_one_whose_commands_wait_holds_up_no_other() -> None:
    node = MemoryNode(rules=Rules(rate=2))
    bad, good = node.tcp(), node.tcp()
    fails_for(node, bad)
    bad.send("list-commands\nlist-commands\nping")
    good.send("ping\nping\nping\nping")
    node.clock.advance(10)
    assert good.received().count("pong") == 4
    assert bad.closed


def test_an_error_over_http_leaves_no_count_behind() -> None:
    node = MemoryNode()
    fails_for(node, None)
    assert b" 500 " in node.request(b"POST", "ping")[0]
    assert node.node.counters.connections == 0


@pytest.mark.parametrize("kind", ["tcp", "ws"])
@pytest.mark.parametrize("before", [True, False])
def test_who_is_signed_out_and_takes_nothing_is_cut_off(kind: str, before: bool) -> None:
    node = MemoryNode()
    admin = node.admin(
        "create-db d t", "use-db d t", "create-user ana x", "set-permissions ana r *"
    )
    client: Any = node.tcp() if kind == "tcp" else node.ws()
    client.ask("use-db d ana x")
    backpressure = client.transport.producer
    if before:
        backpressure.pauseProducing()
    else:
        # Something that it has asked for is still under way.
        client.protocol.client.waiting = True
    admin.ask("drop-user ana")
    if not before:
        assert not client.closed
        backpressure.pauseProducing()
    node.settle()
    assert client.closed


def test_a_websocket_that_is_gone_holds_nothing() -> None:
    node = MemoryNode()
    client = node.ws()
    whole = client_frame(b"x" * 100_000)
    client.protocol.dataReceived(bytes((whole[0] & 0x7F,)) + whole[1:])
    node.settle()
    assert node.guard.unfinished.total > 0
    # Autobahn is given these over several turns.
    client.protocol.dataReceived(client_frame(b"", 9) * 40)
    client.protocol.connectionLost(Failure(ConnectionLost()))
    node.settle()
    assert node.guard.unfinished.total == 0


# -- HTTP --


def test_an_empty_line_behind_a_request_begins_no_other() -> None:
    node = MemoryNode(rules=Rules(handshake=10.0))
    connection = Connection(node, node.site)
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nping"
    connection.deliver(post + b"\r\n")
    assert b"pong" in connection.taken()
    connection.deliver(b"\r\n"[:0])
    node.clock.advance(30)
    assert connection.taken() == b""
    assert not connection.closed
    connection.deliver(post)
    assert b"pong" in connection.taken()


def test_a_head_behind_another_request_has_its_time() -> None:
    node = MemoryNode(rules=Rules(handshake=10.0))
    connection = Connection(node, node.site)
    connection.deliver(b"GET /none HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost")
    assert b" 404 " in connection.taken()
    node.clock.advance(15)
    assert connection.taken().startswith(b"HTTP/1.1 408 ")


def test_an_answer_that_is_taken_slowly_is_not_cut() -> None:
    node = MemoryNode(rules=Rules(idle=5.0))
    connection = Connection(node, node.site)
    connection.deliver(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nping")
    transport: Any = connection.transport
    for left in range(10, 0, -1):
        transport.dataBuffer = b"x" * left
        node.clock.advance(5)
        assert not connection.closed
    transport.dataBuffer = b""
    node.clock.advance(6)
    assert connection.closed


def test_only_what_is_spoken_is_offered_over_tls() -> None:
    assert MemoryNode().site.acceptableProtocols() == [b"http/1.1"]


# -- proxies --


def test_a_proxy_behind_a_proxy_is_not_counted() -> None:
    trusted = Trusted(("10.0.0.0/8",))
    gate = Gate(100, 1, Counters(), lambda: 0.0, trusted)
    for _ in range(3):
        assert gate.enter("10.0.0.7")
        assert gate.enter_as("10.0.0.8")
    assert gate.enter_as("203.0.113.9")
    assert not gate.enter_as("203.0.113.9")
    gate.leave_as("203.0.113.9")
    for _ in range(3):
        gate.leave_as("10.0.0.8")
        gate.leave("10.0.0.7")
    assert gate._by_address == {}


def test_a_network_of_ipv4_may_be_written_as_ipv6() -> None:
    assert Trusted(("::ffff:10.0.0.0/104",)).includes("10.1.2.3")
    assert not Trusted(("::ffff:10.0.0.0/104",)).includes("11.1.2.3")
