"""Where the logs of others end, as a winner hears of it before it serves.

It waits for those it reaches. Where one has more (which no majority has, so nothing that was
promised) it gives way to that one, so that nothing is cut off there that need not be; but once: the
same log does not stop it again, as that node may be unable to win.
"""

from __future__ import annotations

from collections.abc import Iterable

from nuntwist.values import Position


class Positions:
    """What one node has heard, from one victory to the next."""

    def __init__(self) -> None:
        self._heard: dict[int, Position] = {}
        self._gave_way: dict[int, Position] = {}

    def begin(self) -> None:
        """It has won, and nobody has answered yet."""
        self._heard = {}

    def hear(self, node: int, position: Position, mine: Position) -> bool:
        """A node has said where its log ends.

        :param mine: where the winner's own log ends.
        :return: whether the winner is to give way to it.
        """
        self._heard[node] = position
        if position <= mine or self._gave_way.get(node) == position:
            return False
        self._gave_way[node] = position
        return True

    def has(self, nodes: Iterable[int]) -> bool:
        """Whether all of some have answered."""
        return all(node in self._heard for node in nodes)
