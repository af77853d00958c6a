"""A primary whose log takes no writes, as its disk is full or has failed, lets another one lead.

The set would take none otherwise, for as long as it has that primary. What could not be logged went
to nobody, so it waits until the member that has most has all of the log, a while at most, and asks
that one to stand. Until its log takes something again it stands behind all others whose logs are as
long: as the senior one it would win once more, and could not even begin its epoch.

Where nobody follows who could lead it stays the primary, and gives what it has to those who read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

if TYPE_CHECKING:
    from nuntwist.cluster.member import Member

PATIENCE_SECONDS: Final = 1.0
"""How long it waits for another member to have all that its log has."""
LOOK_SECONDS: Final = 0.05
"""How often it looks."""


class Ailing:
    """Sees to it that a node does not lead while its log takes no writes.

    :param member: the node's part in its set.
    """

    _log = Logger()

    def __init__(self, member: Member) -> None:
        self._member = member
        self._since = 0.0
        self._timer: IDelayedCall | None = None

    def begin(self) -> None:
        """The log has refused something that this node wanted to log as the primary."""
        if self._timer is None:
            clock = self._member.clock
            self._since = clock.seconds()
            # Not from within the failure itself: what was refused is being taken back.
            self._timer = clock.callLater(0.0, self._look)

    def stop(self) -> None:
        """The node takes no part any more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _look(self) -> None:
        member, self._timer = self._member, None
        ails = member.machine.in_trouble
        member.election.stand_back(ails)
        if ails:
            self._timer = member.clock.callLater(LOOK_SECONDS, self._look)
            self._hand_over()

    def _hand_over(self) -> None:
        member = self._member
        reign = member.reign
        best = None if reign is None else reign.best()
        if reign is None or best is None or not member.election.may_stand(best):
            return
        missing = member.oplog.last.index - reign.outgoing[best].applied
        if missing > 0 and member.clock.seconds() < self._since + PATIENCE_SECONDS:
            return
        self._log.error(
            "the log takes no writes, so the node at {address} is asked to be primary; the last"
            " {missing} operations are only here",
            address=member.belonging.address_of(best),
            missing=max(0, missing),
        )
        member.release(best)
