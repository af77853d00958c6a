"""An old primary comes back with operations that the set never had: it takes them off, keeps them
in a file, and is what the others are; whoever watched there is told what is true."""

from __future__ import annotations

import random

import pytest
from twisted.logger import capturedLogs, formatEvent

from nuntwist.core.limits import Limits
from nuntwist.testing import LineConnection
from nuntwist.values import INDEX, KEY, VALUE, VERSION
from tests.cases import one_measured
from tests.unit.memory_set import MemorySet

SETUP = ("create-db d t", "use-db d t", "set a 1", "set b 1", "set gone 1")


def entries(nodes: MemorySet, me: int) -> dict[tuple[int, bytes], tuple[object, ...]]:
    """All that a node holds of what is logged: values, versions and indexes."""
    return {
        (number, op[KEY]): (op[VALUE], op[VERSION], op[INDEX])
        for number, database in nodes.nodes[me].node.catalogue.by_id.items()
        for shard in database.shards
        for op in shard.values()
        if op[KEY] not in (b"$connections", b"$$token")
    }


def assert_all_alike(nodes: MemorySet) -> None:
    """Every node is what the primary is."""
    primary = nodes.primary()
    for me in nodes.ids:
        assert nodes.nodes[me].oplog.last == nodes.nodes[primary].oplog.last
        assert entries(nodes, me) == entries(nodes, primary), me
        journal = nodes.nodes[me].node.pipeline.journal
        assert (journal.index, journal.revealed) == (nodes.nodes[me].oplog.last.index,) * 2
        for database in nodes.nodes[me].node.catalogue.by_id.values():
            assert database.last_index <= journal.index


def divergent(nodes: MemorySet, me: int) -> list[str]:
    return [name for name in nodes.disks[me].names() if name.startswith("divergent-")]


class Parted:
    """A set of three whose first primary, node 1, is cut off while it takes writes; the others
    have gone on.

    :ivar watcher: of the keys a, b, c and gone, on node 1.
    """

    def __init__(self, durability: str = "os", limits: Limits | None = None) -> None:
        self.set = MemorySet(durability=durability, limits=limits)
        self.set.run(2.0)
        assert self.set.primary() == 1
        self.old = self.set.nodes[1].admin(*SETUP)
        self.set.run(0.2)
        self.common = self.set.nodes[1].oplog.last.index
        self.watcher = self.watch(1)

    def watch(self, me: int) -> LineConnection:
        watcher = self.set.nodes[me].tcp()
        watcher.send("use-db d t")
        for key in ("a", "b", "c", "gone"):
            watcher.send(f"watch {key}")
        watcher.received()
        return watcher

    def part(self, *commands: str) -> list[str]:
        """Cut node 1 off, let it do this, and let the others elect."""
        self.set.isolate(1)
        answers = [self.old.ask(command) for command in commands]
        self.set.run(3.0)
        assert self.set.primary() in (2, 3)
        return answers

    def go_on(self, *commands: str) -> None:
        """The new primary does this."""
        self.set.nodes[self.set.primary()].admin("use-db d t", *commands)
        self.set.run(0.2)

    def heal(self) -> None:
        self.set.heal()
        self.set.run(3.0)


def test_what_only_the_old_primary_had_is_undone_there() -> None:
    parted = Parted()
    parted.part("set a 2", "set a 3", "remove gone", "set c 1", "increment b 5", "set other x")
    assert parted.watcher.received().count("changed ") == 4
    parted.go_on("set b 9")
    with capturedLogs() as logged:
        parted.heal()
    file = f"divergent-1-{parted.common + 1}.op"
    told = [formatEvent(event) for event in logged if file in formatEvent(event)]
    assert told == [
        f"6 operations after {parted.common} were taken off, because the set does not have them;"
        f" watchers were told of 5 keys anew; nun-db oplog dump {file}, in the data directory,"
        " shows what was taken off",
        f"the operations in {file} were offered to the primary: 0 were made again or put before"
        " arbiters, 6 are only in that file",
    ]
    assert_all_alike(parted.set)
    assert parted.watcher.received().splitlines() == [
        # What survives, the key that was changed last first; then what the others wrote.
        *("changed b 1", "changed-version b 0 1", "removed c"),
        *("changed gone 1", "changed-version gone 0 1", "changed a 1", "changed-version a 0 1"),
        *("changed b 9", "changed-version b 1 9"),
    ]
    assert divergent(parted.set, 1) == [f"divergent-1-{parted.common + 1}.op"]
    counters = parted.set.nodes[1].node.counters
    assert (counters.tails_cut, counters.operations_undone) == (1, 6)


def test_secure_keys_are_undone_as_well() -> None:
    parted = Parted()
    parted.go_on("create-user ann old", "set-permissions ann r a*")
    parted.part("create-user ann new", "set-permissions ann rwix *", "create-user bob pwd")
    ann = parted.set.nodes[1].tcp()
    assert ann.ask("use-db d ann new") == "ok \n"
    parted.heal()
    assert_all_alike(parted.set)
    assert "Invalid token" in parted.set.nodes[1].tcp().ask("use-db d bob pwd")
    assert "Invalid token" in parted.set.nodes[1].tcp().ask("use-db d ann new")
    ann = parted.set.nodes[1].tcp()
    assert ann.ask("use-db d ann old") == "ok \n"
    assert "permission denied" in ann.ask("get b")


