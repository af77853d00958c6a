"""Which segments of a log may go, and their going: the oldest first, so that no gap is left.

The log may be over its limit as long as snapshots do not cover its beginning, up to twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.logger import Logger

from nuntwist.errors import StorageUnavailable
from nuntwist.files import Files
from nuntwist.oplog.segment import Segment

_log = Logger()


def covered(segments: Sequence[Segment], index: int, size: int, keep: int) -> list[Segment]:
    """The oldest segments that may go; never the last, which is appended to.

    :param index: nothing after it may go.
    :param size: bytes of the whole log, and ``keep`` those that may stay.
    """
    going: list[Segment] = []
    for segment in segments[:-1]:
        if size <= keep or segment.last > index:
            break
        going.append(segment)
        size -= segment.size
    return going


def remove(files: Files, names: Sequence[str]) -> int:
    """Remove files in this order, up to the first that cannot be.

    :return: how many are gone; what stays is logged.
    """
    for number, name in enumerate(names):
        try:
            files.remove(name)
        except OSError as error:
            _log.error(
                "{name} is covered by snapshots but cannot be removed: {error}",
                name=name,
                error=error.strerror,
            )
            return number
    return len(names)


class Limit:
    """How long a log may become.

    :ivar bytes: above which segments go that snapshots cover.
    """

    def __init__(self, limit: int) -> None:
        self.bytes = limit
        self._warned = False

    def check(self, size: int) -> None:
        """Warn, once, where the log is over its limit by half.

        :raise StorageUnavailable: it has twice its limit.
        """
        if size >= 2 * self.bytes:
            raise StorageUnavailable(
                f"the log has twice its limit of {self.bytes} bytes: snapshots do not cover it"
            )
        # A little over the limit is usual: it is cut at the end of the next snapshots.
        if size >= self.bytes * 3 // 2 and not self._warned:
            self._warned = True
            _log.warn(
                "the log has {size:,} bytes, its limit is {limit:,}: it is cut when snapshots"
                " cover its beginning; at twice the limit writes are refused (raise"
                " NUN_MAX_OP_LOG_SIZE, or see why snapshots fail)",
                size=size,
                limit=self.bytes,
            )

    def fell_to(self, size: int) -> None:
        """Segments have gone; below the limit, the next time over it is warned of again."""
        self._warned = self._warned and size >= self.bytes
