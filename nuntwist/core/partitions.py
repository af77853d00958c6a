"""How a snapshot splits a database: by a hash of the key, which is the same in every process.

What has changed is then written in those partitions only in which it is. Entries come in no order
and are written in blocks, as each block of a partition costs a write.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from zlib import crc32

from nuntwist.core.database import Database
from nuntwist.core.limits import Limits
from nuntwist.interfaces import ISnapshotWriter, SnapshotHeader
from nuntwist.values import KEY, Op


def partitions_for(database: Database, held: SnapshotHeader | None, limits: Limits) -> int:
    """Into how many partitions a database is split: a small one is not, one that has been stays
    so, or each time it shrinks and grows all of it would be written.

    :param held: its last snapshot.
    """
    if held is not None and 1 < held.partitions <= limits.partitions:
        return held.partitions
    return limits.partitions if database.key_count() >= limits.one_partition else 1


class Blocks:
    """Entries on their way into the partitions of one snapshot.

    :param count: how many partitions it has.
    :param size: entries of a partition that are written together, at least.
    :param changed: the partitions to write; None for all.
    """

    def __init__(
        self,
        writer: ISnapshotWriter,
        count: int,
        size: int,
        changed: Collection[int] | None = None,
    ) -> None:
        self._writer = writer
        self._size = size
        self._changed = changed
        self._blocks: list[list[Op]] = [[] for _ in range(count)]

    def add(self, entries: Sequence[Op]) -> None:
        """Take some, and write the blocks that are large enough.

        :raise StorageUnavailable: one could not be written.
        """
        blocks, count, changed = self._blocks, len(self._blocks), self._changed
        if count == 1:
            blocks[0] += entries
        else:
            for op in entries:
                blocks[crc32(op[KEY]) % count].append(op)
        for number, block in enumerate(blocks):
            if changed is not None and number not in changed:
                block.clear()
            elif len(block) >= self._size:
                self._writer.write(number, block)
                block.clear()

    def finish(self) -> None:
        """Write what is left.

        :raise StorageUnavailable: it could not be written.
        """
        for number, block in enumerate(self._blocks):
            if block:
                self._writer.write(number, block)
