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

What clients notice is :mod:`nuntwist.core.exchange`; how the snapshots are written
:mod:`nuntwist.core.exact_snapshots`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.core.copying import Aside
from nuntwist.core.database import Database
from nuntwist.core.exact_snapshots import Views, write_all
from nuntwist.core.exchange import Exchange
from nuntwist.core.quota import Quota
from nuntwist.core.view import View
from nuntwist.errors import CorruptData, OutcomeUnknown, StorageUnavailable
from nuntwist.files import Files, replace_durably
from nuntwist.values import NO_EPOCH

if TYPE_CHECKING:
    from nuntwist.core.node import Node

MARKER = "copying"
"""The file that is there while neither the old state nor the new one is whole on the disk."""
RETRY = 10.0
"""Seconds until snapshots that could not be written are tried again."""

_log = Logger()


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
            yield streams.work(write_all(self._node, index, views, failures))
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
