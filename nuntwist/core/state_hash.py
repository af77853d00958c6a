"""A sum over the state, which is the same on every node that has applied the same log.

What is in it is :mod:`nuntwist.core.state_sum`; here it is kept up to date.

Its life::

    nothing ──begin──▶ a view of the state is summed up, in slices ──▶ ready ──▶ checks
                         │ meanwhile operations are noted, as adding has no order
                         └ what it began with has gone back: nothing, begin again

Only what is final is noted: what cannot be taken back any more. It waits here until it has come as
far as the next *check*, an index that a thousand divides, and is then summed up in slices. What
came and went between two sums never counts: of a key that is written a hundred times the first
value that went and the last one that came. A check is the hash of the state right after the
operation of its index.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from nuntwist.core.catalogue import Catalogue
from nuntwist.core.database import SHARDS, Database
from nuntwist.core.state_sum import MASK, StateSum
from nuntwist.core.view import View
from nuntwist.values import ADMIN_ID, INDEX, VALUE, Op

EVERY: Final = 1_000
"""Positions from one check to the next."""
SLICE: Final = 500
"""Entries that are summed up in one go, at most."""
SLICE_BYTES: Final = 1 << 20
"""Bytes of values that are summed up in one go, but for a single larger one."""
MOST_WAITING: Final = 16 * EVERY
"""Operations that wait for being summed up, at most; of more the oldest are at once."""
MOST_BYTES: Final = 8 << 20
"""Bytes of values that they came with or took the place of, at most."""
KEPT: Final = 1_024
"""Checks that wait for being taken, at most; then the oldest go, and are never compared."""

_index_of = itemgetter(INDEX)


@dataclass(frozen=True, slots=True)
class Check:
    """The hash of the state after the operation at an index."""

    index: int
    sum: int


def sum_of(catalogue: Catalogue) -> int:
    """The hash of a whole state, from nothing."""
    state = StateHash()
    for _ in state.begin(catalogue, MASK):
        pass
    return state.sum


def _bytes_in(ops: Sequence[Op | None]) -> int:
    return sum([len(op[VALUE] or b"") for op in ops if op is not None])


class StateHash:
    """The hash of the state of one node.

    :param every: positions from one check to the next.
    :ivar index: the last operation that is in the sum.
    :ivar ready: whether all of the state is in it.
    :ivar began_at: the last operation of the state that it began with.
    """

    def __init__(self, every: int = EVERY) -> None:
        self._every = every
        self.index = 0
        self.ready = False
        self.began_at = 0
        self._next = every
        self._begun = False
        self._sum = StateSum()
        self._views: list[tuple[Database, View]] = []
        # What waits, what each took the place of, and the indexes of what is no plain key.
        self._ops: list[Op] = []
        self._replaced: list[Op | None] = []
        self._lasting: deque[int] = deque()
        self._bytes = 0
        # How large what was noted together is, each with its last index.
        self._sizes: deque[tuple[int, int]] = deque()
        self._checks: deque[Check] = deque(maxlen=KEPT)

    # -- the beginning -----------------------------------------------------------------------

    def begin(self, catalogue: Catalogue, index: int) -> Iterator[None]:
        """Begin with the state as it is now; from now on what comes after is to be noted.

        :param index: the last operation that is applied.
        :return: what does the work, a slice a step, and ends when it is ready, or when there is
            nothing more to do because it was given up.
        """
        self.give_up()
        self._begun = True
        self.index = self.began_at = index
        self._next = (index // self._every + 1) * self._every
        for database in catalogue.by_id.values():
            self._sum.add_database(database.number, database.name, database.strategy)
            self._views.append((database, View(database, index)))
        return self._sum_up(self._views, frozenset(self._sum.databases))

    def give_up(self) -> None:
        """Be nothing again, where something else happens to the state than what is noted."""
        self._close_views()
        self.ready = self._begun = False
        self._bytes = 0
        self._sum = StateSum()
        self._ops.clear()
        self._replaced.clear()
        self._lasting.clear()
        self._sizes.clear()
        self._checks.clear()

    def _close_views(self) -> None:
        views, self._views = self._views, []
        for _, view in views:
            view.close()

    def _sum_up(
        self, views: list[tuple[Database, View]], databases: frozenset[int]
    ) -> Iterator[None]:
        # A list of its own tells whether this is still what was begun last.
        for database, view in views:
            for shard in range(SHARDS):
                entries = view.read(shard)
                if database.number == ADMIN_ID:
                    entries = [op for op in entries if op[INDEX] not in databases]
                at = 0
                while at < len(entries):
                    part = entries[at : at + SLICE]
                    del part[_fitting(part) :]
                    self._sum.add(database.number, part)
                    at += len(part)
                    yield None
                    if views is not self._views:
                        return
            view.close()
        self._views = []
        self.ready = self._begun

    # -- what happens ------------------------------------------------------------------------

    def note(self, ops: Sequence[Op], replaced: Sequence[Op | None]) -> None:
        """Operations on keys are final, in the order of the log; all are to be noted.

        :param replaced: what each took the place of.
        """
        if not self._begun or not ops or ops[-1][INDEX] <= self.began_at:
            # The state it began with has it.
            return
        if ops[0][INDEX] <= self.began_at:
            have = bisect_right(ops, self.began_at, key=_index_of)
            ops, replaced = ops[have:], replaced[have:]
        self._ops += ops
        self._replaced += replaced
        size = _bytes_in(ops) + _bytes_in(replaced)
        self._bytes += size
        self._sizes.append((ops[-1][INDEX], size))
        while len(self._ops) > MOST_WAITING or (self._bytes > MOST_BYTES and self._ops):
            self.step()

    def note_lasting(self, op: Op, old: Op | None) -> None:
        """A database is created, dropped or named, for good.

        :param old: the entry of the key of ``$admin`` that has the name.
        """
        if self._begun and op[INDEX] > self.began_at:
            self._lasting.append(op[INDEX])
            self.note((op,), (old,))

    @property
    def sum(self) -> int:
        """The hash of the state after ``index``."""
        return self._sum.sum

    @property
    def waiting(self) -> int:
        """How many operations were noted and are not in the sum."""
        return len(self._ops)

    @property
    def is_due(self) -> bool:
        """Whether what waits reaches as far as the next check."""
        return bool(self._ops) and self._ops[-1][INDEX] >= self._next

    def step(self) -> None:
        """Sum up a slice of what waits, at most up to the next check."""
        ops = self._ops
        if not ops:
            return
        while ops[0][INDEX] > self._next:
            self._check()
        last = self._next
        if self._lasting:
            # It stands alone.
            first = self._lasting[0]
            last = first if ops[0][INDEX] == first else min(last, first - 1)
        count = bisect_right(ops, last, 0, min(SLICE, len(ops)), key=_index_of)
        made, gone = ops[:count], self._replaced[:count]
        if self._bytes > SLICE_BYTES:
            count = _fitting(made, gone)
            del made[count:], gone[count:]
        del ops[:count], self._replaced[:count]
        if self._lasting and made[0][INDEX] == self._lasting[0]:
            self._lasting.popleft()
            self._sum.change(made[0], gone[0])
        else:
            self._sum.exchange(made, gone, self.index)
        self.index = made[-1][INDEX]
        while self._sizes and self._sizes[0][0] <= self.index:
            self._bytes -= self._sizes.popleft()[1]
        if self.index == self._next:
            self._check()

    # -- checks ------------------------------------------------------------------------------

    def _check(self) -> None:
        if self.ready:
            self._checks.append(Check(self._next, self.sum))
        self._next += self._every

    @property
    def has_checks(self) -> bool:
        """Whether there are checks that were not taken yet."""
        return bool(self._checks)

    def take_checks(self) -> Collection[Check]:
        """Give the checks that were not taken yet, in order."""
        taken = tuple(self._checks)
        self._checks.clear()
        return taken


def _fitting(ops: Sequence[Op], replaced: Sequence[Op | None] = ()) -> int:
    """How many of some operations are summed up in one go: at least one."""
    count = len(ops)
    while count > 1 and _bytes_in(ops[:count]) + _bytes_in(replaced[:count]) > SLICE_BYTES:
        count //= 2
    return count
