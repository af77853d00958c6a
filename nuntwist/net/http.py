"""Clients over HTTP: the commands of a POST, answered with one part a command.

The session (who is authenticated, which database) lives for one request. GET on ``/`` serves
the page to look at. A body over the limit is refused before it is read, an answer over the
limit before it is sent.

The head of a request has the time of a handshake, from its first byte on (the first one on a
connection, from when that was made); its body has the time of a command, from the end of the head
on. Who takes longer is told so (408) and let go.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from nuntwist.core.client import Client
from nuntwist.core.pipeline import Pipeline
from nuntwist.language.framing import TOO_LONG, split_commands
from nuntwist.language.replies import ATOMS, first_messages
from nuntwist.net.guard import Guard
from nuntwist.net.outlet import peer_name
from nuntwist.net.page import page_response
from nuntwist.net.parting import Parting, unsent
from nuntwist.net.proxies import UNIX

LONGEST_LENGTH = 20
"""Digits of the length of a body."""
IDLE_SECONDS = 60
"""How long a kept-alive connection may say nothing."""
TOO_LATE = (
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 24\r\n\r\nthe request is too slow\n"
)

PLAIN_TEXT = (
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
"""What answers that are no page carry, so that a browser takes nothing in them for one, runs
nothing and keeps nothing: they hold what clients have stored."""


def as_plain_text(request: Request) -> None:
    """Set the headers of an answer that is no page."""
    for name, value in PLAIN_TEXT:
        request.setHeader(name, value)


class Answer:
    """One POST under way: the outlet of its client."""

    def __init__(self, request: Request, pipeline: Pipeline) -> None:
        channel: Any = request.channel
        self._request = request
        self._pipeline = pipeline
        self._atoms: list[bytes] = []
        self._size = 0
        self._done = False
        # A unix socket has no host.
        host = getattr(request.getClientAddress(), "host", None)
        guard: Guard = channel.site.guard
        forwarded = request.requestHeaders.getRawHeaders(b"x-forwarded-for", [])
        self._behind = guard.trusted.client_behind(host, forwarded)
        self._gate = None if self._behind is None else guard.gate
        self._client = Client(self, ATOMS, self._behind or host or UNIX)
        self._meter = guard.meter(pipeline, self._client, channel.bucket)
        request.notifyFinish().addBoth(self._gone)

    def run(self, body: bytes) -> None:
        """Run the commands of the body, then answer."""
        self._pipeline.connect(self._client)
        if self._gate is not None and not self._gate.enter_as(self._client.peer):
            self._gate = None
            self._respond(429, b"there are too many requests from your address\n")
            return
        limit = self._pipeline.limits.line
        lines = [part.strip() for part in split_commands(body)]
        lines = [line if len(line) <= limit else TOO_LONG for line in lines if line]
        road = self._meter or self._pipeline
        if lines:
            road.receive(self._client, (lines, False))
        road.finish(self._client)

    def _gone(self, _: object) -> None:
        # Also where Twisted has answered, as something failed in a way nobody foresaw.
        if not self._done:
            self._done = True
            self._leave()

    def _leave(self) -> None:
        self._pipeline.disconnect(self._client)
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.leave_as(self._client.peer)

    def _respond(self, code: int, text: bytes) -> None:
        if self._done:
            return
        self._done = True
        self._leave()
        request = self._request
        request.setResponseCode(code)
        as_plain_text(request)
        request.setHeader(b"content-length", b"%d" % len(text))
        request.write(text)
        request.finish()

    # -- the outlet of the client --------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Keep atoms until all commands are answered."""
        self._size += len(data)
        if self._size <= self._pipeline.limits.output_limit:
            self._atoms.append(data)
        elif not self._done:
            self._atoms.clear()
            self._client.backlog.clear()
            limit = self._pipeline.limits.output_limit
            self._respond(413, b"the answer has over %d bytes: ask for less at once\n" % limit)

    def pause_reading(self) -> None:
        """The whole body is read already."""

    def resume_reading(self) -> None:
        """The whole body is read already."""

    def end(self) -> None:
        """All is answered."""
        self._respond(200, b";".join(first_messages(b"".join(self._atoms))))

    def abort(self, reason: str) -> None:
        """Give up."""
        self._respond(503, reason.encode() + b"\n")


class LimitedRequest(Request):
    """A request whose body may not be longer than the site allows."""

    channel: Any
    _taken = 0
    _refused = False

    def gotLength(self, length: int | None) -> None:
        """The headers are there."""
        super().gotLength(length)
        if length is not None and length > self._limit():
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:
        """Some of the body is there."""
        self._taken += len(data)
        if self._taken > self._limit():
            self._refuse()
        if not self._refused:
            super().handleContentChunk(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """All of it is there. A refused body was not kept whole, so nothing of it is run."""
        if not self._refused:
            super().requestReceived(command, path, version)

    def _limit(self) -> int:
        return int(self.channel.site.body_limit)

    def _refuse(self) -> None:
        if self._refused:
            return
        self._refused = True
        text = b"a body may have at most %d bytes\n" % self._limit()
        self.channel.transport.write(
            b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n"
            b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)
        )
        self.channel.loseConnection()


class Stage(Enum):
    """What an HTTP connection waits for."""

    NEW = "its first bytes"
    HEAD = "the end of a head"
    BODY = "the end of a body"
    ANSWER = "an answer of ours"
    KEPT = "another request"


