"""Clients over TCP: one command a line, a greeting on connect.

The life of a connection: ``ok`` is sent; each chunk that arrives is cut into lines, which the
pipeline runs. When the other side stops sending (half-close), everything it asked is still
answered, then the connection ends. While the pipeline has a backlog for it, or its output
buffer is full, it is not read.

Where other nodes may connect, whoever begins with ``peer `` is one, and its connection is handed
over to another protocol. So a first chunk that is the beginning of that word waits for more.

Where our side is the first to end it, it says so and reads on for a moment without a look at
what comes: a socket that is closed on unread input sends a reset, and that takes answers with
it that are still on their way.

Whoever begins with an HTTP request is told so and cut off: a web page can make a browser send
one to any port, and the lines of its body would be commands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IProtocol,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from nuntwist.core.client import Client
from nuntwist.core.pipeline import Pipeline
from nuntwist.language.framing import LineFramer
from nuntwist.language.replies import LINES
from nuntwist.net.fast import SendingServer
from nuntwist.net.first_bytes import Who, who_begins
from nuntwist.net.guard import Guard
from nuntwist.net.introduced import Counted
from nuntwist.net.outlet import Backpressure, is_busy, peer_name, tune
from nuntwist.net.parting import Parting
from nuntwist.net.tls import has_certificate
from nuntwist.net.unended import Unended

GREETING = b"ok \n"
NO_CERTIFICATE = b"refused links need a certificate that NUN_PEER_CA has signed, over TLS\n"
"""What another node is told, in words of its handshake."""
SHOWN_NONE = (
    "no certificate: the addresses of this set have to be tls:host:port:certificate=FILE:"
    "privateKey=FILE there"
)
NOT_HTTP = b"error this port takes commands, not HTTP: use the HTTP port \n"
TOO_MANY = b"error there are too many connections \n"
TOO_LATE = b"error a command that has begun must end within %d s \n"
EXCESS_SECONDS = 2.0
"""How long a connection over the limit has to show that it is a node's."""
LINGER_SECONDS = 1.0
"""How long the other side has to close as well, once we have said that we do."""


