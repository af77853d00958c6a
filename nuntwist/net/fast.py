"""TCP transports that send at once.

Twisted's ``write`` queues and lets the reactor send in its next round: two more system calls
and a pass through the reactor for every reply, and for a server of small replies that is half
of its time. A :class:`SendingServer` with nothing queued gives the bytes to the socket then
and there; what the socket does not take goes the usual way, producers and all.

:class:`SendingReactor` makes any server endpoint over TCP use it: endpoints only ask their reactor
for ``listenTCP`` or ``listenSSL``, or to adopt a socket that systemd has opened. It also counts who
is connected, and lets proxies come over unix sockets.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from twisted.internet import tcp
from twisted.internet.interfaces import IReactorTCP
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python import log
from zope.interface import implementer

from nuntwist.core.client import takes_nothing
from nuntwist.net.gate import Gate, Gated
from nuntwist.net.introduced import Counted, ProxyPort
from nuntwist.net.tls import Prepare, Renewable

SMALL_READ = 16 << 10
LARGE_READ = 64 << 10
TWISTED_BACKLOG = 50
"""What an endpoint asks for that says nothing else."""
BACKLOG = 4096
"""Connections that may wait to be accepted. Front ends come back all at once, after a restart or
a fault of the network, and whoever finds the line full tries again a second later."""


class Sender(Protocol):
    """Somebody whose ``send`` is the socket's own while nothing is queued before it."""

    send: Callable[[bytes], int]


class SendingServer(Counted, tcp.Server):
    """The server side of a connection; see the module's header.

    :ivar expected: bytes that are read next; ``LARGE_READ`` where the last time there were more.
    """

    expected = SMALL_READ
    _queued = False
    _sender: Sender | None = None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # Looked up once a connection, not once a call.
        self._recv = self.socket.recv
        self._send = self.socket.send

    @property
    def remote(self) -> str | None:
        """The address of the other side, which may be a proxy's."""
        return str(self.client[0])

    def lend_to(self, sender: Sender) -> None:
        """Let somebody send past this object: one call less for each of many watchers."""
        self._sender = sender
        sender.send = takes_nothing if self._queued else self._send

    def take_back(self) -> None:
        """Nobody sends past this object any more."""
        if self._sender is not None:
            self._sender.send = takes_nothing
            self._sender = None

    def startWriting(self) -> None:
        """There is something for the reactor to send, or to find out."""
        self._queued = True
        if self._sender is not None:
            self._sender.send = takes_nothing
        super().startWriting()

    def stopWriting(self) -> None:
        """Nothing is queued any more."""
        self._queued = False
        if self._sender is not None and self.connected:
            self._sender.send = self._send
        super().stopWriting()

    def abortConnection(self) -> None:
        """Send no more: what is queued is lost, so nothing may follow it."""
        super().abortConnection()
        self._queued = True
        if self._sender is not None:
            self._sender.send = takes_nothing

    def connectionLost(self, reason: Any) -> None:
        """The connection is gone."""
        self.take_back()
        super().connectionLost(reason)

    def read_ready(self) -> BaseException | None:
        """Read what is there and give it to the protocol; see ``nuntwist.net.rounds``.

        :return: why the connection is over; None where it is not.
        """
        try:
            data = self._recv(self.expected)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        # A buffer of 64 KiB for a request of 30 bytes costs more than the request.
        self.expected = LARGE_READ if len(data) == self.expected else SMALL_READ
        try:
            self.protocol.dataReceived(data)
        except Exception as error:
            log.err()
            return error
        return None

    def write(self, data: bytes) -> None:
        """Send now if nothing is queued; queue what is left."""
        if self._queued or self.TLS:
            tcp.Server.write(self, data)
            return
        try:
            sent = self._send(data)
        except OSError:
            # Full, broken, or closed by us: Twisted's own way finds out which, and tells the
            # protocol as usual.
            sent = 0
        if sent < len(data):
            tcp.Server.write(self, data[sent:])


class SendingPort(tcp.Port):
    """A listening port whose connections are :class:`SendingServer`."""

    transport: type[tcp.Server] = SendingServer
    gate: Gate | None = None


_Port = TypeVar("_Port", SendingPort, ProxyPort)


