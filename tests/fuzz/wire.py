"""Targets: bytes as they come on a port of a whole node, in memory.

What comes back does not depend on the pieces they come in, nor on whether a quick road took them:
that of many commands at once (:mod:`nuntwist.core.hotroad`), or that of small WebSocket frames,
whose judge is Autobahn with no help.
"""

from __future__ import annotations

import re
from typing import Any

from nuntwist.core import hotroad
from nuntwist.core.limits import Limits
from nuntwist.net import websocket
from nuntwist.net.frames import frame_size, small_texts
from nuntwist.net.page import host_of
from nuntwist.testing import Connection, MemoryNode
from tests.fuzz.target import cut, nothing_fails, put, tried

LIMITS = Limits(line=400)
_DATE = re.compile(rb"\r\nDate: [^\r]*")
_CLOSE = 8
_PONG = 10


def _node() -> MemoryNode:
    node = MemoryNode(limits=LIMITS)
    node.admin("create-db d t", "use-db d t", "set a 1", "set n 5").close()
    return node


def _general() -> Any:
    """Have no command take the hot road."""
    return put(
        hotroad,
        run=lambda pipeline, client, lines, at, stop: at,
        single=lambda pipeline, client, lines: False,
    )


def _state(node: MemoryNode) -> list[object]:
    """What is logged, but for the stamps."""
    return [op[:3] + op[4:] for ops in node.oplog.read(0) for op in ops]


def _lines(pieces: list[bytes]) -> object:
    node = _node()
    client, watcher = node.tcp(), node.tcp()
    watcher.ask("use-db d t\nwatch a")
    client.ask("use-db d t")
    for piece in pieces:
        client.deliver(piece)
    node.clock.advance(5)
    return client.taken(), watcher.taken(), client.closed, _state(node)


def tcp(data: bytes) -> None:
    """Lines over TCP."""
    with nothing_fails():
        wanted = _lines([data] if data else [])
        assert _lines(cut(data)) == wanted
        with _general():
            assert _lines([data] if data else []) == wanted


def _frames(pieces: list[bytes]) -> object:
    node = _node()
    client, watcher = node.ws(), node.tcp()
    watcher.ask("use-db d t\nwatch a")
    client.ask("use-db d t")
    for piece in pieces:
        client.deliver(piece)
    node.clock.advance(5)
    # The words of a reason may be Autobahn's or ours.
    frames = [
        (code, text[:2] if code == _CLOSE else text) for code, text in client.received_frames()
    ]
    # A pong may go before answers that were given in the same turn.
    pongs = [text for code, text in frames if code == _PONG]
    others = [frame for frame in frames if frame[0] != _PONG]
    return others, pongs, watcher.taken(), client.closed, _state(node)


def frames(data: bytes) -> None:
    """Frames over WebSocket, after the handshake."""
    whole = [data] if data else []
    with nothing_fails():
        wanted = _frames(whole)
        assert _frames(cut(data)) == wanted
        with put(websocket, small_texts=lambda data: ([], 0)):
            assert _frames(whole) == wanted


def handshake(data: bytes) -> None:
    """The request for an upgrade to WebSocket, and what comes right behind it."""
    found = []
    with nothing_fails():
        for pieces in ([data], cut(data)):
            node = _node()
            client = Connection(node, node.frames)
            for piece in pieces:
                client.deliver(piece)
            node.clock.advance(20)
            found.append((_DATE.sub(b"", client.taken()), client.closed))
    assert found[0] == found[1]


def small_frames(data: bytes) -> None:
    """Small text frames are what a reader finds that looks at each byte; sizes are right."""
    texts, used = small_texts(data)
    assert (texts, used) == _slowly(data)
    size = frame_size(data)
    assert not used or size is not None
    for at in range(min(len(data), 14)):
        begun = frame_size(data[:at])
        assert begun is None or begun == size


def _slowly(data: bytes) -> tuple[list[bytes], int]:
    """RFC 6455, 5.2: whole, final, text, masked, under 126 bytes."""
    texts, at = [], 0
    while len(data) - at >= 2 and data[at] == 0x81 and 0x80 <= data[at + 1] <= 0x80 + 125:
        mask, start = data[at + 2 : at + 6], at + 6
        stop = start + data[at + 1] - 0x80
        if len(data) < stop:
            break
        texts.append(bytes(byte ^ mask[i & 3] for i, byte in enumerate(data[start:stop])))
        at = stop
    return texts, at


def http(data: bytes) -> None:
    """Requests over HTTP, headers and all."""
    found = []
    with nothing_fails():
        for pieces in ([data], cut(data)):
            node = MemoryNode(limits=LIMITS)
            node.admin("create-db d t").close()
            node.site.body_limit = 2_000
            client = Connection(node, node.site)
            for piece in pieces:
                client.deliver(piece)
            node.clock.advance(100)
            answer = _DATE.sub(b"", client.taken())
            assert not answer or answer.startswith(b"HTTP/1.")
            found.append((answer, client.closed, _state(node)))
    assert found[0] == found[1]


def host(data: bytes) -> None:
    """The header ``Host``, whose host goes into a policy."""
    found = host_of(data)
    if found is not None:
        assert re.fullmatch(r"[a-z0-9.-]{1,253}", found)
        assert tried(UnicodeDecodeError, data.decode, "ascii") is not None
