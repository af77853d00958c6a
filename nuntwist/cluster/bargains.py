"""The two sides of what was cut off: a node offers it while it follows, and decides while it leads.

What lies here is offered (:mod:`nuntwist.cluster.offers`) to each primary there is, anew in each
epoch; where this node is the primary itself, to itself: what it has is decided as what others
offer. What is decided, and how, is :mod:`nuntwist.core.divergent`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nuntwist.cluster.offers import Offer, Offered, Offers
from nuntwist.errors import CommandError
from nuntwist.files import Files
from nuntwist.interfaces import Received
from nuntwist.oplog.record import split
from nuntwist.values import Epoch


class Outcome(Protocol):
    """What has become of some operations."""

    @property
    def last(self) -> int:
        """The index of the last one."""

    @property
    def made(self) -> int:
        """How many were made again, or put before arbiters."""

    @property
    def left(self) -> int:
        """How many were not."""


class Decider(Protocol):
    """What decides on a primary; see :class:`nuntwist.core.divergent.Deciding`."""

    def decide(self, first: int, records: Sequence[Received]) -> Deferred[Any]:
        """Decide about operations.

        :return: fires with an :class:`Outcome`; fails with CommandError where it cannot be now.
        """

    def decided_to(self, epoch: Epoch) -> int:
        """Up to which index the operations of an epoch are known to be decided."""


class Bargains:
    """The offers of a node: those it makes while it follows, and those it gets while it leads.

    :param me: its id.
    :param files: its data directory.
    :param send: sends a message to a node.
    :param number: gives the number of the epoch it is in.
    :param call_later: IReactorTime.callLater.
    """

    def __init__(
        self,
        me: int,
        files: Files,
        decider: Decider,
        send: Callable[[int, object], None],
        number: Callable[[], int],
        call_later: Callable[..., Any],
    ) -> None:
        self._me = me
        self._files = files
        self._decider = decider
        self._send = send
        self._number = number
        self._call_later = call_later
        self._leads = False
        self._offers: Offers | None = None

    def primary(self, node: int | None) -> None:
        """There is another primary, or none, or the same one in another epoch."""
        if self._offers is not None:
            self._offers.end()
            self._offers = None
        self._leads = node == self._me
        if node is not None:

            def send(message: Offer) -> None:
                if self._leads:
                    # What lies here is decided as what others offer.
                    self._decide(node, message)
                else:
                    self._send(node, message)

            self._offers = Offers(
                self._files, self._number(), self._decider.decided_to, send, self._call_later
            )
            self._offers.begin()

    def cut_off(self) -> None:
        """Something was cut off the log here."""
        if self._offers is not None:
            self._offers.begin()

    def received(self, node: int, message: Offer | Offered) -> None:
        """A message has come from a node of the set.

        :raise CorruptData: it does not hold whole records: the link is at fault.
        """
        if message.number != self._number():
            return
        if isinstance(message, Offered):
            if self._offers is not None:
                self._offers.offered(message)
        elif self._leads:
            self._decide(node, message)

    def _decide(self, node: int, offer: Offer) -> None:
        found = split(offer.data, "an offer")

        def answer(last: int, made: int, left: int) -> None:
            answer = Offered(offer.number, last, made, left)
            if node != self._me:
                self._send(node, answer)
            elif self._offers is not None:
                self._offers.offered(answer)

        def decided(outcome: Outcome) -> None:
            answer(outcome.last, outcome.made, outcome.left)

        def not_now(reason: Failure) -> None:
            reason.trap(CommandError)
            answer(0, 0, 0)

        if found:
            self._decider.decide(offer.first, found).addCallbacks(decided, not_now)
