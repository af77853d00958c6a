"""A node that comes back under its own id with less than it had acknowledged is a new member: its
vote and its acknowledgements do not count until the primary has given it all again."""

from __future__ import annotations

import pytest

from nuntwist.files import MemoryFiles, write_durably
from tests.unit.memory_set import MemorySet
from tests.unit.test_member import members_of
from tests.unit.test_recovery import state


@pytest.fixture
def three() -> MemorySet:
    """A set with a database, whose primary is node 1."""
    nodes = MemorySet()
    nodes.run(3.0)
    nodes.nodes[1].admin("create-db d t", "use-db d t", "set k 1")
    nodes.run(1.0)
    return nodes


def whole(nodes: MemorySet, me: int) -> bool:
    return not nodes.members[me].identity.standing.doubtful


def copy_of(files: MemoryFiles) -> MemoryFiles:
    """What a directory holds now."""
    copy = MemoryFiles()
    for name in files.names():
        write_durably(copy, name, [bytes(files.contents[name])])
    return copy


@pytest.mark.parametrize("log", ["empty", "shortened"])
def test_it_is_given_all_again_and_counts_then(three: MemorySet, log: str) -> None:
    older = copy_of(three.disks[3]) if log == "shortened" else MemoryFiles()
    three.nodes[1].admin("use-db d t", "set k 2", "set l 3")
    three.run(1.0)
    # What it has is noted with the next epoch at the latest.
    three.members[1].force()
    three.run(3.0)
    three.kill(3)
    three.disks[3] = older
    three.restart(3)
    assert not whole(three, 3)
    three.run(5.0)
    assert whole(three, 3)
    assert members_of(three, 3) == members_of(three, 1) == [1, 2, 3]
    assert state(three.nodes[3]) == state(three.nodes[1])
    assert three.nodes[3].oplog.last == three.nodes[1].oplog.last


@pytest.mark.parametrize("log", ["empty", "shortened"])
def test_it_elects_nobody_who_lacks_what_it_has_lost(three: MemorySet, log: str) -> None:
    """Node 2 has missed a write that 1 and 3 have; 3 loses it, and 1 is gone."""
    older = copy_of(three.disks[3]) if log == "shortened" else MemoryFiles()
    three.isolate(2)
    three.run(1.5)
    three.nodes[1].admin("use-db d t", "set k 2")
    three.run(1.0)
    assert three.members[1].committed == three.nodes[1].oplog.last.index
    three.members[3].doubt.note_reached()
    for me in (1, 3):
        three.kill(me)
    three.disks[3] = older
    three.cut.clear()
    three.restart(3)
    three.run(20.0)
    now = three.clock.seconds()
    assert not any(three.members[me].election.serves(now) for me in (2, 3))
    three.restart(1)
    three.run(10.0)
    assert three.primary() == 1
    for me in three.ids:
        assert three.nodes[me].node.catalogue.by_name[b"d"].value(b"k") == b"2"
        assert whole(three, me)


def test_a_tail_that_was_cut_off_is_not_missed(three: MemorySet) -> None:
    three.isolate(1)
    three.nodes[1].admin("use-db d t", *(f"set k {number}" for number in range(20)))
    three.members[1].doubt.note_reached()
    reached = three.nodes[1].oplog.last.index
    three.run(5.0)
    three.heal()
    three.run(5.0)
    assert three.nodes[1].oplog.last.index < reached
    assert three.nodes[1].oplog.last == three.nodes[three.primary()].oplog.last
    three.kill(1)
    three.restart(1)
    assert whole(three, 1)
    three.run(5.0)
    assert 1 in three.secondaries()


def test_a_node_with_all_it_had_is_whole(three: MemorySet) -> None:
    for me in three.ids:
        three.members[me].doubt.note_reached()
        three.kill(me)
        three.restart(me)
        assert whole(three, me)
        three.run(5.0)
    assert len(three.secondaries()) == 2
