"""What a majority has is committed, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nuntwist.cluster.commits import Commits


def test_a_majority_commits() -> None:
    commits = Commits(1, [1, 2, 3], begins=5)
    assert not commits.note(1, 7)
    assert commits.note(3, 6)
    assert commits.index == 6
    assert commits.note(2, 9)
    assert commits.index == 7
    # Late news is no news.
    assert not commits.note(2, 3)
    assert commits.index == 7


def test_alone_it_commits_what_it_has() -> None:
    commits = Commits(1, [1], begins=1)
    assert commits.note(1, 3)
    assert commits.index == 3


def test_what_is_of_an_earlier_epoch_is_committed_with_what_is_of_its_own_only() -> None:
    commits = Commits(1, [1, 2, 3], begins=5)
    commits.note(1, 5)
    assert not commits.note(2, 4)
    assert commits.index == 0
    assert commits.note(2, 5)
    assert commits.index == 5


def test_who_is_no_member_does_not_count() -> None:
    commits = Commits(1, [1, 2, 3], begins=1)
    commits.note(1, 5)
    assert not commits.note(9, 5)
    commits.reconfigure([1, 2, 3, 9, 10])
    # What it said before it was one counts: it is on its disk.
    assert commits.note(2, 4)
    assert commits.index == 4


def test_how_far_some_number_of_members_is() -> None:
    commits = Commits(1, [1, 2, 3], begins=1)
    commits.note(1, 9)
    commits.note(2, 4)
    assert [commits.held_by(count) for count in (1, 2, 3, 4)] == [9, 4, 0, 0]


@given(
    st.integers(1, 5),
    st.integers(1, 8),
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 12)), max_size=30),
)
def test_the_index_is_what_a_majority_has_and_never_goes_back(
    size: int, begins: int, notes: list[tuple[int, int]]
) -> None:
    commits = Commits(1, range(1, size + 1), begins)
    durable = dict.fromkeys(range(1, size + 1), 0)
    before = 0
    for node, index in notes:
        grown = commits.note(node, index)
        if node in durable:
            durable[node] = max(durable[node], index)
        held = max(
            (i for i in range(13) if sum(d >= i for d in durable.values()) > size // 2), default=0
        )
        assert commits.index == (held if held >= begins else 0)
        assert grown == (commits.index > before)
        before = commits.index
