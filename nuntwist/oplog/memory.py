"""A log in memory: for tests, and for nodes that may forget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from nuntwist.errors import StorageUnavailable
from nuntwist.interfaces import IOplog
from nuntwist.oplog.record import HEAD_SIZE, OP_SIZE, last_stamp
from nuntwist.values import INDEX, KEY, START, VALUE, Epoch, Op, Position


@implementer(IOplog)
class MemoryOplog:
    """A list of batches."""

    def __init__(self) -> None:
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

    def open(self) -> None:
        """Take appends (again); what it held before, it holds."""
        self._closed = False

    def begin_after(self, position: Position) -> None:
        """Go on after a position."""
        if self.count:
            raise ValueError("the log holds operations")
        self.last, self.base, self.first = position, position.index, position.index + 1

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
        self._batches.append(list(ops))
        self.count += len(ops)
        size = _size(ops)
        self.size += size
        self.appended += size
        self.last = Position(epoch, ops[-1][INDEX])
        self.last_stamp = max(self.last_stamp, last_stamp(ops))
        return None

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
            del self._batches[0]
            self.count -= len(batch)
            self.size -= _size(batch)
            self.first = batch[-1][INDEX] + 1
        return succeed(before - self.size)

    def sync(self) -> Deferred[None]:
        """Nothing outlives the process anyway."""
        return succeed(None)

    def close(self) -> None:
        """Take no more appends."""
        self._closed = True


def _size(ops: Sequence[Op]) -> int:
    """The bytes that a batch would have in a file."""
    return HEAD_SIZE + sum(OP_SIZE + len(op[KEY]) + len(op[VALUE] or b"") for op in ops)
