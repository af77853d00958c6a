"""TLS that cannot be agreed on: counted, and told in words with which something can be done."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.ssl import CertificateOptions, KeyPair, PrivateCertificate, VerificationError
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from nuntwist.net.failed_tls import words_of
from nuntwist.net.guard import Guard, make_guard
from nuntwist.net.http import NqlResource, NqlSite
from nuntwist.net.log_limits import TELL_SECONDS
from nuntwist.net.tcp_port import LineFactory
from nuntwist.net.tls import Renewable, asking, validity_of
from nuntwist.net.websocket_port import FrameFactory
from nuntwist.testing import MemoryNode, MemoryTransport
from tests.integration.certificates import DAY, Authority

KINDS = ["TCP", "WebSocket", "HTTP"]
Files = tuple[Path, Path]


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What is logged."""
    lines: list[str] = []

    def note(event: LogEvent) -> None:
        lines.append(formatEvent(event))

    globalLogPublisher.addObserver(note)
    yield lines
    globalLogPublisher.removeObserver(note)


class Place:
    """A node whose ports speak TLS; the one for lines asks for certificates."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.own, self.other = Authority(where / "ca"), Authority(where / "other", "other")
        key, cert = self.own.issue(where / "node")
        self.node = MemoryNode()
        clock, counters = self.node.clock, self.node.node.counters
        self.counters = counters
        self.guard: Guard = make_guard(counters, clock.callLater, clock.seconds)
        pipeline = self.node.node.pipeline
        factories: dict[str, Any] = {
            "TCP": LineFactory(pipeline, self.guard, clock.callLater, None, True),
            "WebSocket": FrameFactory(pipeline, self.guard, clock, clock.callLater),
            "HTTP": NqlSite(NqlResource(pipeline, None), self.guard, clock, 1 << 20),
        }
        pair = KeyPair.load(key.read_bytes(), SSL.FILETYPE_PEM)
        own = PrivateCertificate.load(cert.read_bytes(), pair, SSL.FILETYPE_PEM)
        self.shown = own.options()
        self.factories: dict[str, TLSMemoryBIOFactory] = {}
        for kind, factory in factories.items():
            options = own.options()
            if kind == "TCP":
                asking(str(self.own.file))(options)
            self.factories[kind] = TLSMemoryBIOFactory(Renewable(options), False, factory, clock)

    def connect(self, kind: str) -> tuple[Any, MemoryTransport]:
        transport = MemoryTransport()
        protocol = self.factories[kind].buildProtocol(transport.getPeer())
        protocol.makeConnection(transport)
        return protocol, transport

    def say(self, kind: str, data: bytes) -> None:
        """Connect, say something that is no TLS, and be gone."""
        protocol, transport = self.connect(kind)
        protocol.dataReceived(data)
        assert transport.disconnecting
        protocol.connectionLost(Failure(ConnectionDone()))

    def shake(
        self, kind: str, prepare: Callable[[ssl.SSLContext], object], name: str = "127.0.0.1"
    ) -> bytes:
        """Connect with TLS, and be gone; what came after the handshake, if it was done."""
        context = ssl.create_default_context(cafile=str(self.own.file))
        prepare(context)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname=name)
        protocol, transport = self.connect(kind)
        heard = b""
        for _ in range(6):
            try:
                client.do_handshake()
                heard += client.read(100)
            except ssl.SSLError:
                # It wants to read more, or is at its end and has a word to say about it.
                pass
            if outgoing.pending:
                protocol.dataReceived(outgoing.read())
            self.node.clock.advance(0.0)
            incoming.write(transport.value())
            transport.clear()
        protocol.connectionLost(Failure(ConnectionDone()))
        return heard


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_who_shakes_hands_is_not_counted(place: Place, told: list[str]) -> None:
    assert place.shake("TCP", lambda context: None) == b"ok \n"
    files = place.own.issue(place.where / "first")
    assert place.shake("TCP", lambda context: context.load_cert_chain(files[1], files[0]))
    # Nor is who goes away in the middle, as those do who look whether there is a port.
    for kind in KINDS:
        protocol, _ = place.connect(kind)
        protocol.connectionLost(Failure(ConnectionDone()))
        place.shake(kind, lambda context: None)
    assert place.counters.failed_handshakes == place.counters.nodes_refused == 0
    assert told == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "it spoke HTTP without TLS: its address is https:// or wss://"),
        (b"ping\nping\n", "it does not speak TLS, which this port wants"),
        (b"\x16\x03\x01\x00\x05hello", "it does not speak TLS, which this port wants"),
    ],
)
def test_who_does_not_speak_tls(
    place: Place, told: list[str], kind: str, data: bytes, why: str
) -> None:
    place.say(kind, data)
    assert place.counters.failed_handshakes == 1
    assert told == [
        "handshakes over TLS that have failed: 1, the last one with 192.168.1.1:54321"
        f" ({kind}): {why}"
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_who_does_not_trust_this_node(place: Place, told: list[str], kind: str) -> None:
    place.own.file.write_bytes(place.other.file.read_bytes())
    assert place.shake(kind, lambda context: None) == b""
    assert place.counters.failed_handshakes == 1
    assert "it does not know who has signed the certificate of this node" in told[0]


def test_a_wrong_name_and_an_old_version(place: Place, told: list[str]) -> None:
    place.shake("TCP", lambda context: None, "another.example")

    def be_old(context: ssl.SSLContext) -> None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1

    with pytest.warns(DeprecationWarning, match="deprecated"):
        place.shake("TCP", be_old)
    assert place.counters.failed_handshakes == 2
    assert "is it made for the name that is connected to" in told[0]
    assert "it speaks none of TLS 1.2 and later" in told[1]


@pytest.mark.parametrize(
    ("issue", "why"),
    [
        (lambda place, to: place.other.issue(to), "an authority that is not in NUN_PEER_CA"),
        (lambda place, to: place.own.issue(to, ends=-DAY / 2), "that has ended: put a new one"),
        (lambda place, to: place.own.issue(to, begins=DAY / 2), "that is not valid yet"),
        (lambda place, to: place.own.issue(to, use="serverAuth"), "clientAuth has to be among it"),
    ],
)
def test_what_is_wrong_with_the_certificate_of_a_node(
    place: Place, told: list[str], issue: Callable[[Place, Path], Files], why: str
) -> None:
    key, cert = issue(place, place.where / "first")
    assert place.shake("TCP", lambda context: context.load_cert_chain(cert, key)) == b""
    assert (place.counters.nodes_refused, place.counters.failed_handshakes) == (1, 0)
    (line,) = told
    assert "not let in as those of nodes (NUN_PEER_CA): 1, the last one from 192.168.1.1" in line
    assert "which has shown a certificate " in line
    assert why in line


def test_each_reason_is_told_once_a_minute(place: Place, told: list[str]) -> None:
    for _ in range(100):
        place.say("TCP", b"GET / HTTP/1.1\r\n\r\n")
        place.say("HTTP", b"rubbish rubbish")
    assert place.counters.failed_handshakes == 200
    assert len(told) == 2
    place.node.clock.advance(TELL_SECONDS)
    place.say("HTTP", b"GET / HTTP/1.1\r\n\r\n")
    assert "have failed: 100, the last one with 192.168.1.1:54321 (HTTP): it spoke" in told[2]
    assert len(told) == 3


def test_until_when_a_certificate_is_valid(place: Place) -> None:
    valid = validity_of(place.shown)
    assert valid is not None
    assert valid[1] - valid[0] == 2 * DAY
    # Other packages may give it in their own ways.
    assert validity_of(CertificateOptions()) is validity_of(object()) is None


def test_words() -> None:
    several = SSL.Error([("SSL routines", "", "one"), ("SSL routines", "", "another")])
    assert words_of(Failure(several)) == "one, another"
    assert words_of(Failure(SSL.Error())) == words_of(Failure(SSL.Error([]))) == "TLS failed"
    assert words_of(Failure(VerificationError([]))) == "its certificate is of another name"
    assert words_of(Failure(ConnectionDone())) == "Connection was closed cleanly."
