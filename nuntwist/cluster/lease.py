"""For how long a primary may serve.

Each answer of a secondary says when that was *sent* which it answers, on the clock of the primary.
Whoever has answered is loyal for longer than the lease from the moment of the answer, which is
later. So until the lease after the sending of what a majority has answered, the primary itself
counted, no majority can elect another.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

_NEVER: Final = float("-inf")


class Lease:
    """The lease of one reign.

    :param seconds: how long it lasts.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._answered: dict[int, float] = {}

    def note(self, node: int, sent: float) -> None:
        """A secondary has answered what was sent at that time."""
        self._answered[node] = max(self._answered.get(node, _NEVER), sent)

    def until(self, others: Collection[int], needed: int) -> float:
        """When it ends.

        :param others: those that elect, but for the primary.
        :param needed: how many of them make a majority with it.
        """
        if needed == 0:
            return float("inf")
        sent = sorted((self._answered.get(node, _NEVER) for node in others), reverse=True)
        return sent[needed - 1] + self._seconds
