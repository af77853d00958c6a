"""How long it takes until thousands of clients are back after a node was killed.

All connect at once over WebSocket, log in, watch a key, and count as back when all that is
answered. The node has just been started again, so it has not yet seen the token: it is checked at
its full cost, once for all who wait for it. Then the same with signed tokens, a different one for
each client, where the key that they are checked with has to be opened first.
"""

from __future__ import annotations

import select
import signal
import socket
import time
from collections.abc import Iterator

import jwt

from benchmarks.bench import Bench
from benchmarks.figures import Row, Side
from benchmarks.servers import DATABASE, TOKEN, Node, ServerError
from benchmarks.wire import frame

SECRET = "reconnecting-clients-have-signed-tokens"
_MASK = b"\x5a\xa5\x0f\xf0"
_UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_BACK = b"\x81\x04ok \n" * 2
PATIENCE = 120.0


def run(bench: Bench) -> Iterator[Row]:
    """Give the rows of the group ``reconnect``."""
    count = bench.settings.hostile
    bench.say(f"{count:,} clients come back")
    with bench.node() as node:
        with node.admin_session() as ask:
            ask(b"use-db %b %b" % (DATABASE, TOKEN))
            ask(b"set-signing-keys keep " + SECRET.encode())
        for name, title, login in (
            ("reconnect", "one token", _with_token),
            ("reconnect-signed", "a signed token each", _with_signed_token),
        ):
            node.stop(signal.SIGKILL)
            node.start(node.listens)
            began = node.cpu()
            seconds = come_back(node, [login(number) for number in range(count)])
            share = (node.cpu() - began) / seconds
            yield Row(name, f"{count:,} clients back, {title}", "s", Side([seconds], share))


def _with_token(_: int) -> bytes:
    return b"use-db %b %b" % (DATABASE, TOKEN)


def _with_signed_token(number: int) -> bytes:
    claims = {
        "db": DATABASE.decode(),
        "sub": f"visitor-{number}",
        "exp": time.time() + 3600,
        "permissions": "r news",
    }
    return b"use-db %b jwt %b" % (DATABASE, jwt.encode(claims, SECRET).encode())


def come_back(node: Node, logins: list[bytes]) -> float:
    """Connect a client for each login, all at once; gives the seconds until the last is back.

    :raise ServerError: one was refused, or they were not back in time.
    """
    poller = select.epoll()
    clients: dict[int, _Client] = {}
    begin = time.monotonic()
    try:
        for login in logins:
            client = _Client(node.web_address, login)
            clients[client.socket.fileno()] = client
            poller.register(client.socket, select.EPOLLIN | select.EPOLLOUT)
        missing = len(clients)
        while missing:
            if time.monotonic() > begin + PATIENCE:
                raise ServerError(f"{missing} clients are not back after {PATIENCE} s")
            for number, _ in poller.poll(1.0):
                client = clients[number]
                if client.go_on():
                    poller.modify(client.socket, select.EPOLLIN)
                if client.is_back:
                    poller.unregister(client.socket)
                    missing -= 1
        return time.monotonic() - begin
    finally:
        poller.close()
        for client in clients.values():
            client.socket.close()


class _Client:
    """One that comes back.

    :ivar is_back: whether it is logged in and watches.
    """

    def __init__(self, address: tuple[str, int], login: bytes) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(address)
        self.is_back = False
        self._login = login
        self._said = False
        self._heard = b""

    def go_on(self) -> bool:
        """Send what is due, and take what has come.

        :return: whether it only waits from now on.
        :raise ServerError: it was refused.
        """
        if not self._said:
            self.socket.sendall(_UPGRADE)
            self._said = True
            return True
        data = self.socket.recv(4096)
        if not data:
            raise ServerError("a client that came back was cut off")
        self._heard += data
        head, end, rest = self._heard.partition(b"\r\n\r\n")
        if self._login and end:
            if not head.startswith(b"HTTP/1.1 101"):
                raise ServerError(f"a client that came back got {head[:100]!r}")
            self.socket.sendall(frame(self._login, _MASK) + frame(b"watch news", _MASK))
            self._login = b""
        if b"error" in rest:
            raise ServerError(f"a client that came back got {rest[:100]!r}")
        self.is_back = rest == _BACK
        return False
