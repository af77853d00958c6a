"""Following a primary: its records come in where the operations of clients would be appended.

It is the same road from there on. Records are appended to the log here, applied, told to
watchers, and revealed when they are durable here. What is no more than one plain key is applied
as it is appended; anything else (databases that come, go or are named, users and rights) is
applied when it is durable, as on the primary, and what comes after it waits for it in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nuntwist.core.enact import enact
from nuntwist.core.journal import Batch, failed
from nuntwist.interfaces import Received
from nuntwist.values import (
    DATABASE,
    INDEX,
    KEY,
    KIND,
    REMOVE,
    SET,
    STAMP,
    VALUE,
    Epoch,
    Op,
    Position,
)

if TYPE_CHECKING:
    from nuntwist.core.node import Node


class Following:
    """The mouth for what another node has decided.

    :param node: a secondary: nothing is decided here meanwhile.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._journal = node.pipeline.journal
        self._unapplied: deque[Op] = deque()

    @property
    def last(self) -> Position:
        """Where the log ends."""
        last: Position = self._journal.oplog.last
        return last

    def reigns(self, count: int) -> Sequence[tuple[Epoch, int]]:
        """The last epochs of the log, rising, each with the index of its first operation."""
        reigns: Sequence[tuple[Epoch, int]] = self._journal.oplog.reigns(count)
        return reigns

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
