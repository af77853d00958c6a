"""The page and its fence: what the policy allows is what stands in the page, and no more."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256

import pytest

from nuntwist.net.page import host_of, inline_blocks, page_response


def policy(host: bytes | None = b"localhost:3013", port: int | None = 3012) -> dict[str, list[str]]:
    """The Content-Security-Policy, directive by directive."""
    text = dict(page_response(host, port)[1])[b"Content-Security-Policy"].decode()
    parts = [part.split() for part in text.split(";")]
    assert len({part[0] for part in parts}) == len(parts)
    return {part[0]: part[1:] for part in parts}


def body(port: int | None = 3012) -> bytes:
    return page_response(b"localhost", port)[0]


@pytest.mark.parametrize("element", ["script", "style"])
def test_the_policy_allows_the_inline_blocks_by_hash_and_nothing_else(element: str) -> None:
    blocks = inline_blocks(body(), element.encode())
    assert blocks
    assert body().count(f"<{element}".encode()) == len(blocks)
    hashes = [f"'sha256-{b64encode(sha256(block).digest()).decode()}'" for block in blocks]
    assert policy()[f"{element}-src"] == hashes


def test_the_port_does_not_stand_in_a_hashed_block() -> None:
    assert policy(port=1)["script-src"] == policy(port=65535)["script-src"]
    assert [inline_blocks(body(1), b"script")] == [inline_blocks(body(2), b"script")]


def test_everything_not_named_is_forbidden() -> None:
    found = policy()
    for directive in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        assert found[directive] == ["'none'"]
    assert found["img-src"] == ["data:"]
    assert found["worker-src"] == ["blob:"]
    assert "unsafe" not in str(found)


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = body().decode()
    # The name of the SVG namespace looks like an address; nothing is fetched from it.
    text = text.replace("xmlns='http://www.w3.org/2000/svg'", "")
    assert not re.search(r"https?://|@import|url\(|//[a-z0-9-]+\.[a-z]", text)
    assert not re.search(r"<(link|img|iframe|object|embed|base|meta http-equiv)\b(?!.*data:)", text)
    assert re.findall(r'\bsrc=|srcset=|href="(?!data:)', text) == []


def test_no_attribute_holds_style_or_script_which_the_policy_would_block() -> None:
    markup = re.sub(rb"<(script|style)>.*?</\1>", b"", body(), flags=re.DOTALL)
    assert not re.search(rb"\s(style|on[a-z]+)=", markup)


def test_the_page_never_turns_text_into_markup() -> None:
    assert not re.search(rb"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", body())


def test_the_page_stays_small() -> None:
    assert len(body()) < 30_000


def test_it_is_told_the_port() -> None:
    assert b'data-ws-port="4012"' in body(4012)
    assert b'data-ws-port=""' in body(None)
    assert b"@WS_PORT@" not in body()


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_number_that_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match="not a port"):
        page_response(b"localhost", port)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"Content-Type", b"text/html; charset=utf-8"),
        (b"X-Content-Type-Options", b"nosniff"),
        (b"Referrer-Policy", b"no-referrer"),
        (b"Cache-Control", b"no-store"),
    ],
)
def test_headers(name: bytes, value: bytes) -> None:
    headers = page_response(b"localhost", 3012)[1]
    assert [text for key, text in headers if key == name] == [value]


@pytest.mark.parametrize(
    ("header", "host"),
    [
        (b"localhost", "localhost"),
        (b"localhost:3013", "localhost"),
        (b"DB-1.Example.org:80", "db-1.example.org"),
        (b"192.168.1.5:3013", "192.168.1.5"),
    ],
)
def test_the_browser_may_connect_to_the_node_it_asked(header: bytes, host: str) -> None:
    assert host_of(header) == host
    assert policy(header)["connect-src"] == [f"ws://{host}:3012", f"wss://{host}:3012"]


HOSTILE = [
    None,
    b"",
    b":3013",
    b"*",
    b"*.example.org",
    b"a b",
    b"a;script-src *",
    b"a; script-src 'unsafe-inline'",
    b"a,b",
    b"a\r\nSet-Cookie: x=1",
    b"localhost\n",
    b"localhost:",
    b"localhost:3013x",
    b"localhost:999999",
    b"'unsafe-inline'",
    b"user@host",
    b"host/path",
    b"http://host",
    b"-a",
    b"a-",
    b"a..b",
    b"localhost.",
    b"[::1]:3013",
    b"[::1",
    b"[::1]x",
    b"[1:2:3]",
    b"[fe80::1%25eth0]",
    b"[:::::]",
    "wirtsh\u00e4user.example".encode(),
    b"\xff\xfe",
    b"a" * 64,
    b"a." * 200,
    b"x" * 100_000,
]


@pytest.mark.parametrize("header", HOSTILE)
def test_a_host_header_that_is_no_host_gets_nowhere_into_the_policy(header: bytes | None) -> None:
    assert policy(header)["connect-src"] == ["'self'"]
    assert policy(header) == policy(None)
    assert page_response(header, 3012)[0] == page_response(b"localhost", 3012)[0]


def test_without_a_websocket_no_connection_is_allowed() -> None:
    assert policy(port=None)["connect-src"] == ["'none'"]
