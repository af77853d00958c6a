"""Three real nodes, with real bytes between them, elect a primary and follow it."""

from __future__ import annotations

import errno
import random

import pytest

from nuntwist.cluster.bully import LEAST_SENIOR
from nuntwist.cluster.elections import FIXED
from nuntwist.cluster.states import State
from nuntwist.values import INDEX
from tests.cases import one_measured
from tests.unit.memory_set import MemorySet
from tests.unit.test_recovery import state


@pytest.fixture
def three() -> MemorySet:
    """A set that has a primary."""
    nodes = MemorySet()
    nodes.run(2.0)
    return nodes


def test_the_senior_one_is_elected_and_all_know_it(three: MemorySet) -> None:
    assert three.primary() == 1
    assert three.secondaries() == [2, 3]
    roles = [three.nodes[me].node.info.role for me in three.ids]
    assert roles == ["Primary", "Secoundary", "Secoundary"]
    logs = [three.nodes[me].oplog.last for me in three.ids]
    # The epoch began, the set was written down, and two nodes joined.
    assert logs[0].index == 4
    assert logs == [logs[0]] * 3


def test_each_pair_has_one_connection() -> None:
    nodes = MemorySet()
    for one, other in ((2, 1), (3, 1), (3, 2)):
        nodes.connect(one, other)
    nodes.run(2.0)
    for me in nodes.ids:
        links = nodes.members[me].links
        assert sorted(links) == [other for other in nodes.ids if other != me]
        assert all(link.connecting == (me < other) for other, link in links.items())
    assert nodes.primary() == 1


def test_who_connects_again_is_taken_at_its_word(three: MemorySet) -> None:
    """The other end may not have noticed yet that the first connection is gone."""
    before = three.members[2].links[1]
    three.pipes[1, 2].end()
    assert 2 not in three.members[1].links
    assert three.members[2].links[1] is before
    three.connect(1, 2)
    three.run(0.05)
    assert three.members[2].links[1] is not before
    three.nodes[1].admin("create-db d t")
    three.run(0.05)
    assert b"d" in three.nodes[2].node.catalogue.by_name
    three.run(5.0)
    assert (three.primary(), three.secondaries()) == (1, [2, 3])


def test_a_change_reaches_a_watcher_on_any_node_at_once(three: MemorySet) -> None:
    admin = three.nodes[1].admin("create-db d t", "use-db d t")
    three.run(0.1)
    watchers = []
    for me in three.ids:
        watcher = three.nodes[me].tcp()
        assert watcher.ask("use-db d t") == "ok \n"
        watcher.send("watch k")
        watcher.received()
        watchers.append(watcher)
    assert admin.ask("set k 1") == "ok \n"
    three.run(2 * three.delay)
    assert [watcher.received() for watcher in watchers] == [
        "changed k 1\nchanged-version k 0 1\n"
    ] * 3
    assert state(three.nodes[2]) == state(three.nodes[3]) == state(three.nodes[1])


def test_a_write_at_a_secondary_is_the_primarys(three: MemorySet) -> None:
    three.nodes[1].admin("create-db d t")
    three.run(0.1)
    client = three.nodes[2].tcp()
    client.ask("use-db d t")
    assert client.ask("set k 1\nget k") == ""
    three.run(5 * three.delay)
    assert client.received() == "ok \nvalue 1\nok \n"
    assert state(three.nodes[2]) == state(three.nodes[3]) == state(three.nodes[1])


def test_what_a_majority_has_is_known_everywhere(three: MemorySet) -> None:
    three.nodes[1].admin("create-db d t", "use-db d t", "set k 1")
    three.run(0.1)
    assert three.members[1].committed == 6
    for me in (2, 3):
        incoming = three.members[me].incoming
        assert incoming is not None
        assert incoming.committed == 6


def test_when_the_primary_dies_another_goes_on_with_all_it_had(three: MemorySet) -> None:
    three.nodes[1].admin("create-db d t", "use-db d t", "set k 1")
    three.run(0.1)
    watcher = three.nodes[3].tcp()
    watcher.ask("use-db d t")
    watcher.ask("watch k")
    three.kill(1)
    three.run(1.5)
    primary = three.primary()
    assert primary in (2, 3)
    client = three.nodes[primary].tcp()
    client.ask("use-db d t")
    assert client.ask("get k") == "value 1\nok \n"
    assert client.ask("set k 2") == "ok \n"
    three.run(0.1)
    # The watch went on through the failover.
    assert watcher.received() == "changed k 2\nchanged-version k 1 2\n"
    assert three.nodes[2].oplog.last == three.nodes[3].oplog.last


