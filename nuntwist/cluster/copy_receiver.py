"""The copy of all that a secondary takes from its primary.

::

    idle ──asked──▶ asks ──CopyBegins──▶ takes ──CopyEnds──▶ installs ──▶ placed
                     ▲                   │   ▲                   │
                     │           link lost, asked again          │ not possible now
                     └──CopyLost, or it is damaged──◀────────────┘

What comes is put into a catalogue aside (:mod:`nuntwist.core.copying`), while clients read what is
there; each piece is acknowledged when it is in, so no more is on its way than the primary's window.
When all is there, and as it must be, it is put in place at once (:mod:`nuntwist.core.installing`),
and the node says anew what it has: the log goes on after the copy. Whatever ends it before that,
nothing has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Final, Protocol
from zlib import crc32

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.cluster.copies import (
    CopyBegins,
    CopyEnds,
    CopyLost,
    CopyPiece,
    CopyTaken,
    CopyWanted,
    FromPrimary,
    FromSecondary,
    entries_of,
)
from nuntwist.core.copying import Aside
from nuntwist.core.quota import Quota
from nuntwist.errors import CorruptData, StorageUnavailable

AGAIN: Final = 5.0
"""Seconds until a copy that could not be put in place is asked for again."""


class Stage(Enum):
    """How far it is."""

    IDLE = "no copy is needed"
    ASKS = "a copy was asked for"
    TAKES = "pieces come"
    INSTALLS = "it is being put in place"
    PLACED = "it is in place"


class Target(Protocol):
    """Where copies are put in place; see :class:`nuntwist.core.installing.Installing`."""

    @property
    def quota(self) -> Quota:
        """What a database may hold here."""

    def install(self, aside: Aside, parted_at: int | None = None) -> Deferred[None]:
        """Put a copy in place; fails with StorageUnavailable where nothing has changed."""

    def work(self, steps: Iterator[object]) -> Deferred[Any]:
        """Do work a step a turn."""


class CopyReceiver:
    """What is taken from one primary, in one epoch, over however many connections.

    :param number: of the epoch.
    :param send: sends a message to the primary.
    :param placed: called when the copy is in place: this node is to say anew what it has.
    :param call_later: IReactorTime.callLater.
    :ivar stage: how far it is.
    """

    _log = Logger()

    def __init__(
        self,
        number: int,
        target: Target,
        send: Callable[[FromSecondary], None],
        placed: Callable[[], None],
        call_later: Callable[..., IDelayedCall],
    ) -> None:
        self.number = number
        self.stage = Stage.IDLE
        self._target = target
        self._send = send
        self._placed = placed
        self._call_later = call_later
        self._copy_id = 0
        self._next = 0
        self._checksum = 0
        self._parted_at: int | None = None
        self._aside: Aside | None = None
        self._asked_at = -1
        self._timer: IDelayedCall | None = None
        self._over = False

    def wanted(self, parted_at: int | None = None) -> None:
        """A copy is needed; called again when there is a new connection.

        :param parted_at: the index up to which the log here is the beginning of the primary's;
            None where nobody knows.
        """
        if self._over or self.stage is Stage.INSTALLS:
            return
        if parted_at is not None:
            self._parted_at = parted_at
        if self.stage is not Stage.TAKES:
            self.stage = Stage.ASKS
        self._asked_at = self._next
        self._send(CopyWanted(self.number, self._copy_id, self._next))

    def end(self) -> None:
        """That primary is not followed any more."""
        self._over = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._forget()

    def _forget(self) -> None:
        """Begin again with nothing."""
        aside, self._aside = self._aside, None
        if aside is not None:
            aside.given_up = True
            if self.stage is not Stage.INSTALLS:
                self._target.work(aside.free())
        self._copy_id = self._next = self._checksum = 0
        self.stage = Stage.IDLE

    def received(self, message: FromPrimary) -> None:
        """The primary says something of the copy.

        :raise CorruptData: what it has sent is damaged: the link is at fault. The next connection
            begins a new copy.
        """
        if self._over or message.number != self.number or self.stage is Stage.INSTALLS:
            return
        try:
            if isinstance(message, CopyLost):
                self._lost(message)
            elif isinstance(message, CopyBegins):
                self._begin(message)
            elif message.copy_id == self._copy_id and self._aside is not None:
                if isinstance(message, CopyPiece):
                    self._take(message, self._aside)
                else:
                    self._finish(message, self._aside)
        except CorruptData:
            self._forget()
            raise

    def _lost(self, message: CopyLost) -> None:
        if message.copy_id not in (0, self._copy_id):
            return
        if message.copy_id or self.stage is Stage.PLACED:
            self._forget()
        self.wanted()

    def _begin(self, message: CopyBegins) -> None:
        if self.stage is not Stage.ASKS or self._copy_id:
            return
        self._aside = Aside(message.position, message.stamp, message.outlines, self._target.quota)
        self._copy_id, self._next, self._checksum = message.copy_id, 0, 0
        self.stage = Stage.TAKES
        self._log.info(
            "takes a copy of all up to operation {index} from the primary",
            index=message.position.index,
        )

    def _take(self, message: CopyPiece, aside: Aside) -> None:
        if message.piece > self._next:
            # What stands between was lost with an earlier connection.
            if self._asked_at != self._next:
                self.wanted()
            return
        if message.piece == self._next:
            for number, entries in entries_of(message.data):
                aside.add(number, entries)
            self._checksum = crc32(message.data, self._checksum)
            self._next += 1
        self._send(CopyTaken(self.number, self._copy_id, self._next - 1))

    def _finish(self, message: CopyEnds, aside: Aside) -> None:
        if message.pieces != self._next:
            if self._asked_at != self._next:
                self.wanted()
            return
        if message.checksum != self._checksum:
            raise CorruptData("a copy", 0, "it does not match its checksum")
        aside.finish(message.entries)
        self.stage = Stage.INSTALLS
        installed = self._target.install(aside, self._parted_at)
        installed.addCallbacks(self._installed, self._not_installed, (message.pieces,))

    def _installed(self, _: object, pieces: int) -> None:
        copy_id = self._copy_id
        self._aside = self._parted_at = None
        self._copy_id = self._next = self._checksum = 0
        self.stage = Stage.PLACED
        if not self._over:
            self._send(CopyTaken(self.number, copy_id, pieces))
            self._placed()

    def _not_installed(self, reason: Failure) -> None:
        reason.trap(StorageUnavailable)
        self._aside = None
        self._copy_id = self._next = self._checksum = 0
        self.stage = Stage.IDLE
        if not self._over:
            self._log.error(
                "the copy could not be put in place, this is tried again in {seconds:g} s: {error}",
                seconds=AGAIN,
                error=str(reason.value),
            )
            self._timer = self._call_later(AGAIN, self.wanted)
