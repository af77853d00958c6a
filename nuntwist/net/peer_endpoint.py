"""The endpoint that connects to another node, by its address.

Over TLS it reads its certificates anew for each connection, as they end after a while and are
replaced. Where they cannot be read, those of before serve on, and the log tells of it once, until
they can be again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.logger import Logger
from zope.interface import implementer

from nuntwist.addresses import client_endpoint


def endpoint_for(reactor: Any, address: str, seconds: int) -> IStreamClientEndpoint:
    """The endpoint that connects to the address of a node.

    :param address: see :func:`nuntwist.addresses.client_endpoint`.
    :param seconds: how long an attempt may take.
    :raise ValueError: it is no such address.
    """
    text = client_endpoint(address, seconds)
    made = _made(reactor, text)
    # Certificates end after a while, and are replaced.
    if text.startswith("tcp:"):
        return made
    return Afresh(address, made, partial(_made, reactor, text))


def _made(reactor: Any, text: str) -> IStreamClientEndpoint:
    try:
        endpoint: IStreamClientEndpoint = clientFromString(reactor, text)
    except (TypeError, AttributeError, LookupError, OSError, SSL.Error, crypto.Error) as reason:
        # A word that it does not know, or files that are not there or not what they should be.
        raise ValueError(f"{type(reason).__name__}: {reason}") from None
    return endpoint


@implementer(IStreamClientEndpoint)
class Afresh:
    """An endpoint that reads its files anew for each connection.

    :param made: with what they hold now; the last that could be made serves while none can.
    :param make: makes it once more, or raises ValueError.
    """

    _log = Logger()

    def __init__(
        self,
        address: str,
        made: IStreamClientEndpoint,
        make: Callable[[], IStreamClientEndpoint],
    ) -> None:
        self._address = address
        self._made = made
        self._make = make
        self._told = ""

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """Connect; see IStreamClientEndpoint."""
        try:
            self._made, self._told = self._make(), ""
        except ValueError as reason:
            if str(reason) != self._told:
                self._told = str(reason)
                self._log.error(
                    "the certificates for {address} cannot be read anew: {why}; those of before"
                    " stay",
                    address=self._address,
                    why=self._told,
                )
        connected: Deferred[Any] = self._made.connect(protocolFactory)
        return connected
