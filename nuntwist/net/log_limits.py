"""Lines of the log that anybody can cause: now and then one, which tells how many it stands for.

A :class:`Tally` is of one thing that happens: the first time is told at once, what comes within a
minute with the first that comes after it. :class:`Tallies` are the same for each reason by itself.
A :class:`LogLimit` is of lines that differ: one a second goes through, the same one once a minute.
Nothing here has a timer: what happens last, and never again, may be told of by nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

TELL_SECONDS: Final = 60.0
"""How often at most the log tells of the same."""
MOST_REASONS: Final = 16
"""Reasons that are told apart."""
OTHER_REASONS: Final = "something else"
SAME_SECONDS: Final = 60.0
"""How long the log tells nothing of what it has told already."""
MOST_TOLD: Final = 64
"""Of how many such things that is known; of all the earlier ones it is forgotten."""


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


class LogLimit:
    """Lets a line a second through, the same one a minute, and counts the others: anybody can make
    such lines.

    :param seconds: monotonic time, in seconds.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._next = float("-inf")
        self._kept = 0
        self._told: dict[object, float] = {}

    def pass_on(self, what: object = None) -> str | None:
        """What to add to a line that may go through; None where it may not.

        :param what: what it tells, for lines that are the same; None for one of its own.
        """
        now = self._seconds()
        if now < self._next or now < self._told.get(what, now):
            self._kept += 1
            return None
        self._next = now + 1.0
        if what is not None:
            if len(self._told) >= MOST_TOLD:
                self._told.clear()
            self._told[what] = now + SAME_SECONDS
        kept, self._kept = self._kept, 0
        return f" ({kept} more since the last such line)" if kept else ""
