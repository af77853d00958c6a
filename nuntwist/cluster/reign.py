"""What a primary does in its epoch: it serves the streams, counts, and has the members changed.

Who follows it says what it has (``Have``) and gets a stream (:mod:`nuntwist.cluster.outgoing`);
what members acknowledge is counted (:mod:`nuntwist.cluster.commits`). Two kinds of nodes get the
stream and do not count until they have all that there was when they came:

- a *learner* is not a member yet; when it has caught up it is made one;
- a *doubtful* member may have lost what it had acknowledged; when it has caught up it is told
  that it is whole.

Who *differs*, whose state was found not to be the primary's (:mod:`nuntwist.cluster.comparing`),
gets no stream at all before it has a copy.

When the members change, and how, is :mod:`nuntwist.cluster.changing`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from twisted.internet.defer import Deferred

from nuntwist.cluster.changing import Changing
from nuntwist.cluster.commits import Commits
from nuntwist.cluster.greeting import Admitted, Whole
from nuntwist.cluster.membership import Membership
from nuntwist.cluster.outgoing import Log, Outgoing, Stage
from nuntwist.cluster.stream import Applied, Have, Refused


class Leader(Protocol):
    """The node, as its reign needs it."""

    @property
    def durable(self) -> int:
        """The last index that is durable here."""

    def commit(self, index: int) -> None:
        """A majority has all up to an index."""

    def configure(self, members: bytes) -> int:
        """Log the members of the set.

        :return: the index of that operation.
        :raise StorageUnavailable: it could not be logged.
        """


class Reign:
    """One epoch of a primary.

    :param number: of the epoch.
    :param begins: the index of its first operation.
    :param membership: of the set now.
    :param send: sends a message to a node.
    :param lacking: is told of a node that needs a copy of all.
    :param changed: is called when a change of the members was logged.
    :param seconds: monotonic time, in seconds.
    :param reachable: gives the members it has a connection with, where only those count; None
        where all do.
    :ivar differing: nodes whose state is not the primary's.
    :ivar on_differing: is told of one of them that says what it has, as it needs to know.
    :ivar replication_time: moving average of the time until a node acknowledges, in ms.
    """

    def __init__(
        self,
        me: int,
        number: int,
        begins: int,
        membership: Membership,
        machine: Leader,
        log: Log,
        send: Callable[[int, object], None],
        lacking: Callable[[int], None],
        changed: Callable[[], None],
        seconds: Callable[[], float],
        reachable: Callable[[], Collection[int]] | None = None,
    ) -> None:
        self.number = number
        self.outgoing: dict[int, Outgoing] = {}
        self.doubtful: set[int] = set()
        self.differing: set[int] = set()
        self.on_differing: Callable[[int], None] = _nobody_asks
        self._me = me
        self._begins = begins
        self._machine = machine
        self._oplog = log
        self._send = send
        self._lacking = lacking
        self._seconds = seconds
        self._reachable = reachable
        self.replication_time = 0.0
        self._wanted: dict[int, int] = {}
        self.commits = Commits(me, self._counted(membership), begins)
        self._changes = Changing(
            membership,
            begins,
            self.commits,
            self._has_all,
            lambda node: node in self.outgoing,
            machine.configure,
            changed,
        )

    @property
    def membership(self) -> Membership:
        """The members of the set, as the log has them."""
        return self._changes.membership

    @property
    def learners(self) -> Mapping[int, str]:
        """Who is to be a member, with its address, by id."""
        return self._changes.learners

    def _counted(self, membership: Membership) -> Collection[int]:
        members = membership.members.keys()
        if self._reachable is None:
            return members
        return {self._me, *(node for node in self._reachable() if node in members)}

    # -- the streams -------------------------------------------------------------------------

    def begin_stream(self, node: int, have: Have) -> None:
        """A node says what it has."""
        stream = Outgoing(
            self._oplog,
            self.number,
            lambda message: self._send(node, message),
            seconds=self._seconds,
        )
        # It is told with the first records what is committed already.
        stream.committed(self.commits.index)
        self.outgoing[node] = stream
        self._wanted[node] = self._oplog.last.index
        stream.lacks = lambda: self._lacking(node)
        if node in self.differing:
            stream.end()
            self.on_differing(node)
        else:
            stream.have(have)

    def written(self, first: int, last: int, data: bytes) -> None:
        """Records were written to the log."""
        for stream in self.outgoing.values():
            stream.written(first, last, data)

    def acknowledged(self, node: int, message: Applied | Refused) -> None:
        """A node has more, or could not take what it was sent."""
        stream = self.outgoing.get(node)
        if stream is None:
            return
        if isinstance(message, Refused):
            stream.refused(message)
            return
        stream.acknowledged(message)
        self.replication_time += (stream.took * 1000.0 - self.replication_time) * 0.1
        if stream.stage is not Stage.STREAMING:
            return
        if node in self.doubtful and stream.durable >= self._wanted[node]:
            self._send(node, Whole(self.number))
        more = self.commits.note(self._me, self._machine.durable)
        if node not in self.doubtful:
            more = self.commits.note(node, stream.durable) or more
        if more:
            self._tell_committed()
        self._changes.next()

    def durable(self) -> None:
        """More of the log is durable here."""
        self.count()
        self._changes.next()

    def count(self) -> bool:
        """Count what is durable here, and tell what is committed by that; nothing is logged.

        :return: whether anything is.
        """
        more = self.commits.note(self._me, self._machine.durable)
        if more:
            self._tell_committed()
        return more

    def _tell_committed(self) -> None:
        index = self.commits.index
        self._machine.commit(index)
        for stream in self.outgoing.values():
            stream.committed(index)

    def in_step(self) -> int:
        """How many members other than this node follow it with a stream."""
        return sum(
            1
            for node, stream in self.outgoing.items()
            if stream.stage is Stage.STREAMING and node in self.membership.members
        )

    def best(self) -> int | None:
        """The member that has most of the log."""
        having = [
            (stream.applied, node)
            for node, stream in self.outgoing.items()
            if stream.stage is Stage.STREAMING
            and node in self.membership.members
            and node not in self.doubtful
        ]
        return max(having)[1] if having else None

    # -- who counts --------------------------------------------------------------------------

    def unlinked(self, node: int) -> None:
        """The connection to a node is gone."""
        self.outgoing.pop(node, None)
        self._changes.unlinked(node)
        self._wanted.pop(node, None)
        self.recount()

    def recount(self) -> None:
        """Others count now."""
        if self.commits.reconfigure(self._counted(self.membership)):
            self._tell_committed()
        self._changes.next()

    def note_whole(self, node: int, whole: bool) -> None:
        """A member says whether its log is whole."""
        if not whole:
            self.doubtful.add(node)
            self.commits.forget(node)
        elif node in self.doubtful:
            self.doubtful.discard(node)
            stream = self.outgoing.get(node)
            if stream is not None and self.commits.note(node, stream.durable):
                self._tell_committed()
            self._changes.next()

    def take_out(self, node: int) -> None:
        """The state of a node is not the primary's: nothing it says counts."""
        self.differing.add(node)
        self.commits.forget(node)
        stream = self.outgoing.get(node)
        if stream is not None:
            stream.end()

    def take_back(self, node: int) -> None:
        """A node has the primary's state; it says anew what it has."""
        self.differing.discard(node)

    def reconfigured(self, membership: Membership) -> None:
        """The members have changed, as the log has it."""
        self._changes.reconfigured(membership)
        self.recount()

    def _has_all(self, node: int) -> bool:
        """Whether a node has all that there was when it came, and an operation of this epoch."""
        stream = self.outgoing.get(node)
        if stream is None or stream.stage is not Stage.STREAMING or node in self.doubtful:
            return False
        return stream.durable >= max(self._wanted[node], self._begins)

    # -- changes of the members --------------------------------------------------------------

    def admit(self, node: int, address: str) -> None:
        """A node wants to be a member: it learns first."""
        self._send(node, Admitted(self.number, self.membership.encode()))
        # A member that asks has lost its log, and with it who is in the set.
        if node not in self.membership.members:
            self._changes.learn(node, address)

    def leave(self, node: int) -> Deferred[None]:
        """Take a member out; as of :meth:`nuntwist.cluster.changing.Changing.leave`."""
        return self._changes.leave(node)

    @property
    def is_settled(self) -> bool:
        """Whether the last change of the members is committed, so that another may be made."""
        return self._changes.is_settled

    def end(self) -> None:
        """It is over."""
        self._changes.end()


def _nobody_asks(node: int) -> None:
    """Nobody has to know."""
