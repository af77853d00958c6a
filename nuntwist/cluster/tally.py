"""Who is for a node and who is against it, in one round of an election.

It wins the round when a majority of the members is for it, of which no log may have lost its end;
or all members, whatever their logs: then nobody is left who could have more. It has lost as soon
as those that are not against it are no majority any more. In between the round is open.
"""

from __future__ import annotations

from collections.abc import Set


class Tally:
    """The answers of one round, those of the node itself included.

    :param me: the id of the node, which is for itself.
    """

    def __init__(self, me: int) -> None:
        self._for = {me}
        self._against: set[int] = set()

    def agrees(self, node: int) -> None:
        """A node is for it."""
        self._for.add(node)

    def refuses(self, node: int) -> None:
        """A node is against it."""
        self._against.add(node)

    @property
    def is_opposed(self) -> bool:
        """Whether anybody is against it."""
        return bool(self._against)

    def is_won(self, members: Set[int], majority: int, doubtful: Set[int]) -> bool:
        """Whether those that are for it elect it.

        :param members: all that elect, by now, and ``majority`` how many of them are enough.
        :param doubtful: those whose log may have lost its end.
        """
        return len(self._for - doubtful) >= majority or self._for >= members

    def is_lost(self, members: Set[int], majority: int) -> bool:
        """Whether too many are against it."""
        return len(members) - len(self._against) < majority
