"""Writes long answers: in pieces, a slice of work a turn, as fast as the transport takes them.

While an answer is streaming, nothing else is written to that client: replies and events wait
in ``client.ready`` and follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Cooperator

from nuntwist.core.client import Client
from nuntwist.core.delivery import Delivery
from nuntwist.core.scan import Listing
from nuntwist.language.replies import Reply


class Streams:
    """All work of this node that is done in slices, one slice a turn, in rotation.

    :param call_later: IReactorTime.callLater.
    """

    def __init__(self, call_later: Callable[..., Any], delivery: Delivery) -> None:
        self._delivery = delivery
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
            that is still to be given.
        """
        answer: list[Reply] = []
        done = self.work(self._steps(client, listing, answer))
        return done.addCallback(lambda _: answer[0] if answer else None)

    def _steps(
        self, client: Client, listing: Listing, answer: list[Reply]
    ) -> Iterator[Deferred[None] | None]:
        try:
            for piece in listing.pieces():
                while not client.closed and (client.held or client.ready or client.paused):
                    if client.streaming and not client.paused:
                        break
                    yield self._delivery.drained(client)
                if client.closed:
                    return
                if piece is not None:
                    if not client.streaming:
                        client.streaming, client.direct = True, False
                        head = client.encoding.message_head(listing.length + len(b"keys \n"))
                        client.write(head + b"keys ")
                    client.write(piece)
                yield None
        finally:
            listing.close()
        if client.streaming:
            client.write(b"\n" + client.encoding.ok)
            self._delivery.end_stream(client)
        else:
            answer.append(Reply((b"keys \n",)))
