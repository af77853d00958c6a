"""A log in files: a row of segments, the last of which is appended to.

What ``write`` has returned from survives the end of the process, whatever ends it. A write that
fails is cut back to the last whole record, so that the next one may be tried; a file that cannot
be cut back, or be flushed, is not written to again: what was not flushed the system may have
forgotten, so even the end of this process may lose it. At the start all checksums are checked: a
record that is torn at the very end was never acknowledged, and is cut off and reported; any other
damage, and any gap, stops the start.

A segment that has reached its share of the limit is flushed in a thread, while writes go on
(:mod:`nuntwist.oplog.flushing`); the next one is begun when all of it is on the disk. So a loss of
power can take the end of the last segment only, and a gap between two is always damage.

Segments go, the oldest first, when snapshots cover them and the log is over its limit. What no
snapshot covers is never dropped: the log then grows past its limit, with a warning, and at twice
the limit writes are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from nuntwist.errors import OutcomeUnknown, StartError, StorageUnavailable
from nuntwist.files import Files, Handle, write_all
from nuntwist.interfaces import IOplog, Received
from nuntwist.oplog import cutting, dropping
from nuntwist.oplog.base import read_base, write_base
from nuntwist.oplog.dropping import Limit
from nuntwist.oplog.epochs import Epochs
from nuntwist.oplog.flushing import Flushing
from nuntwist.oplog.record import TooLarge, check_row, encode
from nuntwist.oplog.segment import Segment, check_segments, segment_name, segments_in
from nuntwist.oplog.unflushed import write_anew
from nuntwist.values import INDEX, NO_EPOCH, STAMP, Epoch, Op, Position

SEGMENTS = 10
"""The limit of the log is so many full segments."""
LIMIT = 1 << 30
"""Bytes a log may have where nothing else is said."""


@implementer(IOplog)
class FileOplog:
    """The log of a node on a disk.

    :param files: the directory it lives in.
    :param origin: the id of this node.
    :param in_thread: runs a function away from the reactor and gives a Deferred of its result.
    :param limit: bytes above which segments go that snapshots cover.
    :ivar appended: bytes appended since it was opened.
    """

    _log = Logger()

    def __init__(
        self,
        files: Files,
        origin: int,
        in_thread: Callable[..., Deferred[Any]] = execute,
        limit: int = LIMIT,
    ) -> None:
        self._files = files
        self._in_thread = in_thread
        self._origin = origin
        self._limit = Limit(limit)
        self._segment_bytes = limit // SEGMENTS
        self._forget_all()

    def _forget_all(self) -> None:
        self.base = 0
        self._closed = True
        self._segments: list[Segment] = []
        self._flushing = Flushing(self._in_thread)
        self._dropping = 0
        self._epochs = Epochs()
        self._last = 0
        self.last_stamp = 0
        self.size = 0
        self.appended = 0
        self.written: Callable[[int, int, bytes], None] | None = None

    @property
    def failed(self) -> str | None:
        """Why nothing more can be appended; None while it can."""
        return self._flushing.failed

    @property
    def last(self) -> Position:
        """The position of the last operation; made when asked for, not a record."""
        return Position(self._epochs.newest or NO_EPOCH, self._last)

    @property
    def first(self) -> int:
        """The index of the first operation it holds."""
        return self._segments[0].first if self._segments else 1

    @property
    def count(self) -> int:
        """How many operations it holds."""
        return self._last - self.first + 1

    @property
    def segments(self) -> int:
        """How many files it has."""
        return len(self._segments)

    # -- opening -----------------------------------------------------------------------------

    def open(self) -> None:
        """Check what is there, cut a torn tail, make ready to append."""
        self._forget_all()
        name = segment_name(1)
        try:
            base = read_base(self._files)
            segments = segments_in(self._files)
            if segments:
                name = segments[-1].name
                write_anew(self._files, name)
            else:
                segments = [Segment(self._files, 1)]
            check_segments(self._files, segments)
            whole = segments[-1].size
            torn = segments[-1].activate()
            # What is served from here on must not be lost with the power, whatever the process
            # before had come to.
            segments[-1].sync()
        except OSError as error:
            raise StartError(f"The log {name} cannot be opened: {error.strerror}.") from None
        if torn > 0 and whole > 0:
            self._log.warn(
                "cut {lost} bytes of a torn last record off {name}: the node ended while it"
                " was written, nobody was told that it was kept",
                lost=torn,
                name=name,
            )
        self._segments = segments
        self._closed = False
        self.base = base.index
        if self.first == base.index + 1:
            self._note_base(base)
        for segment in segments:
            for epoch, first in segment.reigns:
                self._epochs.note(epoch, first)
        self._note_end()

    def _note_base(self, base: Position) -> None:
        # Two logs that know no epoch have nothing in common.
        if base.epoch != NO_EPOCH:
            self._epochs.note(base.epoch, base.index)

    def _note_end(self) -> None:
        """Where the log ends, as its segments say."""
        self._last = self._segments[-1].last
        self.last_stamp = max(segment.last_stamp for segment in self._segments)
        self.size = sum(segment.size for segment in self._segments)

    def begin_after(self, position: Position) -> None:
        """Begin a new first segment after a position; the base is noted before, so that a
        crash in between leaves a log that may be told so again."""
        if self.count:
            raise ValueError("the log holds operations")
        try:
            self._begin_anew(position)
        except OSError as error:
            raise StartError(f"The log cannot be begun: {error.strerror}.") from None

    def _begin_anew(self, position: Position) -> None:
        """Let an empty segment after a position be all there is. The old ones go before it is
        made, as one of them may have its name."""
        old, segment = self._segments, Segment(self._files, position.index + 1)
        self._segments = [segment]
        self.base, self._epochs = position.index, Epochs()
        self._flushing.begin_anew()
        self._note_base(position)
        write_base(self._files, position)
        for one in old:
            self._flushing.close_segment(one)
            self._files.remove(one.name)
        segment.activate()
        self._note_end()

    # -- use ---------------------------------------------------------------------------------

    def epoch_at(self, index: int) -> Epoch | None:
        """Where it is not past the end."""
        return self._epochs.at(index) if index <= self._last else None

    def reigns(self, count: int) -> Sequence[tuple[Epoch, int]]:
        """As the interface says."""
        return self._epochs.latest(count)

    def records(self, after: int, limit: int) -> bytes:
        """Records of one segment: less than the limit, perhaps, though there are more."""
        if after == self._last:
            return b""
        for segment in self._segments:
            if segment.first <= after + 1 <= segment.last:
                # A thread may have removed it a moment ago.
                with suppress(FileNotFoundError):
                    return segment.raw(after, limit)
        raise ValueError(f"no record begins with index {after + 1}")

    def read(self, after: int) -> Iterator[Sequence[Op]]:
        """Give the operations after an index, a record at a time."""
        for segment in tuple(self._segments):
            if segment.last > after:
                yield from segment.read(after)

    def append(self, epoch: Epoch, ops: Sequence[Op]) -> Deferred[None] | None:
        """Write one record; it has been handed to the operating system on return.

        :raise ValueError: the operations do not follow on the last one: a log with a gap
            could not be read back.
        """
        if self._closed or self._flushing.failed is not None:
            raise StorageUnavailable(self.failed or "the log is closed")
        first = ops[0][INDEX]
        if first != self._last + 1:
            raise ValueError(f"index {first} was to be logged after {self._last}")
        try:
            record = encode(epoch, self._origin, ops)
        except TooLarge as error:
            raise StorageUnavailable(str(error)) from None
        last = ops[-1]
        self._write(record, first, last)
        if epoch != self._epochs.newest:
            self._epochs.note(epoch, first)
        if self.written is not None:
            self.written(first, last[INDEX], record)
        return None

    def append_records(self, records: Sequence[Received]) -> Deferred[None] | None:
        """Write them with one write.

        :raise ValueError: the operations do not follow on the last one, or an epoch is below
            the one before it.
        """
        if self._closed or self.failed is not None:
            raise StorageUnavailable(self.failed or "the log is closed")
        check_row(records, self.last)
        data, first = b"".join([one.data for one in records]), self._last + 1
        last = records[-1].ops[-1]
        self._write(data, first, last)
        segment = self._segments[-1]
        offset = segment.size - len(data)
        for one in records:
            segment.note(one.ops[0][INDEX], offset)
            self._epochs.note(one.epoch, one.ops[0][INDEX])
            offset += len(one.data)
        if self.written is not None:
            self.written(first, last[INDEX], data)
        return None

    def _write(self, data: bytes, first: int, last: Op) -> None:
        """Write one record, or several; the system has them on return.

        :param first: the index they begin with, and ``last`` the last operation.
        """
        segment = self._segments[-1]
        if segment.size >= self._segment_bytes and first > segment.first:
            segment = self._after(segment)
        handle = segment.handle
        assert handle is not None
        offset = segment.size
        try:
            written = handle.write(data)
            if written != len(data):
                write_all(handle, data[written:])
        except OSError as error:
            self._cut_back(handle, offset, error)
        size = len(data)
        segment.size = offset + size
        if offset >= segment.next_place:
            segment.note(first, offset)
            self._flushing.write_back(segment)
        self.size += size
        self.appended += size
        self._last = segment.last = last[INDEX]
        self.last_stamp = segment.last_stamp = last[STAMP]

    def _cut_back(self, handle: Handle, offset: int, reason: OSError) -> NoReturn:
        text = reason.strerror or str(reason)
        try:
            handle.truncate(offset)
        except OSError as error:
            self._flushing.failed = f"{text}, then {error.strerror}"
            raise OutcomeUnknown(self.failed) from None
        raise StorageUnavailable(text) from None

    def _after(self, full: Segment) -> Segment:
        """What to append to after a full segment: the next one, or still this one until it has
        been flushed.

        :raise StorageUnavailable: the next could not be begun, or the log has reached twice its
            limit.
        """
        self._limit.check(self.size)
        if not self._flushing.is_flushed(full):
            return full
        self._flushing.finish(full)
        segment = Segment(self._files, self._last + 1)
        try:
            segment.activate()
        except OSError as error:
            raise StorageUnavailable(error.strerror or str(error)) from None
        self._flushing.close_segment(full)
        self._segments.append(segment)
        self.size += segment.size
        return segment

    def sync(self) -> Deferred[None]:
        """Flush to the disk, in a thread."""
        if self._closed:
            return fail(StorageUnavailable("the log is closed"))
        return self._flushing.sync(self._segments[-1])

    # -- what goes ---------------------------------------------------------------------------

    def forget(self, index: int, keep: int | None = None) -> Deferred[int]:
        """Remove the oldest segments, in a thread; the one appended to stays."""
        keep = self._limit.bytes if keep is None else keep
        going = dropping.covered(self._segments, index, self.size, keep)
        if self._dropping or not going:
            return succeed(0)
        self._dropping = going[-1].last
        names = [segment.name for segment in going]
        done: Deferred[int] = self._in_thread(dropping.remove, self._files, names)
        return done.addCallback(self._removed)

    def _removed(self, number: int) -> int:
        self._dropping = 0
        gone, self._segments = self._segments[:number], self._segments[number:]
        freed = sum(segment.size for segment in gone)
        self.size -= freed
        self._epochs.forget(self.first)
        self._limit.fell_to(self.size)
        return freed

    def cut(self, index: int, kept_as: str) -> int:
        """Take off the end; a flush under way goes on beside it."""
        if self._closed or self.failed is not None:
            raise StorageUnavailable(self.failed or "the log is closed")
        number = self._last - index
        if number == 0:
            return 0
        if self._dropping and index <= self._dropping:
            raise ValueError(f"index {index} is being dropped")
        try:
            place = cutting.place_after(self._segments, index)
            cutting.keep(self._files, self._segments, place, kept_as)
        except OSError as error:
            raise StorageUnavailable(error.strerror or str(error)) from None
        try:
            cutting.cut(self._files, self._segments, place, self._flushing.close_segment)
        except OSError as error:
            self._flushing.failed = (
                f"the log could not be cut after operation {index} ({error.strerror})"
            )
            raise StorageUnavailable(self.failed) from None
        finally:
            self._flushing.begin_anew()
            self._note_end()
            self._epochs.cut(self._last)
        return number

    def keep(self, index: int, kept_as: str) -> Deferred[int]:
        """Copy the end, in a thread."""
        number, segments = self._last - index, tuple(self._segments)

        def copy() -> None:
            cutting.keep(self._files, segments, cutting.place_after(segments, index), kept_as)

        if self._closed or self.failed is not None:
            return fail(StorageUnavailable(self.failed or "the log is closed"))
        if not number:
            return succeed(0)
        copied: Deferred[None] = self._in_thread(copy)
        return copied.addCallbacks(lambda _: number, _not_copied)

    def replace(self, position: Position) -> None:
        """Make new files in place of all; the files that go are gone on return."""
        if self._closed or self.failed is not None or self._dropping:
            raise StorageUnavailable(self.failed or "the log is closed, or being shortened")
        try:
            self._begin_anew(position)
        except OSError as error:
            self._flushing.failed = f"the log could not be replaced ({error.strerror})"
            raise OutcomeUnknown(self.failed) from None

    def close(self) -> None:
        """Flush to the disk and give back the files."""
        if self._closed:
            return
        self._closed = True
        self._flushing.close()
        try:
            self._segments[-1].sync()
        except OSError as error:
            self._log.error("the log could not be flushed: {error}", error=error.strerror)
        self._flushing.close_segment(self._segments[-1])


def _not_copied(reason: Failure) -> int:
    reason.trap(OSError)
    raise StorageUnavailable(getattr(reason.value, "strerror", None) or str(reason.value))
