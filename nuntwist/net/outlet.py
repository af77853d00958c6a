"""What the TCP and the WebSocket protocol share as outlets of a client.

The transport tells its producer when its buffer is full and when it is empty again; a full
one is not read from either, so a client that does not take its replies can send no more
commands. That is back-pressure end to end.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any, Final

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from nuntwist.core.client import Client
from nuntwist.core.pipeline import Pipeline
from nuntwist.net.proxies import UNIX


@implementer(IPushProducer)
class Backpressure:
    """The producer that a transport with a full buffer speaks to."""

    __slots__ = ("_client", "_pipeline")

    def __init__(self, pipeline: Pipeline, client: Client) -> None:
        self._pipeline = pipeline
        self._client = client

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        if not self._client.paused:
            self._pipeline.connections.set_paused(self._client, True)
            self._client.outlet.pause_reading()

    def resumeProducing(self) -> None:
        """The transport's buffer is empty."""
        self._pipeline.connections.set_paused(self._client, False)

    def stopProducing(self) -> None:
        """The connection is lost; ``connectionLost`` tells the same."""


def is_busy(client: Client) -> bool:
    """Whether something that a client has asked for is under way."""
    return (
        client.waiting or client.forwards is not None or client.unsent > 0 or bool(client.backlog)
    )


def peer_name(transport: Any) -> str:
    """The address of the other side, for logs."""
    address = transport.getPeer()
    host = getattr(address, "host", None)
    if not host:
        # What a client may have bound its end to says nothing.
        return UNIX if isinstance(address, UNIXAddress) else str(address)
    return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"


def tune(transport: Any) -> None:
    """Send small writes at once, and notice in the end when the other side is gone."""
    if hasattr(transport, "setTcpNoDelay"):
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)


GIVE_UP_MS: Final = 2000
"""After what time without an answer the system gives up a connection to another node: a partition
that drops everything is otherwise noticed by nobody for minutes."""


def give_up_soon(transport: Any) -> None:
    """Let the system give up a connection that is not answered, where it can be told so."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    handle: Any = transport.getHandle() if hasattr(transport, "getHandle") else None
    if option is None or getattr(handle, "family", None) not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError):
        handle.setsockopt(socket.IPPROTO_TCP, option, GIVE_UP_MS)
