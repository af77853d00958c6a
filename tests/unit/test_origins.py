"""Which pages may connect by WebSocket, and send commands over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.internet.address import IPv4Address
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher

from nuntwist.net.http import NqlResource, NqlSite
from nuntwist.net.origins import Origins
from nuntwist.net.websocket_port import FrameFactory
from nuntwist.testing import Connection, MemoryNode, MemoryTransport

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n%b"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What is logged as a warning."""
    lines: list[str] = []

    def note(event: LogEvent) -> None:
        if event["log_level"] == LogLevel.warn and event["log_namespace"].startswith("nuntwist"):
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(note)
    yield lines
    globalLogPublisher.removeObserver(note)


def status(origins: tuple[str, ...], origin: str | None) -> int:
    """What a handshake is answered."""
    node = MemoryNode()
    factory = FrameFactory(
        node.node.pipeline, node.guard, node.clock, node.clock.callLater, origins
    )
    protocol = factory.buildProtocol(IPv4Address("TCP", "10.0.0.1", 1))
    transport = MemoryTransport()
    protocol.makeConnection(transport)
    header = b"" if origin is None else f"Origin: {origin}\r\n".encode()
    protocol.dataReceived(REQUEST % header)
    # Nothing says what the node is made of.
    assert b"utobahn" not in transport.value()
    answer = int(transport.value().split(b" ")[1])
    # What is no origin is no page's.
    assert node.node.counters.pages_refused == (answer != 101 and origin != "rubbish")
    return answer


TWO = ("https://a.example", "http://b.example:8080")


@pytest.mark.parametrize(
    ("origins", "origin", "answer"),
    [
        ((), "https://any.example", 101),
        ((), "null", 101),
        ((), None, 101),
        (TWO, "https://a.example", 101),
        (TWO, "https://A.EXAMPLE:443", 101),
        (TWO, "http://b.example:8080", 101),
        (TWO, None, 101),
        (TWO, "http://a.example", 400),
        (TWO, "https://a.example:8443", 400),
        (TWO, "https://a.example.evil.example", 400),
        (TWO, "https://evil.a.example", 400),
        (TWO, "https://aXexample", 400),
        (TWO, "http://b.example", 400),
        (TWO, "null", 400),
        (TWO, "file:///home/x.html", 400),
        (TWO, "rubbish", 400),
        (("null",), "null", 101),
        (("null",), "https://a.example", 400),
        (("http://[::1]:8080",), "http://[::1]:8080", 101),
        (("chrome-extension://abc",), "chrome-extension://abc", 101),
        (("chrome-extension://abc",), "chrome-extension://abcd", 400),
    ],
)
def test_only_pages_that_are_named_may(
    origins: tuple[str, ...], origin: str | None, answer: int
) -> None:
    assert status(origins, origin) == answer

    # Over HTTP it is the same.
    node = MemoryNode()
    code, _ = posted(node, origins, b"ping", origin)
    assert code == (200 if answer == 101 else 403)
    assert node.node.counters.pages_refused == (code == 403)


def posted(
    node: MemoryNode, origins: tuple[str, ...], body: bytes, origin: str | None
) -> tuple[int, bytes]:
    """What a POST is answered: the code, and the body."""
    site = NqlSite(NqlResource(node.node.pipeline, None, origins), node.guard, node.clock, 1 << 20)
    connection = Connection(node, site)
    header = b"" if origin is None else f"Origin: {origin}\r\n".encode()
    connection.deliver(
        b"POST / HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (header, len(body), body)
    )
    head, _, text = connection.taken().partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), text


def test_of_a_page_that_may_not_nothing_is_run(logged: list[str]) -> None:
    node = MemoryNode()
    node.admin("create-db d t").close()
    before = node.node.counters.connections
    body = b"use-db d t; set a 1"
    told = b"pages of this origin may not send commands\n"
    assert posted(node, TWO, body, "https://evil.example") == (403, told)
    assert node.node.counters.connections == before
    assert logged == [
        "pages that were not let in (NUN_ALLOWED_ORIGINS): 1, the last one from 192.168.1.1,"
        " of the origin https://evil.example"
    ]
    assert posted(node, TWO, b"use-db d t; get a", None) == (200, b"empty;value <Empty>\n")
    assert posted(node, TWO, body, "https://a.example") == (200, b"empty;empty")
    assert posted(node, TWO, b"use-db d t; get a", None) == (200, b"empty;value 1\n")


@pytest.mark.parametrize(
    "origin", ["http://[", "http://a.example:none", "http://a.example:99999", "", " ", "\ufffd"]
)
def test_what_is_no_origin_is_none_of_those_allowed(origin: str) -> None:
    assert not Origins(TWO).admit(origin)
    assert Origins().admit(origin)


def test_the_log_names_the_page(logged: list[str]) -> None:
    assert status(TWO, "https://evil.example" + "x" * 200) == 400
    assert logged == [
        "pages that were not let in (NUN_ALLOWED_ORIGINS): 1, the last one from 192.168.1.1:54321,"
        f" of the origin https://evil.example{'x' * 80}"
    ]
