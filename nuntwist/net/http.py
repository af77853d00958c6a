"""The HTTP port: commands in the body of a POST, a page to look at on GET ``/``.

The session (who is authenticated, which database) lives for one request. How an answer comes to be
is :mod:`nuntwist.net.http_answer`, what a connection may take its time for
:mod:`nuntwist.net.http_channel`; here is what the port serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from nuntwist.core.pipeline import Pipeline
from nuntwist.net.guard import Guard
from nuntwist.net.http_answer import SERVER, Answer, as_plain_text
from nuntwist.net.http_channel import LimitedRequest, PatientChannel
from nuntwist.net.origins import Origins
from nuntwist.net.page import page_response

IDLE_SECONDS = 60
"""How long a kept-alive connection may say nothing."""


class NqlResource(Resource):
    """Everything the HTTP port serves.

    :param ws_port: where the page finds the WebSocket, if there is one.
    :param origins: of the pages that may send commands, in lower case; empty for all.
    """

    isLeaf = True

    def __init__(
        self, pipeline: Pipeline, ws_port: int | None, origins: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self._pipeline = pipeline
        self._origins = Origins(origins)
        self.ws_port = ws_port

    def render(self, request: Request) -> int | bytes:
        """Refuse what is neither read nor POST."""
        request.setHeader(b"server", SERVER)
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
        answer = Answer(request, self._pipeline)
        sent = request.getHeader(b"origin")
        origin = None if sent is None else sent.decode(errors="replace")
        if origin is None or self._origins.admit(origin):
            answer.run(request.content.read())
        else:
            answer.refuse_page(origin)
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
