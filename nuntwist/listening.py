"""Where a node listens: opens the endpoints it is told of, and reads their certificates anew.

Whatever is in the way of a listener is one sentence in a StartError.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from OpenSSL.crypto import Error as CertificateError
from OpenSSL.SSL import Error as SSLError
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.addresses import PROXIED
from nuntwist.errors import StartError
from nuntwist.net.fast import SendingReactor
from nuntwist.net.guard import Guard
from nuntwist.net.introduction import Introducing
from nuntwist.net.tls import Prepare, Renewable, asking, context_of, read_roots, validity_of
from nuntwist.sentences import plainly

_ENDPOINT_ERRORS: Final = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ImportError,
    OSError,
    SSLError,
    CertificateError,
)
"""What the parsers of endpoints raise for a wrong text."""


def check_authority(path: str) -> None:
    """Read the certificates of those who sign for nodes, once.

    :param path: as for :func:`nuntwist.net.tls.asking`; empty where there are none.
    :raise StartError: they cannot be used.
    """
    try:
        if path:
            read_roots(path)
    except _ENDPOINT_ERRORS as error:
        raise StartError(f"NUN_PEER_CA is {path!r}: {plainly(error)}.") from None


class Listening:
    """The listeners of a node, and their certificates.

    :param wall: seconds since 1970.
    :param peer_ca: where the certificates are of who signs those of nodes; empty where nodes need
        none.
    :ivar ports: what it listens on.
    """

    _log = Logger()

    def __init__(self, reactor: Any, guard: Guard, wall: Callable[[], float], peer_ca: str) -> None:
        self.ports: list[IListeningPort] = []
        self._reactor = reactor
        self._guard = guard
        self._wall = wall
        self._asks = asking(peer_ca) if peer_ca else None
        self._certificates: list[tuple[str, Renewable, Prepare | None]] = []

    def listen(self, endpoint: str, factory: Any) -> IListeningPort:
        """Listen on an endpoint.

        :param factory: where it takes nodes they are asked for their certificates.
        :raise StartError: it cannot be listened on.
        """
        guard, below = self._guard, endpoint.removeprefix(PROXIED)
        introducing = None if below == endpoint else (lambda inner: Introducing(inner, guard))
        # Links come to the port for lines alone; a browser that is asked asks its user.
        asks = self._asks if getattr(factory, "takes_nodes", False) else None
        reactor = SendingReactor(self._reactor, guard.gate, introducing, asks)
        outcome: list[IListeningPort | Failure] = []
        try:
            serverFromString(reactor, below).listen(factory).addBoth(outcome.append)
        except _ENDPOINT_ERRORS as error:
            raise StartError(f"Cannot listen on {endpoint}: {plainly(error)}.") from None
        if not outcome or isinstance(outcome[0], Failure):
            reason: Any = outcome[0].value if outcome else "it did not open at once"  # type: ignore[union-attr]
            if isinstance(reason, CannotListenError):
                reason = reason.socketError
            raise StartError(f"Cannot listen on {endpoint}: {plainly(reason)}.")
        self.ports.append(outcome[0])
        for renewable in reactor.renewables:
            self._certificates.append((below, renewable, asks))
            self._look_at(below, renewable)
        return outcome[0]

    def close(self) -> Deferred[None]:
        """Listen no more.

        :return: fires with None when all ports are closed.
        """
        ports, self.ports = self.ports, []
        closed: Deferred[None] = Deferred()
        DeferredList(
            [maybeDeferred(port.stopListening) for port in ports], consumeErrors=True
        ).addCallback(lambda _: closed.callback(None))
        return closed

    def renew(self) -> None:
        """Read keys and certificates anew, for connections that come from now on."""
        if not self._certificates:
            self._log.info("SIGHUP reads certificates anew; there are none")
        for endpoint, renewable, prepare in self._certificates:
            try:
                renewable.current = context_of(endpoint, prepare)
            except _ENDPOINT_ERRORS as error:
                self._log.error(
                    "the certificate of {endpoint} cannot be read anew: {why}; the one of before"
                    " stays",
                    endpoint=endpoint,
                    why=plainly(error),
                )
            else:
                valid = validity_of(renewable.current)
                self._log.info(
                    "read the certificate of {endpoint} anew{until}",
                    endpoint=endpoint,
                    until="" if valid is None else f"; it is valid until {_day(valid[1])}",
                )
                self._look_at(endpoint, renewable)

    def _look_at(self, endpoint: str, renewable: Renewable) -> None:
        """Tell of a certificate that nobody takes who looks at it."""
        now = datetime.fromtimestamp(self._wall(), UTC)
        since, until = validity_of(renewable.current) or (now, now)
        if since <= now <= until:
            return
        what = "was valid until" if now > until else "is not valid before"
        self._log.warn(
            "the certificate of {endpoint} {what} {day}: whoever looks at it does not connect; put"
            " another one in its place and send SIGHUP",
            endpoint=endpoint,
            what=what,
            day=_day(until if now > until else since),
        )


def _day(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M UTC")
