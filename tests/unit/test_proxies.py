"""Who a client is behind a proxy: only who is trusted is believed, and rubbish does no harm."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from nuntwist.config import make_config
from nuntwist.core.counters import Counters
from nuntwist.errors import ConfigError
from nuntwist.net.gate import Gate, Gated
from nuntwist.net.guard import Rules, make_guard
from nuntwist.net.http import NqlResource, NqlSite
from nuntwist.net.introduction import (
    LONGEST,
    LONGEST_LINE,
    SIGNATURE,
    BadHeader,
    Introducing,
    read_header,
)
from nuntwist.net.proxies import Trusted, address_in, forwarded_in
from nuntwist.net.tcp_port import LineFactory
from nuntwist.net.websocket_port import FrameFactory
from nuntwist.testing import HeapClock, MemoryNode, MemoryTransport

PROXY = "10.0.0.7"
CREDENTIALS = {"NUN_USER": "a", "NUN_PWD": "b"}

# -- whom to believe --


@pytest.mark.parametrize(
    ("host", "trusted"),
    [
        ("10.0.0.7", True),
        ("10.1.200.3", True),
        ("10.2.0.1", False),
        ("::ffff:10.0.0.7", True),
        ("2001:db8:1::5", True),
        ("fe80::1%eth0", True),
        ("2001:db9::", False),
        ("nonsense", False),
        ("", False),
        (None, False),
    ],
)
def test_who_is_trusted(host: str | None, trusted: bool) -> None:
    known = Trusted(("10.0.0.7/32", "10.1.0.0/16", "2001:db8::/32", "fe80::/10"))
    assert known.includes(host) == trusted


def test_a_unix_socket_is_trusted_where_it_is_named() -> None:
    assert Trusted(("unix",)).includes(None)
    assert not Trusted(("unix",)).includes("10.0.0.7")
    assert not Trusted().includes(None)


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9, 10.0.0.7"], "203.0.113.9"),
        (["203.0.113.9,10.0.0.7 ,\t10.0.0.7"], "203.0.113.9"),
        (["6.6.6.6", "203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9:4711"], "203.0.113.9"),
        (["2001:DB8::0001"], "2001:db8::1"),
        (["[2001:db8::1]:443"], "2001:db8::1"),
        (["[2001:db8::1]"], "2001:db8::1"),
        (["::ffff:203.0.113.9"], "203.0.113.9"),
        # Where the last word is no address nobody knows who it is.
        (["203.0.113.9, unknown"], None),
        (["203.0.113.9, _hidden"], None),
        (["203.0.113.9,"], None),
        (["203.0.113.9, unix:"], None),
        (["203.0.113.9, 1.2.3"], None),
        (["203.0.113.9, 1.2.3.4.5"], None),
        (["203.0.113.9, 0x7f.1"], None),
        (["203.0.113.9, fe80::1%eth0"], None),
        (["203.0.113.9, 1.2.3.4:"], None),
        (["203.0.113.9, " + "1" * 5_000], None),
        (["203.0.113.9, \xff\xfe"], None),
        (["203.0.113.9, 1.2.3.4\n"], None),
        ([""], None),
        ([], None),
        # The proxies come for themselves.
        (["10.0.0.7"], None),
        ([", ".join(["203.0.113.9", *["10.0.0.7"] * 100])], None),
    ],
)
def test_the_rightmost_address_that_is_no_proxy_s(headers: list[str], client: str | None) -> None:
    values = [header.encode("latin-1") for header in headers]
    assert Trusted(("10.0.0.7",)).client_behind(PROXY, values) == client
    assert Trusted(("10.0.0.8",)).client_behind(PROXY, values) is None


@given(st.lists(st.binary(max_size=80), max_size=5))
def test_any_header_is_harmless(values: list[bytes]) -> None:
    client = Trusted(("10.0.0.7",)).client_behind(PROXY, values)
    if client is not None:
        assert str(address_in(client)) == client


def test_a_header_ends_where_http_ends_it() -> None:
    """Other libraries end lines at more characters than that."""
    head = (
        b"GET / HTTP/1.1\r\nX-Forwarded-For: 203.0.113.9\r\nCookie: a\x85X-Forwarded-For: 6.6.6.6"
        b"\x0bX-Forwarded-For: 6.6.6.6\nX-Forwarded-For: 6.6.6.6\r\nx-FORWARDED-for:1.1.1.1\r\n\r\n"
    )
    assert forwarded_in(head) == [b" 203.0.113.9", b"1.1.1.1"]


# -- the header of the PROXY protocol --


def binary(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + bytes((command, family)) + len(body).to_bytes(2, "big") + body


def tcp4(source: str, port: int = 4711, more: bytes = b"") -> bytes:
    ends = socket.inet_aton(source) + socket.inet_aton("10.0.0.5")
    return binary(0x21, 0x11, ends + port.to_bytes(2, "big") + b"\x0b\xc6" + more)


def tcp6(source: str, port: int = 4711) -> bytes:
    ends = socket.inet_pton(socket.AF_INET6, source) + bytes(16)
    return binary(0x21, 0x21, ends + port.to_bytes(2, "big") + b"\x0b\xc6")


LINE = b"PROXY TCP4 203.0.113.9 10.0.0.5 4711 3014\r\n"
GOOD: list[tuple[bytes, tuple[str, int] | None]] = [
    (LINE, ("203.0.113.9", 4711)),
    (b"PROXY TCP6 2001:db8::1 ::1 4711 3014\r\n", ("2001:db8::1", 4711)),
    (b"PROXY TCP6 ::ffff:203.0.113.9 ::1 4711 3014\r\n", ("203.0.113.9", 4711)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None),
    (b"PROXY UNKNOWN whatever\xff there is\r\n", None),
    (tcp4("203.0.113.9"), ("203.0.113.9", 4711)),
    (tcp4("203.0.113.9", more=b"\x04\x00\x02ab"), ("203.0.113.9", 4711)),
    (tcp4("203.0.113.9", more=bytes(LONGEST - 12)), ("203.0.113.9", 4711)),
    (tcp6("2001:db8::1"), ("2001:db8::1", 4711)),
    (tcp6("::ffff:203.0.113.9"), ("203.0.113.9", 4711)),
    (binary(0x20, 0x00, b""), None),
    (binary(0x20, 0x11, b"\x01" * 12), None),
    (binary(0x21, 0x00, b"anything"), None),
    (binary(0x21, 0x31, bytes(216)), None),
]
BAD = [
    b"GET / HTTP/1.1\r\n",
    b"ping\n",
    b"\x16\x03\x01\x02\x00\x01",
    b"proxy TCP4 203.0.113.9 10.0.0.5 4711 3014\r\n",
    b"PROXY  TCP4 203.0.113.9 10.0.0.5 4711 3014\r\n",
    b"PROXY TCP4 203.0.113.9 10.0.0.5 4711\r\n",
    b"PROXY TCP4 203.0.113.9 10.0.0.5 4711 3014 5\r\n",
    b"PROXY TCP4 203.0.113.999 10.0.0.5 4711 3014\r\n",
    b"PROXY TCP4 2001:db8::1 10.0.0.5 4711 3014\r\n",
    b"PROXY TCP4 203.0.113.9 10.0.0 4711 3014\r\n",
    b"PROXY TCP6 203.0.113.9 10.0.0.5 4711 3014\r\n",
    b"PROXY TCP4 203.0.113.9 10.0.0.5 65536 3014\r\n",
    b"PROXY TCP4 203.0.113.9 10.0.0.5 4711 99999\r\n",
    b"PROXY TCP4 203.0.113.9 10.0.0.5 -1 3014\r\n",
    b"PROXY UDP4 203.0.113.9 10.0.0.5 4711 3014\r\n",
    b"PROXY UNKNOWNISH\r\n",
    b"PROXY \r\n",
    b"PROXY UNKNOWN " + b"x" * LONGEST_LINE,
    b"PROXY UNKNOWN " + b"x" * (LONGEST_LINE - 15) + b"\r\n",
    binary(0x11, 0x11, bytes(12)),
    binary(0x22, 0x11, bytes(12)),
    binary(0x21, 0x12, bytes(12)),
    binary(0x21, 0x41, bytes(12)),
    binary(0x21, 0x11, bytes(11)),
    binary(0x21, 0x21, bytes(35)),
    binary(0x21, 0x11, bytes(LONGEST + 1))[:16],
]


@pytest.mark.parametrize(("header", "client"), GOOD)
def test_a_header(header: bytes, client: tuple[str, int] | None) -> None:
    for more in (b"", b"ping\n", b"\r\n"):
        found = read_header(header + more)
        assert found is not None
        address, size = found
        assert size == len(header)
        assert (None if address is None else (address.host, address.port)) == client
    for end in range(1, len(header)):
        assert read_header(header[:end]) is None


@pytest.mark.parametrize("data", BAD)
def test_what_is_no_header(data: bytes) -> None:
    with pytest.raises(BadHeader):
        read_header(data)


@given(st.one_of(st.binary(min_size=1, max_size=60), st.binary(max_size=60).map(SIGNATURE.__add__)))
def test_any_bytes_are_a_header_or_are_not(data: bytes) -> None:
    try:
        found = read_header(data)
    except BadHeader:
        return
    assert found is None or 0 < found[1] <= len(data)


# -- on a port --


class Introduced(MemoryTransport):
    """A transport that a proxy may tell of its client, as the real one does."""

    def __init__(self, gate: Gate, host: str | None) -> None:
        super().__init__()
        self.gate, self.host = gate, host
        self.protocol: Any = None
        self.client: IPv4Address | IPv6Address | None = None

    def introduce(self, client: IPv4Address | IPv6Address) -> bool:
        if not self.gate.enter_as(client.host):
            return False
        self.client = client
        return True

    def getPeer(self) -> Any:
        return self.client or came_from(self.host)


def came_from(host: str | None) -> IPv4Address | UNIXAddress:
    """The address of a connection; None for one over a unix socket."""
    return UNIXAddress(b"") if host is None else IPv4Address("TCP", host, 1)


class Place:
    """A node with ports for proxies."""

    def __init__(
        self, most_of_one: int = 0, proxies: tuple[str, ...] = (PROXY,), most: int = 100
    ) -> None:
        self.node = MemoryNode()
        clock, counters = self.node.clock, self.node.node.counters
        rules = Rules(proxies=proxies)
        self.gate = Gate(most, most_of_one, counters, clock.seconds, Trusted(rules.proxies))
        self.guard = make_guard(counters, clock.callLater, clock.seconds, rules, self.gate)
        pipeline = self.node.node.pipeline
        self.factories: dict[str, Any] = {
            "tcp": LineFactory(pipeline, self.guard, clock.callLater),
            "ws": FrameFactory(pipeline, self.guard, clock, clock.callLater),
            "http": NqlSite(NqlResource(pipeline, None), self.guard, clock, 1 << 20),
        }

    def connect(
        self, kind: str, host: str | None = PROXY, introduced: bool = False
    ) -> tuple[Any, Introduced] | None:
        factory = self.factories[kind]
        if introduced:
            factory = Introducing(factory, self.guard)
        protocol: Any = Gated(factory, self.gate).buildProtocol(came_from(host))
        if protocol is None:
            return None
        transport = Introduced(self.gate, host)
        transport.protocol = protocol
        protocol.makeConnection(transport)
        return protocol, transport

    def addresses(self) -> dict[str, int]:
        return self.gate._by_address

    def peers(self) -> list[str]:
        """The addresses of those who are connected."""
        lines = [one.client.peer for one in self.factories["tcp"].clients]
        return lines + [one.client.peer for one in self.factories["ws"].clients]


@pytest.mark.parametrize(("header", "client"), GOOD)
@pytest.mark.parametrize("size", [1, 5, 1 << 16])
def test_whoever_comes_through_a_proxy_has_its_own_address(
    header: bytes, client: tuple[str, int] | None, size: int
) -> None:
    place = Place()
    connected = place.connect("tcp", introduced=True)
    assert connected is not None
    _, transport = connected
    data = header + b"ping\nping\n"
    for at in range(0, len(data), size):
        assert transport.value() in (b"", b"ok \n") or at > len(header)
        transport.protocol.dataReceived(data[at : at + size])
    assert transport.value() == b"ok \n" + 2 * b"pong\nok \n"
    host, port = client or (PROXY, 1)
    assert place.peers() == [f"[{host}]:{port}" if ":" in host else f"{host}:{port}"]
    assert sum(place.addresses().values()) == (client is not None)


@pytest.mark.parametrize("data", BAD)
def test_without_a_header_nothing_is_read(data: bytes) -> None:
    place = Place()
    connected = place.connect("tcp", introduced=True)
    assert connected is not None
    protocol, transport = connected
    transport.protocol.dataReceived(data + b"\nping\n")
    assert transport.aborted
    assert transport.value() == b""
    assert transport.protocol is protocol
    assert place.node.node.counters.proxies_refused == 1


def test_whoever_is_no_proxy_is_refused() -> None:
    place = Place()
    assert place.connect("tcp", "10.0.0.8", introduced=True) is None
    assert place.node.node.counters.proxies_refused == 1
    assert place.addresses() == {}


def test_a_header_that_does_not_come_is_not_waited_for() -> None:
    place = Place()
    connected = place.connect("tcp", introduced=True)
    assert connected is not None
    connected[1].protocol.dataReceived(LINE[:10])
    place.node.clock.advance(9.0)
    assert not connected[1].aborted
    place.node.clock.advance(2.0)
    assert connected[1].aborted
    assert place.node.node.counters.late_handshakes == 1


def test_one_too_many_of_an_address_behind_a_proxy() -> None:
    place = Place(most_of_one=2)
    for number in range(4):
        connected = place.connect("tcp", introduced=True)
        assert connected is not None
        connected[1].protocol.dataReceived(LINE + b"ping\n")
        assert connected[1].aborted == (number >= 2)
    assert place.addresses() == {"203.0.113.9": 2}
    other = place.connect("tcp", introduced=True)
    assert other is not None
    other[1].protocol.dataReceived(tcp4("203.0.113.10"))
    assert not other[1].aborted


# -- over a unix socket --

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n%b"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
FORWARDED = b"X-Forwarded-For: 6.6.6.6, 203.0.113.9\r\n"


def over_unix(place: Place, kind: str = "tcp") -> Introduced:
    """Connect as a proxy on the same machine does."""
    connected = place.connect(kind, None, introduced=True)
    assert connected is not None
    return connected[1]


@pytest.mark.parametrize(("header", "client"), GOOD)
@pytest.mark.parametrize("size", [1, 1 << 16])
def test_whoever_comes_through_a_proxy_over_a_unix_socket_has_its_own_address(
    header: bytes, client: tuple[str, int] | None, size: int
) -> None:
    place = Place(proxies=("unix",))
    transport = over_unix(place)
    data = header + b"ping\n"
    for at in range(0, len(data), size):
        transport.protocol.dataReceived(data[at : at + size])
    assert transport.value() == b"ok \npong\nok \n"
    if client is None:
        assert (place.peers(), place.addresses()) == (["unix"], {})
        return
    host, port = client
    assert place.peers() == [f"[{host}]:{port}" if ":" in host else f"{host}:{port}"]
    assert list(place.addresses().values()) == [1]


def test_a_unix_socket_is_heard_where_it_is_trusted() -> None:
    place = Place(proxies=(PROXY,))
    assert place.connect("tcp", None, introduced=True) is None
    assert place.node.node.counters.proxies_refused == 1
    place = Place(proxies=("unix",))
    assert place.connect("tcp", PROXY, introduced=True) is None
    over_unix(place)
    assert place.node.node.counters.proxies_refused == 1


def test_limits_behind_a_proxy_over_a_unix_socket() -> None:
    """One address counts for itself; all count for the limit of all."""
    place = Place(most_of_one=2, proxies=("unix",), most=4)
    for number in range(3):
        transport = over_unix(place, "http")
        transport.protocol.dataReceived(LINE)
        assert transport.aborted == (number == 2)
    assert place.addresses() == {"203.0.113.9": 2}
    over_unix(place, "http").protocol.dataReceived(b"PROXY UNKNOWN\r\n")
    assert place.connect("http", None, introduced=True) is None
    assert place.node.node.counters.refused_connections == 2
    # What has gone makes room again.
    place.gate.leave_as("203.0.113.9")
    place.gate.leave(None)
    over_unix(place, "http").protocol.dataReceived(LINE)
    assert place.addresses() == {"203.0.113.9": 2}


def test_failed_logins_behind_a_proxy_over_a_unix_socket() -> None:
    """Who guesses waits, and nobody else behind the same proxy."""
    place = Place(proxies=("unix",))
    for _ in range(12):
        guesser = over_unix(place)
        guesser.protocol.dataReceived(LINE + b"auth nun wrong\n")
        place.node.clock.advance(0.1)
    assert place.node.node.counters.failed_logins == 12
    honest = over_unix(place)
    honest.protocol.dataReceived(tcp4("203.0.113.10") + b"auth nun nun-pwd\n")
    place.node.clock.advance(0.0)
    assert b"valid auth" in honest.value()
    guesser.clear()
    guesser.protocol.dataReceived(b"auth nun nun-pwd\n")
    place.node.clock.advance(0.0)
    assert guesser.value() == b""


@pytest.mark.parametrize(
    ("header", "forwarded", "peer"),
    [
        # The client that the proxy has named may not name another one.
        (LINE, FORWARDED, "203.0.113.9:4711"),
        (LINE, b"", "203.0.113.9:4711"),
        (b"PROXY UNKNOWN\r\n", b"X-Forwarded-For: 203.0.113.8\r\n", "203.0.113.8"),
        (b"PROXY UNKNOWN\r\n", b"", "unix"),
    ],
)
def test_a_websocket_over_a_unix_socket(header: bytes, forwarded: bytes, peer: str) -> None:
    place = Place(proxies=("unix",))
    transport = over_unix(place, "ws")
    transport.protocol.dataReceived(header + UPGRADE % forwarded)
    assert transport.value().startswith(b"HTTP/1.1 101 ")
    assert place.peers() == [peer]


# -- a header of HTTP --


@pytest.mark.parametrize(
    ("host", "head", "peer"),
    [
        (PROXY, FORWARDED, "203.0.113.9"),
        (PROXY, b"X-Forwarded-For: nobody\r\n", "10.0.0.7:1"),
        (PROXY, b"", "10.0.0.7:1"),
        ("10.0.0.8", FORWARDED, "10.0.0.8:1"),
        (PROXY, b"Cookie: \x85X-Forwarded-For: 6.6.6.6\r\n" + FORWARDED, "203.0.113.9"),
        (PROXY, FORWARDED + b"Cookie: \x85X-Forwarded-For: 6.6.6.6\r\n", "203.0.113.9"),
    ],
)
def test_a_websocket_behind_a_proxy(host: str, head: bytes, peer: str) -> None:
    place = Place()
    connected = place.connect("ws", host)
    assert connected is not None
    protocol, transport = connected
    protocol.dataReceived(UPGRADE % head)
    assert transport.value().startswith(b"HTTP/1.1 101 ")
    assert place.peers() == [peer]


def test_websockets_of_one_address_behind_a_proxy_are_counted() -> None:
    place = Place(most_of_one=2)
    there = []
    for number in range(3):
        connected = place.connect("ws")
        assert connected is not None
        protocol, transport = connected
        protocol.dataReceived(UPGRADE % FORWARDED)
        status = b"HTTP/1.1 101 " if number < 2 else b"HTTP/1.1 429 "
        assert transport.value().startswith(status)
        there.append(protocol)
    for protocol in there:
        protocol.connectionLost()
        protocol.connectionLost()
    assert place.addresses() == {}


def post(body: bytes, head: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)


def test_requests_of_one_address_behind_a_proxy_are_counted_while_they_are_under_way() -> None:
    place = Place(most_of_one=1)
    place.node.node.pipeline.alone.run = lambda client, request: setattr(client, "waiting", True)  # type: ignore[method-assign]
    ones = [place.connect("http") for _ in range(3)]
    answers = []
    for one, head in zip(
        ones, (FORWARDED, FORWARDED, b"X-Forwarded-For: 1.1.1.1\r\n"), strict=True
    ):
        assert one is not None
        one[0].dataReceived(post(b"auth nun wrong", head))
        answers.append(one[1].value()[:12])
    assert answers == [b"", b"HTTP/1.1 429", b""]
    assert place.addresses() == {"203.0.113.9": 1, "1.1.1.1": 1}
    for one in ones:
        assert one is not None
        one[0].connectionLost(Failure(ConnectionDone()))
    assert place.addresses() == {}
    assert place.node.node.counters.connections == 0


def test_failed_logins_count_for_the_client() -> None:
    place = Place()
    for _ in range(12):
        one = place.connect("http")
        assert one is not None
        one[0].dataReceived(post(b"auth nun wrong", FORWARDED))
    logins = place.node.node.logins
    assert logins.wait("203.0.113.9") != 0.0
    assert logins.wait("6.6.6.6") == logins.wait(PROXY) == 0.0


def test_whoever_comes_past_the_proxy_is_counted_as_before() -> None:
    clock = HeapClock()
    gate = Gate(100, 1, Counters(), clock.seconds, Trusted((PROXY,)))
    assert [gate.enter("a"), gate.enter("a")] == [True, False]
    assert all(gate.enter(PROXY) for _ in range(5))
    for _ in range(5):
        gate.leave(PROXY)
    gate.leave("a")
    assert gate._by_address == {}
    assert gate._all == 0


# -- the settings --


@pytest.mark.parametrize("text", ["10.0.0.1/8", "proxy.example", "10.0.0.0/33", "::1 ::2"])
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ConfigError, match="it must be a comma list of addresses"):
        make_config({}, {"NUN_TRUSTED_PROXIES": text})


def test_a_port_for_proxies_needs_some() -> None:
    port = {"NUN_TCP_ADDR": "haproxy:tcp:3014"} | CREDENTIALS
    with pytest.raises(ConfigError, match="no proxies are known: set NUN_TRUSTED_PROXIES"):
        make_config({}, port)
    with pytest.raises(ConfigError, match="no proxies are known"):
        make_config({}, port | {"NUN_TRUSTED_PROXIES": "unix"})
    assert make_config({}, port | {"NUN_TRUSTED_PROXIES": PROXY}).tcp_endpoints == (
        "haproxy:tcp:3014",
    )


UNIX_PORTS = ["haproxy:unix:/run/x:mode=660", "haproxy:systemd:domain=UNIX:index=0"]


@pytest.mark.parametrize("text", UNIX_PORTS)
def test_a_unix_socket_for_proxies_needs_the_word(text: str) -> None:
    port = {"NUN_TCP_ADDR": text} | CREDENTIALS
    for trusted in ({}, {"NUN_TRUSTED_PROXIES": PROXY}):
        with pytest.raises(ConfigError, match="add the word unix to NUN_TRUSTED_PROXIES"):
            make_config({}, port | trusted)
    for trusted in ("unix", f"{PROXY},unix"):
        config = make_config({}, port | {"NUN_TRUSTED_PROXIES": trusted})
        assert config.tcp_endpoints == (text,)
    with pytest.raises(ConfigError, match="no credentials are configured"):
        make_config({}, {"NUN_TCP_ADDR": text, "NUN_TRUSTED_PROXIES": "unix"})
    handed = {"NUN_TCP_ADDR": "haproxy:systemd:domain=INET:name=x"} | CREDENTIALS
    with pytest.raises(ConfigError, match="no proxies are known"):
        make_config({}, handed | {"NUN_TRUSTED_PROXIES": "unix"})
    make_config({}, handed | {"NUN_TRUSTED_PROXIES": PROXY})


@pytest.mark.parametrize("text", ["haproxy:pigeon:/x", "haproxy:3014", "haproxy:haproxy:tcp:1"])
def test_what_a_port_for_proxies_is_not(text: str) -> None:
    with pytest.raises(ConfigError, match="haproxy: stands before a tcp:, ssl:, unix: or systemd:"):
        make_config({}, CREDENTIALS | {"NUN_TCP_ADDR": text, "NUN_TRUSTED_PROXIES": PROXY})


def test_a_port_for_proxies_is_for_others_wherever_it_is() -> None:
    """The proxy brings them."""
    local = {"NUN_TCP_ADDR": "haproxy:tcp:3014:interface=127.0.0.1", "NUN_TRUSTED_PROXIES": PROXY}
    with pytest.raises(ConfigError, match="no credentials are configured"):
        make_config({}, local)


def test_a_protocol_that_is_not_made_is_an_end() -> None:
    place = Place()

    class Refusing:
        def buildProtocol(self, addr: object) -> Protocol | None:
            return None

    place.factories["none"] = Refusing()
    connected = place.connect("none", introduced=True)
    assert connected is not None
    connected[1].protocol.dataReceived(LINE)
    assert connected[1].aborted
