"""The replica set as the commands of a node see it; a node alone has none.

What there is to know is given as values, so that the commands that show it need nothing of the
election or the links.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One node of the set.

    :ivar address: ``host:port``.
    :ivar role: ``StartingUp``, ``Primary`` or ``Secoundary``, as the wire spells it.
    :ivar is_self: whether it is this node.
    :ivar connected: whether there is a connection to it, or it is this node.
    :ivar member: whether it counts in elections and acknowledgements.
    :ivar index: the last operation it is known to have; None where that is not known.
    :ivar durable: the last that it is known to have on its disk; None where that is not known.
    :ivar lag: by how many operations it is behind this node; None where that is not known.
    :ivar heard: seconds since something came from it; None for never, or this node.
    :ivar epoch: the number of the epoch of the operation ``index``; None where that is not known.
    :ivar agreed: up to which index its state was found to be this primary's; None where nothing
        was compared.
    :ivar differs: whether it was found not to be, and it has no copy of all yet.
    """

    address: str
    role: str
    is_self: bool
    connected: bool
    member: bool
    index: int | None = None
    durable: int | None = None
    lag: int | None = None
    heard: float | None = None
    epoch: int | None = None
    agreed: int | None = None
    differs: bool = False


@dataclass(frozen=True, slots=True)
class SetView:
    """The set.

    :ivar set_id: 16 hexadecimal digits; 16 times 0 for none yet.
    :ivar formed: whether it has ever had more than one member.
    :ivar epoch: the number of the epoch that is served or followed; 0 for none.
    :ivar primary: its address; None where there is none.
    :ivar state: of the election on this node.
    :ivar committed: up to which index a majority has the log, as far as is known.
    :ivar last: the last index of this node's log.
    :ivar stopped: why this node does not follow, or takes no part; None while it does.
    """

    set_id: str
    formed: bool
    epoch: int
    primary: str | None
    state: str
    committed: int
    last: int
    stopped: str | None
    replicas: Sequence[ReplicaView]


class ReplicaSet(Protocol):
    """What commands ask of the set, and for."""

    def view(self) -> SetView:
        """How it is now."""

    def elections(self) -> Sequence[str]:
        """The last transitions of the election on this node, one line each."""

    def pending(self) -> Sequence[str]:
        """Operations that not all replicas have, one line each, the oldest first."""

    def pending_count(self) -> int:
        """How many of them there are."""

    def replication_time(self) -> float:
        """Moving average of the time until a replica has acknowledged, in ms."""

    def force_election(self) -> None:
        """Hold an election."""

    def step_down(self) -> Deferred[None]:
        """Be primary no more: give a member all there is, and ask that one to stand.

        :return: fires with None when that has come to an end, and at once where this node is not
            the primary.
        :raise CommandError: no member could take over.
        """

    def join(self, address: str) -> Deferred[None]:
        """Ask the node at an address into the set.

        :return: fires with None when it is a member, or learns to be one; fails with
            CommandError where it has not come to that in some seconds.
        :raise CommandError: this node is not the primary.
        """

    def leave(self, address: str) -> Deferred[None]:
        """Take the member at an address out of the set.

        :return: fires with None when a majority has that; fails with CommandError.
        :raise CommandError: there is none, or this node is not the primary.
        """
