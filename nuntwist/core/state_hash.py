"""A sum over the state, which is the same on every node that has applied the same log.

For each entry that is in the log there is a number, from its database, its index, its stamp, its
version, its key and its value, and one for each database, from its id, its name and its strategy;
the sum of them all, modulo 2**64, is the hash of the state. A sum can be kept up to date from what
an operation puts in and takes out, and does not depend on the order in which a state is looked at.
What is not in the log is not in the sum: ``$connections``, tombstones, and the keys of ``$admin``
that list the databases, which follow from the databases themselves.

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
from hashlib import blake2b
from operator import itemgetter
from struct import Struct
from typing import Final
from zlib import crc32

from nuntwist.core.catalogue import Catalogue
from nuntwist.core.database import SHARDS, TOKEN_KEY, Database
from nuntwist.core.view import View
from nuntwist.values import (
    ADMIN_ID,
    CREATE_DATABASE,
    DATABASE,
    DROP_DATABASE,
    INDEX,
    KEY,
    KIND,
    NAME_DATABASE,
    SET,
    STAMP,
    VALUE,
    Op,
)

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

_MASK: Final = (1 << 64) - 1
# Odd numbers whose bits are without order (the golden ratio, the roots of 2 and 3).
_BY_INDEX: Final = 0x9E3779B97F4A7C15
_BY_VERSION: Final = 0x6A09E667F3BCC909
_BY_DATABASE: Final = 0xBB67AE8584CAA73B
_DATABASE: Final = Struct(">QI").pack
_index_of = itemgetter(INDEX)


@dataclass(frozen=True, slots=True)
class Check:
    """The hash of the state after the operation at an index."""

    index: int
    sum: int


def entries_sum(ops: Sequence[Op]) -> int:
    """The sum of entries that hold values; not reduced.

    Here a node of a set spends what the hash costs, so it is one expression. The checksum finds
    what happens to bytes by accident; it is multiplied, so that what is exchanged between two
    entries does not add up to the same.
    """
    return sum(
        [
            (2 * crc32(value or b"", crc32(key, len(key))) + 1)
            * ((index * _BY_INDEX ^ stamp) + version * _BY_VERSION + database * _BY_DATABASE)
            for value, version, index, stamp, _, database, key in ops
        ]
    )


def entry_hash(op: Op) -> int:
    """The number of an entry that holds a value."""
    return entries_sum((op,)) & _MASK


def database_hash(number: int, name: bytes, strategy: bytes) -> int:
    """The number of a database."""
    data = _DATABASE(number, len(name)) + name + strategy
    return int.from_bytes(blake2b(data, digest_size=8, person=b"database").digest(), "big")


def sum_of(catalogue: Catalogue) -> int:
    """The hash of a whole state, from nothing."""
    state = StateHash()
    for _ in state.begin(catalogue, _MASK):
        pass
    return state.sum


def _bytes_in(ops: Sequence[Op | None]) -> int:
    return sum([len(op[VALUE] or b"") for op in ops if op is not None])


class StateHash:
    """The hash of the state of one node.

    :param every: positions from one check to the next.
    :ivar index: the last operation that is in the sum.
    :ivar ready: whether all of the state is in it.
    :ivar sum: it.
    :ivar began_at: the last operation of the state that it began with.
    """

    def __init__(self, every: int = EVERY) -> None:
        self._every = every
        self.index = 0
        self.ready = False
        self.sum = 0
        self.began_at = 0
        self._next = every
        self._begun = False
        # The part of each database, and what of that is its name.
        self._sums: dict[int, int] = {}
        self._strategies: dict[int, bytes] = {}
        self._named: dict[int, int] = {}
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
            self._add_database(database.number, database.name, database.strategy)
            self._views.append((database, View(database, index)))
        return self._sum_up(self._views, frozenset(self._sums))

    def give_up(self) -> None:
        """Be nothing again, where something else happens to the state than what is noted."""
        self._close_views()
        self.ready = self._begun = False
        self.sum = self._bytes = 0
        self._sums.clear()
        self._strategies.clear()
        self._named.clear()
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
                    self._add(database.number, entries_sum(part))
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
            self._change(made[0], gone[0])
        else:
            self._exchange(made, gone)
        self.index = made[-1][INDEX]
        while self._sizes and self._sizes[0][0] <= self.index:
            self._bytes -= self._sizes.popleft()[1]
        if self.index == self._next:
            self._check()

    def _exchange(self, made: Sequence[Op], replaced: Sequence[Op | None]) -> None:
        """Entries of keys come, others go; those that do both do not count."""
        since = self.index
        passed = {op[INDEX] for op in replaced if op is not None and op[INDEX] > since}
        come = [op for op in made if op[VALUE] is not None and op[INDEX] not in passed]
        gone = [
            op
            for op in replaced
            if op is not None and 0 < op[INDEX] <= since and op[VALUE] is not None
        ]
        numbers = {op[DATABASE] for op in made}
        if len(numbers) == 1 and ADMIN_ID not in numbers:
            self._add(numbers.pop(), entries_sum(come) - entries_sum(gone))
            return
        for number in numbers:
            put = [op for op in come if op[DATABASE] == number]
            out = [op for op in gone if op[DATABASE] == number and self._counts(op)]
            self._add(number, entries_sum(put) - entries_sum(out))

    def _change(self, op: Op, old: Op | None) -> None:
        """A database comes, goes or is named."""
        kind, number = op[KIND], op[DATABASE]
        if kind == CREATE_DATABASE:
            strategy, _, token = (op[VALUE] or b"none ").partition(b" ")
            self._drop_entry(old)
            self._add_database(number, op[KEY], strategy)
            self._add(number, entry_hash((token, 0, op[INDEX], op[STAMP], SET, number, TOKEN_KEY)))
        elif kind == DROP_DATABASE:
            self._drop_database(number)
        elif kind == NAME_DATABASE:
            self._drop_entry(old)
            if op[VALUE]:
                self._drop_database(int(op[VALUE]))
            if number in self._named:
                named = database_hash(number, op[KEY], self._strategies[number])
                self._add(number, named - self._named[number])
                self._named[number] = named

    def _drop_entry(self, old: Op | None) -> None:
        """The list of databases takes the place of a key of ``$admin``."""
        if old is not None and old[VALUE] is not None and old[INDEX] and self._counts(old):
            self._add(old[DATABASE], -entry_hash(old))

    def _counts(self, op: Op) -> bool:
        # No operation on a key has the index of one that created a database.
        return op[DATABASE] != ADMIN_ID or op[INDEX] not in self._sums

    def _add(self, number: int, change: int) -> None:
        if number in self._sums:
            self._sums[number] = (self._sums[number] + change) & _MASK
            self.sum = (self.sum + change) & _MASK

    def _add_database(self, number: int, name: bytes, strategy: bytes) -> None:
        self._sums[number] = 0
        self._strategies[number] = strategy
        self._named[number] = database_hash(number, name, strategy)
        self._add(number, self._named[number])

    def _drop_database(self, number: int) -> None:
        if number in self._sums:
            self.sum = (self.sum - self._sums.pop(number)) & _MASK
            del self._strategies[number], self._named[number]

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
