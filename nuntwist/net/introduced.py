"""Transports that are counted by the gate, and of which a proxy may say for whom they come.

:class:`Counted` is what those over TCP and those over a unix socket have in common. Over a unix
socket only proxies are counted: they bring clients from elsewhere, whom nothing else limits.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import unix
from twisted.internet.address import IPv4Address, IPv6Address

from nuntwist.net.gate import Gate


class Counted:
    """The server side of a connection whose port may have a gate; goes before Twisted's own.

    :ivar remote: from where it comes; None where it is a unix socket.
    """

    server: Any
    _introduced: IPv4Address | IPv6Address | None = None

    @property
    def remote(self) -> str | None:
        """The address of the other side."""
        return None

    def introduce(self, client: IPv4Address | IPv6Address) -> bool:
        """The other side is a proxy, and has said for whom it comes: see
        :mod:`nuntwist.net.introduction`.

        :return: whether that one may come in.
        """
        gate = getattr(self.server, "gate", None)
        spare = getattr(self.server.factory, "spare", 0)
        if gate is not None and not gate.enter_as(client.host, spare):
            return False
        self._introduced = client
        return True

    def getPeer(self) -> Any:
        """The address of the client; see ITransport."""
        return self._introduced or super().getPeer()  # type: ignore[misc]  # of Twisted's

    def connectionLost(self, reason: Any) -> None:
        """The connection is gone."""
        gate = getattr(self.server, "gate", None)
        if gate is not None:
            gate.leave(self.remote)
            if self._introduced is not None:
                gate.leave_as(self._introduced.host)
        super().connectionLost(reason)  # type: ignore[misc]  # of Twisted's


class ProxyServer(Counted, unix.Server):
    """The server side of a connection of a proxy over a unix socket."""


class ProxyPort(unix.Port):
    """A unix socket to which proxies come."""

    transport = ProxyServer
    gate: Gate | None = None
