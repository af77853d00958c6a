"""A log in files.

The log is a row of segment files, named after the first index in each; this release writes
one. A segment begins with a head (magic, format) and then holds records, each written with one
``write`` on a descriptor opened for appending. What ``write`` has returned from survives the
end of the process, whatever ends it.

A write that fails is cut back to the last whole record, so that the next one may be tried; a
file that cannot be cut back is not written to again. At the start all checksums are checked: a
record that is torn at the very end was never acknowledged, and is cut off and reported; any
other damage stops the start.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from twisted.internet.defer import Deferred, execute, fail
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from nuntwist.errors import CorruptData, OutcomeUnknown, StartError, StorageUnavailable
from nuntwist.files import Files, Handle, write_all
from nuntwist.interfaces import IOplog
from nuntwist.oplog.reader import Record, records
from nuntwist.oplog.record import HEAD_SIZE, TooLarge, decode, encode, last_stamp
from nuntwist.values import INDEX, NO_EPOCH, STAMP, Epoch, Op, Position

SEGMENT_HEAD = b"NUNLOG\r\n\x01\x00\x00\x00\x00\x00\x00\x00"
"""Magic (with a line end that careless copying would change), then the format, 8 bytes."""
_MAGIC = SEGMENT_HEAD[:8]
_PREFIX, _SUFFIX = "oplog-", ".seg"
_NOTE_EVERY = 1 << 20
"""Bytes of log between two places that ``read`` can begin at."""


def segment_name(first: int) -> str:
    """The name of the segment whose first index this is."""
    return f"{_PREFIX}{first:020d}{_SUFFIX}"


@implementer(IOplog)
class FileOplog:
    """The log of a node on a disk.

    :param files: the directory it lives in.
    :param origin: the id of this node.
    :param in_thread: runs a function away from the reactor and gives a Deferred of its result.
    """

    _log = Logger()

    def __init__(
        self, files: Files, origin: int, in_thread: Callable[..., Deferred[Any]] = execute
    ) -> None:
        self._files = files
        self._in_thread = in_thread
        self._origin = origin
        self._handle: Handle | None = None
        self._name = segment_name(1)
        self._forget()

    def _forget(self) -> None:
        self._lost: str | None = None
        self._places: list[tuple[int, int]] = []
        self._epoch = NO_EPOCH
        self._last = 0
        self.last_stamp = 0
        self.count = 0
        self.size = 0

    @property
    def last(self) -> Position:
        """The position of the last operation; made when asked for, not a record."""
        return Position(self._epoch, self._last)

    # -- opening -----------------------------------------------------------------------------

    def open(self) -> None:
        """Check what is there, cut a torn tail, make ready to append."""
        self._forget()
        found = [n for n in self._files.names() if n.startswith(_PREFIX) and n.endswith(_SUFFIX)]
        if found not in ([], [self._name]):
            raise StartError(
                f"The log has segments this release does not know ({', '.join(found)}):"
                " a newer release wrote them; use that one."
            )
        try:
            whole = self._check() if found else 0
            self._handle = self._files.append_to(self._name)
            if whole < self._handle.size:
                self._cut(self._handle, whole)
            if whole == 0:
                write_all(self._handle, SEGMENT_HEAD)
        except OSError as error:
            self._close()
            raise StartError(f"The log {self._name} cannot be opened: {error.strerror}.") from None
        self.size = self._handle.size

    def _cut(self, handle: Handle, whole: int) -> None:
        lost = handle.size - whole
        handle.truncate(whole)
        handle.sync()
        if whole:
            self._log.warn(
                "cut {lost} bytes of a torn last record off {name}: the node ended while it"
                " was written, nobody was told that it was kept",
                lost=lost,
                name=self._name,
            )

    def _check(self) -> int:
        """Check every record.

        :return: how many bytes are whole.
        """
        name, size = self._name, self._files.size(self._name)
        whole, last = len(SEGMENT_HEAD), 0
        record: Record | None = None
        with self._files.open_read(name) as file:
            if not self._begins_well(file.read(whole), size):
                return 0
            for record in records(file, name, whole, size):
                head, _, offset = record
                first = head.first
                if first != last + 1:
                    raise CorruptData(name, offset, f"index {first} stands where {last + 1} must")
                last += head.operations
                whole = offset + HEAD_SIZE + head.length
                self._note(first, offset)
        if record is not None:
            head, body, offset = record
            self.count = self._last = last
            self._epoch = head.epoch
            # Stamps rise along the log, so the last record holds the highest.
            self.last_stamp = last_stamp(decode(head, body, name, offset))
        return whole

    def _begins_well(self, begin: bytes, size: int) -> bool:
        """Whether a segment has its head; False where it was torn while the head was written.

        :raise CorruptData: it has another.
        """
        if begin == SEGMENT_HEAD:
            return True
        if size <= len(SEGMENT_HEAD) and (SEGMENT_HEAD.startswith(begin) or not any(begin)):
            return False
        if begin.startswith(_MAGIC):
            raise CorruptData(self._name, len(_MAGIC), "a newer release wrote it, or it is damaged")
        raise CorruptData(self._name, 0, "it does not begin as a log does")

    def _note(self, first: int, offset: int) -> None:
        if not self._places or offset - self._places[-1][1] >= _NOTE_EVERY:
            self._places.append((first, offset))

    # -- use ---------------------------------------------------------------------------------

    def read(self, after: int) -> Iterator[Sequence[Op]]:
        """Give the operations after an index, a record at a time."""
        if after >= self._last:
            return
        name, start = self._name, len(SEGMENT_HEAD)
        place = bisect_right(self._places, after + 1, key=_first)
        if place:
            start = self._places[place - 1][1]
        with self._files.open_read(name) as file:
            file.seek(start)
            for head, body, offset in records(file, name, start, self.size):
                if head.last <= after:
                    continue
                ops = decode(head, body, name, offset)
                yield ops if head.first > after else ops[after + 1 - head.first :]

    def append(self, epoch: Epoch, ops: Sequence[Op]) -> Deferred[None] | None:
        """Write one record; it has been handed to the operating system on return.

        :raise ValueError: the operations do not follow on the last one: a log with a gap
            could not be read back.
        """
        handle = self._handle
        if handle is None or self._lost is not None:
            raise StorageUnavailable(self._lost or "the log is closed")
        first = ops[0][INDEX]
        if first != self._last + 1:
            raise ValueError(f"index {first} was to be logged after {self._last}")
        try:
            record = encode(epoch, self._origin, ops)
        except TooLarge as error:
            raise StorageUnavailable(str(error)) from None
        offset = self.size
        try:
            written = handle.write(record)
            if written != len(record):
                write_all(handle, record[written:])
        except OSError as error:
            self._cut_back(handle, offset, error)
        self._note(first, offset)
        self.size = offset + len(record)
        self.count += len(ops)
        self._epoch = epoch
        self._last, self.last_stamp = ops[-1][INDEX], ops[-1][STAMP]
        return None

    def _cut_back(self, handle: Handle, offset: int, reason: OSError) -> NoReturn:
        text = reason.strerror or str(reason)
        try:
            handle.truncate(offset)
        except OSError as error:
            self._lost = f"{text}, then {error.strerror}"
            raise OutcomeUnknown(self._lost) from None
        raise StorageUnavailable(text) from None

    def sync(self) -> Deferred[None]:
        """Flush to the disk, in a thread."""
        if self._handle is None:
            return fail(StorageUnavailable("the log is closed"))
        done: Deferred[None] = self._in_thread(self._handle.sync)
        return done.addErrback(self._not_synced)

    @staticmethod
    def _not_synced(reason: Failure) -> None:
        reason.trap(OSError)
        error = reason.value
        raise StorageUnavailable(getattr(error, "strerror", None) or str(error))

    def close(self) -> None:
        """Flush to the disk and give back the file."""
        if self._handle is not None:
            try:
                self._handle.sync()
            except OSError as error:
                self._log.error("the log could not be flushed: {error}", error=error.strerror)
            self._close()

    def _close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()


def _first(place: tuple[int, int]) -> int:
    return place[0]
