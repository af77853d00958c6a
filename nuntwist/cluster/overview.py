"""What the commands of a node show of its set, and what they ask of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.defer import Deferred, succeed

from nuntwist.cluster.comparing import Comparing
from nuntwist.cluster.greeting import Hello
from nuntwist.cluster.inviting import Inviting
from nuntwist.cluster.member import Member
from nuntwist.cluster.retiring import Retiring
from nuntwist.core.replica_set import ReplicaView, SetView
from nuntwist.errors import CommandError
from nuntwist.interfaces import IOplog
from nuntwist.values import DATABASE, INDEX, KEY, KIND, REMOVE, STAMP, Op

MOST_SHOWN: Final = 100
"""How many pending operations are shown."""
_KINDS: Final = {
    1: "set",
    2: "remove",
    3: "create-db",
    4: "drop-db",
    5: "name-db",
    6: "begin-epoch",
}


class Overview:
    """The set of a member; a :class:`nuntwist.core.replica_set.ReplicaSet`.

    :param oplog: of the node.
    :param bootstrap: the addresses it was told of.
    :param reach: asks for connections with more addresses.
    :param name_of: gives the name of a database.
    :param comparing: knows whose state is the same.
    """

    def __init__(
        self,
        member: Member,
        oplog: IOplog,
        bootstrap: Sequence[str],
        reach: Callable[[str], None],
        name_of: Callable[[int], str],
        comparing: Comparing,
    ) -> None:
        self._member = member
        self._oplog = oplog
        self._bootstrap = bootstrap
        self._reach = reach
        self._name_of = name_of
        self._comparing = comparing

    # -- what is shown -----------------------------------------------------------------------

    def view(self) -> SetView:
        """How it is now."""
        member, belonging = self._member, self._member.belonging
        election, incoming = member.election, member.incoming
        primary = None if election.primary is None else belonging.address_of(election.primary)
        stopped = member.failed or (None if incoming is None else incoming.stopped)
        return SetView(
            f"{belonging.set_id:016x}",
            belonging.hello().formed,
            election.number,
            primary,
            election.state.name.lower(),
            member.committed,
            member.oplog.last.index,
            stopped,
            sorted(self._replicas(), key=lambda replica: replica.address),
        )

    def _replicas(self) -> list[ReplicaView]:
        member = self._member
        members = member.belonging.membership.members
        last = member.oplog.last.index
        mine = ReplicaView(
            member.terms.address,
            _role(member.belonging.hello()),
            True,
            True,
            member.belonging.is_member,
            last,
            member.machine.durable,
            epoch=member.oplog.last.epoch.number,
        )
        nodes = dict.fromkeys([*members, *member.links])
        nodes.pop(member.me, None)
        found = [mine, *(self._replica(node, last) for node in nodes)]
        known = {replica.address for replica in found}
        found += [
            ReplicaView(address, "StartingUp", False, False, False)
            for address in dict.fromkeys(self._bootstrap)
            # Once it is a set, only its members are looked for.
            if address not in known and not member.belonging.hello().formed
        ]
        return found

    def _replica(self, node: int, last: int) -> ReplicaView:
        member, belonging = self._member, self._member.belonging
        hello = belonging.said_by(node)
        index = durable = lag = epoch = None
        stream = None if member.reign is None else member.reign.outgoing.get(node)
        if stream is not None:
            index, durable, lag = stream.applied, stream.durable, max(0, last - stream.applied)
            known = self._oplog.epoch_at(index)
            epoch = None if known is None else known.number
        elif hello is not None:
            index, epoch = hello.position.index, hello.position.epoch.number
        link = member.links.get(node)
        role = "StartingUp" if hello is None else _role(hello)
        if node == member.election.primary:
            role = "Primary"
        elif stream is not None and self._counts(node):
            role = "Secoundary"
        return ReplicaView(
            belonging.address_of(node) or f"{node:016x}",
            role,
            False,
            node in member.links,
            node in belonging.membership.members,
            index,
            durable,
            lag,
            None if link is None else member.clock.seconds() - link.heard,
            epoch,
            self._comparing.agreed(node),
            member.reign is not None and node in member.reign.differing,
        )

    def _counts(self, node: int) -> bool:
        """Whether it is a member, or learns to be one: who has left may still be linked."""
        reign = self._member.reign
        learns = reign is not None and node in reign.learners
        return learns or node in self._member.belonging.membership.members

    def elections(self) -> Sequence[str]:
        """The last transitions."""
        return list(self._member.diary.lines)

    def pending_count(self) -> int:
        """How many operations not all replicas have."""
        reign = self._member.reign
        if reign is None or not reign.outgoing:
            return 0
        return max(stream.lag for stream in reign.outgoing.values())

    def pending(self) -> Sequence[str]:
        """Operations that not all replicas have."""
        reign = self._member.reign
        if reign is None or not reign.outgoing:
            return []
        after = self._member.oplog.last.index - self.pending_count()
        shown: list[str] = []
        if after >= self._member.oplog.last.index:
            return shown
        for ops in self._oplog.read(max(after, self._oplog.first - 1)):
            for op in ops:
                if len(shown) == MOST_SHOWN:
                    return shown
                if op[INDEX] > after:
                    shown.append(self._line(op))
        return shown

    def _line(self, op: Op) -> str:
        reign = self._member.reign
        assert reign is not None
        what = _KINDS.get(op[KIND], str(op[KIND]))
        key = op[KEY].decode(errors="replace")
        # No value is shown: it may be long, or secret.
        told = f"{what} {self._name_of(op[DATABASE])}" if op[KIND] <= REMOVE else what
        has = [stream.applied >= op[INDEX] for stream in reign.outgoing.values()]
        replicas = ", ".join(
            f"{self._member.belonging.address_of(node)} {'has it' if held else 'pending'}"
            for node, held in zip(reign.outgoing, has, strict=True)
        )
        return (
            f"{told} {key}, id: {op[STAMP]}, index: {op[INDEX]}, acknowledged: {sum(has)} of"
            f" {len(has)}, {replicas}"
        )

    def replication_time(self) -> float:
        """Moving average, in ms."""
        reign = self._member.reign
        return 0.0 if reign is None else reign.replication_time

    # -- what is asked for -------------------------------------------------------------------

    def force_election(self) -> None:
        """Hold an election."""
        self._member.force()

    def step_down(self) -> Deferred[None]:
        """Hand over to another member, if this node is the primary."""
        reign = self._member.reign
        if reign is None:
            return succeed(None)
        if reign.best() is None:
            raise CommandError(b"no other member follows this node: nobody could take over")
        return Retiring(self._member, for_good=False).begin()

    def join(self, address: str) -> Deferred[None]:
        """Ask a node into the set."""
        self._check_primary()
        reign = self._member.reign
        if reign is None or reign.membership.at(address) is None:
            self._reach(address)
            self._member.invite(address)
        return Inviting(self._member, address).begin()

    def leave(self, address: str) -> Deferred[None]:
        """Take a member out."""
        self._check_primary()
        reign = self._member.reign
        assert reign is not None
        node = reign.membership.at(address)
        if node is None:
            raise CommandError(b"no member has that address: " + address.encode())
        if len(reign.membership.members) == 1:
            raise CommandError(b"the last member cannot leave")
        return reign.leave(node)

    def _check_primary(self) -> None:
        if self._member.reign is None:
            primary = self.view().primary
            raise CommandError(
                b"no primary" if primary is None else b"not primary: ask " + primary.encode()
            )


def _role(hello: Hello) -> str:
    if hello.serves:
        return "Primary"
    return "Secoundary" if hello.number and hello.member else "StartingUp"
