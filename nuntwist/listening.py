"""Where a node listens: opens the endpoints it is told of, and keeps their certificates.

Whatever is in the way of a listener is one sentence in a StartError.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.python.failure import Failure

from nuntwist.addresses import PROXIED
from nuntwist.certificates import ENDPOINT_ERRORS, Certificates
from nuntwist.errors import StartError
from nuntwist.net.fast import SendingReactor
from nuntwist.net.guard import Guard
from nuntwist.net.introduction import Introducing
from nuntwist.net.tls import asking
from nuntwist.sentences import plainly


class Listening:
    """The listeners of a node.

    :param certificates: is given those of the listeners.
    :param peer_ca: where the certificates are of who signs those of nodes; empty where nodes need
        none.
    :ivar ports: what it listens on.
    """

    def __init__(
        self, reactor: Any, guard: Guard, certificates: Certificates, peer_ca: str
    ) -> None:
        self.ports: list[IListeningPort] = []
        self._reactor = reactor
        self._guard = guard
        self._certificates = certificates
        self._asks = asking(peer_ca) if peer_ca else None

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
        except ENDPOINT_ERRORS as error:
            raise StartError(f"Cannot listen on {endpoint}: {plainly(error)}.") from None
        if not outcome or isinstance(outcome[0], Failure):
            failed = outcome[0] if outcome else None
            reason: Any = failed.value if isinstance(failed, Failure) else "it did not open at once"
            if isinstance(reason, CannotListenError):
                reason = reason.socketError
            raise StartError(f"Cannot listen on {endpoint}: {plainly(reason)}.")
        self.ports.append(outcome[0])
        for renewable in reactor.renewables:
            self._certificates.keep(below, renewable, asks)
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
