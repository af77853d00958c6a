"""How a primary stops, or steps down: it hands over, so that nothing it has answered is only in
its own log.

It takes no more writes (those of clients wait, as for any primary that is lost), waits until the
member that has most has all, and asks that one to stand. Its part is over when it follows the next
primary, or after ``HAND_OVER_SECONDS``: then it says what the others may lack; who only stepped
down lets anybody stand then, itself included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from nuntwist.cluster.states import State

if TYPE_CHECKING:
    from nuntwist.cluster.member import Member

HAND_OVER_SECONDS: Final = 3.0
"""How long a stop waits for another primary."""
LOOK_SECONDS: Final = 0.01
"""How often it looks."""


class Retiring:
    """One hand-over.

    :param member: of the node that stops.
    :param for_good: whether it stops; else it may be primary again.
    """

    _log = Logger()

    def __init__(self, member: Member, for_good: bool = True) -> None:
        self._member = member
        self._for_good = for_good
        self._until = member.clock.seconds() + HAND_OVER_SECONDS
        self._done: Deferred[None] = Deferred()
        self._released = False

    def begin(self) -> Deferred[None]:
        """Hand over, where there is something to hand over and somebody to take it.

        :return: fires with None when this node may stop.
        """
        reign = self._member.reign
        if reign is not None and reign.best() is not None:
            self._member.pause()
            self._look()
        else:
            self._done.callback(None)
        return self._done

    def _look(self) -> None:
        member = self._member
        reign, last = member.reign, member.oplog.last.index
        if member.failed is not None or member.clock.seconds() >= self._until:
            self._give_up()
            return
        if reign is None:
            if member.election.state is State.FOLLOWING:
                self._done.callback(None)
                return
        elif not self._released:
            best = reign.best()
            if best is not None and reign.outgoing[best].applied >= last:
                self._released = True
                # Its log is as long as any, and it may be the senior one: it would win again.
                if self._for_good:
                    member.election.retire()
                member.release(best)
        member.clock.callLater(LOOK_SECONDS, self._look)

    def _give_up(self) -> None:
        reign, last = self._member.reign, self._member.oplog.last.index
        if reign is not None:
            best = reign.best()
            missing = last - (0 if best is None else reign.outgoing[best].applied)
            self._log.warn(
                "no other node has taken over in {seconds:g} s; the last {missing} operations are"
                " only here until this node is back",
                seconds=HAND_OVER_SECONDS,
                missing=missing,
            )
            if not self._for_good:
                # It takes no writes until there is another epoch.
                self._member.force()
        self._done.callback(None)
