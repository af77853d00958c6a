"""Forwarded writes between the nodes of a set: the messages, and who takes them.

============  ====================================================================================
``Forward``   secondary: run these commands of my clients, on this lane, as this request
``Outcome``   primary: that request is run; answer when you have revealed all up to this index
``Behind``    primary: a later request of that lane was here already; number yours anew
============  ====================================================================================

Each carries the *number* of the epoch that the primary serves, and what is of another epoch is
passed over: a secondary sends its requests again to each primary that it finds. It has found one
when the first records have come from it: then that one serves, and the log here is the beginning
of its log, so an index in an outcome means the same on both. A node that is primary itself runs
in the same way what it could not get done as a secondary.

Commands go as the clients have sent them, tokens of new databases and users too; where the net
between the nodes is not to be trusted, their endpoints have to be TLS, as for clients.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from nuntwist.core.forwarded import Executor
from nuntwist.core.forwarding import Forwarder
from nuntwist.core.forwards import LANES, PLAIN, REQUEST_ITEMS, Item

if TYPE_CHECKING:
    from nuntwist.cluster.member import Member
    from nuntwist.core.node import Node


@dataclass(frozen=True, slots=True)
class Forward:
    """:ivar lane: one request of a lane is under way at a time.
    :ivar request: its number; that of a later request of the lane is higher.
    :ivar items: the commands, in order.
    """

    number: int
    lane: int
    request: int
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """:ivar index: what must be revealed before the clients are answered.
    :ivar replies: of all commands, in order (:mod:`nuntwist.core.outcomes`).
    """

    number: int
    lane: int
    request: int
    index: int
    replies: bytes


@dataclass(frozen=True, slots=True)
class Behind:
    """:ivar seen: the number of the last request of the lane that was here."""

    number: int
    lane: int
    request: int
    seen: int


Forwarding: TypeAlias = Forward | Outcome | Behind

_REQUESTS_A_MILLISECOND = 20
"""Bits that a request number has below the time of the start."""


class Forwards:
    """Forwarding at one node: what it sends as a secondary, and what it runs as the primary.

    :param member: of the set; its handlers are set.
    :param node: its forwarder is set.
    :param wait: for how long a write waits without a primary, in seconds.
    """

    def __init__(self, member: Member, node: Node, wait: float) -> None:
        self._member = member
        self._node = node
        self._later = member.clock.callLater
        self._executor = Executor(node, self._later)
        self.forwarder = Forwarder(
            node.pipeline,
            self._later,
            member.clock.seconds,
            wait,
            member.started << _REQUESTS_A_MILLISECOND,
        )
        self._primary: int | None = None
        member.handlers[Forward] = self.run
        member.handlers[Outcome] = member.handlers[Behind] = self.answered

    def turned(self, primary: int | None) -> None:
        """Another node is primary, or none, as far as this one can follow it."""
        member, link = self._member, self._member.links.get(primary or 0)
        self._executor.stop()
        self._primary = primary
        if primary is None:
            self.forwarder.lost()
            return
        address = self._node.info.address
        if link is not None and link.peer is not None:
            address = link.peer.address
        number = member.election.number

        def send(lane: int, request: int, items: Sequence[Item]) -> None:
            self._send(primary, Forward(number, lane, request, tuple(items)))

        self.forwarder.found(address, send)

    def _send(self, node: int, message: Forwarding) -> None:
        if node != self._member.me:
            self._member.send(node, message)
        elif isinstance(message, Forward):
            # To itself it speaks from the outside, too, not from within what it is doing.
            self._later(0.0, self.run, node, message)
        else:
            self._later(0.0, self.answered, node, message)

    def stop(self) -> None:
        """The node stops: what it has forwarded is answered with what is known of it."""
        self._executor.stop()
        self.forwarder.stop()

    def run(self, sender: int, message: Forward) -> None:
        """Run a request of a node, if this one is primary."""
        member = self._member
        number, lane, request = message.number, message.lane, message.request
        if self._primary != member.me or number != member.election.number or not _is_sound(message):
            return

        def answer(index: int, replies: bytes) -> None:
            self._send(sender, Outcome(number, lane, request, index, replies))

        seen = self._executor.run(sender, lane, request, message.items, answer)
        if seen is not None:
            self._send(sender, Behind(number, lane, request, seen))

    def answered(self, sender: int, message: Outcome | Behind) -> None:
        """A node has answered, the primary if it counts."""
        if sender != self._primary or message.number != self._member.election.number:
            return
        if isinstance(message, Outcome):
            self.forwarder.outcome(message.lane, message.request, message.index, message.replies)
        else:
            self.forwarder.behind(message.lane, message.request, message.seen)

    def forget(self, nodes: Collection[int]) -> None:
        """Remove what the log holds of nodes that have left the set; this one serves.

        :raise CommandError: writes are refused.
        """
        self._executor.forget(nodes)


def _is_sound(message: Forward) -> bool:
    limit = REQUEST_ITEMS if message.lane == PLAIN else 1
    return message.lane in LANES and 0 < len(message.items) <= limit
