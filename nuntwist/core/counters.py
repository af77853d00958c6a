"""What a node counts, and what it says of itself. Read by ``metrics-state`` and ``debug``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Running totals since the start, and averages.

    :ivar connections: open now, of all transports.
    :ivar watchers_closed: connections closed because they took their events too slowly.
    :ivar failed_batches: batches the log refused.
    :ivar tails_cut: how many times operations were taken off that the set does not have, and
        ``operations_undone`` how many that were.
    :ivar offered_made: operations that the set did not have and were made again here, or put
        before arbiters, when they were offered; ``offered_left``: that were not.
    :ivar stamps_ahead: operations of the primary whose stamp was over 10 s ahead of the clock here.
    :ivar copies_taken: how many times all was replaced by a copy of the primary's, and
        ``told_by_copies`` how many watched keys were another value by that.
    :ivar states_differed: how many times, on a primary, the state of another node was found not to
        be its own; on another node, its state not that of its primary.
    :ivar watches_taken: watches that ended because permissions changed, and ``signed_out``
        connections that were let go because their user or token was taken away.
    :ivar watches_closed: connections closed because they watched most when all watched too much.
    :ivar failed_logins: wrong names, passwords and tokens; ``delayed_logins`` those that had to
        wait, as their address had failed too often.
    :ivar tokens_expired: signed tokens that ended while a connection was there by them.
    :ivar refused_connections: connections over one of the limits of how many there may be.
    :ivar unfinished_closed: connections closed because all together held too much that was not
        whole, and they most.
    :ivar quota_refusals: writes and new databases that were refused because of a quota.
    :ivar late_handshakes: connections closed because a handshake, or the head of an HTTP request,
        took too long; ``late_commands`` because a command, message or body that had begun did;
        ``idle_closed`` because they were silent for too long.
    :ivar proxies_refused: connections to a port for proxies that came from others, or did not
        begin as they do.
    :ivar pages_refused: pages whose origin may not connect by WebSocket.
    :ivar nodes_refused: connections refused, where nodes have to show a certificate, because they
        had none that counts.
    :ivar failed_handshakes: connections on which TLS could not be agreed on for another reason.
    :ivar cut_off: connections that were ended, and did not go by themselves.
    :ivar slowed: how many times a connection had to wait as it sent commands too fast.
    :ivar conflicts_settled: keys in conflict that no arbiter has decided in time, and
        ``conflicts_moved`` that went to another arbiter, as one did not decide in its time;
        ``conflicts_undecided`` that all arbiters had in turn, and none has decided.
    :ivar command_time: moving average of the time a command takes, in ms.
    """

    connections: int = 0
    watchers_closed: int = 0
    failed_batches: int = 0
    tails_cut: int = 0
    operations_undone: int = 0
    offered_made: int = 0
    offered_left: int = 0
    stamps_ahead: int = 0
    copies_taken: int = 0
    told_by_copies: int = 0
    states_differed: int = 0
    watches_taken: int = 0
    watches_closed: int = 0
    signed_out: int = 0
    failed_logins: int = 0
    delayed_logins: int = 0
    tokens_expired: int = 0
    refused_connections: int = 0
    unfinished_closed: int = 0
    quota_refusals: int = 0
    late_handshakes: int = 0
    late_commands: int = 0
    idle_closed: int = 0
    cut_off: int = 0
    slowed: int = 0
    proxies_refused: int = 0
    pages_refused: int = 0
    nodes_refused: int = 0
    failed_handshakes: int = 0
    conflicts_settled: int = 0
    conflicts_moved: int = 0
    conflicts_undecided: int = 0
    command_time: float = 0.0

    def note_time(self, seconds: float) -> None:
        """Add a sample to the moving average (each weighs a tenth)."""
        self.command_time += (seconds * 1000.0 - self.command_time) * 0.1


@dataclass(slots=True)
class NodeInfo:
    """Who this node is.

    :ivar address: where clients and other nodes reach its TCP port.
    :ivar role: ``StartingUp``, ``Primary`` or ``Secoundary``, as the wire spells it.
    :ivar process_id: milliseconds since 1970 when it started: NunDB ranks nodes by it.
    :ivar user: the admin's name.
    :ivar password: the admin's password; never shown.
    """

    address: str
    user: bytes
    password: bytes
    process_id: int
    role: str = "StartingUp"

    def __repr__(self) -> str:
        return f"<NodeInfo {self.address} {self.role}>"
