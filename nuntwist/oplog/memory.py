"""A log in memory: for tests, and for nodes that may forget."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from nuntwist.errors import StorageUnavailable
from nuntwist.interfaces import IOplog, Received
from nuntwist.oplog.epochs import Epochs
from nuntwist.oplog.record import HEAD_SIZE, OP_SIZE, check_row, encode, last_stamp
from nuntwist.oplog.segment import SEGMENT_HEAD
from nuntwist.values import INDEX, KEY, NO_EPOCH, START, VALUE, Epoch, Op, Position


@implementer(IOplog)
class MemoryOplog:
    """A list of batches.

    :param origin: the id of the node whose log it is.
    :ivar kept: what was cut off, by the names it was to be kept as: bytes as of such a file.
    """

    def __init__(self, origin: int = 0) -> None:
        self._origin = origin
        self._epochs = Epochs()
        # The bytes of each batch: of another node as they came, of this one when they are asked
        # for.
        self._records: list[bytes | None] = []
        self._batch_epochs: list[Epoch] = []
        self.written: Callable[[int, int, bytes], None] | None = None
        self.last = START
        self.last_stamp = 0
        self.count = 0
        self.size = 0
        self.first = 1
        self.appended = 0
        self.base = 0
        self.failed = None
        self._batches: list[list[Op]] = []
        self._closed = False
        self.kept: dict[str, bytes] = {}

    def open(self) -> None:
        """Take appends (again); what it held before, it holds."""
        self._closed = False

    def begin_after(self, position: Position) -> None:
        """Go on after a position."""
        if self.count:
            raise ValueError("the log holds operations")
        self.last, self.base, self.first = position, position.index, position.index + 1
        if position.epoch != NO_EPOCH:
            self._epochs.note(position.epoch, position.index)

    def epoch_at(self, index: int) -> Epoch | None:
        """Where it is not past the end."""
        return self._epochs.at(index) if index <= self.last.index else None

    def reigns(self, count: int) -> Sequence[tuple[Epoch, int]]:
        """As the interface says."""
        return self._epochs.latest(count)

    def records(self, after: int, limit: int) -> bytes:
        """As the interface says."""
        if after == self.last.index:
            return b""
        place = self._batch_after(after)
        if place is None:
            raise ValueError(f"no record begins with index {after + 1}")
        found: list[bytes] = []
        size = 0
        for number in range(place, len(self._batches)):
            record = self._record(number)
            if found and size + len(record) > limit:
                break
            found.append(record)
            size += len(record)
        return b"".join(found)

    def _batch_after(self, index: int) -> int | None:
        """The number of the batch that begins after an index."""
        place = bisect_left(self._batches, index + 1, key=lambda batch: batch[0][INDEX])
        if place == len(self._batches) or self._batches[place][0][INDEX] != index + 1:
            return None
        return place

    def _record(self, number: int) -> bytes:
        record = self._records[number]
        if record is None:
            record = encode(self._batch_epochs[number], self._origin, self._batches[number])
            self._records[number] = record
        return record

    def read(self, after: int) -> Iterator[Sequence[Op]]:
        """Give the operations after an index, a batch at a time."""
        for batch in tuple(self._batches):
            wanted = batch if batch[0][INDEX] > after else [o for o in batch if o[INDEX] > after]
            if wanted:
                yield wanted

    def append(self, epoch: Epoch, ops: Sequence[Op]) -> Deferred[None] | None:
        """Keep operations; they are durable at once, for what that is worth here.

        :raise ValueError: they do not follow on the last one.
        """
        if self._closed:
            raise StorageUnavailable("the log is closed")
        if ops[0][INDEX] != self.last.index + 1:
            raise ValueError(f"index {ops[0][INDEX]} was to be logged after {self.last.index}")
        self._keep(epoch, ops, None)
        if self.written is not None:
            self.written(ops[0][INDEX], ops[-1][INDEX], self._record(len(self._batches) - 1))
        return None

    def append_records(self, records: Sequence[Received]) -> Deferred[None] | None:
        """Keep them; durable at once.

        :raise ValueError: they do not follow on the last one.
        """
        if self._closed:
            raise StorageUnavailable("the log is closed")
        check_row(records, self.last)
        for record in records:
            self._keep(record.epoch, record.ops, record.data)
        if self.written is not None:
            data = b"".join([record.data for record in records])
            self.written(records[0].ops[0][INDEX], self.last.index, data)
        return None

    def _keep(self, epoch: Epoch, ops: Sequence[Op], record: bytes | None) -> None:
        self._batches.append(list(ops))
        self._records.append(record)
        self._batch_epochs.append(epoch)
        self._epochs.note(epoch, ops[0][INDEX])
        self.count += len(ops)
        size = _size(ops)
        self.size += size
        self.appended += size
        self.last = Position(epoch, ops[-1][INDEX])
        self.last_stamp = max(self.last_stamp, last_stamp(ops))

    @property
    def segments(self) -> int:
        """How many batches it holds."""
        return len(self._batches)

    def forget(self, index: int, keep: int | None = None) -> Deferred[int]:
        """Drop batches; without ``keep`` none, as it has no limit."""
        before = self.size
        while keep is not None and self.size > keep and len(self._batches) > 1:
            batch = self._batches[0]
            if batch[-1][INDEX] > index:
                break
            del self._batches[0], self._records[0], self._batch_epochs[0]
            self.count -= len(batch)
            self.size -= _size(batch)
            self.first = batch[-1][INDEX] + 1
        self._epochs.forget(self.first)
        return succeed(before - self.size)

    def cut(self, index: int, kept_as: str) -> int:
        """Take off the end; what is cut is in ``kept``."""
        if self._closed:
            raise StorageUnavailable("the log is closed")
        number = self.last.index - index
        if number == 0:
            return 0
        place = self._keep_tail(index, kept_as)
        self.size -= sum(_size(batch) for batch in self._batches[place:])
        del self._batches[place:], self._records[place:], self._batch_epochs[place:]
        self.count -= number
        self._epochs.cut(index)
        self.last = Position(self._epochs.newest or NO_EPOCH, index)
        self.last_stamp = last_stamp(self._batches[-1]) if self._batches else 0
        return number

    def _keep_tail(self, index: int, kept_as: str) -> int:
        """Put what comes after an index into ``kept``.

        :return: the number of the batch that it begins with.
        """
        place = self._batch_after(index)
        if place is None:
            raise ValueError(f"no record ends with index {index}")
        tail = SEGMENT_HEAD + b"".join(map(self._record, range(place, len(self._batches))))
        if self.kept.setdefault(kept_as, tail) != tail:
            raise ValueError(f"there is a file {kept_as} already, which holds something else")
        return place

    def keep(self, index: int, kept_as: str) -> Deferred[int]:
        """Into ``kept``, at once."""
        if self._closed:
            return fail(StorageUnavailable("the log is closed"))
        number = self.last.index - index
        if number:
            try:
                self._keep_tail(index, kept_as)
            except ValueError:
                return fail()
        return succeed(number)

    def replace(self, position: Position) -> None:
        """Forget all batches."""
        if self._closed:
            raise StorageUnavailable("the log is closed")
        self._batches, self._records, self._batch_epochs = [], [], []
        self._epochs = Epochs()
        self.count = self.size = self.last_stamp = 0
        self.begin_after(position)

    def sync(self) -> Deferred[None]:
        """Nothing outlives the process anyway."""
        return succeed(None)

    def close(self) -> None:
        """Take no more appends."""
        self._closed = True


def _size(ops: Sequence[Op]) -> int:
    """The bytes that a batch would have in a file."""
    return HEAD_SIZE + sum(OP_SIZE + len(op[KEY]) + len(op[VALUE] or b"") for op in ops)
