"""Ends connections that have been silent for long, where an operator wants that.

A connection notes that something came by setting ``heard``, and nothing else; one look at all of
them, every now and then, does the rest. Half-way a connection is nudged: a WebSocket is sent a
ping, and who answers it is there. Whoever has something under way is not silent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

LOOKS: Final = 8
"""Looks within the time allowed: a silence lasts up to an eighth longer."""


class Silent(Protocol):
    """A connection.

    :ivar heard: something has come since the last look.
    """

    heard: bool

    def is_busy(self) -> bool:
        """Whether the silence is ours: something it asked for is under way."""

    def nudge(self) -> None:
        """Ask whether it is there, if there is a way to."""

    def end_silence(self) -> str:
        """End it; gives the address of the other side, for the log."""


class Idle:
    """See the module's header.

    :param allowed: seconds a connection may be silent; 0 for ever.
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
        self._allowed = allowed
        self._call_later = call_later
        self._seconds = seconds
        self._ended = ended
        self._heard_at: dict[Silent, float] = {}
        self._nudged: set[Silent] = set()
        self._is_timed = False
        self._timer: Any = None

    def stop(self) -> None:
        """Nobody is asked or ended any more."""
        self._allowed = 0.0
        self._heard_at.clear()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def join(self, who: Silent) -> None:
        """A connection is there."""
        if not self._allowed:
            return
        self._heard_at[who] = self._seconds()
        if not self._is_timed:
            self._time()

    def leave(self, who: Silent) -> None:
        """It is gone, or ends."""
        self._heard_at.pop(who, None)
        self._nudged.discard(who)

    def _time(self) -> None:
        self._is_timed = True
        self._timer = self._call_later(self._allowed / LOOKS, self._look)

    def _look(self) -> None:
        self._is_timed = False
        now = self._seconds()
        for who, heard_at in tuple(self._heard_at.items()):
            if who not in self._heard_at:
                continue
            if who.heard or who.is_busy():
                who.heard = False
                self._heard_at[who] = now
                self._nudged.discard(who)
            elif now - heard_at >= self._allowed:
                self.leave(who)
                self._ended(who.end_silence())
            elif 2 * (now - heard_at) >= self._allowed and who not in self._nudged:
                self._nudged.add(who)
                who.nudge()
        if self._heard_at:
            self._time()
