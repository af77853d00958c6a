"""What the arbiters that are connected here have to decide: each has a tray, and conflicts in it.

Which conflict goes into whose tray is the primary's to say (:mod:`nuntwist.core.desk`); it is sent
to that client then. It leaves the tray when it is decided, or when the primary says that its key is
not that arbiter's any more.

On a secondary the word of the primary and the operations it is about come each in its own way. The
word names the index up to which there are operations that it relies on: where that is not applied
yet, the word waits for it. Where it is, and the conflict is not open, it was decided meanwhile.

An arbiter has a number, by which its node and the primary mean it. All get new ones when the
primary is another, so what is still on its way to the old numbers is void.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final, NamedTuple

from nuntwist.core.database import CONFLICT_PREFIX, RESOLVED, Database
from nuntwist.values import INDEX, VALUE, Op

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.pipeline import Pipeline
    from nuntwist.core.seats import Place

NOBODY: Final = 0
"""The number of no arbiter."""


class _Early(NamedTuple):
    """What the primary has said, and what it is about is not here yet."""

    needs: int
    conflict: bytes
    number: int
    database: Database


class Trays:
    """See the module's header.

    :param pipeline: on its way messages go.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._last_number = NOBODY
        self._numbers: dict[Client, int] = {}
        self._clients: dict[int, Client] = {}
        self._holders: dict[Place, Client] = {}
        # As many as the primary says that an arbiter may have; those it rests with count, too.
        self._trays: dict[Client, dict[Place, dict[bytes, None]]] = {}
        self._early: dict[Place, list[_Early]] = {}
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
        for place in self._trays.pop(client, {}):
            del self._holders[place]
        return number

    def empty(self) -> None:
        """Empty all trays, and give all arbiters new numbers."""
        for kept in (self._holders, self._trays, self._early, self._early_at, self._clients):
            kept.clear()
        for client in self._numbers:
            self.add(client)

    # -- what they have ----------------------------------------------------------------------

    def holder(self, place: Place) -> Client | None:
        """Who of those here has a key."""
        return self._holders.get(place)

    def pending(self, client: Client, database: Database) -> list[bytes]:
        """The conflicts of a database in a tray, those of a key in their order."""
        tray = self._trays.get(client, {})
        return [
            conflict
            for place, conflicts in tray.items()
            if place[0] == database.number
            for conflict in conflicts
        ]

    def put(self, place: Place, conflict: bytes, number: int) -> Client:
        """Put a conflict into a tray; it is sent by whoever asks for that."""
        client = self._clients[number]
        if self._holders.get(place) is not client:
            self.take(place)
            self._holders[place] = client
        self._trays.setdefault(client, {}).setdefault(place, {})[conflict] = None
        return client

    def hand(self, database: Database, place: Place, conflict: bytes, number: int) -> None:
        """Put a conflict into a tray, and send it."""
        entry = database.find(conflict)
        if is_open(entry):
            assert entry is not None
            assert entry[VALUE] is not None
            client = self.put(place, conflict, number)
            self._pipeline.answer_message(client, entry[VALUE], entry[INDEX])

    def take(self, place: Place) -> None:
        """Take a key out of whichever tray it is in."""
        client = self._holders.pop(place, None)
        if client is not None:
            tray = self._trays[client]
            del tray[place]
            if not tray:
                del self._trays[client]

    def settled(self, place: Place, conflict: bytes) -> None:
        """A conflict is not open any more."""
        client = self._holders.get(place)
        if client is not None:
            conflicts = self._trays[client][place]
            conflicts.pop(conflict, None)
            if not conflicts:
                self.take(place)

    def drop(self, number: int) -> None:
        """A database is gone."""
        for place in [place for place in self._holders if place[0] == number]:
            self.take(place)
        for place in [place for place in self._early if place[0] == number]:
            del self._early[place]

    # -- on a secondary ----------------------------------------------------------------------

    def given(self, database: int, key: bytes, number: int, index: int) -> None:
        """The primary says whose a conflict is.

        :param database: its number.
        :param key: the conflict; where it is nobody's, the key that it and others are about.
        :param number: of the arbiter here; ``NOBODY`` where the key is none's of these any more.
        :param index: up to which there are operations that this relies on.
        """
        if number == NOBODY:
            self._early.pop((database, key), None)
            self.take((database, key))
            return
        client, place = self._clients.get(number), (database, about(key))
        of_client = None if client is None else client.database
        if of_client is None or of_client.number != database:
            return
        word = _Early(index, key, number, of_client)
        if index <= self._pipeline.journal.index and place not in self._early:
            self._take_over(place, word)
        else:
            self._early.setdefault(place, []).append(word)
            heappush(self._early_at, (index, place))

    def applied(self) -> None:
        """More operations of the primary are applied."""
        index, waiting = self._pipeline.journal.index, self._early_at
        while waiting and waiting[0][0] <= index:
            _, place = heappop(waiting)
            words = self._early.get(place, [])
            # In the order in which they came.
            while words and words[0].needs <= index:
                self._take_over(place, words.pop(0))
            if not words:
                self._early.pop(place, None)

    def _take_over(self, place: Place, word: _Early) -> None:
        client = self._clients.get(word.number)
        if client is None or client.database is not word.database:
            return
        if client.may(b"a", place[1]):
            self.hand(word.database, place, word.conflict, word.number)


def about(conflict: bytes) -> bytes:
    """The key that a conflict is about."""
    return conflict[len(CONFLICT_PREFIX) :].rpartition(b"_")[0]


def is_open(entry: Op | None) -> bool:
    """Whether a conflict is to be decided.

    :param entry: of its own key.
    """
    value = None if entry is None else entry[VALUE]
    return value is not None and not value.startswith(RESOLVED)
