"""Flushing the segments of a log to the disk, in threads, while it is appended to.

One at a time: the system tells of a failure once, so of two flushes that run together one would
succeed. What could not be written the system may have forgotten, so a flush that has failed is
not tried again: the next would lie. Then the log is *failed*, and all that asks for the disk is
told so, until the node is restarted (:mod:`nuntwist.oplog.unflushed`).

A segment that is full goes through this before the next is begun::

    full ──is_flushed, the first time──▶ under way, while writes go on ──▶ flushed
                                                                             │ finish: the rest
                                                                             ▼
                                                           all of it is on the disk: the next one

Beside that, the system is told now and then to begin writing what it holds of a segment, so that
a flush finds little left to do; that is only a hint, and may fail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.errors import StorageUnavailable
from nuntwist.files import WRITE_BACK_EVERY
from nuntwist.oplog.segment import Segment

_T = TypeVar("_T")


class Flushing:
    """See the module's header.

    :param in_thread: runs a function away from the reactor and gives a Deferred of its result.
    :ivar failed: why the log takes nothing more, and no flush is tried: one has failed, or
        something else has, which the log has set; None while all is well.
    """

    _log = Logger()

    def __init__(self, in_thread: Callable[..., Deferred[Any]]) -> None:
        self.failed: str | None = None
        self._in_thread = in_thread
        self._lock = DeferredLock()
        self._full: Segment | None = None
        self._flushed: Segment | None = None
        self._hinting = self._closed = False

    def sync(self, segment: Segment) -> Deferred[None]:
        """Flush a segment.

        :return: fires with None when all that was written to it by now is on the disk; fails with
            StorageUnavailable.
        """
        return self._flush(segment).addErrback(self._not_synced)

    def is_flushed(self, full: Segment) -> bool:
        """Whether a segment that is full was flushed since it is; the first time, begin that."""
        if self._full is not full:
            self._full = full
            self._flush(full).addCallbacks(self._note_flushed, self._not_flushed, (full,))
        return self._flushed is full

    def finish(self, full: Segment) -> None:
        """Flush what came while a full segment was flushed: little, so it need not have a thread.

        :raise StorageUnavailable: it could not be.
        """
        try:
            full.sync()
        except OSError:
            self._not_flushed(Failure())
            raise StorageUnavailable(self.failed) from None

    def begin_anew(self) -> None:
        """The segments are others: one that was full may not be any more."""
        self._full = self._flushed = None

    def close_segment(self, segment: Segment) -> None:
        """Close one, but not under the hands of a thread that flushes it: that would look like a
        flush that has failed."""
        self._lock.run(segment.close)

    def close(self) -> None:
        """The log is closed, which has flushed what it had: what goes on is nobody's business."""
        self._closed = True

    def write_back(self, segment: Segment) -> None:
        """Let the system begin to write a segment, where there is much of it that it was not told
        of. One at a time: on a slow disk they would stand in line before the flushes."""
        handle = segment.handle
        if handle and segment.size - segment.handed >= WRITE_BACK_EVERY and not self._hinting:
            segment.handed = segment.size
            self._hinting = True
            hinted: Deferred[None] = self._in_thread(handle.write_back)
            hinted.addErrback(_only_a_hint).addCallback(self._hinted)

    def _hinted(self, _: object) -> None:
        self._hinting = False

    def _flush(self, segment: Segment) -> Deferred[None]:
        """Flush a segment when no other is.

        :return: fails with OSError, or with StorageUnavailable where an earlier one failed.
        """

        def check(result: _T) -> _T:
            if self.failed is not None:
                raise StorageUnavailable(self.failed)
            return result

        def flush() -> Deferred[None]:
            check(None)
            flushed: Deferred[None] = self._in_thread(segment.sync)
            return flushed.addCallback(check)

        done: Deferred[None] = self._lock.run(flush)
        return done

    def _note_flushed(self, _: object, segment: Segment) -> None:
        self._flushed = segment

    def _not_flushed(self, reason: Failure) -> None:
        if self._closed or reason.check(StorageUnavailable):
            # Closed under the hands of the thread; that has flushed it.
            return
        reason.trap(OSError)
        self._note_not_on_disk(reason)

    def _not_synced(self, reason: Failure) -> None:
        reason.trap(OSError, StorageUnavailable)
        if reason.check(StorageUnavailable):
            reason.raiseException()
        raise StorageUnavailable(self._note_not_on_disk(reason))

    def _note_not_on_disk(self, reason: Failure) -> str:
        text = getattr(reason.value, "strerror", None) or str(reason.value)
        if self.failed is None:
            self.failed = f"the log could not be flushed ({text}); check the disk, then restart"
            self._log.critical(
                "the log could not be flushed to the disk, so no more writes are taken; reads and"
                " watches go on; check the disk and restart the node: {error}",
                error=text,
            )
        return text


def _only_a_hint(reason: Failure) -> None:
    reason.trap(OSError)
