"""Which arbiter decides which key in conflict: the table of a primary. Pure, on a given clock.

What is assigned is a *place*: a key of a database, with all its open conflicts, as each of them is
about the one before. An arbiter has a *seat*; seats of any node of the set are alike here::

    noted ──▶ ready ──assigned──▶ held by a seat ──decided──▶ gone
                │  ▲                    │
         nobody │  │ somebody comes     │ the seat goes, may not any more,
           may  ▼  │                    │ or does not decide in time
               stuck ◀──────────────────┘ (through ready)

A place goes to the seat that may decide its key and holds the fewest; of equal ones to the one
whose turn is longest ago. A seat from which a place was taken as it did not decide is *late*: it
comes last, but for one place at a time, after a while, to see whether it works again; once it has
decided something it is as good as any.

A place goes round: from one that does not decide in time to one that was not tried for it yet, and
when all were tried they are tried once more. With one alone it stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, TypeAlias

Place: TypeAlias = tuple[int, bytes]
"""The number of a database, and a key."""


@dataclass(slots=True, eq=False)
class Seat:
    """An arbiter.

    :ivar node: where it is connected; its number there is ``number``.
    :ivar database: the number of the database it decides for.
    :ivar may: whether it has the right to decide a key.
    :ivar name: for logs.
    :ivar identity: what its rights come from, where these may change by that.
    :ivar keys: those it holds.
    :ivar turn: when it was given something last, as a count.
    :ivar late: since when it is late, in seconds; None while it is not.
    """

    node: int
    number: int
    database: int
    may: Callable[[bytes], bool]
    name: str
    identity: object = None
    keys: dict[bytes, None] = field(default_factory=dict)
    turn: int = 0
    late: float | None = None


class Move(NamedTuple):
    """A place goes from one seat to another."""

    place: Place
    before: Seat
    after: Seat


@dataclass(slots=True)
class _Held:
    """:ivar since: when the oldest conflict became what the seat has to decide next."""

    seat: Seat
    oldest: bytes
    since: float
    tried: set[tuple[int, int]]


class Table:
    """See the module's header.

    :param seconds: monotonic time, in seconds.
    :ivar timeout: seconds that a seat has to decide the oldest conflict of a place; 0 for any time.
    :ivar open: whether anything is assigned: not before it is known who is there.
    """

    def __init__(self, seconds: Callable[[], float], timeout: float = 0.0) -> None:
        self.timeout = timeout
        self.open = True
        self._seconds = seconds
        self._turns = 0
        self._seats: dict[tuple[int, int], Seat] = {}
        self._of: dict[int, dict[Seat, None]] = {}
        # In the order of ``since``; what is overdue and stays is in none of these but _overdue.
        self._held: dict[Place, _Held] = {}
        self._overdue: dict[int, dict[bytes, _Held]] = {}
        self._ready: dict[Place, bytes] = {}
        self._stuck: dict[int, dict[bytes, bytes]] = {}

    def begin(self, open: bool) -> None:
        """Know of nothing and nobody."""
        self.open = open
        for kept in (self._seats, self._of, self._held, self._overdue, self._ready, self._stuck):
            kept.clear()

    # -- keys --------------------------------------------------------------------------------

    def note(self, place: Place, oldest: bytes | None) -> None:
        """The open conflicts of a key are others.

        :param oldest: the first of them; None where all are decided.
        """
        held = self._find(place)
        if held is None:
            self._note_waiting(place, oldest)
        elif oldest is None:
            self._release(place, held)
            held.seat.late = None
        elif held.oldest != oldest:
            held.seat.late = None
            self._drop(place)
            self._held[place] = _Held(held.seat, oldest, self._seconds(), set())

    def forget(self, database: int) -> None:
        """A database is gone."""
        for place in [place for place in self._ready if place[0] == database]:
            del self._ready[place]
        for seat in tuple(self._of.get(database, ())):
            for key in seat.keys:
                self._drop((database, key))
            seat.keys.clear()
        self._stuck.pop(database, None)

    def holder(self, place: Place) -> Seat | None:
        """Who has a key to decide."""
        held = self._find(place)
        return None if held is None else held.seat

    def anyone(self, database: int, key: bytes) -> bool:
        """Whether somebody may decide a key."""
        return any(seat.may(key) for seat in self._of.get(database, ()))

    # -- seats -------------------------------------------------------------------------------

    def join(self, seat: Seat) -> None:
        """An arbiter is there."""
        self._seats[seat.node, seat.number] = seat
        self._of.setdefault(seat.database, {})[seat] = None
        self._look_again(seat.database)

    def find(self, node: int, number: int) -> Seat | None:
        """The seat of a number at a node."""
        return self._seats.get((node, number))

    def seats_of(self, node: int) -> list[Seat]:
        """The seats at a node."""
        return [seat for seat in self._seats.values() if seat.node == node]

    def leave(self, seat: Seat) -> None:
        """An arbiter is gone: what it held is ready for others."""
        del self._seats[seat.node, seat.number]
        seats = self._of[seat.database]
        del seats[seat]
        if not seats:
            del self._of[seat.database]
        for key in tuple(seat.keys):
            self._take((seat.database, key))

    def review(self, database: int) -> list[tuple[Place, Seat]]:
        """Rights have changed: what a seat may not decide any more is ready for others.

        :return: what was taken, and from whom.
        """
        taken = []
        for seat in self._of.get(database, ()):
            for key in tuple(seat.keys):
                if not seat.may(key):
                    self._take((database, key))
                    taken.append(((database, key), seat))
        self._look_again(database)
        return taken

    # -- assigning ---------------------------------------------------------------------------

    @property
    def is_waiting(self) -> bool:
        """Whether there is something to be tried."""
        return self.open and bool(self._ready)

    def assign(self, place: Place) -> Seat | None:
        """Give a key that nobody holds to somebody.

        :return: to whom; None where nobody may have it, or somebody has it.
        """
        if not self.open or place not in self._ready:
            return None
        oldest = self._ready.pop(place)
        seat = self._choose(place, ())
        if seat is None:
            self._stuck.setdefault(place[0], {})[place[1]] = oldest
        else:
            self._give(place, oldest, seat, set())
        return seat

    def spread(self, most: int) -> list[tuple[Place, Seat]]:
        """Give what is ready to whoever may have it.

        :param most: how many keys are tried.
        """
        if not self.open:
            return []
        tried = [(place, self.assign(place)) for place in tuple(islice(self._ready, most))]
        return [(place, seat) for place, seat in tried if seat is not None]

    def give_all(self, seat: Seat) -> None:
        """Give all that nobody holds, and it may have, to one seat."""
        if not self.open:
            return
        for place in tuple(self._ready):
            if place[0] == seat.database and seat.may(place[1]):
                self._give(place, self._ready.pop(place), seat, set())

    def overdue(self, most: int) -> list[Move]:
        """Take from those who did not decide in time what others may have.

        :param most: how many keys are looked at.
        """
        if not self.timeout or not self.open:
            return []
        until = self._seconds() - self.timeout
        due = []
        for place, held in islice(self._held.items(), most):
            if held.since > until:
                break
            due.append((place, held))
        moves = (self._move(place, held) for place, held in due)
        return [move for move in moves if move is not None]

    def _move(self, place: Place, held: _Held) -> Move | None:
        before = held.seat
        tried = {*held.tried, (before.node, before.number)}
        after = self._choose(place, tried)
        if after is None:
            tried = {(before.node, before.number)}
            after = self._choose(place, tried)
        if after is None:
            del self._held[place]
            self._overdue.setdefault(place[0], {})[place[1]] = held
            return None
        if before.late is None:
            before.late = self._seconds()
        self._release(place, held)
        self._give(place, held.oldest, after, tried)
        return Move(place, before, after)

    def _choose(self, place: Place, but: Container[tuple[int, int]]) -> Seat | None:
        database, key = place
        seats = self._of.get(database, ())
        able = (s for s in seats if (s.node, s.number) not in but and s.may(key))
        return min(able, key=self._rank, default=None)

    def _rank(self, seat: Seat) -> tuple[bool, int, int]:
        late = seat.late is not None
        if late and not seat.keys and seat.late is not None:
            late = self._seconds() < seat.late + self.timeout
        return late, len(seat.keys), seat.turn

    def _give(self, place: Place, oldest: bytes, seat: Seat, tried: set[tuple[int, int]]) -> None:
        self._turns += 1
        seat.turn = self._turns
        seat.keys[place[1]] = None
        self._held[place] = _Held(seat, oldest, self._seconds(), tried)

    def _release(self, place: Place, held: _Held) -> None:
        self._drop(place)
        held.seat.keys.pop(place[1], None)

    def _take(self, place: Place) -> None:
        held = self._find(place)
        if held is not None:
            self._release(place, held)
            self._ready[place] = held.oldest

    def _find(self, place: Place) -> _Held | None:
        held = self._held.get(place)
        return self._overdue.get(place[0], {}).get(place[1]) if held is None else held

    def _drop(self, place: Place) -> None:
        if self._held.pop(place, None) is None:
            self._overdue.get(place[0], {}).pop(place[1], None)

    def _note_waiting(self, place: Place, oldest: bytes | None) -> None:
        stuck = self._stuck.get(place[0], {})
        if oldest is None:
            self._ready.pop(place, None)
            stuck.pop(place[1], None)
        elif place[1] in stuck:
            # Nobody may have it who is there.
            stuck[place[1]] = oldest
        else:
            self._ready[place] = oldest

    def _look_again(self, database: int) -> None:
        """Somebody may have now what nobody could, and what stayed where it was."""
        for key, oldest in self._stuck.pop(database, {}).items():
            self._ready[database, key] = oldest
        overdue = self._overdue.pop(database, None)
        if overdue:
            again = {(database, key): held for key, held in overdue.items()}
            self._held = {**again, **self._held}

    def __iter__(self) -> Iterator[tuple[Place, Seat]]:
        """What is held, and by whom."""
        for place, held in self._held.items():
            yield place, held.seat
        for database, keys in self._overdue.items():
            for key, held in keys.items():
                yield (database, key), held.seat
