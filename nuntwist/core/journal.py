"""The batch under way and the log it goes to: making operations, logging them, taking back.

``index`` is the last operation made, ``revealed`` the last that clients may know of. They
differ while a batch is under way, and for longer where the log answers "durable later" (it
gives a Deferred); those batches wait in ``in_flight`` with what is needed to take them back.

In a set, what is durable may still be taken back until a majority has it (``undo``); where
clients are to know only of what is committed, that decides what is revealed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.core.catalogue import Catalogue
from nuntwist.core.counters import Counters
from nuntwist.core.database import TOMBSTONE_VERSION, Database
from nuntwist.core.undo import Batch, Undo, taken_from
from nuntwist.core.waiting import Waiting
from nuntwist.errors import CommandError, OutcomeUnknown, StorageUnavailable
from nuntwist.interfaces import IOplog
from nuntwist.values import DATABASE, INDEX, KEY, NO_EPOCH, REMOVE, VALUE, Op, StampClock

Failed = StorageUnavailable | OutcomeUnknown


def failed(reason: Failure) -> Failed:
    """Why the log has failed.

    :raise Exception: it was something else.
    """
    error = reason.value
    if not isinstance(error, (StorageUnavailable, OutcomeUnknown)):
        reason.raiseException()
    return error


Concerned = dict[tuple[Database, bytes], int]
"""Keys, each with the index of an operation on it."""


def _nothing() -> None:
    """Nobody has to be told."""


def _nowhere() -> None:
    """Nothing is held back."""


class Journal:
    """Makes operations, and keeps what was made and the log in step.

    :param oplog: open, and replayed into ``catalogue``.
    :ivar ops: the operations of the batch under way; the hot road adds to it directly, and
        to ``replaced`` what each took the place of.
    :ivar said: what the writers concerned were told of the last failure.
    :ivar lost: takes back the operations from an index on, and gives the text for their
        writers; set by who has to send it.
    :ivar let_go: called when the log is durable further; set in the same way.
    :ivar undo: what is durable and may still be taken back; None for a node alone.
    :ivar alone_index: the last operation that stood alone and is applied.
    :ivar unapplied: how many operations are given to the log that stand alone, so that they are
        not applied yet.
    :ivar held_back: gives the index after which the log must keep what it has, though snapshots
        have it; None for no such index.
    :ivar undone: how many times something was taken back.
    :ivar in_trouble: whether the last write failed, while the next may go through.
    :ivar troubled: called each time a write fails.
    :ivar refusal: why writes are refused (an error text), or None.
    """

    _log = Logger()

    def __init__(
        self, oplog: IOplog, catalogue: Catalogue, stamps: StampClock, counters: Counters
    ) -> None:
        self.oplog = oplog
        self.stamps = stamps
        self.epoch = NO_EPOCH
        self.index: int = oplog.last.index
        self.revealed: int = self.index
        self.ops: list[Op] = []
        self.replaced: list[Op | None] = []
        self.refusal: bytes | None = None
        self.undo: Undo | None = None
        self.alone_index = 0
        self.unapplied = 0
        self.held_back: Callable[[], int | None] = _nowhere
        self.undone = 0
        self.said = b""
        self.lost: Callable[[Failed, int], bytes] = self._lost_alone
        self.let_go: Callable[[], None] = _nothing
        self._alone = DeferredLock()
        self.in_flight: deque[Batch] = deque()
        self.in_trouble = False
        self.troubled: Callable[[], None] = _nothing
        self._catalogue = catalogue
        self._counters = counters
        self._tombstones: list[Op] = []
        self._awaited = Waiting()
        self._settling = Waiting()

    @property
    def durable_index(self) -> int:
        """The last index that is durable here."""
        return self.revealed if self.undo is None else self.undo.durable

    @property
    def by_commit(self) -> bool:
        """Whether clients are told only of what a majority has; may be changed at any time in a
        node of a set."""
        return self.undo is not None and self.undo.by_commit

    @by_commit.setter
    def by_commit(self, by_commit: bool) -> None:
        if self.undo is None:
            raise ValueError("this node is in no set")
        self.undo.by_commit = by_commit
        self.show()
        self.let_go()

    def durable(self, index: int, writer: bool = False) -> Deferred[None]:
        """Wait until clients may know of an operation: the log has it, or a majority where that
        is asked for.

        :param writer: whether it was made by the one who waits.
        :return: fires with None when all up to ``index`` is revealed; fails with
            StorageUnavailable where it has been taken back, and for a writer when this node is
            no longer primary.
        """
        return self._awaited.wait(index, self.revealed, self.index, writer)

    def settled(self, index: int) -> Deferred[None]:
        """Wait until the log has an operation, and in a set a majority, too.

        :return: as of :meth:`durable`; whoever waits no longer may fire it.
        """
        if self.undo is None:
            return self.durable(index)
        return self._settling.wait(index, self.undo.settled, self.index)

    def give_up(self, said: bytes) -> None:
        """Tell the writers who wait that nobody knows what will become of their operations.

        :param said: the text for them.
        """
        self.said = said
        self._awaited.fail_writers(said.decode())

    def change(
        self,
        database: Database,
        kind: int,
        key: bytes,
        value: bytes | None,
        version: int,
        stamp: int = 0,
    ) -> Op:
        """Make an operation on a key, apply it, and put it on the batch.

        :param stamp: when it was made, where that is not now; the last operation of a batch must
            be of now.
        :raise CommandError: writes are refused.
        """
        if self.refusal is not None:
            raise CommandError(self.refusal)
        if kind == REMOVE:
            value, version = None, TOMBSTONE_VERSION
        self.index += 1
        stamp = stamp or self.stamps.next()
        op: Op = (value, version, self.index, stamp, kind, database.number, key)
        self.replaced.append(database.store(op))
        self.ops.append(op)
        if value is None:
            self._tombstones.append(op)
        return op

    def alone(self, decide: Callable[[], Deferred[Any]]) -> Deferred[Any]:
        """Decide and log what changes more than one key of one database: one such change at a
        time, because it is applied only when it is durable, and the next must see it.

        :param decide: checks, makes the operation and appends it; called now or when it is its
            turn.
        :return: as what it gives; fails with what it raises.
        """
        done: Deferred[Any] = self._alone.run(decide)
        return done

    def make(
        self,
        kind: int,
        database: int | None,
        key: bytes,
        value: bytes | None,
        version: int = 0,
        place: int = 0,
    ) -> Op:
        """Make an operation for :meth:`append_alone`; without a database it has a new id.

        The batch under way must be empty.

        :param place: among those that are appended together.
        :raise CommandError: writes are refused.
        """
        if self.refusal is not None:
            raise CommandError(self.refusal)
        index = self.index + 1 + place
        number = index if database is None else database
        return (value, version, index, self.stamps.next(), kind, number, key)

    def append_alone(self, op: Op, apply: Callable[[], object]) -> Deferred[None]:
        """Log an operation that is not one key of one database: durable before applied.

        As :meth:`append_together` with one.
        """
        return self.append_together([op], apply)

    def append_together(self, ops: list[Op], apply: Callable[[], object]) -> Deferred[None]:
        """Log operations of which all or none are to be, durable before they are applied.

        :param ops: the first as :meth:`make` gave it, the others with the indexes after it.
        :param apply: moves the state.
        :return: fires with None when all that is done; fails with CommandError where it was
            not logged, and then nothing has changed.
        """
        done: Deferred[None] = Deferred()
        try:
            durable = self.oplog.append(self.epoch, ops)
        except (StorageUnavailable, OutcomeUnknown) as error:
            done.errback(CommandError(self.refuse(error)))
            return done
        first, last = ops[0][INDEX], ops[-1][INDEX]
        self.index = last
        self.unapplied += len(ops)

        def kept(_: object) -> None:
            # In a set the log may go no further than to others; what is revealed is told last.
            self.reveal(last)
            if self.undo is not None:
                self.undo.keep_alone(ops, self._catalogue)
            apply()
            self.unapplied -= len(ops)
            self.let_go()
            self.tell_grown()
            self.alone_index = last
            done.callback(None)

        if durable is None:
            kept(None)
            return done

        def broken(reason: Failure) -> None:
            self.unapplied -= len(ops)
            done.errback(CommandError(self.lost(failed(reason), first)))

        durable.addCallbacks(kept, broken)
        return done

    def write(self) -> Deferred[None] | None:
        """Give the batch to the log, and begin a new one.

        :return: as :meth:`IOplog.append`; what is not durable yet is the last of
            ``in_flight``.
        :raise StorageUnavailable: it was not kept and has been taken back.
        :raise OutcomeUnknown: it may have been kept; it has been taken back in memory.
        """
        ops, replaced = self.ops, self.replaced
        self.ops, self.replaced = [], []
        try:
            durable: Deferred[None] | None = self.oplog.append(self.epoch, ops)
        except (StorageUnavailable, OutcomeUnknown):
            self.take_back(ops, replaced)
            raise
        if durable is None:
            if self.undo is not None:
                self.undo.keep(Batch(ops, replaced))
            self.reveal(ops[-1][INDEX])
        else:
            self.in_flight.append(Batch(ops, replaced))
        return durable

    def forget(self, index: int, keep: int | None = None) -> Deferred[int]:
        """Let the log drop what nobody needs any more; see :meth:`IOplog.forget`."""
        held_back = self.held_back()
        if held_back is not None:
            index = min(index, held_back)
        forgotten: Deferred[int] = self.oplog.forget(index, keep)
        return forgotten

    def start_over(self, index: int) -> None:
        """The state is another one, and the log begins after it: nothing of what was under way
        is, and nothing can be taken back.

        :param index: of the last operation of that state.
        """
        self.undone += 1
        self.ops, self.replaced = [], []
        self.in_flight.clear()
        self._tombstones = []
        self.index = self.revealed = index
        if self.undo is not None:
            committed = min(self.undo.committed, index)
            self.undo.start_over(index, "a copy of all has brought it")
            self.undo.commit(committed)
            self.revealed = self.undo.visible

    def bury(self, tombstone: Op) -> None:
        """Let a removal that was stored be forgotten when it is durable."""
        self._tombstones.append(tombstone)

    def reveal(self, index: int) -> None:
        """The log is durable up to ``index``."""
        if self.in_trouble:
            self.in_trouble = False
            self._log.info("the log takes writes again")
        if self.undo is not None:
            self._note_durable(self.undo, index)
            return
        self.revealed = max(self.revealed, index)
        while self.in_flight and self.in_flight[0].ops[-1][INDEX] <= self.revealed:
            self.in_flight.popleft()
        if self._tombstones:
            self._purge()
        self.wake()

    def _note_durable(self, undo: Undo, index: int) -> None:
        undo.durable = max(undo.durable, index)
        while self.in_flight and self.in_flight[0].ops[-1][INDEX] <= undo.durable:
            undo.keep(self.in_flight.popleft())
        self.show()

    def tell_grown(self) -> None:
        """Tell whoever counts for the set that more is durable here; when all is done that
        follows from it here, as the next operation may be made by that."""
        if self.undo is not None:
            self.undo.grown()

    def commit(self, index: int) -> None:
        """A majority has all up to an index, so a node in a set keeps it for good."""
        if self.undo is not None:
            self.undo.commit(index)
            self.show()

    def show(self) -> None:
        """Reveal what a node in a set may reveal by now."""
        if self.undo is None:
            return
        if self.undo.visible > self.revealed:
            self.revealed = self.undo.visible
            if self._tombstones:
                self._purge()
            self.wake()
        elif self._settling:
            self.wake()

    def stay(self, tombstone: Op, database: Database) -> None:
        """Let a removal that was stored be forgotten, now or when it is revealed."""
        if tombstone[INDEX] > self.revealed:
            self.bury(tombstone)
        else:
            database.purge(tombstone)

    def take_off(self, index: int) -> Concerned:
        """Take back all after an index, which the log has no more, in a node in a set: in flight
        or kept; what is left is durable.

        :return: the keys concerned, with the first of the operations undone.
        """
        if self.undo is None:
            raise ValueError("this node keeps nothing to be taken back")
        concerned: Concerned = {}
        while self.in_flight and self.in_flight[-1].ops[-1][INDEX] > index:
            self._undo(taken_from(self.in_flight[-1], index), concerned)
            if not self.in_flight[-1].ops:
                self.in_flight.pop()
        self._undo(self.undo.after(index), concerned)
        for database in {database for database, _ in concerned}:
            database.mend_conflicts()
        self._go_back(index)
        for database in self._catalogue.by_id.values():
            database.last_index = min(database.last_index, index)
        self.undo.durable = min(self.undo.durable, index)
        self.revealed = min(self.revealed, index)
        return concerned

    def _undo(self, pairs: Iterator[tuple[Op, Op | None]], concerned: Concerned) -> None:
        for op, old in pairs:
            database = self._catalogue.by_id.get(op[DATABASE])
            if database is None:
                continue
            if old is not None and old[VALUE] is None and old[INDEX] <= self.revealed:
                # A tombstone that is forgotten by now.
                old = None
            database.restore(op[KEY], old)
            concerned[database, op[KEY]] = op[INDEX]

    def cut(self, first: int) -> None:
        """Take back the operations from an index on, those of the batch under way too."""
        going = [Batch(self.ops, self.replaced)] if self.ops else []
        self.ops, self.replaced = [], []
        while self.in_flight and self.in_flight[-1].ops[0][INDEX] >= first:
            going.append(self.in_flight.pop())
        for batch in going:
            self.take_back(batch.ops, batch.replaced)
        self._go_back(first - 1)
        for database in self._catalogue.by_id.values():
            database.last_index = min(database.last_index, self.index)

    def take_back(self, ops: Sequence[Op], replaced: Sequence[Op | None]) -> None:
        """Undo operations in memory, the last first."""
        for op, old in zip(reversed(ops), reversed(replaced), strict=True):
            database = self._catalogue.by_id.get(op[DATABASE])
            if database is not None:
                database.restore(op[KEY], old)
                database.last_index = min(database.last_index, ops[0][INDEX] - 1)
        self._go_back(ops[0][INDEX] - 1)

    def _go_back(self, index: int) -> None:
        """What came after an index did not happen."""
        self.undone += 1
        self.index = min(self.index, index)
        self._tombstones = [op for op in self._tombstones if op[INDEX] <= self.index]
        if self.undo is not None:
            self.undo.gone_back(index)

    def _lost_alone(self, error: Failed, first: int) -> bytes:
        self.cut(first)
        return self.refuse(error)

    def refuse(self, error: BaseException) -> bytes:
        """Count and log a failed write; refuse all later ones where the log is lost.

        :return: the text for the writers concerned.
        """
        self._counters.failed_batches += 1
        self.troubled()
        reason = str(error).encode()
        unknown = isinstance(error, OutcomeUnknown)
        if unknown or self.oplog.failed is not None:
            if self.refusal is None:
                self._log.critical(
                    "the log failed, so no more writes are taken; reads and watches go on;"
                    " check the disk and restart the node: {error}",
                    error=str(error),
                )
            self.refusal = b"storage unavailable: the log failed, the node must be restarted"
            self.said = (b"outcome unknown: " if unknown else b"storage unavailable: ") + reason
            return self.said
        if not self.in_trouble:
            self.in_trouble = True
            self._log.error(
                "writes were refused because the log could not take them; free space or mend the"
                " disk, nothing has to be restarted: {error}",
                error=str(error),
            )
        self.said = b"storage unavailable: " + reason
        return self.said

    def wake(self) -> None:
        """Tell those who wait for the log, where it has come as far, or will not any more.

        Where operations were taken back this comes last, when all is as it will stay.
        """
        if self._awaited:
            self._awaited.tell(self.revealed, self.index)
        if self._settling and self.undo is not None:
            self._settling.tell(self.undo.settled, self.index)

    def _purge(self) -> None:
        left = []
        for op in self._tombstones:
            database = self._catalogue.by_id.get(op[DATABASE])
            if op[INDEX] > self.revealed:
                left.append(op)
            elif database is not None:
                database.purge(op)
        self._tombstones = left
