"""A primary leads: it begins its epoch, serves those who follow, and lays it down.

That is the other side of :mod:`nuntwist.cluster.pursuit`. What is done within one epoch is
:mod:`nuntwist.cluster.reign`; this is what there is around it::

    elected ──▶ who follows already has said what it has: that waits
       │
       ▼ logs agree
    begins: the epoch's first operation is logged ──cannot be──▶ another one is to lead
       │    a set that was just made is written down
       │    those who wait get their streams
       ▼
    leads ──elected no more, or the node stops──▶ laid down: what is committed stays known

Who follows says what it has, acknowledges, or could not take what it was sent; only what belongs
to the epoch of now counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.logger import Logger

from nuntwist.addresses import in_short
from nuntwist.cluster.reign import Reign
from nuntwist.cluster.states import State
from nuntwist.cluster.stream import Applied, Have, Refused
from nuntwist.errors import StorageUnavailable
from nuntwist.values import Epoch

if TYPE_CHECKING:
    from nuntwist.cluster.member import Member


class Leading:
    """What one node does as the primary, one epoch after the other.

    :param member: the node's part in its set.
    :ivar reign: the epoch that it serves; None while it is not the primary.
    """

    _log = Logger()

    def __init__(self, member: Member) -> None:
        self._member = member
        self.reign: Reign | None = None
        self._waiting: dict[int, Have] = {}

    def elected(self) -> None:
        """This node has won; nobody has said yet what it has."""
        self._waiting = {}

    def begin(self, number: int) -> None:
        """Lead, in an epoch."""
        member = self._member
        member.pursuit.forget()
        try:
            begins = member.machine.lead(Epoch(number, member.me))
        except StorageUnavailable as error:
            # It keeps the others from waiting for it, and another one is elected.
            self._log.error("this node cannot lead: {error}", error=str(error))
            member.machine.stand_by(None)
            member.ailing.begin()
            member.election.force(member.clock.seconds())
            return
        self._warn_without_majority()
        reign = self._make_reign(number, begins)
        member.belonging.write_down()
        member.doubt.elected()
        self.reign = reign
        if member.copier is not None:
            member.copier.lead(number)
        for node in member.belonging.doubtful():
            reign.note_whole(node, False)
        member.durable()
        member.on_primary(member.me)
        waiting, self._waiting = self._waiting, {}
        for node, have in waiting.items():
            if node in member.links and self.reign is not None:
                self.reign.begin_stream(node, have)
        self.guard()
        member.note_stream(member.me)

    def _make_reign(self, number: int, begins: int) -> Reign:
        member = self._member
        survives = member.terms.quorum == "none"
        return Reign(
            member.me,
            number,
            begins,
            member.belonging.membership,
            member.machine,
            member.oplog,
            member.send,
            self._lacking,
            # Where nobody else counts it is committed already, and nothing else would tell.
            lambda: member.clock.callLater(0.0, member.durable),
            member.clock.seconds,
            (lambda: member.election.linked) if survives else None,
        )

    def _warn_without_majority(self) -> None:
        member = self._member
        members = member.belonging.membership.members.keys()
        reached = len((member.election.linked | {member.me}) & members)
        if member.terms.quorum == "none" and reached <= len(members) // 2:
            self._log.critical(
                "this node takes over without a majority (NUN_ELECTION_QUORUM=none): it reaches"
                " {reached} of {members} members. Where the others run without it there are two"
                " primaries, and what one of them takes is taken off when they meet; take those"
                " that are gone out with leave, and set the quorum back",
                reached=reached,
                members=len(members),
            )

    def _lacking(self, node: int) -> None:
        member = self._member
        self._log.info(
            "the node at {address} needs what the log here does not have any more: it gets a copy",
            address=in_short(member.belonging.address_of(node) or "-"),
        )
        if member.copier is not None:
            member.copier.lacking(node)

    def lay_down(self) -> None:
        """Lead no more; nothing where it does not."""
        reign, self.reign = self.reign, None
        if reign is not None:
            pursuit = self._member.pursuit
            pursuit.committed = max(pursuit.committed, reign.commits.index)
            reign.end()

    # -- those who follow --------------------------------------------------------------------

    def received(self, node: int, message: Have | Applied | Refused) -> None:
        """A secondary has said something of its log."""
        member = self._member
        election = member.election
        if message.number != election.number:
            return
        if election.state is State.ELECTED and isinstance(message, Have):
            # It follows already, and is served when this node serves.
            self._waiting[node] = message
        reign = self.reign
        if election.state is not State.PRIMARY or reign is None:
            return
        if isinstance(message, Have):
            reign.begin_stream(node, message)
        else:
            reign.acknowledged(node, message)
            stream = reign.outgoing.get(node)
            if stream is not None:
                election.answered(node, message.number, stream.answered)
        member.machine.guard(reign.in_step())
        member.look()

    def unlinked(self, node: int) -> None:
        """A node is not reached any more, or is not of the set."""
        self._waiting.pop(node, None)
        if self.reign is not None:
            self.reign.unlinked(node)
            self._member.on_unlinked(node)
            self.guard()

    def guard(self) -> None:
        """Say how many follow in step, for those who refuse writes without."""
        self._member.machine.guard(0 if self.reign is None else self.reign.in_step())
