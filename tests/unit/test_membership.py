"""The members of a set as a key holds them: what cannot be read is no set; and which of two sets
gives way."""

from __future__ import annotations

import json

import pytest

from nuntwist.cluster.greeting import Hello
from nuntwist.cluster.inviting import Invitations
from nuntwist.cluster.membership import MOST_MEMBERS, Membership, decode_members, gives_way
from nuntwist.values import START

ONE = f"{1:016x}"
SET = f"{7:016x}"


def test_what_is_written_is_read_again() -> None:
    members = {number: f"node-{number}:3014" for number in range(1, MOST_MEMBERS + 1)}
    found = Membership(7, members)
    assert decode_members(found.encode()) == found
    assert decode_members(Membership().encode()) == Membership()
    assert decode_members(None) == Membership()


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"7", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000, b'{"a":' * 100_000),
        json.dumps({"set": SET}),
        json.dumps({"set": SET, "members": []}),
        json.dumps({"members": {ONE: "a:1"}}),
        *(
            json.dumps({"set": number, "members": {ONE: "a:1"}})
            for number in ("-1", "7", "9" * 5_000, f" {7:015x}", f"0_{7:014x}", 7, None)
        ),
        *(
            json.dumps({"set": SET, "members": {node: "a:1"}})
            for node in ("", "1", f"-{1:015x}", f"{0:016x}", "x" * 16)
        ),
        *(
            json.dumps({"set": SET, "members": {ONE: address}})
            for address in (None, 1, "", "a b:1", "a:1\n", "\ud800:1", "a" * 256)
        ),
        json.dumps({"set": SET, "members": {f"{node:016x}": "a:1" for node in range(1, 34)}}),
    ],
)
def test_what_cannot_be_read_is_no_set(value: bytes | str) -> None:
    data = value.encode() if isinstance(value, str) else value
    assert decode_members(data) == Membership()


def hello(formed: bool = False, data: bool = False, since: int = 5, set_id: int = 7) -> Hello:
    """What a node of a set says."""
    return Hello(1, set_id, formed, True, data, True, True, since, START)


@pytest.mark.parametrize(
    ("mine", "theirs", "goes"),
    [
        (hello(formed=True), hello(formed=True, set_id=8), None),
        (hello(formed=True), hello(data=True, since=1), False),
        (hello(data=True), hello(since=1), False),
        (hello(since=6), hello(since=5), True),
        (hello(set_id=7), hello(set_id=8), True),
    ],
)
def test_of_two_sets_one_gives_way(mine: Hello, theirs: Hello, goes: bool | None) -> None:
    assert gives_way(mine, theirs) is goes
    assert gives_way(theirs, mine) is (None if goes is None else not goes)


@pytest.mark.parametrize(
    ("formed", "goes"),
    # Whoever can serve it: what more than one node has stored stays.
    [(False, True), (True, False)],
)
def test_a_set_that_its_node_can_never_serve_goes_unless_it_was_formed(
    formed: bool, goes: bool
) -> None:
    mine, theirs = hello(formed=formed, data=True), hello(since=9)
    assert gives_way(mine, theirs, can_i=False) is goes
    assert gives_way(theirs, mine, can_they=False) is not goes
    # Where neither can, it is as ever.
    assert gives_way(mine, theirs, can_i=False, can_they=False) is False


def test_an_invitation_is_given_once_and_they_do_not_heap_up() -> None:
    invitations = Invitations()
    for number in range(MOST_MEMBERS + 1):
        invitations.add(f"node-{number}")
    assert list(invitations) == [f"node-{number}" for number in range(1, MOST_MEMBERS + 1)]
    assert not invitations.take(None)
    assert not invitations.take("node-0")
    assert invitations.take("node-1")
    assert not invitations.take("node-1")
