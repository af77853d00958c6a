"""Snapshots come by themselves: by time, by bytes, and again after a failure."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from nuntwist.core.schedule import LOOK_SECONDS, RETRY_SECONDS, Schedule
from nuntwist.errors import CommandError


class Rounds:
    """Stands for the snapshots: each round ends when it is told to."""

    def __init__(self) -> None:
        self.begun: list[Deferred[None]] = []
        self.due = False

    def take_changed(self) -> Deferred[None]:
        self.due = False
        self.begun.append(Deferred())
        return self.begun[-1]

    def are_due(self) -> bool:
        return self.due


@pytest.fixture
def rounds() -> Rounds:
    return Rounds()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def schedule(rounds: Rounds, clock: Clock) -> Schedule:
    return Schedule(rounds, clock, 300.0)  # type: ignore[arg-type]


def advance(clock: Clock, seconds: float) -> None:
    """Let time pass, a look at a time."""
    clock.pump([LOOK_SECONDS] * round(seconds / LOOK_SECONDS))


def test_a_round_comes_every_so_often(rounds: Rounds, clock: Clock, schedule: Schedule) -> None:
    schedule.start()
    advance(clock, 299)
    assert len(rounds.begun) == 0
    advance(clock, 2)
    assert len(rounds.begun) == 1
    advance(clock, 600)
    assert len(rounds.begun) == 1, "one at a time"
    rounds.begun[0].callback(None)
    advance(clock, 299)
    assert len(rounds.begun) == 1
    advance(clock, 2)
    assert len(rounds.begun) == 2


def test_a_round_comes_when_much_was_logged(
    rounds: Rounds, clock: Clock, schedule: Schedule
) -> None:
    schedule.start()
    advance(clock, 10)
    rounds.due = True
    advance(clock, 0.4)
    assert len(rounds.begun) == 1


def test_after_a_start_from_elsewhere_the_first_comes_at_once(
    rounds: Rounds, clock: Clock, schedule: Schedule
) -> None:
    schedule.start(at_once=True)
    assert len(rounds.begun) == 1


def test_one_that_failed_is_tried_again_later_and_later(
    rounds: Rounds, clock: Clock, schedule: Schedule
) -> None:
    schedule.start(at_once=True)
    waits = []
    for number in range(9):
        rounds.begun[-1].errback(CommandError(b"storage unavailable: no route"))
        rounds.due = True
        before = clock.seconds()
        while len(rounds.begun) == number + 1:
            advance(clock, LOOK_SECONDS)
        waits.append(clock.seconds() - before)
    expected = [min(300.0, RETRY_SECONDS * 2**number) for number in range(9)]
    assert waits == pytest.approx(expected, abs=2 * LOOK_SECONDS)
    rounds.begun[-1].callback(None)
    assert schedule.failures == 0
    advance(clock, 299)
    assert len(rounds.begun) == 10


def test_a_stop_waits_for_the_round_under_way(
    rounds: Rounds, clock: Clock, schedule: Schedule
) -> None:
    schedule.start(at_once=True)
    stopped: list[None] = []
    schedule.stop().addCallback(stopped.append)
    assert stopped == []
    rounds.begun[0].callback(None)
    assert stopped == [None]
    advance(clock, 1_000)
    assert len(rounds.begun) == 1
    assert clock.getDelayedCalls() == []
    schedule.stop().addCallback(stopped.append)
    assert stopped == [None, None]
