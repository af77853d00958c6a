"""A connection as the core sees it: who it is, what it selected, and what waits for it.

The life of a reply: a command puts it in ``out``; when the batch it belongs to is in the log,
``out`` is joined and goes to the transport at once, or waits in ``held`` until the log is
durable that far, or in ``ready`` while a turn is writing to many.  The life of a command that
cannot be run now: it waits in ``backlog``, and the transport is told not to read on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

from nuntwist.core.database import EVERYBODY

if TYPE_CHECKING:
    from nuntwist.core.concern import Concern
    from nuntwist.core.database import Database
    from nuntwist.core.lanes import Forwards
    from nuntwist.core.permissions import Permissions
    from nuntwist.core.signed import Signed
    from nuntwist.core.watched import Watched
    from nuntwist.language.replies import Encoding, Reply
    from nuntwist.values import Op

LONGEST_ARBITER: Final = 4_096
"""Bytes that the name of an arbiter's user and the permissions of its signed token may have: a node
tells of all its arbiters at once."""


class Pending(NamedTuple):
    """Bytes that may leave when their operation is revealed, in a node of a set.

    :ivar needed: the index of the operation.
    :ivar answers: whether it is the answer to the command that made it, not an event.
    """

    needed: int
    data: bytes
    answers: bool


Run: TypeAlias = tuple[list[bytes], int, int] | bytes | Pending
"""Commands that were run (lines, first, stop), or bytes that stand for some."""


Held: TypeAlias = tuple[int, bytes, list[Run], int]
"""What a batch sends to one client, and waits for the log: the index up to which that must be
durable, the bytes, the commands they answer, and how many bytes these have. Plain, because
with durability ``disk`` every answer is one."""


SIGNED_OUT: Final = b"signed out"
REPLACED: Final = b"the database was replaced"
"""Why a connection is ended by the node, where the node does not stop."""


class Outlet(Protocol):
    """What a client needs of its transport."""

    def write(self, data: bytes) -> None:
        """Send; buffered as far as need be."""

    def pause_reading(self) -> None:
        """Deliver no more input until told to."""

    def resume_reading(self) -> None:
        """Deliver input again."""

    def end(self) -> None:
        """Send what is buffered, then close."""

    def abort(self, reason: str) -> None:
        """Close at once; what was not sent is lost."""


def takes_nothing(data: bytes) -> int:
    """What ``Client.send`` is where nothing may go past the transport's own queue."""
    return 0


class _Gone:
    """The outlet of a client that has no transport any more."""

    def write(self, data: bytes) -> None:
        """Nobody is there."""

    pause_reading = resume_reading = end = lambda self: None

    def abort(self, reason: str) -> None:
        """Nobody is there."""


GONE = _Gone()


