"""Nodes' connections to each other on real sockets: made, taken, cut, refused, over TLS too."""

from __future__ import annotations

import datetime
import ipaddress
import random
import socket
import ssl
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import reactor as real_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent, globalLogPublisher

from nuntwist.cluster.ballots import Vote
from nuntwist.cluster.handshake import Self
from nuntwist.cluster.stream import Records
from nuntwist.core.client import GONE, takes_nothing
from nuntwist.net.doors import Doors, Manner
from nuntwist.net.fast import SendingReactor
from nuntwist.net.peer import CLOSING_SECONDS, QUIET_SHARE, PeerProtocol
from nuntwist.net.peer_endpoint import endpoint_for
from nuntwist.net.peering import LASTING_SECONDS, LONGEST_DELAY, Peering
from nuntwist.net.tcp import LINGER_SECONDS, LineProtocol
from nuntwist.net.tcp_port import LineFactory
from nuntwist.net.tls import Prepare, asking
from nuntwist.testing import MemoryNode
from nuntwist.values import Epoch, Position
from tests.integration.certificates import Authority
from tests.integration.harness import Lines, no_trace_of_trouble
from tests.integration.replica_set import Nodes, Switch
from tests.ports import free_ports

reactor: Any = real_reactor

KEY = b"k" * 32
BEAT, SILENCE = 0.05, 0.4
LIMIT = 30.0
TURN = 0.05
"""Seconds that a turn of the reactor counts at most: what it takes beyond that, this process, with
the nodes in it, was held up."""
Steps = Generator[Deferred[Any], Any, None]


class Watch:
    """Counts the seconds in which this process goes on; ``stop`` it.

    :ivar seconds: so far.
    :ivar late: the longest time it was held up, in seconds.
    """

    def __init__(self) -> None:
        self.seconds = self.late = 0.0
        self._last = reactor.seconds()
        self._call = reactor.callLater(0.01, self._turn)

    def _turn(self) -> None:
        self._count()
        self._call = reactor.callLater(0.01, self._turn)

    def _count(self) -> None:
        took, self._last = reactor.seconds() - self._last, reactor.seconds()
        self.seconds += min(took, TURN)
        self.late = max(self.late, took - TURN)

    def stop(self) -> float:
        """Give the seconds."""
        self._count()
        if self._call.active():
            self._call.cancel()
        return self.seconds


@pytest_twisted.inlineCallbacks
def until(condition: Callable[[], object], what: str, limit: float = LIMIT) -> Steps:
    """Fire when a condition holds."""
    watch = Watch()
    try:
        while not condition():
            assert watch.seconds < limit, f"waited {limit:g} s in vain for {what}"
            yield deferLater(reactor, 0.01)
    finally:
        watch.stop()


@pytest_twisted.inlineCallbacks
def stays(look: Callable[[], object], seconds: float = 1.0) -> Steps:
    """Assert that something is the same for some time in which this process goes on.

    Where it is held up, that is a silence for links, and they are made again at once or soon.
    """
    calm = 0
    for _ in range(20):
        before, watch = look(), Watch()
        yield deferLater(reactor, seconds)
        watch.stop()
        if watch.late > SILENCE / 4:
            calm = 0
            continue
        after = look()
        if after == before:
            return
        calm += 1
        assert calm < 3, (before, after)
    pytest.skip("this machine is too busy")


