"""Clients over TCP: one command a line, a greeting on connect.

The life of a connection: ``ok`` is sent; each chunk that arrives is cut into lines, which the
pipeline runs. When the other side stops sending (half-close), everything it asked is still
answered, then the connection ends. While the pipeline has a backlog for it, or its output
buffer is full, it is not read.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from nuntwist.core.client import Client
from nuntwist.core.pipeline import Pipeline
from nuntwist.language.framing import LineFramer
from nuntwist.language.replies import LINES
from nuntwist.net.outlet import Backpressure, peer_name, tune

GREETING = b"ok \n"


@implementer(IHalfCloseableProtocol)
class LineProtocol(Protocol):
    """One TCP connection.

    :param pipeline: of the node.
    :param clients: the open connections of the factory.
    """

    transport: Any

    def __init__(self, pipeline: Pipeline, clients: set[LineProtocol]) -> None:
        self._pipeline = pipeline
        self._clients = clients
        self._framer = LineFramer(pipeline.limits.line)
        self.client: Client

    def connectionMade(self) -> None:
        """Greet."""
        tune(self.transport)
        self.client = Client(self, LINES, peer_name(self.transport))
        self.client.write = self.transport.write
        self._clients.add(self)
        self._pipeline.connect(self.client)
        self.transport.registerProducer(Backpressure(self._pipeline, self.client), True)
        self.write(GREETING)

    def dataReceived(self, data: bytes) -> None:
        """Run what is complete."""
        chunk = self._framer.feed(data)
        if chunk is not None:
            self._pipeline.receive(self.client, chunk)

    def readConnectionLost(self) -> None:
        """The other side sends no more; it is still answered."""
        self._pipeline.finish(self.client)

    def writeConnectionLost(self) -> None:
        """Our side sends no more."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._clients.discard(self)
        self._pipeline.disconnect(self.client)

    # -- the outlet of the client --------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send."""
        self.transport.write(data)

    def pause_reading(self) -> None:
        """Deliver no more input."""
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Deliver input again."""
        self.transport.resumeProducing()

    def end(self) -> None:
        """Send what is buffered, then close."""
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def abort(self, reason: str) -> None:
        """Close at once."""
        self.transport.abortConnection()


class LineFactory(Factory):
    """Makes the protocol of each TCP connection.

    :ivar clients: the open ones.
    """

    noisy = False

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.clients: set[LineProtocol] = set()

    def buildProtocol(self, addr: IAddress | None) -> LineProtocol:
        """Make one."""
        protocol = LineProtocol(self._pipeline, self.clients)
        protocol.factory = self
        return protocol

    def finish_all(self) -> None:
        """Answer what is in flight on every connection, then close it."""
        for protocol in tuple(self.clients):
            protocol.pause_reading()
            self._pipeline.finish(protocol.client)
