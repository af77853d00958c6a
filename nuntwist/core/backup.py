"""A backup: databases as they were at one moment, given as the pieces of an archive.

All of them are looked at by views (:mod:`nuntwist.core.view`) that begin in the same turn, so
the archive has every operation up to one index and none after it. The first piece leaves when
the log has them all.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from datetime import UTC, datetime

from twisted.internet.defer import Deferred

from nuntwist import __version__
from nuntwist.archive.format import Head, Member, Writer
from nuntwist.core.catalogue import ADMIN_NAME, Catalogue
from nuntwist.core.database import SERVERS_OWN, SHARDS, Database
from nuntwist.core.journal import Journal
from nuntwist.core.view import View
from nuntwist.errors import StorageUnavailable
from nuntwist.values import INDEX, KEY, VALUE, Op

PIECE = 256 << 10
"""Bytes of one piece, about: a few milliseconds of work."""
BLOCK = 1_000
"""Entries of one block, at most."""


class Backup:
    """One backup under way.

    The batch under way must be empty.

    :param catalogue: where they are.
    :param databases: what it holds.
    :param wall: wall time in seconds since 1970.
    :ivar entries: about how many entries it will have.
    """

    def __init__(
        self, catalogue: Catalogue, journal: Journal, databases: Sequence[Database], wall: float
    ) -> None:
        self._index = journal.index
        self._views = [(database, View(database, self._index)) for database in databases]
        # What can change meanwhile is noted now.
        self._head = Head(
            datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds"),
            self._index,
            f"nuntwist {__version__}",
            tuple(Member(database.name, database.strategy) for database in databases),
        )
        self._listings = frozenset((d.number, d.name) for d in catalogue.by_id.values())
        self._undone = journal.undone
        self._journal = journal
        self._blocks = self._write()
        self._left = b""
        self.entries = sum(database.key_count() for database in databases)

    def ready(self) -> Deferred[None]:
        """Wait for the log.

        :return: fires with None when all it tells of is durable; fails with
            StorageUnavailable where that will not be.
        """
        return self._journal.durable(self._index).addCallback(self._check)

    def _check(self, _: object) -> None:
        if self._journal.undone != self._undone:
            raise StorageUnavailable("storage unavailable: the log failed")

    def read(self) -> bytes:
        """Give the next piece; nothing where all was given."""
        parts, size = [self._left], len(self._left)
        while size < PIECE:
            block = next(self._blocks, None)
            if block is None:
                break
            parts.append(block)
            size += len(block)
        data = b"".join(parts)
        piece, self._left = data[:PIECE], data[PIECE:]
        return piece

    def close(self) -> None:
        """Free what the views keep."""
        self._blocks.close()
        for _, view in self._views:
            view.close()

    def _write(self) -> Generator[bytes, None, None]:
        writer = Writer()
        yield writer.begin(self._head)
        for (_, view), member in zip(self._views, self._head.members, strict=True):
            yield writer.member(member)
            for shard in range(SHARDS):
                entries = view.read(shard)
                if member.name == ADMIN_NAME:
                    # Its keys that name databases follow from these being there, and those of
                    # forwarded writes mean nothing elsewhere.
                    entries = [
                        op
                        for op in entries
                        if (op[INDEX], op[KEY]) not in self._listings
                        and not op[KEY].startswith(SERVERS_OWN)
                    ]
                for start in range(0, len(entries), BLOCK):
                    yield from _blocks(writer, entries[start : start + BLOCK])
            view.close()
        yield writer.end()


def _blocks(writer: Writer, entries: Sequence[Op]) -> Iterator[bytes]:
    """Blocks of some entries, parted where values are large."""
    waiting: list[Op] = []
    size = 0
    for op in entries:
        waiting.append(op)
        size += len(op[KEY]) + len(op[VALUE] or b"")
        if size >= PIECE:
            yield writer.entries(waiting)
            waiting, size = [], 0
    if waiting:
        yield writer.entries(waiting)
