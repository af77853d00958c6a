"""A copy of all, from a primary to a node whose log parts where the primary's does not reach."""

from __future__ import annotations

from tests.unit.copy_pair import CopyPair, whole


def test_a_new_node_gets_all_and_follows_from_there() -> None:
    pair = CopyPair()
    pair.fill()
    pair.connect()
    pair.run()
    assert (pair.placed, pair.kept) == (1, 1)
    assert whole(pair.secondary) == whole(pair.primary)
    assert pair.secondary.oplog.last == pair.primary.oplog.last
    pair.admin.send("set after 1")
    pair.admin.send("create-db f t")
    pair.run()
    assert pair.same()
    assert pair.secondary.oplog.last == pair.primary.oplog.last
