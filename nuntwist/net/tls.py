"""Certificates that are read anew while a node runs.

A listener with TLS has its key and certificate from an endpoint string (``ssl:…``). They end after
a while, and a node need not be restarted for that: each new connection asks :class:`Renewable` for
them, and :func:`context_of` reads what an endpoint string names once more. Where that fails the old
ones stay. Connections that are there keep what they have.

Where a set has a certificate authority of its own (``NUN_PEER_CA``), the TCP listeners ask whoever
connects for a certificate (:func:`asking`). Clients need none. One that is shown must be signed by
that authority, or the handshake fails: whoever has shown one may be a node.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from OpenSSL.SSL import Context
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.protocol import Factory
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from nuntwist.net.failed_tls import note_why


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


Prepare = Callable[[Any], None]
"""Changes what a listener was told to give its connections, before the first of them."""

_PEM = re.compile(b"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def asking(path: str) -> Prepare:
    """Ask who connects for a certificate that one of some authorities has signed.

    :param path: their certificates: a file of PEM, or a directory of ``.pem`` files.
    """

    def prepare(options: Any) -> None:
        options.trustRoot = trustRootFromCertificates(read_roots(path))
        options.verify, options.requireCertificate = True, False
        context = options.getContext()
        context.set_verify(context.get_verify_mode(), note_why)

    return prepare


def read_roots(path: str) -> list[Certificate]:
    """Read certificates of authorities.

    :param path: as for :func:`asking`.
    :raise OSError: they cannot be read.
    :raise ValueError: there are none.
    :raise Exception: whatever OpenSSL raises for one that cannot be used.
    """
    place = Path(path)
    files = sorted(place.glob("*.pem")) if place.is_dir() else [place]
    found = [
        Certificate.loadPEM(text) for file in files for text in _PEM.findall(file.read_bytes())
    ]
    if not found:
        raise ValueError("there is no certificate in it")
    return found


def has_certificate(transport: Any) -> bool:
    """Whether the other side of a connection has shown a certificate."""
    return (
        isinstance(transport, TLSMemoryBIOProtocol) and transport.getPeerCertificate() is not None
    )


def validity_of(current: Any) -> tuple[datetime, datetime] | None:
    """From when on and until when a certificate is valid.

    :param current: as for :attr:`Renewable.current`.
    :return: None where it has none: endpoints of other packages may have their own ways.
    """
    certificate = getattr(current, "certificate", None)
    if certificate is None:
        return None
    certificate = certificate.to_cryptography()
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


class _Reader:
    """A reactor that listens to nobody: it keeps what it should have listened with."""

    context: Any = None

    def listenSSL(
        self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = ""
    ) -> None:
        """Keep it."""
        self.context = contextFactory


def context_of(endpoint: str, prepare: Prepare | None = None) -> Any:
    """Read the key and the certificate that an endpoint string names.

    :param prepare: as it was done with those of before.
    :return: for :attr:`Renewable.current`.
    :raise Exception: whatever Twisted and OpenSSL raise for what cannot be used.
    """
    outcome: list[object] = []
    reader: Any = _Reader()
    listening: Deferred[Any] = serverFromString(reader, endpoint).listen(Factory())
    listening.addBoth(outcome.append)
    if outcome and isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    if prepare is not None:
        prepare(reader.context)
    # They must fit each other, too: better to find out now.
    reader.context.getContext()
    return reader.context
