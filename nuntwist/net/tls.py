"""Certificates that are read anew while a node runs.

A listener with TLS has its key and certificate from an endpoint string (``ssl:…``). They end after
a while, and a node need not be restarted for that: each new connection asks :class:`Renewable` for
them, and :func:`context_of` reads what an endpoint string names once more. Where that fails the old
ones stay. Connections that are there keep what they have.
"""

from __future__ import annotations

from typing import Any

from OpenSSL.SSL import Context
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer


@implementer(IOpenSSLContextFactory)
class Renewable:
    """What gives each connection its key and certificate.

    :ivar current: has those of now.
    """

    def __init__(self, current: Any) -> None:
        self.current = current

    def getContext(self) -> Context:
        """See IOpenSSLContextFactory."""
        context: Context = self.current.getContext()
        return context


class _Reader:
    """A reactor that listens to nobody: it keeps what it should have listened with."""

    context: Any = None

    def listenSSL(
        self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = ""
    ) -> None:
        """Keep it."""
        self.context = contextFactory


def context_of(endpoint: str) -> Any:
    """Read the key and the certificate that an endpoint string names.

    :return: for :attr:`Renewable.current`.
    :raise Exception: whatever Twisted and OpenSSL raise for what cannot be used.
    """
    outcome: list[object] = []
    reader: Any = _Reader()
    listening: Deferred[Any] = serverFromString(reader, endpoint).listen(Factory())
    listening.addBoth(outcome.append)
    if outcome and isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    # They must fit each other, too: better to find out now.
    reader.context.getContext()
    return reader.context