def _longer(backlog: int) -> int:
    return BACKLOG if backlog == TWISTED_BACKLOG else backlog


def _check_handed_over(descriptor: int, family: int) -> None:
    """Twisted believes what it is told; it would find out later, and each time somebody comes."""
    own = os.dup(descriptor)
    try:
        handed = socket.socket(fileno=own)
    except OSError:
        os.close(own)
        raise
    with handed:
        name = socket.AddressFamily(family).name.removeprefix("AF_")
        if handed.family != family:
            its = socket.AddressFamily(handed.family).name.removeprefix("AF_")
            raise ValueError(f"the socket that was handed over is one of domain {its}, not {name}")
        if not handed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError("the socket that was handed over does not listen")


@implementer(IReactorTCP)
class SendingReactor:
    """A reactor that makes a :class:`SendingPort` of whatever is listened on over TCP, and of a
    unix socket for proxies a :class:`~nuntwist.net.introduced.ProxyPort`; else the one it wraps.

    :param gate: says who may connect; None where all may.
    :param introducing: stands before the factory of each port; None where nothing does.
    :param prepare: is given the keys and certificates of a port before it listens.
    :ivar renewables: the keys and certificates of ports with TLS.
    """

    def __init__(
        self,
        reactor: Any,
        gate: Gate | None = None,
        introducing: Callable[[Any], Any] | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        self._reactor = reactor
        self._prepare = prepare
        self._introducing = introducing
        self._gate = gate
        self.renewables: list[Renewable] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(
        self, port: int, factory: Any, backlog: int = TWISTED_BACKLOG, interface: str = ""
    ) -> tcp.Port:
        """Listen; see IReactorTCP.listenTCP."""
        gated = self._gated(factory)
        return self._begin(SendingPort(port, gated, _longer(backlog), interface, self._reactor))

    def listenUNIX(
        self,
        address: str,
        factory: Any,
        backlog: int = TWISTED_BACKLOG,
        mode: int = 0o666,
        wantPID: bool = False,
    ) -> Any:
        """Listen on a unix socket; see IReactorUNIX.listenUNIX."""
        if self._introducing is None:
            return self._reactor.listenUNIX(address, factory, backlog, mode, wantPID)
        gated, reactor = self._gated(factory), self._reactor
        return self._begin(ProxyPort(address, gated, _longer(backlog), mode, reactor, wantPID))  # type: ignore[arg-type]  # as its reactor does

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: Any) -> Any:
        """Listen on a socket that another process has opened; see IReactorSocket.

        :raise ValueError: it is no such socket.
        """
        _check_handed_over(fileDescriptor, addressFamily)
        reactor: Any = self._reactor
        if addressFamily != socket.AF_UNIX:
            adopt: Any = SendingPort._fromListeningDescriptor
            gated = self._gated(factory)
            return self._begin(adopt(reactor, fileDescriptor, addressFamily, gated))
        if self._introducing is None:
            return reactor.adoptStreamPort(fileDescriptor, addressFamily, factory)
        adopt = ProxyPort._fromListeningDescriptor
        return self._begin(adopt(reactor, fileDescriptor, self._gated(factory)))

    def _gated(self, factory: Any) -> Any:
        """A factory behind all that stands before it."""
        if self._introducing is not None:
            factory = self._introducing(factory)
        return factory if self._gate is None else Gated(factory, self._gate)

    def _begin(self, port: _Port) -> _Port:
        port.gate = self._gate
        port.startListening()
        return port

    def listenSSL(
        self,
        port: int,
        factory: Any,
        contextFactory: Any,
        backlog: int = TWISTED_BACKLOG,
        interface: str = "",
    ) -> tcp.Port:
        """Listen with TLS; see IReactorSSL.listenSSL."""
        if self._prepare is not None:
            self._prepare(contextFactory)
        renewable = Renewable(contextFactory)
        below = TLSMemoryBIOFactory(renewable, False, factory)
        listening = self.listenTCP(port, below, backlog, interface)
        self.renewables.append(renewable)
        return listening

    def connectTCP(self, *args: Any, **kwargs: Any) -> Any:
        """Connect; see IReactorTCP.connectTCP."""
        return self._reactor.connectTCP(*args, **kwargs)
