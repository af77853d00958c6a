"""Which of two connections between two nodes stays, and whose a connection is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from nuntwist.cluster.links import LinkTable
from nuntwist.cluster.machine import Link


def link(made_here: bool, address: str = "-") -> Link:
    made = SimpleNamespace(connecting=made_here, peer=SimpleNamespace(address=address))
    return cast(Link, made)


@pytest.mark.parametrize(
    ("me", "other", "before", "new", "stays"),
    [
        # What the node with the lower id has made stays.
        (1, 2, True, False, True),
        (1, 2, False, True, False),
        (2, 1, True, False, False),
        (2, 1, False, True, True),
        # Of two that the same one has made the later one stays.
        (1, 2, True, True, False),
        (2, 1, False, False, False),
    ],
)
def test_of_two_connections_both_ends_close_the_same_one(
    me: int, other: int, before: bool, new: bool, stays: bool
) -> None:
    links = LinkTable(me)
    assert not links.stays(other, link(before))
    links.put(other, link(before))
    assert links.stays(other, link(new)) is stays
    # The other end has the same two, made from there.
    there = LinkTable(other)
    there.put(me, link(not before))
    assert there.stays(me, link(not new)) is stays


def test_it_is_known_whose_a_connection_is() -> None:
    links = LinkTable(1)
    first, second = link(True, "b:1"), link(True, "b:1")
    links.put(2, first)
    assert (links.node_of(first), links.at("b:1"), links.at("c:1")) == (2, 2, None)
    links.put(2, second)
    assert (links.node_of(first), links.node_of(second)) == (None, 2)
    assert (list(links), len(links), links[2]) == ([2], 1, second)
    links.drop(2)
    assert (links.node_of(second), links.at("b:1"), 2 in links) == (None, None, False)