def test_a_primary_that_is_cut_off_stops_serving_before_another_serves(three: MemorySet) -> None:
    three.isolate(1)
    seen = []
    for _ in range(300):
        three.run(0.01)
        now = three.clock.seconds()
        serving = [me for me in three.ids if three.members[me].election.serves(now)]
        assert len(serving) <= 1
        seen.append(tuple(serving))
    assert seen[0] == (1,)
    assert () in seen
    assert seen[-1] in ((2,), (3,))
    assert three.members[1].election.state is not State.PRIMARY
    # It is connected to anew, has nothing of its own, and follows.
    three.cut.clear()
    for other in (2, 3):
        three.connect(1, other)
    three.run(2.0)
    assert three.members[1].election.state is State.FOLLOWING
    assert three.nodes[1].oplog.last == three.nodes[2].oplog.last


def test_who_comes_late_is_given_what_it_lacks(three: MemorySet) -> None:
    three.isolate(3)
    three.run(3.0)
    admin = three.nodes[three.primary()].admin("create-db d t", "use-db d t")
    for number in range(500):
        admin.send(f"set k{number % 50} {number}")
    three.cut.clear()
    three.connect(1, 3)
    three.connect(2, 3)
    three.run(2.0)
    assert state(three.nodes[3]) == state(three.nodes[1])
    assert three.nodes[3].oplog.last == three.nodes[1].oplog.last


def test_a_quiet_set_stays_as_it_is(three: MemorySet) -> None:
    before = [three.members[me].election.number for me in three.ids]
    three.run(60.0)
    assert three.primary() == 1
    assert [three.members[me].election.number for me in three.ids] == before
    assert three.nodes[1].oplog.last.index == 4


def test_who_cannot_keep_an_epoch_takes_no_part_any_more(three: MemorySet) -> None:
    three.isolate(1)
    three.files[2].failing["write"] = errno.EIO
    three.run(5.0)
    assert three.members[2].failed == "Input/output error"
    assert three.nodes[2].node.info.role == "StartingUp"
    # The third needs the first, then.
    assert three.members[3].election.state is not State.PRIMARY
    three.cut.clear()
    three.connect(1, 3)
    three.run(3.0)
    assert three.primary() in (1, 3)
    assert three.members[2].election.state is not State.PRIMARY


def test_who_cannot_log_its_first_operation_lets_another_lead(three: MemorySet) -> None:
    three.nodes[2].oplog.close()
    three.nodes[3].oplog.close()
    three.kill(1)
    three.run(3.0)
    now = three.clock.seconds()
    assert not any(three.members[me].election.serves(now) for me in (2, 3))
    assert {three.nodes[me].node.info.role for me in (2, 3)} <= {"StartingUp", "Secoundary"}
    client = three.nodes[2].admin()
    client.ask("create-db x t")
    three.run(2 * three.timing.round)
    assert client.received() == "error no primary \n"


# -- under faults ----------------------------------------------------------------------------------


def reconnect(nodes: MemorySet) -> None:
    """Whoever has no connection makes one, as it would by itself."""
    for one in nodes.ids:
        for other in nodes.ids:
            if one < other and other not in nodes.members[one].links:
                nodes.connect(one, other)


def committed_by(nodes: MemorySet, me: int) -> dict[int, bytes]:
    """The operations that a primary knows a majority to have, by index."""
    reign = nodes.members[me].reign
    if reign is None:
        return {}
    ops = [op for batch in nodes.nodes[me].oplog.read(0) for op in batch]
    return {op[INDEX]: repr(op).encode() for op in ops if op[INDEX] <= reign.commits.index}


