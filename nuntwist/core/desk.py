"""Who decides which key in conflict: the desk of the primary, and what it means for this node.

The primary decides whose a key is (:mod:`nuntwist.core.assigning`), for the arbiters of all nodes;
a node alone is its own primary. What comes of it goes two ways:

- to an arbiter here: it comes into its tray (:mod:`nuntwist.core.trays`);
- to one elsewhere: its node is told (:mod:`nuntwist.cluster.arbiters`), and has trays of its own.

A key is somebody's own until all of its conflicts that were sent are decided; its next one may be
another's. No arbiter is sent more at once than its window holds: as many conflicts as a setting
says, and a part of the bytes that may wait for a connection, so that a client that works is never
cut off for what it was sent here. What an arbiter was given by a primary that is none any more it
has no longer: the next one gives all open conflicts anew, so an arbiter may be sent a conflict
twice, and never none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from nuntwist.core.assigning import DOUBLINGS, Given, Overdue, Table
from nuntwist.core.database import Database
from nuntwist.core.seats import Place, Seat
from nuntwist.core.trays import NOBODY, Trays, is_open
from nuntwist.values import INDEX

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.node import Node

HERE: Final = 0
"""What stands for this node where a seat has its node's id; none has that."""
AT_ONCE: Final = 500
"""Conflicts that are given in one go; the next ones in the next turn."""
LOOK_SECONDS: Final = 1.0
WINDOW_SHARE: Final = 4
"""An arbiter may have a quarter of the bytes to decide that may wait for a connection."""
SAID_AGAIN: Final = 60.0
"""Seconds at least between two lines that say that keys went to others."""
REMINDED: Final = 3_600.0
"""Seconds at least between two lines that say of a database that nobody decides."""


