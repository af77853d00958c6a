"""What the arbiters that are connected here have to decide: each has a tray, and keys in it.

Whose tray a key goes to is the primary's to say (:mod:`nuntwist.core.desk`). When it comes into
one, its open conflicts are sent to that client, and later ones as they are applied here. It leaves
the tray when all its conflicts are decided, or when the primary says so.

On a secondary the word of the primary and the operations it is about come each in its own way. The
word names the index that the conflicts of the key reach up to: where that is not applied yet, the
word waits for it. Where it is, and no conflict of the key is open, they were decided meanwhile.

An arbiter has a number, by which its node and the primary mean it. All get new ones when the
primary is another, so what is still on its way to the old numbers is void.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from nuntwist.core.database import CONFLICT_PREFIX, RESOLVED, Database
from nuntwist.values import INDEX, KEY, VALUE, Op

if TYPE_CHECKING:
    from nuntwist.core.assigning import Place
    from nuntwist.core.client import Client
    from nuntwist.core.pipeline import Pipeline

NOBODY: Final = 0
"""The number of no arbiter."""


class Trays:
    """See the module's header.

    :param pipeline: on its way messages go.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._last_number = NOBODY
        self._numbers: dict[Client, int] = {}
        self._clients: dict[int, Client] = {}
        self._held: dict[Place, Client] = {}
        # By index, too; as many as the primary has keys in conflict, at most, count.
        self._early: dict[Place, tuple[int, int, Database]] = {}
        self._early_at: list[tuple[int, Place]] = []

    # -- who is there ------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many arbiters are connected here."""
        return len(self._numbers)

    def all(self) -> Iterator[tuple[int, Client]]:
        """Those connected here, with their numbers."""
        return iter(self._clients.items())

    def client(self, number: int) -> Client | None:
        """Who has a number."""
        return self._clients.get(number)

    def __contains__(self, client: Client) -> bool:
        return client in self._numbers

    def add(self, client: Client) -> int:
        """One more; give its number."""
        self._last_number += 1
        self._numbers[client] = self._last_number
        self._clients[self._last_number] = client
        return self._last_number

    def remove(self, client: Client) -> int:
        """One is none any more, with an empty tray; give the number it had, or ``NOBODY``."""
        number = self._numbers.pop(client, NOBODY)
        self._clients.pop(number, None)
        for place in [place for place, held in self._held.items() if held is client]:
            del self._held[place]
        return number

    def empty(self) -> None:
        """Empty all trays, and give all arbiters new numbers."""
        for kept in (self._held, self._early, self._early_at, self._clients):
            kept.clear()
        for client in self._numbers:
            self.add(client)

    # -- what they have ----------------------------------------------------------------------

    def holder(self, place: Place) -> Client | None:
        """Who of those here has a key."""
        return self._held.get(place)

    def pending(self, client: Client, database: Database) -> list[bytes]:
        """The open conflicts of the keys in a tray, as they came."""
        number, held = database.number, self._held
        return [
            conflict
            for key, pending in database.conflicts.items()
            if held.get((number, key)) is client
            for conflict in pending
        ]

    def put(self, place: Place, number: int) -> None:
        """Put a key into a tray; its conflicts are sent by whoever asks for that."""
        self._held[place] = self._clients[number]

    def hand(self, database: Database, key: bytes, number: int) -> None:
        """Put a key into a tray, and send its open conflicts."""
        place = (database.number, key)
        self.put(place, number)
        for conflict in database.conflicts[key]:
            entry = database.find(conflict)
            if entry is not None and entry[VALUE] is not None:
                self._pipeline.answer_message(self._held[place], entry[VALUE], entry[INDEX])

    def take(self, place: Place) -> None:
        """Take a key out of whichever tray it is in."""
        self._held.pop(place, None)

    def drop(self, number: int) -> None:
        """A database is gone."""
        for places in (self._held, self._early):
            for place in [place for place in places if place[0] == number]:
                del places[place]

    # -- on a secondary ----------------------------------------------------------------------

    def followed(self, database: Database, op: Op) -> None:
        """The operation of a conflict has come from the primary."""
        conflict, message = op[KEY], op[VALUE]
        if not self._held or message is None or message.startswith(RESOLVED):
            return
        key = conflict[len(CONFLICT_PREFIX) :].rpartition(b"_")[0]
        client = self._held.get((database.number, key))
        # It may have lost the right by an operation that the primary has not told of yet.
        if client is not None and client.may(b"a", key):
            self._pipeline.answer_message(client, message, op[INDEX])

    def given(self, place: Place, number: int, index: int) -> None:
        """The primary says whose a key is.

        :param number: of the arbiter here; ``NOBODY`` for none.
        :param index: up to which the operations of its conflicts reach.
        """
        self._early.pop(place, None)
        client = self._clients.get(number)
        database = None if client is None else client.database
        if database is None or database.number != place[0]:
            self.take(place)
        elif index <= self._pipeline.journal.index:
            self._take_over(database, place, number)
        else:
            self._early[place] = (index, number, database)
            heappush(self._early_at, (index, place))

    def applied(self) -> None:
        """More operations of the primary are applied."""
        index, waiting = self._pipeline.journal.index, self._early_at
        while waiting and waiting[0][0] <= index:
            due, place = heappop(waiting)
            if place in self._early and self._early[place][0] == due:
                _, number, database = self._early.pop(place)
                self._take_over(database, place, number)

    def _take_over(self, database: Database, place: Place, number: int) -> None:
        self.take(place)
        client, key = self._clients.get(number), place[1]
        if client is None or client.database is not database or key not in database.conflicts:
            return
        if client.may(b"a", key):
            self.hand(database, key, number)
