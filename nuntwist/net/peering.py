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
is noticed with the next attempt, or when TCP sends again in this one. What the log tells of it is
:mod:`nuntwist.net.out_of_reach`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

from twisted.application.internet import ClientService
from twisted.internet.defer import Deferred, DeferredList
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

from nuntwist.addresses import in_short
from nuntwist.cluster.handshake import ITSELF, Connecting
from nuntwist.net.doors import Manner
from nuntwist.net.out_of_reach import OutOfReach, reason_and_help, remedy_for
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
        self._words = OutOfReach(address)
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
        self._fail(why or "", remedy_for(f"{self._refusal or ''} {why or ''}"))

    def _not_connected(self, reason: Failure) -> Failure:
        self.trying, self._refusal = False, None
        self._fail(*reason_and_help(reason))
        return reason

    def _is_own(self) -> bool:
        return self._refusal is not None and self._refusal.endswith(ITSELF)

    def _fail(self, why: str, remedy: str) -> None:
        if self._stopped or self._is_linked():
            return
        self._failures += 1
        self._words.tell(why, remedy)

    def _reached(self) -> None:
        """There is a link with the node."""
        self._refusal = None
        self._words.reached()
