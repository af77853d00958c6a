"""What one connection has begun and not ended: when its time runs, and when it counts."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from nuntwist.core.client import Client
from nuntwist.core.counters import Counters
from nuntwist.language.replies import LINES
from nuntwist.net.patience import Patience
from nuntwist.net.unended import Unended
from nuntwist.net.unfinished import SMALL, Unfinished

ALLOWED = 60.0


class One:
    """A connection.

    :ivar late: how often its time was over and it was not our turn.
    """

    def __init__(self) -> None:
        self.clock, self.late = Clock(), 0
        clock = self.clock
        self.commands = Patience(ALLOWED, clock.callLater, clock.seconds, lambda who: None)
        self.sum = Unfinished(10 * SMALL, Counters(), clock.seconds)
        self.unended = Unended(self, self.commands, self.sum)
        self.client = Client(self, LINES, "somewhere")

    def out_of_time(self) -> str | None:
        if not self.unended.waits_for_us(self.client):
            self.late += 1
        return None

    def give_up(self) -> str:
        return "somewhere"

    def wait(self, share: float) -> int:
        """Let a share of the time pass; gives how often it was late so far."""
        for _ in range(20):
            self.clock.advance(share * ALLOWED / 20)
        return self.late

    def write(self, data: bytes) -> None:
        """The outlet of the client is not used."""

    pause_reading = resume_reading = end = lambda self: None

    def abort(self, reason: str) -> None:
        """Not used either."""


@pytest.fixture
def one() -> One:
    return One()


def test_what_has_begun_has_its_time_whatever_comes_of_it(one: One) -> None:
    for size in (1, 2, 3):
        one.unended.note(True, False, size)
        assert one.wait(0.3) == 0
    assert one.wait(0.2) == 1


def test_what_begins_behind_the_end_of_another_has_a_time_of_its_own(one: One) -> None:
    for _ in range(5):
        one.unended.note(True, True, 1)
        assert one.wait(0.8) == 0
    one.unended.note(False, True, 0)
    assert not one.unended.noted
    assert one.wait(3) == 0


def test_who_is_not_read_has_all_of_its_time_afterwards(one: One) -> None:
    one.unended.note(True, False, 1)
    one.wait(0.5)
    one.unended.pause()
    assert one.unended.not_read
    assert one.wait(3) == 0
    one.unended.resume()
    assert one.wait(0.9) == 0
    assert one.wait(0.3) == 1


def test_reading_on_gives_no_time_to_what_was_read_all_along(one: One) -> None:
    one.unended.note(True, False, 1)
    one.wait(0.8)
    one.unended.resume()
    assert one.wait(0.4) == 1


def test_who_has_nothing_under_way_is_not_timed_when_it_is_read_again(one: One) -> None:
    one.unended.pause()
    one.unended.resume()
    assert one.wait(3) == 0
    assert one.clock.getDelayedCalls() == []


def test_who_waits_for_an_answer_has_its_time_behind_it(one: One) -> None:
    one.unended.note(True, False, 1)
    one.client.waiting = True
    assert one.wait(1.5) == 0
    one.client.waiting = False
    assert one.wait(1.2) == 1


def test_what_is_long_counts_until_it_is_told_that_it_is_not(one: One) -> None:
    one.unended.note(True, False, SMALL)
    assert one.sum.total == 0
    one.unended.note(True, False, 2 * SMALL)
    assert one.sum.total == 2 * SMALL
    one.unended.note(False, True, 2 * SMALL)
    assert (one.sum.total, one.unended.noted) == (2 * SMALL, True)
    one.unended.note(False, True, 0)
    assert (one.sum.total, one.unended.noted) == (0, False)