@implementer(IHalfCloseableProtocol, IHandshakeListener)
class LineProtocol(Protocol):
    """One TCP connection.

    :param pipeline: of the node.
    :param clients: the open connections of the factory.
    :param guard: as for :class:`nuntwist.net.tcp_port.LineFactory`.
    :param call_later: as there.
    :param peers: as there.
    :param certified: as there.
    :ivar heard: see :class:`nuntwist.net.idle.Silent`.
    """

    transport: Any
    client: Client

    def __init__(
        self,
        pipeline: Pipeline,
        clients: dict[LineProtocol, None],
        guard: Guard,
        call_later: Callable[..., Any] | None = None,
        peers: Callable[[], IProtocol | None] | None = None,
        certified: bool = False,
    ) -> None:
        self._pipeline = pipeline
        self._clients = clients
        self._peers = peers
        self._certified = certified
        self._guard = guard
        self._excess: IDelayedCall | None = None
        self._unended = Unended(self, guard.commands, guard.unfinished)
        self._held = b""
        self._call_later = call_later
        self._ending = self._input_ended = self._begun = False
        self._looked_at = False
        self._lingering: IDelayedCall | None = None
        self._parting: Parting | None = None
        self._framer = LineFramer(pipeline.limits.line)
        self.heard = True

    def connectionMade(self) -> None:
        """Greet, over TLS once that is agreed on."""
        tune(self.transport)
        if isinstance(self.transport, TLSMemoryBIOProtocol):
            self._guard.handshakes.begin(self)
        else:
            self._begin()

    def handshakeCompleted(self) -> None:
        """TLS is agreed on.

        Bytes given to it earlier would fill its buffer, a full buffer stops the reading, and
        without reading the handshake would never be done.
        """
        self._guard.handshakes.forget(self)
        self._begin()

    def _begin(self) -> None:
        self._begun = True
        self._guard.idle.join(self)
        self.client = Client(self, LINES, peer_name(self.transport))
        self.client.write = self.transport.write
        if isinstance(self.transport, SendingServer):
            self.transport.lend_to(self.client)
        self._meter = self._guard.meter(self._pipeline, self.client)
        self._receive = (self._meter or self._pipeline).receive
        self._clients[self] = None
        self._pipeline.connections.connect(self.client)
        self.transport.registerProducer(Backpressure(self._pipeline, self.client), True)
        self.write(GREETING)
        gate = self._guard.gate
        if gate is not None and self._call_later is not None:
            host = getattr(self.transport.getPeer(), "host", None)
            if (host is not None or isinstance(self.transport, Counted)) and gate.is_over(host):
                self._excess = self._call_later(EXCESS_SECONDS, self._turn_away)

    def _turn_away(self) -> None:
        """It is a client, and there are too many."""
        assert self._guard.gate is not None
        self._still_welcome()
        self._guard.gate.refused(getattr(self.transport.getPeer(), "host", None))
        self.write(TOO_MANY)
        self.end()

    def _still_welcome(self) -> None:
        if self._excess is not None and self._excess.active():
            self._excess.cancel()
        self._excess = None

    def dataReceived(self, data: bytes) -> None:
        """Run what is complete."""
        self.heard = True
        if not self._looked_at:
            data = self._held + data
            if not self._may_go_on(data):
                return
        chunk = self._framer.feed(data)
        if chunk is not None:
            self._receive(self.client, chunk)
        framer = self._framer
        if (self._unended.noted or framer.begun) and not self._ending:
            self._unended.note(framer.begun, chunk is not None, framer.pending)

    def out_of_time(self) -> str | None:
        """End it; see :class:`nuntwist.net.patience.Hurried`."""
        if not self._begun:
            self.abort("handshake")
            return peer_name(self.transport)
        if self._ending or self._unended.waits_for_us(self.client):
            return None
        self.write(TOO_LATE % self._guard.commands.allowed)
        self.end()
        return self.client.peer

    def is_busy(self) -> bool:
        """See :class:`nuntwist.net.idle.Silent`."""
        return self._unended.not_read or is_busy(self.client)

    def nudge(self) -> None:
        """There is nothing that a client would have to answer."""

    def end_silence(self) -> str:
        """End it; see :class:`nuntwist.net.idle.Silent`."""
        peer = self.client.peer
        self._pipeline.connections.finish(self.client)
        return peer

    def give_up(self) -> str:
        """Close at once; see :class:`nuntwist.net.unfinished.Sender`."""
        self.abort("input")
        return self.client.peer

    def _may_go_on(self, data: bytes) -> bool:
        """Look at a connection's first bytes, and at what comes when it is ending."""
        if self._ending:
            return False
        who = who_begins(data, self._peers is not None)
        if who is Who.UNKNOWN:
            self._held = data
            self._unended.note(True, False, len(data))
            return False
        if who is Who.NODE and self._take_node(data):
            return False
        if self._excess is not None:
            self._turn_away()
            return False
        self._looked_at, self._held = True, b""
        if who is Who.BROWSER:
            self.write(NOT_HTTP)
            self.end()
            return False
        return True

    def _take_node(self, data: bytes) -> bool:
        """Take what has begun as a node in, or refuse it.

        :return: False where nodes are not taken any more: it is as good as a client.
        """
        if self._certified and not has_certificate(self.transport):
            self._guard.refuse_node(f"{self.client.peer} (TCP)", SHOWN_NONE)
            self.write(NO_CERTIFICATE)
            self.end()
            return True
        peer = None if self._peers is None else self._peers()
        if peer is None:
            return False
        self._hand_over(peer, data)
        return True

    def _hand_over(self, peer: IProtocol, data: bytes) -> None:
        """The other side is a node: from here on another protocol has the connection."""
        transport = self.transport
        self._still_welcome()
        self._forget()
        # Nothing of the client may send here any more.
        if isinstance(transport, SendingServer):
            transport.take_back()
        transport.unregisterProducer()
        self._clients.pop(self, None)
        self._pipeline.connections.disconnect(self.client)
        if isinstance(transport, TLSMemoryBIOProtocol):
            transport.wrappedProtocol = peer
        else:
            transport.protocol = peer
        peer.makeConnection(transport)
        peer.dataReceived(data)

    def readConnectionLost(self) -> None:
        """The other side sends no more; it is still answered."""
        self._input_ended = True
        if self._ending:
            self.transport.loseConnection()
        elif self in self._clients:
            (self._meter or self._pipeline.connections).finish(self.client)

    def writeConnectionLost(self) -> None:
        """Our side sends no more."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._guard.gone(self.transport, reason, "TCP")
        self._still_welcome()
        self._forget()
        if self._parting is not None:
            self._parting.gone()
        if self._lingering is not None and self._lingering.active():
            self._lingering.cancel()
        if self in self._clients:
            self._clients.pop(self, None)
            self._pipeline.connections.disconnect(self.client)

    def _forget(self) -> None:
        guard = self._guard
        guard.handshakes.forget(self)
        guard.commands.forget(self)
        guard.unfinished.forget(self)
        guard.idle.leave(self)

    # -- the outlet of the client --------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send."""
        self.transport.write(data)

    def pause_reading(self) -> None:
        """Deliver no more input."""
        self._unended.pause()
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Deliver input again, unless some waits for its turn."""
        if self._meter is not None and self._meter.holds:
            return
        self._unended.resume()
        self.transport.resumeProducing()

    def end(self) -> None:
        """Send what is buffered, then close."""
        self._ending, self._looked_at = True, False
        self._forget()
        transport = self.transport
        transport.unregisterProducer()
        if self._parting is None:
            self._parting = Parting(transport, self._guard.partings)
        if self._input_ended or self._call_later is None or self._lingering is not None:
            transport.loseConnection()
            return
        if isinstance(transport, TLSMemoryBIOProtocol):
            # TLS has no half-close; it waits by itself for the other side's goodbye, and would
            # for ever. What is below it closes when all was sent.
            below: Any = transport.transport
            self._lingering = self._call_later(LINGER_SECONDS, below.loseConnection)
            transport.loseConnection()
        else:
            self._lingering = self._call_later(LINGER_SECONDS, transport.loseConnection)
            transport.loseWriteConnection()
        transport.resumeProducing()

    def abort(self, reason: str) -> None:
        """Close at once."""
        self.transport.abortConnection()
