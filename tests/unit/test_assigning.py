"""The table that says which arbiter decides which key."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from nuntwist.core.assigning import Move, Place, Seat, Table

DATABASE = 7
TIMEOUT = 30.0


class Case:
    """A table, and what was given to whom."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.table = Table(self.clock.seconds, TIMEOUT)

    def sit(
        self, number: int, node: int = 1, begins: bytes = b"", database: int = DATABASE
    ) -> Seat:
        """One more, who may decide the keys that begin so."""
        seat = Seat(node, number, database, lambda key: key.startswith(begins), str(number))
        self.table.join(seat)
        return seat

    def conflicts(self, *keys: bytes) -> list[int | None]:
        """Keys come into conflict: the numbers of those who have them."""
        given = []
        for key in keys:
            self.table.note((DATABASE, key), b"first")
            seat = self.table.assign((DATABASE, key))
            given.append(None if seat is None else seat.number)
        return given

    def decided(self, *keys: bytes) -> None:
        for key in keys:
            self.table.note((DATABASE, key), None)

    def moved(self, after: float) -> list[tuple[bytes, int, int]]:
        """Time passes: the keys that go from one to another then."""
        self.clock.advance(after)
        moves: list[Move] = self.table.overdue(100)
        return [(place[1], before.number, to.number) for place, before, to in moves]

    def holder(self, key: bytes) -> int | None:
        seat = self.table.holder((DATABASE, key))
        return None if seat is None else seat.number

    def spread(self, most: int = 100) -> dict[bytes, int]:
        return {place[1]: seat.number for place, seat in self.table.spread(most)}


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
    assert case.conflicts(b"a") == [1]
    # It has it already: nobody is given it.
    assert case.conflicts(b"a", b"a") == [None, None]
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
    # All were tried: it goes round.
    assert case.moved(TIMEOUT - 1) == []
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
    case.conflicts(b"a", b"b")
    case.sit(2)
    case.clock.advance(TIMEOUT - 1)
    case.table.note((DATABASE, b"a"), b"second")
    # A later conflict of a key gives none.
    case.table.note((DATABASE, b"b"), b"first")
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
    case.table.note((DATABASE, b"ac"), b"first")
    case.moved(TIMEOUT)
    case.table.forget(DATABASE)
    assert seat.keys == {}
    assert list(case.table) == []
    case.sit(2)
    assert case.spread() == {}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("sit"), st.sampled_from([b"", b"a", b"b"])),
        st.tuples(st.just("leave"), st.integers(0, 9)),
        st.tuples(st.just("conflict"), st.sampled_from([b"a1", b"a2", b"b1", b"b2", b"c"])),
        st.tuples(st.just("decide"), st.sampled_from([b"a1", b"a2", b"b1", b"b2", b"c"])),
        st.tuples(st.just("pass"), st.sampled_from([1, 15, 30])),
        st.tuples(st.just("right"), st.tuples(st.integers(0, 9), st.sampled_from([b"", b"a"]))),
    ),
    max_size=40,
)


@given(STEPS)
def test_after_any_steps_each_key_is_held_once_or_nobody_may_have_it(
    steps: list[tuple[str, object]],
) -> None:
    case = Case()
    seats: list[Seat] = []
    begins: dict[int, bytes] = {}
    open_keys: dict[bytes, int] = {}
    for number, (what, detail) in enumerate(steps, 1):
        if what == "sit":
            assert isinstance(detail, bytes)
            begins[number] = detail
            seat = Seat(1, number, DATABASE, partial(_may, begins, number), str(number))
            case.table.join(seat)
            seats.append(seat)
        elif what == "leave" and seats:
            assert isinstance(detail, int)
            case.table.leave(seats.pop(detail % len(seats)))
        elif what == "conflict":
            assert isinstance(detail, bytes)
            open_keys.setdefault(detail, number)
            case.table.note((DATABASE, detail), b"%d" % open_keys[detail])
        elif what == "decide":
            assert isinstance(detail, bytes)
            open_keys.pop(detail, None)
            case.table.note((DATABASE, detail), None)
        elif what == "pass":
            assert isinstance(detail, int)
            case.clock.advance(detail)
            for _, before, after in case.table.overdue(100):
                assert before is not after
        elif what == "right" and seats:
            assert isinstance(detail, tuple)
            begins[seats[detail[0] % len(seats)].number] = detail[1]
            case.table.review(DATABASE)
        case.table.spread(100)
        held: dict[Place, Seat] = dict(case.table)
        assert len(held) == len(list(case.table))
        counted = Counter(seat.number for seat in held.values())
        assert counted == Counter({s.number: len(s.keys) for s in seats if s.keys})
        for key in (b"a1", b"a2", b"b1", b"b2", b"c"):
            holder = held.get((DATABASE, key))
            able = [seat for seat in seats if seat.may(key)]
            if key not in open_keys or not able:
                assert holder is None
            else:
                assert holder in able
                assert key in holder.keys


def _may(begins: dict[int, bytes], number: int, key: bytes) -> bool:
    return key.startswith(begins[number])