def test_an_old_primary_that_was_restarted_undoes_its_tail_as_well() -> None:
    parted = Parted()
    parted.part("set a 2", "remove gone", "set c 1", "remove c", "set c 2", "set b 7")
    parted.set.kill(1)
    parted.go_on("set b 9")
    parted.set.cut.clear()
    parted.set.restart(1)
    assert parted.set.nodes[1].node.catalogue.by_name[b"d"].value(b"a") == b"2"
    watcher = parted.watch(1)
    parted.set.run(3.0)
    assert_all_alike(parted.set)
    assert "changed a 1\n" in watcher.received()
    assert divergent(parted.set, 1) == [f"divergent-1-{parted.common + 1}.op"]


@pytest.mark.parametrize("command", ["create-db e t", "drop-db d"])
def test_what_came_with_a_database_is_replaced_by_a_copy(command: str) -> None:
    parted = Parted()
    parted.part("set a 2", command)
    parted.heal()
    assert_all_alike(parted.set)
    counters = parted.set.nodes[1].node.counters
    assert (counters.tails_cut, counters.copies_taken) == (0, 1)
    assert divergent(parted.set, 1) == [f"divergent-1-{parted.common + 1}.op"]


def test_more_than_is_kept_is_replaced_by_a_copy() -> None:
    parted = Parted(limits=Limits(undo=10))
    parted.part(*(f"set a {number}" for number in range(11)))
    parted.heal()
    assert_all_alike(parted.set)
    assert parted.set.nodes[1].node.counters.copies_taken == 1
    # As many as are kept can be taken back.
    parted = Parted(limits=Limits(undo=10))
    parted.part(*(f"set a {number}" for number in range(9)))
    parted.heal()
    assert_all_alike(parted.set)


def run_random(seed: int, durability: str, restarts: bool) -> None:
    """Nodes are cut off and come back, or are killed and start again, while all that lead take
    writes; in the end all are alike."""
    nodes, chance = MemorySet(3, seed, durability), random.Random(seed)
    nodes.run(2.0)
    nodes.nodes[nodes.primary()].admin("create-db d t newer", "create-db e t")
    nodes.run(0.5)
    written, dead = 0, set[int]()
    undone = 0
    for _ in range(40):
        what = chance.choice(["cut", "heal", "heal", "slow", "kill", "start", *["write"] * 4])
        if what == "cut" and not dead:
            leading = [me for me in nodes.ids if nodes.nodes[me].node.info.role == "Primary"]
            nodes.isolate(chance.choice(leading or nodes.ids))
        elif what == "heal" and not dead:
            nodes.heal()
        elif what == "slow":
            nodes.delay = chance.choice([0.001, 0.02])
        elif what == "kill" and restarts and not dead:
            node = chance.choice(nodes.ids)
            undone += nodes.nodes[node].node.counters.operations_undone
            nodes.kill(node)
            dead.add(node)
        elif what == "start" and dead:
            nodes.cut.clear()
            nodes.restart(dead.pop())
        for me in set(nodes.ids) - dead:
            if nodes.nodes[me].node.info.role != "Primary":
                continue
            client = nodes.nodes[me].admin(f"use-db {chance.choice('de')} t")
            for _ in range(chance.randrange(6)):
                written += 1
                key = f"k{chance.randrange(6)}"
                word = chance.choice(["set", "set", "set", "remove", "increment", "create-user"])
                value = {"remove": "", "increment": "1"}.get(word, str(written))
                key = "n" if word == "increment" else key
                client.send(f"{word} {key} {value}".strip())
            client.close()
        nodes.run(chance.choice([0.01, 0.3, 1.0]))
    nodes.cut.clear()
    nodes.delay = 0.001
    for me in tuple(dead):
        nodes.restart(me)
    for _ in range(8):
        nodes.heal()
        nodes.run(1.0)
    for me in nodes.ids:
        incoming = nodes.members[me].incoming
        assert incoming is None or incoming.stopped is None, incoming.stopped
    assert_all_alike(nodes)
    cut_off = sum(len(divergent(nodes, me)) for me in nodes.ids)
    undone += sum(nodes.nodes[me].node.counters.operations_undone for me in nodes.ids)
    assert (cut_off > 0) == (undone > 0)


@pytest.mark.parametrize("seed", one_measured(range(15)))
def test_all_are_alike_when_faults_stop(seed: int) -> None:
    run_random(seed, "os", restarts=False)


@pytest.mark.parametrize("seed", one_measured(range(15)))
def test_all_are_alike_after_restarts_too(seed: int) -> None:
    run_random(100 + seed, ("os", "disk")[seed % 2], restarts=True)