class Place:
    """A node's port and its connections, without the node behind them."""

    def __init__(
        self,
        number: int,
        key: bytes = KEY,
        certified: bool = False,
        asks: Prepare | None = None,
    ) -> None:
        self.asks = asks
        self.number, self.address = number, "-"
        self.links: dict[int, PeerProtocol] = {}
        self.made = 0
        self.messages: list[object] = []
        self.node = MemoryNode()
        manner = Manner(
            lambda: Self(number, 0, self.address),
            key,
            self,
            reactor,
            random.Random(number),
            BEAT,
            SILENCE,
        )
        self.doors = Doors(manner)
        self.peering = Peering(
            manner,
            lambda address: endpoint_for(reactor, address, 1),
            lambda node: node in self.links,
            lambda address: next((n for n, link in self.links.items() if at(link, address)), None),
        )
        _places.append(self)
        self.factory = LineFactory(
            self.node.node.pipeline,
            self.node.guard,
            reactor.callLater,
            self.doors.open,
            certified,
        )

    @pytest_twisted.inlineCallbacks
    def listen(self, text: str = "tcp:0:interface=127.0.0.1") -> Steps:
        endpoint = serverFromString(SendingReactor(reactor, prepare=self.asks), text)
        self.port = yield endpoint.listen(self.factory)
        self.where = "127.0.0.1", self.port.getHost().port
        self.address = "{}:{}".format(*self.where)

    @pytest_twisted.inlineCallbacks
    def close(self) -> Steps:
        _places.remove(self)
        yield self.port.stopListening()
        yield self.peering.stop()
        yield self.doors.stop()

    # As a member does it.

    def linked(self, link: PeerProtocol) -> None:
        assert link.peer is not None
        self.made += 1
        before = self.links.get(link.peer.node)
        mine = self.number < link.peer.node
        if (
            before is not None
            and before.connecting != link.connecting
            and before.connecting == mine
        ):
            link.close()
            return
        self.links[link.peer.node] = link
        if before is not None:
            before.close()

    def received(self, link: PeerProtocol, message: object) -> None:
        self.messages.append(message)

    def unlinked(self, link: PeerProtocol) -> None:
        for node in [node for node, held in self.links.items() if held is link]:
            del self.links[node]


def at(link: PeerProtocol, address: str) -> bool:
    return link.peer is not None and link.peer.address == address


_calls_before: set[Any] = set()


_places: list[Place] = []


@pytest.fixture(autouse=True)
def _a_world_of_its_own() -> Iterator[None]:
    """What one test leaves behind is not blamed on the next."""
    _calls_before.clear()
    _calls_before.update(reactor.getDelayedCalls())
    yield
    while _places:
        pytest_twisted.blockon(_places[-1].close())


@pytest.fixture
def logged() -> Any:
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


def reasons(logged: list[LogEvent], level: str = "warn") -> list[str]:
    """Why something was not as it should be, as the log tells it."""
    return [
        str(event.get("why", ""))
        for event in logged
        if event["log_level"].name == level and event["log_namespace"] != "nuntwist.net.guard"
    ]


def remedies(logged: list[LogEvent]) -> list[str]:
    """What the side that connects advises."""
    return [event["remedy"] for event in logged if "remedy" in event]


@pytest_twisted.inlineCallbacks
def opened(count: int, key: bytes = KEY) -> Steps:
    """Some places that listen, with different numbers."""
    places = [Place(number + 1, key) for number in range(count)]
    for place in places:
        yield place.listen()
    return places


@pytest_twisted.inlineCallbacks
def close_all(places: list[Place]) -> Steps:
    for place in places:
        yield place.close()
    # Twisted's TLS puts off small writes to the next turn.
    for _ in range(3):
        yield deferLater(reactor, 0)
    assert set(reactor.getDelayedCalls()) <= _calls_before


@pytest_twisted.inlineCallbacks
def test_nodes_find_each_other_and_keep_one_link_a_pair(logged: list[LogEvent]) -> Steps:
    places = yield opened(3)
    addresses = [place.address for place in places]
    for place in places:
        place.peering.set_addresses(addresses)
    yield until(lambda: all(len(place.links) == 2 for place in places), "links of all")
    yield deferLater(reactor, 0.5)
    # Nothing is made again and again, and what is there stays.
    yield stays(lambda: [(dict(place.links), place.made) for place in places])
    for place in places:
        for link in place.links.values():
            link.send(Vote(place.number))
    yield until(lambda: all(len(place.messages) == 2 for place in places), "messages")
    # A node is no client.
    assert all(place.node.node.counters.connections == 0 for place in places)
    assert not any(place.factory.clients for place in places)
    assert [why for why in reasons(logged) if "has been silent" not in why] == []
    yield close_all(places)


