"""Connections to the other nodes of a set: one that is made, or taken, for each pair.

:class:`Peering` makes connections: for each address it is told of it runs one ClientService of
Twisted, which tries again with a growing, jittered delay. A node connects to all it knows, and so
do the others; of two connections between the same nodes the member closes one
(:mod:`nuntwist.cluster.member`). So that the loser is not made again at once, an address rests
while the node that answered there is linked, and is tried again as soon as it is not.

:class:`Doors` takes connections: a client's port hands over whoever begins as a node
(:mod:`nuntwist.net.tcp`). As anybody can begin so, no more than ``MOST_BEGUN`` handshakes are under
way at once; the oldest makes room.
"""

from __future__ import annotations

import random
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

from nuntwist.cluster.handshake import ITSELF, Accepting, Connecting, Self
from nuntwist.net.peer import Links, LogLimit, PeerProtocol

FIRST_DELAY: Final = 0.1
"""Seconds until a connection that failed is tried again, the first time."""
GROWTH: Final = 1.5
LONGEST_DELAY: Final = 2.0
"""The same at most: so long a node that is back may go unnoticed."""
REST_SECONDS: Final = 0.1
"""How often an address that rests is looked at."""
OWN_REST_SECONDS: Final = 300.0
"""How long the address of the node itself is left alone."""
MOST_BEGUN: Final = 64
"""Handshakes of others that may be under way at once."""


class Manner:
    """What all connections to nodes have in common.

    :param me: gives what this node says of itself.
    :param key: see :func:`nuntwist.cluster.handshake.peer_key`.
    :param links: is told what happens.
    :param clock: IReactorTime.
    :param chance: for nonces and delays; in a node from the operating system.
    :param beat: seconds after which an idle side says so.
    :param silence: seconds of silence after which a connection is cut off.
    """

    def __init__(
        self,
        me: Callable[[], Self],
        key: bytes,
        links: Links,
        clock: Any,
        chance: random.Random,
        beat: float,
        silence: float,
    ) -> None:
        self._me = me
        self._key = key
        self._links = links
        self._beat = beat
        self._silence = silence
        self.clock = clock
        self.chance = chance
        self.limit = LogLimit(clock.seconds)

    def make(
        self, side: type[Connecting | Accepting], settled: Callable[[str | None], None]
    ) -> PeerProtocol:
        """Make the protocol of a connection.

        :param settled: is called once: with None when it is welcome, with the reason where it
            ended before that.
        """
        handshake = side(self._me(), self._key, self.chance)
        return PeerProtocol(
            handshake, self._links, self.clock, self._beat, self._silence, settled, self.limit
        )


class Doors:
    """Takes connections of other nodes.

    :ivar dropped: how many handshakes made room for others.
    """

    _log = Logger()

    def __init__(self, manner: Manner) -> None:
        self._manner = manner
        self._begun: dict[PeerProtocol, None] = {}
        self.dropped = 0

    def open(self) -> PeerProtocol:
        """The protocol for a connection that begins as a node."""
        if len(self._begun) >= MOST_BEGUN:
            oldest = next(iter(self._begun))
            self._begun.pop(oldest)
            self.dropped += 1
            oldest.drop("too many others have begun a handshake")
        protocol = self._manner.make(Accepting, lambda _: self._done(protocol))
        self._begun[protocol] = None
        return protocol

    def _done(self, protocol: PeerProtocol) -> None:
        self._begun.pop(protocol, None)


@implementer(IStreamClientEndpoint)
class _Resting:
    """An endpoint that waits with connecting while there is no need for it."""

    def __init__(self, address: _Address, endpoint: Any) -> None:
        self._address = address
        self._endpoint = endpoint

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        """Connect, when it is time.

        :return: as IStreamClientEndpoint says.
        """
        waited: Deferred[None] = Deferred(self._address.stop_resting)
        self._address.rest(waited)
        return waited.addCallback(lambda _: self._endpoint.connect(factory))


