"""Applying what a primary has logged, in its order, as far as that may be done by now.

::

    an operation                            is applied
    on one plain key, or a marker           at once, though it may be taken back
    anything else: databases that come,     when it is durable here, as on the primary
    go or are named, users, rights

What comes after one that has to wait waits behind it, in memory. What is applied is kept with what
it took the place of, for as long as it may be taken back: in flight until it is durable here, then
as the set's (:mod:`nuntwist.core.undo`). So a batch ends where what is durable ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nuntwist.core.database import MARKERS
from nuntwist.core.enact import enact
from nuntwist.core.undo import Batch, Undo
from nuntwist.values import DATABASE, INDEX, KEY, KIND, REMOVE, SET, VALUE, Op

if TYPE_CHECKING:
    from nuntwist.core.node import Node


class Applying:
    """See the module's header.

    :param node: that follows.
    :param undo: of its journal.
    """

    def __init__(self, node: Node, undo: Undo) -> None:
        self._node = node
        self._journal = node.pipeline.journal
        self._undo = undo
        self._waiting: deque[Op] = deque()

    @property
    def waits(self) -> bool:
        """Whether there are operations in the log that are not applied."""
        return bool(self._waiting)

    def take(self, ops: Sequence[Op]) -> None:
        """Operations are in the log behind all others; :meth:`apply` is to follow."""
        self._waiting.extend(ops)

    def cut(self, index: int) -> None:
        """What comes after an index is in the log no more."""
        while self._waiting and self._waiting[-1][INDEX] > index:
            self._waiting.pop()

    def give_up(self) -> None:
        """What waits is not in the log."""
        self._waiting.clear()

    def apply(self) -> None:
        """Apply what may be applied by now."""
        journal, waiting, durable = self._journal, self._waiting, self._undo.durable
        batch = Batch([], [])
        while waiting:
            op = waiting[0]
            if batch.ops and batch.ops[-1][INDEX] <= durable < op[INDEX]:
                batch = self._keep(batch)
            if is_plain(op):
                self._store(op, batch)
            elif op[INDEX] <= durable:
                batch = self._keep(batch)
                self._undo.keep_alone([op], self._node.catalogue)
                journal.index = op[INDEX]
                gone = enact(self._node, op)
                if gone is not None:
                    self._node.storage.drop(gone.number)
            else:
                break
            journal.index = op[INDEX]
            waiting.popleft()
        self._keep(batch)

    def _keep(self, batch: Batch) -> Batch:
        """Keep what is applied for as long as it may be taken back.

        :return: the next batch.
        """
        if not batch.ops:
            return batch
        if batch.ops[-1][INDEX] <= self._undo.durable:
            self._undo.keep(batch)
        else:
            self._journal.in_flight.append(batch)
        return Batch([], [])

    def _store(self, op: Op, batch: Batch) -> None:
        database = self._node.catalogue.by_id.get(op[DATABASE])
        if database is None:
            return
        batch.ops.append(op)
        batch.replaced.append(database.store(op))
        if op[VALUE] is None:
            self._journal.stay(op, database)
        self._node.pipeline.notify(database, op)


def is_plain(op: Op) -> bool:
    """Whether an operation is one on a plain key, or of a marker."""
    if op[KIND] not in (SET, REMOVE):
        return False
    # Markers of forwarded writes come with most records.
    return not op[KEY].startswith(b"$$") or op[KEY].startswith(MARKERS)
