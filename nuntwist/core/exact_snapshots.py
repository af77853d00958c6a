"""Snapshots of all databases, exactly as they are in views that begin at the same index.

Those of every day (:mod:`nuntwist.core.taking`) hold what was read while writes went on, and the
log has what they lack; these are for a log that has nothing of what they hold. So all that they
hold is written, and only that, and all of them belong together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from nuntwist.core.database import SHARDS, Database
from nuntwist.core.partitions import Blocks, partitions_for
from nuntwist.core.view import View
from nuntwist.errors import StorageUnavailable
from nuntwist.interfaces import ISnapshotWriter, IStorage, SnapshotHeader
from nuntwist.values import ADMIN_ID, NO_EPOCH

if TYPE_CHECKING:
    from nuntwist.core.node import Node

BLOCK: Final = 1_000
"""Entries of a snapshot that are written together."""

Views = Sequence[tuple[Database, View]]


def write_all(
    node: Node, index: int, views: Views, failures: list[Failure]
) -> Iterator[Deferred[Any] | None]:
    """Write snapshots of databases, a step a turn; a step may give a Deferred to wait for.

    :param index: of the last operation that the views have.
    :param views: of all databases that there are; they are closed as they are read.
    :param failures: takes those that say StorageUnavailable; after the first one no other
        snapshot is begun.
    """
    storage: IStorage = node.storage
    names = tuple((one.number, one.name) for one, _ in views if one.number != ADMIN_ID)
    committing: list[Deferred[None]] = []
    # That of $admin last, as always.
    for database, view in sorted(views, key=lambda item: item[0].number == ADMIN_ID):
        if failures:
            break
        if database.number == ADMIN_ID:
            yield from committing
            committing = []
        one = _Saved(node, index, database, names)
        yield from one.write(view, failures)
        if not failures:
            committing.append(one.commit().addErrback(failures.append))
        if len(committing) >= storage.at_once:
            yield committing.pop(0)
    if committing:
        yield DeferredList(committing)


class _Saved:
    """The snapshot of one database, exactly as it was at an index."""

    def __init__(
        self, node: Node, index: int, database: Database, names: tuple[tuple[int, bytes], ...]
    ) -> None:
        self._node = node
        self._database = database
        self._writer: ISnapshotWriter | None = None
        self._stamp = node.stamps.catch_up()
        held = node.storage.held.get(database.number)
        self._header = SnapshotHeader(
            database_id=database.number,
            name=database.name,
            strategy=database.strategy,
            index=index,
            epoch=node.pipeline.journal.oplog.epoch_at(index) or NO_EPOCH,
            partitions=partitions_for(database, held, node.limits),
            stamp=self._stamp,
            databases=names if database.number == ADMIN_ID else None,
        )

    def write(self, view: View, failures: list[Failure]) -> Iterator[None]:
        """Write the entries, some a turn."""
        count = self._header.partitions
        # Keys that go from now on count for the next.
        self._database.partitions, self._database.removed_from = count, set()
        try:
            self._writer = self._node.storage.begin(self._header, None)
            blocks = Blocks(self._writer, count, BLOCK)
            for shard in range(SHARDS):
                entries = view.read(shard)
                for start in range(0, len(entries), BLOCK):
                    blocks.add(entries[start : start + BLOCK])
                    yield None
            blocks.finish()
        except StorageUnavailable:
            failures.append(Failure())
            if self._writer is not None:
                self._writer.abort()
        finally:
            view.close()

    def commit(self) -> Deferred[None]:
        """Make it the database's snapshot.

        :return: fires with None; fails with StorageUnavailable.
        """
        assert self._writer is not None
        done: Deferred[Any] = self._writer.commit()
        return done.addCallback(self._note)

    def _note(self, _: object) -> Deferred[None] | None:
        database = self._database
        if self._node.catalogue.by_id.get(database.number) is not database:
            dropped: Deferred[None] = self._node.storage.drop(database.number)
            return dropped
        database.saved_index, database.saved_stamp = self._header.index, self._stamp
        return None
