"""The members of a set change one at a time, without a set around it; with one, see
``test_member.py``."""

from __future__ import annotations

import pytest
from twisted.python.failure import Failure

from nuntwist.cluster.changing import Changing
from nuntwist.cluster.commits import Commits
from nuntwist.cluster.membership import MOST_MEMBERS, Membership, decode_members
from nuntwist.errors import CommandError, StorageUnavailable

BEGINS = 5


class Epoch:
    """The epoch of node 1, in a set of three that all follow."""

    def __init__(self, members: int = 3) -> None:
        self.last = BEGINS
        self.full = False
        self.caught_up: set[int] = set()
        self.following = {2, 3}
        self.logged: list[list[int]] = []
        self.answers: list[object] = []
        self.told = 0
        known = {node: f"node-{node}" for node in range(1, members + 1)}
        self.commits = Commits(1, (1,), BEGINS)
        self.changing = Changing(
            Membership(7, known),
            BEGINS,
            self.commits,
            self.caught_up.__contains__,
            self.following.__contains__,
            self.configure,
            self.changed,
        )

    def configure(self, members: bytes) -> int:
        """Log it."""
        if self.full:
            raise StorageUnavailable("no space")
        self.last += 1
        self.logged.append(sorted(decode_members(members).members))
        self.encoded = members
        return self.last

    def changed(self) -> None:
        """Counted."""
        self.told += 1

    def commit(self) -> None:
        """A majority has all."""
        self.commits.note(1, self.last)
        self.changing.next()

    def look(self) -> None:
        """The members are looked at, as the log has them."""
        self.changing.reconfigured(decode_members(self.encoded))
        self.changing.next()

    def leave(self, node: int) -> None:
        """Ask for it; the answer is noted."""
        self.changing.leave(node).addBoth(self.answers.append)

    def refusal(self) -> str:
        """The one answer, which is a failure."""
        [answer] = self.answers
        assert isinstance(answer, Failure)
        assert isinstance(answer.value, CommandError)
        return str(answer.value)


def test_who_has_all_becomes_a_member_once_an_operation_of_the_epoch_is_committed() -> None:
    epoch = Epoch()
    epoch.changing.learn(4, "node-4")
    epoch.caught_up.add(4)
    epoch.changing.next()
    assert epoch.logged == []
    assert not epoch.changing.is_settled
    epoch.commit()
    assert epoch.logged == [[1, 2, 3, 4]]
    assert epoch.told == 1
    epoch.look()
    assert epoch.changing.learners == {}


def test_who_has_not_all_goes_on_learning_and_has_to_ask_anew_after_a_lost_connection() -> None:
    epoch = Epoch()
    epoch.commit()
    epoch.changing.learn(4, "node-4")
    assert epoch.logged == []
    epoch.changing.unlinked(4)
    epoch.caught_up.add(4)
    epoch.changing.next()
    assert epoch.logged == []


def test_the_next_change_waits_until_the_last_one_is_committed_and_looked_at() -> None:
    epoch = Epoch()
    epoch.commit()
    epoch.leave(3)
    epoch.leave(2)
    assert epoch.logged == [[1, 2]]
    epoch.look()
    # It is not committed yet.
    assert epoch.logged == [[1, 2]]
    assert epoch.answers == []
    epoch.commit()
    assert epoch.answers == [None]
    assert epoch.logged == [[1, 2], [1]]
    epoch.commit()
    # It was not looked at yet: another would be made from the members before it.
    assert epoch.answers == [None]
    epoch.look()
    assert epoch.answers == [None, None]


def test_those_who_leave_go_before_those_who_learn() -> None:
    epoch = Epoch()
    epoch.caught_up.add(4)
    epoch.changing.learn(4, "node-4")
    epoch.leave(3)
    epoch.commit()
    epoch.look()
    epoch.commit()
    assert epoch.logged == [[1, 2], [1, 2, 4]]


def test_who_takes_the_address_of_a_member_that_is_gone_takes_its_place() -> None:
    epoch = Epoch()
    epoch.commit()
    epoch.caught_up.add(4)
    epoch.changing.learn(4, "node-3")
    # That one is still there.
    assert epoch.logged == []
    epoch.following.discard(3)
    epoch.changing.next()
    epoch.look()
    epoch.commit()
    assert epoch.logged == [[1, 2], [1, 2, 4]]


def test_a_full_set_takes_nobody() -> None:
    epoch = Epoch(MOST_MEMBERS)
    epoch.commit()
    epoch.caught_up.add(99)
    epoch.changing.learn(99, "node-99")
    assert epoch.logged == []


def test_who_is_no_member_has_left() -> None:
    epoch = Epoch()
    epoch.commit()
    epoch.leave(9)
    assert epoch.answers == [None]
    assert epoch.logged == []


def test_a_node_leaves_once() -> None:
    epoch = Epoch()
    epoch.changing.leave(3).addErrback(lambda reason: None)
    epoch.leave(3)
    assert "leaving already" in epoch.refusal()


def test_what_cannot_be_logged_is_refused_and_the_next_can_be() -> None:
    epoch = Epoch()
    epoch.commit()
    epoch.full = True
    epoch.leave(3)
    assert "no space" in epoch.refusal()
    assert epoch.told == 0
    assert epoch.changing.is_settled
    epoch.full = False
    epoch.leave(3)
    assert epoch.logged == [[1, 2]]


@pytest.mark.parametrize("logged", [False, True])
def test_at_the_end_of_the_epoch_nobody_knows(logged: bool) -> None:
    epoch = Epoch()
    if logged:
        epoch.commit()
    epoch.leave(3)
    assert epoch.logged == ([[1, 2]] if logged else [])
    epoch.changing.end()
    assert "outcome unknown" in epoch.refusal()
