"""Nodes that an operator asks in with ``join``: whom to ask, and what the operator is told.

A node is asked in when there is a connection with it, once; the addresses wait for that
(:class:`Invitations`). The operator is answered when the node at that address is a member, or
learns to be one. Where neither is so after ``JOIN_SECONDS`` the answer says what is in the way; the
invitation stays, as long as this node is primary, and is given when there is a connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred

from nuntwist.cluster.membership import MOST_MEMBERS
from nuntwist.errors import CommandError

if TYPE_CHECKING:
    from nuntwist.cluster.member import Member

JOIN_SECONDS: Final = 5.0
"""How long an operator waits for the answer at most."""
LOOK_SECONDS: Final = 0.05
"""How often it is looked."""


class Invitations:
    """The addresses of nodes that were not asked in yet; over the limit of members the oldest
    goes."""

    def __init__(self) -> None:
        self._addresses: dict[str, None] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._addresses)

    def add(self, address: str) -> None:
        """Whoever is there is to be asked in."""
        if len(self._addresses) >= MOST_MEMBERS:
            del self._addresses[next(iter(self._addresses))]
        self._addresses[address] = None

    def take(self, address: str | None) -> bool:
        """A node is there: whether it is to be asked in now."""
        if address is None or address not in self._addresses:
            return False
        del self._addresses[address]
        return True


class Inviting:
    """One answer.

    :param member: of the primary.
    :param address: where the node is that was asked in.
    """

    def __init__(self, member: Member, address: str) -> None:
        self._member = member
        self._address = address
        self._until = member.clock.seconds() + JOIN_SECONDS
        self._done: Deferred[None] = Deferred()

    def begin(self) -> Deferred[None]:
        """Wait for it.

        :return: fires with None when it is, or comes to be, a member; fails with CommandError.
        """
        self._look()
        return self._done

    def _look(self) -> None:
        reign, address = self._member.reign, self._address
        if reign is None:
            self._done.errback(CommandError(b"this node is no longer primary: ask the next one"))
        elif reign.membership.at(address) is not None or address in reign.learners.values():
            self._done.callback(None)
        elif self._member.clock.seconds() >= self._until:
            self._done.errback(CommandError(self._why().encode()))
        else:
            self._member.clock.callLater(LOOK_SECONDS, self._look)

    def _why(self) -> str:
        member, address = self._member, self._address
        node = next((one for one in member.links if member.belonging.address_of(one) == address), 0)
        said = member.belonging.said_by(node)
        if said is None:
            return f"{address} cannot be reached: it is asked in as soon as it can be"
        if said.set_id not in (0, member.belonging.set_id):
            return (
                f"{address} is of another set: stop it, move its data directory away, and start"
                " it again"
            )
        return f"{address} was asked in and has not answered yet"
