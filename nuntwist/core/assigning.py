"""Which arbiter decides which key in conflict: the table of a primary. Pure, on a given clock.

What is assigned is a *place*: a key of a database, with all its open conflicts, as each of them is
about the one before. An arbiter has a *seat*; seats of any node of the set are alike here::

    noted ──▶ ready ──sent──▶ held by a seat ──all decided──▶ gone
              ▲   │                 │
      somebody│   │nobody may, or   │ the seat goes, may not any more, does not decide in time,
         comes│   ▼has room         │ or has decided all that it was sent, and there is more
      or has  └─ waiting            │
      room         ▲────────────────┘ (through ready)

A seat has a *window*: as many conflicts at most as it was sent and did not decide, and as many
bytes. Whoever has room is sent what has waited longest: a key that nobody has, or more of one of
its own. A place of which all that was sent is decided is nobody's, whatever of it waits.

A place goes to the seat that may decide its key, has room and has to decide the fewest; of equal
ones to the one whose turn is longest ago. A seat from which a place was taken as it did not decide
is *late*: it gets nothing while there are others, whether they have room or not, but for one place
at a time, after a pause, to see whether it works again; once it has decided something it is as good
as any.

A place goes round: from one that does not decide in time to one that was not tried for it yet. When
all were tried it *rests* where it is: it does not count for the window any more, so that what
nobody decides stands in nobody's way. After a pause it goes round again, and no more of it is sent
until then; with one seat alone it stays, and is sent what more there is. Each round without a
decision makes the next pause twice as long, up to a limit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from nuntwist.core.seats import NO_SEATS, Case, Place, Seat, Waiting

DOUBLINGS: Final = 4
"""How many times a pause is doubled: the longest is 16 times as long as a seat has to decide."""
SEATS_A_TRY: Final = 10
"""As many more seats to choose from count as one key more that is tried."""


class Given(NamedTuple):
    """A conflict is to be sent to a seat."""

    place: Place
    conflict: bytes
    seat: Seat


class Overdue(NamedTuple):
    """A seat did not decide in time.

    :ivar seat: who.
    :ivar moved: whether the place was taken from it; else all were tried, and it rests there.
    :ivar rounds: how many times all were tried for it, this time included.
    """

    place: Place
    seat: Seat
    moved: bool
    rounds: int


class Table:
    """See the module's header.

    :param seconds: monotonic time, in seconds.
    :param pending: the open conflicts of a place, oldest first; empty where there are none.
    :param size: bytes of a conflict of a place.
    :ivar timeout: seconds that a seat has to decide the oldest conflict of a place; 0 for any time.
    :ivar window: conflicts that a seat may have been sent and not decided.
    :ivar window_bytes: bytes of these, but for one conflict that is longer.
    :ivar open: whether anything is assigned: not before it is known who is there.
    """

    def __init__(
        self,
        seconds: Callable[[], float],
        pending: Callable[[Place], Sequence[bytes]],
        size: Callable[[Place, bytes], int],
    ) -> None:
        self.timeout = 0.0
        self.window, self.window_bytes = 500, 4 << 20
        self.open = True
        self._seconds = seconds
        self._pending = pending
        self._size = size
        self._turns = 0
        self._seats: dict[tuple[int, int], Seat] = {}
        self._of: dict[int, dict[Seat, None]] = {}
        self._cases: dict[int, dict[bytes, Case]] = {}
        # Of what is open and not sent, each place that does not rest is in one of these two.
        self._ready: OrderedDict[Case, None] = OrderedDict()
        self._waiting = Waiting()
        # Those who have room, maybe, for something that waits.
        self._hungry: dict[Seat, None] = {}
        # What is held, by the pause that is its time, in the order of ``since``.
        self._timed: list[dict[Case, None]] = [{} for _ in range(DOUBLINGS + 1)]
        self._resting: dict[int, dict[Case, None]] = {}
        self._again: dict[Case, None] = {}

    def begin(self, open: bool) -> None:
        """Know of nothing and nobody."""
        self.open = open
        self._waiting.clear()
        for kept in (self._seats, self._of, self._cases, self._ready, self._hungry):
            kept.clear()
        for cases in (*self._timed, self._again):
            cases.clear()
        self._resting.clear()

    # -- keys --------------------------------------------------------------------------------

    def note(self, place: Place, conflict: bytes, is_open: bool) -> None:
        """A conflict of a key has come, or is decided or gone."""
        cases = self._cases.setdefault(place[0], {})
        case = cases.get(place[1])
        if case is None:
            case = cases[place[1]] = Case(place)
        if not is_open and conflict in case.sent:
            self._decided(case, conflict)
        if not self._pending(place):
            self._close(case)
        else:
            self._queue(case)

    def _decided(self, case: Case, conflict: bytes) -> None:
        seat = case.seat
        assert seat is not None
        self._trust(seat)
        was_first = conflict == next(iter(case.sent))
        case.count_no_more((conflict,))
        del case.sent[conflict]
        if was_first or case.resting:
            case.tried, case.rounds = NO_SEATS, 0
            self._rest_no_more(case)
            self._time(case, 0)
        if not case.sent:
            self._release(case)
        self._freed(seat)

    def forget(self, database: int) -> None:
        """A database is gone."""
        for case in tuple(self._cases.get(database, {}).values()):
            self._close(case)

    def holder(self, place: Place) -> Seat | None:
        """Who has a key to decide."""
        case = self._cases.get(place[0], {}).get(place[1])
        return None if case is None else case.seat

    def anyone(self, database: int, key: bytes) -> bool:
        """Whether somebody may decide a key."""
        return any(seat.may(key) for seat in self._of.get(database, ()))

    def resting(self, database: int) -> int:
        """How many keys all were tried for, and nobody has decided."""
        return len(self._resting.get(database, ()))

    # -- seats -------------------------------------------------------------------------------

    def join(self, seat: Seat) -> None:
        """An arbiter is there."""
        self._seats[seat.which] = seat
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
        del self._seats[seat.which]
        seats = self._of[seat.database]
        del seats[seat]
        if not seats:
            del self._of[seat.database]
        for key in tuple(seat.keys):
            self._take(seat.database, key)
        self._hungry.pop(seat, None)
        self._make_ready(self._waiting.take(seat.database, lambda group: seat in group))

    def review(self, database: int) -> list[tuple[Place, Seat]]:
        """Rights have changed: what a seat may not decide any more is ready for others.

        :return: what was taken, and from whom.
        """
        taken = []
        for seat in self._of.get(database, ()):
            for key in tuple(seat.keys):
                if not seat.may(key):
                    self._take(database, key)
                    taken.append(((database, key), seat))
        self._look_again(database)
        return taken

    # -- giving ------------------------------------------------------------------------------

    @property
    def is_waiting(self) -> bool:
        """Whether there is something to be tried."""
        return self.open and bool(self._ready or self._hungry)

    def spread(self, most: int) -> list[Given]:
        """Give what is ready to whoever may have it and has room.

        :param most: how many keys are tried at most, and how many conflicts are given, about.
        """
        given: list[Given] = []
        if not self.open:
            return given
        for seat in tuple(self._hungry):
            self._feed(seat, most, given)
        left = most - len(given)
        while self._ready and left > 0:
            case, _ = self._ready.popitem(last=False)
            left -= 1 + len(self._of.get(case.place[0], ())) // SEATS_A_TRY
            self._try(case, most, given)
        return given

    def give_all(self, seat: Seat) -> list[Given]:
        """Give what nobody has, and it may have, to one seat, as far as it has room."""
        given: list[Given] = []
        if not self.open:
            return given
        may = (c for c in self._ready if c.seat is None and seat.may(c.place[1]))
        for case in tuple(islice(may, self.window)):
            if seat in self._waiting or not self._has_room(seat, self._next(case)):
                break
            del self._ready[case]
            self._sit(case, seat)
            self._try(case, self.window, given)
        return given

    def _feed(self, seat: Seat, most: int, given: list[Given]) -> None:
        while len(given) < most:
            case = self._waiting.first(seat)
            if case is None or not self._has_room(seat, self._next(case)):
                # Nothing overtakes a long one for which there is no room yet.
                self._hungry.pop(seat, None)
                return
            self._waiting.remove(case)
            self._try(case, most, given, waited=True)

    def _try(self, case: Case, most: int, given: list[Given], waited: bool = False) -> None:
        """Send of a key what there is room for; the rest waits, behind what does already."""
        if not self._has_more(case):
            # Its database is about to be forgotten.
            return
        if case.seat is None:
            able = self._choose(case)
            free = able if waited else [one for one in able if one not in self._waiting]
            size = self._next(case)
            fit = (one for one in free if self._has_room(one, size))
            seat = min(fit, key=lambda one: (one.load, one.turn), default=None)
            if seat is None:
                self._waiting.add(case, able)
                return
            self._sit(case, seat)
        elif not waited and case.seat in self._waiting:
            self._waiting.add(case, (case.seat,))
            return
        seat = case.seat
        assert seat is not None
        first = not case.sent
        for conflict in self._pending(case.place):
            if conflict in case.sent:
                continue
            size = self._size(case.place, conflict)
            has_room = self._has_room(seat, size)
            if not has_room or (len(given) >= most and not first):
                self._waiting.add(case, (seat,))
                if has_room:
                    self._hungry[seat] = None
                return
            if case.resting:
                # With one alone: it has its time for this one, too.
                self._rest_no_more(case)
                self._time(case, 0)
            first = False
            case.add(conflict, size)
            given.append(Given(case.place, conflict, seat))

    def _choose(self, case: Case) -> list[Seat]:
        """Of whom one has a place next that nobody has; empty where nobody may."""
        able = self._able(case)
        left = [seat for seat in able if seat.which not in case.tried]
        if not left:
            case.tried, left = NO_SEATS, able
        return [seat for seat in left if not self._is_late(seat)] or left

    def _able(self, case: Case) -> list[Seat]:
        database, key = case.place
        return [seat for seat in self._of.get(database, ()) if seat.may(key)]

    def _has_room(self, seat: Seat, size: int) -> bool:
        if not seat.load:
            return True
        return seat.load < self.window and seat.size + size <= self.window_bytes

    def _has_more(self, case: Case) -> bool:
        return len(self._pending(case.place)) > len(case.sent)

    def _next(self, case: Case) -> int:
        """Bytes of the next conflict that is sent of a key."""
        sent, place = case.sent, case.place
        following = next((one for one in self._pending(place) if one not in sent), None)
        return 0 if following is None else self._size(place, following)

    def _sit(self, case: Case, seat: Seat) -> None:
        self._turns += 1
        seat.turn = self._turns
        seat.keys[case.place[1]] = None
        case.seat = seat
        self._time(case, 0)

    # -- time --------------------------------------------------------------------------------

    def overdue(self, most: int) -> list[Overdue]:
        """Take from those who did not decide in time what others may have; it is ready then.

        :param most: how many keys are looked at, about.
        """
        if not self.timeout or not self.open:
            return []
        now = self._seconds()
        due = list(islice(self._again, most))
        for doublings, cases in enumerate(self._timed):
            until = now - self._pause(doublings)
            for case in islice(cases, most):
                if case.since > until:
                    break
                due.append(case)
        found = [self._move(case) for case in dict.fromkeys(due)]
        for seat in tuple(self._seats.values()):
            if seat.late is not None and not self._is_late(seat):
                for case in self._waiting.to_try(seat):
                    self._waiting.remove(case)
                    self._make_ready([case])
        return [one for one in found if one is not None]

    def _move(self, case: Case) -> Overdue | None:
        seat = case.seat
        assert seat is not None
        # Somebody new is there for what rests.
        is_again = case in self._again
        self._again.pop(case, None)
        if not case.resting:
            self._missed(case, seat)
        others = [one for one in self._able(case) if one is not seat]
        tried = case.tried | {seat.which}
        if case.resting and not is_again:
            tried = frozenset({seat.which})
        if any(one.which not in tried for one in others):
            self._release(case)
            case.tried = tried
            self._make_ready([case])
            return Overdue(case.place, seat, True, case.rounds)
        is_new = not case.resting
        if is_new:
            case.tried = tried
            case.rounds += 1
            case.resting = True
            case.count_no_more(tuple(case.counted))
            self._resting.setdefault(case.place[0], {})[case] = None
        if not others:
            # Nothing is sent again to one alone.
            self._time(case, None)
        elif case.timed in (None, 0):
            self._time(case, min(case.rounds, DOUBLINGS))
        self._queue(case)
        self._freed(seat)
        return Overdue(case.place, seat, False, case.rounds) if is_new else None

    def _pause(self, doublings: int) -> float:
        return self.timeout * float(2 ** min(doublings, DOUBLINGS))

    def _is_late(self, seat: Seat) -> bool:
        if seat.late is None:
            return False
        return seat.load > 0 or self._seconds() < seat.late + self._pause(seat.misses - 1)

    def _missed(self, case: Case, seat: Seat) -> None:
        if seat.late is None:
            seat.late, seat.misses = self._seconds(), 1
            self._make_ready(self._waiting.take(seat.database, lambda group: seat in group))
        elif seat.late < case.since:
            seat.late = self._seconds()
            seat.misses += 1

    def _trust(self, seat: Seat) -> None:
        if seat.late is not None:
            seat.late, seat.misses = None, 0
            self._make_ready(self._waiting.take(seat.database, lambda group: seat not in group))

    def _time(self, case: Case, doublings: int | None) -> None:
        """Measure its time anew, if at all."""
        if case.timed is not None:
            del self._timed[case.timed][case]
        case.timed, case.since = doublings, self._seconds()
        if doublings is not None:
            self._timed[doublings][case] = None

    def _rest_no_more(self, case: Case) -> None:
        if not case.resting:
            return
        case.resting = False
        self._again.pop(case, None)
        of_database = self._resting[case.place[0]]
        del of_database[case]
        if not of_database:
            del self._resting[case.place[0]]

    # -- what is where -----------------------------------------------------------------------

    def _queue(self, case: Case) -> None:
        """A key is ready, or waits, if there is something of it to be sent."""
        if self._has_more(case) and not (case.resting and case.timed is not None):
            if case.group is None:
                self._ready[case] = None
            else:
                # A shorter one is next, maybe: a decision that was taken back.
                free = (seat for seat in case.group if seat.load < self.window)
                self._hungry.update(dict.fromkeys(free))
        else:
            self._ready.pop(case, None)
            self._waiting.remove(case)

    def _make_ready(self, cases: Iterable[Case]) -> None:
        for case in cases:
            self._ready[case] = None

    def _take(self, database: int, key: bytes) -> None:
        case = self._cases[database][key]
        self._release(case)
        self._make_ready([case])

    def _release(self, case: Case) -> None:
        """It is nobody's; who had it has room."""
        seat = case.seat
        if seat is None:
            return
        self._rest_no_more(case)
        case.count_no_more(tuple(case.counted))
        case.sent.clear()
        self._time(case, None)
        case.seat = None
        del seat.keys[case.place[1]]
        # It waited for that seat, maybe.
        self._waiting.remove(case)
        self._freed(seat)

    def _freed(self, seat: Seat) -> None:
        if seat.which in self._seats and seat in self._waiting:
            self._hungry[seat] = None

    def _close(self, case: Case) -> None:
        self._release(case)
        self._ready.pop(case, None)
        self._waiting.remove(case)
        database, key = case.place
        cases = self._cases[database]
        del cases[key]
        if not cases:
            del self._cases[database]

    def _look_again(self, database: int) -> None:
        """Somebody may have now what nobody could, and what stayed where it was."""
        self._make_ready(self._waiting.take(database, lambda group: True))
        self._again.update(self._resting.get(database, {}))

    def __iter__(self) -> Iterator[tuple[Place, Seat]]:
        """What is held, and by whom."""
        for cases in self._cases.values():
            for case in cases.values():
                if case.seat is not None:
                    yield case.place, case.seat
