"""The seams of a node, as zope interfaces: where another implementation can be put.

Each has at least two implementations and one conformance suite that runs on all of them
(``tests/unit/conformance_*.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from nuntwist.values import NO_EPOCH, Epoch, Op, Position


@dataclass(frozen=True, slots=True)
class SnapshotHeader:
    """What a snapshot says of the database it holds.

    :ivar database_id: the id of the database, see :mod:`nuntwist.values`.
    :ivar name: its name, UTF-8.
    :ivar strategy: ``none``, ``newer`` or ``arbiter``.
    :ivar index: the log's last index when the snapshot was begun.  The entries were copied
        while writes went on, so some are later; replaying every operation after ``index``,
        in order, leaves the state right, because operations are outcomes.
    :ivar epoch: the epoch of the node that took it.
    :ivar stamp: when it was begun, by the hybrid clock; 0 where that is not known.
    :ivar partitions: into how many pieces the entries are split, by a hash of the key.
    :ivar databases: only in that of ``$admin``: id and name of every other database there was
        at ``index``; None in all others (and in those of releases that did not tell).
    """

    database_id: int
    name: bytes
    strategy: bytes
    index: int
    epoch: Epoch = NO_EPOCH
    partitions: int = 1
    stamp: int = 0
    databases: tuple[tuple[int, bytes], ...] | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """A record of a log, made on another node.

    :ivar epoch: in which its operations were decided.
    :ivar ops: they themselves.
    :ivar data: the whole record, as it stands in a file.
    """

    epoch: Epoch
    ops: Sequence[Op]
    data: bytes


class IOplog(Interface):
    """The totally ordered log of operations: the truth of a node."""

    last = Attribute("The Position of the last operation kept; values.START while there is none.")
    last_stamp = Attribute("The highest stamp in the log; 0 while there is none.")
    count = Attribute("How many operations the log holds.")
    size = Attribute("How many bytes the log holds.")
    first = Attribute("The index of the first operation kept; last.index + 1 while there is none.")
    segments = Attribute("How many pieces it has that can go by themselves.")
    appended = Attribute("How many bytes were appended since it was opened.")
    failed = Attribute("Why nothing more can be appended until a restart; None while it can.")
    base = Attribute("The index that begin_after made it begin after; 0 for a log from the start.")
    written = Attribute(
        "None, or what is called with the first index, the last index and the bytes of records"
        " each time some have been written: for those that follow."
    )

    def open() -> None:
        """Check what is there and make ready to append.

        A torn last record (which was never acknowledged) is cut off and logged.

        :raise CorruptData: when a checksum before the tail is wrong.
        :raise StartError: when the log cannot be opened, or another process has it.
        """

    def begin_after(position: Position) -> None:
        """Make a log that holds no operation go on after a position, which snapshots reach.

        :raise StartError: it could not be written.
        """

    def read(after: int) -> Iterator[Sequence[Op]]:
        """Give the operations with an index above ``after``, in order, a record at a time."""

    def append(epoch: Epoch, ops: Sequence[Op]) -> Deferred[None] | None:
        """Append operations as one record: all of them are recovered, or none.

        :param epoch: the epoch in which they were decided.
        :param ops: one or more; the first has the index ``last.index + 1``, each next one
            more.
        :return: None where they are as durable as asked for by now, else a Deferred that
            fires with None when they are and fails with OutcomeUnknown.
        :raise StorageUnavailable: they were not kept (a partial write was cut back).
        :raise OutcomeUnknown: they were not written whole and could not be cut back.
        """

    def append_records(records: Sequence[Received]) -> Deferred[None] | None:
        """Append records of another node byte for byte: all of them, or none. (Where the process
        ends meanwhile, a recovery may find the first ones, each of them whole.)

        :param records: one or more; the operations follow on the last one, and on each other,
            and no epoch is below the one before it.
        :return: as of ``append``.
        :raise ValueError: they do not follow, or the epoch is lower.
        :raise StorageUnavailable: as of ``append``, and likewise ``OutcomeUnknown``.
        """

    def records(after: int, limit: int) -> bytes:
        """Give whole records as they were appended, at least one if there is one.

        :param after: the last index of a record, or that before the first operation kept.
        :param limit: bytes; where the first record is longer, it is given alone.
        :return: nothing where nothing more is written.
        :raise ValueError: no record that is kept begins there.
        :raise CorruptData: it was damaged since it was checked.
        """

    def epoch_at(index: int) -> Epoch | None:
        """The epoch of an operation; None where the log does not know it.

        That of the operation before the first one it knows where it was begun after a position
        (of an epoch), or where it has dropped that operation itself since it was opened.
        """

    def reigns(count: int) -> Sequence[tuple[Epoch, int]]:
        """The last epochs there were, rising, each with the index of its first operation."""

    def sync() -> Deferred[None]:
        """Put all that was appended so far where a loss of power cannot take it.

        :return: fires with None when it is there; fails with StorageUnavailable, and after
            that always: what was lost on the way to the disk is not known.
        """

    def forget(index: int, keep: int | None = None) -> Deferred[int]:
        """Drop operations from the beginning, where nobody needs them any more.

        :param index: what snapshots cover: no operation after it goes.
        :param keep: bytes of log that may stay; None for the limit it has.
        :return: fires with how many bytes went. What cannot be dropped stays, and is logged.
        """

    def cut(index: int, kept_as: str) -> int:
        """Take off all operations after an index, durably, and go on appending there.

        What is cut is first kept, durably, in a file of its own that a segment is the form of.
        Whatever ends the process meanwhile, the log opens again and holds all up to the index,
        and perhaps the beginning of the rest; the same cut again completes it. Not while a
        ``read`` is under way. It does not return before the disk has it.

        :param index: the last of a record, or that before the first operation kept.
        :param kept_as: the name of the file; no file is made where there is nothing to cut.
        :return: how many operations are cut.
        :raise ValueError: no record ends there, or there is a file of that name which is not
            what an earlier such cut has left. Nothing is cut.
        :raise CorruptData: it was damaged since it was checked. Nothing is cut.
        :raise StorageUnavailable: the disk failed. Nothing is cut; or, where ``failed`` is set,
            perhaps some.
        """

    def keep(index: int, kept_as: str) -> Deferred[int]:
        """Copy all operations after an index, durably, into a file as ``cut`` makes one.

        Nothing may be appended, cut or dropped meanwhile.

        :param index: as of ``cut``.
        :return: fires with how many operations there are (no file is made where that is 0);
            fails with ValueError, CorruptData or StorageUnavailable as ``cut`` does.
        """

    def replace(position: Position) -> None:
        """Be a log that holds no operation and goes on after a position: all it held goes.

        Whoever waits for the durability of what goes fails with TakenBack. Where the process ends
        meanwhile, the log may be neither the old one nor the new one, nor open at all: whoever
        calls it sees to it that the next start takes nothing of it.

        :raise StorageUnavailable: nothing has changed.
        :raise OutcomeUnknown: the disk failed on the way, and ``failed`` is set.
        """

    def close() -> None:
        """Give back the files. Nothing can be appended after."""


class ISnapshotWriter(Interface):
    """One snapshot being written; it counts for nothing until it is committed."""

    def write(partition: int, entries: Sequence[Op]) -> None:
        """Take some entries (SET operations of this database).

        :param partition: one of those that were announced.
        :raise StorageUnavailable: it can't be written; abort it.
        """

    def commit() -> Deferred[None]:
        """Make it the database's snapshot, durably and at once, in place of the last one.

        :return: fires with None when it is durable; fails with StorageUnavailable, and then
            the last one stays.
        """

    def abort() -> None:
        """Forget it. The last one stays."""


class IStorage(Interface):
    """Keeps snapshots, one a database."""

    held = Attribute("A mapping of database id to the SnapshotHeader of what is kept of it.")
    at_once = Attribute("How many snapshots are best committed at the same time.")

    def open() -> None:
        """Make ready; ``held`` is right from here on.

        :raise StartError: when the place cannot be used.
        :raise CorruptData: when it is damaged; nothing was changed.
        """

    def load(
        database: Callable[[SnapshotHeader], None], entries: Callable[[Sequence[Op]], None]
    ) -> Deferred[None]:
        """Give all snapshots, by rising id: for each its header, then its entries in pieces.

        :return: fires with None at the end; fails with CorruptData or StartError, and with
            what a callable raises.
        """

    def tidy() -> Deferred[None]:
        """Remove what belongs to no snapshot, left by an earlier process; called when a start
        has gone well, as it may be what is left of a lost one.

        :return: fires with None; what cannot be removed stays, and is logged.
        """

    def begin(header: SnapshotHeader, changed: Collection[int] | None) -> ISnapshotWriter:
        """Begin a snapshot.

        :param changed: the partitions that will be written; all others are taken over from
            the snapshot that is kept, which has as many partitions. None: all are written,
            and whatever else is there of the database is cleared away.
        :raise StorageUnavailable: it can't be written.
        """

    def drop(database_id: int) -> Deferred[None]:
        """Remove a database's snapshot, if there is one; fires with None.

        Where it cannot be removed that is logged: recovery tries again.
        """

    def close() -> None:
        """Give back what is open."""


READ, WRITE, BOTH = "read", "write", "read and write"
"""What a storage is for: a start loads it and it stays as it is; it is written, and a start loads
another; or it is loaded and written."""


class IStorageKind(Interface):
    """Makes storages of one kind: a Twisted plugin, found by its name.

    A package that has one ships a module in a directory ``twisted/plugins`` (without
    ``__init__.py``), in which an object provides this interface.
    """

    name = Attribute("What NUN_STORAGE_STRATEGY says to have it: str, like ``my-store``.")
    elsewhere = Attribute(
        "Whether it keeps snapshots outside of the data directory, so that a node whose data"
        " directory is empty may begin with them."
    )

    def make(means: object, role: str) -> IStorage:
        """Make one; it is opened, and closed, by the node.

        :param means: a :class:`nuntwist.storage.choose.Means`.
        :param role: READ, WRITE or BOTH.
        :raise StartError: it cannot be made as it is configured.
        """


class IElection(Interface):
    """Finds the primary of a set and hands out the epoch of its reign, as one node sees it.

    It is told of time, of messages, of connections and of the end of the log. What is to be done
    comes out of ``effects`` after each of these calls, as values of
    :mod:`nuntwist.cluster.effects`, to be done in that order: ``Keep`` (an epoch, on the disk)
    before what relies on it, ``Send``, ``Turned`` (the node leads, follows, or neither). All
    times are monotonic, in seconds.

    What holds of each: at most one node *serves* at a time, an epoch has one primary, and the
    numbers of a node's epochs rise, whatever is lost between the nodes and whenever they stop.
    """

    state = Attribute("What it is doing: a nuntwist.cluster.states.State.")
    number = Attribute("Of the epoch that it serves or follows; 0 for none so far.")
    primary = Attribute("The id of the node it follows, itself included; None for nobody.")
    rank = Attribute("How good a primary it would be: a nuntwist.cluster.ballots.Rank.")
    due = Attribute("When it wants ``tick`` to be called; infinity for never.")
    linked = Attribute("The ids of the members there is a connection with: a set.")
    learners = Attribute(
        "The ids of nodes that are told of the primary and do not count yet: a set that the node"
        " changes."
    )
    doubtful = Attribute(
        "The ids of members, itself included, whose log may have lost its end: a set that the"
        " node changes. They may vote, but not be the ones that make a majority."
    )

    def effects() -> Sequence[object]:
        """What is to be done since the last time, in order; it is given once."""

    def tick(now: float) -> None:
        """Time has moved on."""

    def receive(sender: int, message: object, now: float) -> None:
        """A node of the set has sent something: one of :mod:`nuntwist.cluster.ballots`. Answers
        of who is neither a member nor a learner are passed over; who asks, or is the primary, may
        be a member by what this node lacks yet."""

    def heard_of(sender: int, number: int, now: float) -> bool:
        """A node that serves the epoch ``number`` has sent a part of its log.

        A heartbeat behind megabytes of the log comes late, so this is as good as one.

        :return: whether that is the primary that this node follows. Where it is not, this node
            must neither take the log nor acknowledge it.
        """

    def answered(sender: int, number: int, sent: float) -> None:
        """A node that follows this one in the epoch ``number`` has acknowledged a part of the log.

        :param sent: when that was sent, in seconds of this node's clock.
        """

    def link(node: int, up: bool, now: float) -> None:
        """A connection with a member is there, or gone."""

    def appended(position: Position) -> None:
        """This node's log ends somewhere else."""

    def reconfigure(members: Collection[int], now: float, at_once: bool = False) -> None:
        """Others elect from now on.

        :param members: their ids; this node may be none of them.
        :param at_once: whether this node need not wait before it stands, where it may.
        """

    def may_stand(node: int) -> bool:
        """Whether a node can be the primary at all, as far as is known."""

    def force(now: float) -> None:
        """Hold an election, if that can do no harm."""

    def release(successor: int, now: float) -> None:
        """Be the primary no more, and ask another node to be.

        :param successor: its id; 0 for any.
        """

    def retire() -> None:
        """Never be the primary again: this node stops. It still counts for others."""

    def stand_back(back: bool) -> None:
        """Whether this node could not lead if it won, as its log takes nothing just now: it leaves
        that to any other node whose log is as long, where there is one."""

    def serves(now: float) -> bool:
        """Whether it is the primary, and nobody else can be."""

    def beat_now(now: float) -> None:
        """Where it is the primary, ask the others at once whether it still is."""

    def confirmed() -> float:
        """Up to when it is known that nobody else was the primary, where this node is: what it
        has asked after that is not answered yet by as many as it takes."""

    def stop() -> None:
        """Give back what is open; what it is told after that leads to nothing."""


