"""Putting a copy of all (:mod:`nuntwist.core.copying`) in the place of what a node holds.

On the disk, in this order, while no other snapshots are taken:

1. The end of the old log that the set may not have is copied into a file, as a cut does it. It
   comes first, as nothing of it may be lost, and nothing has changed by it.
2. A marker, the file ``copying``, is made durable. From here on the old log and the old snapshots
   count for nothing: a start that finds it begins with neither (:func:`begin_afresh`), as they
   are many files, and cannot be exchanged in one step. The primary still has all.
3. The log begins anew after the position of the copy. In the same turn of the reactor the state in
   memory is exchanged, so nobody ever sees a log that does not go with it. What follows on the
   copy is appended from then on, as usual.
4. Snapshots of all databases, exactly as the copy has them, are written and flushed; what there
   was of others goes. They must all be there before the marker goes, because the log has nothing
   of what they hold. They need not wait for a majority, as others do in a set: no operation up to
   that position can be taken back here anyway.
5. The marker goes: from here on a start finds it all.

A node between 2 and 5 may come back with nothing, so what it acknowledges must not be counted:
``doubt`` is called before 2, and it is *kept* only after 5.

In memory, a database that was there before and is still the same stays the same object: who has
selected or watches it notices nothing but the changes of the keys watched, as with any other. What
is gone is left as by a drop. Whoever looks at the state as it was (a listing, a backup) goes on
looking at that; its memory is given back in slices.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from zlib import crc32

from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.core import access
from nuntwist.core.client import REPLACED
from nuntwist.core.copying import Aside
from nuntwist.core.database import CONNECTIONS_KEY, SHARDS, Database
from nuntwist.core.quota import Quota
from nuntwist.core.sessions import release
from nuntwist.core.view import View
from nuntwist.errors import CorruptData, OutcomeUnknown, StorageUnavailable
from nuntwist.files import Files, replace_durably
from nuntwist.interfaces import ISnapshotWriter, IStorage, SnapshotHeader
from nuntwist.values import ADMIN_ID, INDEX, KEY, NO_EPOCH, REMOVE, STAMP, VALUE, VERSION, Op

if TYPE_CHECKING:
    from nuntwist.core.node import Node

MARKER = "copying"
"""The file that is there while neither the old state nor the new one is whole on the disk."""
RETRY = 10.0
"""Seconds until snapshots that could not be written are tried again."""
BLOCK = 1_000
"""Entries of a snapshot that are written together."""

_log = Logger()

Views = Sequence[tuple[Database, View]]


def _nothing() -> None:
    """Nobody has to know."""


class Installing:
    """Puts copies in the place of what a node holds.

    :param node: a secondary.
    :param files: its data directory.
    :param call_later: IReactorTime.callLater.
    :ivar doubt: called before anything is given up; raises OSError where that is not to be.
    :ivar kept: called when a start would find all that was put in place.
    """

    def __init__(self, node: Node, files: Files, call_later: Callable[..., IDelayedCall]) -> None:
        self._node = node
        self._files = files
        self._call_later = call_later
        self._journal = node.pipeline.journal
        self._retry: IDelayedCall | None = None
        self.doubt: Callable[[], None] = _nothing
        self.kept: Callable[[], None] = _nothing

    @property
    def is_kept(self) -> bool:
        """Whether a start would find what this node holds."""
        return MARKER not in self._files.names()

    def stop(self) -> None:
        """The node stops."""
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self._retry = None

    @property
    def quota(self) -> Quota:
        """What a database may hold."""
        return self._node.limits.quota

    def work(self, steps: Iterator[object]) -> Deferred[Any]:
        """Do work a step a turn, beside the clients; as of
        :meth:`nuntwist.core.streaming.Streams.work`."""
        return self._node.pipeline.streams.work(steps)

    def install(self, aside: Aside, parted_at: int | None = None) -> Deferred[None]:
        """Put a copy that is finished in place, when no snapshots are being taken.

        :param parted_at: the index up to which the log here is the beginning of the set's; None
            where nobody knows.
        :return: fires with None when the state is that of the copy, and the log begins after it;
            fails with StorageUnavailable where nothing has changed (or, where the log has
            ``failed``, nothing but on the disk: the node must be restarted).
        """
        placed: Deferred[None] = Deferred()
        self._node.snapshots.hold(partial(self._work, aside, parted_at, placed))
        return placed

    @inlineCallbacks
    def _work(
        self, aside: Aside, parted_at: int | None, placed: Deferred[None]
    ) -> Generator[Deferred[Any], Any, None]:
        try:
            yield self._keep_end(parted_at)
            if aside.given_up:
                raise StorageUnavailable("the copy is not wanted any more")
            views = self._replace(aside)
        except (StorageUnavailable, OutcomeUnknown, CorruptData) as error:
            self.work(aside.free())
            placed.errback(StorageUnavailable(str(error)))
            return
        self.stop()
        placed.callback(None)
        yield self._save(aside.position.index, views)

    # -- the log -----------------------------------------------------------------------------

    @inlineCallbacks
    def _keep_end(self, parted_at: int | None) -> Generator[Deferred[Any], Any, None]:
        """Copy what of the log may be in this node only."""
        oplog = self._journal.oplog
        self._node.pipeline.commit()
        begin = oplog.first - 1
        after = parted_at
        if after is None:
            # Snapshots of a set hold nothing but what is committed.
            held = [header.index for header in self._node.storage.held.values()]
            undo = self._journal.undo
            after = max([begin, 0 if undo is None else undo.committed, *held])
        for index in dict.fromkeys((max(begin, after), begin)):
            if index >= oplog.last.index:
                return
            epoch = oplog.epoch_at(index + 1) or NO_EPOCH
            name = f"divergent-{epoch.number}-{index + 1}.op"
            try:
                count = yield oplog.keep(index, name)
            except ValueError as error:
                # No record ends there, or an earlier try has left less.
                reason = str(error)
                continue
            _log.warn(
                "{count} operations after {index} are not known to be in the set, and go with the"
                " copy of all that this node takes: nun-db oplog dump {file}, in the data"
                " directory, shows them",
                count=count,
                index=index,
                file=name,
            )
            return
        raise StorageUnavailable(f"the end of the log cannot be kept aside: {reason}")

    def _replace(self, aside: Aside) -> Views:
        """Exchange log and state, in one turn.

        :return: what looks at all databases as they are then.
        :raise StorageUnavailable: nothing has changed.
        :raise OutcomeUnknown: the log has failed.
        """
        position = aside.position
        text = f"{position.epoch.number}:{position.index}\n".encode()
        try:
            self.doubt()
            replace_durably(self._files, MARKER, text)
        except OSError as error:
            raise StorageUnavailable(error.strerror or str(error)) from None
        self._journal.oplog.replace(position)
        views: list[tuple[Database, View]] = []
        exchange = Exchange(self._node, aside)

        def replace() -> Callable[[], int]:
            exchange.run()
            for database in self._node.catalogue.by_id.values():
                views.append((database, View(database, position.index)))
            return exchange.tell

        told = self._node.pipeline.start_over(replace)
        counters = self._node.counters
        counters.copies_taken += 1
        counters.told_by_copies += told
        _log.info(
            "this node has a copy of all up to operation {index}: {entries} entries; {told} keys"
            " that are watched had another value before",
            index=position.index,
            entries=aside.count,
            told=told,
        )
        return views

    # -- the snapshots -----------------------------------------------------------------------

    @inlineCallbacks
    def _save(self, index: int, views: Views) -> Generator[Deferred[Any], Any, None]:
        """Write snapshots of all that there is, then let the marker go."""
        streams, wanted = self._node.pipeline.streams, {database.number for database, _ in views}
        try:
            # The log has to reach as far as they do.
            yield self._journal.oplog.sync()
            failures: list[Failure] = []
            yield streams.work(self._write_all(index, views, failures))
            if failures:
                failures[0].raiseException()
            for number in sorted(set(self._node.storage.held) - wanted):
                yield self._node.storage.drop(number)
            # The names of the new log, and that those of the old are gone.
            self._files.sync_names()
            self._files.remove(MARKER)
        except (StorageUnavailable, OSError) as error:
            _log.error(
                "the snapshots of the copy could not be written, this is tried again in"
                " {seconds:g} s; a restart before would begin with nothing: {error}",
                seconds=RETRY,
                error=str(error),
            )
            for database, view in views:
                view.close()
                database.saved_index = -1
            self._retry = self._call_later(RETRY, self._again)
            return
        self.kept()

    def _again(self) -> None:
        self._retry = None
        self._node.snapshots.hold(self._save_now)

    def _save_now(self) -> Deferred[None]:
        # As it is by now: where that cannot be taken back, the snapshots say so.
        self._node.pipeline.commit()
        index = self._journal.index
        databases = self._node.catalogue.by_id.values()
        return self._save(index, [(database, View(database, index)) for database in databases])

    def _write_all(
        self, index: int, views: Views, failures: list[Failure]
    ) -> Iterator[Deferred[Any] | None]:
        storage: IStorage = self._node.storage
        names = tuple((one.number, one.name) for one, _ in views if one.number != ADMIN_ID)
        committing: list[Deferred[None]] = []
        # That of $admin last, as always.
        for database, view in sorted(views, key=lambda item: item[0].number == ADMIN_ID):
            if failures:
                break
            if database.number == ADMIN_ID:
                yield from committing
                committing = []
            one = _Saved(self._node, index, database, names)
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
            partitions=node.snapshots.partitions(database, held),
            stamp=self._stamp,
            databases=names if database.number == ADMIN_ID else None,
        )

    def write(self, view: View, failures: list[Failure]) -> Iterator[None]:
        """Write the entries, some a turn."""
        count = self._header.partitions
        # Keys that go from now on count for the next.
        self._database.partitions, self._database.removed_from = count, set()
        blocks: list[list[Op]] = [[] for _ in range(count)]
        try:
            writer = self._writer = self._node.storage.begin(self._header, None)
            for shard in range(SHARDS):
                entries = view.read(shard)
                for start in range(0, len(entries), BLOCK):
                    for op in entries[start : start + BLOCK]:
                        blocks[crc32(op[KEY]) % count].append(op)
                    for number, block in enumerate(blocks):
                        if len(block) >= BLOCK:
                            writer.write(number, block)
                            block.clear()
                    yield None
            for number, block in enumerate(blocks):
                if block:
                    writer.write(number, block)
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


class Exchange:
    """The state in memory becomes that of a copy.

    :param aside: finished; holds what there was when it is done.
    """

    def __init__(self, node: Node, aside: Aside) -> None:
        self._node = node
        self._aside = aside
        self._pairs: list[tuple[Database, Database]] = []
        self._revealed = node.pipeline.journal.revealed

    def run(self) -> None:
        """Do it; nobody is told."""
        node, aside = self._node, self._aside
        catalogue, coming = node.catalogue, aside.catalogue
        stays = {
            number: _is_same(catalogue.admin, coming.admin, old, coming.by_id.get(number))
            for number, old in catalogue.by_id.items()
        }
        old_by_id, catalogue.by_id = catalogue.by_id, dict(coming.by_id)
        going: list[Database] = []
        for number, old in old_by_id.items():
            if stays[number]:
                self._keep(old, coming.by_id[number])
                catalogue.by_id[number] = old
                going.append(coming.by_id[number])
            else:
                going.append(old)
        catalogue.by_name = {
            name: catalogue.by_id[database.number] for name, database in coming.by_name.items()
        }
        for old in going:
            if old_by_id.get(old.number) is old:
                self._leave(old)
        node.foreign_stamps.observe(aside.stamp)
        node.pipeline.journal.start_over(aside.position.index)
        node.pipeline.streams.work(_free(going))

    def _keep(self, database: Database, content: Database) -> None:
        """A database stays, with another content."""
        database.exchange(content)
        local = content.find(CONNECTIONS_KEY)
        if local is not None:
            database.store(local)
        self._pairs.append((database, content))

    def _leave(self, gone: Database) -> None:
        """A database is gone; who has selected one of the same name has to ask for it anew, with
        the token of now."""
        members = release(gone)
        if gone.name in self._node.catalogue.by_name:
            for client in members:
                self._node.pipeline.finish(client, REPLACED)

    def tell(self) -> int:
        """Tell watchers of keys that are not what they were told.

        :return: how many keys these are.
        """
        # First, as some may not see any more what there is to tell.
        access.review(self._node)
        for database, before in self._pairs:
            access.missed(self._node, database, before)
        told = 0
        for database, before in self._pairs:
            for key in tuple(database.watchers):
                old, new = before.find(key), database.find(key)
                if _differ(old, new) or (old is not None and old[INDEX] > self._revealed):
                    told += 1
                    gone: Op = (None, -1, 0, 0, REMOVE, database.number, key)
                    self._node.pipeline.notify(database, new or gone)
        return told


def _is_same(admin: Database, coming: Database, old: Database, new: Database | None) -> bool:
    """Whether a database is the same one in both: its id is the index of an operation, which
    in another log may have made another database."""
    if new is None or old.name != new.name:
        return False
    here, there = admin.find(old.name), coming.find(old.name)
    if here is None or there is None:
        return here is there
    # A stamp of 0 is not known.
    return here[STAMP] == there[STAMP] or not (here[STAMP] and there[STAMP])


def _differ(old: Op | None, new: Op | None) -> bool:
    if old is None or new is None:
        # A tombstone that is not forgotten yet is no value either.
        return old is not new and (old or new or ())[VALUE : VALUE + 1] != (None,)
    return (old[VALUE], old[VERSION]) != (new[VALUE], new[VERSION])


def _free(databases: Sequence[Database]) -> Iterator[None]:
    for database in databases:
        yield from database.free()


def begin_afresh(node: Node, files: Files) -> Deferred[None]:
    """Begin with nothing, instead of a recovery: what there is are parts of two states, and the
    log was taken away by :func:`nuntwist.cluster.afresh.take_log_away`. No snapshots are taken
    meanwhile, nor is another copy put in place.

    :return: fires with None when the snapshots are gone, and with them the marker; where it
        cannot be removed, the next start does all this again.
    """
    _log.warn(
        "the process before ended while it put a copy of all in place: this node begins with"
        " nothing, and gets it all from its primary"
    )

    def remove_marker(_: object) -> None:
        try:
            files.remove(MARKER)
        except OSError as error:
            _log.error("the file {name} stays: {error}", name=MARKER, error=error.strerror)

    def work() -> Deferred[None]:
        gone = [node.storage.drop(number) for number in sorted(node.storage.held)]
        done = DeferredList(gone).addCallback(lambda _: node.storage.tidy())
        return done.addCallback(remove_marker)

    return node.snapshots.hold(work)
