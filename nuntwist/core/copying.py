"""A copy of all that a node holds, at the node that gives it and at the one that takes it.

The giver looks at all its databases through views (:mod:`nuntwist.core.view`) that begin in the
same turn, so a copy has every operation up to one index and none after it, whatever is written
meanwhile; no second copy is made. The taker fills a catalogue aside, a piece at a time, while
its clients read the old one; :mod:`nuntwist.core.installing` puts it in the place of that.

What a copy holds are the logged entries, whole: value, version, index and stamp, so that the two
states are the same afterwards, and what the log goes on with fits. What follows from them (who
may do what, which conflicts are open, which names there are) is found anew.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, inlineCallbacks

from nuntwist.core.catalogue import Catalogue
from nuntwist.core.database import MASK, SHARDS, Database
from nuntwist.core.quota import UNLIMITED, Quota
from nuntwist.core.view import View
from nuntwist.errors import CorruptData, StorageUnavailable
from nuntwist.values import ADMIN_ID, INDEX, KEY, NO_EPOCH, VALUE, Op, Position

if TYPE_CHECKING:
    from nuntwist.core.node import Node


LONG_LOG = 6
"""Where the log is longer than so many times ``Limits.replay`` it waits for no copy any more: that
is one and a half times what it may have, and at twice that writes are refused."""


@dataclass(frozen=True, slots=True)
class Outline:
    """What a copy says of a database.

    :ivar number: its id.
    :ivar name: what clients call it, or that of one that is still being restored.
    :ivar strategy: what a conflict leads to.
    :ivar last_index: of the last operation on it.
    """

    number: int
    name: bytes
    strategy: bytes
    last_index: int


class Original:
    """All databases of a node as they are now.

    The batch under way must be empty, and nothing that stands alone on its way to the log.

    :ivar index: of the last operation it has.
    :ivar stamp: no operation it has bears a higher one.
    :ivar outlines: of the databases, rising by id.
    :ivar position: the place of that operation in the log; known when the log has it all.
    """

    def __init__(self, node: Node) -> None:
        journal = node.pipeline.journal
        self.index = journal.index
        self.stamp = node.stamps.last
        self.position = Position(NO_EPOCH, self.index)
        databases = [database for _, database in sorted(node.catalogue.by_id.items())]
        self._views = [(database.number, View(database, self.index)) for database in databases]
        # What can change meanwhile is noted now.
        self.outlines = tuple(
            Outline(database.number, database.name, database.strategy, database.last_index)
            for database in databases
        )

    def entries(self) -> Iterator[tuple[int, Sequence[Op]]]:
        """Give what it holds, a shard of a database at a time, each with the database's id. What
        was given is not looked after any more."""
        for number, view in self._views:
            for shard in range(SHARDS):
                yield number, view.read(shard)
            view.close()

    def close(self) -> None:
        """Free what the views keep."""
        for _, view in self._views:
            view.close()


class Aside:
    """A copy being taken: a catalogue that nobody looks at yet.

    :param position: of its last operation.
    :param stamp: none of its operations bears a higher one.
    :param quota: of the node that takes it.
    :raise CorruptData: there is no such copy.
    :ivar catalogue: its databases.
    :ivar count: how many entries came.
    :ivar given_up: whether it is not wanted any more.
    """

    def __init__(
        self,
        position: Position,
        stamp: int,
        outlines: Sequence[Outline],
        quota: Quota = UNLIMITED,
    ) -> None:
        self.position = position
        self.stamp = stamp
        self.catalogue = Catalogue(quota)
        self.count = 0
        self.given_up = False
        self._outlines = {outline.number: outline for outline in outlines}
        if ADMIN_ID not in self._outlines or position.index < 1:
            raise CorruptData("a copy", 0, "it has no $admin, or no operations")

    def add(self, number: int, entries: Sequence[Op]) -> None:
        """Take entries of a database.

        :raise CorruptData: they cannot be of this copy.
        """
        database = self.catalogue.by_id.get(number) or self._begin(number)
        shards, last = database.shards, self.position.index
        for op in entries:
            key = op[KEY]
            if not 0 < op[INDEX] <= last or op[VALUE] is None:
                raise CorruptData("a copy", self.count, f"it has an entry of index {op[INDEX]}")
            if key[:1] == b"$":
                database.store(op)
            else:
                shards[hash(key) & MASK][key] = op
        if database.usage is not None:
            database.usage.add(op for op in entries if op[KEY][:1] != b"$")
        self.count += len(entries)

    def _begin(self, number: int) -> Database:
        # When its entries come, as making many at once takes long.
        outline = self._outlines.get(number)
        if outline is None:
            raise CorruptData("a copy", self.count, f"it has entries of no database {number}")
        return self.catalogue.restore(number, outline.name, outline.strategy)

    def finish(self, entries: int) -> None:
        """All of it is there.

        :param entries: how many there must be.
        :raise CorruptData: there are more or fewer.
        """
        if self.count != entries:
            raise CorruptData("a copy", self.count, f"it should have {entries} entries")
        catalogue = self.catalogue
        for number, outline in self._outlines.items():
            database = catalogue.by_id.get(number) or self._begin(number)
            database.last_index = outline.last_index
        catalogue.admin.strategy = self._outlines[ADMIN_ID].strategy
        catalogue.relist()
        for database in catalogue.by_id.values():
            database.mend_conflicts()

    def free(self) -> Iterator[None]:
        """Give back its memory, a share a turn."""
        return chain.from_iterable(one.free() for one in tuple(self.catalogue.by_id.values()))


class Originals:
    """Makes copies of what a node holds, for whoever sends them.

    :param node: the primary.
    """

    def __init__(self, node: Node) -> None:
        self._node = node

    @inlineCallbacks
    def begin(self) -> Generator[Deferred[Any], Any, Original]:
        """Begin a copy.

        :return: fires with it when the log has, on the disk, all that it holds; fails with
            StorageUnavailable where that cannot be.
        """
        pipeline = self._node.pipeline
        journal = pipeline.journal
        pipeline.commit()
        while journal.unapplied:
            # What stands alone has its index, and is applied only when it is durable.
            yield journal.oplog.sync()
            pipeline.commit()
        original, undone = Original(self._node), journal.undone
        try:
            yield journal.oplog.sync()
            if journal.undone != undone:
                raise StorageUnavailable("writes that the copy holds were taken back")
        except BaseException:
            original.close()
            raise
        epoch = journal.oplog.epoch_at(original.index) or NO_EPOCH
        original.position = Position(epoch, original.index)
        return original

    def work(self, steps: Iterator[object]) -> Deferred[Any]:
        """Do work a step a turn, beside the clients; as of
        :meth:`nuntwist.core.streaming.Streams.work`."""
        return self._node.pipeline.streams.work(steps)

    @property
    def log_is_long(self) -> bool:
        """Whether the log is so long that it cannot wait for a copy any more."""
        size: int = self._node.pipeline.journal.oplog.size
        return size > LONG_LOG * self._node.limits.replay
