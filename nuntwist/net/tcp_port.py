"""The TCP port: makes the protocol of each connection, of clients and of other nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IAddress, IProtocol
from twisted.internet.protocol import Factory

from nuntwist.core.pipeline import Pipeline
from nuntwist.net.guard import Guard
from nuntwist.net.tcp import LineProtocol


class LineFactory(Factory):
    """Makes the protocol of each TCP connection.

    :param guard: watches over them.
    :param call_later: IReactorTime.callLater, to linger with; None closes at once, as is right
        for a transport that is no socket.
    :param peers: makes the protocol for a connection of another node, or gives None where none
        is taken any more; None where there are no other nodes.
    :param certified: nodes have to show a certificate.
    :ivar clients: the open ones.
    :ivar takes_nodes: what connects may be a node.
    """

    noisy = False
    takes_nodes = True

    def __init__(
        self,
        pipeline: Pipeline,
        guard: Guard,
        call_later: Callable[..., Any] | None = None,
        peers: Callable[[], IProtocol | None] | None = None,
        certified: bool = False,
    ) -> None:
        self._pipeline = pipeline
        self._certified = certified
        self._guard = guard
        self._call_later = call_later
        self._peers = peers
        self.clients: dict[LineProtocol, None] = {}

    def buildProtocol(self, addr: IAddress | None) -> LineProtocol:
        """Make one."""
        protocol = LineProtocol(
            self._pipeline,
            self.clients,
            self._guard,
            self._call_later,
            self._peers,
            self._certified,
        )
        protocol.factory = self
        return protocol

    def finish_all(self) -> None:
        """Answer what is in flight on every connection, then close it."""
        for protocol in tuple(self.clients):
            protocol.pause_reading()
            self._pipeline.connections.finish(protocol.client)
