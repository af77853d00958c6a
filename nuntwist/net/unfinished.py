"""What connections have begun to send and not ended: lines and messages that are not whole yet.

Each is limited by itself, but thousands of connections may each hold back the end of a long one. So
those that hold more than ``SMALL`` are summed up, and where the sum is over a limit, those that
hold most are closed: no more than a few at once, as closing hundreds holds up all others. Who sends
whole commands is never in the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from twisted.logger import Logger

from nuntwist.core.counters import Counters
from nuntwist.net.log_limits import Tally

SMALL: Final = 16 << 10
"""Bytes of an unfinished command that are not counted."""


class Sender(Protocol):
    """A connection that may have sent a part of something."""

    def give_up(self) -> str:
        """Close at once; gives the address of the other side, for the log."""


class Unfinished:
    """The sum, and who is in it.

    :param limit: bytes.
    :param counters: of the node.
    :param seconds: monotonic time, in seconds.
    """

    _log = Logger()

    def __init__(self, limit: int, counters: Counters, seconds: Callable[[], float]) -> None:
        self._limit = limit
        self._tally = Tally(seconds, self._tell)
        self._counters = counters
        self._sizes: dict[Sender, int] = {}
        self.total = 0

    def note(self, sender: Sender, size: int) -> bool:
        """A connection holds so many bytes of something that is not whole.

        :return: whether it is in the sum, and has to say when it holds less.
        """
        self.total -= self._sizes.pop(sender, 0)
        if size <= SMALL:
            return False
        self._sizes[sender] = size
        self.total += size
        if self.total > self._limit:
            self._close_some()
        return sender in self._sizes

    def forget(self, sender: Sender) -> None:
        """A connection is gone."""
        self.total -= self._sizes.pop(sender, 0)

    def _close_some(self) -> None:
        for sender in sorted(self._sizes, key=self._sizes.__getitem__, reverse=True):
            size = self._sizes[sender]
            self.forget(sender)
            self._counters.unfinished_closed += 1
            self._tally.note(f"{sender.give_up()}, which had sent {size} bytes")
            if self.total <= self._limit - (self._limit >> 6):
                break

    def _tell(self, count: int, last: str) -> None:
        self._log.warn(
            "connections closed with a command that was not whole: {count}, the last one {last} of"
            " it; all together may hold {limit} bytes of such (NUN_INPUT_TOTAL)",
            count=count,
            last=last,
            limit=self._limit,
        )
