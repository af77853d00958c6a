"""The answer to one POST: it stands between the request and a client of the pipeline.

    run: a client connects ──▶ its commands ──▶ it is ended when all are answered ──▶ 200
           │ too many of that address ──▶ 429        │ more than an answer may have ──▶ 413
           │                                         │ cut off ──▶ 503
           └ the connection is gone: the client goes, nobody is told
    refuse_page: ──▶ 403

What the client is sent is kept until the end, as the length of an answer stands before it.
Whichever of these comes first is the answer; the client is gone then, and the others mean nothing.
"""

from __future__ import annotations

from typing import Any

from twisted.web.server import Request

from nuntwist.core.client import Client
from nuntwist.core.pipeline import Pipeline
from nuntwist.language.framing import TOO_LONG, split_commands
from nuntwist.language.replies import ATOMS, first_messages
from nuntwist.net.guard import Guard
from nuntwist.net.origins import LONGEST_ORIGIN
from nuntwist.net.proxies import UNIX

PLAIN_TEXT = (
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
"""What answers that are no page carry, so that a browser takes nothing in them for one, runs
nothing and keeps nothing: they hold what clients have stored."""
SERVER = b"nuntwist"
"""What answers say of who gives them: no versions, of us or of others."""


def bare_answer(status: bytes, text: bytes) -> bytes:
    """A whole answer to something that is no request yet; the connection ends with it.

    :param status: the code and its words.
    """
    headers = (
        *((b"server", SERVER), (b"connection", b"close")),
        *PLAIN_TEXT,
        (b"content-length", b"%d" % len(text)),
    )
    lines = [b"HTTP/1.1 " + status, *(b"%b: %b" % header for header in headers)]
    return b"\r\n".join([*lines, b"", text])


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
        self._guard = guard
        forwarded = request.requestHeaders.getRawHeaders(b"x-forwarded-for", [])
        self._behind = guard.trusted.client_behind(host, forwarded)
        self._gate = None if self._behind is None else guard.gate
        self._client = Client(self, ATOMS, self._behind or host or UNIX)
        self._meter = guard.meter(pipeline, self._client, channel.bucket)
        request.notifyFinish().addBoth(self._gone)

    def run(self, body: bytes) -> None:
        """Run the commands of the body, then answer."""
        self._pipeline.connections.connect(self._client)
        if self._gate is not None and not self._gate.enter_as(self._client.peer):
            self._gate = None
            self._respond(429, b"there are too many requests from your address\n")
            return
        limit = self._pipeline.limits.line
        lines = [part.strip() for part in split_commands(body)]
        lines = [line if len(line) <= limit else TOO_LONG for line in lines if line]
        if lines:
            (self._meter or self._pipeline).receive(self._client, (lines, False))
        (self._meter or self._pipeline.connections).finish(self._client)

    def refuse_page(self, origin: str) -> None:
        """Run nothing: a page sends it that may not.

        :param origin: of the page.
        """
        self._pipeline.connections.connect(self._client)
        # It was not counted.
        self._gate = None
        who = f"{self._client.peer}, of the origin {origin[:LONGEST_ORIGIN]}"
        self._guard.refuse_page(who)
        self._respond(403, b"pages of this origin may not send commands\n")

    def _gone(self, _: object) -> None:
        # Also where Twisted has answered, as something failed in a way nobody foresaw.
        if not self._done:
            self._done = True
            self._leave()

    def _leave(self) -> None:
        self._pipeline.connections.disconnect(self._client)
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
