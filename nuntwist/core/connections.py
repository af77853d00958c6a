"""The life of a connection, as the road of changes sees it.

connected ──▶ open ──finish──▶ ending ──all is answered──▶ the outlet ends ──▶ gone
               │ ▲
   its buffer  │ │ is empty
   is full     ▼ │
              paused

finish      nothing more will come of it: what has come is run and answered first
leave       it goes out of what it may not be in any more, when what it has sent before is
            answered; it stays connected
dismiss     it has no right to be here: what is not run is not run, it leaves, then finishes;
            one that is paused is cut off, as it would stay for as long as it likes
gone        whatever comes first, at any moment: its watches and its place in a database go
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nuntwist.core import watches
from nuntwist.core.client import SIGNED_OUT, Client
from nuntwist.core.sessions import deselect, let_all_go, let_go

if TYPE_CHECKING:
    from nuntwist.core.pipeline import Pipeline

LEAVE: Final = b"\nleave"
"""Stands in a backlog, itself and not one like it, for what no client sends: that a connection
leaves what it may not be in any more."""


class Connections:
    """Lets clients come and go.

    :param pipeline: of which turns, delivery and the batch under way are used.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def connect(self, client: Client) -> None:
        """A connection is there."""
        self._pipeline.counters.connections += 1
        client.watched = self._pipeline.watched
        client.counts = self._pipeline.concerns.default.replicas > 0
        client.heed()

    def set_paused(self, client: Client, paused: bool) -> None:
        """The transport's buffer is full, or empty again."""
        delivery = self._pipeline.delivery
        client.paused = paused
        delivery.note_state(client)
        if paused and client.dismissed:
            client.outlet.abort("signed out")
            return
        if not paused and not client.closed:
            delivery.note_drained(client)
            self._pipeline.turns.enqueue(client)

    def finish(self, client: Client, farewell: bytes | None = None) -> None:
        """Nothing more will come from it: end it when all is answered.

        :param farewell: why, where it is not that it or the node ends.
        """
        client.ending, client.farewell = True, client.farewell or farewell
        self.end_if_answered(client)

    def dismiss(self, client: Client) -> None:
        """Let a connection go that has no right to be here any more: what it has sent and was not
        run is not run, and it is told no more."""
        client.backlog.clear()
        for database in tuple(client.watching):
            watches.unsubscribe_all(client, database)
        client.dismissed = True
        if client.paused:
            # It does not take what it was sent, and would stay for as long as it likes.
            client.outlet.abort("signed out")
            return
        client.outlet.pause_reading()
        self.leave(client)
        self.finish(client, SIGNED_OUT)

    def leave(self, client: Client) -> None:
        """Let a connection leave what it may not be in any more, when what it has sent before is
        answered: that may have to be run once more, as what the connection was then. Nothing of
        what it sends is run before that."""
        client.backlog.appendleft(([LEAVE], 0, False))
        if client.forwards is not None and self._pipeline.forwarder is not None:
            self._pipeline.forwarder.pull(client)
        elif not (client.waiting or client.paused):
            self._pipeline.turns.enqueue(client)

    def leave_now(self, client: Client) -> None:
        """All is answered that was sent before :meth:`leave`: leave."""
        if client.dismissed:
            let_all_go(client)
            deselect(client, self._pipeline.notify)
        for database in [one for one, signed in client.signed.items() if signed.over]:
            let_go(client, database)
            if client.database is database:
                deselect(client, self._pipeline.notify)

    def end_if_answered(self, client: Client) -> None:
        """End a connection of which nothing more will come, unless an answer is still to be sent;
        the pipeline asks again when more is done."""
        if not client.closed and not client.backlog and not client.waiting:
            self._pipeline.commit()
            if client.held or client.ready:
                # In a turn of its own: the end of an HTTP answer runs the request behind it.
                drained = self._pipeline.delivery.drained(client)
                drained.addCallback(lambda _: self._pipeline.turns.enqueue(client))
            else:
                client.outlet.end()

    def disconnect(self, client: Client) -> None:
        """The connection is gone: its watches go, and its database counts one less."""
        if client.closed:
            return
        pipeline, client.closed = self._pipeline, True
        pipeline.counters.connections -= 1
        client.backlog.clear()
        for database in tuple(client.watching):
            watches.unsubscribe_all(client, database)
        pipeline.commit()
        deselect(client, pipeline.notify)
        let_all_go(client)
        pipeline.commit()
        # First, as whoever waits to end it in order is told now.
        client.detach()
        pipeline.delivery.forget(client)
