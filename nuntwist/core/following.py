"""The part of a node in a set: leading it, or following its primary.

The records of a primary come in where the operations of clients would be appended. It is the same
road from there on: they are appended to the log here, applied, told to watchers, and revealed when
they are durable here; what may be applied when is :mod:`nuntwist.core.applying`.

What no majority has may be taken off again (:meth:`Following.cut`): first off the log, which is
safe whatever ends the process, then in memory, in the same turn of the reactor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.core import access
from nuntwist.core.applying import Applying
from nuntwist.core.database import MEMBERS_KEY
from nuntwist.core.enact import enact
from nuntwist.core.forwarding import NO_PRIMARY, NOT_PRIMARY
from nuntwist.core.journal import failed
from nuntwist.core.undo import Undo
from nuntwist.errors import NeedsCopy, StorageUnavailable, TakenBack
from nuntwist.interfaces import Received
from nuntwist.values import (
    ADMIN_ID,
    BEGIN_EPOCH,
    INDEX,
    NO_EPOCH,
    SET,
    STAMP,
    VERSION,
    Epoch,
    Op,
    Position,
)

if TYPE_CHECKING:
    from nuntwist.core.node import Node

_stamp = itemgetter(STAMP)

TOO_FEW = b"too few replicas: %d of %d follow the primary"


class Following:
    """The node as its set needs it.

    :ivar cut_off: called when something was cut off the log.
    :param node: what is decided here is decided by it as the primary; while it stands by,
        nothing is.
    """

    _log = Logger()

    def __init__(self, node: Node) -> None:
        self._node = node
        self._journal = node.pipeline.journal
        if self._journal.undo is None:
            self._journal.undo = Undo(self._journal.revealed, node.limits.undo)
        self._undo = self._journal.undo
        self._applying = Applying(node, self._undo)
        self.cut_off: Callable[[], None] = _nothing

    @property
    def last(self) -> Position:
        """Where the log ends."""
        last: Position = self._journal.oplog.last
        return last

    @property
    def durable(self) -> int:
        """The last index that is durable here."""
        return self._undo.durable

    @property
    def committed(self) -> int:
        """The highest index that a majority is known to have."""
        return self._undo.committed

    @property
    def grown(self) -> Callable[[], None]:
        """What is called when more is durable here."""
        return self._undo.grown

    @grown.setter
    def grown(self, grown: Callable[[], None]) -> None:
        self._undo.grown = grown

    @property
    def in_trouble(self) -> bool:
        """Whether the log takes no writes, for a while or until a restart."""
        return self._journal.in_trouble or self._journal.oplog.failed is not None

    @property
    def troubled(self) -> Callable[[], None]:
        """What is called when a write of this node as the primary fails."""
        return self._journal.troubled

    @troubled.setter
    def troubled(self, troubled: Callable[[], None]) -> None:
        self._journal.troubled = troubled

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
        if self._applying.waits or journal.oplog.failed is not None:
            raise StorageUnavailable(journal.oplog.failed or "the log is not on the disk yet")
        journal.refusal = None
        node.lead(epoch)
        return self._log_alone(journal.make(BEGIN_EPOCH, ADMIN_ID, b"", b""))

    def stand_by(self, primary: str | None) -> None:
        """Take no writes of clients. Where this node was the primary, writers whose answers are
        held are told that the outcome is unknown.

        :param primary: where the primary is; None where there is none.
        """
        pipeline, led = self._node.pipeline, self._node.info.role == "Primary"
        pipeline.commit()
        self._node.info.role = "StartingUp" if primary is None else "Secoundary"
        if self._journal.oplog.failed is None:
            self._journal.refusal = NO_PRIMARY if primary is None else NOT_PRIMARY
        if led:
            pipeline.give_up()
            pipeline.concerns.give_up()

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
        # Who is a member is changed where clients may write nothing, too: that may be why.
        refusal, journal.refusal = journal.refusal, None
        try:
            return self._log_alone(journal.make(SET, ADMIN_ID, MEMBERS_KEY, members, version))
        finally:
            journal.refusal = journal.refusal or refusal

    def _log_alone(self, op: Op) -> int:
        refused: list[Failure] = []
        self._journal.append_alone(op, lambda: enact(self._node, op)).addErrback(refused.append)
        if refused:
            raise StorageUnavailable(str(refused[0].value))
        return op[INDEX]

    def pause(self) -> None:
        """Take no more writes of clients, as if there were no primary."""
        self._node.pipeline.commit()
        if self._journal.refusal is None:
            self._journal.refusal = NO_PRIMARY

    def guard(self, in_step: int) -> None:
        """Say how many replicas follow this primary, for those who refuse writes without."""
        journal, needed = self._journal, self._node.limits.min_replicas
        self._node.pipeline.concerns.advance()
        if self._node.info.role != "Primary" or not needed or journal.oplog.failed is not None:
            return
        enough = in_step >= needed
        if enough == (journal.refusal is None):
            return
        journal.refusal = None if enough else TOO_FEW % (in_step, needed)
        if enough:
            self._log.info("enough replicas follow again: writes are taken")
        else:
            self._log.warn(
                "{in_step} replicas follow, {needed} must (NUN_MIN_REPLICAS): writes are refused",
                in_step=in_step,
                needed=needed,
            )

    def commit(self, index: int) -> None:
        """A majority has all up to an index: that is never taken off, and may be revealed."""
        self._journal.commit(index)
        self._journal.let_go()

    def begin_anew(self) -> None:
        """Be in another set: nothing that is known of the one before counts."""
        self._undo.begin_anew()

    def cut(self, index: int) -> None:
        """Take off what comes after an index: off the log, into a file of its own, and in memory.

        :raise NeedsCopy: some of it cannot be taken back. Nothing has changed.
        :raise StorageUnavailable: it could not be done. Nothing has changed; where the log has
            ``failed``, a restart finds what is left of it.
        :raise ValueError: the log does not part there, nor ``CorruptData``: it is damaged.
            Nothing has changed.
        """
        self._node.pipeline.commit()
        journal = self._journal
        oplog = journal.oplog
        if index >= oplog.last.index:
            return
        self._undo.check(index)
        self._check_snapshots(index)
        epoch = oplog.epoch_at(index + 1) or NO_EPOCH
        name = f"divergent-{epoch.number}-{index + 1}.op"
        count = oplog.cut(index, name)
        self._applying.cut(index)
        told = self._node.pipeline.take_off(index)
        self._apply()
        journal.let_go()
        access.review(self._node)
        counters = self._node.counters
        counters.tails_cut += 1
        counters.operations_undone += count
        self._log.warn(
            "{count} operations after {index} were taken off, because the set does not have them;"
            " watchers were told of {told} keys anew; nun-db oplog dump {file}, in the data"
            " directory, shows what was taken off",
            count=count,
            index=index,
            told=told,
            file=name,
        )
        self.cut_off()

    def _check_snapshots(self, index: int) -> None:
        """Refuse to go back before a snapshot of this node: a restart would find it.

        :raise NeedsCopy: there is one.
        """
        held = self._node.storage.held.values()
        reached = max((header.index for header in held), default=0)
        if reached > index:
            raise NeedsCopy(f"a snapshot of this node holds operations up to {reached}")

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
        new = [op for record in records for op in record.ops]
        # Not the last one's: what was offered and made again keeps the stamp it had.
        self._node.foreign_stamps.observe(max(map(_stamp, new)), new)
        self._applying.take(new)
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
            if not isinstance(error, TakenBack):
                self._applying.give_up()
            journal.lost(error, first)
            done.errback(error)

        durable.addCallbacks(kept, lost)
        return done

    def _reveal(self, index: int) -> None:
        # What is applied only now is durable already.
        self._journal.reveal(index)
        self._apply()
        self._journal.let_go()
        self._journal.tell_grown()

    def _apply(self) -> None:
        self._applying.apply()
        self._node.desk.trays.applied()


def _nothing() -> None:
    """Nobody has to be told."""
