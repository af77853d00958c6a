"""The batch under way and the log it goes to: making operations, logging them, taking back.

``index`` is the last operation made, ``revealed`` the last that clients may know of. They
differ while a batch is under way, and for longer where the log answers "durable later" (it
gives a Deferred); those batches wait in ``in_flight`` with what is needed to take them back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.core.catalogue import Catalogue
from nuntwist.core.counters import Counters
from nuntwist.core.database import TOMBSTONE_VERSION, Database
from nuntwist.errors import CommandError, OutcomeUnknown, StorageUnavailable
from nuntwist.interfaces import IOplog
from nuntwist.values import DATABASE, INDEX, KEY, NO_EPOCH, REMOVE, Op, StampClock

Failed = StorageUnavailable | OutcomeUnknown


def failed(reason: Failure) -> Failed:
    """Why the log has failed.

    :raise Exception: it was something else.
    """
    error = reason.value
    if not isinstance(error, (StorageUnavailable, OutcomeUnknown)):
        reason.raiseException()
    return error


def _nothing() -> None:
    """Nobody has to be told."""


class Batch:
    """Operations given to the log together.

    :ivar replaced: what each took the place of.
    """

    __slots__ = ("ops", "replaced")

    def __init__(self, ops: list[Op], replaced: list[Op | None]) -> None:
        self.ops = ops
        self.replaced = replaced


class Journal:
    """Makes operations, and keeps what was made and the log in step.

    :param oplog: open, and replayed into ``catalogue``.
    :ivar ops: the operations of the batch under way; the hot road adds to it directly, and
        to ``replaced`` what each took the place of.
    :ivar said: what the writers concerned were told of the last failure.
    :ivar lost: takes back the operations from an index on, and gives the text for their
        writers; set by who has to send it.
    :ivar let_go: called when the log is durable further; set in the same way.
    :ivar undone: how many times something was taken back.
    :ivar in_trouble: whether the last write failed, while the next may go through.
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
        self.undone = 0
        self.said = b""
        self.lost: Callable[[Failed, int], bytes] = self._lost_alone
        self.let_go: Callable[[], None] = _nothing
        self._alone = DeferredLock()
        self.in_flight: deque[Batch] = deque()
        self.in_trouble = False
        self._catalogue = catalogue
        self._counters = counters
        self._tombstones: list[Op] = []
        self._awaited: list[tuple[int, Deferred[None]]] = []

    def durable(self, index: int) -> Deferred[None]:
        """Wait for the log.

        :return: fires with None when it is durable up to ``index``; fails with
            StorageUnavailable where what was not durable has been taken back.
        """
        done: Deferred[None] = Deferred()
        if index <= self.revealed:
            done.callback(None)
        elif index > self.index:
            done.errback(StorageUnavailable("storage unavailable: the log failed"))
        else:
            self._awaited.append((index, done))
        return done

    def change(
        self, database: Database, kind: int, key: bytes, value: bytes | None, version: int
    ) -> Op:
        """Make an operation on a key, apply it, and put it on the batch.

        :raise CommandError: writes are refused.
        """
        if self.refusal is not None:
            raise CommandError(self.refusal)
        if kind == REMOVE:
            value, version = None, TOMBSTONE_VERSION
        self.index += 1
        op: Op = (value, version, self.index, self.stamps.next(), kind, database.number, key)
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
        if durable is None:
            self.reveal(last)
            apply()
            self.let_go()
            done.callback(None)
            return done

        def kept(_: object) -> None:
            self.reveal(last)
            apply()
            self.let_go()
            done.callback(None)

        def broken(reason: Failure) -> None:
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
            self.reveal(ops[-1][INDEX])
        else:
            self.in_flight.append(Batch(ops, replaced))
        return durable

    def bury(self, tombstone: Op) -> None:
        """Let a removal that was stored be forgotten when it is durable."""
        self._tombstones.append(tombstone)

    def reveal(self, index: int) -> None:
        """The log is durable up to ``index``."""
        if self.in_trouble:
            self.in_trouble = False
            self._log.info("the log takes writes again")
        self.revealed = max(self.revealed, index)
        while self.in_flight and self.in_flight[0].ops[-1][INDEX] <= self.revealed:
            self.in_flight.popleft()
        if self._tombstones:
            self._purge()
        self.wake()

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

    def _lost_alone(self, error: Failed, first: int) -> bytes:
        self.cut(first)
        return self.refuse(error)

    def refuse(self, error: BaseException) -> bytes:
        """Count and log a failed write; refuse all later ones where the log is lost.

        :return: the text for the writers concerned.
        """
        self._counters.failed_batches += 1
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
        if not self._awaited:
            return
        awaited, self._awaited = self._awaited, []
        for index, done in awaited:
            if index <= self.revealed:
                done.callback(None)
            elif index <= self.index:
                self._awaited.append((index, done))
            else:
                done.errback(StorageUnavailable("storage unavailable: the log failed"))

    def _purge(self) -> None:
        left = []
        for op in self._tombstones:
            database = self._catalogue.by_id.get(op[DATABASE])
            if op[INDEX] > self.revealed:
                left.append(op)
            elif database is not None:
                database.purge(op)
        self._tombstones = left
