"""The log on its way from the primary into this node, a secondary.

The secondary says what it has (``Have``), and appends what follows on that, byte for byte, in
order. What it has already it passes over, what leaves a gap it refuses; where the primary says
``Cut``, it takes off its own tail, but never what it knows to be committed: that would be a
promise broken, so it stops following and says so. Each append is acknowledged twice at most, as
soon as it is in the log and when it is on the disk; where that is the same, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.cluster.stream import REIGNS, Applied, Cut, Have, Records, Refused
from nuntwist.errors import (
    CorruptData,
    NeedsCopy,
    OutcomeUnknown,
    StorageUnavailable,
    TakenBack,
)
from nuntwist.interfaces import Received
from nuntwist.oplog.record import split
from nuntwist.values import INDEX, Epoch, Position


class Follower(Protocol):
    """The state machine that follows the log."""

    @property
    def last(self) -> Position:
        """Where its log ends."""

    @property
    def durable(self) -> int:
        """The last index that is durable here."""

    def reigns(self, count: int) -> Sequence[tuple[Epoch, int]]:
        """The last epochs of its log, rising, each with the index of its first operation."""

    def follow(self, records: Sequence[Received]) -> Deferred[None] | None:
        """Append records and apply them.

        :return: None where they are durable on return; else fires when they are.
        :raise StorageUnavailable: they were not taken, nor ``OutcomeUnknown``.
        """

    def cut(self, index: int) -> None:
        """Take off what comes after an index.

        :raise NeedsCopy: this node cannot; it needs a copy of all instead.
        :raise StorageUnavailable: it could not be done, nor ``CorruptData`` or ``ValueError``:
            the log does not part there.
        """

    def commit(self, index: int) -> None:
        """A majority has all up to an index."""


class Incoming:
    """The stream from one primary, over one link.

    :param number: of its epoch.
    :param send: sends a message over the link.
    :ivar committed: the highest index known to be committed; kept from reign to reign by the
        caller, who gives it.
    :ivar in_step: whether the log here is the beginning of the primary's.
    :ivar needs_copy: called with the last index that would stay, and a text, where its own tail
        cannot be taken off, so that it needs a copy of all; None for nobody: then it stops.
    :ivar may_mend: whether it has stopped for something that may go by, such as a full disk.
    :ivar mended: whether another one is to take its place for that.
    :ivar stopped_late: is called when it has stopped for what was taken before.
    :ivar stopped: why nothing more is taken over this link; None while it is.
    """

    _log = Logger()

    def __init__(
        self,
        follower: Follower,
        number: int,
        send: Callable[[object], None],
        committed: int = 0,
    ) -> None:
        self._follower = follower
        self._number = number
        self._send = send
        self.committed = committed
        self.may_mend = self.mended = False
        self.needs_copy: Callable[[int, str], None] | None = None
        self.stopped: str | None = None
        self.stopped_late: Callable[[], None] = _nobody_asks
        self.in_step = False
        self._said = 0

    def begin(self) -> None:
        """Say what is here."""
        self.in_step = False
        self._said = 0
        follower = self._follower
        self._send(Have(self._number, follower.last, tuple(follower.reigns(REIGNS))))

    def records(self, message: Records) -> None:
        """Take what follows on what is here.

        :raise CorruptData: it is not whole records: the link is at fault.
        """
        if self.stopped is not None or message.number != self._number:
            return
        last = self._follower.last
        records = split(message.data, "records of the primary")
        new = [record for record in records if record.ops[0][INDEX] > last.index]
        follows_on = message.before if len(new) == len(records) else last
        if follows_on != last or (new and new[0].ops[0][INDEX] != last.index + 1):
            self._send(Refused(self._number, last))
            self.begin()
            return
        begun, self.in_step = not self.in_step, True
        if new:
            self._take(new)
        elif records or begun:
            # Where nothing is written for a while, the primary is to know of what is here, too.
            self._said = min(self._follower.durable, last.index)
            self._send(Applied(self._number, last.index, self._said))
        self._commit(message.committed)

    def _take(self, records: list[Received]) -> None:
        last = records[-1].ops[-1][INDEX]
        try:
            durable = self._follower.follow(records)
        except (StorageUnavailable, OutcomeUnknown) as error:
            self.may_mend = isinstance(error, StorageUnavailable)
            self._stop(str(error))
            return
        if durable is None:
            self._said = last
            self._send(Applied(self._number, last, last))
            return
        self._send(Applied(self._number, last, 0))
        durable.addCallbacks(self._is_durable, self._lost, (last,))

    def _is_durable(self, _: object, last: int) -> None:
        self.grown(last)

    def grown(self, durable: int) -> None:
        """More is durable here, perhaps of what an earlier primary has sent."""
        if self.stopped is None and self.in_step and durable > self._said:
            self._said = durable
            self._send(Applied(self._number, durable, durable))

    def _lost(self, reason: Failure) -> None:
        if reason.check(TakenBack):
            # It was cut off on purpose, and what is here is said anew.
            return
        reason.trap(StorageUnavailable, OutcomeUnknown)
        self.may_mend = reason.check(StorageUnavailable) is not None
        self._stop(str(reason.value))
        self.stopped_late()

    def _commit(self, index: int) -> None:
        index = min(index, self._follower.last.index)
        if index > self.committed:
            self.committed = index
            self._follower.commit(index)

    def cut(self, message: Cut) -> None:
        """Take off a tail that is not of the set's log, and say again what is here."""
        if self.stopped is not None or message.number != self._number:
            return
        if message.index < self.committed:
            self._stop(
                f"the primary wants operations after {message.index} taken off, but all up to"
                f" {self.committed} are known to be committed"
            )
            return
        try:
            self._follower.cut(message.index)
        except NeedsCopy as error:
            if self.needs_copy is None:
                self._stop(str(error))
            else:
                self.needs_copy(message.index, str(error))
            return
        except (StorageUnavailable, OutcomeUnknown, CorruptData, ValueError) as error:
            self.may_mend = isinstance(error, StorageUnavailable)
            self._stop(str(error))
            return
        self.begin()

    def _stop(self, why: str) -> None:
        if self.stopped is None:
            self.stopped = why
            if not self.may_mend:
                self._log.critical(
                    "this node no longer follows its primary, its data stay as they are: {why}",
                    why=why,
                )


def _nobody_asks() -> None:
    """Nobody has to know."""