class _Address(Factory):
    """One address, and the connection to it."""

    noisy = False
    _log = Logger()

    def __init__(self, address: str, peering: Peering, endpoint: Any) -> None:
        self.address = address
        self.node: int | None = None
        self._peering = peering
        self._manner = peering.manner
        self._until = 0.0
        self._waiting: tuple[Deferred[None], IDelayedCall] | None = None
        self._failing = False
        self._refusals = 0
        self.service = ClientService(
            _Resting(self, endpoint),
            self,
            retryPolicy=self._delay,
            clock=self._manner.clock,
        )

    def _delay(self, attempt: int) -> float:
        """Seconds until the next attempt; apart, as others may try at the same time."""
        longest = min(LONGEST_DELAY, FIRST_DELAY * GROWTH ** min(attempt, 32))
        return longest * self._manner.chance.uniform(0.5, 1.0)

    def buildProtocol(self, addr: IAddress | None) -> PeerProtocol:
        """Make the protocol of the connection."""
        self._protocol = self._manner.make(Connecting, self._settled)
        return self._protocol

    def _settled(self, why: str | None) -> None:
        """The handshake is over: to ClientService a connection is made before it."""
        clock, peer = self._manner.clock, self._protocol.peer
        if why is None and peer is not None:
            self.node, self._refusals = peer.node, 0
            if self._failing:
                self._failing = False
                self._log.info("the node at {address} is reached again", address=self.address)
        elif why is not None and why.endswith(ITSELF):
            self._until = clock.seconds() + OWN_REST_SECONDS
        else:
            self._refusals += 1
            self._until = clock.seconds() + self._delay(self._refusals)
            self.failed(why or "")

    def failed(self, why: str) -> None:
        """It cannot be connected to: said once."""
        if not self._failing:
            self._failing = True
            self._log.warn(
                "the node at {address} cannot be reached, and is tried again and again: {why}",
                address=self.address,
                why=why,
            )

    # -- resting -----------------------------------------------------------------------------

    def rest(self, waited: Deferred[None]) -> None:
        """Fire when a connection is needed."""
        self._waiting = None
        clock = self._manner.clock
        linked = self.node is not None and self._peering.is_linked(self.node)
        if not linked and clock.seconds() >= self._until:
            waited.callback(None)
            return
        self._waiting = waited, clock.callLater(REST_SECONDS, self.rest, waited)

    def stop_resting(self, _: object) -> None:
        """It is not needed any more."""
        if self._waiting is not None:
            self._waiting[1].cancel()
            self._waiting = None


class Peering:
    """Makes connections to the nodes at some addresses.

    :param endpoint_for: gives an IStreamClientEndpoint for an address.
    :param is_linked: whether there is a connection with a node, by its id.
    """

    def __init__(
        self,
        manner: Manner,
        endpoint_for: Callable[[str], Any],
        is_linked: Callable[[int], bool],
    ) -> None:
        self.manner = manner
        self.is_linked = is_linked
        self._endpoint_for = endpoint_for
        self._addresses: dict[str, _Address] = {}
        self._ending: list[Deferred[Any]] = []

    def set_addresses(self, addresses: Collection[str]) -> None:
        """Connect to these from now on, and to no others."""
        for address in addresses:
            if address not in self._addresses:
                self._addresses[address] = made = _Address(
                    address, self, _Told(self._endpoint_for(address), self._addresses, address)
                )
                made.service.startService()
        for address in self._addresses.keys() - set(addresses):
            self._end(self._addresses.pop(address))

    def _end(self, address: _Address) -> Deferred[Any]:
        ended: Deferred[Any] = address.service.stopService()
        return ended

    def stop(self) -> Deferred[Any]:
        """End all connections that were made.

        :return: fires with None when they are gone.
        """
        ended = DeferredList([self._end(address) for address in self._addresses.values()])
        self._addresses.clear()
        return ended.addCallback(lambda _: None)


@implementer(IStreamClientEndpoint)
class _Told:
    """An endpoint whose failures are told."""

    def __init__(self, endpoint: Any, addresses: dict[str, _Address], address: str) -> None:
        self._endpoint = endpoint
        self._addresses = addresses
        self._address = address

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        """Connect; see IStreamClientEndpoint."""
        connected: Deferred[Any] = self._endpoint.connect(factory)
        return connected.addErrback(self._tell)

    def _tell(self, reason: Failure) -> Failure:
        known = self._addresses.get(self._address)
        if known is not None:
            known.failed(reason.getErrorMessage())
        return reason
