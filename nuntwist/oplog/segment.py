"""One file of the log: checking it at the start, appending to it, reading it.

A segment begins with a head (magic, format) and then holds records, each written with one
``write`` on a descriptor opened for appending. Its name says the index of its first operation.
It is *active* while it is appended to, the last one of the log; then it is sealed (on the disk,
and closed) and only read.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from nuntwist.errors import CorruptData
from nuntwist.files import Files, Handle, write_all
from nuntwist.oplog.reader import Record, records
from nuntwist.oplog.record import HEAD_SIZE, decode, last_stamp
from nuntwist.oplog.unflushed import note_unflushed
from nuntwist.values import Epoch, Op

SEGMENT_HEAD = b"NUNLOG\r\n\x01\x00\x00\x00\x00\x00\x00\x00"
"""Magic (with a line end that careless copying would change), then the format, 8 bytes."""
_MAGIC = SEGMENT_HEAD[:8]
_PREFIX, _SUFFIX = "oplog-", ".seg"
NOTE_EVERY = 1 << 16
"""Bytes of log between two places that ``read`` can begin at: so much is looked through before
the first operation. A place takes 16 bytes: 256 KiB for a log of 1 GiB."""


def segment_name(first: int) -> str:
    """The name of the segment whose first index this is."""
    return f"{_PREFIX}{first:020d}{_SUFFIX}"


def segments_in(files: Files) -> list[Segment]:
    """The segments of a directory, by rising index; not checked so far."""
    numbers = []
    for name in files.names():
        number = name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
        if number.isdecimal() and number.isascii() and segment_name(int(number)) == name:
            numbers.append(int(number))
    return [Segment(files, number) for number in sorted(numbers)]


def remove_segments(files: Files) -> None:
    """Take a whole log away, the newest first.

    :raise OSError: it could not be done; what is left is the beginning of it.
    """
    for segment in reversed(segments_in(files)):
        files.remove(segment.name)


def check_segments(files: Files, segments: Sequence[Segment]) -> None:
    """Check the segments of a log, and that they follow on each other; only the last one may
    have a torn tail, or be no file so far.

    :raise CorruptData: they are damaged.
    """
    names = set(files.names())
    before: Segment | None = None
    for segment in segments:
        if before is not None and segment.first != before.last + 1:
            what = f"it begins with index {segment.first}, where {before.last + 1} must stand"
            raise CorruptData(segment.name, 0, what)
        torn = segment.check() if segment.name in names else 0
        if torn and segment is not segments[-1]:
            what = "it ends within a record, and another segment follows"
            raise CorruptData(segment.name, segment.size, what)
        before = segment


def begins_well(begin: bytes, name: str, size: int) -> bool:
    """Whether a segment has its head; False where that was torn while it was written.

    :param begin: what stands where the head must.
    :param name: of the file, for the error, and ``size`` its bytes.
    :raise CorruptData: it has another.
    """
    if begin == SEGMENT_HEAD:
        return True
    if size <= len(SEGMENT_HEAD) and (SEGMENT_HEAD.startswith(begin) or not any(begin)):
        return False
    if begin.startswith(_MAGIC):
        raise CorruptData(name, len(_MAGIC), "a newer release wrote it, or it is damaged")
    raise CorruptData(name, 0, "it does not begin as a log does")


class Segment:
    """One file.

    :param files: the directory it lives in.
    :param first: the index of its first operation.
    :ivar last: the index of the last one; one less than ``first`` where there is none.
    :ivar size: its whole bytes.
    :ivar last_stamp: of the last operation; 0 where there is none.
    :ivar handed: bytes that the system was asked to write to the disk.
    :ivar handle: to append with, while it is active.
    :ivar next_place: where in the file the next place is that ``note`` wants to know of.
    :ivar reigns: the epochs that the check has found, and where each begins.
    """

    def __init__(self, files: Files, first: int) -> None:
        self.name = segment_name(first)
        self.first = first
        self.last = first - 1
        self.size = 0
        self.last_stamp = 0
        self.handed = 0
        self.handle: Handle | None = None
        self.reigns: list[tuple[Epoch, int]] = []
        self._files = files
        # The index: where records begin, NOTE_EVERY apart. Bare numbers, that the collector of
        # garbage never looks at.
        self._firsts = array("Q")
        self._offsets = array("Q")
        self.next_place = 0

    # -- the start ---------------------------------------------------------------------------

    def check(self) -> int:
        """Check every record.

        :return: how many bytes of the file are not whole: a torn tail.
        :raise CorruptData: it is damaged.
        """
        name, size = self.name, self._files.size(self.name)
        whole, last = len(SEGMENT_HEAD), self.first - 1
        record: Record | None = None
        epoch: tuple[int, int] | None = None
        with self._files.open_read(name) as file:
            if not begins_well(file.read(whole), name, size):
                return size
            for record in records(file, name, whole, size):
                head, _, offset = record
                first = head.first
                if first != last + 1:
                    raise CorruptData(name, offset, f"index {first} stands where {last + 1} must")
                last += head.operations
                whole = offset + HEAD_SIZE + head.length
                self.note(first, offset)
                if head[8:10] != epoch:
                    epoch = head[8:10]
                    self.reigns.append((head.epoch, first))
        self.size = whole
        if record is not None:
            head, body, offset = record
            self.last = last
            # Stamps rise along the log, so the last record holds the highest.
            self.last_stamp = last_stamp(decode(head, body, name, offset))
        return size - whole

    def activate(self) -> int:
        """Open it for appending, made where it is not there, without a torn tail.

        :return: how many bytes were cut off.
        :raise OSError: it could not be done.
        """
        handle = self._files.append_to(self.name)
        try:
            torn = handle.size - self.size
            if torn > 0:
                handle.truncate(self.size)
                self._flush(handle)
            if self.size == 0:
                write_all(handle, SEGMENT_HEAD)
                self.size = len(SEGMENT_HEAD)
        except OSError:
            handle.close()
            raise
        self.handle = handle
        return torn

    # -- use ---------------------------------------------------------------------------------

    def note(self, first: int, offset: int) -> None:
        """Note where a record begins, if the last place noted is far from it."""
        if offset >= self.next_place:
            self._firsts.append(first)
            self._offsets.append(offset)
            self.next_place = offset + NOTE_EVERY

    def read(self, after: int) -> Iterator[Sequence[Op]]:
        """Give its operations after an index, a record at a time.

        :raise CorruptData: it was damaged since it was checked.
        """
        name, start = self.name, len(SEGMENT_HEAD)
        place = bisect_right(self._firsts, after + 1)
        if place:
            start = self._offsets[place - 1]
        with self._files.open_read(name) as file:
            file.seek(start)
            for head, body, offset in records(file, name, start, self.size):
                if head.last <= after:
                    continue
                ops = decode(head, body, name, offset)
                yield ops if head.first > after else ops[after + 1 - head.first :]

    def raw(self, after: int, limit: int) -> bytes:
        """Give whole records as they stand in the file.

        :param after: the index before that with which the first one begins.
        :raise ValueError: none begins there.
        :raise CorruptData: one was damaged since it was checked.
        """
        name, start = self.name, len(SEGMENT_HEAD)
        place = bisect_right(self._firsts, after + 1)
        if place:
            start = self._offsets[place - 1]
        begin = end = None
        with self._files.open_read(name) as file:
            file.seek(start)
            for head, _, offset in records(file, name, start, self.size):
                if head.last <= after:
                    continue
                if begin is None and head.first != after + 1:
                    break
                begin = offset if begin is None else begin
                after_it = offset + HEAD_SIZE + head.length
                if end is not None and after_it - begin > limit:
                    break
                end = after_it
                if end - begin >= limit:
                    break
            if begin is None or end is None:
                raise ValueError(f"no record begins with index {after + 1}")
            file.seek(begin)
            return file.read(end - begin)

    def end_of(self, index: int) -> tuple[int, int, int]:
        """Find where an operation ends.

        :return: the place in the file, the index, and the stamp of the operation.
        :raise ValueError: it is not the last one of a record.
        :raise CorruptData: the file was damaged since it was checked.
        """
        if index == self.last:
            return self.size, index, self.last_stamp
        name, start = self.name, len(SEGMENT_HEAD)
        place = bisect_right(self._firsts, index)
        if place:
            start = self._offsets[place - 1]
        with self._files.open_read(name) as file:
            file.seek(start)
            for head, body, offset in records(file, name, start, self.size):
                if head.last == index:
                    stamp = last_stamp(decode(head, body, name, offset))
                    return offset + HEAD_SIZE + head.length, index, stamp
                if head.last > index:
                    break
        raise ValueError(f"no record ends with index {index}")

    def cut(self, offset: int, index: int, stamp: int) -> None:
        """Make it end with an operation, and appended to from there on.

        :param offset: where that ends, and ``stamp`` its stamp.
        :raise OSError: it could not be done; it is as it was, or cut and perhaps not yet on the
            disk.
        """
        if self.handle is None:
            self.handle = self._files.append_to(self.name)
        if offset < self.size:
            self.handle.truncate(offset)
        self.size, self.last, self.last_stamp = offset, index, stamp
        self.handed = min(self.handed, offset)
        place = bisect_right(self._firsts, index)
        del self._firsts[place:], self._offsets[place:]
        self.next_place = self._offsets[-1] + NOTE_EVERY if place else 0
        self._flush(self.handle)

    def sync(self) -> None:
        """Put it on the disk.

        :raise OSError: it may not be there.
        """
        if self.handle is not None:
            self._flush(self.handle)

    def _flush(self, handle: Handle) -> None:
        try:
            handle.sync()
        except OSError:
            note_unflushed(self._files)
            raise

    def close(self) -> None:
        """Give back the file."""
        handle, self.handle = self.handle, None
        if handle is not None:
            handle.close()
