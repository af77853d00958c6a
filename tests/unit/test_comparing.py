"""The nodes of a set compare their states while they run; one that differs is taken out, gets a
copy of all, and counts again."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from twisted.logger import LogLevel, capturedLogs, formatEvent

from nuntwist.cluster import comparing
from nuntwist.cluster.checks import Checked, Differs
from nuntwist.cluster.comparing import PAUSE
from nuntwist.core.concern import MAJORITY, Concern
from nuntwist.core.database import MASK
from nuntwist.core.limits import Limits
from nuntwist.core.state_hash import sum_of
from nuntwist.testing import LineConnection, MemoryNode
from nuntwist.values import KEY, VALUE, Op
from tests.unit.memory_set import MemorySet
from tests.unit.test_backup import archive_of, backup, restore

EVERY = 10


def made(size: int = 3, **changes: Any) -> tuple[MemorySet, LineConnection]:
    """A set whose states are compared often, and a client of its primary, node 1."""
    nodes = MemorySet(size, check_every=EVERY, **changes)
    nodes.run(2.0)
    assert nodes.primary() == 1
    client = nodes.nodes[1].admin("create-db d t", "use-db d t", "set k 1", "set l 1")
    nodes.run(0.2)
    return nodes, client


def corrupt(nodes: MemorySet, me: int, key: bytes = b"k", value: bytes | None = b"wrong") -> None:
    """Change what a node has in memory; with None the entry is lost."""
    database = nodes.nodes[me].node.catalogue.by_name[b"d"]
    shard = database.shards[hash(key) & MASK]
    if value is None:
        del shard[key]
        return
    entry: Op = shard[key]
    shard[key] = (value, *entry[VALUE + 1 : KEY], key)  # type: ignore[assignment]  # of an Op


def write(nodes: MemorySet, client: LineConnection, count: int = 2 * EVERY) -> None:
    """Write so much that a check comes, and let it be compared."""
    for number in range(count):
        client.send(f"set filler {number}")
    nodes.run(0.3)


def alarms(nodes: MemorySet) -> dict[int, int]:
    return {me: nodes.nodes[me].node.counters.states_differed for me in nodes.ids}


def assert_sound(nodes: MemorySet) -> None:
    """All are alike, and the hash that each has kept is that of its state."""
    sums = set()
    for me in nodes.ids:
        state = nodes.comparing[me].hashing.state
        while state.waiting:
            state.step()
        assert state.ready, me
        sums.add(state.sum)
        sums.add(sum_of(nodes.nodes[me].node.catalogue))
    assert len(sums) == 1


def replica(nodes: MemorySet, me: int) -> Any:
    """What the primary counts of a node."""
    reign = nodes.members[nodes.primary()].reign
    assert reign is not None
    return reign.outgoing.get(me)


# -- nothing is wrong ------------------------------------------------------------------------------


def test_states_are_compared_at_every_check_and_agree() -> None:
    nodes, client = made()
    write(nodes, client, 100)
    last = nodes.nodes[1].oplog.last.index
    primary = nodes.comparing[1]
    assert [primary.agreed(me) for me in (2, 3)] == [last // EVERY * EVERY] * 2
    assert alarms(nodes) == {1: 0, 2: 0, 3: 0}
    assert_sound(nodes)
    assert nodes.comparing[2].agreed(3) is None


def test_a_node_alone_keeps_no_hash() -> None:
    assert MemoryNode().node.pipeline.journal.undo is None


def test_whatever_is_done_the_hash_is_that_of_the_state() -> None:
    nodes, client = made()
    chance = random.Random(7)
    for number in range(300):
        key = f"k{chance.randrange(5)}"
        client.send(
            chance.choice(
                (f"set {key} {number}", f"remove {key}", "increment n", f"set-safe {key} 0 x")
            )
        )
        if number % 60 == 0:
            name = f"e{number}"
            nodes.nodes[1].admin(f"create-db {name} t arbiter", f"use-db {name} t", "set a b")
        if number % 90 == 0:
            nodes.nodes[2].admin("use-db d t", "create-user joe x", "set forwarded 1")
            nodes.run(0.1)
    nodes.nodes[1].admin("drop-db e60")
    archive = archive_of("e120", [("a", "restored", 3), ("$$token", "t", 0)])
    assert restore(nodes.nodes[1].admin(), archive, "force")[-1] == "ok "
    nodes.run(0.5)
    write(nodes, client)
    assert alarms(nodes) == {1: 0, 2: 0, 3: 0}
    assert_sound(nodes)
    archive = backup(nodes.nodes[1])
    assert restore(nodes.nodes[1].admin(), archive, "force")[-1] == "ok "
    nodes.run(0.5)
    write(nodes, client)
    assert alarms(nodes) == {1: 0, 2: 0, 3: 0}
    assert_sound(nodes)


@pytest.mark.parametrize("durability", ["os", "disk"])
def test_a_tail_that_is_taken_off_is_not_in_it(durability: str) -> None:
    nodes, client = made(durability=durability)
    write(nodes, client)
    nodes.isolate(1)
    for number in range(3 * EVERY):
        client.send(f"set k {number}")
    nodes.run(3.0)
    other = nodes.nodes[nodes.primary()].admin("use-db d t", "set k other")
    write(nodes, other, 5)
    nodes.heal()
    nodes.run(3.0)
    assert nodes.nodes[1].node.counters.tails_cut == 1
    write(nodes, other)
    assert alarms(nodes) == {1: 0, 2: 0, 3: 0}
    assert_sound(nodes)


def test_a_tail_that_goes_back_behind_where_it_began_begins_it_anew() -> None:
    nodes, client = made()
    nodes.isolate(1)
    for number in range(EVERY):
        client.send(f"set k {number}")
    nodes.comparing[1].hashing.begin_anew()
    nodes.run(3.0)
    assert nodes.comparing[1].hashing.state.began_at == nodes.nodes[1].oplog.last.index
    nodes.heal()
    nodes.run(3.0)
    other = nodes.nodes[nodes.primary()].admin("use-db d t")
    write(nodes, other)
    assert nodes.comparing[1].hashing.state.began_at < nodes.nodes[1].oplog.last.index
    assert alarms(nodes) == {1: 0, 2: 0, 3: 0}
    assert_sound(nodes)


def test_a_node_that_starts_again_is_compared_again() -> None:
    nodes, client = made()
    write(nodes, client)
    nodes.kill(3)
    write(nodes, client)
    nodes.restart(3)
    nodes.run(1.0)
    assert nodes.comparing[1].agreed(3) is None or nodes.comparing[3].hashing.state.ready
    write(nodes, client)
    last = nodes.nodes[1].oplog.last.index
    assert nodes.comparing[1].agreed(3) == last // EVERY * EVERY
    assert alarms(nodes) == {1: 0, 2: 0, 3: 0}
    assert_sound(nodes)


def test_another_primary_compares_in_its_epoch() -> None:
    nodes, client = made()
    write(nodes, client)
    nodes.kill(1)
    nodes.run(3.0)
    new = nodes.primary()
    (other,) = {2, 3} - {new}
    assert nodes.comparing[new].agreed(other) is None
    write(nodes, nodes.nodes[new].admin("use-db d t"))
    assert nodes.comparing[new].agreed(other) == nodes.nodes[new].oplog.last.index // EVERY * EVERY
    # What belongs to an epoch that is over is not looked at.
    member = nodes.members[new]
    member.handlers[Checked](other, Checked(member.election.number - 1, EVERY, 1))
    nodes.comparing[new]._checks.mine(EVERY, 2)
    assert nodes.nodes[new].node.counters.states_differed == 0


# -- one differs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"wrong", None])
def test_a_state_that_differs_is_found_and_mended(value: bytes | None) -> None:
    nodes, client = made(limits=Limits(min_replicas=1))
    write(nodes, client)
    corrupt(nodes, 2, b"k", value)
    reader = nodes.nodes[2].admin("use-db d t")
    assert reader.ask("get k") == f"value {(value or b'<Empty>').decode()}\nok \n"
    write(nodes, client)
    assert alarms(nodes) == {1: 0, 2: 0, 3: 0}
    client.send("set k 2")
    with capturedLogs() as logged:
        write(nodes, client)
        nodes.run(2.0)
    assert alarms(nodes) == {1: 1, 2: 1, 3: 0}
    told = [formatEvent(event) for event in logged if event["log_level"] >= LogLevel.error]
    assert len(told) == 2
    assert "the state of the node at node-2:3014 is not that of this primary" in told[0]
    assert "the state of this node is not that of its primary" in told[1]
    assert nodes.nodes[2].node.counters.copies_taken == 1
    assert [name for name in nodes.disks[2].names() if name.startswith("divergent")] == []
    # It counts again, and is compared again.
    assert nodes.members[1].reign is not None
    assert nodes.members[1].reign.in_step() == 2
    assert not nodes.members[2].identity.standing.doubtful
    write(nodes, client)
    assert nodes.comparing[1].agreed(2) == nodes.nodes[1].oplog.last.index // EVERY * EVERY
    assert alarms(nodes) == {1: 1, 2: 1, 3: 0}
    assert_sound(nodes)


def out(nodes: MemorySet, client: LineConnection, me: int = 2) -> list[Differs]:
    """Let a node differ, and the message that tells it so get lost.

    :return: those messages.
    """
    lost: list[Differs] = []
    member = nodes.members[me]
    member.handlers[Differs] = lambda node, message: lost.append(message)
    write(nodes, client)
    corrupt(nodes, me)
    client.send("set k 2")
    write(nodes, client)
    return lost


def test_who_differs_counts_for_nothing() -> None:
    nodes, client = made(concern=Concern(MAJORITY, 500), limits=Limits(min_replicas=2))
    lost = out(nodes, client)
    assert len(lost) == 1
    reign = nodes.members[1].reign
    assert reign is not None
    assert (reign.in_step(), reign.best(), reign.differing) == (1, 3, {2})
    assert client.ask("set k 3").startswith("error too few replicas: 1 of 2 follow")
    state = json.loads(
        nodes.nodes[1].admin().ask("cluster-state json").split(" ", 1)[1].split("\n")[0]
    )
    assert [one["differs"] for one in state["replicas"]] == [False, True, False]
    assert state["counters"]["states_differed"] == 1


def test_what_it_acknowledges_is_not_counted_for_the_commit() -> None:
    nodes, client = made()
    assert len(out(nodes, client)) == 1
    nodes.kill(3)
    assert client.ask("write-concern majority 500") == "ok \n"
    client.send("set k 3")
    nodes.run(0.2)
    assert client.received() == ""
    nodes.run(1.0)
    assert "outcome unknown" in client.received()


def test_it_is_told_again_over_a_new_connection() -> None:
    nodes, client = made()
    lost = out(nodes, client)
    del nodes.members[2].handlers[Differs]
    nodes.members[2].handlers[Differs] = nodes.comparing[2]._differs
    nodes.pipes[1, 2].hang_up()
    nodes.run(0.1)
    nodes.connect(1, 2)
    nodes.run(2.0)
    assert len(lost) == 1
    assert alarms(nodes) == {1: 1, 2: 1, 3: 0}
    assert nodes.nodes[2].node.counters.copies_taken == 1
    write(nodes, client)
    assert_sound(nodes)


def test_what_comes_and_goes_between_two_checks_is_not_looked_at() -> None:
    """That is what makes a key that is written often cheap."""
    nodes, client = made()
    write(nodes, client)
    while nodes.nodes[1].oplog.last.index % EVERY:
        write(nodes, client, 1)
    client.send("set k 2")
    nodes.run(0.1)
    corrupt(nodes, 2)
    client.send("set k 3")
    write(nodes, client)
    assert alarms(nodes) == {1: 0, 2: 0, 3: 0}
    assert_sound(nodes)


def test_a_change_of_the_primary_meanwhile_drops_what_was_pending() -> None:
    nodes, client = made()
    out(nodes, client)
    nodes.members[2].handlers[Differs] = nodes.comparing[2]._differs
    nodes.members[1].force()
    nodes.run(3.0)
    new = nodes.primary()
    client = nodes.nodes[new].admin("use-db d t")
    # Node 2 differs still, and the next check of the new epoch finds it.
    for _ in range(3):
        write(nodes, client)
        nodes.run(2.0)
    reign = nodes.members[new].reign
    assert reign is not None
    assert not reign.differing
    assert_sound(nodes)


def test_where_the_primary_is_wrong_the_others_get_copies_one_after_the_other() -> None:
    nodes, client = made(5)
    most = 0
    reign = nodes.members[1].reign
    assert reign is not None

    def looked(sender: int, receiver: int) -> None:
        nonlocal most
        assert reign is not None
        most = max(most, len(reign.differing))

    nodes.arrived = looked
    write(nodes, client)
    corrupt(nodes, 1)
    client.send("set k 2")
    write(nodes, client)
    nodes.run(10.0)
    assert most == 1
    assert alarms(nodes) == {1: 4, 2: 1, 3: 1, 4: 1, 5: 1}
    assert [nodes.nodes[me].node.counters.copies_taken for me in nodes.ids] == [0, 1, 1, 1, 1]
    write(nodes, client)
    assert alarms(nodes)[1] == 4
    assert_sound(nodes)


def test_who_is_gone_while_it_is_out_does_not_keep_others_from_being_mended() -> None:
    nodes, client = made(4)
    out(nodes, client)
    corrupt(nodes, 3, b"l")
    client.send("set l 2")
    write(nodes, client)
    assert nodes.nodes[3].node.counters.copies_taken == 0
    nodes.kill(2)
    nodes.run(3.0)
    assert nodes.nodes[3].node.counters.copies_taken == 1
    nodes.restart(2)
    nodes.run(3.0)
    assert nodes.nodes[2].node.counters.copies_taken == 1
    write(nodes, client)
    assert_sound(nodes)


# -- again and again -------------------------------------------------------------------------------


def differ(nodes: MemorySet, client: LineConnection, number: int) -> list[str]:
    """Let node 2 differ once more.

    :return: what is logged as critical.
    """
    write(nodes, client)
    corrupt(nodes, 2)
    with capturedLogs() as logged:
        client.send(f"set k {number}")
        write(nodes, client)
        nodes.run(2.0)
    return [formatEvent(event) for event in logged if event["log_level"] is LogLevel.critical]


def test_whose_state_differs_again_and_again_waits_longer_each_time_and_louder() -> None:
    nodes, client = made()
    assert differ(nodes, client, 0) == []
    for count, pause in enumerate((PAUSE, 2 * PAUSE), 1):
        (told,) = differ(nodes, client, count)
        assert f"differs again, though it was given {count} copies" in told
        counters = nodes.nodes[2].node.counters
        assert counters.copies_taken == count
        nodes.run(pause - 4.0)
        assert counters.copies_taken == count
        reign = nodes.members[1].reign
        assert reign is not None
        assert reign.differing == {2}
        nodes.run(5.0)
        assert counters.copies_taken == count + 1
        assert reign.in_step() == 2
    write(nodes, client)
    assert_sound(nodes)


def test_a_pause_has_an_end_and_is_forgotten_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(comparing, "LONGEST_PAUSE", longest := 2 * PAUSE)
    monkeypatch.setattr(comparing, "FORGIVEN", forgiven := 4 * PAUSE)
    nodes, client = made()
    compares = nodes.comparing[1]
    compares._copies[2] = 40, nodes.clock.seconds()
    assert len(differ(nodes, client, 1)) == 1
    assert compares._pauses[2] <= nodes.clock.seconds() + longest
    nodes.run(longest + 2.0)
    assert nodes.nodes[2].node.counters.copies_taken == 1
    nodes.run(forgiven)
    assert differ(nodes, client, 2) == []
    assert nodes.nodes[2].node.counters.copies_taken == 2


def test_when_the_node_stops_nothing_is_left() -> None:
    nodes, client = made()
    compares = nodes.comparing[1]
    compares._copies[2] = 4, nodes.clock.seconds()
    differ(nodes, client, 1)
    assert compares._timer is not None
    assert compares._timer.active()
    compares.stop()
    assert compares._timer is None
    nodes.run(PAUSE * 9)
    assert nodes.nodes[2].node.counters.copies_taken == 0
