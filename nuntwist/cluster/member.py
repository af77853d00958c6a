"""One node of a set: its election, its connections, and the log on them, put together.

What happens comes in from three sides: connections (:class:`nuntwist.net.peer.Links`), the clock,
and the log of the node. The election (:mod:`nuntwist.cluster.bully`) says what follows from it:

- **primary**: the node leads: it begins its epoch with an operation of its own. Each secondary
  that says what it has gets a stream (:mod:`nuntwist.cluster.outgoing`), and what they
  acknowledge is counted (:mod:`nuntwist.cluster.commits`);
- **following**: the node stands by, says to its primary what it has, and takes what comes
  (:mod:`nuntwist.cluster.incoming`);
- **neither**: the node stands by.

Of two connections between the same two nodes (each has connected to the other) the one stays that
the node with the lower id has made; both ends know that, so they close the same one. Of two that
the same node has made the later one stays.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from nuntwist.cluster.bully import Bully
from nuntwist.cluster.commits import Commits
from nuntwist.cluster.effects import Keep, Send, Timing, Turned
from nuntwist.cluster.handshake import Peer
from nuntwist.cluster.incoming import Follower, Incoming
from nuntwist.cluster.outgoing import Log, Outgoing
from nuntwist.cluster.states import State
from nuntwist.cluster.stream import Applied, Cut, Have, Records, Refused
from nuntwist.errors import CorruptData, StorageUnavailable
from nuntwist.values import Epoch


class Link(Protocol):
    """A connection to another node."""

    peer: Peer | None
    connecting: bool

    def send(self, message: Any) -> None:
        """Send a message, unless the connection is gone."""

    def close(self) -> None:
        """End it."""


class Machine(Follower, Protocol):
    """The node, as a set needs it."""

    @property
    def durable(self) -> int:
        """The last index that is durable here."""

    def lead(self, epoch: Epoch) -> int:
        """Be the primary: log the first operation of the epoch, then take writes.

        :return: its index.
        :raise StorageUnavailable: it could not be logged.
        """

    def stand_by(self, primary: str | None) -> None:
        """Take no writes of clients.

        :param primary: where the primary is; None where there is none.
        """


class Member:
    """A node of a set.

    :param me: its id.
    :param members: the ids of all that elect.
    :param machine: the node.
    :param log: its log, whose ``written`` is set here.
    :param keep: puts an epoch on the disk.
    :param clock: IReactorTime.
    :param started: when the node was started, in milliseconds since 1970.
    :param promised: the epoch it has promised last.
    :ivar failed: why it takes no part any more; None while it does.
    """

    _log = Logger()

    def __init__(
        self,
        me: int,
        members: Collection[int],
        machine: Machine,
        log: Log,
        keep: Callable[[Epoch], None],
        clock: Any,
        timing: Timing,
        chance: random.Random,
        started: int,
        promised: Epoch,
    ) -> None:
        self.links: dict[int, Link] = {}
        self.commits: Commits | None = None
        self.outgoing: dict[int, Outgoing] = {}
        self.incoming: Incoming | None = None
        self.failed: str | None = None
        self._me = me
        self._machine = machine
        self._oplog = log
        self._keep = keep
        self._clock = clock
        self._committed = 0
        self._waiting: dict[int, Have] = {}
        self._timer: IDelayedCall | None = None
        self._timer_due = 0.0
        self.bully = Bully(
            me,
            members,
            log.last,
            started,
            timing,
            chance,
            clock.seconds(),
            promised.number,
            promised.node,
        )

    def start(self) -> None:
        """Take part."""
        self._oplog.written = self._written
        self._machine.stand_by(None)
        self._carry_out()

    def stop(self) -> None:
        """Take no part any more; the connections stay to whoever has made them."""
        self._oplog.written = None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    # -- connections -------------------------------------------------------------------------

    def linked(self, link: Link) -> None:
        """A connection to another node is there."""
        assert link.peer is not None
        node = link.peer.node
        before = self.links.get(node)
        if before is not None and self._stays(before, link, node):
            link.close()
            return
        self.links[node] = link
        if before is not None:
            before.close()
        self.bully.link(node, True, self._clock.seconds())
        if self.bully.primary == node:
            self._follow(node)
        self._carry_out()

    def _stays(self, before: Link, link: Link, node: int) -> bool:
        """Whether the connection there was stays, and not the new one."""
        if before.connecting == link.connecting:
            # Whoever has made both of them knows that the first is gone.
            return False
        return before.connecting == (self._me < node)

    def unlinked(self, link: Link) -> None:
        """A connection is gone."""
        gone = [node for node, held in self.links.items() if held is link]
        for node in gone:
            del self.links[node]
            self.outgoing.pop(node, None)
            self.bully.link(node, False, self._clock.seconds())
        self._carry_out()

    def received(self, link: Link, message: Any) -> None:
        """A message has come."""
        node = next((node for node, held in self.links.items() if held is link), None)
        if node is None or self.failed is not None:
            return
        if isinstance(message, (Have, Applied, Refused)):
            self._from_secondary(node, message)
        elif isinstance(message, (Records, Cut)):
            self._from_primary(node, message)
        else:
            self.bully.receive(node, message, self._clock.seconds())
        self._carry_out()

    def _send(self, node: int, message: Any) -> None:
        link = self.links.get(node)
        if link is not None:
            link.send(message)

    # -- the log -----------------------------------------------------------------------------

    def _written(self, first: int, last: int, data: bytes) -> None:
        self.bully.appended(self._oplog.last)
        for stream in self.outgoing.values():
            stream.written(first, last, data)

    def durable(self) -> None:
        """More of the log is durable here."""
        if self.commits is not None and self.commits.note(self._me, self._machine.durable):
            self._tell_committed()

    def _from_secondary(self, node: int, message: Have | Applied | Refused) -> None:
        if message.number != self.bully.number:
            return
        if self.bully.state is State.ELECTED and isinstance(message, Have):
            # It follows already, and is served when this node serves.
            self._waiting[node] = message
        if self.bully.state is not State.PRIMARY:
            return
        if isinstance(message, Have):
            self._begin_stream(node, message)
            return
        known = self.outgoing.get(node)
        if known is None:
            return
        if isinstance(message, Refused):
            known.refused(message)
            return
        known.acknowledged(message)
        if self.commits is not None:
            own = self.commits.note(self._me, self._machine.durable)
            if self.commits.note(node, known.durable) or own:
                self._tell_committed()

    def _begin_stream(self, node: int, have: Have) -> None:
        stream = Outgoing(self._oplog, have.number, lambda message: self._send(node, message))
        self.outgoing[node] = stream
        stream.have(have)

    def _tell_committed(self) -> None:
        assert self.commits is not None
        self._committed = self.commits.index
        self._machine.commit(self._committed)
        for stream in self.outgoing.values():
            stream.committed(self._committed)

    def _from_primary(self, node: int, message: Records | Cut) -> None:
        incoming = self.incoming
        if incoming is None or self.bully.primary != node:
            return
        try:
            if isinstance(message, Records):
                incoming.records(message)
            else:
                incoming.cut(message)
        except CorruptData as error:
            self._log.error("what the primary sends is damaged: {error}", error=str(error))
            self.links[node].close()
            return
        self._committed = incoming.committed
        self.bully.appended(self._oplog.last)

    # -- the election ------------------------------------------------------------------------

    def _carry_out(self) -> None:
        """Do what the election asks for, and be called again in time."""
        if self.failed is not None:
            return
        while effects := self.bully.effects():
            for effect in effects:
                if isinstance(effect, Send):
                    self._send(effect.to, effect.message)
                elif isinstance(effect, Turned):
                    self._turn(effect)
                elif not self._promise(effect):
                    return
        due = self.bully.due
        if self._timer is not None and self._timer.active():
            if due == self._timer_due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._clock.callLater(max(0.0, due - self._clock.seconds()), self._due)

    def _promise(self, promise: Keep) -> bool:
        """Put an epoch on the disk; a node that cannot may neither vote nor lead."""
        try:
            self._keep(Epoch(promise.number, promise.node))
        except OSError as error:
            self.failed = error.strerror or str(error)
            self._log.critical(
                "the epoch cannot be kept, so this node takes no part in its set any more; mend the"
                " disk and restart it: {error}",
                error=self.failed,
            )
            self.stop()
            self.outgoing.clear()
            self.commits = self.incoming = None
            self._machine.stand_by(None)
            return False
        return True

    def _due(self) -> None:
        self.bully.tick(self._clock.seconds())
        self._carry_out()

    def _turn(self, turned: Turned) -> None:
        self._log.info(
            "election: {before} -> {after}, as {event}; epoch {number}",
            before=turned.before.name,
            after=turned.after.name,
            event=turned.event.value,
            number=turned.number,
        )
        if turned.after is State.ELECTED:
            self._waiting = {}
        if turned.before is State.PRIMARY:
            self.outgoing.clear()
            self.commits = None
        if turned.after is State.PRIMARY:
            self._lead(turned.number)
        elif turned.after is State.FOLLOWING and turned.primary is not None:
            self._follow(turned.primary)
        elif turned.before in (State.PRIMARY, State.FOLLOWING):
            self.incoming = None
            self._machine.stand_by(None)

    def _lead(self, number: int) -> None:
        self.incoming = None
        try:
            begins = self._machine.lead(Epoch(number, self._me))
        except StorageUnavailable as error:
            # It keeps the others from waiting for it, and another one is elected.
            self._log.error("this node cannot lead: {error}", error=str(error))
            self._machine.stand_by(None)
            self.bully.force(self._clock.seconds())
            return
        self.commits = Commits(self._me, self.bully.members, begins)
        self.durable()
        waiting, self._waiting = self._waiting, {}
        for node, have in waiting.items():
            if node in self.links:
                self._begin_stream(node, have)

    def _follow(self, primary: int) -> None:
        link = self.links.get(primary)
        peer = None if link is None else link.peer
        self._machine.stand_by(None if peer is None else peer.address)
        self.incoming = Incoming(
            self._machine,
            self.bully.number,
            lambda message: self._send(primary, message),
            self._committed,
        )
        self.incoming.begin()
