"""The part of a node in a set: leading it, or following its primary.

The records of a primary come in where the operations of clients would be appended. It is the same
road from there on: they are appended to the log here, applied, told to watchers, and revealed when
they are durable here. What is no more than one plain key is applied as it is appended; anything
else (databases that come, go or are named, users and rights) is applied when it is durable, as on
the primary, and what comes after it waits for it in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nuntwist.core.enact import enact
from nuntwist.core.journal import Batch, failed
from nuntwist.errors import StorageUnavailable
from nuntwist.interfaces import Received
from nuntwist.values import (
    ADMIN_ID,
    BEGIN_EPOCH,
    DATABASE,
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
    Position,
)

if TYPE_CHECKING:
    from nuntwist.core.node import Node


MEMBERS_KEY = b"$$members"
"""The key of ``$admin`` that says who is in the set; only the primary writes it."""
NO_PRIMARY = b"no primary"
NOT_PRIMARY = b"not primary"


class Following:
    """The node as its set needs it.

    :param node: what is decided here is decided by it as the primary; while it stands by,
        nothing is.
    :ivar committed: the highest index that a majority is known to have.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._journal = node.pipeline.journal
        self._unapplied: deque[Op] = deque()
        self.committed = 0

    @property
    def last(self) -> Position:
        """Where the log ends."""
        last: Position = self._journal.oplog.last
        return last

    @property
    def durable(self) -> int:
        """The last index that is durable here."""
        return self._journal.revealed

    def reigns(self, count: int) -> Sequence[tuple[Epoch, int]]:
        """The last epochs of the log, rising, each with the index of its first operation."""
        reigns: Sequence[tuple[Epoch, int]] = self._journal.oplog.reigns(count)
        return reigns

    def lead(self, epoch: Epoch) -> int:
        """Be the primary: log the first operation of the epoch, then take writes.

        :return: its index.
        :raise StorageUnavailable: it could not be logged, or what was followed is not durable
            yet.
        """
        node, journal = self._node, self._journal
        node.pipeline.commit()
        if self._unapplied or journal.oplog.failed is not None:
            raise StorageUnavailable(journal.oplog.failed or "the log is not on the disk yet")
        journal.refusal = None
        node.lead(epoch)
        return self._log_alone(journal.make(BEGIN_EPOCH, ADMIN_ID, b"", b""))

    def stand_by(self, primary: str | None) -> None:
        """Take no writes of clients.

        :param primary: where the primary is; None where there is none.
        """
        self._node.pipeline.commit()
        self._node.info.role = "StartingUp" if primary is None else "Secoundary"
        if self._journal.oplog.failed is None:
            self._journal.refusal = NO_PRIMARY if primary is None else NOT_PRIMARY

    @property
    def members(self) -> bytes | None:
        """Who is in the set, as the state has it."""
        return self._node.catalogue.admin.value(MEMBERS_KEY)

    @property
    def holds_data(self) -> bool:
        """Whether there is a database but for ``$admin``."""
        return len(self._node.catalogue.by_name) > 1

    def configure(self, members: bytes) -> int:
        """Log the members of the set.

        :return: the index of that operation.
        :raise StorageUnavailable: it could not be logged.
        """
        node, journal = self._node, self._journal
        node.pipeline.commit()
        entry = node.catalogue.admin.find(MEMBERS_KEY)
        version = 0 if entry is None else entry[VERSION] + 1
        return self._log_alone(journal.make(SET, ADMIN_ID, MEMBERS_KEY, members, version))

    def _log_alone(self, op: Op) -> int:
        refused: list[Failure] = []
        self._journal.append_alone(op, lambda: enact(self._node, op)).addErrback(refused.append)
        if refused:
            raise StorageUnavailable(str(refused[0].value))
        return op[INDEX]

    def guard(self, in_step: int) -> None:
        """Say how many replicas are in step, for those who refuse writes without."""

    def commit(self, index: int) -> None:
        """A majority has all up to an index."""
        self.committed = max(self.committed, index)

    def cut(self, index: int) -> None:
        """Take off what comes after an index.

        :raise StorageUnavailable: always, so far: the state before it is not known any more.
        """
        raise StorageUnavailable(
            f"this node has operations after {index} that its primary has not: stop it, move its"
            " data directory away, and start it again"
        )

    def follow(self, records: Sequence[Received]) -> Deferred[None] | None:
        """Append records and apply them.

        :param records: they follow on the last operation of the log.
        :return: None where they are durable on return; else fires with None when they are, and
            fails with StorageUnavailable or OutcomeUnknown where they are taken back.
        :raise StorageUnavailable: they were not taken, nor ``OutcomeUnknown``.
        """
        pipeline, journal = self._node.pipeline, self._journal
        pipeline.commit()
        durable: Deferred[None] | None = journal.oplog.append_records(records)
        first, last = records[0].ops[0][INDEX], records[-1].ops[-1]
        self._node.stamps.observe(last[STAMP])
        for record in records:
            self._unapplied.extend(record.ops)
        if durable is None:
            self._reveal(last[INDEX])
            return None
        self._apply()
        done: Deferred[None] = Deferred()

        def kept(_: object) -> None:
            self._reveal(last[INDEX])
            done.callback(None)

        def lost(reason: Failure) -> None:
            error = failed(reason)
            self._unapplied.clear()
            journal.lost(error, first)
            done.errback(error)

        durable.addCallbacks(kept, lost)
        return done

    def _reveal(self, index: int) -> None:
        # What is applied only now is durable already.
        self._journal.reveal(index)
        self._apply()
        self._journal.let_go()

    def _apply(self) -> None:
        """Apply what may be applied, in order."""
        journal, unapplied = self._journal, self._unapplied
        ops: list[Op] = []
        replaced: list[Op | None] = []
        while unapplied:
            op = unapplied[0]
            if _is_plain(op):
                self._store(op, ops, replaced)
            elif op[INDEX] <= journal.revealed:
                gone = enact(self._node, op)
                if gone is not None:
                    self._node.storage.drop(gone.number)
            else:
                break
            journal.index = op[INDEX]
            unapplied.popleft()
        if ops:
            journal.in_flight.append(Batch(ops, replaced))

    def _store(self, op: Op, ops: list[Op], replaced: list[Op | None]) -> None:
        database = self._node.catalogue.by_id.get(op[DATABASE])
        if database is None:
            return
        old = database.store(op)
        if op[INDEX] > self._journal.revealed:
            ops.append(op)
            replaced.append(old)
            if op[VALUE] is None:
                self._journal.bury(op)
        elif op[VALUE] is None:
            database.purge(op)
        self._node.pipeline.notify(database, op)


def _is_plain(op: Op) -> bool:
    return op[KIND] in (SET, REMOVE) and not op[KEY].startswith(b"$$")
