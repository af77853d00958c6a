"""What a node tells of its election: each transition, in the log and for ``debug elections``.

A line says what has changed and why, in which epoch, and of which rank this node is: where its
log ends, ``EPOCH:INDEX``, and since when it runs. Where another node is the reason and has said its
rank, that stands there, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from twisted.logger import Logger

from nuntwist.addresses import in_short
from nuntwist.cluster.ballots import Rank
from nuntwist.cluster.effects import Turned

ELECTIONS: Final = 100
"""How many transitions ``debug elections`` shows."""


class Diary:
    """The transitions of one node.

    :param now: wall time by the monotonic clock, in seconds since 1970.
    :param address_of: gives the address of a node.
    :ivar lines: the last ones.
    """

    _log = Logger()

    def __init__(self, now: Callable[[], float], address_of: Callable[[int], str | None]) -> None:
        self.lines: deque[str] = deque(maxlen=ELECTIONS)
        self._now = now
        self._address_of = address_of

    def note(self, turned: Turned, rank: Rank) -> None:
        """Something has changed.

        :param rank: of this node.
        """
        other = turned.other
        told = "" if other is None else f", {self._named(other.node)} {_words(other)}"
        line = (
            f"{turned.before.name} -> {turned.after.name}, as {turned.event.value}; epoch"
            f" {turned.number}, {_words(rank)}{told}"
        )
        self.lines.append(f"{self._now():.3f} {line}")
        self._log.info("election: {line}", line=line)

    def _named(self, node: int) -> str:
        return in_short(self._address_of(node) or f"{node:016x}")


def _words(rank: Rank) -> str:
    epoch, index = rank.position.epoch.number, rank.position.index
    # Whatever another says must not end in an error here.
    since = min(max(0.0, -rank.seniority / 1000.0), _LATEST)
    runs = datetime.fromtimestamp(since, UTC).isoformat(timespec="milliseconds")
    return f"log ends at {epoch}:{index}, runs since {runs}"


_LATEST: Final = 253_402_300_799.0
"""The end of the year 9999, in seconds since 1970."""