@pytest.mark.parametrize("seed", one_measured(range(12)))
def test_what_a_majority_has_is_in_every_later_primary(seed: int) -> None:
    nodes, chance = MemorySet(3 + 2 * (seed % 2), seed), random.Random(seed)
    nodes.run(2.0)
    nodes.nodes[nodes.primary()].admin("create-db d t")
    known: dict[int, bytes] = {}
    written = 0
    for _ in range(60):
        what = chance.choice(["cut", "one way", "heal", "heal", "slow", "write", "write", "write"])
        pairs = [(one, other) for one in nodes.ids for other in nodes.ids if one != other]
        if what == "cut":
            nodes.isolate(chance.choice(nodes.ids))
        elif what == "one way":
            nodes.cut.add(chance.choice(pairs))
        elif what == "heal":
            nodes.cut.clear()
        elif what == "slow":
            nodes.delay = chance.choice([0.001, 0.02, 0.2])
        now = nodes.clock.seconds()
        serving = [me for me in nodes.ids if nodes.members[me].election.serves(now)]
        assert len(serving) <= 1
        for me in serving:
            held = {
                op[INDEX]: repr(op).encode()
                for batch in nodes.nodes[me].oplog.read(0)
                for op in batch
            }
            # After a copy of all, the log holds what follows on that.
            base = nodes.nodes[me].oplog.base
            assert {i: op for i, op in known.items() if i > base}.items() <= held.items()
            client = nodes.nodes[me].admin("use-db d t")
            for _ in range(chance.randrange(4)):
                written += 1
                client.send(f"set k{written % 7} {written}")
            client.close()
        nodes.run(chance.choice([0.05, 0.3, 1.0]))
        for me in nodes.ids:
            known |= committed_by(nodes, me)
        reconnect(nodes)
    assert len(known) > 2
    nodes.cut.clear()
    nodes.delay = 0.001
    for _ in range(8):
        nodes.run(1.0)
        reconnect(nodes)
    primary = nodes.primary()
    for me in nodes.ids:
        incoming = nodes.members[me].incoming
        if me != primary and incoming is not None and incoming.stopped is None:
            assert nodes.nodes[me].oplog.last == nodes.nodes[primary].oplog.last
            assert state(nodes.nodes[me]) == state(nodes.nodes[primary])


# -- members come and go -------------------------------------------------------------------------


def members_of(nodes: MemorySet, me: int) -> list[int]:
    return sorted(nodes.members[me].belonging.membership.members)


def test_a_member_leaves_and_the_others_elect_without_it(three: MemorySet) -> None:
    left: list[object] = []
    reign = three.members[1].reign
    assert reign is not None
    reign.leave(3).addBoth(left.append)
    assert left == []
    three.run(0.5)
    assert left == [None]
    assert [members_of(three, me) for me in (1, 2)] == [[1, 2]] * 2
    assert not three.members[3].belonging.is_member
    assert three.members[3].identity.standing.left == three.members[1].belonging.set_id
    three.kill(1)
    three.run(5.0)
    # Of two members one is no majority, and who has left has no vote.
    assert three.members[2].election.state is not State.PRIMARY
    assert three.members[3].election.state is State.STARTING


def test_a_primary_that_leaves_hands_over(three: MemorySet) -> None:
    reign = three.members[1].reign
    assert reign is not None
    reign.leave(1)
    three.run(2.0)
    assert three.primary() in (2, 3)
    assert members_of(three, three.primary()) == [2, 3]
    assert three.nodes[1].node.info.role == "StartingUp"


def test_a_node_that_comes_back_empty_takes_the_place_it_had(three: MemorySet) -> None:
    """Under its address, with another id: the old one goes first, then it is taken in."""
    three.kill(3)
    three.ids.append(9)
    three.names[9] = "node-3:3014"
    three.start(9)
    for other in (1, 2):
        three.connect(other, 9)
    three.run(3.0)
    assert members_of(three, 1) == [1, 2, 9]
    assert members_of(three, 9) == [1, 2, 9]


def test_lone_nodes_that_meet_are_one_set() -> None:
    nodes = MemorySet(2)
    nodes.isolate(2)
    nodes.run(1.5)
    assert [nodes.nodes[me].node.info.role for me in (1, 2)] == ["Primary"] * 2
    nodes.nodes[1].admin("create-db d t", "use-db d t", "set k 1")
    nodes.nodes[2].admin("create-db d t", "use-db d t", "set k 2")
    nodes.heal()
    nodes.run(4.0)
    assert (nodes.primary(), nodes.secondaries()) == (1, [2])
    assert members_of(nodes, 2) == [1, 2]
    assert state(nodes.nodes[2]) == state(nodes.nodes[1])
    assert nodes.nodes[1].node.catalogue.by_name[b"d"].value(b"k") == b"1"


def test_an_empty_set_gives_way_to_one_with_data() -> None:
    nodes = MemorySet(2)
    nodes.isolate(2)
    nodes.run(1.5)
    nodes.nodes[2].admin("create-db d t")
    nodes.heal()
    nodes.run(4.0)
    assert (nodes.primary(), nodes.secondaries()) == (2, [1])
    assert b"d" in nodes.nodes[1].node.catalogue.by_name


def test_two_formed_sets_do_not_mix(three: MemorySet) -> None:
    other = MemorySet(2, seed=7)
    other.run(3.0)
    ours, theirs = three.members[1].belonging, other.members[1].belonging
    assert ours.set_id != theirs.set_id
    hello = theirs.hello()
    three.members[1].links[2].send(hello)
    three.run(0.1)
    assert three.members[2].belonging.set_id == ours.set_id
    assert not three.members[2].belonging.is_of_set(1)