@pytest_twisted.inlineCallbacks
def test_nothing_of_the_client_is_left_on_a_link() -> Steps:
    places = yield opened(2)
    accepting = places[1]
    clients = []
    hand_over = LineProtocol._hand_over

    def seen(protocol: LineProtocol, peer: Any, data: bytes) -> None:
        clients.append(protocol.client)
        hand_over(protocol, peer, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LineProtocol, "_hand_over", seen)
        places[0].peering.set_addresses([accepting.address])
        yield until(lambda: places[0].links and accepting.links, "a link")
    (client,) = clients
    link = accepting.links[1]
    assert link.transport.protocol is link
    # A transport lends its socket again when it has sent all; not to who is gone.
    link.send(Records(1, Position(Epoch(1, 1), 1), 0, b"x" * 8_000_000))
    yield until(lambda: places[0].messages, "what was sent")
    assert client.closed
    assert client.send is takes_nothing
    assert client.write == GONE.write
    yield close_all(places)


@pytest_twisted.inlineCallbacks
def test_a_link_that_is_cut_off_is_made_again_at_once() -> Steps:
    places = yield opened(2)
    places[0].peering.set_addresses([places[1].address])
    yield until(lambda: 2 in places[0].links, "a link")
    yield deferLater(reactor, 1.1)
    link = places[0].links[2]
    link.drop("for this test")
    yield until(lambda: places[0].links.get(2) not in (None, link), "another link", 1.0)
    yield close_all(places)


@pytest_twisted.inlineCallbacks
def test_a_node_that_comes_back_is_found(logged: list[LogEvent]) -> Steps:
    first, second = yield opened(2)
    first.peering.set_addresses([second.address])
    yield until(lambda: 2 in first.links, "a link")
    yield second.close()
    yield until(lambda: reasons(logged), "a line in the log")
    yield deferLater(reactor, 1.0)
    assert len(reasons(logged)) == 1
    assert "refused" in reasons(logged)[0]
    again = Place(2)
    yield again.listen(f"tcp:{second.where[1]}:interface=127.0.0.1")
    yield until(lambda: 2 in first.links, "a link again", limit=2.5)
    assert [e for e in logged if "reached again" in str(e.get("log_format"))]
    yield close_all([first, again])


@pytest_twisted.inlineCallbacks
def test_nodes_with_different_secrets_say_so(logged: list[LogEvent]) -> Steps:
    first, second = Place(1), Place(2, b"o" * 32)
    yield first.listen()
    yield second.listen()
    first.peering.set_addresses([second.address])
    yield until(lambda: len(reasons(logged)) == 2, "lines in the log")
    yield deferLater(reactor, 1.0)
    told = [event for event in logged if "remedy" in event]
    assert len(told) == 1
    assert "NUN_CLUSTER_SECRET" in told[0]["remedy"]
    assert first.links == second.links == {}
    yield close_all([first, second])


@pytest_twisted.inlineCallbacks
def test_a_node_that_connects_to_itself_is_quiet(logged: list[LogEvent]) -> Steps:
    (place,) = yield opened(1)
    place.peering.set_addresses([place.address])
    yield until(lambda: [e for e in logged if "own address" in str(e.get("log_format"))], "a line")
    yield deferLater(reactor, 0.5)
    assert len([e for e in logged if "own address" in str(e.get("log_format"))]) == 1
    assert reasons(logged) == []
    assert place.links == {}
    yield close_all([place])


@pytest.mark.parametrize("address", ["tls:a:1:trustRoots=/is/not/there", "tls:a:1:word=x"])
def test_what_twisted_cannot_use_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match=r"[a-z]"):
        endpoint_for(reactor, address, 1)


# -- a network that drops everything -----------------------------------------------------------


@pytest.fixture
def switched() -> Iterator[tuple[list[Place], Switch]]:
    """Two places whose links go through a switch."""
    places: list[Place] = pytest_twisted.blockon(opened(2))
    switch = Switch([place.where[1] for place in places])
    for at, place in enumerate(places):
        place.address = f"127.0.0.1:{switch.ports[at]}"
        switch.places[f"{place.number:016x}"] = at
    yield places, switch
    pytest_twisted.blockon(close_all(places))
    switch.close()


