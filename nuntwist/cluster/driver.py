"""Drives an election, which does nothing itself: what it wants is done, and it is called in time.

Whatever has happened, the round is the same::

    what is due in the set ──▶ what the election wants, one after the other ──▶ once more, until
              ▲                    │ a promise that cannot be kept                it wants nothing
              │                    ▼                                                   │
              │              nothing after it: it may neither vote nor lead            ▼
              └──────────────────────────── a timer for what is due next ◀─────────────┘

The order is what makes it safe: a promise is on the disk before the message goes that relies on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.interfaces import IDelayedCall

from nuntwist.cluster.effects import Keep, Send, Turned

if TYPE_CHECKING:
    from nuntwist.cluster.member import Member


class Driver:
    """Drives the elections of one node, one set after the other.

    :param member: the node's part in its set.
    """

    def __init__(self, member: Member) -> None:
        self._member = member
        self._timer: IDelayedCall | None = None
        self._timer_due = 0.0

    def run(self) -> None:
        """Do what is wanted, and be called again in time."""
        member = self._member
        member.belonging.settle(member.clock.seconds())
        while effects := member.election.effects():
            for effect in effects:
                if isinstance(effect, Send):
                    member.send(effect.to, effect.message)
                elif isinstance(effect, Turned):
                    member.turn(effect)
                elif not isinstance(effect, Keep) or not member.promise(effect):
                    return
            member.belonging.settle(member.clock.seconds())
        self._be_called(min(member.election.due, member.belonging.due))

    def _be_called(self, due: float) -> None:
        clock = self._member.clock
        if self._timer is not None and self._timer.active():
            if due == self._timer_due:
                return
            self._timer.cancel()
        self._timer_due = due
        if due < float("inf"):
            self._timer = clock.callLater(max(0.0, due - clock.seconds()), self._due)

    def _due(self) -> None:
        member = self._member
        member.election.tick(member.clock.seconds())
        member.carry_out()

    def stop(self) -> None:
        """The node takes no part any more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
