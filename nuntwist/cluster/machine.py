"""What a member of a set stands between: connections to other nodes, and the node itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from nuntwist.cluster.handshake import Peer
from nuntwist.cluster.incoming import Follower
from nuntwist.cluster.reign import Leader
from nuntwist.values import Epoch


class Link(Protocol):
    """A connection to another node.

    :ivar heard: when something came last, in seconds of the clock.
    """

    peer: Peer | None
    connecting: bool
    heard: float

    def send(self, message: Any) -> None:
        """Send a message, unless the connection is gone."""

    def close(self) -> None:
        """End it."""


class Machine(Follower, Leader, Protocol):
    """The node, as a set needs it.

    :ivar grown: called when more of the log is durable here.
    :ivar troubled: called when a write of this node as the primary fails.
    """

    grown: Callable[[], None]
    troubled: Callable[[], None]

    @property
    def in_trouble(self) -> bool:
        """Whether the log takes no writes, for a while or until a restart."""

    @property
    def members(self) -> bytes | None:
        """Who is in the set, as the state has it."""

    @property
    def holds_data(self) -> bool:
        """Whether there is a database but for ``$admin``."""

    def lead(self, epoch: Epoch) -> int:
        """Be the primary: log the first operation of the epoch, then take writes.

        :return: its index.
        :raise StorageUnavailable: it could not be logged.
        """

    def stand_by(self, primary: str | None) -> None:
        """Take no writes of clients.

        :param primary: where the primary is; None where there is none.
        """

    def begin_anew(self) -> None:
        """Be in another set: nothing that is known of the one before counts."""

    def pause(self) -> None:
        """Take no more writes of clients, as if there were no primary."""

    def guard(self, in_step: int) -> None:
        """Say how many replicas are in step, for those who refuse writes without."""