@pytest.mark.parametrize("ways", [{(0, 1), (1, 0)}, {(0, 1)}, {(1, 0)}])
@pytest_twisted.inlineCallbacks
def test_a_partition_is_noticed_and_its_end_too(
    switched: tuple[list[Place], Switch], ways: set[tuple[int, int]]
) -> Steps:
    places, switch = switched
    for place, other in (places, places[::-1]):
        place.peering.set_addresses([other.address])
    yield until(lambda: all(place.links for place in places), "a link")
    yield deferLater(reactor, LASTING_SECONDS)
    switch.cut |= ways
    yield until(
        lambda: not any(place.links for place in places), "the cut to be noticed", SILENCE + 0.3
    )
    yield deferLater(reactor, 1.5)
    assert not any(place.links for place in places)
    switch.heal()
    longest = QUIET_SHARE * SILENCE + LONGEST_DELAY + 0.3
    yield until(lambda: all(place.links for place in places), "a link again", longest)
    yield deferLater(reactor, 0.5)
    yield stays(lambda: [place.made for place in places])
    yield until(lambda: all(place.links for place in places), "links")


# -- clients on the same port ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"error this port takes commands, not HTTP"),
        (b"peer rubbish\n", b"refused that is no line of the handshake\n"),
        (b"peer " + b"x" * 1_000, b""),
        (b"peer 2 0\n", b"refused version 1 is spoken here, not 2\n"),
    ],
)
@pytest_twisted.inlineCallbacks
def test_others_on_the_port(sent: bytes, answer: bytes) -> Steps:
    (place,) = yield opened(1)
    told = yield deferToThread(_talk, _connect(place), sent)
    assert told.removeprefix(b"ok \n").startswith(answer)
    assert (told == b"ok \n") == (answer == b"")
    yield until(lambda: not place.factory.clients, "its end")
    yield close_all([place])


def _connect(place: Place) -> Callable[[], socket.socket]:
    return lambda: socket.create_connection(place.where, LIMIT)


def _talk(connect: Callable[[], socket.socket], sent: bytes) -> bytes:
    """Send, and read to the end; fails where that does not come soon."""
    with connect() as connection:
        connection.settimeout(LIMIT)
        connection.sendall(sent)
        parts = []
        while part := connection.recv(1 << 16):
            parts.append(part)
        return b"".join(parts)


