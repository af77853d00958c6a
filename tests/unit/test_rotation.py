"""A node whose log turns over: what goes, what stays, and what a start finds."""

from __future__ import annotations

import random

import pytest
from twisted.internet.defer import maybeDeferred

from nuntwist.core.limits import Limits
from nuntwist.files import MemoryFiles
from nuntwist.oplog.segments import FileOplog
from nuntwist.storage.disk import DiskStorage
from nuntwist.testing import MemoryNode
from tests.unit.test_recovery import killed, recover, snapshot, state, using

LIMIT = 8_000


def start(files: MemoryFiles) -> MemoryNode:
    oplog = FileOplog(files, 1, limit=LIMIT)
    return MemoryNode(oplog, DiskStorage(files, maybeDeferred), limits=Limits(replay=LIMIT // 4))


def logs(files: MemoryFiles) -> list[str]:
    return [name for name in files.contents if name.startswith("oplog-")]


def written(files: MemoryFiles, commands: int, seed: int = 1) -> MemoryNode:
    """A node that was written to at random, with snapshots taken when they are due."""
    node, chance = start(files), random.Random(seed)
    node.admin("create-db d t", "create-db e t")
    clients = [using(node, "d"), using(node, "e")]
    for number in range(commands):
        key = chance.randrange(50)
        client = chance.choice(clients)
        client.send(chance.choice([f"set k{key} {number}", f"remove k{key}", f"increment n{key}"]))
        if node.node.snapshots.are_due():
            snapshot(node)
    return node


def test_the_log_stays_within_its_limit_and_nothing_is_lost() -> None:
    files = MemoryFiles()
    node = written(files, 600)
    assert node.oplog.last.index > 400
    assert node.oplog.first > 100
    assert sum(len(files.contents[name]) for name in logs(files)) <= LIMIT + LIMIT // 4 + 1_000
    again = start(killed(files))
    assert state(again) == state(node)
    using(again).send("set after v")
    assert again.oplog.last.index > node.oplog.last.index


def test_a_kill_at_any_moment_of_that_loses_nothing() -> None:
    files = MemoryFiles()
    node, chance = start(files), random.Random(7)
    node.admin("create-db d t")
    client = using(node)
    for number in range(150):
        client.send(f"set k{chance.randrange(20)} {number}")
        if node.node.snapshots.are_due():
            snapshot(node)
        assert state(start(killed(files))) == state(node), number
    assert node.oplog.first > 1


def test_without_snapshots_nothing_goes() -> None:
    files = MemoryFiles()
    node = start(files)
    admin = node.admin("create-db d t")
    client = using(node)
    answer = "ok \n"
    number = 0
    while answer == "ok \n":
        answer = client.ask(f"set k{number} v")
        number += 1
    assert "the log has twice its limit" in answer
    assert node.oplog.first == 1
    assert client.ask("get k1") == "value v\nok \n"
    assert "writes: failing" in admin.ask("oplog-state")
    assert admin.ask("snapshot true $admin") == "ok \n"
    assert client.ask("set more v") == "ok \n"
    assert state(start(killed(files))) == state(node)


def test_a_database_that_does_not_change_holds_nothing_back() -> None:
    files = MemoryFiles()
    node = start(files)
    node.admin("create-db d t", "create-db still t")
    using(node, "still").send("set k v")
    snapshot(node)
    client = using(node)
    for number in range(100):
        client.send(f"set k{number} v")
    snapshot(node)
    assert node.oplog.first > 10
    assert using(start(killed(files)), "still").ask("get k") == "value v\nok \n"


def test_the_commands() -> None:
    files = MemoryFiles()
    node = written(files, 50)
    admin = node.admin()
    snapshot(node)
    last, epoch = node.oplog.last.index, node.oplog.last.epoch.number
    said = admin.ask("oplog-state")
    assert said == (
        f"oplog-state pending_ops: 0, segments: {node.oplog.segments}, bytes: {node.oplog.size},"
        f" count: {last},"
        f" first: 1, last: {last}, epoch: {epoch}, covered: {last}, writes: taken\nok \n"
    )
    size = node.oplog.size
    assert node.oplog.segments > 2
    freed = admin.ask("oplog-clean")
    assert freed == f"oplog-clean {size - node.oplog.size} bytes\nok \n"
    assert node.oplog.segments == 1
    assert admin.ask("oplog-clean 0") == "oplog-clean 0 bytes\nok \n"
    assert admin.ask("oplog-clean -1").startswith("error ")
    assert admin.ask("oplog-clean x").startswith("error invalid number")
    assert node.tcp().ask("oplog-state") == "error Not auth \n"
    assert state(start(killed(files))) == state(node)


def test_what_is_not_covered_is_not_cleaned() -> None:
    files = MemoryFiles()
    node = written(files, 20)
    admin, client = node.admin(), using(node)
    snapshot(node)
    covered = node.node.snapshots.covered()
    for number in range(60):
        client.send(f"set later{number} v")
    assert node.node.snapshots.covered() == covered
    admin.ask("oplog-clean")
    assert node.oplog.first <= covered + 1
    assert state(start(killed(files))) == state(node)


@pytest.mark.parametrize("lost", ["snapshots", "first segments"])
def test_a_gap_between_snapshots_and_log_stops_the_start(lost: str) -> None:
    files = MemoryFiles()
    written(files, 400)
    left = killed(files)
    if lost == "snapshots":
        gone = [name for name in left.contents if name.endswith(".manifest")]
    else:
        gone = logs(left)[:-1]
    for name in gone:
        del left.contents[name]
    (outcome,) = recover(left)
    assert "The log begins with operation" in str(outcome.value)  # type: ignore[union-attr]


def test_the_state_tells_of_what_was_written_before_it() -> None:
    node = start(MemoryFiles())
    node.admin("create-db d t")
    client = node.admin("use-db d t")
    client.send("set a 1\nset b 1\noplog-state")
    assert "count: 3, first: 1, last: 3," in client.received()
