"""When snapshots are taken by themselves: after a time, after so many bytes of log, and soon
again after a round that failed, later each time, so that a disk or a store that is down is not
hammered."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.core.snapshots import Snapshots
from nuntwist.errors import CommandError

LOOK_SECONDS = 0.2
"""How often is looked whether a round is due."""
RETRY_SECONDS = 5.0
"""How long after a round that failed the next is tried; twice as long after each more."""


class Schedule:
    """The rounds of a node.

    :param clock: an IReactorTime.
    :param every: seconds between two rounds.
    :ivar failures: how many rounds have failed in a row.
    """

    _log = Logger()

    def __init__(self, snapshots: Snapshots, clock: Any, every: float) -> None:
        self._snapshots = snapshots
        self._clock = clock
        self._every = every
        self._round: Deferred[None] | None = None
        self._not_before = 0.0
        self.failures = 0
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock

    def start(self, at_once: bool = False) -> None:
        """Begin to look.

        :param at_once: whether the first round is due now.
        """
        self._next = self._clock.seconds() + (0.0 if at_once else self._every)
        self._looking.start(LOOK_SECONDS, now=at_once)

    def stop(self) -> Deferred[None]:
        """Begin no more rounds.

        :return: fires with None when none is under way.
        """
        if self._looking.running:
            self._looking.stop()
        done: Deferred[None] = Deferred()
        if self._round is None:
            return succeed(None)
        self._round.addCallback(lambda _: done.callback(None))
        return done

    def _look(self) -> None:
        now = self._clock.seconds()
        if self._round is not None or now < self._not_before:
            return
        if now >= self._next or self._snapshots.are_due():
            self._round = self._snapshots.take_changed()
            self._round.addCallbacks(self._done, self._failed)

    def _done(self, _: object) -> None:
        self._round = None
        if self.failures:
            self._log.info("snapshots can be written again")
        self.failures = 0
        self._next = self._clock.seconds() + self._every

    def _failed(self, reason: Failure) -> None:
        reason.trap(CommandError)
        self._round = None
        self.failures += 1
        delay = min(self._every, RETRY_SECONDS * 2 ** min(self.failures - 1, 30))
        self._next = self._not_before = self._clock.seconds() + delay
        self._log.warn("snapshots are tried again in {delay:g} s", delay=delay)
