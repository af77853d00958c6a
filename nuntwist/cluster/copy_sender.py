"""The copies of all that a primary gives to those whose logs part where its own does not reach.

What becomes of one copy is :mod:`nuntwist.cluster.one_copy`. Few are made at the same time, and the
others wait for a place. A copy that nobody asks for any more is given up, and so are all when the
node is no longer primary.

The log keeps what follows on each copy (``hold_back``) until the taker follows from there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from nuntwist.cluster.copies import CopyLost, CopyTaken, CopyWanted
from nuntwist.cluster.one_copy import WINDOW, OneCopy, Source

AT_ONCE: Final = 2
"""Copies that are made at the same time; others wait."""


class CopySender:
    """The copies of one epoch.

    :param number: of the epoch.
    :param send: sends a message to a node.
    :param call_later: IReactorTime.callLater.
    :param window: bytes.
    :ivar given: is told of a node in which a copy is in place.
    """

    _log = Logger()

    def __init__(
        self,
        number: int,
        source: Source,
        send: Callable[[int, object], None],
        call_later: Callable[..., IDelayedCall],
        window: int = WINDOW,
    ) -> None:
        self._number = number
        self._source = source
        self._send = send
        self._call_later = call_later
        self._window = window
        self.given: Callable[[int], None] = _nobody_asks
        self._last_id = 0
        self._copies: dict[int, OneCopy] = {}
        self._waiting: dict[int, None] = {}
        self._over = False

    def hold_back(self) -> int | None:
        """Say what the log, which is about to drop some, has to keep. Where it is too long by now,
        it is the copies that go.

        :return: the index after which it has to keep all; None while there is no copy.
        """
        if self._copies and self._source.log_is_long:
            self._log.warn(
                "copies of all for {count} nodes are given up, as the log cannot wait for them any"
                " longer (raise NUN_MAX_OP_LOG_SIZE)",
                count=len(self._copies),
            )
            for copy in tuple(self._copies.values()):
                copy.give_up()
        indexes = [copy.index for copy in self._copies.values() if copy.index is not None]
        return min(indexes, default=None)

    @property
    def count(self) -> int:
        """How many nodes get a copy."""
        return sum(1 for copy in self._copies.values() if not copy.placed)

    def offer(self, node: int) -> None:
        """A node has a log that parts from the one here where that does not reach any more."""
        if not self._over:
            self._send(node, CopyLost(self._number, 0))

    def received(self, node: int, message: CopyWanted | CopyTaken) -> None:
        """A node asks for a copy, or has more of it."""
        if self._over or message.number != self._number:
            return
        copy = self._copies.get(node)
        known = copy is not None and copy.copy_id == message.copy_id
        if isinstance(message, CopyTaken):
            if copy is not None and known:
                before = copy.placed
                copy.taken(message.piece)
                self._begin_next()
                if copy.placed and not before:
                    self.given(node)
        elif message.copy_id == 0:
            self._end(node)
            self._waiting[node] = None
            self._begin_next()
        elif copy is not None and known and copy.go_on(message.next_piece):
            return
        else:
            self._send(node, CopyLost(self._number, message.copy_id))

    def unlinked(self, node: int) -> None:
        """The connection to a node is gone; it may come again."""
        self._waiting.pop(node, None)
        copy = self._copies.get(node)
        if copy is not None:
            copy.away = True

    def end(self) -> None:
        """This node is no longer primary."""
        self._over = True
        self._waiting.clear()
        for node in tuple(self._copies):
            self._end(node)

    def _begin_next(self) -> None:
        while self._waiting and self.count < AT_ONCE and not self._over:
            node = next(iter(self._waiting))
            del self._waiting[node]
            self._last_id += 1
            self._copies[node] = OneCopy(
                self._number, self._last_id, self._source, self._window, self._call_later
            )
            self._copies[node].begin(partial(self._send, node), partial(self._ended, node))

    def _end(self, node: int) -> None:
        copy = self._copies.pop(node, None)
        if copy is not None:
            copy.end()

    def _ended(self, node: int, copy: OneCopy) -> None:
        """A copy has come to its end, or cannot go on."""
        if self._copies.get(node) is copy:
            del self._copies[node]
            if not copy.placed and not copy.away:
                self._send(node, CopyLost(self._number, copy.copy_id))
            self._begin_next()


def _nobody_asks(node: int) -> None:
    """Nobody has to know."""
