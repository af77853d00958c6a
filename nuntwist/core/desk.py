"""Who decides which key in conflict: the desk of the primary, and what it means for this node.

The primary decides whose a key is (:mod:`nuntwist.core.assigning`), for the arbiters of all nodes;
a node alone is its own primary. What comes of it goes two ways:

- to an arbiter here: it comes into its tray (:mod:`nuntwist.core.trays`);
- to one elsewhere: its node is told (:mod:`nuntwist.cluster.arbiters`), and has trays of its own.

A key is somebody's own until all its conflicts are decided; its next conflict may be another's.
What an arbiter was given by a primary that is none any more it has no longer: the next one gives
all open conflicts anew, so an arbiter may be sent a conflict twice, and never none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from nuntwist.core.assigning import Move, Place, Seat, Table
from nuntwist.core.database import Database
from nuntwist.core.trays import NOBODY, Trays
from nuntwist.values import INDEX

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.node import Node

HERE: Final = 0
"""What stands for this node where a seat has its node's id; none has that."""
AT_ONCE: Final = 500
"""Keys that are given in one go; the next ones in the next turn."""
LOOK_SECONDS: Final = 1.0


class Desk:
    """See the module's header.

    :param seconds: monotonic time, in seconds.
    :ivar table: of the primary.
    :ivar trays: of the arbiters here.
    :ivar leads: whether this node decides who has which key.
    :ivar in_set: whether it is its set that says when it does.
    :ivar on_changed: is called when the arbiters here, or their rights, are others.
    :ivar tell: tells a node that a key is now that of one of its arbiters: the id of the node, the
        place, the number of the arbiter (``NOBODY`` where it is none of that node any more), and
        the index that the conflicts of the key reach up to.
    """

    _log = Logger()

    def __init__(self, node: Node, seconds: Callable[[], float]) -> None:
        self.table = Table(seconds)
        self.leads = self.in_set = False
        self.on_changed: Callable[[], None] = _nothing
        self.tell: Callable[[int, Place, int, int], None] = _tell_nobody
        self._node = node
        self.trays = Trays(node.pipeline)
        self._spreading = False
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
        self.table.begin(open=not self.in_set)
        for database in self._node.catalogue.by_id.values():
            for key, pending in database.conflicts.items():
                self.table.note((database.number, key), pending[0])
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
        self.table.give_all(seat)
        for key in seat.keys:
            self.trays.put((seat.database, key), seat.number)

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

    # -- conflicts ---------------------------------------------------------------------------

    def anyone(self, database: Database, key: bytes) -> bool:
        """Whether there is an arbiter for a key, or may be."""
        if not self.leads or not self.table.open:
            return True
        return self.table.anyone(database.number, key)

    def queued(self, database: Database, key: bytes, message: bytes) -> None:
        """The primary has put a conflict before the arbiters; its operations are made."""
        place = (database.number, key)
        client = self.trays.holder(place)
        if client is not None:
            self._node.pipeline.answer_message(client, message)
            return
        seat = self.table.assign(place)
        if seat is not None:
            self._give(place, seat)

    def _conflicts_changed(self, database: Database, key: bytes) -> None:
        place, pending = (database.number, key), database.conflicts.get(key)
        if self.leads:
            self.table.note(place, pending[0] if pending else None)
        if not pending:
            self.trays.take(place)

    # -- giving ------------------------------------------------------------------------------

    def look(self) -> None:
        """See who did not decide in time, and whether something is left to give."""
        if self.leads:
            moves = self.table.overdue(2 * AT_ONCE)
            for place, before, after in moves:
                self._take_from(place, before)
                self._give(place, after)
            if moves:
                self._note_moved(moves)
            self._spread()

    def _note_moved(self, moves: list[Move]) -> None:
        self._node.counters.conflicts_moved += len(moves)
        silent = sorted({move.before.name for move in moves})
        self._log.warn(
            "{count} keys in conflict go to another arbiter, as {silent} did not decide within"
            " {seconds:g} s (NUN_ARBITER_TIMEOUT); see whether it works, or give it more time",
            count=len(moves),
            silent=silent[0] if len(silent) == 1 else f"{silent[0]} (one of {len(silent)})",
            seconds=self.table.timeout,
        )

    def _spread(self) -> None:
        """Give what nobody has, some of it now and the rest in turns."""
        self._give_some()
        if self.table.is_waiting and not self._spreading:
            self._spreading = True
            self._node.pipeline.streams.work(self._spread_rest())

    def _spread_rest(self) -> Iterator[None]:
        while self.table.is_waiting:
            yield None
            self._give_some()
        self._spreading = False

    def _give_some(self) -> None:
        for place, seat in self.table.spread(AT_ONCE):
            self._give(place, seat)

    def _give(self, place: Place, seat: Seat) -> None:
        number, key = place
        database = self._node.catalogue.by_id[number]
        if seat.node == HERE:
            self.trays.hand(database, key, seat.number)
            return
        newest = database.find(database.conflicts[key][-1])
        self.tell(seat.node, place, seat.number, 0 if newest is None else newest[INDEX])

    def _take_from(self, place: Place, seat: Seat) -> None:
        if seat.node == HERE:
            self.trays.take(place)
        else:
            self.tell(seat.node, place, NOBODY, 0)


def _nothing() -> None:
    """Nobody has to know."""


def _tell_nobody(node: int, place: Place, number: int, index: int) -> None:
    """There is no other node."""