# -- TLS ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that signs itself, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nuntwist test")])
    now = datetime.datetime.now(datetime.UTC)
    here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    one = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([here]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    place = tmp_path_factory.mktemp("tls")
    (place / "key.pem").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    (place / "cert.pem").write_bytes(one.public_bytes(pem))
    return place


@pytest_twisted.inlineCallbacks
def tls_place(number: int, certificate: Path) -> Steps:
    place = Place(number)
    files = f"privateKey={certificate / 'key.pem'}:certKey={certificate / 'cert.pem'}"
    yield place.listen(f"ssl:0:interface=127.0.0.1:{files}")
    return place


@pytest_twisted.inlineCallbacks
def test_links_over_tls(certificate: Path) -> Steps:
    first = yield tls_place(1, certificate)
    second = yield tls_place(2, certificate)
    # Twisted reads every .pem there for one that may sign.
    trusted = certificate / "trusted"
    trusted.mkdir(exist_ok=True)
    (trusted / "ca.pem").write_bytes((certificate / "cert.pem").read_bytes())
    first.peering.set_addresses([f"tls:{second.address}:trustRoots={trusted}"])
    yield until(lambda: first.links and second.links, "a link")
    records = Records(1, Position(Epoch(1, 1), 1), 0, b"x" * 3_000_000)
    first.links[2].send(records)
    second.links[1].send(records)
    yield until(lambda: first.messages and second.messages, "what was sent")
    assert first.messages == second.messages == [records]
    yield stays(lambda: (first.made, second.made))
    yield until(lambda: first.links and second.links, "a link")
    watch = Watch()
    for place in (first, second):
        yield place.close()
    # In order, and not when somebody loses patience.
    assert watch.stop() < SILENCE / 2
    yield close_all([])


@pytest_twisted.inlineCallbacks
def test_a_certificate_that_is_not_trusted_is_told(
    certificate: Path, logged: list[LogEvent]
) -> Steps:
    first = yield tls_place(1, certificate)
    second = yield tls_place(2, certificate)
    first.peering.set_addresses([f"tls:{second.address}"])
    yield until(lambda: reasons(logged), "a line in the log")
    assert "certificate verify failed" in reasons(logged)[0]
    assert first.links == {}
    yield close_all([first, second])


@pytest_twisted.inlineCallbacks
def test_who_is_refused_over_tls_is_closed(certificate: Path) -> Steps:
    place = yield tls_place(1, certificate)
    plain = _connect(place)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    watch = Watch()
    told = yield deferToThread(_talk, lambda: context.wrap_socket(plain()), b"peer rubbish\n")
    assert watch.stop() < CLOSING_SECONDS / 2
    assert told == b"ok \nrefused that is no line of the handshake\n"
    yield close_all([place])


@pytest_twisted.inlineCallbacks
def test_a_client_over_tls_that_says_no_goodbye_is_closed(certificate: Path) -> Steps:
    place = yield tls_place(1, certificate)
    plain = _connect(place)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = yield deferToThread(lambda: context.wrap_socket(plain()))
    yield deferToThread(client.sendall, b"GET / HTTP/1.1\r\n\r\n")
    # It keeps its end open, and does not even read.
    yield until(lambda: place.factory.clients, "its begin")
    yield until(lambda: not place.factory.clients, "its end", LINGER_SECONDS + 1.0)
    client.close()
    yield close_all([place])


# -- certificates of nodes ---------------------------------------------------------------------


class Authorities:
    """Those of a set, and another one."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.own, self.other = Authority(place / "ca"), Authority(place / "other", "other")
        self.key, self.cert = self.own.issue(place / "node")

    @pytest_twisted.inlineCallbacks
    def listen(self, number: int) -> Steps:
        """A place that wants certificates of nodes."""
        place = Place(number, certified=True, asks=asking(str(self.own.file)))
        files = f"privateKey={self.key}:certKey={self.cert}"
        yield place.listen(f"ssl:0:interface=127.0.0.1:{files}")
        return place

    def address(self, place: Place, files: tuple[Path, Path] | None) -> str:
        """That of a place, with a key and a certificate to show."""
        shown = "" if files is None else f":privateKey={files[0]}:certificate={files[1]}"
        return f"tls:{place.address}:trustRoots={self.own.directory}{shown}"


@pytest.fixture
def authorities(tmp_path: Path) -> Authorities:
    return Authorities(tmp_path)


def refusals(events: list[LogEvent]) -> list[str]:
    """What the side that was connected to has told."""
    return [event["why"] for event in events if "NUN_PEER_CA" in event.get("log_format", "")]


@pytest_twisted.inlineCallbacks
def test_a_node_with_a_certificate_is_linked(
    authorities: Authorities, logged: list[LogEvent]
) -> Steps:
    first, second = Place(1), (yield authorities.listen(2))
    yield first.listen()
    files = authorities.own.issue(authorities.place / "first")
    first.peering.set_addresses([authorities.address(second, files)])
    yield until(lambda: first.links and second.links, "a link")
    assert refusals(logged) == []
    # A client needs none.
    plain = _connect(second)
    context = ssl.create_default_context(cafile=str(authorities.own.file))

    def ask() -> list[bytes]:
        with Lines(context.wrap_socket(plain(), server_hostname="127.0.0.1")) as client:
            return client.ask("ping")

    told = yield deferToThread(ask)
    assert told == [b"pong\n", b"ok \n"]
    yield close_all([first, second])


@pytest.mark.parametrize("kind", ["none", "of another authority", "no TLS"])
@pytest_twisted.inlineCallbacks
def test_a_node_without_one_is_refused_and_both_tell(
    authorities: Authorities, logged: list[LogEvent], kind: str
) -> Steps:
    first, second = Place(1), (yield authorities.listen(2))
    yield first.listen()
    address = authorities.address(second, None)
    if kind == "no TLS":
        yield second.port.stopListening()
        yield second.listen()
        address = second.address
    elif kind == "of another authority":
        files = authorities.other.issue(authorities.place / "first")
        address = authorities.address(second, files)
    first.peering.set_addresses([address])
    yield until(lambda: any(reasons(logged)) and refusals(logged), "lines in the log of both")
    (why,) = [one for one in reasons(logged) if one]
    assert first.links == second.links == {}
    if kind == "of another authority":
        assert "of an authority that is not in NUN_PEER_CA" in refusals(logged)[0]
        assert "unknown ca" in why
        assert "put one here that an authority in its NUN_PEER_CA has signed" in remedies(logged)[0]
    else:
        assert refusals(logged)[0].startswith("no certificate: ")
        assert "links need a certificate that NUN_PEER_CA has signed" in why
    assert second.node.node.counters.nodes_refused >= 1
    yield close_all([first, second])


@pytest_twisted.inlineCallbacks
def test_a_link_reads_its_certificate_anew(
    authorities: Authorities, logged: list[LogEvent]
) -> Steps:
    """A wrong one is replaced while the node runs; one that cannot be read changes nothing."""
    first, second = Place(1), (yield authorities.listen(2))
    yield first.listen()
    where = authorities.place / "first"
    files = authorities.other.issue(where)
    first.peering.set_addresses([authorities.address(second, files)])
    yield until(lambda: refusals(logged), "a refusal")
    authorities.own.issue(where)
    yield until(lambda: first.links and second.links, "a link")
    files[1].write_bytes(b"rubbish")
    first.links[2].drop("to be made again")
    yield until(
        lambda: any("cannot be read anew" in event.get("log_format", "") for event in logged),
        "a line",
    )
    yield until(lambda: first.links and second.links, "a link")
    yield close_all([first, second])


# -- versions of TLS ---------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1", "TLSv1_2", "TLSv1_3"])
@pytest_twisted.inlineCallbacks
def test_tls_before_1_2_is_refused(certificate: Path, version: str) -> Steps:
    place = yield tls_place(1, certificate)
    plain = _connect(place)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    # The system's own rules forbid the old ones to this client, too.
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]

    def shake() -> str:
        try:
            with context.wrap_socket(plain()) as connection:
                return str(connection.version())
        except ssl.SSLError as error:
            return str(error.reason)

    told = yield deferToThread(shake)
    if version in ("TLSv1", "TLSv1_1"):
        # The alert is the node's: the client has offered it.
        assert told == "TLSV1_ALERT_PROTOCOL_VERSION"
    else:
        assert told == version.replace("_", ".")
    yield close_all([place])


def test_nodes_are_a_set_over_tls(certificate: Path, tmp_path: Path) -> None:
    """Three processes; clients come in by another door."""
    ports = free_ports(3)
    files = f"privateKey={certificate / 'key.pem'}:certKey={certificate / 'cert.pem'}"
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    (trusted / "ca.pem").write_bytes((certificate / "cert.pem").read_bytes())
    addresses = [f"tls:127.0.0.1:{port}:trustRoots={trusted}" for port in ports]
    with Nodes(tmp_path, NUN_REPLICATE_ADDR=",".join(addresses)) as nodes:
        nodes.addresses = addresses
        for process, port, address in zip(nodes.processes, ports, addresses, strict=True):
            process.variables["NUN_TCP_ADDR"] = (
                f"tcp:0:interface=127.0.0.1,ssl:{port}:interface=127.0.0.1:{files}"
            )
            process.variables["NUN_EXTERNAL_ADDR"] = address
        primary = nodes.form()
        other = (primary + 1) % 3
        watcher = nodes.admin(primary, "create-db d t", "use-db d t", "watch k")
        nodes.wait_until_equal()
        nodes.admin(other, "use-db d t", "set k 1")
        assert watcher.line() == b"changed k 1\n"
        nodes.wait_until_equal()
        for process in nodes.processes:
            began = time.monotonic()
            assert process.stop() == 0
            assert time.monotonic() - began < 8.0
            no_trace_of_trouble(process.log, allowed=["cannot be reached", "closed the connection"])
