"""TCP transports that send at once.

Twisted's ``write`` queues and lets the reactor send in its next round: two more system calls
and a pass through the reactor for every reply, and for a server of small replies that is half
of its time. A :class:`SendingServer` with nothing queued gives the bytes to the socket then
and there; what the socket does not take goes the usual way, producers and all.

:class:`SendingReactor` makes any ``tcp:`` server endpoint use it: endpoints only ask their
reactor for ``listenTCP``.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import tcp
from twisted.internet.interfaces import IReactorTCP
from zope.interface import implementer


class SendingServer(tcp.Server):
    """The server side of a connection; see the module's header."""

    def write(self, data: bytes) -> None:
        """Send now if nothing is queued; queue what is left."""
        if self._tempDataBuffer or self.TLS or len(self.dataBuffer) > self.offset:
            tcp.Server.write(self, data)
            return
        if not self.connected or self._writeDisconnected:
            return
        try:
            sent = self.socket.send(data)
        except OSError:
            # Full, or broken: the reactor's own attempt finds out which, and tells the
            # protocol in the usual way.
            sent = 0
        if sent < len(data):
            tcp.Server.write(self, data[sent:])


class SendingPort(tcp.Port):
    """A listening port whose connections are :class:`SendingServer`."""

    transport = SendingServer


@implementer(IReactorTCP)
class SendingReactor:
    """A reactor whose ``listenTCP`` makes a :class:`SendingPort`; else the one it wraps."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(  # noqa: N802 - Twisted's name
        self, port: int, factory: Any, backlog: int = 50, interface: str = ""
    ) -> tcp.Port:
        """Listen; see IReactorTCP.listenTCP."""
        listening = SendingPort(port, factory, backlog, interface, self._reactor)
        listening.startListening()
        return listening

    def connectTCP(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - Twisted's name
        """Connect; see IReactorTCP.connectTCP."""
        return self._reactor.connectTCP(*args, **kwargs)
