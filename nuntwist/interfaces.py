"""The seams of a node, as zope interfaces: where another implementation can be put.

Each has at least two implementations and one conformance suite that runs on all of them
(``tests/unit/conformance_*.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from nuntwist.values import Epoch, Op, Position


@dataclass(frozen=True, slots=True)
class SnapshotHeader:
    """What a snapshot says of the database it holds.

    :ivar database_id: the id of the database, see :mod:`nuntwist.values`.
    :ivar name: its name, UTF-8.
    :ivar strategy: ``none``, ``newer`` or ``arbiter``.
    :ivar index: the log's last index when the snapshot was begun.  The entries were copied
        while writes went on, so some are later; replaying every operation after ``index``,
        in order, leaves the state right, because operations are outcomes.
    """

    database_id: int
    name: bytes
    strategy: bytes
    index: int


class IOplog(Interface):
    """The totally ordered log of operations: the truth of a node."""

    last = Attribute("The Position of the last operation kept; values.START while there is none.")
    last_stamp = Attribute("The highest stamp in the log; 0 while there is none.")
    count = Attribute("How many operations the log holds.")
    size = Attribute("How many bytes the log holds.")
    first = Attribute("The index of the first operation kept; last.index + 1 while there is none.")
    segments = Attribute("How many pieces it has that can go by themselves.")
    appended = Attribute("How many bytes were appended since it was opened.")

    def open() -> None:
        """Check what is there and make ready to append.

        A torn last record (which was never acknowledged) is cut off and logged.

        :raise CorruptData: when a checksum before the tail is wrong.
        :raise StartError: when the log cannot be opened, or another process has it.
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

    def close() -> None:
        """Give back the files. Nothing can be appended after."""


class ISnapshotWriter(Interface):
    """One snapshot being written; it counts for nothing until it is committed."""

    def write(entries: Sequence[Op]) -> None:
        """Take some entries (SET operations of this database).

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

    def open() -> None:
        """Make ready.

        :raise StartError: when the place cannot be used.
        """

    def load(
        database: Callable[[SnapshotHeader], None], entries: Callable[[Sequence[Op]], None]
    ) -> Deferred[None]:
        """Give all snapshots, by rising id: for each its header, then its entries in pieces.

        :return: fires with None at the end; fails with CorruptData or StartError, and with
            what a callable raises.
        """

    def begin(header: SnapshotHeader) -> ISnapshotWriter:
        """Begin a snapshot.

        :raise StorageUnavailable: it can't be written.
        """

    def drop(database_id: int) -> Deferred[None]:
        """Remove a database's snapshot, if there is one; fires with None.

        Where it cannot be removed that is logged: recovery tries again.
        """

    def close() -> None:
        """Give back what is open."""


class IElection(Interface):
    """Finds the primary of a set and gives the epoch of its reign."""

    def start(elected: Callable[[Epoch], None]) -> None:
        """Stand. ``elected`` is called with a new epoch, already durable, each time this
        node becomes primary."""

    def stop() -> None:
        """Stop standing; no call follows."""


class ISecrets(Interface):
    """Hashes tokens and checks them, away from the reactor's thread."""

    def hash(secret: bytes) -> Deferred[bytes]:
        """Fires with the string to store; never fails for a secret within the line limit."""

    def verify(secret: bytes, stored: bytes) -> Deferred[bool]:
        """Fires with whether the secret is the one ``stored`` was made from.

        A pair found right before may be answered at once.
        """


__all__ = [
    "IElection",
    "IOplog",
    "ISecrets",
    "ISnapshotWriter",
    "IStorage",
    "Position",
    "SnapshotHeader",
]
