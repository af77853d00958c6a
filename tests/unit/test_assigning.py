"""The table that says which arbiter decides which key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, Final

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from nuntwist.core.assigning import DOUBLINGS, Given, Table
from nuntwist.core.seats import Case as Conflicts
from nuntwist.core.seats import Place, Seat, Waiting

DATABASE = 7
TIMEOUT = 30.0


class Case:
    """A table, the open conflicts of each key, and what was given to whom."""

    def __init__(self, window: int = 100, timeout: float = TIMEOUT) -> None:
        self.clock = Clock()
        self.pending: dict[bytes, list[bytes]] = {}
        self.sizes: dict[bytes, int] = {}
        self.made = 0
        self.table = Table(
            self.clock.seconds,
            lambda place: self.pending.get(place[1], ()),
            lambda place, conflict: self.sizes.get(conflict, 1),
        )
        self.table.timeout = timeout
        self.table.window = window

    def sit(
        self, number: int, node: int = 1, begins: bytes = b"", database: int = DATABASE
    ) -> Seat:
        """One more, who may decide the keys that begin so."""
        seat = Seat(node, number, database, lambda key: key.startswith(begins), str(number))
        self.table.join(seat)
        return seat

    def add(self, key: bytes, size: int = 1) -> bytes:
        """A key comes into conflict, or once more."""
        self.made += 1
        conflict = b"%b-%d" % (key, self.made)
        self.sizes[conflict] = size
        self.pending.setdefault(key, []).append(conflict)
        self.table.note((DATABASE, key), conflict, True)
        return conflict

    def conflicts(self, *keys: bytes) -> list[int | None]:
        """Keys come into conflict, or once more: the numbers of those who are sent that."""
        numbers = []
        for key in keys:
            conflict = self.add(key)
            sent = {one.conflict: one.seat.number for one in self.table.spread(100)}
            numbers.append(sent.get(conflict))
        return numbers

    def decide(self, conflict: bytes) -> None:
        key = conflict.partition(b"-")[0]
        self.pending[key].remove(conflict)
        if not self.pending[key]:
            del self.pending[key]
        self.table.note((DATABASE, key), conflict, False)

    def decided(self, *keys: bytes) -> None:
        """All of these keys is decided."""
        for key in keys:
            for conflict in tuple(self.pending[key]):
                self.decide(conflict)

    def moved(self, after: float) -> list[tuple[bytes, int, int]]:
        """Time passes: the keys that go from one to another then."""
        self.clock.advance(after)
        taken = [(one.place, one.seat) for one in self.table.overdue(100) if one.moved]
        self.table.spread(100)
        holders = dict(self.table)
        return [(place[1], seat.number, holders[place].number) for place, seat in taken]

    def holder(self, key: bytes) -> int | None:
        seat = self.table.holder((DATABASE, key))
        return None if seat is None else seat.number

    def spread(self, most: int = 100) -> dict[bytes, int]:
        return {one.place[1]: one.seat.number for one in self.table.spread(most)}

    def sent(self) -> list[bytes]:
        """The conflicts that are given now."""
        return [one.conflict for one in self.table.spread(100)]


@pytest.fixture
def case() -> Case:
    return Case()


def test_keys_go_to_whoever_has_the_fewest_and_of_equals_in_turn(case: Case) -> None:
    case.sit(1)
    case.sit(2, node=2)
    case.sit(3)
    assert case.conflicts(b"a", b"b", b"c", b"d") == [1, 2, 3, 1]
    case.decided(b"b", b"c")
    assert case.conflicts(b"e", b"f", b"g") == [2, 3, 2]
    assert case.holder(b"b") is None


def test_a_key_in_conflict_stays_with_one(case: Case) -> None:
    case.sit(1)
    case.sit(2)
    assert case.conflicts(b"a", b"a", b"a") == [1, 1, 1]
    assert case.holder(b"a") == 1


def test_rights_count(case: Case) -> None:
    case.sit(1, begins=b"a")
    case.sit(2, begins=b"b")
    assert case.conflicts(b"a1", b"a2", b"b", b"c") == [1, 1, 2, None]
    assert case.table.anyone(DATABASE, b"a")
    assert not case.table.anyone(DATABASE, b"c")
    assert not case.table.anyone(DATABASE + 1, b"a")
    assert case.conflicts(b"c") == [None]
    case.sit(3, begins=b"c")
    assert case.spread() == {b"c": 3}


def test_whoever_comes_may_have_what_nobody_has(case: Case) -> None:
    case.conflicts(b"a", b"b", b"c")
    seat = case.sit(1, begins=b"a")
    case.table.give_all(seat)
    assert list(seat.keys) == [b"a"]
    assert case.spread() == {}
    case.sit(2)
    assert case.spread() == {b"b": 2, b"c": 2}
    other = case.sit(3)
    case.table.give_all(other)
    assert other.keys == {}


def test_what_one_that_leaves_had_goes_to_others(case: Case) -> None:
    first, _ = case.sit(1), case.sit(2)
    case.conflicts(b"a", b"b", b"c")
    case.table.leave(first)
    assert case.holder(b"a") is None
    assert case.table.is_waiting
    assert case.spread(1) == {b"a": 2}
    assert case.spread() == {b"c": 2}
    assert not case.table.is_waiting


def test_what_one_may_not_any_more_goes_to_others(case: Case) -> None:
    first = case.sit(1)
    case.conflicts(b"a", b"b")
    case.sit(2)
    first.may = lambda key: key == b"b"
    taken = case.table.review(DATABASE)
    assert taken == [((DATABASE, b"a"), first)]
    assert case.spread() == {b"a": 2}
    assert list(first.keys) == [b"b"]
    # And what it may now it gets.
    case.conflicts(b"c")
    case.table.review(DATABASE)
    assert case.spread() == {}


def test_one_that_does_not_decide_loses_the_key_to_each_of_the_others(case: Case) -> None:
    case.sit(1)
    case.sit(2)
    case.sit(3)
    case.conflicts(b"a")
    assert case.moved(TIMEOUT - 0.1) == []
    assert case.moved(0.1) == [(b"a", 1, 2)]
    assert case.moved(TIMEOUT) == [(b"a", 2, 3)]
    # All were tried: it rests for twice as long, and goes round once more.
    assert case.moved(TIMEOUT) == []
    assert case.moved(2 * TIMEOUT - 1) == []
    assert case.moved(1) == [(b"a", 3, 1)]


def test_with_one_alone_a_key_stays_until_there_is_another(case: Case) -> None:
    case.sit(1)
    case.conflicts(b"a", b"b")
    assert case.moved(10 * TIMEOUT) == []
    assert case.moved(10 * TIMEOUT) == []
    assert case.holder(b"a") == 1
    # It is decided while it is overdue.
    case.decided(b"b")
    case.sit(2)
    assert case.moved(0) == [(b"a", 1, 2)]
    assert case.holder(b"b") is None


def test_without_a_time_nothing_moves(case: Case) -> None:
    case.table.timeout = 0.0
    case.sit(1)
    case.sit(2)
    case.conflicts(b"a")
    assert case.moved(1e6) == []


def test_each_decision_of_a_key_gives_time_for_the_next(case: Case) -> None:
    case.sit(1)
    first = case.add(b"a")
    case.conflicts(b"a", b"b")
    case.sit(2)
    case.clock.advance(TIMEOUT - 1)
    case.decide(first)
    # A later conflict of a key gives none, nor does its decision.
    case.conflicts(b"b")
    case.decide(case.pending[b"b"][1])
    assert case.moved(1) == [(b"b", 1, 2)]
    assert case.moved(TIMEOUT - 1) == [(b"a", 1, 2)]


def test_one_that_is_late_comes_last_but_for_a_try(case: Case) -> None:
    case.sit(1)
    case.conflicts(b"a")
    case.sit(2)
    case.moved(TIMEOUT)
    assert case.conflicts(b"b", b"c") == [2, 2]
    case.decided(b"a", b"b", b"c")
    case.clock.advance(TIMEOUT)
    # One key tells whether it works again.
    assert case.conflicts(b"d", b"e", b"f", b"g") == [1, 2, 2, 2]
    case.decided(b"d")
    assert case.conflicts(b"h", b"i") == [1, 1]


def test_nothing_is_given_before_it_is_open(case: Case) -> None:
    case.table.begin(open=False)
    seat = case.sit(1)
    assert case.conflicts(b"a") == [None]
    case.table.give_all(seat)
    assert (case.spread(), seat.keys, case.moved(TIMEOUT)) == ({}, {}, [])
    assert not case.table.is_waiting
    case.table.open = True
    assert case.spread() == {b"a": 1}


def test_what_is_gone_with_its_database_is_forgotten(case: Case) -> None:
    seat = case.sit(1, begins=b"a")
    case.conflicts(b"a", b"ab", b"b")
    case.add(b"ac")
    case.moved(TIMEOUT)
    case.table.forget(DATABASE)
    assert (seat.keys, seat.load, seat.size) == ({}, 0, 0)
    assert list(case.table) == []
    case.sit(2)
    assert case.spread() == {}


# -- the window ---------------------------------------------------------------------------------


def test_one_is_sent_no_more_than_its_window_and_the_next_as_it_decides() -> None:
    case = Case(window=2)
    seat = case.sit(1)
    assert case.conflicts(b"a", b"b", b"c", b"d") == [1, 1, None, None]
    assert not case.table.is_waiting
    case.decided(b"b")
    assert case.table.is_waiting
    assert case.spread() == {b"c": 1}
    case.decided(b"a", b"c")
    assert case.spread() == {b"d": 1}
    assert seat.load == 1


def test_the_conflicts_of_a_key_are_sent_in_order_and_stay_with_one() -> None:
    case = Case(window=2)
    case.sit(1)
    chain = [case.add(b"a") for _ in range(4)]
    assert case.sent() == chain[:2]
    case.sit(2)
    assert case.conflicts(b"b") == [2]
    # It has room, and yet these are not its own.
    assert case.sent() == []
    case.decide(chain[1])
    assert case.sent() == chain[2:3]
    case.decide(chain[0])
    assert case.sent() == chain[3:]
    assert case.holder(b"a") == 1


def test_another_with_room_takes_what_waits() -> None:
    case = Case(window=1)
    case.sit(1)
    chain = [case.add(b"a") for _ in range(2)]
    assert case.conflicts(b"b", b"c") == [None, None]
    case.sit(2)
    assert case.spread() == {b"b": 2}
    case.decided(b"b")
    assert case.spread() == {b"c": 2}
    # Nothing of the first is under way any more: whoever has room has it.
    case.decide(chain[0])
    case.add(b"d")
    assert case.sent() == [chain[1]]
    case.decided(b"c")
    assert case.spread() == {b"d": 2}


def test_what_one_has_too_many_of_does_not_hold_up_other_keys() -> None:
    case = Case(window=2)
    case.sit(1)
    chain = [case.add(b"a") for _ in range(5)]
    case.conflicts(b"b", b"c")
    case.decide(chain[0])
    assert case.sent() == [chain[2]]
    case.decide(chain[1])
    case.decide(chain[2])
    # Each in its turn.
    assert case.sent() == [b"b-6", b"c-7"]


def test_bytes_count_too_and_a_long_one_is_not_overtaken() -> None:
    case = Case()
    case.table.window_bytes = 10
    case.sit(1)
    first, long = case.add(b"a", 3), case.add(b"b", 30)
    case.add(b"c")
    assert case.sent() == [first]
    case.add(b"d")
    assert case.sent() == []
    case.decide(first)
    # One is sent whatever its length.
    assert case.sent() == [long]
    case.decide(long)
    assert case.sent() == [b"c-3", b"d-4"]


def test_the_time_of_a_conflict_counts_from_when_it_was_sent() -> None:
    case = Case(window=1)
    case.sit(1, begins=b"")
    case.conflicts(b"a", b"b")
    case.clock.advance(TIMEOUT - 1)
    case.decided(b"a")
    case.spread()
    case.sit(2)
    assert case.moved(TIMEOUT - 1) == []
    assert case.moved(1) == [(b"b", 1, 2)]


def test_what_nobody_decides_stands_in_nobodys_way() -> None:
    case = Case(window=1)
    case.sit(1)
    case.sit(2)
    assert case.conflicts(b"a", b"b", b"c", b"d", b"e", b"f") == [1, 2, *[None] * 4]
    given = {b"a", b"b"}
    for _ in range(12):
        case.clock.advance(TIMEOUT)
        case.table.overdue(100)
        given |= case.spread().keys()
    assert given == {b"a", b"b", b"c", b"d", b"e", b"f"}


def test_with_one_alone_all_is_sent_in_the_end_and_nothing_twice() -> None:
    case = Case(window=2)
    case.sit(1)
    keys = [b"%d" % number for number in range(6)]
    for key in keys:
        case.add(key)
    given: list[bytes] = []
    for _ in range(9):
        given += case.spread()
        case.clock.advance(TIMEOUT)
        case.table.overdue(100)
    assert given == keys


def test_more_of_a_key_that_rests_is_sent_only_as_some_of_it_is_decided() -> None:
    case = Case(window=2)
    case.sit(1)
    case.sit(2)
    chain = [case.add(b"a") for _ in range(4)]
    case.spread()
    assert case.moved(TIMEOUT) == [(b"a", 1, 2)]
    case.clock.advance(TIMEOUT)
    (late,) = case.table.overdue(100)
    assert (late.moved, late.rounds, case.table.resting(DATABASE)) == (False, 1, 1)
    assert case.sent() == []
    case.decide(chain[1])
    assert case.sent() == chain[2:]
    assert case.table.resting(DATABASE) == 0


def test_one_alone_is_sent_more_of_a_key_that_rests_a_window_at_a_time() -> None:
    case = Case(window=2)
    case.sit(1)
    chain = [case.add(b"a") for _ in range(5)]
    sent = []
    for _ in range(5):
        sent.append(case.sent())
        case.clock.advance(TIMEOUT)
        case.table.overdue(100)
    assert sent == [chain[:2], chain[2:4], chain[4:], [], []]
    assert case.conflicts(b"a", b"b", b"c") == [1, 1, None]
    assert case.moved(TIMEOUT) == []
    assert case.holder(b"c") == 1


def test_each_round_without_a_decision_makes_the_pause_longer(case: Case) -> None:
    case.sit(1)
    case.sit(2)
    case.conflicts(b"a")
    gone, rests = 0.0, []
    while len(rests) < 7:
        case.clock.advance(1.0)
        gone += 1.0
        for late in case.table.overdue(100):
            if not late.moved:
                rests.append(gone)
        case.spread()
    # After each pause the other one has its time.
    pauses = [(after - before) / TIMEOUT - 1 for before, after in pairwise(rests)]
    assert pauses == [2, 4, 8, 16, 16, 16]
    assert 2**DOUBLINGS == 16
    # Somebody new has it at once.
    case.sit(3)
    assert [to for _, _, to in case.moved(0)] == [3]
    # A decision is as good as a beginning.
    case.decided(b"a")
    case.conflicts(b"a")
    assert len(case.moved(TIMEOUT)) == 1


def test_what_waits_does_not_go_to_one_that_is_late_while_another_works() -> None:
    case = Case(window=1)
    case.sit(1)
    case.conflicts(b"a")
    case.sit(2)
    assert case.moved(TIMEOUT) == [(b"a", 1, 2)]
    # The first is tried with one, after a while.
    assert case.conflicts(b"b", b"c") == [None, None]
    case.clock.advance(TIMEOUT - 1)
    case.decided(b"a")
    assert case.spread() == {b"b": 2}
    case.clock.advance(1)
    case.table.overdue(100)
    assert case.spread() == {b"c": 1}


# -- any steps ----------------------------------------------------------------------------------

KEYS: Final = (b"a1", b"a2", b"b1", b"b2", b"c")
Step = tuple[str, Any]
KEY = st.sampled_from(KEYS)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("sit"), st.sampled_from([b"", b"", b"a", b"b"])),
        st.tuples(st.just("leave"), st.integers(0, 9)),
        *[st.tuples(st.just("conflict"), st.tuples(KEY, st.integers(1, 9)))] * 3,
        *[st.tuples(st.just("decide"), st.tuples(st.integers(0, 9), st.integers(0, 9)))] * 2,
        st.tuples(st.just("reopen"), st.none()),
        st.tuples(st.just("pass"), st.sampled_from([1, 15, 30, 30, 500])),
        st.tuples(st.just("right"), st.tuples(st.integers(0, 9), st.sampled_from([b"", b"a"]))),
    ),
    max_size=40,
)


def begins_so(begins: dict[int, bytes], number: int, key: bytes) -> bool:
    return key.startswith(begins[number])


@dataclass
class Play:
    """Steps, and what must hold after each."""

    case: Case
    seats: list[Seat] = field(default_factory=list)
    begins: dict[int, bytes] = field(default_factory=dict)
    # Which conflicts each was sent and has, in order.
    has: dict[Seat, list[bytes]] = field(default_factory=dict)
    last: bytes | None = None

    def sit(self, begins: bytes) -> None:
        number = len(self.begins) + 1
        self.begins[number] = begins
        seat = Seat(1, number, DATABASE, partial(begins_so, self.begins, number), str(number))
        self.case.table.join(seat)
        self.seats.append(seat)
        self.has[seat] = []
        if number % 2:
            self.take(self.case.table.give_all(seat))

    def leave(self, which: int) -> None:
        if self.seats:
            seat = self.seats.pop(which % len(self.seats))
            self.case.table.leave(seat)
            del self.has[seat]

    def conflict(self, what: tuple[bytes, int]) -> None:
        self.case.add(*what)

    def decide(self, what: tuple[int, int]) -> None:
        """One that somebody was sent; or one that nobody was."""
        held = [one for conflicts in self.has.values() for one in conflicts]
        held = held or [one for conflicts in self.case.pending.values() for one in conflicts]
        if held:
            self.last = held[(what[0] * 10 + what[1]) % len(held)]
            for conflicts in self.has.values():
                if self.last in conflicts:
                    conflicts.remove(self.last)
            self.case.decide(self.last)

    def reopen(self, _: None) -> None:
        """The last decision is taken back."""
        if self.last is not None:
            key = self.last.partition(b"-")[0]
            pending = self.case.pending.setdefault(key, [])
            pending.append(self.last)
            self.case.table.note((DATABASE, key), self.last, True)
            pending.sort(key=lambda one: int(one.partition(b"-")[2]))
            self.last = None

    def right(self, what: tuple[int, bytes]) -> None:
        if self.seats:
            self.begins[self.seats[what[0] % len(self.seats)].number] = what[1]
            self.taken(self.case.table.review(DATABASE))

    def taken(self, places: Sequence[tuple[Place, Seat]]) -> None:
        for (_, key), seat in places:
            self.has[seat] = [c for c in self.has[seat] if c.partition(b"-")[0] != key]

    def take(self, given: Sequence[Given]) -> None:
        for (_, key), conflict, seat in given:
            assert conflict in self.case.pending[key], "it was decided"
            owners = [one for one, conflicts in self.has.items() if conflict in conflicts]
            assert not owners, "two have it at once"
            self.has[seat].append(conflict)

    def after(self, seconds: float) -> None:
        """Time passes; and the table is looked at."""
        self.case.clock.advance(seconds)
        late = self.case.table.overdue(100)
        self.taken([(one.place, one.seat) for one in late if one.moved])
        rounds = 0
        while self.case.table.is_waiting:
            self.take(self.case.table.spread(2))
            rounds += 1
            assert rounds < 200, "it never ends"
        self.look()

    def look(self) -> None:
        table, case = self.case.table, self.case
        cases = table._cases.get(DATABASE, {})
        assert cases.keys() == case.pending.keys()
        for seat in self.seats:
            counted = [cases[key].counted for key in seat.keys]
            assert seat.load == sum(map(len, counted))
            assert seat.size == sum(sum(sizes.values()) for sizes in counted)
            assert all(cases[key].counted.keys() <= cases[key].sent.keys() for key in seat.keys)
            assert not any(cases[key].counted for key in seat.keys if cases[key].resting)
        for key, pending in case.pending.items():
            one, holder = cases[key], table.holder((DATABASE, key))
            able = [seat for seat in self.seats if seat.may(key)]
            sent = [] if holder is None else [c for c in self.has[holder] if c in pending]
            assert sorted(sent) == sorted(one.sent), "what was sent is not what is thought"
            assert sum(c in pending for has in self.has.values() for c in has) == len(sent)
            if holder is not None:
                assert holder in able
                assert sent
            if len(sent) < len(pending) and not (one.resting and one.timed is not None):
                # Somebody will be woken for it: nobody who might have it has room.
                size = table._next(one)
                for seat in able if holder is None else [holder]:
                    group = one.group or frozenset()
                    assert one.group is not None
                    first = table._waiting.first(seat)
                    blocked = first is not None and not table._has_room(seat, table._next(first))
                    full = not table._has_room(seat, size)
                    late = seat.late is not None or seat.which in one.tried
                    assert full or blocked or (seat not in group and late), f"{key!r} waits"

    def end(self) -> None:
        """Whoever comes last decides all, and all is sent."""
        for _ in range(len(self.seats)):
            self.leave(0)
        self.after(0)
        self.sit(b"")
        for _ in range(1000):
            self.after(0)
            (seat,) = self.seats
            if not self.has[seat]:
                break
            assert seat.load <= max(1, self.case.table.window)
            self.decide((0, 0))
        assert not self.case.pending, "a conflict is lost"
        assert list(self.case.table) == []


def play(window: int, steps: list[Step]) -> None:
    case = Case(window)
    case.table.window_bytes = 12
    one = Play(case)
    for what, detail in steps:
        if what == "pass":
            one.after(detail)
        else:
            getattr(one, what)(detail)
            one.after(0)
        for seat in one.seats:
            assert what == "reopen" or seat.load <= window or seat.load == 1
    one.end()


@settings(max_examples=300)
@given(st.sampled_from([1, 2, 3, 100]), STEPS)
def test_after_any_steps_each_conflict_is_with_one_or_waits_for_room(
    window: int, steps: list[Step]
) -> None:
    play(window, steps)


def lose_what_waits(patch: pytest.MonkeyPatch) -> None:
    """What waits for one that leaves goes with it."""
    patch.setattr(Waiting, "take", lambda self, database, concerned: [])


def wake_nobody(patch: pytest.MonkeyPatch) -> None:
    """Whoever has room again is not thought of."""
    patch.setattr(Table, "_freed", lambda self, seat: None)


def send_more_than_fits(patch: pytest.MonkeyPatch) -> None:
    """The window is not looked at."""
    patch.setattr(Table, "_has_room", lambda self, seat, size: True)


def give_to_two(patch: pytest.MonkeyPatch) -> None:
    """What is taken from one that does not decide is not taken from it."""
    usual = Table.overdue

    def overdue(self: Table, most: int) -> list[Any]:
        return [one._replace(moved=False) for one in usual(self, most)]

    patch.setattr(Table, "overdue", overdue)


def count_for_ever(patch: pytest.MonkeyPatch) -> None:
    """What was sent counts also when it is decided, or with another."""
    patch.setattr(Conflicts, "count_no_more", lambda self, conflicts: None)


FAULTS: Final = (lose_what_waits, wake_nobody, send_more_than_fits, give_to_two, count_for_ever)


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.__name__ for fault in FAULTS])
def test_a_fault_in_the_table_is_found(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)

    @settings(max_examples=400, phases=[Phase.generate], database=None, derandomize=True)
    @given(st.sampled_from([1, 2, 3]), STEPS)
    def found(window: int, steps: list[Step]) -> None:
        play(window, steps)

    with pytest.raises(AssertionError):
        found()
