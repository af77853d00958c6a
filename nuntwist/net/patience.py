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
TELL_SECONDS: Final = 60.0
"""How often at most the log tells of the same."""

MOST_REASONS: Final = 16
"""Reasons that are told apart."""
OTHER_REASONS: Final = "something else"


class Tally:
    """Tells now and then of what happens often, with how often it did.

    :param seconds: monotonic time, in seconds.
    :param tell: is called with that number, and with who was the last one.
    """

    def __init__(self, seconds: Callable[[], float], tell: Callable[[int, str], object]) -> None:
        self._seconds = seconds
        self._tell = tell
        self._told_at: float | None = None
        self._untold = 0

    def note(self, who: str) -> None:
        """It has happened."""
        self._untold += 1
        now = self._seconds()
        if self._told_at is None or now >= self._told_at + TELL_SECONDS:
            self._told_at = now
            count, self._untold = self._untold, 0
            self._tell(count, who)


class Tallies:
    """A tally of each of some reasons, so that one that is common hides no other.

    :param seconds: monotonic time, in seconds.
    :param tell: as that of a :class:`Tally`, with the reason as third.
    """

    def __init__(
        self, seconds: Callable[[], float], tell: Callable[[int, str, str], object]
    ) -> None:
        self._seconds = seconds
        self._tell = tell
        self._tallies: dict[str, Tally] = {}

    def note(self, who: str, why: str) -> None:
        """It has happened for a reason."""
        if why not in self._tallies and len(self._tallies) >= MOST_REASONS:
            why = OTHER_REASONS
        tally = self._tallies.get(why)
        if tally is None:
            tally = self._tallies[why] = Tally(
                self._seconds, lambda count, last: self._tell(count, last, why)
            )
        tally.note(who)


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
