"""What a majority has: the commit index of one reign.

An index is committed when a majority of the members has it on the disk and it is of the
primary's own epoch; everything before it is committed with it. An operation of an earlier epoch
is not safe by being counted: another node could still win without it (Ongaro and Ousterhout,
2014, section 5.4.2). That is why a primary begins with an operation of its own.
"""

from __future__ import annotations

from collections.abc import Collection


class Commits:
    """Counts for one primary.

    :param me: its id.
    :param members: all that count, itself included.
    :param begins: the index of the first operation of its epoch.
    :ivar index: up to which all is committed, as far as is known here.
    """

    def __init__(self, me: int, members: Collection[int], begins: int) -> None:
        self._me = me
        self._begins = begins
        self._durable: dict[int, int] = {}
        self.index = 0
        self.reconfigure(members)

    def reconfigure(self, members: Collection[int]) -> bool:
        """Others count from now on.

        :return: whether more is committed by that.
        """
        self._members = tuple(sorted(members))
        return self._advance()

    def note(self, node: int, durable: int) -> bool:
        """A member has the log on its disk up to an index.

        :return: whether more is committed by that.
        """
        if durable <= self._durable.get(node, 0):
            return False
        self._durable[node] = durable
        return self._advance()

    def forget(self, node: int) -> None:
        """What a member has acknowledged counts no more; what is committed stays."""
        self._durable.pop(node, None)

    def _advance(self) -> bool:
        reached = self.held_by(len(self._members) // 2 + 1)
        if reached < self._begins or reached <= self.index:
            return False
        self.index = reached
        return True

    def held_by(self, count: int) -> int:
        """The index up to which so many members have the log; 0 for more than there are."""
        if count > len(self._members):
            return 0
        held = sorted((self._durable.get(node, 0) for node in self._members), reverse=True)
        return held[count - 1]
