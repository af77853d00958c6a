"""What the log tells of a node that cannot be reached."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.internet.error import ConnectionRefusedError, DNSLookupError
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from nuntwist.cluster.handshake import NOT_THE_SAME_SECRET, SAME_SECRET
from nuntwist.net.out_of_reach import MOST_TOLD, OutOfReach, reason_and_help, remedy_for


@pytest.fixture
def lines() -> Iterator[list[str]]:
    found: list[str] = []

    def observe(event: LogEvent) -> None:
        found.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


def test_each_reason_is_told_once_until_the_node_is_reached(lines: list[str]) -> None:
    words = OutOfReach("tls:a:1:certificate=/secret/place")
    words.reached()
    for _ in range(2):
        words.tell("nobody is there.", "is it started?")
        words.tell("it is asleep", "")
    beginning = "the node at tls:a:1 cannot be reached, and is tried again and again: "
    assert lines == [
        beginning + "nobody is there: is it started?",
        beginning + "it is asleep",
    ]
    words.reached()
    words.reached()
    words.tell("it is asleep", "")
    assert lines[2:] == ["the node at tls:a:1 is reached again", beginning + "it is asleep"]


def test_reasons_that_are_always_others_are_not_told_for_ever(lines: list[str]) -> None:
    words = OutOfReach("a:1")
    for number in range(3 * MOST_TOLD):
        words.tell(f"reason {number}", "")
    assert len(lines) == MOST_TOLD


@pytest.mark.parametrize(
    ("told", "remedy"),
    [
        (f"it says: {NOT_THE_SAME_SECRET}", SAME_SECRET),
        ("only version 9 is spoken here", "run versions of nuntwist that go together"),
        ("something that nobody knows", ""),
        ("", ""),
    ],
)
def test_a_refusal_says_what_helps(told: str, remedy: str) -> None:
    assert remedy_for(told) == remedy


def test_a_connection_that_was_not_made_says_where_to_look() -> None:
    why, look = reason_and_help(Failure(ConnectionRefusedError()))
    assert (why, look) == (
        "the connection was refused",
        "is the node started, and does it listen there?",
    )
    assert reason_and_help(Failure(DNSLookupError()))[1] == "is the name right?"
    assert reason_and_help(Failure(OSError("of some kind")))[1] == ""
