"""A primary and a secondary on one clock, with bytes between them, of which the second needs a
copy of all that the first has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import pytest
from twisted.internet.defer import maybeDeferred

from nuntwist.cluster.copies import (
    CopyBegins,
    CopyEnds,
    CopyLost,
    CopyPiece,
    CopyTaken,
    CopyWanted,
    pieces_of,
)
from nuntwist.cluster.copy_receiver import CopyReceiver
from nuntwist.cluster.copy_sender import CopySender
from nuntwist.cluster.frames import FrameReader, Message, encode
from nuntwist.cluster.incoming import Incoming
from nuntwist.cluster.one_copy import WINDOW
from nuntwist.cluster.outgoing import Outgoing
from nuntwist.cluster.stream import Applied, Cut, Have, Records, Refused
from nuntwist.core.copying import Originals
from nuntwist.core.following import Following
from nuntwist.core.installing import Installing
from nuntwist.files import MemoryFiles
from nuntwist.interfaces import IOplog
from nuntwist.oplog.segments import FileOplog
from nuntwist.storage.disk import DiskStorage
from nuntwist.testing import HeapClock, MemoryNode
from nuntwist.values import INDEX, VALUE, Epoch, Op
from tests.unit.memory_set import Elsewhere

NUMBER = 7
"""Of the epoch, as messages say it."""
TO_PRIMARY = (Have, Applied, Refused, CopyWanted, CopyTaken)

Whole = dict[int, tuple[bytes, bytes, int, dict[bytes, Op]]]


def whole(node: MemoryNode) -> Whole:
    """All of a state: by the id of a database its name, strategy, last index and logged entries."""
    return {
        number: (
            database.name,
            database.strategy,
            database.last_index,
            {
                key: op
                for shard in database.shards
                for key, op in shard.items()
                if op[INDEX] > 0 and op[VALUE] is not None
            },
        )
        for number, database in node.node.catalogue.by_id.items()
    }


def trim(node: MemoryNode) -> None:
    """Let the log hold nothing but the last record."""
    done: list[object] = []
    node.node.snapshots.take_changed().addBoth(done.append)
    node.settle()
    assert done == [None]
    node.node.pipeline.journal.forget(node.node.snapshots.covered(), 0)


def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a copy of a few hundred entries come in dozens of pieces."""

    def small(entries: Iterable[tuple[int, Sequence[Op]]]) -> Iterator[tuple[bytes, int]]:
        return pieces_of(entries, 4 << 10)

    monkeypatch.setattr("nuntwist.cluster.one_copy.pieces_of", small)


def own_writes(pair: CopyPair) -> None:
    """The secondary was a primary for a while, and has what nobody else has."""
    pair.following.lead(Epoch(3, 2))
    admin = pair.secondary.admin("create-db d t", "use-db d t")
    for number in range(40):
        admin.send(f"set k{number} mine")
    admin.send("create-db mine t")
    admin.close()
    pair.following.stand_by("there")


