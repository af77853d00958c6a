"""Lines of the log that anybody can cause."""

from __future__ import annotations

from twisted.internet.task import Clock

from nuntwist.net.log_limits import (
    MOST_REASONS,
    MOST_TOLD,
    OTHER_REASONS,
    TELL_SECONDS,
    LogLimit,
    Tallies,
    Tally,
)


def test_each_reason_has_a_tally_and_there_are_not_many() -> None:
    clock, told = Clock(), []
    tallies = Tallies(clock.seconds, lambda count, last, why: told.append((count, last, why)))
    for number in range(MOST_REASONS + 5):
        for who in ("a", "b"):
            tallies.note(who, f"reason {number}")
    assert told[:2] == [(1, "a", "reason 0"), (1, "a", "reason 1")]
    assert told[MOST_REASONS:] == [(1, "a", OTHER_REASONS)]
    clock.advance(TELL_SECONDS)
    tallies.note("c", "reason 0")
    tallies.note("c", "another one")
    assert told[-2:] == [(2, "c", "reason 0"), (10, "c", OTHER_REASONS)]


def test_a_tally_tells_once_a_minute() -> None:
    clock, told = Clock(), list[tuple[int, str]]()
    tally = Tally(clock.seconds, lambda count, last: told.append((count, last)))
    for name in "abc":
        tally.note(name)
    assert told == [(1, "a")]
    clock.advance(TELL_SECONDS)
    tally.note("d")
    assert told == [(1, "a"), (3, "d")]


def test_the_limit_of_lines_has_a_clock_of_its_own() -> None:
    clock = Clock()
    limit = LogLimit(clock.seconds)
    assert [limit.pass_on(), limit.pass_on(), limit.pass_on()] == ["", None, None]
    clock.advance(0.9)
    assert limit.pass_on() is None
    clock.advance(0.2)
    assert limit.pass_on() == " (3 more since the last such line)"
    clock.advance(5.0)
    assert limit.pass_on() == ""


def test_the_log_tells_the_same_once_a_minute_and_forgets_in_the_end() -> None:
    clock = Clock()
    limit = LogLimit(clock.seconds)
    told = []
    for _ in range(120):
        told.append(limit.pass_on(("host", "why")))
        clock.advance(1.0)
    assert [line for line in told if line is not None] == [
        "",
        " (59 more since the last such line)",
    ]
    assert limit.pass_on(("other", "why")) == " (59 more since the last such line)"
    for number in range(1000):
        clock.advance(1.0)
        assert limit.pass_on(number) is not None
    assert len(limit._told) <= MOST_TOLD
