"""A log that is flushed to the disk, before each answer or every second.

What the operating system was handed survives the end of the process; what was flushed survives
a loss of power too. A flush takes from a fraction of a millisecond to much longer, so it is made
in a thread, one at a time, and covers all batches written before it (group commit). A write
beside a running flush would stall the whole node, so batches wait in memory meanwhile, and are
written when it is done. Each gets a Deferred::

    append ── no flush runs ──> written ──> [flush] ──> its Deferred fires
       └───── a flush runs ───> waits ────> written when that is done, then as above

With ``before_answers`` (durability ``disk``) every batch waits for its flush. Without
(``interval``) a batch that need not wait is answered at once, and :meth:`flush_now` is called
every second.

A failed flush is the end of writing: the system may have forgotten what it could not write, and
the next flush would lie. Nothing that waited for it is acknowledged, and nothing is appended
until a restart has read back what is there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from nuntwist.errors import OutcomeUnknown, StorageUnavailable, TakenBack
from nuntwist.interfaces import IOplog, Received
from nuntwist.oplog.record import HEAD_SIZE, OP_SIZE, check_row
from nuntwist.values import INDEX, KEY, VALUE, Epoch, Op, Position

WAITING_LIMIT = 64 << 20
"""Bytes that may wait in memory for a flush to end; writes over it are refused."""

Waiting = tuple[Callable[[], object], Position, "Deferred[None]"]
"""What writes it, the position it ends at, and who waits for it."""
Awaiting = tuple[int, "Deferred[None]"]
"""The last index of what is written, 0 for nothing, and who waits for its flush."""


@implementer(IOplog)
class FlushedOplog:
    """Another log, flushed.

    :param oplog: whose ``append`` is done on return, and whose ``sync`` flushes.
    :param before_answers: whether each batch waits for a flush.
    """

    _log = Logger()

    def __init__(
        self, oplog: IOplog, before_answers: bool, waiting_limit: int = WAITING_LIMIT
    ) -> None:
        self._oplog = oplog
        self._before_answers = before_answers
        self._waiting_limit = waiting_limit
        self._forget()

    def _forget(self) -> None:
        self._flushing = False
        self._changed = False
        self._lost: str | None = None
        self._refusing: str | None = None
        self._covered: deque[Awaiting] = deque()
        self._unflushed: deque[Awaiting] = deque()
        self._waiting: list[Waiting] = []
        self._waiting_bytes = 0

    def open(self) -> None:
        """Open the other."""
        self._forget()
        self._oplog.open()

    # -- what it holds -----------------------------------------------------------------------

    @property
    def last(self) -> Position:
        """The position of the last operation taken, written or waiting."""
        if self._waiting:
            return self._waiting[-1][1]
        last: Position = self._oplog.last
        return last

    @property
    def count(self) -> int:
        """How many operations it holds, those that wait included."""
        first: int = self._oplog.first
        return self.last.index - first + 1

    @property
    def failed(self) -> str | None:
        """Why nothing more can be appended."""
        failed: str | None = self._lost or self._oplog.failed
        return failed

    def __getattr__(self, name: str) -> Any:
        # first, size, segments, appended, last_stamp, base, and what is asked about records:
        # as the other has them.
        return getattr(self._oplog, name)

    @property
    def written(self) -> Callable[[int, int, bytes], None] | None:
        """Called when something is written, not when it begins to wait."""
        written: Callable[[int, int, bytes], None] | None = self._oplog.written
        return written

    @written.setter
    def written(self, written: Callable[[int, int, bytes], None] | None) -> None:
        self._oplog.written = written

    def epoch_at(self, index: int) -> Epoch | None:
        """As the other."""
        epoch: Epoch | None = self._oplog.epoch_at(index)
        return epoch

    def reigns(self, count: int) -> Sequence[tuple[Epoch, int]]:
        """As the other."""
        reigns: Sequence[tuple[Epoch, int]] = self._oplog.reigns(count)
        return reigns

    def records(self, after: int, limit: int) -> bytes:
        """Those that are written."""
        records: bytes = self._oplog.records(after, limit)
        return records

    def begin_after(self, position: Position) -> None:
        """As the other."""
        self._oplog.begin_after(position)

    def read(self, after: int) -> Iterator[Sequence[Op]]:
        """Give the operations after an index that are written."""
        read: Iterator[Sequence[Op]] = self._oplog.read(after)
        return read

    # -- appending ---------------------------------------------------------------------------

    def append(self, epoch: Epoch, ops: Sequence[Op]) -> Deferred[None] | None:
        """Write a batch, or let it wait for the flush under way.

        :return: fires with None when the batch is on the disk (without ``before_answers``,
            when it is written); fails with StorageUnavailable or OutcomeUnknown.
        """
        self._check_lost()
        if self._flushing:
            first, last = ops[0][INDEX], self.last.index
            if first != last + 1:
                raise ValueError(f"index {first} was to be logged after {last}")
            size = HEAD_SIZE + sum(OP_SIZE + len(op[KEY]) + len(op[VALUE] or b"") for op in ops)
            write = partial(self._oplog.append, epoch, ops)
            return self._wait(write, Position(epoch, ops[-1][INDEX]), size)
        self._oplog.append(epoch, ops)
        return self._appended(ops[-1][INDEX])

    def append_records(self, records: Sequence[Received]) -> Deferred[None] | None:
        """As :meth:`append`."""
        self._check_lost()
        if self._flushing:
            check_row(records, self.last)
            size = sum(len(record.data) for record in records)
            last = Position(records[-1].epoch, records[-1].ops[-1][INDEX])
            return self._wait(partial(self._oplog.append_records, records), last, size)
        self._oplog.append_records(records)
        return self._appended(records[-1].ops[-1][INDEX])

    def _check_lost(self) -> None:
        if self._lost is not None:
            raise StorageUnavailable(self._lost)
        if self._refusing is not None:
            raise StorageUnavailable(self._refusing)

    def _appended(self, last: int) -> Deferred[None] | None:
        if not self._before_answers:
            self._changed = True
            return None
        return self._flushed_by_next(last)

    def _wait(self, write: Callable[[], object], last: Position, size: int) -> Deferred[None]:
        if self._waiting_bytes + size > self._waiting_limit:
            raise StorageUnavailable(
                f"over {self._waiting_limit} bytes wait for the disk, which is too slow"
            )
        done: Deferred[None] = Deferred()
        self._waiting.append((write, last, done))
        self._waiting_bytes += size
        return done

    def _flushed_by_next(self, last: int) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        self._unflushed.append((last, done))
        self._flush()
        return done

    # -- flushing ----------------------------------------------------------------------------

    def flush_now(self) -> None:
        """Flush what was written since the last flush, if anything was."""
        if self._changed and self._lost is None:
            self._flush()

    def sync(self) -> Deferred[None]:
        """Flush; a flush under way is not enough."""
        if self._lost is not None:
            return fail(StorageUnavailable(self._lost))
        return self._flushed_by_next(0).addErrback(_unavailable)

    def _flush(self) -> None:
        if self._flushing:
            return
        self._flushing, self._changed = True, False
        self._covered, self._unflushed = self._unflushed, deque()
        flushed: Deferred[None] = self._oplog.sync()
        flushed.addCallbacks(self._flush_done, self._flush_failed)

    def _flush_done(self, _: object) -> None:
        # Still flushing, for whoever appends from a callback: it has to wait behind the others.
        # (One of them may cut the log, and then some of the others are no longer among them.)
        while self._covered:
            self._covered.popleft()[1].callback(None)
        while self._waiting:
            self._write_waiting()
        self._flushing = False
        if self._unflushed:
            self._flush()

    def _write_waiting(self) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        written: list[Awaiting] = []
        error: StorageUnavailable | OutcomeUnknown | None = None
        for write, last, done in waiting:
            if error is None:
                try:
                    write()
                except (StorageUnavailable, OutcomeUnknown) as caught:
                    error = caught
                else:
                    written.append((last.index, done))
        if error is not None:
            # First, so that nobody acts on an answer while these are not taken back.
            self._refuse([done for _, _, done in waiting[len(written) :]], error)
        if self._before_answers:
            self._unflushed += written
        else:
            self._changed = True
            for _, done in written:
                done.callback(None)

    def _refuse(
        self, deferreds: Sequence[Deferred[None]], error: StorageUnavailable | OutcomeUnknown
    ) -> None:
        """Fail them. Until the last of them knows, nothing may take the indexes they had."""
        self._refusing = str(error)
        for done in deferreds:
            done.errback(type(error)(*error.args))
        self._refusing = None

    def _flush_failed(self, reason: Failure) -> None:
        reason.trap(StorageUnavailable)
        self._lost = str(reason.value)
        self._log.critical(
            "the log could not be flushed to the disk, so no more writes are taken; reads and"
            " watches go on; check the disk and restart the node: {error}",
            error=self._lost,
        )
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        unflushed = [done for _, done in (*self._covered, *self._unflushed)]
        self._covered, self._unflushed = deque(), deque()
        self._flushing = False
        for done in [*unflushed, *(done for _, _, done in waiting)]:
            done.errback(OutcomeUnknown(self._lost))

    # -- the rest ----------------------------------------------------------------------------

    def forget(self, index: int, keep: int | None = None) -> Deferred[int]:
        """As the other."""
        forgotten: Deferred[int] = self._oplog.forget(index, keep)
        return forgotten

    def cut(self, index: int, kept_as: str) -> int:
        """As the other. What waits to be written is written first, beside a flush under way, so
        that it is kept with the rest; who still waits for the durability of what goes fails with
        TakenBack."""
        self._check_lost()
        while self._waiting:
            self._write_waiting()
        cut: int = self._oplog.cut(index, kept_as)
        going = [done for last, done in (*self._covered, *self._unflushed) if last > index]
        self._covered = deque(one for one in self._covered if one[0] <= index)
        self._unflushed = deque(one for one in self._unflushed if one[0] <= index)
        self._refuse(going, TakenBack(f"the log was cut after operation {index}"))
        return cut

    def keep(self, index: int, kept_as: str) -> Deferred[int]:
        """As the other. What waits to be written is written first."""
        try:
            self._check_lost()
        except StorageUnavailable:
            return fail()
        while self._waiting:
            self._write_waiting()
        kept: Deferred[int] = self._oplog.keep(index, kept_as)
        return kept

    def replace(self, position: Position) -> None:
        """As the other. What waits to be written never is."""
        self._check_lost()
        self._oplog.replace(position)
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        written = [*self._covered, *self._unflushed]
        # Who waits for a flush alone waits on.
        self._covered = deque(one for one in self._covered if one[0] == 0)
        self._unflushed = deque(one for one in self._unflushed if one[0] == 0)
        going = [done for last, done in written if last] + [done for _, _, done in waiting]
        self._refuse(going, TakenBack("the log was replaced"))

    def close(self) -> None:
        """Flush and close the other; what waited is written first."""
        while self._waiting:
            self._write_waiting()
        self._oplog.close()


def _unavailable(reason: Failure) -> None:
    reason.trap(OutcomeUnknown)
    raise StorageUnavailable(str(reason.value))
