"""What must come of conflicts, as the log of a run tells it; each wrong log is found."""

from __future__ import annotations

import pytest

from nuntwist.core.database import CONFLICT_PREFIX, RESOLVED
from nuntwist.simulation.decisions import Decisions
from nuntwist.simulation.promises import Violation
from nuntwist.values import IN_RESOLUTION, REMOVE, SET, Op

GIVEN = {b"mine!": b"3", b"ours!": b"4"}
"""What arbiters have answered, and to which conflict."""
FIRST, SECOND = CONFLICT_PREFIX + b"k_3", CONFLICT_PREFIX + b"k_4"


def write(value: bytes | None, version: int) -> Op:
    return (value, version, 0, 0, REMOVE if value is None else SET, 9, b"k")


def conflict(name: bytes, old: bytes) -> Op:
    return (b"resolve 3 d 1 k " + old + b" new!", 0, 0, 0, SET, 9, name)


def decision(name: bytes, value: bytes) -> Op:
    return (RESOLVED + value, 1, 0, 0, SET, 9, name)


def gone(name: bytes) -> Op:
    return (None, 1, 0, 0, REMOVE, 9, name)


HELD = [write(b"old", 1), conflict(FIRST, b"old"), write(b"old", IN_RESOLUTION)]
"""A key, and a conflict about it."""
DECIDED = [decision(FIRST, b"mine!"), write(b"mine!", 2)]


def told(*ops: Op) -> Decisions:
    decisions = Decisions(GIVEN)
    for op in ops:
        decisions.take(op)
    decisions.end()
    return decisions


def test_a_conflict_that_is_decided_is_what_is_there() -> None:
    decisions = told(*HELD, *DECIDED)
    assert decisions.conflicts == 1
    assert (decisions.keys[b"k"].value, decisions.keys[b"k"].version) == (b"mine!", 2)


def test_a_second_conflict_comes_behind_the_first_one() -> None:
    decisions = told(
        *(*HELD, conflict(SECOND, FIRST), decision(FIRST, b"mine!")),
        *(write(b"mine!", IN_RESOLUTION), decision(SECOND, b"ours!"), write(b"ours!", 3)),
    )
    assert decisions.conflicts == 2
    assert decisions.keys[b"k"].value == b"ours!"


def test_what_was_decided_may_be_forgotten() -> None:
    assert told(*HELD, *DECIDED, gone(FIRST)).conflicts == 1


@pytest.mark.parametrize(
    ("ops", "why"),
    [
        (HELD, "is in conflict in the end"),
        ([*HELD, gone(FIRST)], "was removed, and was not decided"),
        ([*HELD, *DECIDED, decision(FIRST, b"mine!")], "was decided, and was not open"),
        ([*HELD, decision(FIRST, b"ours!")], "which nobody answered"),
        ([*HELD, conflict(SECOND, b"old")], "comes after b'old'"),
        ([*HELD, write(b"x", 2)], "while"),
        ([write(b"x", IN_RESOLUTION)], "while"),
        ([*HELD, decision(FIRST, b"mine!"), write(b"x", 2)], "where b'mine!' was decided"),
        ([*HELD, decision(FIRST, b"mine!"), write(b"mine!", 1)], "the place of a later one"),
        ([write(b"x", 2), write(b"y", 2)], "the place of a later one"),
    ],
)
def test_what_must_not_come_of_it_is_found(ops: list[Op], why: str) -> None:
    with pytest.raises(Violation, match=why):
        told(*ops)
