"""Connections that a node makes to the others of its set.

A node connects to all it knows, and so do they; of two connections between the same nodes the
member closes one (:mod:`nuntwist.cluster.member`). So that the loser is not made again, an address
*rests* while the node there is linked, whoever has made that link. The node there is the one that
answered there last; where none has yet, it is the linked node that says that this is its address.
As soon as that link is gone the address is tried again. (A node that has several addresses is tried
at one of them at a time.)

How long it takes until an address is tried again:

- a link that had lasted is gone: no time, for the silence of a partition has cost some already;
- the node there has refused this one, or the other way round: up to ``LONGEST_REFUSED``, since
  an operator has to do something first;
- that is the node itself: ``OWN_REST_SECONDS``;
- anything else, links that do not last among it: up to ``LONGEST_DELAY``.

It begins with ``FIRST_DELAY``, grows, and is jittered. What an attempt took that nobody answered
is part of it: behind a firewall that drops everything that is all of it, so the end of a partition
is noticed with the next attempt, or when TCP sends again in this one. Of each reason the log tells
once, until the node is reached again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final

from OpenSSL import SSL, crypto
from twisted.application.internet import ClientService
from twisted.internet import error
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from nuntwist.addresses import client_endpoint, in_short
from nuntwist.cluster.handshake import ITSELF, NOT_THE_SAME_SECRET, SAME_SECRET, Connecting
from nuntwist.net.doors import Manner
from nuntwist.net.failed_tls import VERIFY_FAILED, words_of
from nuntwist.net.peer import PeerProtocol

FIRST_DELAY: Final = 0.1
"""Seconds until a connection that failed is tried again, the first time."""
GROWTH: Final = 1.5
LONGEST_DELAY: Final = 2.0
"""The same at most: so long a node that is back may go unnoticed."""
LONGEST_REFUSED: Final = 10.0
"""The same where one of the two refuses the other."""
LASTING_SECONDS: Final = 1.0
"""How long a link has to have been there for it to be made again at once."""
REST_SECONDS: Final = 0.1
"""How often an address that rests is looked at."""
OWN_REST_SECONDS: Final = 300.0
"""How long the address of the node itself is left alone."""
MOST_TOLD: Final = 8
"""How many reasons the log tells of one address, until it is reached again."""

_REMEDIES: Final = {
    NOT_THE_SAME_SECRET: SAME_SECRET,
    "is spoken here": "run versions of nuntwist that go together",
    "links need a certificate": (
        "give the address as tls:host:port:certificate=FILE:privateKey=FILE, with a certificate of"
        " this node"
    ),
    "unknown ca": (
        "that node does not trust who has signed the certificate of this one: put one here that an"
        " authority in its NUN_PEER_CA has signed"
    ),
    "certificate expired": (
        "the certificate of this node has ended: put a new one in its place, for links that is all"
    ),
    "alert bad certificate": "that node does not take the certificate of this one",
    "unsupported certificate": (
        "the certificate of this node is made for something else: where it says for what,"
        " clientAuth has to be among it"
    ),
    VERIFY_FAILED: (
        "the certificate of that node has ended, or who has signed it is none whom this one trusts"
        " (trustRoots= in the address)"
    ),
    "wrong version number": "does that port speak TLS? Where it does not, leave out tls:",
    "no line of the handshake": "is that the TCP port of a node that is told of a replica set?",
}
"""What an operator can do about a refusal, by what it says."""
_HELP: Final[dict[type[BaseException], str]] = {
    error.ConnectionRefusedError: "is the node started, and does it listen there?",
    error.TimeoutError: "is the machine up, and does every firewall let this through?",
    error.DNSLookupError: "is the name right?",
}
"""What an operator can look at where nobody answers."""


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
    return _Afresh(address, made, partial(_made, reactor, text))


def _made(reactor: Any, text: str) -> IStreamClientEndpoint:
    try:
        endpoint: IStreamClientEndpoint = clientFromString(reactor, text)
    except (TypeError, AttributeError, LookupError, OSError, SSL.Error, crypto.Error) as reason:
        # A word that it does not know, or files that are not there or not what they should be.
        raise ValueError(f"{type(reason).__name__}: {reason}") from None
    return endpoint


@implementer(IStreamClientEndpoint)
class _Afresh:
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


class Peering:
    """Makes connections to the nodes at some addresses.

    :param endpoint_for: gives an IStreamClientEndpoint for an address; a ValueError says that it
        is none.
    :param is_linked: whether there is a link with a node, by its id.
    :param node_at: the id of the linked node that says that this is its address, if there is one.
    """

    _log = Logger()

    def __init__(
        self,
        manner: Manner,
        endpoint_for: Callable[[str], IStreamClientEndpoint],
        is_linked: Callable[[int], bool],
        node_at: Callable[[str], int | None] = lambda _: None,
    ) -> None:
        self.manner = manner
        self.is_linked = is_linked
        self.node_at = node_at
        self._endpoint_for = endpoint_for
        self._addresses: dict[str, _Address] = {}
        self._unusable: set[str] = set()
        self._ending: set[Deferred[None]] = set()
        self._stopped = False

    def set_addresses(self, addresses: Collection[str]) -> None:
        """Connect to these from now on, and to no others."""
        if self._stopped:
            return
        self._unusable.intersection_update(addresses)
        for address in self._addresses.keys() - set(addresses):
            self._end(self._addresses.pop(address))
        for address in addresses:
            if address not in self._addresses and address not in self._unusable:
                self._begin(address)

    def is_tried(self, node: int) -> bool:
        """Whether an attempt to connect to a node is under way."""
        return any(one.node == node and one.trying for one in self._addresses.values())

    def _begin(self, address: str) -> None:
        try:
            endpoint = self._endpoint_for(address)
        except ValueError as reason:
            # They come from other nodes too, and one wrong one must not do away with the others.
            self._unusable.add(address)
            self._log.error(
                "the node at {address} cannot be connected to: {why}",
                address=address,
                why=str(reason),
            )
            return
        self._addresses[address] = made = _Address(address, self, endpoint)
        made.start()

    def _end(self, address: _Address) -> None:
        ended = address.stop()
        if not ended.called:
            self._ending.add(ended)
            ended.addCallback(lambda _: self._ending.discard(ended))

    def stop(self) -> Deferred[None]:
        """End all connections that were made.

        :return: fires with None when they are gone.
        """
        self._stopped = True
        for address in self._addresses.values():
            self._end(address)
        self._addresses.clear()
        stopped: Deferred[None] = Deferred()
        DeferredList(list(self._ending)).addCallback(lambda _: stopped.callback(None))
        return stopped


@implementer(IStreamClientEndpoint)
class _Address(Factory):
    """One address, and the connection to it.

    To its ClientService it is the endpoint as well as the factory, so that it can rest.

    :ivar node: which node is there, as far as is known.
    :ivar trying: whether it connects, or shakes hands.
    """

    noisy = False
    _log = Logger()

    def __init__(self, address: str, peering: Peering, endpoint: IStreamClientEndpoint) -> None:
        self.address = address
        self._peering = peering
        self._manner = peering.manner
        self._endpoint = endpoint
        self.node: int | None = None
        self.trying = False
        self._protocol: PeerProtocol | None = None
        self._resting: IDelayedCall | None = None
        self._linked_at: float | None = None
        self._tried_at = 0.0
        self._refusal: str | None = None
        self._failures = 0
        self._told: set[str] = set()
        self._stopped = False
        self._service = ClientService(self, self, self._delay, self._manner.clock)

    def start(self) -> None:
        """Connect from now on."""
        self._service.startService()

    def stop(self) -> Deferred[None]:
        """End it.

        :return: fires with None when the connection is gone.
        """
        self._stopped = True
        if self._protocol is not None:
            self._protocol.close()
        stopped: Deferred[None] = self._service.stopService()
        return stopped

    # -- when --------------------------------------------------------------------------------

    def _delay(self, attempt: int) -> float:
        """Seconds until the next attempt; apart, as others may try at the same time."""
        linked_at, self._linked_at = self._linked_at, None
        if linked_at is not None:
            if self._manner.clock.seconds() - linked_at >= LASTING_SECONDS:
                self._failures = 0
                return 0.0
            self._failures += 1
        if self._is_own():
            return OWN_REST_SECONDS
        longest = LONGEST_DELAY if self._refusal is None else LONGEST_REFUSED
        # No more than so many: a float ends somewhere.
        longest = min(longest, FIRST_DELAY * GROWTH ** min(self._failures - 1, 32))
        wait = longest * self._manner.chance.uniform(0.5, 1.0)
        waited = self._manner.clock.seconds() - self._tried_at if linked_at is None else 0.0
        return max(wait - waited, FIRST_DELAY * self._manner.chance.uniform(0.5, 1.0))

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """Connect, when there is a need for it.

        :return: as IStreamClientEndpoint says.
        """
        needed: Deferred[Any] = Deferred(lambda _: self._wake())
        self._look(needed)
        needed.addCallback(lambda _: self._endpoint.connect(protocolFactory))
        return needed.addErrback(self._not_connected)

    def _look(self, needed: Deferred[Any]) -> None:
        """Rest while the node there is linked."""
        self._resting = None
        if self._is_linked():
            self._failures = 0
            self._reached()
        elif self.node is None or not self._peering.is_tried(self.node):
            self.trying, self._tried_at = True, self._manner.clock.seconds()
            needed.callback(None)
            return
        self._resting = self._manner.clock.callLater(REST_SECONDS, self._look, needed)

    def _is_linked(self) -> bool:
        if self.node is None:
            self.node = self._peering.node_at(self.address)
        return self.node is not None and self._peering.is_linked(self.node)

    def _wake(self) -> None:
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None

    # -- what becomes of it ------------------------------------------------------------------

    def buildProtocol(self, addr: IAddress | None) -> PeerProtocol:
        """Make the protocol of the connection."""
        self._protocol = made = self._manner.make(Connecting, self._settled, self._gone)
        if self._is_linked():
            # The other was quicker; where both have tried for a while, by as much as seconds. Two
            # links would cost one of them, and perhaps the one that is in use by now.
            self._manner.clock.callLater(0, made.close)
        return made

    def _gone(self) -> None:
        self._protocol = None

    def _settled(self, why: str | None) -> None:
        """The handshake is over; to a ClientService a connection is made before it."""
        self.trying = False
        protocol = self._protocol
        if protocol is None:
            return
        if protocol.peer is not None:
            self.node = protocol.peer.node
            self._linked_at = self._manner.clock.seconds()
            self._reached()
            return
        self._refusal = protocol.refusal
        if self._is_own():
            self._log.info("{address} is this node's own address", address=in_short(self.address))
            return
        told = f"{self._refusal or ''} {why or ''}"
        said = next((word for word in _REMEDIES if word in told), None)
        self._fail(why or "", "" if said is None else _REMEDIES[said])

    def _not_connected(self, reason: Failure) -> Failure:
        self.trying, self._refusal = False, None
        remedy = "" if reason.type is None else _HELP.get(reason.type, "")
        refused = reason.check(error.ConnectionRefusedError)
        self._fail("the connection was refused" if refused else words_of(reason), remedy)
        return reason

    def _is_own(self) -> bool:
        return self._refusal is not None and self._refusal.endswith(ITSELF)

    def _fail(self, why: str, remedy: str) -> None:
        if self._stopped or self._is_linked():
            return
        self._failures += 1
        if why in self._told or len(self._told) >= MOST_TOLD:
            return
        self._told.add(why)
        self._log.warn(
            "the node at {address} cannot be reached, and is tried again and again: {why}{remedy}",
            address=in_short(self.address),
            why=why.rstrip("."),
            remedy=f": {remedy}" if remedy else "",
        )

    def _reached(self) -> None:
        """There is a link with the node."""
        self._refusal = None
        if self._told:
            self._told.clear()
            self._log.info("the node at {address} is reached again", address=in_short(self.address))
