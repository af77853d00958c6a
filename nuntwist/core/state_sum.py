"""The sum over a state, and what an operation puts in and takes out.

For each entry that is in the log there is a number, from its database, its index, its stamp, its
version, its key and its value, and one for each database, from its id, its name and its strategy;
the sum of them all, modulo 2**64, is the hash of the state. A sum can be kept up to date from what
an operation puts in and takes out, and does not depend on the order in which a state is looked at.
What is not in the log is not in the sum: ``$connections``, tombstones, and the keys of ``$admin``
that list the databases, which follow from the databases themselves.

Of a database the sum has its part, so that it goes in one step when the database is dropped.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from hashlib import blake2b
from struct import Struct
from typing import Final
from zlib import crc32

from nuntwist.core.database import TOKEN_KEY
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

MASK: Final = (1 << 64) - 1
# Odd numbers whose bits are without order (the golden ratio, the roots of 2 and 3).
_BY_INDEX: Final = 0x9E3779B97F4A7C15
_BY_VERSION: Final = 0x6A09E667F3BCC909
_BY_DATABASE: Final = 0xBB67AE8584CAA73B
_DATABASE: Final = Struct(">QI").pack


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
    return entries_sum((op,)) & MASK


def database_hash(number: int, name: bytes, strategy: bytes) -> int:
    """The number of a database."""
    data = _DATABASE(number, len(name)) + name + strategy
    return int.from_bytes(blake2b(data, digest_size=8, person=b"database").digest(), "big")


class StateSum:
    """See the module's header; it begins as the sum of nothing.

    :ivar sum: it, below 2**64.
    """

    def __init__(self) -> None:
        self.sum = 0
        # The part of each database, and what of that is its name.
        self._sums: dict[int, int] = {}
        self._strategies: dict[int, bytes] = {}
        self._named: dict[int, int] = {}

    @property
    def databases(self) -> Collection[int]:
        """The ids of those that are in it."""
        return self._sums.keys()

    def exchange(self, made: Sequence[Op], replaced: Sequence[Op | None], since: int) -> None:
        """Entries of keys come, others go; those that do both do not count.

        :param made: the operations, in the order of the log.
        :param replaced: what each took the place of.
        :param since: the last index that was in the sum before them.
        """
        passed = {op[INDEX] for op in replaced if op is not None and op[INDEX] > since}
        come = [op for op in made if op[VALUE] is not None and op[INDEX] not in passed]
        gone = [
            op
            for op in replaced
            if op is not None and 0 < op[INDEX] <= since and op[VALUE] is not None
        ]
        numbers = {op[DATABASE] for op in made}
        if len(numbers) == 1 and ADMIN_ID not in numbers:
            self._put(numbers.pop(), entries_sum(come) - entries_sum(gone))
            return
        for number in numbers:
            put = [op for op in come if op[DATABASE] == number]
            out = [op for op in gone if op[DATABASE] == number and self._counts(op)]
            self._put(number, entries_sum(put) - entries_sum(out))

    def change(self, op: Op, old: Op | None) -> None:
        """A database comes, goes or is named.

        :param old: the entry of the key of ``$admin`` that has the name.
        """
        kind, number = op[KIND], op[DATABASE]
        if kind == CREATE_DATABASE:
            strategy, _, token = (op[VALUE] or b"none ").partition(b" ")
            self._drop_entry(old)
            self.add_database(number, op[KEY], strategy)
            self._put(number, entry_hash((token, 0, op[INDEX], op[STAMP], SET, number, TOKEN_KEY)))
        elif kind == DROP_DATABASE:
            self._drop_database(number)
        elif kind == NAME_DATABASE:
            self._drop_entry(old)
            if op[VALUE]:
                self._drop_database(int(op[VALUE]))
            if number in self._named:
                named = database_hash(number, op[KEY], self._strategies[number])
                self._put(number, named - self._named[number])
                self._named[number] = named

    def _drop_entry(self, old: Op | None) -> None:
        """The list of databases takes the place of a key of ``$admin``."""
        if old is not None and old[VALUE] is not None and old[INDEX] and self._counts(old):
            self._put(old[DATABASE], -entry_hash(old))

    def _counts(self, op: Op) -> bool:
        # No operation on a key has the index of one that created a database.
        return op[DATABASE] != ADMIN_ID or op[INDEX] not in self._sums

    def add(self, number: int, entries: Sequence[Op]) -> None:
        """Entries of a database that hold values are there."""
        self._put(number, entries_sum(entries))

    def _put(self, number: int, change: int) -> None:
        if number in self._sums:
            self._sums[number] = (self._sums[number] + change) & MASK
            self.sum = (self.sum + change) & MASK

    def add_database(self, number: int, name: bytes, strategy: bytes) -> None:
        """A database is there, without entries."""
        self._sums[number] = 0
        self._strategies[number] = strategy
        self._named[number] = database_hash(number, name, strategy)
        self._put(number, self._named[number])

    def _drop_database(self, number: int) -> None:
        if number in self._sums:
            self.sum = (self.sum - self._sums.pop(number)) & MASK
            del self._strategies[number], self._named[number]
