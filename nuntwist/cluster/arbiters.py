"""Which arbiters there are at the nodes of a set, as the primary knows it.

The primary decides which arbiter a conflict goes to (:mod:`nuntwist.core.desk`), and whether a
write that conflicts is refused because there is none; and an arbiter may be connected to any node.
So each secondary tells its primary which ones it has (``Arbiters``): all of them, when that changes
and whenever it has found a primary. The primary says whose a conflict is (``Assigned``) to the
node that has the arbiter. What arbiters answer is forwarded like any other write.

A new primary does not know its members' lists yet. Until they have come, or ``WAIT_SECONDS`` are
over, it gives nothing to anybody, and takes it that there is an arbiter: conflicts are kept then.
An arbiter counts while there is a connection to the node that it is connected to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from twisted.internet.interfaces import IDelayedCall

from nuntwist.core.permissions import Permissions
from nuntwist.core.seats import Seat
from nuntwist.errors import CommandError

if TYPE_CHECKING:
    from nuntwist.cluster.member import Member
    from nuntwist.core.client import Client
    from nuntwist.core.node import Node

WAIT_SECONDS: Final = 1.0
"""For how long a new primary waits for the lists of its members."""


@dataclass(frozen=True, slots=True)
class Arbiter:
    """One arbiter of a node.

    :ivar number: of the connection, at its node.
    :ivar database: the id of the database it decides for.
    :ivar user: as whom it has selected that; None with the database's own token.
    :ivar admin: whether it is an admin's.
    :ivar rights: the permissions that its signed token brings with it; None where those of the user
        count.
    """

    number: int
    database: int
    user: bytes | None
    admin: bool
    rights: bytes | None = None


@dataclass(frozen=True, slots=True)
class Arbiters:
    """:ivar arbiters: all that the sender has."""

    number: int
    arbiters: tuple[Arbiter, ...]


@dataclass(frozen=True, slots=True)
class Assigned:
    """Whose a conflict is.

    :ivar index: up to which there are operations that this relies on.
    :ivar database: the id of the database of the key.
    :ivar arbiter: the number of an arbiter of the receiver; 0 where the key is none's any more.
    :ivar key: the conflict, ``$conflicts_KEY_OPID``; where ``arbiter`` is 0, the key that it and
        others are about.
    """

    number: int
    index: int
    database: int
    arbiter: int
    key: bytes


class Registry:
    """Who has arbiters, and who is told of it.

    :param member: of the set; some of its handlers are set.
    :param node: knows who is connected to it.
    """

    def __init__(self, member: Member, node: Node) -> None:
        self._member = member
        self._node = node
        self._desk = node.desk
        self._primary: int | None = None
        self._number = 0
        self._heard: set[int] = set()
        self._waiting: IDelayedCall | None = None
        self._telling = False
        member.handlers[Arbiters] = self._received
        member.handlers[Assigned] = self._assigned
        member.on_unlinked = self._unlinked
        self._desk.in_set = True
        self._desk.on_changed = self._changed
        self._desk.tell = self._assign

    def turned(self, primary: int | None) -> None:
        """The node whose log this one's is the beginning of is another one, itself, or none."""
        before, self._primary = self._primary, primary
        self._wait_no_more()
        if primary is None and before not in (None, self._member.me) and self._desk.trays.count:
            # It may be there still, and this node wait for a copy of all, which takes a while.
            assert before is not None
            self._member.send(before, Arbiters(self._member.election.number, ()))
        if primary != self._member.me:
            self._desk.stand_by()
            if primary is not None:
                self._changed()
            return
        self._number = self._member.election.number
        self._heard = {self._member.me}
        self._desk.lead()
        self._waiting = self._member.clock.callLater(WAIT_SECONDS, self._begin)
        self._look()

    def stop(self) -> None:
        """The node stops."""
        self._wait_no_more()

    def _wait_no_more(self) -> None:
        if self._waiting is not None and self._waiting.active():
            self._waiting.cancel()
        self._waiting = None

    # -- on a primary ------------------------------------------------------------------------

    def _look(self) -> None:
        if self._heard.issuperset(self._member.belonging.membership.members):
            self._begin()

    def _begin(self) -> None:
        self._wait_no_more()
        self._desk.open()

    def _received(self, sender: int, message: Arbiters) -> None:
        if self._primary == self._member.me and message.number == self._number:
            self._desk.told(sender, [self._seat(sender, one) for one in message.arbiters])
            self._heard.add(sender)
            self._look()

    def _seat(self, sender: int, one: Arbiter) -> Seat:
        by_id = self._node.catalogue.by_id
        own = None if one.rights is None else _read(one.rights)

        def may(key: bytes) -> bool:
            database = by_id.get(one.database)
            if one.admin or database is None:
                return database is not None
            return database.permits(one.user, b"a", key) if own is None else own.allow(b"a", key)

        name = f"an arbiter at {self._member.belonging.address_of(sender)}"
        return Seat(sender, one.number, one.database, may, name, one)

    def _unlinked(self, node: int) -> None:
        self._desk.told(node, ())

    def _assign(self, node: int, database: int, key: bytes, arbiter: int, index: int) -> None:
        self._member.send(node, Assigned(self._number, index, database, arbiter, key))

    # -- on a secondary ----------------------------------------------------------------------

    def _changed(self) -> None:
        """Tell the primary, in a turn of its own: many may come at once."""
        if not self._telling:
            self._telling = True
            self._member.clock.callLater(0.0, self._tell)

    def _tell(self) -> None:
        self._telling = False
        member, primary = self._member, self._primary
        if primary is not None and primary != member.me:
            arbiters = tuple(_as_told(*one) for one in self._desk.trays.all())
            member.send(primary, Arbiters(member.election.number, arbiters))

    def _assigned(self, sender: int, message: Assigned) -> None:
        if sender == self._primary and message.number == self._member.election.number:
            self._desk.trays.given(message.database, message.key, message.arbiter, message.index)


def _as_told(number: int, client: Client) -> Arbiter:
    database = client.database
    where = 0 if database is None else database.number
    return Arbiter(number, where, client.user, client.admin, client.rights)


def _read(rights: bytes) -> Permissions:
    """What a list allows; nothing where it cannot be read, as of a later version."""
    try:
        return Permissions(rights)
    except CommandError:
        return Permissions()
