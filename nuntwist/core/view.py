"""A view of a database as it was at one moment, read in slices while writes go on.

Entries are never changed in place, so it needs no copy: of a shard that has not been read yet
it keeps only the entries that are replaced (copy on write, by entry). What is in the shard with
an index up to that of the moment was there then; what has a later one has an entry kept for it,
or was not there.
"""

from __future__ import annotations

from nuntwist.core.database import SHARDS, Database
from nuntwist.values import INDEX, VALUE, Op


class View:
    """The logged entries of a database as they are now.

    :param database: it is registered there until :meth:`close`.
    :param index: the last operation made.
    """

    of_values = True

    def __init__(self, database: Database, index: int) -> None:
        self._database = database
        self._index = index
        self._kept: list[list[Op] | None] = [[] for _ in range(SHARDS)]
        database.scans.append(self)

    def note(self, shard_number: int, old: Op | None, comes_or_goes: bool) -> None:
        """An entry is to be replaced."""
        if old is not None and 0 < old[INDEX] <= self._index and old[VALUE] is not None:
            kept = self._kept[shard_number]
            if kept is not None:
                kept.append(old)

    def note_return(self, shard_number: int, old: Op | None) -> None:
        """An entry that was replaced is to come back."""
        kept = self._kept[shard_number]
        if kept is not None and old is not None:
            self._kept[shard_number] = [op for op in kept if op is not old]

    def take(self, shard_number: int) -> None:
        """The shard is to be emptied."""
        kept = self._kept[shard_number]
        if kept is not None:
            kept += self._still_there(shard_number)

    def read(self, shard_number: int) -> list[Op]:
        """Give the entries of one shard, which can be read once."""
        kept, self._kept[shard_number] = self._kept[shard_number], None
        return self._still_there(shard_number) + (kept or [])

    def _still_there(self, shard_number: int) -> list[Op]:
        last = self._index
        return [
            op
            for op in self._database.shards[shard_number].values()
            if 0 < op[INDEX] <= last and op[VALUE] is not None
        ]

    def move(self, database: Database) -> None:
        """What it looks at is in another database from now on."""
        self._database = database

    def close(self) -> None:
        """End the view."""
        self._kept = [None] * SHARDS
        if self in self._database.scans:
            self._database.scans.remove(self)