class PatientChannel(HTTPChannel):
    """An HTTP connection on which a request has to be whole within a time.

    :ivar bucket: for the commands of all its requests, where they have a rate.
    """

    site: NqlSite
    transport: Any
    _stage = Stage.NEW
    _parting: Parting | None = None
    _left = 0

    def connectionMade(self) -> None:
        """Wait for a first request."""
        rate = self.site.guard.rate
        self.bucket = None if rate is None else rate.bucket()
        self.site.guard.handshakes.begin(self)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        """Take some of a request."""
        if self._parting is not None:
            return
        if self._stage is Stage.NEW:
            self._stage = Stage.HEAD
        elif data.strip(b"\r\n"):
            self._begin_head()
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        """A line of a head is there; before it there may be an empty one."""
        if line:
            self._begin_head()
        super().lineReceived(line)

    def _begin_head(self) -> None:
        if self._stage is Stage.KEPT:
            self._stage = Stage.HEAD
            self.site.guard.handshakes.begin(self)

    def headerReceived(self, line: bytes) -> bool:
        """A line of the headers is there.

        Twisted's own hands a length of any number of digits to ``int``, which raises an error for
        thousands, and nobody catches it.
        """
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and len(value.strip()) > LONGEST_LENGTH:
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            self.loseConnection()
            return False
        received: bool = super().headerReceived(line)
        return received

    def allHeadersReceived(self) -> None:
        """The head is whole."""
        self.site.guard.handshakes.forget(self)
        self._stage = Stage.BODY
        if self.length != 0:
            self.site.guard.commands.begin(self)
        super().allHeadersReceived()

    def allContentReceived(self) -> None:
        """The request is whole."""
        self.site.guard.commands.forget(self)
        self._stage = Stage.ANSWER
        super().allContentReceived()

    def requestDone(self, request: Request) -> None:
        """It is answered; what came behind it is taken now."""
        self._stage = Stage.KEPT
        super().requestDone(request)

    def out_of_time(self) -> str | None:
        """End it; see :class:`nuntwist.net.patience.Hurried`."""
        if self._stage is Stage.NEW:
            # Over TLS that has not even begun nothing can be told.
            self.transport.abortConnection()
        else:
            self.transport.write(TOO_LATE)
            self.loseConnection()
        return peer_name(self.transport)

    def timeoutConnection(self) -> None:
        """Nothing has come for a while; what was answered last may still be on its way."""
        before, self._left = self._left, unsent(self.transport)
        if 0 < self._left != before:
            self.setTimeout(self.timeOut)
        else:
            self.loseConnection()

    def loseConnection(self) -> None:
        """Send what is left, then close."""
        super().loseConnection()
        if self._parting is None:
            self._parting = Parting(self.transport, self.site.guard.partings)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It is gone."""
        self.site.guard.gone(self.transport, reason, "HTTP")
        if self._parting is not None:
            self._parting.gone()
        self.site.guard.handshakes.forget(self)
        self.site.guard.commands.forget(self)
        super().connectionLost(reason)


class NqlResource(Resource):
    """Everything the HTTP port serves.

    :param ws_port: where the page finds the WebSocket, if there is one.
    """

    isLeaf = True

    def __init__(self, pipeline: Pipeline, ws_port: int | None) -> None:
        super().__init__()
        self._pipeline = pipeline
        self.ws_port = ws_port

    def render(self, request: Request) -> int | bytes:
        """Refuse what is neither read nor POST."""
        if request.method in (b"GET", b"HEAD", b"POST"):
            rendered: int | bytes = super().render(request)
            return rendered
        request.setResponseCode(405)
        request.setHeader(b"allow", b"GET, HEAD, POST")
        as_plain_text(request)
        return b"this method is not supported: POST commands, or GET / for a page\n"

    def render_POST(self, request: Request) -> int:
        """Run the body's commands."""
        assert request.content is not None
        Answer(request, self._pipeline).run(request.content.read())
        return NOT_DONE_YET

    def render_HEAD(self, request: Request) -> int:
        """The head of the page. (Twisted's own logs a warning for every one.)"""
        body = self.render_GET(request)
        request.setHeader(b"content-length", b"%d" % len(body))
        request.write(b"")
        request.finish()
        return NOT_DONE_YET

    def render_GET(self, request: Request) -> bytes:
        """The page, at ``/``."""
        if request.path != b"/":
            request.setResponseCode(404)
            as_plain_text(request)
            return b"nothing here: POST commands, or GET / for a page\n"
        body, headers = page_response(request.getHeader(b"host"), self.ws_port)
        for name, value in headers:
            request.setHeader(name, value)
        return body


class NqlSite(Site):
    """The HTTP server.

    :param guard: watches over the connections.
    :param body_limit: bytes a body may have.
    """

    noisy = False
    # Twisted's own is a wrapper that can also choose HTTP/2, which is not spoken here.
    protocol: Any = PatientChannel
    _log = Logger()

    def __init__(self, resource: NqlResource, guard: Guard, reactor: Any, body_limit: int) -> None:
        super().__init__(
            resource,
            requestFactory=LimitedRequest,
            timeout=min(IDLE_SECONDS, guard.rules.idle or IDLE_SECONDS),
            reactor=reactor,
        )
        self.guard = guard
        self.body_limit = body_limit

    def acceptableProtocols(self) -> list[bytes]:
        """What is agreed on over TLS."""
        return [b"http/1.1"]

    def log(self, request: Any) -> None:
        """No access log: what matters is logged where it happens."""
