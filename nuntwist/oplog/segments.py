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

from collections.abc import Iterator, Sequence
from typing import BinaryIO

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from nuntwist.errors import CorruptData, OutcomeUnknown, StartError, StorageUnavailable
from nuntwist.files import Files, Handle, write_all
from nuntwist.interfaces import IOplog
from nuntwist.oplog.record import HEAD_SIZE, Head, check_body, decode, encode, last_stamp, read_head
from nuntwist.values import INDEX, START, Epoch, Op, Position

SEGMENT_HEAD = b"NUNLOG\r\n\x01\x00\x00\x00\x00\x00\x00\x00"
"""Magic (with a line end that careless copying would change), then the format, 8 bytes."""
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
    """

    _log = Logger()

    def __init__(self, files: Files, origin: int) -> None:
        self._files = files
        self._origin = origin
        self._handle: Handle | None = None
        self._lost: str | None = None
        self._name = segment_name(1)
        self._places: list[tuple[int, int]] = []
        self.last = START
        self.last_stamp = 0
        self.count = 0
        self.size = 0

    # -- opening -----------------------------------------------------------------------------

    def open(self) -> None:
        """Check what is there, cut a torn tail, make ready to append."""
        found = [n for n in self._files.names() if n.startswith(_PREFIX) and n.endswith(_SUFFIX)]
        if len(found) > 1 or (found and found[0] != self._name):
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
        with self._files.open_read(self._name) as file:
            head = file.read(len(SEGMENT_HEAD))
            if head != SEGMENT_HEAD:
                if SEGMENT_HEAD.startswith(head):
                    return 0
                raise CorruptData(self._name, 0, "it does not begin as a log does")
            offset = len(SEGMENT_HEAD)
            for record, body, place in self._records(file, offset):
                expected = self.last.index + 1
                if record.first != expected:
                    raise CorruptData(
                        self._name, place, f"index {record.first} stands where {expected} must"
                    )
                check_body(record, body, self._name, place)
                self._note(record.first, place)
                self.count += record.count
                self.last = Position(record.epoch, record.first + record.count - 1)
                offset = place + HEAD_SIZE + record.length
                final = (record, body, place)
        if self.count:
            # Stamps rise along the log, so the last record holds the highest.
            self.last_stamp = last_stamp(decode(final[0], final[1], self._name, final[2]))
        return offset

    def _records(self, file: BinaryIO, offset: int) -> Iterator[tuple[Head, bytes, int]]:
        """Give the whole records from an offset on; a torn one ends the row."""
        size = self._files.size(self._name)
        while size - offset >= HEAD_SIZE:
            head = read_head(file.read(HEAD_SIZE), self._name, offset)
            if offset + HEAD_SIZE + head.length > size:
                return
            yield head, file.read(head.length), offset
            offset += HEAD_SIZE + head.length

    def _note(self, first: int, offset: int) -> None:
        if not self._places or offset - self._places[-1][1] >= _NOTE_EVERY:
            self._places.append((first, offset))

    # -- use ---------------------------------------------------------------------------------

    def read(self, after: int) -> Iterator[Sequence[Op]]:
        """Give the operations after an index, a record at a time."""
        start = len(SEGMENT_HEAD)
        for first, offset in self._places:
            if first > after + 1:
                break
            start = offset
        with self._files.open_read(self._name) as file:
            file.seek(start)
            for head, body, offset in self._records(file, start):
                if head.first + head.count - 1 <= after:
                    continue
                check_body(head, body, self._name, offset)
                ops = decode(head, body, self._name, offset)
                yield ops if head.first > after else [op for op in ops if op[INDEX] > after]

    def append(self, epoch: Epoch, ops: Sequence[Op]) -> Deferred[None] | None:
        """Write one record; it has been handed to the operating system on return."""
        handle = self._handle
        if handle is None or self._lost is not None:
            raise StorageUnavailable(self._lost or "the log is closed")
        record = encode(epoch, self._origin, ops)
        offset = handle.size
        try:
            if handle.write(record) != len(record):
                write_all(handle, record[handle.size - offset :])
        except OSError as error:
            self._cut_back(handle, offset, error)
        self._note(ops[0][INDEX], offset)
        self.count += len(ops)
        self.size = handle.size
        self.last = Position(epoch, ops[-1][INDEX])
        self.last_stamp = ops[-1][3]
        return None

    def _cut_back(self, handle: Handle, offset: int, reason: OSError) -> None:
        text = reason.strerror or str(reason)
        try:
            handle.truncate(offset)
        except OSError as error:
            self._lost = f"{text}, then {error.strerror}"
            raise OutcomeUnknown(self._lost) from None
        raise StorageUnavailable(text) from None

    def close(self) -> None:
        """Flush to the disk and give back the file."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        try:
            handle.sync()
        except OSError as error:
            self._log.error("the log could not be flushed: {error}", error=error.strerror)
        handle.close()
