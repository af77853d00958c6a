"""The named limit of every queue and buffer, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from nuntwist.core.quota import UNLIMITED, Quota


@dataclass(frozen=True, slots=True)
class Limits:
    """What a connection and a turn of the reactor may use.

    :ivar line: bytes of one command, WebSocket message or HTTP command.
    :ivar key: bytes of a key that is set or watched.
    :ivar value: bytes of a value that is set; 0 where the line alone limits it.
    :ivar quota: how many databases there may be, and how much each may hold.
    :ivar output_high_water: reply bytes one connection may produce in a turn before its next
        commands wait for the turn after, and before that for what was sent to be taken.
    :ivar output_limit: bytes waiting to be sent to one connection at which it is closed.
    :ivar output_total: bytes waiting to be sent to all connections together at which those for whom
        most waits are closed.
    :ivar watches: keys one connection may watch.
    :ivar watch_total: bytes that the watches of all connections may take together; beyond it those
        that watch most are closed.
    :ivar arbiters: connections of one node that may be arbiters, of all its databases.
    :ivar arbiter_window: conflicts that one of them may have been sent and not decided.
    :ivar turn_seconds: how long one turn runs commands before the rest waits for the next.
    :ivar early_commit: clients with something to be sent at which a batch is committed before
        its turn ends: few enough that they work on their answers while the rest of the turn
        runs, many enough that a log write is shared. A batch without operations has nothing
        to share and goes at once.
    :ivar slice_commands: commands run between two looks at the time.
    :ivar sends: connections written to in one turn when one change goes to many.
    :ivar replay: bytes logged since the last snapshots at which the next are taken, whatever
        the time: a start replays no more than about that.
    :ivar partitions: into how many files a snapshot of a database is split.
    :ivar one_partition: a database with fewer keys is in one file.
    :ivar min_replicas: writes are refused while fewer replicas follow this node as the primary.
    :ivar undo: operations that are kept at most, in a set, to be taken back: those that no
        majority is known to have.
    :ivar snapshot_commit: seconds that a snapshot waits, in a set, until all it holds is
        committed; then it is given up.
    :ivar failed_logins: failures of one address from which its logins have to wait; 0 for never.
    :ivar token_warning: seconds before the end of a signed token at which that is announced, or
        half of what is left of it when it comes.
    :ivar keys_at_once: a database with at most this many keys is listed in one go.
    :ivar forwards: commands of one connection that a secondary may have sent to the primary and
        not answered; then the connection is not read on.
    :ivar forward_bytes: bytes of these, but for one command that is longer.
    :ivar all_forwards: commands of all connections; then nothing more is taken of any until some
        are answered.
    :ivar all_forward_bytes: bytes of these, but for one command that is longer.
    """

    line: int = 1 << 20
    key: int = 4096
    value: int = 0
    quota: Quota = UNLIMITED
    output_high_water: int = 256 << 10
    output_limit: int = 16 << 20
    output_total: int = 256 << 20
    watches: int = 100_000
    watch_total: int = 256 << 20
    arbiters: int = 1_000
    arbiter_window: int = 500
    turn_seconds: float = 0.004
    early_commit: int = 20
    slice_commands: int = 512
    sends: int = 512
    replay: int = 256 << 20
    partitions: int = 10
    one_partition: int = 1_000
    min_replicas: int = 0
    undo: int = 200_000
    snapshot_commit: float = 60.0
    failed_logins: int = 10
    token_warning: float = 60.0
    keys_at_once: int = 2_000
    forwards: int = 512
    forward_bytes: int = 1 << 20
    all_forwards: int = 65_536
    all_forward_bytes: int = 64 << 20
