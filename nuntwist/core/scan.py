"""Lists the keys of a large database in slices, from one consistent view.

Sorting a million keys in one go stops everybody for a second, so the listing works a slice a
turn. A :class:`Scan` sees the keys as they were when it began: before a key comes to a shard
or goes from it, the shard's entries are copied (copy on write, by shard), and the scan copies
the rest itself as it goes. Sorting is a sample sort (Frazer and McKellar, 1970): cut points
from a sorted sample part the keys into buckets of about 2,000, and buckets sorted one by one,
in order, are the whole sorted, each of them ready to be sent while the next is sorted.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator

from nuntwist.core.database import SHARDS, Database, shown
from nuntwist.core.permissions import matches
from nuntwist.values import KEY, VALUE, Op

SLICE = 2_000
"""Keys handled in one slice; about a millisecond of work."""
OVERSAMPLE = 8


class Scan:
    """A view of a database's keys as they were at one moment.

    :param database: it is registered there until :meth:`close`.
    """

    of_values = False

    def __init__(self, database: Database) -> None:
        self._database = database
        self._taken: dict[int, list[Op]] = {}
        self._next = 0
        database.scans.append(self)

    def take(self, shard_number: int) -> None:
        """Copy a shard if that was not done; the database calls this before it changes."""
        if shard_number >= self._next and shard_number not in self._taken:
            self._taken[shard_number] = list(self._database.shards[shard_number].values())

    def note(self, shard_number: int, old: Op | None, comes_or_goes: bool) -> None:
        """A key is to change: of values it wants to know nothing."""
        if comes_or_goes:
            self.take(shard_number)

    def note_return(self, shard_number: int, old: Op | None) -> None:
        """A key is to be what it was before."""
        self.take(shard_number)

    def shards(self) -> Iterator[list[Op]]:
        """The entries of all shards, one a step."""
        while self._next < SHARDS:
            self.take(self._next)
            entries = self._taken.pop(self._next)
            self._next += 1
            yield entries
        self.close()

    def move(self, database: Database) -> None:
        """What it looks at is in another database from now on."""
        self._database = database

    def close(self) -> None:
        """End the view."""
        self._next = SHARDS
        self._taken.clear()
        if self in self._database.scans:
            self._database.scans.remove(self)


class Listing:
    """The answer to ``keys`` on a large database, made in slices.

    :param database: what to list, as it is at :meth:`begin`, or when the first piece is asked for.
    :param pattern: which keys; empty for all.
    :param hidden: whether keys beginning ``$$`` are shown.
    :param listed: says of a key whether it may be listed; None where all may.
    :ivar index: the last operation it tells of, once it has begun.
    :ivar exposed_at: what the journal had counted as taken back then, where some of it might be.
    :ivar length: the bytes of all keys, a comma before each; right once the first piece is
        there.
    """

    def __init__(
        self,
        database: Database,
        pattern: bytes,
        hidden: bool,
        listed: Callable[[bytes], bool] | None = None,
    ) -> None:
        self.database = database
        self._listed = listed
        self._scan: Scan | None = None
        self._pattern = pattern
        self._hidden = hidden
        self.length = 0
        self.index = 0
        self.exposed_at: int | None = None

    def begin(self) -> None:
        """Take the view that is listed."""
        if self._scan is None:
            self._scan = Scan(self.database)
            self.index = self.database.last_index

    def close(self) -> None:
        """Give up; frees what was copied."""
        if self._scan is not None:
            self._scan.close()

    def pieces(self) -> Iterator[bytes | None]:
        """Work a slice a step: None while there is nothing to send, then the sorted keys in
        pieces, a comma before each key."""
        self.begin()
        assert self._scan is not None
        keys: list[bytes] = []
        for entries in self._scan.shards():
            for start in range(0, len(entries), SLICE):
                found = self._choose(entries[start : start + SLICE])
                self.length += sum(map(len, found)) + len(found)
                keys += found
                yield None
        buckets: list[list[bytes]] = []
        yield from _part(keys, buckets)
        buckets.reverse()
        while buckets:
            bucket = buckets.pop()
            bucket.sort()
            yield b"," + b",".join(bucket) if bucket else None

    def _choose(self, entries: list[Op]) -> list[bytes]:
        keys = [op[KEY] for op in entries if op[VALUE] is not None]
        keys = list(shown(self.database, keys))
        if not self._hidden:
            keys = [key for key in keys if not key.startswith(b"$$")]
        if self._pattern:
            keys = [key for key in keys if matches(self._pattern, key)]
        return keys if self._listed is None else list(filter(self._listed, keys))


def _part(keys: list[bytes], buckets: list[list[bytes]]) -> Iterator[None]:
    """Part keys into buckets, each above the one before; ``keys`` is empty at the end.

    It is emptied on the way, because a list of a million keys takes 10 ms to free in one go.
    """
    count = len(keys) // SLICE + 1
    step = max(1, len(keys) // (count * OVERSAMPLE))
    # Keys come in the order of their hashes, so every n-th is as good as a random sample.
    sample = keys[::step]
    sample.sort()
    stride = max(1, len(sample) // count)
    cuts = sample[stride::stride]
    buckets.extend([] for _ in range(len(cuts) + 1))
    yield None
    adders = [bucket.append for bucket in buckets]
    while keys:
        for key in keys[-SLICE:]:
            adders[bisect_right(cuts, key)](key)
        del keys[-SLICE:]
        yield None
