"""A sum over the state, which is the same on every node that has applied the same log.

For each entry that is in the log there is a number of 64 bits, from its database, its index, its
stamp, its version, its key and its value, and one for each database, from its id, its name and
its strategy; the sum of them all, modulo 2**64, is the hash of the state. A sum can be kept up to
date from what an operation puts in and takes out, and does not depend on the order in which a
state is looked at. What is not in the log is not in the sum: ``$connections``, tombstones, and the
keys of ``$admin`` that list the databases, which follow from the databases themselves.

Its life::

    nothing ──begin──▶ a view of the state is summed up, in slices ──▶ ready ──▶ checks
                         │ meanwhile operations are noted, as adding has no order
                         └ something was taken back: nothing, begin again

While it is ready there is a *check* at each index that a thousand divides: the hash of the state
as it was right after that operation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import repeat
from struct import Struct
from typing import Final

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
    REMOVE,
    SET,
    STAMP,
    VALUE,
    VERSION,
    Op,
)

EVERY: Final = 1_000
"""Positions from one check to the next."""
SLICE: Final = 1_000
"""Entries that are summed up in one go."""
KEPT: Final = 1_024
"""Checks that wait for being taken, at most; then the oldest go, and are never compared."""

_NO_END: Final = 1 << 63
_MASK: Final = (1 << 64) - 1
_ENTRY: Final = Struct(">QQQqI").pack
_DATABASE: Final = Struct(">QI").pack


@dataclass(frozen=True, slots=True)
class Check:
    """The hash of the state after the operation at an index."""

    index: int
    sum: int


def entry_hash(op: Op) -> int:
    """The number of an entry that holds a value."""
    key = op[KEY]
    head = _ENTRY(op[DATABASE], op[INDEX], op[STAMP], op[VERSION], len(key))
    data = head + key + (op[VALUE] or b"")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def database_hash(number: int, name: bytes, strategy: bytes) -> int:
    """The number of a database."""
    data = _DATABASE(number, len(name)) + name + strategy
    return int.from_bytes(blake2b(data, digest_size=8, person=b"database").digest(), "big")


def sum_of(catalogue: Catalogue) -> int:
    """The hash of a whole state, from nothing."""
    state = StateHash()
    for _ in state.begin(catalogue, _NO_END):
        pass
    return state.sum


class StateHash:
    """The hash of the state of one node.

    :param every: positions from one check to the next.
    :ivar index: the last operation that is in it.
    :ivar ready: whether all of the state is in it.
    :ivar sum: it.
    """

    def __init__(self, every: int = EVERY) -> None:
        self._every = every
        self.index = 0
        self.ready = False
        self.sum = 0
        self._began_at = 0
        self._next = every
        self._begun = False
        # The part of each database, and what of that is its name.
        self._sums: dict[int, int] = {}
        self._strategies: dict[int, bytes] = {}
        self._named: dict[int, int] = {}
        self._views: list[tuple[Database, View]] = []
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
        self.index = self._began_at = index
        self._next = (index // self._every + 1) * self._every
        for database in catalogue.by_id.values():
            self._add_database(database.number, database.name, database.strategy)
            self._views.append((database, View(database, index)))
        return self._sum_up(self._views, frozenset(self._sums))

    def give_up(self) -> None:
        """Be nothing again, where something else happens to the state than what is noted."""
        self._close_views()
        self.ready = self._begun = False
        self.sum = 0
        self._sums.clear()
        self._strategies.clear()
        self._named.clear()
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
                for at in range(0, len(entries), SLICE):
                    part = 0
                    for op in entries[at : at + SLICE]:
                        if database.number != ADMIN_ID or op[INDEX] not in databases:
                            part += entry_hash(op)
                    self._add(database.number, part)
                    yield None
                    if views is not self._views:
                        return
            view.close()
        self._views = []
        self.ready = self._begun

    # -- what happens ------------------------------------------------------------------------

    def note(self, ops: Sequence[Op], replaced: Iterable[Op | None] = repeat(None)) -> None:
        """Operations were made, in the order of the log; all are to be noted.

        :param replaced: what each took the place of: the entry of the key; of the key of
            ``$admin`` that has the name, where a database is created or named.
        """
        if not self._begun:
            return
        for op, old in zip(ops, replaced, strict=False):
            index = op[INDEX]
            if index <= self.index:
                # The state it began with has it.
                continue
            while index > self._next:
                self._check()
            self._move(op, old)
            self.index = index
            if index == self._next:
                self._check()

    def _move(self, op: Op, old: Op | None) -> None:
        kind, number = op[KIND], op[DATABASE]
        if kind in (SET, REMOVE):
            self._exchange(op, old)
        elif kind == CREATE_DATABASE:
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

    def _exchange(self, new: Op | None, old: Op | None) -> None:
        """One entry comes, another one goes."""
        number = (new or old or _NO_OP)[DATABASE]
        if number not in self._sums:
            return
        change = 0
        if new is not None and new[VALUE] is not None:
            change = entry_hash(new)
        if old is not None and self._counts(old):
            change -= entry_hash(old)
        self._add(number, change)

    def _drop_entry(self, old: Op | None) -> None:
        """The list of databases takes the place of a key of ``$admin``."""
        if old is not None:
            self._exchange(None, old)

    def _counts(self, op: Op) -> bool:
        if op[VALUE] is None or op[INDEX] == 0:
            return False
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

    def take_back(self, op: Op, old: Op | None) -> None:
        """An operation on a key, the last one that was noted, is undone.

        :param old: what is in its place again.
        """
        if not self.ready or op[INDEX] <= self._began_at:
            # What is summed up has it, or will have it.
            self.give_up()
            return
        if op[INDEX] > self.index:
            return
        self._exchange(None, op)
        if old is not None and self._counts(old):
            self._add(old[DATABASE], entry_hash(old))
        self.went_back(op[INDEX] - 1)

    def went_back(self, index: int) -> None:
        """Nothing after an index is applied any more."""
        if not self._begun:
            return
        if index < self._began_at:
            self.give_up()
            return
        self.index = min(self.index, index)
        while self._checks and self._checks[-1].index > index:
            self._checks.pop()
        self._next = min(self._next, (index // self._every + 1) * self._every)

    # -- checks ------------------------------------------------------------------------------

    def _check(self) -> None:
        if self.ready:
            self._checks.append(Check(self._next, self.sum))
        self._next += self._every

    def take_checks(self, index: int) -> list[Check]:
        """Give the checks up to an index that were not taken yet, in order.

        :param index: of what nothing can be taken back: what is committed.
        """
        taken = []
        while self._checks and self._checks[0].index <= index:
            taken.append(self._checks.popleft())
        return taken


_NO_OP: Final[Op] = (None, 0, 0, 0, 0, -1, b"")
