"""A process on the shared clock: it can be stopped for a while, and ended.

Everything that happens to a process comes in through :meth:`Process.run`: bytes that arrive, and
timers that are due. While it is paused all that waits, in order, and happens when it goes on, as
after SIGSTOP and SIGCONT; time goes on meanwhile. When it has ended, nothing happens to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall
from zope.interface import implementer

from nuntwist.testing import HeapClock


@implementer(IDelayedCall)
class _Timer:
    """One delayed call; it is active until it really happens, however long it is overdue."""

    def __init__(self, process: Process, delay: float, call: Callable[[], object]) -> None:
        self._process = process
        self._call = call
        self._set(delay)
        self.called = self.cancelled = False

    def _set(self, delay: float) -> None:
        self._due = self._process.clock.callLater(delay, self._is_due)

    def _is_due(self) -> None:
        self._process.run(self._happen)

    def _happen(self) -> None:
        # It may have been cancelled or moved since it was due.
        if not self.cancelled and not self.called and not self._due.active():
            self.called = True
            self._process.timers.pop(self, None)
            self._call()

    def getTime(self) -> float:
        """When it is due."""
        return self._due.getTime()

    def cancel(self) -> None:
        """Forget it."""
        self._check()
        self.cancelled = True
        self._process.timers.pop(self, None)
        if self._due.active():
            self._due.cancel()

    def delay(self, secondsLater: float) -> None:
        """Move it."""
        self.reset(self.getTime() + secondsLater - self._process.seconds())

    def reset(self, secondsFromNow: float) -> None:
        """Move it."""
        self._check()
        if self._due.active():
            self._due.cancel()
        self._set(secondsFromNow)

    def active(self) -> bool:
        """Whether it is still to come."""
        return not self.called and not self.cancelled

    def _check(self) -> None:
        if self.called:
            raise AlreadyCalled()
        if self.cancelled:
            raise AlreadyCancelled()


class Process(HeapClock):
    """Time, and everything else that happens, as one process sees it (IReactorTime).

    :param clock: of all.
    :param after: is called each time something has happened.
    :ivar paused: whether it is stopped for a while.
    :ivar ended: whether nothing happens any more.
    :ivar timers: the delayed calls to come.
    """

    def __init__(self, clock: HeapClock, after: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.clock = clock
        self.paused = self.ended = False
        self.timers: dict[_Timer, None] = {}
        self._after = after
        self._held: deque[Callable[[], object]] = deque()

    def seconds(self) -> float:
        """Now."""
        return self.clock.seconds()

    def callLater(  # type: ignore[override]  # what is due may wait here, so it is another class
        self, delay: float, callable: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> _Timer:
        """Call in ``delay`` seconds, or when it goes on again after that."""
        timer = _Timer(self, delay, lambda: callable(*args, **kwargs))
        self.timers[timer] = None
        return timer

    def getDelayedCalls(self) -> list[_Timer]:  # type: ignore[override]  # as above
        """The calls to come."""
        return list(self.timers)

    def run(self, happen: Callable[[], object]) -> None:
        """Let something happen to it, now or when it goes on."""
        if self.ended:
            return
        if self.paused or self._held:
            self._held.append(happen)
            return
        happen()
        self._after()

    def pause(self) -> None:
        """Stop it for a while."""
        self.paused = True

    def go_on(self) -> None:
        """Let happen what has waited, in order."""
        self.paused = False
        while self._held and not self.paused and not self.ended:
            self._held[0]()
            self._held.popleft()
            self._after()

    def end(self) -> None:
        """Nothing happens to it any more."""
        self.ended = True
        self._held.clear()
        for timer in list(self.timers):
            timer.cancel()