class IElectionKind(Interface):
    """Makes elections of one kind: a Twisted plugin, found by its name.

    A package that has one ships a module in a directory ``twisted/plugins`` (without
    ``__init__.py``), in which an object provides this interface.
    """

    name = Attribute("What NUN_ELECTION says to have it: str, like ``my-election``.")

    def make(means: object) -> IElection:
        """Make one, for one node and one set: it is made anew when the node changes its set.

        :param means: a :class:`nuntwist.cluster.effects.Means`.
        :raise StartError: it cannot be made as it is configured.
        """


class ISecrets(Interface):
    """Hashes tokens and checks them, away from the reactor's thread."""

    nobodys: bytes = Attribute(
        """A stored string that no secret is right for; to check one against it takes as long as
        against any other."""
    )

    def hash(secret: bytes) -> Deferred[bytes]:
        """Fires with the string to store; never fails for a secret within the line limit."""

    def verify(secret: bytes, stored: bytes) -> Deferred[bool]:
        """Fires with whether the secret is the one ``stored`` was made from.

        A pair found right before may be answered at once.
        """

    def seal(text: bytes) -> Deferred[bytes]:
        """Fires with the string to store for what has to be read again, and not by others."""

    def unseal(stored: bytes) -> Deferred[bytes | None]:
        """Fires with what ``stored`` was made from; with None where it is no such string, or was
        made by a node with another secret."""


__all__ = [
    "BOTH",
    "READ",
    "WRITE",
    "IElection",
    "IElectionKind",
    "IOplog",
    "ISecrets",
    "ISnapshotWriter",
    "IStorage",
    "IStorageKind",
    "Position",
    "Received",
    "SnapshotHeader",
]
