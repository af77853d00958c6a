"""One database: its keys, who watches them, and who has selected it.

Keys lie in 64 dictionaries, by hash: one dictionary of a million keys stops the loop for
100 ms when it grows, 64 for under 3 ms.  An entry is the operation that made it (see
:mod:`nuntwist.values`) and is replaced, never changed.  A removed key leaves its REMOVE
operation as a tombstone until that is durable, so that a read of it knows what to wait for.

``store`` is the one way in for any operation on a key; the hot road does the same in place
for keys that do not begin with ``$``, which is all that ``store`` does for those.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nuntwist.core.permissions import Permissions
from nuntwist.errors import CommandError
from nuntwist.heap import permanent_dicts
from nuntwist.values import INDEX, KEY, SET, VALUE, VERSION, Op

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.scan import Scan
    from nuntwist.language.replies import Encoding

SHARDS = 64
MASK = SHARDS - 1

TOKEN_KEY = b"$$token"
USER_PREFIX = b"$$user_"
PERMISSION_PREFIX = b"$$permission_$"
CONNECTIONS_KEY = b"$connections"
CONFLICT_PREFIX = b"$conflicts_"
RESOLVED = b"resolved "
EVERYBODY = b"all"

TOMBSTONE_VERSION = -1
"""The version a REMOVE carries: one more is 0, which is what a key set anew has."""


def is_secret(key: bytes) -> bool:
    """Whether the key's value is a token's hash, which is never shown."""
    return key == TOKEN_KEY or key.startswith(USER_PREFIX)


class Database:
    """The state of one database.

    :param number: its id in the log.
    :param name: what clients call it.
    :param strategy: what a conflict leads to: ``none``, ``newer`` or ``arbiter``.

    :ivar watchers: for each watched key, for each encoding, the clients (a dict as an
        ordered set) that are told of its changes.
    :ivar selected: the clients that have selected it, in order.
    :ivar permissions: parsed permission lists, by user name.
    :ivar conflicts: for each key in resolution, its open conflict keys, oldest first.
    :ivar version_before: for each key in resolution, the version it had before.
    :ivar arbiters: the clients that resolve its conflicts.
    :ivar scans: listings under way, which are told before a key comes or goes.
    :ivar last_index: the index of the last operation on it.
    :ivar saved_index: the index its last snapshot begins at; -1 before the first.
    """

    __slots__ = (
        "arbiters",
        "conflicts",
        "last_index",
        "name",
        "number",
        "permissions",
        "saved_index",
        "scans",
        "selected",
        "shards",
        "strategy",
        "version_before",
        "watchers",
    )

    def __init__(self, number: int, name: bytes, strategy: bytes) -> None:
        self.number = number
        self.name = name
        self.strategy = strategy
        self.shards: list[dict[bytes, Op]] = permanent_dicts(SHARDS)
        self.watchers: dict[bytes, dict[Encoding, dict[Client, None]]] = {}
        self.selected: dict[Client, None] = {}
        self.permissions: dict[bytes, Permissions] = {}
        self.conflicts: dict[bytes, list[bytes]] = {}
        self.version_before: dict[bytes, int] = {}
        self.arbiters: dict[Client, None] = {}
        self.scans: list[Scan] = []
        self.last_index = 0
        self.saved_index = -1

    def find(self, key: bytes) -> Op | None:
        """The entry of a key, or its tombstone, or None."""
        return self.shards[hash(key) & MASK].get(key)

    def value(self, key: bytes) -> bytes | None:
        """What a key holds; None where it holds nothing."""
        entry = self.find(key)
        return None if entry is None else entry[VALUE]

    def store(self, op: Op) -> Op | None:
        """Make an operation on a key the entry of that key.

        :return: the entry (or tombstone) it takes the place of.
        """
        key = op[KEY]
        shard_number = hash(key) & MASK
        shard = self.shards[shard_number]
        old = shard.get(key)
        if self.scans and (old is None or (old[VALUE] is None) != (op[VALUE] is None)):
            self.before_change(shard_number)
        shard[key] = op
        if op[INDEX] > self.last_index:
            self.last_index = op[INDEX]
        if key.startswith(b"$"):
            self._note_special(key, op)
        if op[VERSION] == -2 and old is not None and old[VERSION] >= 0:
            self.version_before[key] = old[VERSION]
        return old

    def restore(self, key: bytes, old: Op | None) -> None:
        """Put back what an operation took the place of (its log write failed)."""
        shard_number = hash(key) & MASK
        if self.scans:
            self.before_change(shard_number)
        if old is None:
            del self.shards[shard_number][key]
        else:
            self.shards[shard_number][key] = old
        if key.startswith(b"$"):
            self._note_special(key, old)

    def purge(self, tombstone: Op) -> None:
        """Forget a tombstone whose operation is durable, unless the key lives again."""
        shard = self.shards[hash(tombstone[KEY]) & MASK]
        if shard.get(tombstone[KEY]) is tombstone:
            del shard[tombstone[KEY]]

    def entries(self, shard_number: int) -> list[Op]:
        """The logged entries of one shard, as they are now (what a snapshot keeps)."""
        return [
            op
            for op in self.shards[shard_number].values()
            if op[VALUE] is not None and op[INDEX] > 0
        ]

    def visible_keys(self, hidden: bool) -> Iterator[bytes]:
        """All keys, unsorted; those that begin with ``$$`` only where ``hidden``."""
        for shard in self.shards:
            yield from visible(shard, hidden)

    def key_count(self) -> int:
        """How many entries there are, tombstones included."""
        return sum(map(len, self.shards))

    def user_token(self, user: bytes | None) -> bytes | None:
        """The stored hash that a user's token (or, for None, the database's) is checked with."""
        return self.value(TOKEN_KEY if user is None else USER_PREFIX + user)

    def before_change(self, shard_number: int) -> None:
        """Let the listings under way copy a shard from which keys are to come or go."""
        for scan in self.scans:
            scan.take(shard_number)

    def _note_special(self, key: bytes, op: Op | None) -> None:
        value = None if op is None else op[VALUE]
        if key.startswith(PERMISSION_PREFIX):
            self._note_permissions(key[len(PERMISSION_PREFIX) :], value)
        elif key.startswith(CONFLICT_PREFIX):
            self._note_conflict(key, value)

    def _note_permissions(self, user: bytes, value: bytes | None) -> None:
        self.permissions.pop(user, None)
        if value is None:
            return
        try:
            self.permissions[user] = Permissions(value)
        except CommandError:
            # A list that was written past the parser (a plain set in an older log) gives
            # nobody anything: the safe reading of what cannot be read.
            self.permissions[user] = Permissions()

    def _note_conflict(self, key: bytes, value: bytes | None) -> None:
        about = key[len(CONFLICT_PREFIX) :].rpartition(b"_")[0]
        pending = self.conflicts.setdefault(about, [])
        if key in pending:
            pending.remove(key)
        if value is not None and not value.startswith(RESOLVED):
            pending.append(key)
        if not pending:
            del self.conflicts[about]


def visible(shard: dict[bytes, Op], hidden: bool) -> list[bytes]:
    """The keys of one shard that hold a value; those beginning ``$$`` only where ``hidden``."""
    return [
        key
        for key, op in shard.items()
        if op[VALUE] is not None and (hidden or not key.startswith(b"$$"))
    ]


def local_entry(database: Database, key: bytes, value: bytes, version: int) -> Op:
    """An entry that lives on this node only: it is not logged and not replicated."""
    return (value, version, 0, 0, SET, database.number, key)
