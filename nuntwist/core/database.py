"""One database: its keys, who watches them, and who has selected it.

Keys lie in 64 dictionaries, by hash: one dictionary of a million keys stops the loop for
100 ms when it grows, 64 for under 3 ms.  An entry is the operation that made it (see
:mod:`nuntwist.values`) and is replaced, never changed.  A removed key leaves its REMOVE
operation as a tombstone until that is durable, so that a read of it knows what to wait for.

``store`` is the one way in for any operation on a key; the hot road does the same in place
for keys that do not begin with ``$``, which is all that ``store`` does for those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING
from zlib import crc32

from nuntwist.core.concern import Concern, parse_concern
from nuntwist.core.permissions import Permissions
from nuntwist.errors import CommandError
from nuntwist.heap import permanent_dicts
from nuntwist.values import ADMIN_ID, INDEX, KEY, SET, STAMP, VALUE, Op

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.quota import Usage
    from nuntwist.core.scan import Scan
    from nuntwist.core.view import View
    from nuntwist.language.replies import Encoding

SHARDS = 64
MASK = SHARDS - 1

TOKEN_KEY = b"$$token"
USER_PREFIX = b"$$user_"
PERMISSION_PREFIX = b"$$permission_$"
SIGNED_OUT_PREFIX = b"$$signed_out_"
"""What keys begin with that, when they are set, let those go who have selected the database as the
user whose name follows; with its own token where none does."""
SIGNING_KEYS = b"$$signing_keys"
"""The keys that signed tokens are checked with: a JWK set, sealed where it holds a secret."""
CONNECTIONS_KEY = b"$connections"
CONFLICT_PREFIX = b"$conflicts_"
CONCERN_KEY = b"$$write_concern"
"""Its write concern, if it has one of its own."""
RESOLVED = b"resolved "
EVERYBODY = b"all"
SIGNED = b"jwt"
"""In the place of a user: whoever has come with a signed token."""
NO_USERS = frozenset((EVERYBODY, SIGNED))
"""Names that no user can have, as they mean something else."""
FORWARDED_PREFIX = b"$$forwarded_"
"""What keys of ``$admin`` begin with that tell of forwarded writes."""
DIVERGENT_PREFIX = b"$$divergent_"
"""What keys of ``$admin`` begin with that tell how far operations that were cut off are decided."""
MARKERS = (FORWARDED_PREFIX, DIVERGENT_PREFIX)
"""They come with most records of a set."""
MEMBERS_KEY = b"$$members"
"""The key of ``$admin`` that holds who is in the set."""
SERVERS_OWN = (*MARKERS, MEMBERS_KEY)
"""What keys of ``$admin`` begin with that only the server writes: they mean nothing elsewhere."""

TOMBSTONE_VERSION = -1
"""The version a REMOVE carries: one more is 0, which is what a key set anew has."""


def is_secret(key: bytes) -> bool:
    """Whether the key's value is a token's hash or keys of signed tokens, which is never shown."""
    return key in (TOKEN_KEY, SIGNING_KEYS) or key.startswith(USER_PREFIX)


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
    :ivar resolved: conflict keys whose conflict is settled, until they are cleaned away.
    :ivar arbiters: the clients of this node that resolve its conflicts.
    :ivar on_arbiters: is called with itself and a client when that is one of them now, is none
        any more, or has other rights.
    :ivar on_conflicts: is called with itself, a key whose open conflicts are others, and the one
        that has come or gone.
    :ivar concern: its write concern, where it has one of its own.
    :ivar usage: how much it holds, where that is counted.
    :ivar scans: what looks at it as it was at one moment, and is told before it changes.
    :ivar last_index: the index of the last operation on it.
    :ivar saved_index: the index its last snapshot begins at; -1 before the first.
    :ivar saved_stamp: when that was; 0 where it is not known.
    :ivar removed_stamp: when a key was removed last, as far as is known.
    :ivar selected_at: wall time in seconds when it was selected last; 0 for never since the start.
    :ivar partitions: into how many that snapshot is split.
    :ivar removed_from: those from which keys have gone since; what has come or changed tells
        so by its index.
    """

    __slots__ = (
        "arbiters",
        "concern",
        "conflicts",
        "last_index",
        "name",
        "number",
        "on_arbiters",
        "on_conflicts",
        "partitions",
        "permissions",
        "removed_from",
        "removed_stamp",
        "resolved",
        "saved_index",
        "saved_stamp",
        "scans",
        "selected",
        "selected_at",
        "shards",
        "strategy",
        "usage",
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
        self.resolved: dict[bytes, None] = {}
        self.arbiters: dict[Client, None] = {}
        self.on_arbiters: Callable[[Database, Client], None] = _nobody_asks
        self.on_conflicts: Callable[[Database, bytes, bytes], None] = _nobody_asks
        self.scans: list[Scan | View] = []
        self.concern: Concern | None = None
        self.usage: Usage | None = None
        self.last_index = 0
        self.saved_index = -1
        self.saved_stamp = 0
        self.removed_stamp = 0
        self.selected_at = 0.0
        self.partitions = 1
        self.removed_from: set[int] = set()

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
        if self.scans:
            comes_or_goes = old is None or (old[VALUE] is None) != (op[VALUE] is None)
            for scan in self.scans:
                scan.note(shard_number, old, comes_or_goes)
        shard[key] = op
        if self.usage is not None:
            self.usage.note(old, op)
        if op[INDEX] > self.last_index:
            self.last_index = op[INDEX]
        if key.startswith(b"$"):
            self._note_special(key, op)
        return old

    def restore(self, key: bytes, old: Op | None) -> None:
        """Put back what an operation took the place of (its log write failed)."""
        shard_number = hash(key) & MASK
        for scan in self.scans:
            scan.note_return(shard_number, old)
        if self.usage is not None:
            self.usage.note(self.shards[shard_number].get(key), old)
        if old is None:
            # A removal that was taken back may be forgotten already.
            self.shards[shard_number].pop(key, None)
        else:
            self.shards[shard_number][key] = old
        if key.startswith(b"$"):
            self._note_special(key, old)
            for pending in self.conflicts.values():
                pending.sort(key=self._age)

    def purge(self, tombstone: Op) -> None:
        """Forget a tombstone whose operation is durable, unless the key lives again."""
        shard = self.shards[hash(tombstone[KEY]) & MASK]
        if shard.get(tombstone[KEY]) is tombstone:
            del shard[tombstone[KEY]]
            self.removed_from.add(partition_of(tombstone[KEY], self.partitions))
            self.removed_stamp = max(self.removed_stamp, tombstone[STAMP])

    def forget(self, key: bytes) -> None:
        """Take out an entry that no operation on the key has removed."""
        self.restore(key, None)
        self.removed_from.add(partition_of(key, self.partitions))

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

    def permits(self, user: bytes | None, letter: bytes, key: bytes) -> bool:
        """Whether whoever has selected it as a user (None: with its own token) has a right to a
        plain key, but for admins, who have all."""
        listed = self.permissions.get(EVERYBODY if user is None else user)
        return user is None if listed is None else listed.allow(letter, key)

    def add_arbiter(self, client: Client) -> None:
        """A client resolves its conflicts from now on."""
        self.arbiters[client] = None
        self.on_arbiters(self, client)

    def review_arbiter(self, client: Client) -> None:
        """A client is somebody else, or has other rights, who may be one of those that resolve its
        conflicts."""
        if client in self.arbiters:
            if client.may_arbitrate:
                self.on_arbiters(self, client)
            else:
                self.drop_arbiter(client)

    def drop_arbiter(self, client: Client) -> None:
        """A client does not any more, if it did."""
        if client in self.arbiters:
            del self.arbiters[client]
            self.on_arbiters(self, client)

    def exchange(self, other: Database) -> None:
        """Exchange what it holds with another one; those that look at it look at the other from
        now on. Who watches or has selected it stays."""
        for name in _CONTENT:
            mine = getattr(self, name)
            setattr(self, name, getattr(other, name))
            setattr(other, name, mine)
        for database in (self, other):
            for scan in database.scans:
                scan.move(database)

    def before_change(self, shard_number: int) -> None:
        """Let those that look at it copy a shard which is to be emptied."""
        for scan in self.scans:
            scan.take(shard_number)

    def free(self) -> Iterator[None]:
        """Give back the memory of one that is gone, a shard a turn: a million keys at once take
        100 ms."""
        for number, shard in enumerate(self.shards):
            self.before_change(number)
            shard.clear()
            yield None

    def mend_conflicts(self) -> None:
        """Put open conflicts in their order, which a snapshot does not keep."""
        for pending in self.conflicts.values():
            pending.sort(key=self._age)
        in_order = sorted(self.conflicts.items(), key=lambda item: self._age(item[1][0]))
        self.conflicts = dict(in_order)

    def _age(self, key: bytes) -> int:
        entry = self.find(key)
        return 0 if entry is None else entry[INDEX]

    def _note_special(self, key: bytes, op: Op | None) -> None:
        value = None if op is None else op[VALUE]
        if key.startswith(PERMISSION_PREFIX):
            self._note_permissions(key[len(PERMISSION_PREFIX) :], value)
        elif key.startswith(CONFLICT_PREFIX):
            self._note_conflict(key, value)
        elif key == CONCERN_KEY:
            self._note_concern(value)

    def _note_concern(self, value: bytes | None) -> None:
        try:
            self.concern = None if value is None else parse_concern(value)
        except CommandError:
            # Of a later version, or written past the parser: the node's own rules.
            self.concern = None
        for client in self.selected:
            client.heed()

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
        self.resolved.pop(key, None)
        if value is not None and value.startswith(RESOLVED):
            self.resolved[key] = None
        pending = self.conflicts.setdefault(about, [])
        if key in pending:
            pending.remove(key)
        if value is not None and not value.startswith(RESOLVED):
            pending.append(key)
        if not pending:
            del self.conflicts[about]
        self.on_conflicts(self, about, key)


_CONTENT = frozenset(Database.__slots__) - {
    *("arbiters", "number", "on_arbiters", "on_conflicts", "selected", "selected_at", "watchers")
}
"""What a database is as its operations say, and what looks at that."""


def _nobody_asks(database: Database, *about: object) -> None:
    """Nobody has to know."""


def partition_of(key: bytes, partitions: int) -> int:
    """In which partition of a snapshot a key is; the same in every process."""
    return crc32(key) % partitions


def visible(shard: dict[bytes, Op], hidden: bool) -> list[bytes]:
    """The keys of one shard that hold a value; those beginning ``$$`` only where ``hidden``."""
    return [
        key
        for key, op in shard.items()
        if op[VALUE] is not None and (hidden or not key.startswith(b"$$"))
    ]


def shown(database: Database, keys: Iterable[bytes]) -> Iterable[bytes]:
    """Keys without those that are the server's own business."""
    if database.number != ADMIN_ID:
        return keys
    return [key for key in keys if not key.startswith(SERVERS_OWN)]


def local_entry(database: Database, key: bytes, value: bytes, version: int) -> Op:
    """An entry that lives on this node only: it is not logged and not replicated."""
    return (value, version, 0, 0, SET, database.number, key)
