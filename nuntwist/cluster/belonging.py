"""Which set a node is in, how it comes into one, and how it leaves it.

Its own state tells (:mod:`nuntwist.cluster.membership`), or nothing does yet::

    no set ──nobody better for a round──▶ makes one: lone ──another is a member too──▶ formed
      │                                     │
      └──────meets a set, and asks──────────┴─meets one that stays──▶ joining ──▶ member of that

A node that joins asks the nodes of that set until its own state says that it is a member; only
the primary answers. Meanwhile it follows that primary like any other secondary. Where the set is
not there any more before anything of it was taken over, the node is where it was before.

Nodes tell each other of this by ``Hello`` (:mod:`nuntwist.cluster.greeting`); what comes from a
node that has last said that it is of another set does not count.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from twisted.logger import Logger

from nuntwist.addresses import in_short
from nuntwist.cluster.founding import Founding
from nuntwist.cluster.greeting import Admitted, Greeting, Hello, Invited, Joining, Whole
from nuntwist.cluster.inviting import Invitations
from nuntwist.cluster.membership import Membership, decode_members, gives_way
from nuntwist.cluster.states import State
from nuntwist.errors import StorageUnavailable

if TYPE_CHECKING:
    from nuntwist.cluster.member import Member

ASK_SECONDS: Final = 0.5
"""How often a node asks to be taken in."""
_NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Terms:
    """What an operator has set.

    :ivar address: where others reach this node, ``host:port``.
    :ivar told_of: how many nodes the set is to have, this one included, as far as it was told.
    :ivar quorum: ``auto``, ``majority`` or ``none``: who may elect.
    :ivar fixed: where the only node is that may be primary, for elections that heed it; None:
        any may.
    """

    address: str = "-"
    told_of: int = 1
    quorum: str = "auto"
    fixed: str | None = None


class Belonging:
    """The part of a :class:`nuntwist.cluster.member.Member` that knows its set.

    :ivar set_id: of the set it is in, or wants to be in; 0 for none.
    :ivar membership: the members, as its state has them, or as it was told while it joins.
    :ivar due: when it wants to be called next.
    """

    _log = Logger()

    def __init__(self, member: Member, round_seconds: float) -> None:
        self._member = member
        self._hellos: dict[int, Hello] = {}
        self._round = round_seconds
        self._seen: bytes | None = None
        self._kept = Membership()
        self._members_index = 0
        self._asks_again = 0.0
        self._founding: Founding | None = None
        self._said: tuple[object, ...] = ()
        self._foreign: set[int] = set()
        self._invitations = Invitations()
        self.membership = Membership()
        self.set_id = 0
        self.since = member.started
        self.due = _NEVER
        self._take_up()

    def _take_up(self) -> None:
        """Be what the state says."""
        self._seen = self._member.machine.members
        self.membership = self._kept = decode_members(self._seen)
        self.set_id = self.membership.set_id
        self.since = self._member.started
        self._founding = None
        now = self._member.clock.seconds()
        self.due = _NEVER if self._member.me in self.membership.members else now
        if self.set_id == 0:
            terms = self._member.terms
            majority = terms.quorum == "majority"
            self._founding = Founding(now, self._round, terms.told_of, majority)
            self.due = self._founding.due

    # -- what is known -----------------------------------------------------------------------

    @property
    def is_member(self) -> bool:
        """Whether this node is a member of its set."""
        return self._member.me in self.membership.members and not self._joins

    @property
    def _joins(self) -> bool:
        """Whether the members are only what it was told."""
        return self._kept.set_id != self.set_id

    def hello(self) -> Hello:
        """What this node says of itself."""
        member = self._member
        standing = member.identity.standing
        election = getattr(member, "election", None)
        return Hello(
            0 if election is None else election.number,
            self.set_id,
            self.set_id != 0 and standing.formed == self.set_id,
            not standing.doubtful,
            member.machine.holds_data,
            election is not None and election.state is State.PRIMARY,
            self.is_member,
            self.since,
            member.oplog.last,
        )

    def said_by(self, node: int) -> Hello | None:
        """What a node has said of itself last."""
        return self._hellos.get(node)

    def is_of_set(self, node: int) -> bool:
        """Whether a node is of this node's set, as it has last said."""
        hello = self._hellos.get(node)
        return hello is not None and hello.set_id == self.set_id != 0

    def address_of(self, node: int) -> str | None:
        """Where a node is, as far as is known."""
        if node == self._member.me:
            return self._member.terms.address
        link = self._member.links.get(node)
        if link is not None and link.peer is not None:
            return link.peer.address
        return self.membership.members.get(node)

    def doubtful(self) -> list[int]:
        """The members that have said that their log is not whole."""
        return [node for node, hello in self._hellos.items() if not hello.whole]

    # -- what others say ---------------------------------------------------------------------

    def received(self, node: int, message: Greeting) -> None:
        """A node says what it is, or wants."""
        if isinstance(message, Hello):
            self._hellos[node] = message
            self._compare(node, message)
            return
        if not self.is_of_set(node):
            if isinstance(message, Invited) and self.set_id in (0, message.set_id):
                self._invited(node, message)
            return
        reign = self._member.reign
        if isinstance(message, Joining):
            if reign is not None:
                reign.admit(node, self.address_of(node) or "-")
                self._member.election.learners.add(node)
                self._member.on_addresses()
        elif isinstance(message, Invited):
            self._invited(node, message)
        elif isinstance(message, Admitted):
            told = decode_members(message.members)
            if told.set_id == self.set_id and not self.is_member:
                self.membership = told
                self._member.election.reconfigure(told.members, self._member.clock.seconds())
                self._member.on_addresses()
        elif isinstance(message, Whole):
            self._member.doubt.told_whole(message.number)

    def _invited(self, node: int, message: Invited) -> None:
        if self.is_member:
            # There is nothing to ask for, so nothing is due.
            return
        self._member.note(left=0)
        self.due = self._member.clock.seconds()
        hello = self._hellos.get(node)
        if self.set_id == 0 and hello is not None and hello.set_id == message.set_id:
            self._join(hello)

    def invite(self, address: str) -> None:
        """Ask the node at an address into the set, now or when it is heard of."""
        self._invitations.add(address)
        for node in self._hellos:
            self._call(node)

    def _call(self, node: int) -> None:
        address = self.address_of(node)
        if self._member.reign is not None and self._invitations.take(address):
            self._member.send(node, Invited(self._member.election.number, self.set_id))

    def _compare(self, node: int, hello: Hello) -> None:
        self._call(node)
        if hello.set_id == self.set_id:
            if self.set_id != 0:
                self._member.meet(node, hello)
            return
        self._member.part(node)
        if hello.set_id == 0 or hello.set_id == self._member.identity.standing.left:
            return
        may_stand = self._member.election.may_stand
        way = gives_way(self.hello(), hello, may_stand(self._member.me), may_stand(node))
        if way is None:
            if node not in self._foreign:
                self._foreign.add(node)
                self._log.error(
                    "the node at {address} is of another set: nothing is taken from it; if it is"
                    " to join this one, stop it, move its data directory away, and start it again",
                    address=in_short(self.address_of(node) or "-"),
                )
        elif way:
            self._join(hello)

    def gone(self, node: int) -> None:
        """The connection to a node is gone."""
        self._hellos.pop(node, None)
        self._foreign.discard(node)
        if self._joins and self.set_id and not any(map(self.is_of_set, self._hellos)):
            # What it wanted to join is not there any more.
            self._take_up()
            self._member.begin_anew()
            if self._founding is not None:
                self.due = self._founding.due

    # -- becoming a member -------------------------------------------------------------------

    def _join(self, hello: Hello) -> None:
        self._log.info(
            "joins the set {set_id:016x}{loss}",
            set_id=hello.set_id,
            loss=", what only this node has is kept aside" if self.hello().holds_data else "",
        )
        self.set_id, self.since = hello.set_id, hello.since
        self.membership = Membership(hello.set_id)
        self._founding = None
        self.due = self._member.clock.seconds()
        self._member.begin_anew()
        for node, said in self._hellos.items():
            if said.set_id == self.set_id:
                self._member.meet(node, said)

    def _found(self) -> None:
        """Make a set."""
        member = self._member
        self._founding = None
        self.due = _NEVER
        self.set_id = member.identity.new_id()
        self.membership = Membership(self.set_id, {member.me: member.terms.address})
        self._log.info("nobody is there: begins the set {set_id:016x}", set_id=self.set_id)
        member.election.reconfigure(self.membership.members, member.clock.seconds(), at_once=True)
        member.election.tick(member.clock.seconds())

    def write_down(self) -> None:
        """As a primary whose epoch has just begun, log the members where the state has others: the
        set was made just now, or this node is reached elsewhere than before."""
        member = self._member
        address = member.terms.address
        if self._joins or self.membership.members.get(member.me) not in (address, None):
            try:
                member.machine.configure(self.membership.joined(member.me, address).encode())
            except StorageUnavailable as error:
                self._log.error("the members cannot be written down: {error}", error=str(error))

    # -- as time goes by ---------------------------------------------------------------------

    @property
    def has_changed(self) -> bool:
        """Whether the state says something of the members that was not looked at yet."""
        return self._member.machine.members != self._seen

    def look(self) -> None:
        """See whether the state says something new of the members."""
        member = self._member
        kept = member.machine.members
        if kept != self._seen:
            self._seen = kept
            told = self._kept = decode_members(kept)
            if told.set_id == self.set_id:
                self._changed(told)
        self._note_formed()
        reign = self._member.reign
        out = not self.is_member and not self._joins
        if reign is not None and out and reign.commits.index >= self._members_index:
            # It has taken itself out, and a majority of the others knows.
            self._member.release(reign.best() or 0)

    def _changed(self, told: Membership) -> None:
        member = self._member
        was_member = member.me in self.membership.members and self.is_member
        gone = self.membership.members.keys() - told.members.keys()
        self.membership = told
        self._members_index = member.oplog.last.index
        member.election.reconfigure(told.members, member.clock.seconds())
        member.election.learners -= told.members.keys()
        if member.reign is not None:
            member.reign.reconfigured(told)
            if gone:
                # Not from within the change itself: more is logged by it.
                member.clock.callLater(0.0, member.on_left, gone)
        member.on_addresses()
        if self.is_member:
            self.due = _NEVER
            if member.identity.standing.left:
                member.note(left=0)
        elif was_member:
            self._log.warn("this node was taken out of its set, and takes no part any more")
            member.note(left=self.set_id, formed=0)

    def _note_formed(self) -> None:
        standing = self._member.identity.standing
        if (
            self.is_member
            and len(self.membership.members) > 1
            and standing.formed != self.set_id
            and self._member.committed >= self._members_index > 0
        ):
            self._member.note(formed=self.set_id)
            self._log.info(
                "the set {set_id:016x} is formed: {members}",
                set_id=self.set_id,
                members=", ".join(sorted(map(in_short, self.membership.members.values()))),
            )

    def settle(self, now: float) -> None:
        """Do what is due, and tell others what has changed."""
        if self._founding is not None:
            member = self._member
            mine = member.oplog.last.index, -member.started, member.me
            may_stand = member.election.may_stand
            if self._founding.decide(now, mine, self._hellos.items(), may_stand):
                self._found()
            else:
                self.due = self._founding.due
        elif self.set_id and not self.is_member and now >= self.due:
            self._ask()
            self.due = now + ASK_SECONDS
        elif now >= self._asks_again and self._may_be_unknown():
            self._ask()
            self._asks_again = now + ASK_SECONDS
        self._tell()

    def _tell(self) -> None:
        """Say to all what has changed of what a Hello says, as far as others act on it: compared
        with each message that comes."""
        member = self._member
        says = (
            self.set_id,
            self.membership,
            member.identity.standing.formed,
            member.identity.standing.doubtful,
            member.election.state is State.PRIMARY,
            member.election.number,
            member.machine.holds_data,
        )
        if says != self._said:
            self._said = says
            hello = self.hello()
            for node in member.links:
                member.send(node, hello)

    def _may_be_unknown(self) -> bool:
        """Whether it may have been made a member only by a primary that was lost before a majority
        had that: the next one does not know it, so it never hears of that as a primary."""
        member = self._member
        return (
            self.is_member
            and member.election.primary is None
            and member.identity.standing.formed != self.set_id
            and any(hello.serves and self.is_of_set(node) for node, hello in self._hellos.items())
        )

    def _ask(self) -> None:
        if self._member.identity.standing.left == self.set_id:
            return
        for node in self._hellos:
            if self.is_of_set(node):
                self._member.send(node, Joining(self._member.election.number, self.set_id))

    # -- for whoever connects ----------------------------------------------------------------

    def addresses(self) -> Collection[str]:
        """Where the nodes are that there should be connections with."""
        found = dict.fromkeys(self.membership.members.values())
        reign = self._member.reign
        if reign is not None:
            found.update(dict.fromkeys(reign.learners.values()))
        found.update(dict.fromkeys(self._invitations))
        found.pop(self._member.terms.address, None)
        return list(found)
