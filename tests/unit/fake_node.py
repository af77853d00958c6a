"""Servers for tests of the command line: no socket, no reactor, faults at will.

A :class:`Network` is what treq is to the command line: it takes POSTs, by host. Behind a host
stands a node in memory, a :class:`FakeNunDB`, or any function from a body to an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock

from nuntwist.testing import MemoryNode

Server = Callable[[str], "str | tuple[int, str]"]


class Response:
    """What treq gives."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self._text = text

    def content(self) -> Deferred[bytes]:
        """The body."""
        return succeed(self._text.encode())


class Network:
    """Servers by host; records what they are sent.

    :ivar bodies: host and body of every POST.
    :ivar faults: called with each body before its server is; an answer it gives is the one.
    :ivar stuck: where this is in a body, there is never an answer.
    """

    def __init__(self, **servers: Server) -> None:
        self.servers = servers
        self.bodies: list[tuple[str, str]] = []
        self.faults: Callable[[str], str | tuple[int, str] | None] = lambda body: None
        self.stuck: str | None = None
        self.on_stuck: Callable[[], None] = lambda: None

    def client(self, *_: object) -> Network:
        """In the place of ``make_client``."""
        return self

    def post(self, url: Any, /, *, data: bytes, **_: object) -> Deferred[Any]:
        """Answer."""
        host, body = url.host, data.decode()
        self.bodies.append((host, body))
        if host not in self.servers:
            return fail(ConnectionRefusedError(111))
        if self.stuck is not None and self.stuck in body:
            self.on_stuck()
            return Deferred()
        answer = self.faults(body)
        if answer is None:
            answer = self.servers[host](body)
        code, text = (200, answer) if isinstance(answer, str) else answer
        return succeed(Response(code, text))

    def sent(self, word: str) -> int:
        """How often a command was sent."""
        return sum(body.count(word) for _, body in self.bodies)


def behind(node: MemoryNode) -> Server:
    """A node in memory as a server."""
    return node.post


class Reactor(Clock):
    """A clock that takes what to do when the reactor stops."""

    def __init__(self) -> None:
        super().__init__()
        self.before_shutdown: list[Callable[[], Any]] = []

    def addSystemEventTrigger(self, phase: str, event: str, act: Callable[[], Any]) -> None:
        """Take it."""
        assert (phase, event) == ("before", "shutdown")
        self.before_shutdown.append(act)


class React:
    """In the place of ``task.react``: runs until the work has no more to do by itself.

    :ivar clock: the reactor of the last run.
    :ivar interrupt: whether to stop as on Ctrl-C, then.
    """

    def __init__(self) -> None:
        self.clock = Reactor()
        self.interrupt = False

    def __call__(self, session: Callable[[Any], Deferred[Any]]) -> None:
        self.clock = Reactor()
        done = session(self.clock)
        if self.interrupt:
            waits = [act() for act in self.clock.before_shutdown]
            assert all(wait is None or wait.called for wait in waits)
        elif not done.called:
            self.clock.advance(60)
        assert done.called
        raise SystemExit(0)


class FakeNunDB:
    """A server that speaks as NunDB does over HTTP, and hides no token.

    :ivar keys: value and version by key.
    :ivar limit: characters an answer may have.
    """

    def __init__(self, token: str, keys: dict[str, tuple[str, int]]) -> None:
        self.token = token
        self.keys = keys
        self.limit = 1 << 30
        self.gone: set[str] = set()

    def __call__(self, body: str) -> str | tuple[int, str]:
        self._admin = self._selected = False
        parts = [self._answer(part.strip()) for part in body.split(";") if part.strip()]
        answer = ";".join(parts)
        return (413, "too large\n") if len(answer) > self.limit else answer

    def _answer(self, command: str) -> str:
        word, _, rest = command.partition(" ")
        if word == "auth":
            self._admin = rest == "root pw"
            return "valid auth\n" if self._admin else "invalid auth\n"
        if word == "debug":
            return "dbs-list \n$admin : newer\nshop : arbiter\n" if self._admin else "Not auth"
        if word == "use-db":
            name, _, token = rest.partition(" ")
            if name != "shop":
                return "Not a valid database name"
            self._selected = token == self.token
            return "empty" if self._selected else "Invalid token"
        if not self._selected:
            return "error no-db-selected\n"
        if word == "keys":
            seen = sorted(key for key in self.keys if self._admin or not key.startswith("$$"))
            return f"keys {''.join(f',{key}' for key in seen)}\n"
        assert word == "get-safe"
        if rest in self.gone or rest not in self.keys:
            return "value-version 1 <Empty>\n"
        value, version = self.keys[rest]
        return f"value-version {version} {value}\n"
