"""When a node that is in no set makes one of its own.

It waits for one round, so that it hears of a set that is there. Of several nodes that are in no
set, the one with the most complete log, then the one that was started first makes it, and the
others join; a node that has heard of a better one waits for that one, a round at a time, for as
long as their connection lives. With quorum ``majority`` it waits until it sees a majority of the
nodes it was told of, itself included.

Where only some nodes may be primary (a fixed one, say) only these make sets: another one would
make one that nobody can serve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from nuntwist.cluster.greeting import Hello


class Founding:
    """One node's wait.

    :param now: monotonic, in seconds.
    :param round_seconds: how long to wait at least.
    :param told_of: how many nodes the set is to have, itself included, as far as it was told.
    :param majority: whether a majority of these must be there.
    :ivar due: when to look next.
    """

    def __init__(
        self, now: float, round_seconds: float, told_of: int = 1, majority: bool = False
    ) -> None:
        self._round = round_seconds
        self._needed = told_of // 2 + 1 if majority else 1
        self.due = now if told_of <= 1 else now + round_seconds

    def decide(
        self,
        now: float,
        mine: tuple[int, int, int],
        others: Iterable[tuple[int, Hello]],
        may_stand: Callable[[int], bool],
    ) -> bool:
        """Whether to make a set now.

        :param mine: where the log ends, when this node was started, negated, and its id.
        :param others: the nodes it is connected with, each with what it said last.
        :param may_stand: whether a node, by its id, can be a primary.
        """
        if now < self.due:
            return False
        self.due = now + self._round
        others = list(others)
        if 1 + len(others) < self._needed:
            return False
        return may_stand(mine[2]) and not any(
            hello.set_id == 0 and may_stand(node) and _rank(node, hello) > mine
            for node, hello in others
        )


def _rank(node: int, hello: Hello) -> tuple[int, int, int]:
    return hello.position.index, -hello.since, node
