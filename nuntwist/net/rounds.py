"""Tells when a round of the reactor is over: all that was ready has been read.

That is when a node commits its batch. Asking the reactor for it with ``callLater(0)`` makes it
build, sort and time a delayed call in every round, which at small requests is a third of the
work of the round; so the round is wrapped instead: ``doIteration`` is what every Twisted
reactor runs once a round, between its timed calls.

Where a call is asked for outside a round (a timed call, a thread's result), or the reactor has
no such method, it is a ``callLater(0)`` after all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Rounds:
    """The rounds of one reactor.

    :param reactor: wrapped when it begins to run its rounds through this object's
        :meth:`install`.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._inside = False
        self._calls: list[Callable[[], None]] = []

    def install(self) -> None:
        """Wrap the rounds of the reactor, from the next one on."""
        run = getattr(self._reactor, "doIteration", None)
        if run is not None:
            self._round = run
            self._reactor.doIteration = self._run

    def call_at_end(self, call: Callable[[], None]) -> None:
        """Call when this round is over; soon, where no round is under way."""
        if self._inside:
            self._calls.append(call)
        else:
            self._reactor.callLater(0.0, call)

    def _run(self, delay: float | None) -> None:
        self._inside = True
        try:
            self._round(delay)
        finally:
            self._inside = False
        calls = self._calls
        if calls:
            self._calls = []
            for call in calls:
                call()
