"""The log on its way from the primary to one secondary.

The secondary says what it has (``Have``: the epochs of its log and where each begins). Two logs
that have an operation of the same epoch at the same index agree on everything up to there, so
this tells where they part (:func:`common_index`)::

    WAITING ──Have──▶ it has nothing else ───────────▶ STREAMING ──Refused, or a new link──▶ WAITING
                      it has a tail of its own: Cut ──▶ WAITING for its next Have
                      the log no longer reaches there ▶ LACKING: it needs a copy of all

While it is streaming, records go out as they are written, the very bytes, as long as what is
not yet acknowledged fits the window. What does not fit is read from the log again when there is
room, so a slow secondary costs no memory: only the window's bytes are under way.

Heartbeats and all else on the link come behind what is under way, so the window shrinks where that
takes long to be acknowledged, and grows again where it does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final, Protocol

from nuntwist.cluster.stream import Applied, Cut, Have, Records, Refused
from nuntwist.oplog.record import HEAD_SIZE, read_head
from nuntwist.values import NO_EPOCH, Epoch, Position

WINDOW: Final = 4 << 20
"""Bytes of records that may be under way to one secondary."""
LEAST_WINDOW: Final = 1 << 17
"""As few it may become."""
QUICK: Final = 0.1
"""Seconds in which what is sent should be acknowledged; over a slow way, twice its delay."""
PIECE: Final = 1 << 16
"""Bytes read from the log at once for one that is behind: others wait at the secondary while it
takes them."""


class Log(Protocol):
    """What is needed of an operation log; see :class:`nuntwist.interfaces.IOplog`."""

    first: int
    base: int
    failed: str | None
    written: Callable[[int, int, bytes], None] | None

    @property
    def last(self) -> Position:
        """Where it ends."""

    def epoch_at(self, index: int) -> Epoch | None:
        """The epoch of an operation; None where the log does not hold it."""

    def records(self, after: int, limit: int) -> bytes:
        """Whole records after an index."""


class Stage(Enum):
    """How far a stream is."""

    WAITING = "the secondary has not said what it has"
    STREAMING = "records go out as they are written"
    LACKING = "the secondary needs a copy of all first"


def common_index(log: Log, have: Have) -> int | None:
    """Where the log of a secondary parts from this one.

    :return: the last index up to which they agree; None where this log no longer tells.
    """
    common = _common(log, have)
    return common if common is not None and common >= log.first - 1 else None


def _common(log: Log, have: Have) -> int | None:
    end = have.position.index
    for epoch, first in reversed(have.reigns):
        index = min(end, log.last.index)
        # Its operations of that epoch are those from ``first`` to ``end``.
        while index >= first:
            ours = log.epoch_at(index)
            if ours is None:
                return None
            if ours == epoch:
                return int(index)
            if ours < epoch:
                break
            index = _before(log, ours, index)
        end = first - 1
    return 0 if end == 0 else None


def _before(log: Log, epoch: Epoch, index: int) -> int:
    """The last index below one of an epoch that is of another epoch (found by halving: epochs
    rise along a log)."""
    low, high = log.first - 1, index
    while high - low > 1:
        middle = (low + high) // 2
        if log.epoch_at(middle) == epoch:
            high = middle
        else:
            low = middle
    return low


def last_index(data: bytes) -> int:
    """The index of the last operation in a run of whole records.

    :raise CorruptData: it is none.
    """
    at, last = 0, 0
    while at < len(data):
        head = read_head(data, at, "records", at)
        last = head.last
        at += HEAD_SIZE + head.length
    return last


class Outgoing:
    """The stream to one secondary, over one link.

    :param log: of this node, the primary.
    :param number: of the epoch that it serves.
    :param send: sends a message over the link.
    :param seconds: monotonic time, in seconds.
    :ivar lacks: called when the log here no longer has what the secondary needs first.
    :ivar stage: how far it is.
    :ivar answered: when that was sent which was acknowledged last, in seconds.
    :ivar took: how long the acknowledged records were under way that were acknowledged last, in
        seconds.
    :ivar applied: the last index the secondary has.
    :ivar durable: the last index it has on its disk.
    """

    def __init__(
        self,
        log: Log,
        number: int,
        send: Callable[[object], None],
        window: int = WINDOW,
        seconds: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._log = log
        self._number = number
        self._send = send
        self._most = self._window = window
        self._least_took = float("inf")
        self._seconds = seconds
        self._under_way: deque[tuple[int, int, float]] = deque()
        self.took = 0.0
        self.answered = float("-inf")
        self._bytes = 0
        self._sent = 0
        self._committed = 0
        self.lacks: Callable[[], object] = _nobody_asks
        self.stage = Stage.WAITING
        self.applied = 0
        self.durable = 0

    @property
    def lag(self) -> int:
        """How many operations the secondary is behind."""
        return self._log.last.index - self.applied

    # -- what the secondary says -------------------------------------------------------------

    def have(self, have: Have) -> None:
        """It says what it has; nothing of what was sent before counts any more."""
        self._under_way.clear()
        self._bytes = 0
        common = common_index(self._log, have)
        if common is None:
            self._lack()
        elif common < have.position.index:
            self.stage = Stage.WAITING
            self._send(Cut(self._number, common))
        else:
            self.stage = Stage.STREAMING
            self._sent = self.applied = common
            self.flow()
            if not self._under_way:
                self._tell()

    def acknowledged(self, applied: Applied) -> None:
        """It has more; only what was sent counts."""
        if self.stage is not Stage.STREAMING or applied.index > self._sent:
            return
        self.applied = max(self.applied, applied.index)
        self.durable = max(self.durable, min(applied.durable, applied.index))
        while self._under_way and self._under_way[0][0] <= self.applied:
            _, size, sent = self._under_way.popleft()
            self._bytes -= size
            self.answered, self.took = sent, self._seconds() - sent
            self._adapt(size)
        self.flow()

    def _adapt(self, size: int) -> None:
        """Some bytes were acknowledged, more or less soon."""
        self._least_took = min(self._least_took, self.took)
        if self.took <= max(QUICK, 2 * self._least_took):
            self._window = min(self._most, self._window + size)
        else:
            least = min(self._most, LEAST_WINDOW)
            self._window = max(least, self._window - size // 2)

    def refused(self, refused: Refused) -> None:
        """It could not append what was sent; it says anew what it has."""
        self.stage = Stage.WAITING

    # -- what happens here -------------------------------------------------------------------

    def written(self, first: int, last: int, data: bytes) -> None:
        """Records were written to the log here."""
        if self.stage is not Stage.STREAMING:
            return
        if self._sent == first - 1 and self._fits(len(data)):
            self._send_records(last, data)
        else:
            self.flow()

    def committed(self, index: int) -> None:
        """A majority has the log up to an index: told with the next records, or alone."""
        self._committed = max(self._committed, index)
        if self.stage is Stage.STREAMING:
            self._tell()

    def flow(self) -> None:
        """Send what the log has and the secondary has not, as far as there is room."""
        while (
            self.stage is Stage.STREAMING
            and self._sent < self._log.last.index
            and self._bytes < self._window
        ):
            try:
                data = self._log.records(self._sent, min(PIECE, self._window - self._bytes))
            except ValueError:
                # The log could not wait for it any longer.
                self._lack()
                return
            if not data:
                # Taken, and not written yet: it comes by itself.
                return
            self._send_records(last_index(data), data)

    def end(self) -> None:
        """Nothing more goes over it, and nothing that is acknowledged counts."""
        self.stage = Stage.LACKING

    def _lack(self) -> None:
        self.stage = Stage.LACKING
        self.lacks()

    def _fits(self, size: int) -> bool:
        return not self._under_way or self._bytes + size <= self._window

    def _send_records(self, last: int, data: bytes) -> None:
        before = self._position(self._sent)
        self._send(Records(self._number, before, self._committed, data))
        self._under_way.append((last, len(data), self._seconds()))
        self._bytes += len(data)
        self._sent = last

    def _tell(self) -> None:
        self._send(Records(self._number, self._position(self._sent), self._committed, b""))

    def _position(self, index: int) -> Position:
        return Position(self._log.epoch_at(index) or NO_EPOCH, index)


def _nobody_asks() -> None:
    """Nobody has to know."""