class CopyPair:
    """See the module.

    :ivar messages: how many have arrived, and ``cut_at`` after how many of them the connection
        is lost.
    :ivar seen: all of them.
    :ivar placed: how often a copy was put in place, and ``kept`` how often all of one was kept.
    :param window: of the copies, in bytes.
    """

    def __init__(self, window: int = WINDOW) -> None:
        self.clock = HeapClock()
        self.delay = 0.001
        self.files = MemoryFiles()
        self.primary = MemoryNode(clock=self.clock)
        self.window = window
        self.admin = self.primary.admin()
        self.link = 0
        self.linked = False
        self.messages = 0
        self.cut_at: int | None = None
        self.seen: list[Message] = []
        self.placed = self.kept = 0
        self.on_placed: Callable[[], object] = lambda: None
        self.outgoing: Outgoing | None = None
        self.begin_reign()
        self.primary.oplog.written = self._written
        self.start()

    def begin_reign(self) -> None:
        """The primary begins to give copies."""
        originals = Originals(self.primary.node)
        self.sender = CopySender(
            NUMBER, originals, self._to_secondary, self.clock.callLater, self.window
        )
        self.primary.node.pipeline.journal.held_back = lambda: self.sender.hold_back()

    def _to_secondary(self, node: int, message: object) -> None:
        self._send(message, True)

    def make_log(self) -> IOplog:
        """The log of the secondary."""
        return FileOplog(self.files, 2, maybeDeferred)

    def start(self, afresh: bool = False) -> None:
        """Begin the secondary with what its files hold."""
        self.secondary = MemoryNode(
            self.make_log(),
            DiskStorage(self.files, maybeDeferred),
            clock=self.clock,
            election=Elsewhere(),
            in_set=True,
            afresh=self.files if afresh else None,
        )
        self.following = Following(self.secondary.node)
        self.following.stand_by("there")
        self.installing = Installing(self.secondary.node, self.files, self.clock.callLater)
        self.installing.kept = self._note_kept
        self.receiver = CopyReceiver(
            NUMBER, self.installing, self._to_primary, self._note_placed, self.clock.callLater
        )
        self.incoming: Incoming | None = None

    def _note_kept(self) -> None:
        self.kept += 1

    def _note_placed(self) -> None:
        self.placed += 1
        self.on_placed()
        if self.incoming is not None:
            self.incoming.begin()

    def _to_primary(self, message: object) -> None:
        self._send(message, False)

    # -- the link ----------------------------------------------------------------------------

    def connect(self) -> None:
        """There is a connection: the secondary says what it has."""
        self.link += 1
        self.linked = True
        self.readers = FrameReader(), FrameReader()
        self.outgoing = Outgoing(self.primary.oplog, NUMBER, lambda m: self._send(m, True))
        self.outgoing.lacks = lambda: self.sender.offer(2)
        self.incoming = Incoming(self.following, NUMBER, self._to_primary)
        self.incoming.begin()

    def disconnect(self) -> None:
        """It is gone, with all that was on its way."""
        self.link += 1
        self.linked = False
        self.outgoing = None
        self.sender.unlinked(2)

    def _send(self, message: object, to_secondary: bool) -> None:
        if self.linked:
            data = encode(message)  # type: ignore[arg-type]  # as a link of nodes does it
            self.clock.callLater(self.delay, self._arrive, self.link, data, to_secondary)

    def _arrive(self, link: int, data: bytes, to_secondary: bool) -> None:
        if link != self.link:
            return
        for message in self.readers[to_secondary].feed(data):
            self.messages += 1
            self.seen.append(message)
            if self.cut_at is not None and self.messages >= self.cut_at:
                self.cut_at = None
                self.disconnect()
                return
            self._take(message)

    def _take(self, message: Message) -> None:
        outgoing, incoming = self.outgoing, self.incoming
        assert outgoing is not None
        assert incoming is not None
        if isinstance(message, CopyWanted | CopyTaken):
            self.sender.received(2, message)
        elif isinstance(message, CopyBegins | CopyPiece | CopyEnds | CopyLost):
            self.receiver.received(message)
        elif isinstance(message, Have):
            outgoing.have(message)
        elif isinstance(message, Applied):
            outgoing.acknowledged(message)
        elif isinstance(message, Refused):
            outgoing.refused(message)
        elif isinstance(message, Records):
            incoming.records(message)
        elif isinstance(message, Cut):
            incoming.cut(message)

    def _written(self, first: int, last: int, data: bytes) -> None:
        if self.outgoing is not None:
            self.outgoing.written(first, last, data)

    # -- what tests do -----------------------------------------------------------------------

    def run(self, seconds: float = 5.0) -> None:
        """Let time go by."""
        self.clock.advance(seconds)

    def fill(self, count: int = 500, size: int = 200) -> None:
        """Databases ``d`` and ``e``, and a log that does not reach back to them."""
        self.admin.send("create-db d t")
        self.admin.send("create-db e t newer")
        for name in ("d", "e"):
            self.admin.send(f"use-db {name} t")
            for number in range(count):
                self.admin.send(f"set k{number} {'x' * size}{number}")
        self.admin.send("remove k1")
        trim(self.primary)
        self.admin.received()

    def same(self) -> bool:
        """Whether both hold the same."""
        return whole(self.primary) == whole(self.secondary)

    def same_after_a_restart(self) -> bool:
        """As :meth:`same`: of a database that it has from a snapshot a node does not know when it
        was changed last."""
        both = [whole(node).items() for node in (self.primary, self.secondary)]
        here, there = ([(n, name, how, held) for n, (name, how, _, held) in one] for one in both)
        return sorted(here, key=_first) == sorted(there, key=_first)


def _first(item: tuple[int, bytes, bytes, dict[bytes, Op]]) -> int:
    return item[0]
