"""Who has to be done with something within a time: a handshake, or a command that has begun.

Whoever begins is noted with the time; whoever is done is forgotten. As all have the same time, they
stand in the order in which it runs out, and one timer for the first of them is enough: there is
none for each connection, and none at all while nobody has begun. It looks no more often than
``LOOKS`` times within the time allowed, so some have a little more of it.

Nothing of what a connection does meanwhile moves its time, so a byte a second keeps none open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

LOOKS: Final = 20
"""Looks at most within the time allowed."""
AT_ONCE: Final = 64
"""Connections that are ended in one go: thousands that came together would hold up all others."""


class Hurried(Protocol):
    """A connection that has begun something."""

    def out_of_time(self) -> str | None:
        """End it.

        :return: the address of the other side, for the log; None where nothing had to be ended.
        """


class Patience:
    """A time that is allowed for something.

    :param allowed: in seconds; 0 for any time.
    :param call_later: IReactorTime.callLater.
    :param seconds: monotonic time, in seconds.
    :param ended: is told of each that was ended, by its address.
    """

    def __init__(
        self,
        allowed: float,
        call_later: Callable[..., Any],
        seconds: Callable[[], float],
        ended: Callable[[str], object],
    ) -> None:
        self.allowed = allowed
        self._call_later = call_later
        self._seconds = seconds
        self._ended = ended
        self._since: dict[Hurried, float] = {}
        self._is_timed = self._is_over = False
        self._timer: Any = None

    def stop(self) -> None:
        """Nobody is ended any more."""
        self._is_over = True
        self._since.clear()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def begin(self, who: Hurried) -> None:
        """Its time begins; anew, where it had begun."""
        if not self.allowed or self._is_over:
            return
        self._since.pop(who, None)
        self._since[who] = self._seconds()
        if not self._is_timed:
            self._time(self.allowed)

    def forget(self, who: Hurried) -> None:
        """It is done, or gone."""
        self._since.pop(who, None)

    def _time(self, wait: float) -> None:
        if not self._is_timed:
            self._is_timed = True
            self._timer = self._call_later(wait, self._look)

    def _look(self) -> None:
        # Whoever begins meanwhile needs no timer: there is one at the end.
        self._is_timed = True
        try:
            self._end_late()
        finally:
            self._is_timed = False
            if self._since:
                left = next(iter(self._since.values())) + self.allowed - self._seconds()
                self._time(0.0 if left <= 0.0 else max(left, self.allowed / LOOKS))

    def _end_late(self) -> None:
        """End those whose time is over, as many as may be at once."""
        now = self._seconds()
        for _ in range(AT_ONCE):
            who, since = next(iter(self._since.items()), (None, now))
            if who is None or since + self.allowed > now:
                return
            # What one ends may end another, or begin one anew.
            del self._since[who]
            address = who.out_of_time()
            if address is not None:
                self._ended(address)
