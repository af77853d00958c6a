"""One copy of all on its way from a primary to one node.

::

    asked for ──a place is free──▶ begun ──pieces go out──▶ all sent ──in place there──▶ held
                                     │  ▲                                                  │
                                 link lost, asked for again                 HELD seconds later: over
                                     └──PATIENCE seconds nobody asks──▶ given up

Pieces are made as they are sent, one a turn, as long as those that are not acknowledged fit the
window: so a slow taker costs the window and no more, and clients go on. What is not acknowledged is
kept, so that after a lost connection only that is sent again.

Who gets one, and when, is :mod:`nuntwist.cluster.copy_sender`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol
from zlib import crc32

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.cluster.copies import CopyBegins, CopyEnds, CopyPiece, FromPrimary, pieces_of
from nuntwist.core.copying import Original
from nuntwist.errors import StorageUnavailable

WINDOW: Final = 2 << 20
"""Bytes of pieces that may be on their way to one node, or kept to be sent again."""
PATIENCE: Final = 60.0
"""Seconds of silence after which a copy is given up."""
HELD: Final = 60.0
"""Seconds for which the log is kept for one that has its copy."""


class Source(Protocol):
    """The node, as one that gives copies; see :class:`nuntwist.core.copying.Originals`."""

    def begin(self) -> Deferred[Original]:
        """Begin a copy; fails with StorageUnavailable where the log does not take what it has."""

    def work(self, steps: Iterator[object]) -> Deferred[Any]:
        """Do work a step a turn; a step may give a Deferred to wait for."""

    @property
    def log_is_long(self) -> bool:
        """Whether the log cannot wait for a copy any more."""


class OneCopy:
    """One copy to one node.

    :param number: of the epoch.
    :param copy_id: tells it from others of the same epoch.
    :param window: bytes.
    :param call_later: IReactorTime.callLater.
    :ivar index: of the last operation it has; None until it is begun.
    :ivar away: whether there is no connection.
    :ivar placed: whether it is in place there.
    """

    _log = Logger()

    def __init__(
        self,
        number: int,
        copy_id: int,
        source: Source,
        window: int,
        call_later: Callable[..., IDelayedCall],
    ) -> None:
        self.copy_id = copy_id
        self.index: int | None = None
        self.away = False
        self.placed = False
        self._number = number
        self._source = source
        self._window = window
        self._call_later = call_later
        self._original: Original | None = None
        self._pieces: deque[CopyPiece] = deque()
        self._bytes = 0
        self._made = 0
        self._entries = 0
        self._checksum = 0
        self._ends: CopyEnds | None = None
        self._room: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._over = False

    def begin(self, send: Callable[[FromPrimary], None], ended: Callable[[OneCopy], None]) -> None:
        """Begin it.

        :param send: sends a message to the node.
        :param ended: called when nothing more will come of it by itself.
        """
        self._send, self._tell_ended = send, ended
        self._wait(PATIENCE)
        self._source.begin().addCallbacks(self._begun, self._failed)

    def _begun(self, original: Original) -> None:
        if self._over:
            original.close()
            return
        self._original, self.index = original, original.index
        position, outlines = original.position, original.outlines
        begins = CopyBegins(self._number, self.copy_id, position, original.stamp, outlines)
        self._put(begins)
        self._source.work(self._steps(original)).addErrback(self._failed)

    def _failed(self, reason: Failure) -> None:
        if not reason.check(StorageUnavailable):
            self._log.failure("a copy failed in a way nobody foresaw", failure=reason)
        else:
            self._log.error("a copy could not be made: {error}", error=str(reason.value))
        self.give_up()

    def _steps(self, original: Original) -> Iterator[Deferred[None] | None]:
        for data, count in pieces_of(original.entries()):
            while self._bytes and self._bytes + len(data) > self._window and not self._over:
                self._room = Deferred()
                yield self._room
            if self._over:
                return
            piece = CopyPiece(self._number, self.copy_id, self._made, data)
            self._made += 1
            self._entries += count
            self._checksum = crc32(data, self._checksum)
            self._pieces.append(piece)
            self._bytes += len(data)
            self._put(piece)
            yield None
        self._ends = CopyEnds(self._number, self.copy_id, self._made, self._entries, self._checksum)
        self._put(self._ends)

    def _put(self, message: FromPrimary) -> None:
        if not self.away:
            self._send(message)

    def taken(self, piece: int) -> None:
        """All pieces up to one are there; or all of it is in place."""
        if self._ends is not None and piece == self._ends.pieces:
            self.placed = True
            self._wait(HELD)
        else:
            self._wait(PATIENCE)
        while self._pieces and self._pieces[0].piece <= piece:
            self._bytes -= len(self._pieces.popleft().data)
        self._wake()

    def go_on(self, piece: int) -> bool:
        """It is asked for again.

        :param piece: the first one that is wanted.
        :return: whether that can be.
        """
        first = self._pieces[0].piece if self._pieces else self._made
        if self.index is None or not first <= piece <= self._made:
            return False
        self.away = False
        self.taken(piece - 1)
        for kept in self._pieces:
            self._send(kept)
        if self._ends is not None:
            self._send(self._ends)
        return True

    def _wake(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    def _wait(self, seconds: float) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.reset(seconds)
        elif not self._over:
            self._timer = self._call_later(seconds, self.give_up)

    def give_up(self) -> None:
        """It cannot go on."""
        self.end()
        self._tell_ended(self)

    def end(self) -> None:
        """It is over."""
        self._over = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._pieces.clear()
        if self._original is not None:
            self._original.close()
        self._wake()
