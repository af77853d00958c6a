"""Comparing the states of the nodes of a set while they run, and mending one that differs.

Every node keeps a hash of its state (:mod:`nuntwist.core.hashing`). At each check a secondary sends
what it has, and the primary compares (:mod:`nuntwist.cluster.checks`). Both have the same log up to
there, so that they differ is an alarm. Nobody knows which side is wrong; the primary rules::

    follows ──a check differs──▶ its turn ──▶ taken out ──Differs──▶ takes a copy ──▶ follows
                                  │  ▲            │ ▲
                       another node has it    it had one lately: a pause

- *Taken out*: its stream ends, so nothing that it acknowledges counts, and it is no replica in
  step. It notes that it is doubtful, so its vote is none in a majority, until it has the copy and
  the primary has told it that it is whole.
- The primary sums up its own state anew: from then on its hash is that of what it holds and gives.
- One node at a time, so that a fault of the primary itself does not leave it without a majority.
- Whose state differs again soon after a copy waits for a pause that doubles each time, in which
  nothing that it says counts, and which is logged louder.

What is compared in one epoch is not known in the next. A secondary whose primary is another one by
then is compared by that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from nuntwist.addresses import in_short
from nuntwist.cluster.checks import Checked, Checks, Differs
from nuntwist.core.hashing import Hashing
from nuntwist.core.state_hash import EVERY, Check

if TYPE_CHECKING:
    from nuntwist.cluster.copier import Copier
    from nuntwist.cluster.member import Member
    from nuntwist.cluster.reign import Reign
    from nuntwist.core.node import Node

LOOK: Final = 1.0
"""Seconds from one look at those that wait to the next."""
PAUSE: Final = 10.0
"""Seconds that a node waits for its second copy; twice that for the one after it, and so on."""
LONGEST_PAUSE: Final = 600.0
"""Seconds that it waits at most."""
FORGIVEN: Final = 3_600.0
"""Seconds after a copy when it and those before it do not count any more."""


class Comparing:
    """The comparing of one node, as the primary and as a secondary.

    :param member: its handlers are set.
    :param every: positions from one check to the next; the same on all nodes.
    :ivar hashing: the hash of this node.
    """

    _log = Logger()

    def __init__(self, member: Member, node: Node, copier: Copier, every: int = EVERY) -> None:
        self._member = member
        self._counters = node.counters
        self._copier = copier
        self._reign: Reign | None = None
        self._checks = self._make_checks()
        # Nodes that differ: those whose turn has not come, and until when others have a pause.
        self._waiting: dict[int, int] = {}
        self._differs_at: dict[int, int] = {}
        self._pauses: dict[int, float] = {}
        # Of each node, how many copies it was given for this, and when it had the last.
        self._copies: dict[int, tuple[int, float]] = {}
        self._timer: IDelayedCall | None = None
        self._told: Differs | None = None
        self.hashing = Hashing(node, every)
        self.hashing.on_check = self._made
        copier.on_given = self._given
        copier.on_kept = self.hashing.begin_anew
        member.handlers[Checked] = self._compare
        member.handlers[Differs] = self._differs

    def _make_checks(self) -> Checks:
        return Checks(self._alarm, self._address_of)

    def _address_of(self, node: int) -> str:
        return in_short(self._member.belonging.address_of(node) or f"{node:016x}")

    def agreed(self, node: int) -> int | None:
        """Up to which index a node's state was found to be that of this primary."""
        reign = self._member.reign
        if reign is None or reign is not self._reign:
            return None
        return self._checks.agreed.get(node)

    def stop(self) -> None:
        """The node stops."""
        self.hashing.stop()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _made(self, check: Check) -> None:
        """A check of this node."""
        member = self._member
        if member.reign is not None:
            self._begin_with(member.reign)
            self._checks.mine(check.index, check.sum)
        elif member.streams_from is not None:
            number = member.election.number
            member.send(member.streams_from, Checked(number, check.index, check.sum))

    # -- as the primary ----------------------------------------------------------------------

    def _begin_with(self, reign: Reign) -> None:
        if reign is not self._reign:
            self._reign = reign
            self._checks = self._make_checks()
            self._waiting.clear()
            self._differs_at.clear()
            self._pauses.clear()
            reign.on_differing = self._asked

    def _compare(self, node: int, message: Checked) -> None:
        reign = self._member.reign
        if reign is None or message.number != reign.number or node in reign.differing:
            return
        self._begin_with(reign)
        self._checks.theirs(node, message.index, message.sum)

    def _alarm(self, node: int, index: int) -> None:
        self._counters.states_differed += 1
        self._waiting[node] = index
        if self.hashing.state.ready:
            # Where it is this node whose memory has changed, its sum is not that of what it holds.
            self.hashing.begin_anew()
        self._look()

    def _look(self) -> None:
        """See whose turn it is."""
        reign, now = self._member.reign, self._member.clock.seconds()
        if reign is None or reign is not self._reign:
            return
        for node in [node for node, until in self._pauses.items() if until <= now]:
            del self._pauses[node]
            self._tell(reign, node)
        if self._waiting and reign.differing.isdisjoint(self._member.links):
            node = next(iter(self._waiting))
            self._take_out(reign, node, self._waiting.pop(node))
        if (self._waiting or self._pauses) and (self._timer is None or not self._timer.active()):
            self._timer = self._member.clock.callLater(LOOK, self._look)

    def _take_out(self, reign: Reign, node: int, index: int) -> None:
        reign.take_out(node)
        self._member.machine.guard(reign.in_step())
        self._differs_at[node] = index
        count, last = self._copies.get(node, (0, 0.0))
        now = self._member.clock.seconds()
        if count == 0 or now - last >= FORGIVEN:
            self._copies.pop(node, None)
            self._tell(reign, node)
            return
        pause = min(LONGEST_PAUSE, PAUSE * 2.0 ** (count - 1))
        self._pauses[node] = now + pause
        self._log.critical(
            "the state of the node at {address} differs again, though it was given {count} copies"
            " of all lately: it counts for nothing, and gets the next one in {seconds:g} s. Its"
            " machine or that of this primary is not to be relied on: replace the node, or hold"
            " debug force-election here, so that another primary compares",
            address=self._address_of(node),
            count=count,
            seconds=pause,
        )

    def _tell(self, reign: Reign, node: int) -> None:
        self._member.send(node, Differs(reign.number, self._differs_at.get(node, 0)))

    def _asked(self, node: int) -> None:
        """A node that was taken out says what it has, over a new connection."""
        if node not in self._pauses and self._reign is not None:
            self._tell(self._reign, node)

    def _given(self, node: int) -> None:
        """A copy of all is in place in a node."""
        reign = self._member.reign
        if reign is None or reign is not self._reign:
            return
        self._checks.forget(node)
        self._waiting.pop(node, None)
        self._pauses.pop(node, None)
        if node in reign.differing:
            reign.take_back(node)
            self._note_copy(node)
            self._log.info(
                "the node at {address} has a copy of all, and is compared again",
                address=self._address_of(node),
            )
        self._look()

    def _note_copy(self, node: int) -> None:
        now = self._member.clock.seconds()
        self._copies = {
            one: (count, last)
            for one, (count, last) in self._copies.items()
            if now - last < FORGIVEN
        }
        count, _ = self._copies.get(node, (0, now))
        self._copies[node] = count + 1, now

    # -- as a secondary ----------------------------------------------------------------------

    def _differs(self, node: int, message: Differs) -> None:
        """The primary says that the state of this node is not its own."""
        member = self._member
        if member.election.primary != node or message.number != member.election.number:
            return
        if member.incoming is None or member.incoming.stopped is not None:
            return
        member.fall_out()
        if message != self._told:
            self._told = message
            self._counters.states_differed += 1
            self._log.error(
                "the state of this node is not that of its primary, as of operation {index}: it"
                " takes a copy of all. Look at the memory and the disks of both machines",
                index=message.index,
            )
        # All that is here has come from that primary, or was found to be of its log.
        self._copier.differs(member.oplog.last.index)
