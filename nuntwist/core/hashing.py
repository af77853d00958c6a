"""Keeping the hash of the state (:mod:`nuntwist.core.state_hash`) in a node of a set.

What cannot be taken back any more comes from :mod:`nuntwist.core.undo`, whoever has made it: a
client of this node, a restore, or the primary it follows. So nothing has to be taken out of the sum
again when a tail is cut off. Whenever the state becomes another one (a start, a copy of all, a tail
that goes back behind where the sum began) the hash begins anew, in turns of its own; after a copy
when that is on the disk.

Nothing here holds up the loop: what is noted waits in a list, and is summed up a slice a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from nuntwist.core.state_hash import EVERY, Check, StateHash
from nuntwist.values import Op

if TYPE_CHECKING:
    from nuntwist.core.node import Node


def _nobody_asks(check: Check) -> None:
    """Nobody compares."""


class Hashing:
    """The hash of the state of one node of a set; it begins at once.

    :param node: recovered, and of a set: its journal has an ``undo``.
    :param every: positions from one check to the next.
    :ivar state: the hash.
    :ivar on_check: is told each check that is made.
    """

    def __init__(self, node: Node, every: int = EVERY) -> None:
        self.state = StateHash(every)
        self.on_check: Callable[[Check], None] = _nobody_asks
        self._node = node
        self._journal = node.pipeline.journal
        self._begins = 0
        self._at_work = self._stopped = False
        if self._journal.undo is None:
            raise ValueError("this node is in no set")
        self._journal.undo.finals = self
        self.begin_anew()

    def stop(self) -> None:
        """The node stops."""
        self._stopped = True
        self._begins += 1
        self.state.give_up()

    # -- the beginning -----------------------------------------------------------------------

    def begin_anew(self) -> None:
        """Forget it, and sum up all that there is."""
        self.state.give_up()
        self._begins += 1
        if not self._stopped:
            self._node.pipeline.streams.work(self._begin(self._begins))

    def _begin(self, begun: int) -> Iterator[Deferred[Any] | None]:
        """Sum up the state as it is in a turn of this."""
        pipeline, journal = self._node.pipeline, self._journal
        pipeline.commit()
        while journal.unapplied and begun == self._begins:
            # What stands alone has its index, and is applied only when it is durable.
            if journal.oplog.failed is not None:
                return
            yield journal.oplog.sync().addErrback(lambda _: None)
            pipeline.commit()
        if begun == self._begins:
            yield from self.state.begin(self._node.catalogue, journal.index)

    # -- what happens ------------------------------------------------------------------------

    def final(self, ops: Sequence[Op], replaced: Sequence[Op | None]) -> None:
        """Operations on keys cannot be taken back any more."""
        self.state.note(ops, replaced)
        if not self._at_work and (self.state.is_due or self.state.has_checks):
            self._at_work = True
            self._node.pipeline.streams.work(self._sum_up())

    def lasting(self, op: Op, old: Op | None) -> None:
        """A database was created, dropped or named."""
        self.state.note_lasting(op, old)

    def gone_back(self, index: int) -> None:
        """What came after an index was taken back."""
        if index < self.state.began_at:
            self.begin_anew()

    def started_over(self) -> None:
        """The state has become that of a copy: the hash begins anew when the copy is kept
        (:meth:`begin_anew`), as the node counts for others only then, and both would hold up each
        other."""
        self.state.give_up()
        self._begins += 1

    def _sum_up(self) -> Iterator[None]:
        # From a turn of its own, not from within what has made something final.
        yield None
        while self.state.is_due or self.state.has_checks:
            if self.state.is_due:
                self.state.step()
            for check in self.state.take_checks():
                self.on_check(check)
            yield None
        self._at_work = False
