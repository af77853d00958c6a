"""What wins a round of an election, and to whom a winner gives way."""

from __future__ import annotations

import pytest

from nuntwist.cluster.positions import Positions
from nuntwist.cluster.tally import Tally
from nuntwist.values import Epoch, Position


def tally(agree: str, refuse: str) -> Tally:
    """Of node 1, with the answers of others."""
    told = Tally(1)
    for node in map(int, agree):
        told.agrees(node)
    for node in map(int, refuse):
        told.refuses(node)
    return told


@pytest.mark.parametrize(
    ("members", "agree", "refuse", "doubtful", "won", "lost"),
    [
        ("1", "", "", "", True, False),
        ("12", "", "", "", False, False),
        ("12", "2", "", "", True, False),
        ("12", "", "2", "", False, True),
        ("123", "2", "", "", True, False),
        ("123", "", "2", "", False, False),
        ("123", "", "23", "", False, True),
        # A log that may have lost its end counts only where all are for it.
        ("123", "2", "", "2", False, False),
        ("123", "2", "", "1", False, False),
        ("123", "23", "", "12", True, False),
        ("12345", "23", "45", "", True, False),
        ("12345", "23", "4", "3", False, False),
        # The same one twice is one.
        ("12345", "22", "33", "", False, False),
    ],
)
def test_a_majority_of_whole_logs_or_all(
    members: str, agree: str, refuse: str, doubtful: str, won: bool, lost: bool
) -> None:
    told, all_of_them = tally(agree, refuse), set(map(int, members))
    majority = len(members) // 2 + 1
    assert told.is_won(all_of_them, majority, set(map(int, doubtful))) is won
    assert told.is_lost(all_of_them, majority) is lost
    assert told.is_opposed is bool(refuse)


MINE = Position(Epoch(2, 1), 10)
LONGER = Position(Epoch(2, 1), 11)


def test_a_winner_gives_way_to_a_longer_log_once() -> None:
    positions = Positions()
    positions.begin()
    assert not positions.hear(2, MINE, MINE)
    assert not positions.hear(2, Position(Epoch(1, 1), 99), MINE)
    assert positions.hear(3, LONGER, MINE)
    positions.begin()
    assert not positions.hear(3, LONGER, MINE)
    # Another node, or more, is another matter.
    assert positions.hear(2, LONGER, MINE)
    assert positions.hear(3, Position(Epoch(2, 1), 12), MINE)


def test_it_waits_for_those_it_reaches_anew_each_time() -> None:
    positions = Positions()
    positions.begin()
    assert positions.has(())
    positions.hear(2, MINE, MINE)
    assert positions.has((2,))
    assert not positions.has((2, 3))
    positions.begin()
    assert not positions.has((2,))
