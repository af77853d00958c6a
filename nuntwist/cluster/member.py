"""One node of a set: its election, its connections, and the log on them, put together.

What happens comes in from three sides: connections (:class:`nuntwist.net.peer.Links`), the clock,
and the log of the node. The election (:mod:`nuntwist.cluster.elections`) says what follows from it,
and is driven by :mod:`nuntwist.cluster.driver`:

- **primary**: the node leads (:mod:`nuntwist.cluster.leading`);
- **following**: the node stands by, says to its primary what it has, and takes what comes
  (:mod:`nuntwist.cluster.pursuit`);
- **neither**: the node stands by.

Which set it is in, and how it comes into one, is :mod:`nuntwist.cluster.belonging`; whether its log
can be relied on, :mod:`nuntwist.cluster.doubt`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from nuntwist.cluster.ailing import Ailing
from nuntwist.cluster.belonging import Belonging, Terms
from nuntwist.cluster.copies import CopyBegins, CopyEnds, CopyPiece
from nuntwist.cluster.diary import Diary
from nuntwist.cluster.doubt import Doubt
from nuntwist.cluster.driver import Driver
from nuntwist.cluster.effects import Keep, Means, Timing, Turned
from nuntwist.cluster.elections import BULLY
from nuntwist.cluster.greeting import Greeting, Hello
from nuntwist.cluster.identity import Identity
from nuntwist.cluster.incoming import Incoming
from nuntwist.cluster.leading import Leading
from nuntwist.cluster.links import LinkTable
from nuntwist.cluster.machine import Link, Machine
from nuntwist.cluster.outgoing import Log
from nuntwist.cluster.pursuit import Pursuit
from nuntwist.cluster.reign import Reign
from nuntwist.cluster.states import State
from nuntwist.cluster.stream import Applied, Cut, Have, Records, Refused
from nuntwist.interfaces import IElection, IElectionKind
from nuntwist.values import Epoch

if TYPE_CHECKING:
    from nuntwist.cluster.copier import Copier

_FROM_PRIMARY = frozenset({CopyBegins, CopyPiece, CopyEnds})
"""What only a primary sends, and by megabytes; heartbeats come behind it."""


class Member:
    """A node of a set.

    :param identity: of the node.
    :param machine: the node.
    :param log: its log, whose ``written`` is set here.
    :param clock: IReactorTime.
    :param terms: what an operator has set.
    :param started: when the node was started, in milliseconds since 1970.
    :param kind: makes its elections.
    :ivar links: its connections.
    :ivar election: of the set it is in.
    :ivar running: whether it takes part.
    :ivar leading: what it does as the primary.
    :ivar pursuit: what it takes of its primary.
    :ivar failed: why it takes no part any more; None while it does.
    :ivar ailing: lets another one lead while the log here takes no writes.
    :ivar doubt: knows whether its log has all that it has acknowledged.
    :ivar diary: has the last transitions.
    :ivar on_primary: is told the id of the primary, itself included, or None, as it changes.
    :ivar on_stream: is told the id of the node whose log this node's is the beginning of, as its
        records come in order: its primary, itself included; or None, as it changes.
    :ivar on_left: is told, on the primary, which nodes are members no more.
    :ivar on_obeyed: is called when something of an election has come.
    :ivar on_turned: is called when this node follows nobody or another, or is primary no more.
    :ivar on_parted: is called when the connection to the primary is gone, whoever is primary then.
    :ivar on_unlinked: is told the id of a node that is not reached any more.
    :ivar on_addresses: is called when there may be other nodes to connect to.
    :ivar copier: gives and takes copies of all; None where there are none.
    :ivar handlers: what takes other messages of nodes of the same set, by their class.
    """

    _log = Logger()

    def __init__(
        self,
        identity: Identity,
        machine: Machine,
        log: Log,
        clock: Any,
        timing: Timing,
        chance: random.Random,
        started: int,
        terms: Terms | None = None,
        kind: IElectionKind = BULLY,
    ) -> None:
        self.me = identity.node_id
        self.links = LinkTable(self.me)
        self.leading = Leading(self)
        self.pursuit = Pursuit(self)
        self.failed: str | None = None
        self.on_primary: Callable[[int | None], None] = _nobody_asks
        self.on_stream: Callable[[int | None], None] = _nobody_asks
        self.on_addresses: Callable[[], None] = lambda: None
        self.on_left: Callable[[Collection[int]], None] = lambda nodes: None
        self.on_obeyed: Callable[[], None] = lambda: None
        self.on_turned: Callable[[], None] = lambda: None
        self.on_parted: Callable[[], None] = lambda: None
        self.on_unlinked: Callable[[int], None] = lambda node: None
        self.handlers: dict[type, Callable[[int, Any], None]] = {}
        self.copier: Copier | None = None
        self.identity = identity
        self.machine = machine
        self.oplog = log
        self.clock = clock
        self.started = started
        self.terms = terms or Terms()
        self._began = clock.seconds()
        self._timing = timing
        self._chance = chance
        self.running = False
        self.ailing = Ailing(self)
        self._driver = Driver(self)
        self.doubt = Doubt(self)
        self._streams_from: int | None = None
        self._kind = kind
        self.doubt.look_at_log()
        self.belonging = Belonging(self, timing.round)
        self.diary = Diary(
            lambda: started / 1000.0 + clock.seconds() - self._began, self.belonging.address_of
        )
        self.election = self._make_election()

    def _make_election(self) -> IElection:
        members = self.belonging.membership.members
        means = Means(
            self.me,
            members.keys(),
            self.oplog.last,
            self.started,
            self._timing,
            self._chance,
            self.clock,
            self.identity.epoch,
            survives=self.terms.quorum == "none",
            at_once=self.terms.told_of <= 1 and set(members) == {self.me},
            named=self.terms.fixed or "",
            address_of=self.belonging.address_of,
            wake=self.carry_out,
        )
        # mypy-zope does not take what a kind gives for what it is declared to.
        election: IElection = self._kind.make(means)
        if self.identity.standing.doubtful:
            election.doubtful.add(self.me)
        return election

    def begin_anew(self) -> None:
        """Be in another set, or in none: nothing of an earlier election counts."""
        self.note_stream(None)
        if self.copier is not None:
            self.copier.turned()
        self.leading.lay_down()
        self.pursuit.committed = 0
        self.machine.begin_anew()
        self.pursuit.forget()
        self.machine.stand_by(None)
        self.on_primary(None)
        self.election.stop()
        self.election = self._make_election()

    def start(self) -> None:
        """Take part."""
        self.running = True
        self.oplog.written = self._written
        self.machine.grown = self._grown
        self.machine.troubled = self.ailing.begin
        self.machine.stand_by(None)
        self.carry_out()

    def stop(self) -> None:
        """Take no part any more; the connections stay to whoever has made them."""
        self.running = False
        self.ailing.stop()
        self.election.stop()
        self.oplog.written = None
        self._driver.stop()
        self.pursuit.stop()
        self.note_stream(None)
        self.leading.lay_down()

    # -- connections -------------------------------------------------------------------------

    def linked(self, link: Link) -> None:
        """A connection to another node is there."""
        assert link.peer is not None
        node = link.peer.node
        if self.links.stays(node, link):
            link.close()
            return
        before = self.links.get(node)
        if before is not None:
            # What came over it is forgotten, as its end may come later.
            self._forget(node)
        self.links.put(node, link)
        if before is not None:
            before.close()
        link.send(self.belonging.hello())
        self.carry_out()

    def unlinked(self, link: Link) -> None:
        """A connection is gone."""
        node = self.links.node_of(link)
        if node is not None:
            self._forget(node)
        self.carry_out()

    def _forget(self, node: int) -> None:
        self.links.drop(node)
        self.part(node)
        self.belonging.gone(node)

    def part(self, node: int) -> None:
        """A node is not of the same set, or not reached any more."""
        if node == self._streams_from:
            self.note_stream(None)
        if node == self.election.primary:
            self.on_parted()
        self.election.learners.discard(node)
        self.election.link(node, False, self.clock.seconds())
        if self.copier is not None:
            self.copier.unlinked(node)
        self.leading.unlinked(node)

    def meet(self, node: int, hello: Hello) -> None:
        """A node says that it is of the same set, and what it is there."""
        if hello.whole:
            self.election.doubtful.discard(node)
        else:
            self.election.doubtful.add(node)
        if self.reign is not None:
            self.reign.note_whole(node, hello.whole)
        if node not in self.election.linked:
            self.election.link(node, True, self.clock.seconds())
            if self.election.primary == node:
                self.pursuit.follow(node)

    def received(self, link: Link, message: Any) -> None:
        """A message has come."""
        node = self.links.node_of(link)
        if node is None or self.failed is not None or not self.running:
            return
        kind = type(message)
        if isinstance(message, Greeting):
            self.belonging.received(node, message)
        elif self.belonging.is_of_set(node):
            if kind is Have or kind is Applied or kind is Refused:
                self.leading.received(node, message)
            elif kind is Records or kind is Cut:
                self.pursuit.received(node, message)
            elif kind in self.handlers:
                if kind in _FROM_PRIMARY:
                    self.election.heard_of(node, message.number, self.clock.seconds())
                self.handlers[kind](node, message)
            else:
                self.election.receive(node, message, self.clock.seconds())
                self.on_obeyed()
        self.carry_out()

    def send(self, node: int, message: Any) -> None:
        """Send a message to a node, if there is a connection."""
        link = self.links.get(node)
        if link is not None:
            link.send(message)

    # -- the log -----------------------------------------------------------------------------

    def _written(self, first: int, last: int, data: bytes) -> None:
        self.election.appended(self.oplog.last)
        if self.reign is not None:
            self.reign.written(first, last, data)

    def _grown(self) -> None:
        if self.reign is not None:
            self.reign.count()
        elif self.pursuit.incoming is not None:
            self.pursuit.incoming.grown(self.machine.durable)
        if self.belonging.has_changed:
            # In a turn of its own: more may be logged by that.
            self.clock.callLater(0.0, self._look_again)

    def _look_again(self) -> None:
        if self.running:
            self.look()
            self.carry_out()

    def durable(self) -> None:
        """More of the log is durable here."""
        if self.reign is not None:
            self.reign.durable()
        self.look()
        self.carry_out()

    @property
    def committed(self) -> int:
        """Up to which index a majority is known to have the log."""
        return self.pursuit.committed if self.reign is None else self.reign.commits.index

    def look(self) -> None:
        """See whether the members of the set have changed, and what is known of them."""
        self.belonging.look()

    @property
    def reign(self) -> Reign | None:
        """The epoch that this node serves; None while it is not the primary."""
        return self.leading.reign

    @property
    def incoming(self) -> Incoming | None:
        """What comes from the primary; None while this node follows nobody."""
        return self.pursuit.incoming

    @property
    def streams_from(self) -> int | None:
        """The node whose log this node's is the beginning of: its primary, itself included."""
        return self._streams_from

    def fall_out(self) -> None:
        """The primary sends this node nothing more before it has a copy of all."""
        if self.pursuit.incoming is not None:
            self.pursuit.incoming.in_step = False
        self.note_stream(None)

    def note_stream(self, node: int | None) -> None:
        """Note whose log this node's is the beginning of, and tell who asks."""
        if node != self._streams_from:
            self._streams_from = node
            self.on_stream(node)

    # -- the election ------------------------------------------------------------------------

    def invite(self, address: str) -> None:
        """Ask the node at an address into the set, now or when it is connected."""
        self.belonging.invite(address)
        self.carry_out()

    def pause(self) -> None:
        """Take no more writes of clients; they wait for the next primary."""
        self.note_stream(None)
        self.machine.pause()

    def release(self, successor: int) -> None:
        """Be the primary no more, and ask another node to stand."""
        self.election.release(successor, self.clock.seconds())
        self.carry_out()

    def force(self) -> None:
        """Hold an election."""
        self.election.force(self.clock.seconds())
        self.carry_out()

    def carry_out(self) -> None:
        """Do what the election asks for, and be called again in time."""
        if self.failed is None and self.running:
            self._driver.run()

    def promise(self, promise: Keep) -> bool:
        """Put an epoch on the disk; a node that cannot may neither vote nor lead."""
        try:
            epoch = Epoch(promise.number, promise.node)
            self.identity.raise_epoch(epoch, self.machine.durable)
        except OSError as error:
            self.fail(error)
            return False
        return True

    def note(self, **changes: int | bool) -> None:
        """Keep changes of how this node stands; where that cannot be, it takes no part any more."""
        try:
            self.identity.note(**changes)
        except OSError as error:
            self.fail(error)

    def fail(self, error: OSError) -> None:
        """Take no part any more, as what has to be kept cannot be."""
        self.failed = error.strerror or str(error)
        self._log.critical(
            "the epoch cannot be kept, so this node takes no part in its set any more; mend the"
            " disk and restart it: {error}",
            error=self.failed,
        )
        self.stop()
        self.pursuit.forget()
        self.note_stream(None)
        self.machine.stand_by(None)
        self.on_primary(None)

    def turn(self, turned: Turned) -> None:
        """Act as what the election has made of this node."""
        self.diary.note(turned, self.election.rank)
        if turned.after is State.ELECTED:
            self.leading.elected()
        if turned.before in (State.PRIMARY, State.FOLLOWING):
            self.note_stream(None)
            self.on_turned()
            if self.copier is not None:
                self.copier.turned()
        if turned.before is State.PRIMARY:
            self.leading.lay_down()
        if turned.after is State.PRIMARY:
            self.leading.begin(turned.number)
        elif turned.after is State.FOLLOWING and turned.primary is not None:
            self.pursuit.follow(turned.primary)
            self.on_primary(turned.primary)
        elif turned.before in (State.PRIMARY, State.FOLLOWING):
            self.pursuit.forget()
            self.machine.stand_by(None)
            self.on_primary(None)

    def replaced(self) -> None:
        """What this node holds was replaced by a copy of the primary's."""
        self.election.appended(self.oplog.last)
        self.doubt.note_cut()
        self.look()
        if self.pursuit.incoming is not None:
            self.pursuit.incoming.begin()
        self.carry_out()


def _nobody_asks(primary: int | None) -> None:
    """Nobody has to know."""
