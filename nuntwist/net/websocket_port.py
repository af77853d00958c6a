"""The port for WebSocket: makes the protocol of each connection, and says who may connect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol

from nuntwist.core.pipeline import Pipeline
from nuntwist.net.guard import Guard
from nuntwist.net.origins import NULL, full_origin
from nuntwist.net.websocket import FrameProtocol

NO_PAGE = ["none://none:0"]
"""Origins of which there are none."""


class _Timers:
    """Makes Autobahn's time-outs (txaio's IBatchedTimer).

    :ivar call_later: IReactorTime.callLater.
    """

    def __init__(self, call_later: Callable[..., Any]) -> None:
        self.call_later = call_later


class FrameFactory(WebSocketServerFactory):
    """Makes the protocol of each WebSocket connection.

    :param guard: watches over them.
    :param reactor: for Autobahn's timers.
    :param call_later: IReactorTime.callLater.
    :param origins: of the pages that may connect, in lower case; empty for all. Who sends no
        origin is no page.
    :ivar options: of each protocol, by name.
    :ivar clients: the connections that are past their handshake.
    :ivar closing: those that were sent a close frame and have not gone yet; they do so within
        Autobahn's time-out.
    """

    noisy = False
    protocol: Any = FrameProtocol

    def __init__(
        self,
        pipeline: Pipeline,
        guard: Guard,
        reactor: Any,
        call_later: Callable[..., Any],
        origins: Sequence[str] = (),
    ) -> None:
        # No versions, of us or of others.
        super().__init__(server="nuntwist", reactor=reactor)
        # Autobahn's own keeps its time-outs on the global reactor, whatever it is given.
        self._batched_timer: Any = _Timers(call_later)
        self.pipeline = pipeline
        self.guard = guard
        self.call_later = call_later
        self.clients: set[FrameProtocol] = set()
        self.closing: set[FrameProtocol] = set()
        self.setProtocolOptions(
            maxFramePayloadSize=pipeline.limits.line,
            maxMessagePayloadSize=pipeline.limits.line,
            failByDrop=False,
            echoCloseCodeReason=True,
            webStatus=False,
            # Left out, allowNullOrigin would forbid pages from a file and of sandboxed frames.
            allowedOrigins=[full_origin(one) for one in origins if one != NULL] or NO_PAGE
            if origins
            else ["*"],
            allowNullOrigin=not origins or NULL in origins,
            # Of that the guard takes care, for all transports.
            openHandshakeTimeout=0,
            closeHandshakeTimeout=2,
        )
        names = WebSocketServerProtocol.CONFIG_ATTRS
        self.options = {name: getattr(self, name) for name in names}

    def finish_all(self) -> None:
        """Answer what is in flight on every connection, then close it with a close frame."""
        for protocol in tuple(self.clients):
            if protocol.client is not None:
                protocol.pause_reading()
                self.pipeline.connections.finish(protocol.client)
