"""Stamps that other nodes have given, and a clock there that is wrong.

The primary stamps every operation, so what comes from it in the log or in a copy bears the time of
its clock. Where that is more than ``AHEAD`` before the clock of this node, one of the two is
wrong. Nothing in the log can be refused for it: the log is one on all nodes, and who left an
operation out could never follow again. Nor does anything hang on it: positions say what a node
has, timers are monotonic, and the clock for stamps goes on from the highest one it has seen, so
stamps rise through any change of primaries. What suffers is the meaning of a stamp as a time, so
it is counted, and logged when it begins and when it is over. An operation that is *offered* (one
that no log of the set has) is refused instead, see :mod:`nuntwist.core.divergent`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from twisted.logger import Logger

from nuntwist.core.counters import Counters
from nuntwist.values import STAMP, Op, StampClock

AHEAD: Final = 10_000 << 16
"""How far a stamp may be ahead of this node's clock: 10 s."""


class ForeignStamps:
    """Takes note of the stamps of others.

    :param stamps: of this node.
    :param counters: ``stamps_ahead`` is counted there.
    """

    _log = Logger()

    def __init__(self, stamps: StampClock, counters: Counters) -> None:
        self._stamps = stamps
        self._counters = counters
        self._is_ahead = False

    def observe(self, stamp: int, ops: Iterable[Op] = ()) -> None:
        """Take note of the highest stamp of some operations of the primary.

        :param ops: these operations, looked at only where it is too far ahead.
        """
        latest = self._stamps.wall() + AHEAD
        self._stamps.observe(stamp)
        if stamp <= latest:
            if self._is_ahead:
                self._is_ahead = False
                self._log.info("what the primary sends bears the right time again")
            return
        self._counters.stamps_ahead += sum(op[STAMP] > latest for op in ops)
        if not self._is_ahead:
            self._is_ahead = True
            self._log.warn(
                "what the primary sends bears a time {ahead:.0f} s ahead of this node's clock: one"
                " of the two clocks is wrong; let both be set by NTP. Nothing is lost by it",
                ahead=(stamp - latest + AHEAD) / (1000 << 16),
            )
