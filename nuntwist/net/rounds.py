"""Runs the reactor's rounds with less ceremony, and tells when one is over.

A round is: wait for what is ready, read all of it. Its end is when a node commits its batch.
Two things make Twisted's own rounds dear for small requests, and are left out here where that
is safe:

- Asking for the end of a round with ``callLater(0)`` builds, sorts and times a delayed call in
  every round. Here the round is wrapped, so its end is known.
- Every event goes through four calls that set up a logging context and look at all kinds of
  descriptors. Nearly every event is the same kind: one of our connections
  (:class:`~nuntwist.net.fast.SendingServer`) has something to read and nothing else. It is
  read directly; everything else goes through the reactor's own code.

On a busy node several rounds are run before the reactor looks at its timers again, which it
does within a few milliseconds all the same. With a reactor other than epoll, only the end of
the round is told.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.python import log

from nuntwist.net.fast import LARGE_READ, SendingServer

ROUNDS = 4
"""Rounds run on end while there is something to read."""
BULK_READS = 8
"""Connections that send much, of which one round reads: some 3 ms of it. Thousands of them, each
with a piece of a large message, would make a round last half a second, and everybody waits for
its end; so they take turns, behind all that send little."""


class Rounds:
    """The rounds of one reactor.

    :param reactor: left as it is until :meth:`install`.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._inside = False
        self._turn = 0
        self._calls: list[Callable[[], None]] = []

    def install(self) -> None:
        """Wrap the rounds of the reactor, from the next one on."""
        reactor = self._reactor
        if isinstance(self._reactor, EPollReactor):
            self._round = self._read_ready
            reactor.doIteration = self._run
        elif hasattr(reactor, "doIteration"):
            self._round = self._whole_round
            self._original = reactor.doIteration
            reactor.doIteration = self._run

    def call_at_end(self, call: Callable[[], None]) -> None:
        """Call when this round is over; soon, where no round is under way."""
        if self._inside:
            self._calls.append(call)
        else:
            self._reactor.callLater(0.0, call)

    def _run(self, delay: float | None) -> None:
        self._inside = True
        try:
            for _ in range(ROUNDS):
                busy = self._round(delay)
                if self._calls:
                    # What they ask to be called is called at the end of the next round.
                    calls, self._calls = self._calls, []
                    for call in calls:
                        call()
                if not busy or self._reactor.threadCallQueue or not self._reactor.running:
                    return
                delay = 0.0
        finally:
            self._inside = False
            if self._calls:
                calls, self._calls = self._calls, []
                for call in calls:
                    self._reactor.callLater(0.0, call)

    def _whole_round(self, delay: float | None) -> bool:
        self._original(delay)
        return False

    def _read_ready(self, delay: float | None) -> bool:
        reactor = self._reactor
        selectables = reactor._selectables
        events = reactor._poller.poll(-1 if delay is None else delay, len(selectables) or 1)
        bulk: list[int] = []
        for descriptor, event in events:
            selectable = selectables.get(descriptor)
            if event == select.EPOLLIN and type(selectable) is SendingServer:
                if selectable.expected == LARGE_READ:
                    bulk.append(descriptor)
                    continue
                reason = selectable.read_ready()
                if reason is not None:
                    reactor._disconnectSelectable(selectable, reason, True)
            elif selectable is not None:
                log.callWithLogger(
                    selectable, reactor._doReadOrWrite, selectable, descriptor, event
                )
        if bulk:
            self._read_bulk(bulk)
        return bool(events)

    def _read_bulk(self, descriptors: list[int]) -> None:
        """Read some of those that send much: others than the last time, where there are many."""
        reactor, count = self._reactor, len(descriptors)
        if count > BULK_READS:
            self._turn = start = (self._turn + BULK_READS) % count
            descriptors = (descriptors + descriptors)[start : start + BULK_READS]
        for descriptor in descriptors:
            selectable = reactor._selectables.get(descriptor)
            # It may have been closed meanwhile, and its number be that of another one.
            if type(selectable) is SendingServer and selectable.expected == LARGE_READ:
                reason = selectable.read_ready()
                if reason is not None:
                    reactor._disconnectSelectable(selectable, reason, True)