def test_a_primary_hands_over_before_it_stops(three: MemorySet) -> None:
    from nuntwist.cluster.retiring import Retiring

    client = three.nodes[1].admin("create-db d t", "use-db d t")
    three.run(0.1)
    three.delay = 0.02
    assert client.ask("set k 1") == "ok \n"
    done: list[object] = []
    Retiring(three.members[1]).begin().addBoth(done.append)
    client.send("set k 2")
    three.run(0.05)
    assert done == []
    three.run(1.0)
    assert done == [None]
    successor = three.primary()
    assert successor != 1
    assert client.received() == "ok \n"
    found = three.nodes[successor].node.catalogue.by_name[b"d"].find(b"k")
    assert found is not None
    assert found[:2] == (b"2", 1)


def test_a_primary_with_nobody_to_hand_over_to_stops_all_the_same(three: MemorySet) -> None:
    from nuntwist.cluster.retiring import Retiring

    for me in (2, 3):
        three.kill(me)
    done: list[object] = []
    Retiring(three.members[1]).begin().addBoth(done.append)
    assert done == [None]


def test_a_secondary_whose_disk_was_full_follows_again(three: MemorySet) -> None:
    client = three.nodes[1].admin("create-db d t", "use-db d t")
    three.run(0.2)
    three.disks[2].failing["write"] = errno.ENOSPC
    assert client.ask("set k 1") == "ok \n"
    three.run(2.5)
    incoming = three.members[2].incoming
    assert incoming is not None
    assert incoming.stopped is not None
    assert state(three.nodes[2]) != state(three.nodes[1])
    three.disks[2].failing.clear()
    client.ask("set k 2")
    three.run(2.0)
    assert state(three.nodes[2]) == state(three.nodes[1])
    assert (three.primary(), three.secondaries()) == (1, [2, 3])


def test_a_secondary_whose_disk_was_full_when_its_tail_had_to_go_follows_again(
    three: MemorySet,
) -> None:
    client = three.nodes[1].admin("create-db d t", "use-db d t")
    three.run(0.2)
    three.isolate(1)
    assert client.ask("set k 1") == "ok \n"
    three.run(3.0)
    three.disks[1].failing["write"] = errno.ENOSPC
    three.heal()
    three.run(3.0)
    assert three.nodes[1].node.counters.tails_cut == 0
    three.disks[1].failing.clear()
    three.run(2.0)
    assert three.nodes[1].node.counters.tails_cut == 1
    assert state(three.nodes[1]) == state(three.nodes[2])
    assert len(three.secondaries()) == 2


@pytest.mark.parametrize("failing", ["write", "sync"])
def test_a_primary_whose_log_takes_no_writes_hands_over(failing: str) -> None:
    three = MemorySet(durability="disk" if failing == "sync" else "os")
    three.run(3.0)
    client = three.nodes[1].admin("create-db d t", "use-db d t")
    three.run(0.2)
    assert client.ask("set k 1") == "ok \n"
    three.disks[1].failing[failing] = errno.EIO if failing == "sync" else errno.ENOSPC
    client.send("set k 2")
    three.run(1.0)
    assert client.received().startswith(("error storage unavailable", "error outcome unknown"))
    successor = three.primary()
    assert successor != 1
    three.nodes[successor].admin("use-db d t").ask("set k 3")
    # It was the senior one, and would be again.
    three.members[successor].force()
    three.run(3.0)
    assert three.primary() != 1
    assert three.members[1].election.rank.seniority == LEAST_SENIOR
    if failing == "write":
        three.disks[1].failing.clear()
        three.run(3.0)
        assert state(three.nodes[1]) == state(three.nodes[successor])
        assert three.members[1].election.rank.seniority == -three.members[1].started


@pytest.mark.parametrize("named", [False, True])
def test_a_primary_whose_log_takes_no_writes_stays_where_nobody_else_can_lead(named: bool) -> None:
    three = MemorySet(kind=FIXED, fixed=1) if named else MemorySet()
    three.run(3.0)
    client = three.nodes[1].admin("create-db d t", "use-db d t")
    if not named:
        for me in (2, 3):
            three.kill(me)
    three.disks[1].failing["write"] = errno.ENOSPC
    client.send("set k 2")
    three.run(0.3)
    assert three.primary() == 1
    three.disks[1].failing.clear()
    client.received()
    assert client.ask("set k 3") == "ok \n"