class Desk:
    """See the module's header.

    :param seconds: monotonic time, in seconds.
    :ivar table: of the primary.
    :ivar trays: of the arbiters here.
    :ivar leads: whether this node decides who has which key.
    :ivar in_set: whether it is its set that says when it does.
    :ivar on_changed: is called when the arbiters here, or their rights, are others.
    :ivar tell: tells a node that a conflict is now that of one of its arbiters: the id of the node,
        the number of the database, the conflict, the number of the arbiter, and the index up to
        which there are operations that this relies on; with the number ``NOBODY`` a key instead of
        the conflict, which is none of that node's any more.
    """

    _log = Logger()

    def __init__(self, node: Node, seconds: Callable[[], float]) -> None:
        self.table = Table(seconds, self._pending, self._size)
        self.table.window = node.limits.arbiter_window
        self.table.window_bytes = node.limits.output_limit // WINDOW_SHARE
        self.leads = self.in_set = False
        self.on_changed: Callable[[], None] = _nothing
        self.tell: Callable[[int, int, bytes, int, int], None] = _tell_nobody
        self._node = node
        self._seconds = seconds
        self.trays = Trays(node.pipeline)
        self._spreading = False
        self._rights_index = 0
        # By the name of who had them.
        self._moved: Counter[str] = Counter()
        self._said_at = -SAID_AGAIN
        # When it was said of which databases that nobody decides.
        self._undecided: dict[int, float] = {}
        self._looking = LoopingCall(self.look)
        node.catalogue.on_arbiters = self._arbiter_changed
        node.catalogue.on_conflicts = self._conflicts_changed

    # -- its life ----------------------------------------------------------------------------

    def start(self, clock: Any, timeout: float) -> None:
        """Begin to look who does not decide.

        :param clock: an IReactorTime.
        :param timeout: seconds an arbiter has to decide the oldest conflict of a key before that
            goes to another one; 0 for any time.
        """
        self.table.timeout = timeout
        self._looking.clock = clock
        self._looking.start(LOOK_SECONDS, now=False)

    def stop(self) -> None:
        """Look no more."""
        if self._looking.running:
            self._looking.stop()

    def lead(self) -> None:
        """Decide who has which key; in a set not before it is told to :meth:`open`."""
        self.trays.empty()
        self.leads = True
        self._undecided.clear()
        self._moved.clear()
        self._rights_index = self._node.pipeline.journal.index
        self.table.begin(open=not self.in_set)
        for database in self._node.catalogue.by_id.values():
            for key, pending in database.conflicts.items():
                self.table.note((database.number, key), pending[0], True)
        for number, client in self.trays.all():
            self._take_seat(number, client)
        self._spread()

    def open(self) -> None:
        """It is known who is there, or nobody is waited for any more: give what there is."""
        if self.leads and not self.table.open:
            self.table.open = True
            self._spread()

    def stand_by(self) -> None:
        """Another node decides, or none; what arbiters here had from the one before is void."""
        self.leads = False
        self.table.begin(open=False)
        self.trays.empty()

    def renew(self) -> None:
        """Much may have changed here that no operation tells of (a copy of all has come): have all
        given anew."""
        if not self.leads:
            self.trays.empty()
            self.on_changed()

    # -- arbiters here -----------------------------------------------------------------------

    def _arbiter_changed(self, database: Database, client: Client) -> None:
        if client not in database.arbiters:
            self._arbiter_gone(client)
        elif client in self.trays:
            self.rights_changed(database)
        else:
            number = self.trays.add(client)
            if self.leads:
                self._take_all(self._take_seat(number, client))
        self.on_changed()

    def _take_seat(self, number: int, client: Client) -> Seat:
        assert client.database is not None
        may = partial(client.may, b"a")
        seat = Seat(HERE, number, client.database.number, may, client.peer)
        self.table.join(seat)
        return seat

    def _take_all(self, seat: Seat) -> None:
        """Whoever comes has at once what nobody has; the answer to its command brings that."""
        for place, conflict, _ in self.table.give_all(seat):
            self.trays.put(place, conflict, seat.number)
        self._spread()

    def _arbiter_gone(self, client: Client) -> None:
        seat = self.table.find(HERE, self.trays.remove(client))
        if seat is not None:
            self.table.leave(seat)
            self._spread()

    # -- arbiters elsewhere ------------------------------------------------------------------

    def told(self, node: int, seats: Iterable[Seat]) -> None:
        """Another node has these arbiters, and no others."""
        if not self.leads:
            return
        now = {seat.number: seat for seat in seats}
        for seat in self.table.seats_of(node):
            if seat.number not in now:
                self.table.leave(seat)
        others = set()
        for number, seat in now.items():
            held = self.table.find(node, number)
            if held is None:
                self.table.join(seat)
            elif held.identity != seat.identity:
                held.may, held.identity = seat.may, seat.identity
                others.add(held.database)
        for database in others:
            self._review(database)
        self._spread()

    # -- rights and databases ----------------------------------------------------------------

    def rights_changed(self, database: Database) -> None:
        """Permissions of a database were changed, or an arbiter is somebody else."""
        # A node that has not applied this yet would not send what it allows.
        self._rights_index = self._node.pipeline.journal.index
        if self.leads:
            self._review(database.number)
            self._spread()

    def _review(self, number: int) -> None:
        for place, seat in self.table.review(number):
            self._take_from(place, seat)

    def dropped(self, database: Database) -> None:
        """A database is gone."""
        self.table.forget(database.number)
        self.trays.drop(database.number)
        self._undecided.pop(database.number, None)

    # -- conflicts ---------------------------------------------------------------------------

    def anyone(self, database: Database, key: bytes) -> bool:
        """Whether there is an arbiter for a key, or may be."""
        if not self.leads or not self.table.open:
            return True
        return self.table.anyone(database.number, key)

    def queued(self) -> None:
        """The primary has put a conflict before the arbiters; its operations are made."""
        if not self._spreading:
            self._spread()

    def _conflicts_changed(self, database: Database, key: bytes, conflict: bytes) -> None:
        place, now_open = (database.number, key), is_open(database.find(conflict))
        if self.leads:
            self.table.note(place, conflict, now_open)
            if not now_open:
                # Room for others; they come after the answer to what has made it.
                self._spread_later()
        if not now_open:
            self.trays.settled(place, conflict)

    def _pending(self, place: Place) -> Sequence[bytes]:
        database = self._node.catalogue.by_id.get(place[0])
        return () if database is None else database.conflicts.get(place[1], ())

    def _size(self, place: Place, conflict: bytes) -> int:
        database = self._node.catalogue.by_id.get(place[0])
        return 0 if database is None else len(database.value(conflict) or b"")

    # -- giving ------------------------------------------------------------------------------

    def look(self) -> None:
        """See who did not decide in time, and whether something is left to give."""
        if not self.leads:
            return
        found = self.table.overdue(2 * AT_ONCE)
        for one in found:
            if one.moved:
                self._take_from(one.place, one.seat)
        self._note_moved([one for one in found if one.moved])
        self._note_undecided([one for one in found if not one.moved])
        self._spread()

    def _note_moved(self, moved: list[Overdue]) -> None:
        self._node.counters.conflicts_moved += len(moved)
        # What goes round once more was told of when it first did.
        self._moved.update(one.seat.name for one in moved if one.rounds == 0)
        if not self._moved or self._seconds() < self._said_at + SAID_AGAIN:
            return
        self._said_at = self._seconds()
        silent = sorted(self._moved)
        self._log.warn(
            "keys in conflict that go to another arbiter: {count}; {silent} did not decide within"
            " {seconds:g} s (NUN_ARBITER_TIMEOUT): see whether it works, or give it more time",
            count=self._moved.total(),
            silent=silent[0] if len(silent) == 1 else f"{silent[0]} (one of {len(silent)})",
            seconds=self.table.timeout,
        )
        self._moved.clear()

    def _note_undecided(self, resting: list[Overdue]) -> None:
        """All arbiters had a key, and none has decided: say so once, and then now and again."""
        self._node.counters.conflicts_undecided += len(resting)
        now = self._seconds()
        for number in sorted({one.place[0] for one in resting}):
            said = self._undecided.get(number)
            if said is not None and now < said + REMINDED:
                continue
            self._undecided[number] = now
            database = self._node.catalogue.by_id[number]
            self._log.warn(
                "keys of the database {database} that no arbiter decides: {count} of {pending} in"
                " conflict; each that may had {seconds:g} s for it (NUN_ARBITER_TIMEOUT). They are"
                " offered again after pauses of up to {longest:g} s. See whether the arbiters work,"
                " decide by hand (debug pending-conflicts, resolve), or let the newest change win"
                " (NUN_CONFLICT_TIMEOUT)",
                count=self.table.resting(number),
                database=database.name.decode(),
                seconds=self.table.timeout,
                pending=len(database.conflicts),
                longest=self.table.timeout * 2**DOUBLINGS,
            )

    def _spread(self) -> None:
        """Give what nobody has, some of it now and the rest in turns."""
        self._give_some()
        self._spread_later()

    def _spread_later(self) -> None:
        if self.table.is_waiting and not self._spreading:
            self._spreading = True
            self._node.pipeline.streams.work(self._spread_rest())

    def _spread_rest(self) -> Iterator[None]:
        while self.table.is_waiting:
            self._give_some()
            yield None
        self._spreading = False

    def _give_some(self) -> None:
        for given in self.table.spread(AT_ONCE):
            self._give(given)

    def _give(self, given: Given) -> None:
        place, conflict, seat = given
        database = self._node.catalogue.by_id[place[0]]
        if seat.node == HERE:
            self.trays.hand(database, place, conflict, seat.number)
            return
        entry = database.find(conflict)
        index = self._rights_index if entry is None else max(entry[INDEX], self._rights_index)
        self.tell(seat.node, place[0], conflict, seat.number, index)

    def _take_from(self, place: Place, seat: Seat) -> None:
        if seat.node == HERE:
            self.trays.take(place)
        else:
            self.tell(seat.node, *place, NOBODY, 0)


def _nothing() -> None:
    """Nobody has to know."""


def _tell_nobody(node: int, database: int, key: bytes, number: int, index: int) -> None:
    """There is no other node."""
