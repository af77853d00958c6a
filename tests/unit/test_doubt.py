"""Whether a node's log has all that it has acknowledged, without a set around it; with one, see
``test_shortened_logs.py``."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import cast

import pytest

from nuntwist.cluster.doubt import Doubt
from nuntwist.cluster.identity import Identity
from nuntwist.cluster.member import Member
from nuntwist.files import MemoryFiles
from nuntwist.values import Epoch, Position


class Node:
    """As much of a member as doubt needs; its log ends at 10, and it follows in epoch 4."""

    me = 1

    def __init__(self) -> None:
        self.identity = Identity(MemoryFiles(), random.Random(1))
        self.machine = SimpleNamespace(members=b"{}", durable=10)
        self.oplog = SimpleNamespace(last=Position(Epoch(4, 2), 10))
        self.election = SimpleNamespace(number=4, doubtful=set())
        self.copier: object | None = None
        self.carried_out = 0
        self.doubt = Doubt(cast(Member, self))

    def note(self, **changes: int | bool) -> None:
        """As the member does."""
        self.identity.note(**changes)

    def carry_out(self) -> None:
        """Counted."""
        self.carried_out += 1

    @property
    def is_doubtful(self) -> bool:
        """As it is kept."""
        return self.identity.standing.doubtful


@pytest.mark.parametrize(
    ("formed", "reached", "members", "doubtful"),
    [
        (7, 10, b"{}", False),
        (7, 11, b"{}", True),
        # The log is empty.
        (7, 0, None, True),
        # It was never in a set of more than one.
        (0, 11, b"{}", False),
    ],
)
def test_a_log_that_is_shorter_than_it_was_is_doubted(
    formed: int, reached: int, members: bytes | None, doubtful: bool
) -> None:
    node = Node()
    node.machine.members = members
    node.note(formed=formed, reached=reached)
    node.doubt.look_at_log()
    assert node.is_doubtful is doubtful
    # What is missing now is not missed once more.
    assert node.identity.standing.reached == (10 if doubtful else reached)


def test_what_is_cut_off_is_not_missed() -> None:
    node = Node()
    node.note(reached=12)
    node.doubt.note_cut()
    assert node.identity.standing.reached == 10
    node.machine.durable = 9
    node.doubt.note_cut()
    assert node.identity.standing.reached == 10
    node.doubt.note_reached()
    assert node.identity.standing.reached == 9


def test_it_is_whole_when_its_primary_says_so() -> None:
    node = Node()
    node.doubt.begin()
    assert node.is_doubtful
    assert node.election.doubtful == {1}
    node.doubt.told_whole(3)
    assert node.is_doubtful
    node.doubt.told_whole(4)
    assert not node.is_doubtful
    assert node.election.doubtful == set()
    assert node.carried_out == 1


def test_it_is_whole_only_when_all_is_kept_too() -> None:
    node = Node()
    node.copier = copier = SimpleNamespace(is_kept=False)
    node.doubt.begin()
    node.doubt.told_whole(4)
    assert node.is_doubtful
    copier.is_kept = True
    node.doubt.kept()
    assert not node.is_doubtful


def test_what_was_told_before_it_doubts_or_in_an_earlier_epoch_does_not_count() -> None:
    node = Node()
    node.doubt.told_whole(4)
    node.doubt.begin()
    node.doubt.kept()
    assert node.is_doubtful
    node.copier = SimpleNamespace(is_kept=False)
    node.doubt.told_whole(4)
    node.election.number = 5
    node.copier = None
    node.doubt.kept()
    assert node.is_doubtful


def test_who_is_elected_by_all_has_all() -> None:
    node = Node()
    node.doubt.begin()
    node.doubt.elected()
    assert not node.is_doubtful
    assert node.election.doubtful == set()