class Client:
    """The state of one connection.

    :param outlet: its transport.
    :param encoding: how replies and events are laid on that transport.
    :param peer: its address, for logs.

    :ivar write: gives bytes to the transport, which sends or queues them.
    :ivar send: offers bytes to the socket itself and gives how many it took; what is left goes
        to ``write``. May raise OSError, which means none.
    :ivar database: the selected one.
    :ivar user: as whom it was selected; None with the database's own token.
    :ivar admin: whether ``auth`` was passed.
    :ivar watching: its watched keys, by database.
    :ivar watched_as: as whom it watches them: as whom it had selected the database when it watched
        the last one; None with the database's own token.
    :ivar watched: sums up what all watch; None while it is not connected.
    :ivar watched_bytes: its part in that.
    :ivar signed: the signed tokens it is in databases by, by database.
    :ivar out: encoded replies and events of the batch under way.
    :ivar needed: the log index that must be durable before ``out`` may leave.
    :ivar held: what earlier batches send while the log is not durable so far.
    :ivar ready: bytes that may leave as soon as it is this client's turn.
    :ivar chunks: the commands (lines, first, stop) that ``out`` answers, or fixed bytes in it:
        run again where the batch could not be logged.
    :ivar kept: bytes of commands that are kept with what is held.
    :ivar stalled: so many that it is not read until all is let go.
    :ivar backlog: (lines, next, plain) that wait to be run.
    :ivar waiting: a command waits for a hash, a disk, a slice of a long listing or the primary.
    :ivar forwards: what it has sent to the primary; None where that is nothing.
    :ivar mark: gives what is to be logged together with operations that stand alone, from the
        reply and how many they are; None for clients that have a connection.
    :ivar streaming: a long answer is being written; nothing else may be written between.
    :ivar paused: the transport's buffer is full.
    :ivar concern: its own write concern.
    :ivar linearizable: whether its reads are to be.
    :ivar counts: whether the node's own concern is a number of replicas.
    :ivar careful: whether one of these, or a concern of its database, keeps it off the hot road.
    :ivar direct: what is sent to it may be written at once: it is not paused or streaming,
        and nothing is held or ready.
    :ivar dirty: it is on the batch's list of clients to write to.
    :ivar queued: it is on the list of clients whose backlog is to be run.
    :ivar room: reply bytes it may still produce in this run.
    :ivar unsent: bytes given to a full transport or held, in all.
    :ivar dismissed: it has no right to be here any more.
    :ivar ending: it has said all it will; close when everything is answered.
    :ivar farewell: why it is ended, for transports that can tell; None where the node stops, or it
        has ended by itself.
    """

    __slots__ = (
        "__weakref__",
        "admin",
        "backlog",
        "careful",
        "chunks",
        "closed",
        "concern",
        "counts",
        "database",
        "direct",
        "dirty",
        "dismissed",
        "encoding",
        "ending",
        "farewell",
        "forwards",
        "held",
        "kept",
        "linearizable",
        "mark",
        "needed",
        "out",
        "outlet",
        "paused",
        "peer",
        "queued",
        "ready",
        "room",
        "send",
        "signed",
        "stalled",
        "streaming",
        "unsent",
        "user",
        "waiting",
        "watch_count",
        "watched",
        "watched_as",
        "watched_bytes",
        "watching",
        "write",
    )

    def __init__(self, outlet: Outlet, encoding: Encoding, peer: str) -> None:
        self.outlet = outlet
        self.write = outlet.write
        self.send: Callable[[bytes], int] = takes_nothing
        self.encoding = encoding
        self.peer = peer
        self.database: Database | None = None
        self.user: bytes | None = None
        self.admin = False
        self.watching: dict[Database, set[bytes]] = {}
        self.watched_as: dict[Database, bytes | None] = {}
        self.signed: dict[Database, Signed] = {}
        self.watch_count = 0
        self.watched: Watched | None = None
        self.watched_bytes = 0
        self.out: list[bytes] = []
        self.needed = 0
        self.held: deque[Held] = deque()
        self.ready: list[bytes] = []
        self.chunks: list[Run] = []
        self.backlog: deque[tuple[list[bytes], int, bool]] = deque()
        self.waiting = False
        self.forwards: Forwards | None = None
        self.mark: Callable[[Reply, int], Op] | None = None
        self.streaming = False
        self.paused = False
        self.direct = True
        self.dirty = False
        self.queued = False
        self.closed = False
        self.ending = False
        self.dismissed = False
        self.farewell: bytes | None = None
        self.room = 0
        self.unsent = 0
        self.kept = 0
        self.stalled = False
        self.concern: Concern | None = None
        self.linearizable = False
        self.counts = False
        self.careful = False

    def detach(self) -> None:
        """Let go of the transport, so that no cycle of references is left behind."""
        self.outlet = GONE
        self.write = GONE.write
        self.send = takes_nothing

    def may(self, letter: bytes, key: bytes) -> bool:
        """Whether it has a right to a plain key of the selected database."""
        if self.admin or self.database is None:
            return self.admin
        listed = self.permissions
        if listed is None:
            return self.user is None
        return listed.allow(letter, key)

    @property
    def may_arbitrate(self) -> bool:
        """Whether it may decide conflicts of any key of the selected database."""
        if self.identity_size > LONGEST_ARBITER:
            return False
        listed = self.permissions
        if listed is None:
            return self.admin or (self.database is not None and self.user is None)
        return listed.names(b"a")

    @property
    def rights(self) -> bytes | None:
        """The list that its signed token for the selected database brings with it, as text."""
        signed = None if self.database is None else self.signed.get(self.database)
        return None if signed is None else signed.rights

    @property
    def identity_size(self) -> int:
        """How many bytes tell as whom it has selected the database."""
        return len(self.user or b"") + len(self.rights or b"")

    @property
    def permissions(self) -> Permissions | None:
        """The list that says what it may do with plain keys; None where there is none, or it is
        an admin's connection, and rules nothing."""
        if self.admin or self.database is None:
            return None
        own = self.own_list(self.database)
        if own is not None:
            return own
        permissions = self.database.permissions
        return permissions.get(EVERYBODY if self.user is None else self.user)

    def own_list(self, database: Database) -> Permissions | None:
        """The list that its signed token brings with it; None where it has none."""
        signed = self.signed.get(database)
        return None if signed is None else signed.permissions

    def heed(self) -> None:
        """See anew whether it has to be careful."""
        database = self.database
        of_database = database is not None and database.concern is not None
        own = self.linearizable or self.concern is not None
        self.careful = own or of_database or self.counts

    def unrestricted(self) -> bool:
        """Whether it may do everything with every plain key of the selected database."""
        database = self.database
        if database is None:
            return False
        if self.admin:
            return True
        return self.user is None and EVERYBODY not in database.permissions
