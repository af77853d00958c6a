"""A node offers its primary the operations that were cut off here.

They lie in files beside the log (``divergent-EPOCH-INDEX.op``: the first of them is that one), and
stay there. A piece goes out, and the next one when the primary has decided about it
(:mod:`nuntwist.core.divergent`)::

    secondary ──Offer──▶ primary      some records, as they stand in the file
              ◀─Offered── primary     decided, up to that index

How far the primary has come stands in the replicated state, so nothing has to be kept here: after
a restart, or with another primary, what is known to be decided is passed over. Where the primary
cannot decide now it says so with index 0, and the rest waits until this node follows anew. Who
offers when, and who decides, is :mod:`nuntwist.cluster.bargains`.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from twisted.logger import Logger

from nuntwist.errors import CorruptData
from nuntwist.files import Files
from nuntwist.oplog.reader import records
from nuntwist.oplog.record import HEAD_SIZE
from nuntwist.oplog.segment import SEGMENT_HEAD
from nuntwist.values import Epoch

PIECE: Final = 32 << 10
"""Bytes of records offered at once, about; one record goes whole."""
LOOKED_AT: Final = 1 << 20
"""Bytes of a file that are passed over in one turn."""
_NAME = re.compile(r"divergent-[0-9]{1,20}-([0-9]{1,20})\.op")
_END = 1 << 64
"""No index is as high."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Operations that the sender has cut off.

    :ivar number: of the epoch that the primary serves.
    :ivar first: the index of the first one of all that were cut off together.
    :ivar data: whole records.
    """

    number: int
    first: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Offered:
    """What became of an offer.

    :ivar last: the index up to which it was decided; 0 where it could not be now.
    :ivar taken: how many operations were made again, or put before arbiters.
    :ivar left: how many were not: they are only in the file.
    """

    number: int
    last: int
    taken: int
    left: int


@dataclass(slots=True)
class _Tail:
    """A file being offered.

    :ivar first: the index of its first operation.
    :ivar at: where what is not decided yet begins in it, in bytes.
    :ivar end: where what is being decided ends.
    """

    name: str
    first: int
    at: int = len(SEGMENT_HEAD)
    end: int = len(SEGMENT_HEAD)
    taken: int = 0
    left: int = 0


class Offers:
    """What one node has to offer to one primary.

    :param files: the data directory.
    :param number: of the primary's epoch.
    :param decided_to: gives the index up to which the operations of an epoch are known here to be
        decided.
    :param send: sends a message to the primary.
    :param call_later: IReactorTime.callLater.
    """

    _log = Logger()

    def __init__(
        self,
        files: Files,
        number: int,
        decided_to: Callable[[Epoch], int],
        send: Callable[[Offer], None],
        call_later: Callable[..., Any],
    ) -> None:
        self._files = files
        self._number = number
        self._decided_to = decided_to
        self._send = send
        self._call_later = call_later
        self._tails: deque[_Tail] = deque()
        self._seen: set[str] = set()
        self._waits = False
        self._ended = False

    def begin(self) -> None:
        """Offer what lies here and was not offered yet."""
        for name in self._files.names():
            first = first_of(name)
            if first is not None and name not in self._seen:
                self._seen.add(name)
                self._tails.append(_Tail(name, first))
        if not self._waits:
            self._next()

    def end(self) -> None:
        """The node does not follow that primary any more."""
        self._ended = True
        self._tails.clear()

    def offered(self, message: Offered) -> None:
        """The primary has decided."""
        if not self._waits or message.number != self._number or not self._tails:
            return
        self._waits = False
        tail = self._tails[0]
        if message.last == 0:
            self.end()
            return
        tail.taken += message.taken
        tail.left += message.left
        tail.at = tail.end
        self._next()

    def _next(self) -> None:
        """Offer the next piece, soon where there is much to be passed over."""
        while self._tails and not self._ended:
            tail = self._tails[0]
            before = tail.at
            try:
                data = self._piece(tail)
            except (CorruptData, OSError) as error:
                self._log.error("{file} cannot be offered: {error}", file=tail.name, error=error)
                self._tails.popleft()
                continue
            if data:
                self._waits = True
                self._send(Offer(self._number, tail.first, data))
                return
            if tail.at > before:
                self._waits = True
                self._call_later(0.0, self._go_on)
                return
            self._done(self._tails.popleft())

    def _go_on(self) -> None:
        self._waits = False
        self._next()

    def _piece(self, tail: _Tail) -> bytes:
        """Give the next records that are not known to be decided; nothing at the end, or where so
        much was passed over that the rest is for another turn."""
        begin = tail.at
        with self._files.open_read(tail.name) as file:
            file.seek(begin)
            tail.end = begin
            for head, _, offset in records(file, tail.name, begin, self._files.size(tail.name)):
                end = offset + HEAD_SIZE + head.length
                if tail.end > tail.at and end - tail.at > PIECE:
                    break
                if tail.end == tail.at and self._decided_to(head.epoch) >= head.last:
                    tail.at = tail.end = end
                    if end - begin >= LOOKED_AT:
                        break
                else:
                    tail.end = end
            file.seek(tail.at)
            return file.read(tail.end - tail.at)

    def _done(self, tail: _Tail) -> None:
        if tail.taken or tail.left:
            self._log.info(
                "the operations in {file} were offered to the primary: {taken} were made again or"
                " put before arbiters, {left} are only in that file",
                file=tail.name,
                taken=tail.taken,
                left=tail.left,
            )


def first_of(name: str) -> int | None:
    """The index of the first operation in a file, by its name; None where it is another file."""
    match = _NAME.fullmatch(name)
    index = int(match[1]) if match is not None else _END
    return index if index < _END else None
