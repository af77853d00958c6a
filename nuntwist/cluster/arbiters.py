"""On which nodes of a set arbiters are connected, as the primary knows it.

The primary decides whether a write that conflicts is put before an arbiter, or refused because
there is none, and an arbiter may be connected to any node. So each secondary tells its primary for
which databases it has some (``Arbiters``): all of them, when that changes and whenever it has found
a primary. A conflict then reaches the arbiters of a node as the operation that it is; what they
answer is forwarded like any other write.

A new primary does not know its members' lists yet. Until they have come, or ``WAIT_SECONDS`` are
over, it takes it that there is an arbiter: the conflict is kept then, and whoever is arbiter next
is sent it. A list counts while there is a connection to the node that it came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nuntwist.cluster.member import Member
    from nuntwist.core.database import Database
    from nuntwist.core.node import Node

WAIT_SECONDS: Final = 1.0
"""For how long a new primary waits for the lists of its members."""


@dataclass(frozen=True, slots=True)
class Arbiters:
    """:ivar databases: the ids of those that have an arbiter at the sender, rising."""

    number: int
    databases: tuple[int, ...]


class Registry:
    """Who has arbiters, and who is told of it.

    :param member: of the set; one of its handlers is set.
    :param node: is asked who is connected to it, and asks for who is elsewhere.
    """

    def __init__(self, member: Member, node: Node) -> None:
        self._member = member
        self._node = node
        self._primary: int | None = None
        self._number = 0
        self._led_at = 0.0
        self._held: dict[int, frozenset[int]] = {}
        self._telling = False
        member.handlers[Arbiters] = self._received
        node.catalogue.on_arbiters = self._changed
        node.arbiters_elsewhere = self._elsewhere

    def turned(self, primary: int | None) -> None:
        """The node whose log this one's is the beginning of is another one, itself, or none."""
        self._primary = primary
        if primary == self._member.me:
            if self._number != self._member.election.number:
                self._number = self._member.election.number
                self._led_at = self._member.clock.seconds()
                self._held.clear()
        elif primary is not None:
            self._changed()

    def _changed(self) -> None:
        """Tell the primary, in a turn of its own: many may come at once."""
        if not self._telling:
            self._telling = True
            self._member.clock.callLater(0.0, self._tell)

    def _tell(self) -> None:
        self._telling = False
        member, primary = self._member, self._primary
        if primary is None or primary == member.me:
            return
        by_id = self._node.catalogue.by_id
        having = sorted(number for number, database in by_id.items() if database.arbiters)
        member.send(primary, Arbiters(member.election.number, tuple(having)))

    def _received(self, sender: int, message: Arbiters) -> None:
        if message.number == self._number:
            self._held[sender] = frozenset(message.databases)

    def _elsewhere(self, database: Database) -> bool:
        """Whether another node has an arbiter for a database, or may have."""
        member = self._member
        if self._primary != member.me:
            return False
        linked = member.links.keys()
        if any(database.number in held for node, held in self._held.items() if node in linked):
            return True
        unknown = member.belonging.membership.members.keys() - self._held.keys() - {member.me}
        return bool(unknown) and member.clock.seconds() < self._led_at + WAIT_SECONDS
