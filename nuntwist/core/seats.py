"""Arbiters, and keys in conflict, as :mod:`nuntwist.core.assigning` has them; and those keys that
wait until an arbiter has room."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeAlias

Place: TypeAlias = tuple[int, bytes]
"""The number of a database, and a key."""

NO_SEATS: Final[frozenset[tuple[int, int]]] = frozenset()
TRIED_AT_ONCE: Final = 100
"""Keys of which one is looked for that a certain arbiter may be tried with."""


@dataclass(slots=True, eq=False)
class Seat:
    """An arbiter.

    :ivar node: where it is connected; its number there is ``number``.
    :ivar database: the number of the database it decides for.
    :ivar may: whether it has the right to decide a key.
    :ivar name: for logs.
    :ivar identity: what its rights come from, where these may change by that.
    :ivar keys: those it holds.
    :ivar load: conflicts that it was sent and has time to decide, and ``size`` their bytes.
    :ivar turn: when it was given something last, as a count.
    :ivar late: since when it is late, in seconds; None while it is not.
    :ivar misses: how many times in a row it has become late, or stayed it when it was tried.
    """

    node: int
    number: int
    database: int
    may: Callable[[bytes], bool]
    name: str
    identity: object = None
    keys: dict[bytes, None] = field(default_factory=dict)
    load: int = 0
    size: int = 0
    turn: int = 0
    late: float | None = None
    misses: int = 0

    @property
    def which(self) -> tuple[int, int]:
        """What tells it from others, also when it is gone."""
        return self.node, self.number


@dataclass(slots=True, eq=False)
class Case:
    """A key in conflict.

    :ivar seat: whose it is.
    :ivar sent: its open conflicts that the seat was sent, in order.
    :ivar counted: those of them that count for the window of the seat, with their bytes.
    :ivar since: when the first of these became what the seat has to decide next, in seconds.
    :ivar tried: those who had it and did not decide.
    :ivar rounds: how many times all who may were tried.
    :ivar resting: whether its time is over, and it stays where it is all the same.
    :ivar timed: by which pause its time is measured; None where it is by none.
    :ivar group: those it waits for; None where it does not wait so.
    :ivar turn: since when it waits for them, as a count.
    """

    place: Place
    seat: Seat | None = None
    sent: dict[bytes, None] = field(default_factory=dict)
    counted: dict[bytes, int] = field(default_factory=dict)
    since: float = 0.0
    tried: frozenset[tuple[int, int]] = NO_SEATS
    rounds: int = 0
    resting: bool = False
    timed: int | None = None
    group: frozenset[Seat] | None = None
    turn: int = 0

    def add(self, conflict: bytes, size: int) -> None:
        """A conflict is sent to the seat."""
        assert self.seat is not None
        self.sent[conflict] = None
        self.counted[conflict] = size
        self.seat.load += 1
        self.seat.size += size

    def count_no_more(self, conflicts: Iterable[bytes]) -> None:
        """Some do not count any more, if they did."""
        assert self.seat is not None
        for conflict in conflicts:
            size = self.counted.pop(conflict, None)
            if size is not None:
                self.seat.load -= 1
                self.seat.size -= size


class Waiting:
    """Keys that wait until one of certain arbiters has room, by who these are; where there are
    none, for somebody to come. As a rule there are few such groups, so that whoever has room finds
    at once what has waited longest for it."""

    def __init__(self) -> None:
        self._turns = 0
        # Ordered, as the first of a plain dictionary is far behind when many before it are gone.
        self._groups: dict[int, dict[frozenset[Seat], OrderedDict[Case, None]]] = {}
        self._awaited: Counter[Seat] = Counter()

    def clear(self) -> None:
        """Nothing waits."""
        self._groups.clear()
        self._awaited.clear()

    def __contains__(self, seat: Seat) -> bool:
        """Whether something waits for an arbiter."""
        return seat in self._awaited

    def add(self, case: Case, seats: Iterable[Seat]) -> None:
        """A key waits for one of these."""
        self._turns += 1
        case.turn, case.group = self._turns, frozenset(seats)
        of_database = self._groups.setdefault(case.place[0], {})
        cases = of_database.get(case.group)
        if cases is None:
            cases = of_database[case.group] = OrderedDict()
            self._awaited.update(case.group)
        cases[case] = None

    def remove(self, case: Case) -> None:
        """A key does not wait any more, if it did."""
        if case.group is None:
            return
        of_database = self._groups[case.place[0]]
        cases = of_database[case.group]
        del cases[case]
        if not cases:
            del of_database[case.group]
            for seat in case.group:
                self._awaited[seat] -= 1
                if not self._awaited[seat]:
                    del self._awaited[seat]
            if not of_database:
                del self._groups[case.place[0]]
        case.group = None

    def first(self, seat: Seat) -> Case | None:
        """What has waited longest for an arbiter."""
        of_database = self._groups.get(seat.database, {})
        firsts = (next(iter(cases)) for group, cases in of_database.items() if seat in group)
        return min(firsts, key=lambda case: case.turn, default=None)

    def take(self, database: int, concerned: Callable[[frozenset[Seat]], bool]) -> list[Case]:
        """Those who wait for certain groups wait no more.

        :return: they, in order.
        """
        groups = self._groups.get(database, {})
        taken = [case for group in groups if concerned(group) for case in groups[group]]
        taken.sort(key=lambda case: case.turn)
        for case in taken:
            self.remove(case)
        return taken

    def to_try(self, seat: Seat) -> Iterator[Case]:
        """Some that nobody has, wait for others than a late arbiter, and it may decide."""
        for group, cases in list(self._groups.get(seat.database, {}).items()):
            if seat in group:
                continue
            for case in islice(cases, TRIED_AT_ONCE):
                free = case.seat is None and seat.which not in case.tried
                if free and seat.may(case.place[1]):
                    yield case
                    break
