"""Writes long answers: in pieces, a slice of work a turn, as fast as the transport takes them.

While an answer is streaming, nothing else is written to that client: replies and events wait
in ``client.ready`` and follow it. An answer begins when all that was sent before it has left:
then the database is looked at, so an event that went out earlier is of a change the answer
has, and one that comes later follows it. What it tells of must be durable before its first
byte leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Cooperator
from twisted.python.failure import Failure

from nuntwist.core.client import Client
from nuntwist.core.delivery import Delivery
from nuntwist.core.journal import Journal
from nuntwist.core.scan import Listing
from nuntwist.language.replies import NO_DATABASE, Reply, failure


class Streams:
    """All work of this node that is done in slices, one slice a turn, in rotation.

    :param call_later: IReactorTime.callLater.
    """

    def __init__(
        self, call_later: Callable[..., Any], delivery: Delivery, journal: Journal
    ) -> None:
        self._delivery = delivery
        self._journal = journal
        self._slices = Cooperator(
            terminationPredicateFactory=lambda: lambda: True,
            scheduler=lambda call: call_later(0.0, call),
        )

    def work(self, steps: Iterator[object]) -> Deferred[Any]:
        """Do work a step a turn; a step may give a Deferred to wait for.

        :return: fires when the steps are done; fails with what a step raised.
        """
        return self._slices.coiterate(steps)

    def write(self, client: Client, listing: Listing) -> Deferred[Reply | None]:
        """Answer ``keys`` with a listing.

        :return: fires with None when all is written (or the client gone), or with a Reply
            where there is another answer.
        """
        answer: list[Reply] = []
        if client.direct:
            self._begin(client, listing)
        done = self.work(self._steps(client, listing, answer))
        return done.addCallback(lambda _: answer[0] if answer else None)

    def _steps(
        self, client: Client, listing: Listing, answer: list[Reply]
    ) -> Iterator[Deferred[None] | None]:
        if not client.streaming:
            while not client.closed and (client.held or client.ready or client.paused):
                yield self._delivery.drained(client)
            if client.closed:
                return
            if client.database is not listing.database:
                answer.append(NO_DATABASE)
                return
            self._begin(client, listing)
        try:
            lost: list[Failure] = []
            journal = self._journal
            yield journal.durable(listing.index).addErrback(lost.append)
            if lost or listing.exposed_at not in (None, journal.undone):
                answer.append(failure(journal.said))
            else:
                yield from self._write(client, listing)
        finally:
            listing.close()
            self._delivery.end_stream(client)

    def _write(self, client: Client, listing: Listing) -> Iterator[Deferred[None] | None]:
        begun = False
        for piece in listing.pieces():
            while client.paused and not client.closed:
                yield self._delivery.drained(client)
            if client.closed:
                return
            if piece is not None:
                if not begun:
                    begun = True
                    self._write_head(client, listing)
                client.write(piece)
            yield None
        if not begun:
            self._write_head(client, listing)
        client.write(b"\n" + client.encoding.ok)

    def _begin(self, client: Client, listing: Listing) -> None:
        client.streaming, client.direct = True, False
        listing.begin()
        if listing.index > self._journal.revealed:
            listing.exposed_at = self._journal.undone

    @staticmethod
    def _write_head(client: Client, listing: Listing) -> None:
        head = client.encoding.message_head(listing.length + len(b"keys \n"))
        client.write(head + b"keys ")
