"""The page that a node serves on GET ``/``, and the headers that fence it in.

``page.html`` holds everything, style and script included.  It is read once; then the
Content-Security-Policy allows exactly the inline blocks that stand in it, by their SHA-256,
and connections to one place: the node's own WebSocket address, which is the host that the
browser asked for (from the Host header, if it is a plain name or address) and the port that
the node listens on.  So the page can't load, send or tell anything to anybody else, even if
somebody found a way to put a script into a value.

All this is pure: bytes in, bytes and headers out.
"""

from __future__ import annotations

import functools
import re
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple

Headers = list[tuple[bytes, bytes]]

_PORT_MARK = b"@WS_PORT@"
_HOST = re.compile(rb"([A-Za-z0-9.-]{1,253})(?::[0-9]{1,5})?")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_FIXED: Headers = [
    (b"Content-Type", b"text/html; charset=utf-8"),
    (b"Cache-Control", b"no-store"),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
]


class _Page(NamedTuple):
    """The page as read: its bytes, and the policy's sources for its inline blocks."""

    body: bytes
    scripts: bytes
    styles: bytes


def inline_blocks(page: bytes, element: bytes) -> list[bytes]:
    """Give the contents of all ``<element>`` blocks, as a browser hashes them."""
    return re.findall(rb"<%b>(.*?)</%b>" % (element, element), page, re.DOTALL)


def _hashes(blocks: list[bytes]) -> bytes:
    return b" ".join(b"'sha256-" + b64encode(sha256(block).digest()) + b"'" for block in blocks)


@functools.cache
def _page() -> _Page:
    body = files("nuntwist.net").joinpath("page.html").read_bytes()
    # A browser turns all line ends into \n before it hashes.
    body = body.replace(b"\r\n", b"\n")
    return _Page(
        body, _hashes(inline_blocks(body, b"script")), _hashes(inline_blocks(body, b"style"))
    )


def host_of(header: bytes | None) -> str | None:
    """Find the host in a Host header.

    :return: a lower-case host name or an IPv4 address; None for everything else, so what
        comes back holds nothing that means something in a policy. None for an IPv6 address
        too: a policy cannot name one (browsers ignore the source), and the only one that
        would let it pass lets all hosts pass. The page then asks to be opened under a name.
    """
    found = _HOST.fullmatch(header or b"")
    if found is None:
        return None
    host = found[1].decode("ascii").lower()
    if all(_LABEL.fullmatch(label) for label in host.split(".")):
        return host
    return None


def _connect_sources(host: str | None, ws_port: int | None) -> bytes:
    if ws_port is None:
        return b"'none'"
    if host is None:
        return b"'self'"
    return b"ws://%b:%d wss://%b:%d" % (host.encode(), ws_port, host.encode(), ws_port)


def page_response(host_header: bytes | None, ws_port: int | None) -> tuple[bytes, Headers]:
    """Give the page and its headers.

    :param host_header: the request's Host header, as it came; None where there was none.
    :param ws_port: the port of the node's WebSocket address (1 to 65535); None where it has
        none that a browser can reach.
    :return: the body, and all headers but those of the connection (Content-Length, Date).
    """
    if ws_port is not None and not 0 < ws_port < 65536:
        raise ValueError(f"not a port: {ws_port}")
    page = _page()
    policy = b"; ".join(
        [
            b"default-src 'none'",
            b"script-src " + page.scripts,
            b"style-src " + page.styles,
            # The icon is a data: address in the page itself.
            b"img-src data:",
            # The page's worker, which holds the WebSocket, under the same policy.
            b"worker-src blob:",
            b"connect-src " + _connect_sources(host_of(host_header), ws_port),
            b"base-uri 'none'",
            b"form-action 'none'",
            b"frame-ancestors 'none'",
        ]
    )
    body = page.body.replace(_PORT_MARK, b"" if ws_port is None else b"%d" % ws_port)
    return body, [*_FIXED, (b"Content-Security-Policy", policy)]
