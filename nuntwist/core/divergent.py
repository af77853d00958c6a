"""Operations that one node had and its set has not, decided anew by the primary.

A primary that was cut off may have taken writes that no other node got. When it follows again they
are taken off there and kept in a file; then it offers them, in the order in which they were made,
and the strategy of each database decides about each of them:

- ``newer``: it is made again where it is later, by its stamp, than the last operation on its key
  (a removal counts as well; the log tells of those). It keeps its stamp, so that those offered
  after it are compared with when it was made, not with when it was offered.
- ``arbiter``: it is put before the arbiters as a conflict.
- ``none``: it stays in the file.

It also stays there where its database came later than the point at which the logs part, or is no
more; where it is of the server itself (tokens of databases, keys of conflicts, keys of ``$admin``
that begin with ``$$``); where the log no longer tells whether its key was removed; where no
arbiter is there; and where its stamp is too far ahead of this node's clock.

An operation is known by its old position: the epoch and the index it had. How far the operations
of an epoch have been decided stands in a key of ``$admin``, which is logged in one record with what
was made of them: whoever offers them again, to whichever primary, gets no second decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from twisted.internet.defer import Deferred, DeferredLock
from twisted.python.failure import Failure

from nuntwist.core.conflicts import version_of
from nuntwist.core.database import (
    CONFLICT_PREFIX,
    DIVERGENT_PREFIX,
    SERVERS_OWN,
    TOKEN_KEY,
    Database,
)
from nuntwist.core.foreign_stamps import AHEAD
from nuntwist.core.handlers import arbitration
from nuntwist.errors import CommandError, StorageUnavailable
from nuntwist.interfaces import Received
from nuntwist.values import (
    ADMIN_ID,
    BEGIN_EPOCH,
    DATABASE,
    IN_RESOLUTION,
    INDEX,
    KEY,
    KIND,
    REMOVE,
    SET,
    STAMP,
    VALUE,
    VERSION,
    Epoch,
    Op,
)

if TYPE_CHECKING:
    from nuntwist.core.node import Node

REMOVALS: Final = 200_000
"""Removed keys that are remembered at most, since the logs part; with more of them the log does not
tell any more."""
TAILS: Final = 3
"""Points at which logs part, for which that is remembered."""
SLICE: Final = 2_000
"""Operations of the log looked at in one turn, at least."""


class Fate(Enum):
    """What becomes of an operation."""

    TAKEN = "made again"
    OLDER = "older than what is there"
    QUEUED = "put before the arbiters"
    STAYS = "stays in the file"


class Decided(NamedTuple):
    """What became of some operations; those that were decided before do not count.

    :ivar last: the index of the last one.
    """

    last: int
    taken: int = 0
    older: int = 0
    queued: int = 0
    stays: int = 0

    @property
    def made(self) -> int:
        """How many were made again, or put before arbiters."""
        return self.taken + self.queued

    @property
    def left(self) -> int:
        """How many are only where they were offered from."""
        return self.older + self.stays


def marker_of(epoch: Epoch) -> bytes:
    """The key of ``$admin`` that says how far the operations of an epoch are decided."""
    return b"%b%d_%016x" % (DIVERGENT_PREFIX, *epoch)


class _Removals:
    """What the log tells of removals after an index.

    :param undone: how many times the journal has taken something back by now: what was read
        before that may not be true any more.
    :ivar to: up to which index it was read.
    """

    def __init__(self, after: int, undone: int) -> None:
        self.after = self.to = after
        self.undone = undone
        self.stamps: dict[tuple[int, bytes], int] = {}

    def note(self, ops: Sequence[Op]) -> None:
        for op in ops:
            if op[KIND] == REMOVE:
                self.stamps[op[DATABASE], op[KEY]] = op[STAMP]
        self.to = ops[-1][INDEX]


class Deciding:
    """Decides on a primary what becomes of operations that are offered."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = DeferredLock()
        self._read: dict[int, _Removals] = {}
        self._removals = _Removals(0, 0)

    def decided_to(self, epoch: Epoch) -> int:
        """Up to which index the operations of an epoch are decided, as far as is known here; 0
        for none."""
        value = self._node.catalogue.admin.value(marker_of(epoch))
        return int(value) if value is not None and value.isdigit() else 0

    def decide(self, first: int, records: Sequence[Received]) -> Deferred[Decided]:
        """Decide about operations.

        :param first: the index of the first operation after the point at which the logs part.
        :param records: some of those after it, in order.
        :return: fires when what was made of them is revealed; fails with CommandError where it
            could not be done here or now: the log did not take it, or this is no primary.
        """
        done: Deferred[Decided] = self._lock.run(self._decide, first, records)
        return done

    def _decide(self, first: int, records: Sequence[Received]) -> Deferred[Decided]:
        found: list[Decided] = []
        worked = self._node.pipeline.streams.work(self._steps(first, records, found))
        return worked.addCallback(lambda _: found[0])

    def _steps(
        self, first: int, records: Sequence[Received], found: list[Decided]
    ) -> Iterator[Deferred[Any] | None]:
        self._removals = self._removals_after(first - 1)
        while self._read_on():
            yield None
        journal = self._node.pipeline.journal
        found.append(self._make(first, records))
        yield journal.durable(journal.index, writer=True).addErrback(_refused)

    def _removals_after(self, index: int) -> _Removals:
        undone = self._node.pipeline.journal.undone
        read = {after: one for after, one in self._read.items() if one.undone == undone}
        removals = read.pop(index, None) or _Removals(index, undone)
        # The one that was used last is the last one.
        read = dict(list(read.items())[1 - TAILS :])
        self._read = {**read, index: removals}
        return removals

    def _read_on(self) -> bool:
        """Look at more of the log.

        :return: whether there may be more of it.
        """
        removals, before = self._removals, self._removals.to
        if not self._tells():
            return False
        for ops in self._node.oplog.read(removals.to):
            removals.note(ops)
            if removals.to - before >= SLICE:
                return True
        return False

    def _tells(self) -> bool:
        """Whether the log tells of all removals since the logs part."""
        removals = self._removals
        return bool(
            self._node.oplog.first <= removals.after + 1 and len(removals.stamps) <= REMOVALS
        )

    def _make(self, first: int, records: Sequence[Received]) -> Decided:
        """Make in one record what is to be made.

        :raise CommandError: the log did not take it, or this is no primary.
        """
        pipeline = self._node.pipeline
        journal = pipeline.journal
        pipeline.commit()
        if journal.refusal is not None:
            raise CommandError(journal.refusal)
        fates: list[Fate] = []
        reached: dict[Epoch, int] = {}
        for record in records:
            before = reached.setdefault(record.epoch, self.decided_to(record.epoch))
            new = [op for op in record.ops if op[INDEX] > before]
            fates += [self._fate(first, op) for op in new if not _is_of_set(op)]
            if new:
                reached[record.epoch] = new[-1][INDEX]
        for epoch, index in reached.items():
            self._mark(epoch, index)
        undone = journal.undone
        pipeline.commit()
        if journal.undone != undone:
            raise CommandError(journal.said)
        counters = self._node.counters
        count = fates.count
        decided = Decided(
            records[-1].ops[-1][INDEX],
            *(count(fate) for fate in (Fate.TAKEN, Fate.OLDER, Fate.QUEUED, Fate.STAYS)),
        )
        counters.offered_made += decided.made
        counters.offered_left += decided.left
        return decided

    def _mark(self, epoch: Epoch, index: int) -> None:
        if self.decided_to(epoch) < index:
            admin, key = self._node.catalogue.admin, marker_of(epoch)
            version = version_of(admin.find(key)) + 1
            self._node.pipeline.change(admin, SET, key, b"%d" % index, version)

    # -- one operation -----------------------------------------------------------------------

    def _fate(self, first: int, op: Op) -> Fate:
        database = self._node.catalogue.by_id.get(op[DATABASE])
        stamps = self._node.stamps
        if (
            database is None
            or database.number >= first
            or not self._may_be_offered(database, op)
            or op[STAMP] > stamps.catch_up() + AHEAD
        ):
            return Fate.STAYS
        if database.strategy == b"newer":
            return self._newer(database, op)
        if database.strategy == b"arbiter":
            return self._conflict(database, op)
        return Fate.STAYS

    def _may_be_offered(self, database: Database, op: Op) -> bool:
        key, admin = op[KEY], self._node.catalogue.admin
        if op[KIND] not in (SET, REMOVE) or op[VERSION] == IN_RESOLUTION:
            return False
        if key == TOKEN_KEY or key.startswith(CONFLICT_PREFIX):
            return False
        if version_of(database.find(key)) == IN_RESOLUTION and database.strategy == b"newer":
            return False
        of_server = key.startswith(b"$$") or key in self._node.catalogue.by_name
        return database is not admin or not of_server

    def _newer(self, database: Database, op: Op) -> Fate:
        key, entry = op[KEY], database.find(op[KEY])
        if entry is not None:
            last = entry[STAMP]
        elif self._tells():
            last = self._removals.stamps.get((database.number, key), 0)
        else:
            return Fate.STAYS
        if op[STAMP] <= last:
            return Fate.OLDER
        if op[KIND] == SET:
            version = version_of(entry) + 1
            self._change(database, op, version)
        elif entry is not None and entry[VALUE] is not None:
            self._change(database, op, op[VERSION])
        return Fate.TAKEN

    def _change(self, database: Database, op: Op, version: int) -> None:
        pipeline = self._node.pipeline
        made = pipeline.journal.change(database, op[KIND], op[KEY], op[VALUE], version, op[STAMP])
        pipeline.notify(database, made)

    def _conflict(self, database: Database, op: Op) -> Fate:
        key, value = op[KEY], op[VALUE]
        if op[KIND] != SET or value is None or key.startswith(b"$$"):
            return Fate.STAYS
        try:
            arbitration.queue(self._node, database, key, value, op[VERSION] - 1)
        except CommandError:
            return Fate.STAYS
        return Fate.QUEUED


def _is_of_set(op: Op) -> bool:
    """Whether an operation is only of the set that had it: there is nothing to decide."""
    if op[KIND] == BEGIN_EPOCH:
        return True
    return op[DATABASE] == ADMIN_ID and op[KEY].startswith(SERVERS_OWN)


def _refused(reason: Failure) -> None:
    reason.trap(StorageUnavailable)
    raise CommandError(str(reason.value).encode())
