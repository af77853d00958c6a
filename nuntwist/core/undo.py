"""What of the log may still go: the operations that no majority is known to have.

A node in a set may have operations that the set never keeps: it was the primary, was cut off,
and another one was elected meanwhile. So every batch stays here with what its operations took
the place of, from when it is durable until it is known to be committed, and can be taken back::

    made ──> in flight (journal) ──durable──> kept here ──committed──> dropped
                                                  └──cut──> taken back, the newest first

Some operations cannot be taken back, and nothing before them then: databases that came, went or
were named, what a snapshot of this node holds, and what is more than may be kept. ``floor`` is
the last of them. A node whose tail begins before it needs a copy of all.

A node alone keeps nothing: its journal has no such object.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from nuntwist.errors import NeedsCopy
from nuntwist.values import (
    CREATE_DATABASE,
    DATABASE,
    DROP_DATABASE,
    INDEX,
    KEY,
    KIND,
    NAME_DATABASE,
    REMOVE,
    SET,
    Op,
)

if TYPE_CHECKING:
    from nuntwist.core.catalogue import Catalogue

REPLAYED = 500
"""Operations of a log that is replayed that are kept together."""

_LASTING = {CREATE_DATABASE: "created", DROP_DATABASE: "dropped", NAME_DATABASE: "named"}


class Batch:
    """Operations given to the log together, or followed together.

    :ivar replaced: what each took the place of.
    """

    __slots__ = ("ops", "replaced")

    def __init__(self, ops: list[Op], replaced: list[Op | None]) -> None:
        self.ops = ops
        self.replaced = replaced


def _nothing() -> None:
    """Nobody has to be told."""


class Finals(Protocol):
    """Who is told of what cannot be taken back any more; see
    :class:`nuntwist.core.hashing.Hashing`."""

    def final(self, ops: Sequence[Op], replaced: Sequence[Op | None]) -> None:
        """Operations on keys cannot, in the order of the log."""

    def lasting(self, op: Op, old: Op | None) -> None:
        """A database was created, dropped or named, in the same order.

        :param old: the entry of the key of ``$admin`` that has the name.
        """

    def gone_back(self, index: int) -> None:
        """What came after an index was taken back, nothing of which was final."""

    def started_over(self) -> None:
        """The state has become another one."""


class Undo:
    """The batches of a node in a set that are durable and not committed.

    :param durable: where the log ends, and all of it is durable.
    :param limit: operations that are kept at most; older ones cannot be taken back then.
    :ivar durable: the last index that is durable here.
    :ivar committed: the highest index that a majority is known to have.
    :ivar by_commit: whether clients are told only of what is committed.
    :ivar grown: called when more is durable here.
    :ivar finals: is told of what is kept no longer because it stays; None for nobody.
    :ivar floor: no operation up to this index can be taken back.
    """

    def __init__(self, durable: int, limit: int) -> None:
        self.durable = durable
        self.committed = 0
        self.by_commit = False
        self.grown: Callable[[], None] = _nothing
        self.finals: Finals | None = None
        self._limit = limit
        self._batches: deque[Batch] = deque()
        self._count = 0
        self.begin_at(durable, "this node keeps nothing of it")

    def begin_anew(self) -> None:
        """The node comes into another set: what was committed in the one before is not committed
        there, and is not kept here any more."""
        if self.committed > self.floor:
            self.begin_at(self.committed, "they were committed in another set")
        self.committed = 0

    def begin_at(self, index: int, why: str) -> None:
        """Nothing up to an index can be taken back, for a reason that is told; what comes after
        it can, if it is kept from now on."""
        self.floor, self._why = index, why

    def start_over(self, index: int, why: str) -> None:
        """The state is another one, which a copy has brought: all up to an index, all of it
        durable. Nothing of it can be taken back, nor is anything known to be committed."""
        self._batches.clear()
        self._count = 0
        self.durable = index
        self.committed = 0
        self.begin_at(index, why)
        if self.finals is not None:
            self.finals.started_over()

    def gone_back(self, index: int) -> None:
        """What came after an index was taken back."""
        if self.finals is not None:
            self.finals.gone_back(index)

    def _rise_to(self, index: int, why: str) -> None:
        if index > self.floor:
            self.begin_at(index, why)
            self._forget_to(index)

    def _forget_to(self, index: int) -> None:
        while self._batches and self._batches[0].ops[-1][INDEX] <= index:
            batch = self._batches.popleft()
            self._count -= len(batch.ops)
            self._is_final(batch)

    def _is_final(self, batch: Batch) -> None:
        if self.finals is not None:
            self.finals.final(batch.ops, batch.replaced)

    @property
    def count(self) -> int:
        """How many operations are kept."""
        return self._count

    @property
    def visible(self) -> int:
        """The last index that clients may know of."""
        return self.settled if self.by_commit else self.durable

    @property
    def settled(self) -> int:
        """The last index that is both durable here and committed."""
        return min(self.durable, self.committed)

    def keep(self, batch: Batch) -> None:
        """Take a durable batch; the next by index."""
        last = batch.ops[-1][INDEX]
        if last <= self.committed or last <= self.floor:
            self._is_final(batch)
            return
        self._batches.append(batch)
        self._count += len(batch.ops)
        self._let_go_over_limit()

    def _let_go_over_limit(self) -> None:
        while self._count > self._limit:
            oldest = self._batches[0].ops[-1][INDEX]
            self._rise_to(oldest, f"no more than {self._limit} operations are kept")

    def keep_replayed(self, op: Op, catalogue: Catalogue) -> None:
        """Take an operation that was found in the log, right before it is applied again."""
        database = catalogue.by_id.get(op[DATABASE])
        if op[KIND] not in (SET, REMOVE):
            self.note_lasting(op)
        elif database is not None and op[INDEX] > self.floor:
            if not self._batches or len(self._batches[-1].ops) >= REPLAYED:
                # Before the next is begun, as the last one may not go.
                self._let_go_over_limit()
                self._batches.append(Batch([], []))
            self._batches[-1].ops.append(op)
            self._batches[-1].replaced.append(database.find(op[KEY]))
            self._count += 1

    def keep_alone(self, ops: Sequence[Op], catalogue: Catalogue) -> None:
        """Take operations that were logged alone, right before they are applied."""
        batch = Batch([], [])
        for op in ops:
            database = catalogue.by_id.get(op[DATABASE])
            if op[KIND] in _LASTING:
                if batch.ops:
                    self.keep(batch)
                    batch = Batch([], [])
                self.note_lasting(op)
                if self.finals is not None:
                    self.finals.lasting(op, catalogue.admin.find(op[KEY]))
            elif op[KIND] in (SET, REMOVE) and database is not None:
                batch.ops.append(op)
                batch.replaced.append(database.find(op[KEY]))
        if batch.ops:
            self.keep(batch)

    def note_lasting(self, op: Op) -> None:
        """Take note of an operation, if it is one that cannot be taken back."""
        done = _LASTING.get(op[KIND])
        if done is not None:
            self._rise_to(op[INDEX], f"a database was {done} by operation {op[INDEX]}")

    def commit(self, index: int) -> None:
        """A majority has all up to an index: that stays."""
        self.committed = max(self.committed, index)
        self._forget_to(self.committed)

    def check(self, index: int) -> None:
        """Make sure that all after an index can be taken back.

        :raise NeedsCopy: it cannot.
        """
        if index < self.committed:
            raise NeedsCopy(f"all up to operation {self.committed} is known to be committed")
        if index < self.floor:
            raise NeedsCopy(
                f"the operations from {index + 1} to {self.floor} cannot be taken back: {self._why}"
            )

    def after(self, index: int) -> Iterator[tuple[Op, Op | None]]:
        """Give the kept operations after an index, with what each took the place of, the newest
        first; they are not kept any more."""
        while self._batches and self._batches[-1].ops[-1][INDEX] > index:
            batch = self._batches[-1]
            for op, old in taken_from(batch, index):
                self._count -= 1
                yield op, old
            if not batch.ops:
                self._batches.pop()


def taken_from(batch: Batch, index: int) -> Iterator[tuple[Op, Op | None]]:
    """Take the operations after an index out of a batch, the newest first."""
    while batch.ops and batch.ops[-1][INDEX] > index:
        yield batch.ops.pop(), batch.replaced.pop()
