"""Connections that we have ended, and that have not gone yet.

Who is sent what is left for it, and then the end, may not take it; over TLS it may also not say
goodbye in its turn, for which Twisted waits for ever. So each has a while, and another one as long
as it takes something in it; then it is cut off.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.protocols.tls import TLSMemoryBIOProtocol

from nuntwist.net.outlet import peer_name
from nuntwist.net.patience import Patience

SECONDS: Final = 15.0


class Parting:
    """One of them.

    :param patience: what it waits with.
    """

    def __init__(self, transport: Any, patience: Patience) -> None:
        self._transport = transport
        self._patience = patience
        self._left = unsent(transport)
        patience.begin(self)

    def gone(self) -> None:
        """The connection is gone."""
        self._patience.forget(self)

    def out_of_time(self) -> str | None:
        """Cut it off, if it has taken nothing; see :class:`nuntwist.net.patience.Hurried`."""
        before, self._left = self._left, unsent(self._transport)
        if 0 < self._left != before:
            self._patience.begin(self)
        elif getattr(below_tls(self._transport), "connected", True):
            self._transport.abortConnection()
            return peer_name(self._transport)
        return None


def below_tls(transport: Any) -> Any:
    """The transport that has the socket."""
    while isinstance(transport, TLSMemoryBIOProtocol):
        transport = transport.transport
    return transport


def unsent(transport: Any) -> int:
    """Bytes that wait for the socket, as far as that is known."""
    below = below_tls(transport)
    waiting = len(getattr(below, "dataBuffer", b"")) - getattr(below, "offset", 0)
    return int(waiting + getattr(below, "_tempDataLen", 0))
