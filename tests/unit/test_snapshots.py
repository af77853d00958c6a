"""Snapshots: what is written when, and what is kept when one cannot be."""

from __future__ import annotations

import errno
from collections.abc import Collection, Sequence
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from nuntwist.core.limits import Limits
from nuntwist.errors import StorageUnavailable
from nuntwist.files import MemoryFiles
from nuntwist.interfaces import ISnapshotWriter, SnapshotHeader
from nuntwist.oplog.flushed import FlushedOplog
from nuntwist.oplog.memory import MemoryOplog
from nuntwist.oplog.segments import FileOplog
from nuntwist.storage.memory import MemoryStorage
from nuntwist.testing import LineConnection, MemoryNode
from nuntwist.values import KEY, VALUE, VERSION, Op
from tests.unit.faulty import Threads

LIMITS = Limits(partitions=5, one_partition=20)


class Recording(MemoryStorage):
    """Notes what is written, and fails or waits where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[tuple[int, int, list[int] | None]] = []
        self.wrote: dict[int, set[int]] = {}
        self.failing = False
        self.waiting: list[Deferred[None]] | None = None

    def begin(self, header: SnapshotHeader, changed: Collection[int] | None) -> ISnapshotWriter:
        told = None if changed is None else sorted(changed)
        self.begun.append((header.database_id, header.partitions, told))
        writer: Any = super().begin(header, changed)
        storage, write, commit = self, writer.write, writer.commit

        class Writer:
            abort = writer.abort

            def write(self, partition: int, entries: Sequence[Op]) -> None:
                storage.wrote.setdefault(header.database_id, set()).add(partition)
                assert all(crc32(op[KEY]) % header.partitions == partition for op in entries)
                write(partition, entries)

            def commit(self) -> Deferred[None]:
                done: Deferred[None] = Deferred()
                if storage.waiting is not None:
                    storage.waiting.append(done)
                else:
                    done.callback(None)
                return done.addCallback(lambda _: self.finish())

            def finish(self) -> Deferred[None]:
                if storage.failing:
                    raise StorageUnavailable("no medium")
                finished: Deferred[None] = commit()
                return finished

        return Writer()  # type: ignore[return-value]  # it has all that is asked of one

    def taken(self) -> tuple[list[tuple[int, int, list[int] | None]], dict[int, set[int]]]:
        """What was begun and written since the last time."""
        taken = self.begun, self.wrote
        self.begun, self.wrote = [], {}
        return taken


def contents(node: MemoryNode, name: bytes = b"d") -> dict[bytes, tuple[bytes | None, int]]:
    """Value and version of each key."""
    database = node.node.catalogue.by_name[name]
    entries = (op for shard in range(64) for op in database.entries(shard))
    return {op[KEY]: (op[VALUE], op[VERSION]) for op in entries}


def saved(storage: MemoryStorage, number: int = 1) -> dict[bytes, tuple[bytes | None, int]]:
    """The same of what is kept of a database."""
    _, parts = storage.saved[number]
    return {op[KEY]: (op[VALUE], op[VERSION]) for p in parts.values() for e in p for op in e}


@pytest.fixture
def storage() -> Recording:
    return Recording()


@pytest.fixture
def node(storage: Recording) -> MemoryNode:
    node = MemoryNode(MemoryOplog(), storage, LIMITS)
    node.admin("create-db d t")
    return node


def using(node: MemoryNode) -> LineConnection:
    client = node.tcp()
    assert client.ask("use-db d t") == "ok \n"
    return client


def fill(node: MemoryNode, count: int = 100) -> LineConnection:
    client = using(node)
    for number in range(count):
        client.send(f"set k{number} {number}")
    return client


def take(node: MemoryNode, command: str = "snapshot false d") -> str:
    return node.admin().ask(command)


def part(key: str) -> int:
    return crc32(key.encode()) % 5


def test_only_partitions_in_which_something_changed_are_written(
    node: MemoryNode, storage: Recording
) -> None:
    client = fill(node)
    assert take(node) == "ok \n"
    assert storage.taken() == ([(1, 5, None)], {1: {0, 1, 2, 3, 4}})
    assert take(node) == "ok \n"
    assert storage.taken() == ([(1, 5, [])], {})
    client.send("set k7 other")
    take(node)
    assert storage.taken() == ([(1, 5, [part("k7")])], {1: {part("k7")}})
    client.send("remove k8\nset new-key 1\nset new-key 2")
    take(node)
    expected = sorted({part("k8"), part("new-key")})
    assert storage.taken()[0] == [(1, 5, expected)]
    assert saved(storage) == contents(node)
    client.send("remove k9\nset k9 again\nremove k9\nset gone 1\nremove gone")
    take(node)
    assert storage.taken()[0] == [(1, 5, sorted({part("k9"), part("gone")}))]
    assert saved(storage) == contents(node)


def test_one_that_is_to_be_whole_is(node: MemoryNode, storage: Recording) -> None:
    fill(node)
    take(node)
    storage.taken()
    take(node, "snapshot true d")
    assert storage.taken() == ([(1, 5, None)], {1: {0, 1, 2, 3, 4}})


def test_a_small_database_is_in_one_piece_until_it_grows(
    node: MemoryNode, storage: Recording
) -> None:
    client = fill(node, 5)
    take(node)
    client.send("set k1 changed")
    take(node)
    assert storage.taken()[0] == [(1, 1, None), (1, 1, [0])]
    fill(node, 50)
    take(node)
    assert storage.taken()[0] == [(1, 5, None)]
    for number in range(49):
        client.send(f"remove k{number}")
    take(node)
    assert storage.taken()[0] == [(1, 5, [0, 1, 2, 3, 4])]
    assert saved(storage) == contents(node)


def test_after_a_restart_it_goes_on_from_what_is_kept(storage: Recording) -> None:
    oplog = MemoryOplog()
    node = MemoryNode(oplog, storage, LIMITS)
    node.admin("create-db d t")
    client = fill(node)
    take(node, "snapshot false $admin")
    storage.taken()
    client.send("set k3 later\nremove k4")
    again = MemoryNode(oplog, storage, LIMITS)
    take(again)
    assert storage.taken()[0] == [(1, 5, sorted({part("k3"), part("k4")}))]
    assert saved(storage) == contents(again) == contents(node)


def test_what_could_not_be_written_is_written_the_next_time(
    node: MemoryNode, storage: Recording
) -> None:
    client = fill(node)
    take(node)
    before = saved(storage)
    client.send("set k1 new\nremove k2")
    storage.failing = True
    for _ in range(2):
        assert take(node) == "error storage unavailable: no medium \n"
        assert saved(storage) == before
    storage.failing = False
    client.send("remove k3")
    storage.taken()
    assert take(node) == "ok \n"
    assert storage.taken()[0] == [(1, 5, sorted({part("k1"), part("k2"), part("k3")}))]
    assert saved(storage) == contents(node)


def test_what_changes_meanwhile_is_in_the_next(node: MemoryNode, storage: Recording) -> None:
    client = fill(node)
    take(node)
    storage.taken()
    storage.waiting = []
    client.send("set k1 new")
    admin = node.admin()
    admin.send("snapshot false d")
    node.settle()
    client.send("remove k2\nset k3 new")
    (done,), storage.waiting = storage.waiting, None
    done.callback(None)
    node.settle()
    assert admin.received() == "ok \n"
    storage.taken()
    take(node)
    assert storage.taken()[0] == [(1, 5, sorted({part("k2"), part("k3")}))]
    assert saved(storage) == contents(node)


def test_a_database_split_while_keys_go_is_written_whole_after(
    node: MemoryNode, storage: Recording
) -> None:
    client = fill(node, 5)
    take(node)
    fill(node, 50)
    storage.waiting = []
    admin = node.admin()
    admin.send("snapshot false d")
    node.settle()
    client.send("remove k2")
    (done,), storage.waiting = storage.waiting, None
    done.callback(None)
    node.settle()
    storage.taken()
    take(node)
    assert storage.taken()[0] == [(1, 5, [0, 1, 2, 3, 4])]
    assert saved(storage) == contents(node)


def test_several_are_committed_at_once_and_admin_is_the_last(storage: Recording) -> None:
    storage.at_once = 3  # type: ignore[misc]
    node = MemoryNode(MemoryOplog(), storage, LIMITS)
    node.admin(*(f"create-db d{number} t" for number in range(7)))
    storage.waiting = []
    admin = node.admin()
    admin.send("snapshot false $admin")
    seen = 0
    while storage.waiting:
        node.settle()
        assert len(storage.waiting) <= 3
        if 0 in [number for number, *_ in storage.begun]:
            assert len(storage.waiting) == 1
            assert seen == 7
        storage.waiting.pop(0).callback(None)
        seen += 1
        node.settle()
    assert seen == 8
    assert admin.received() == "ok \n"
    listed = storage.saved[0][0].databases
    assert listed == tuple((number + 1, b"d%d" % number) for number in range(7))


def test_after_a_failure_no_more_are_begun(storage: Recording) -> None:
    node = MemoryNode(MemoryOplog(), storage, LIMITS)
    node.admin(*(f"create-db d{number} t" for number in range(5)))
    storage.failing = True
    assert take(node, "snapshot false $admin") == "error storage unavailable: no medium \n"
    assert len(storage.begun) <= 2
    assert storage.saved == {}


def test_those_that_were_written_beside_a_failure_count(storage: Recording) -> None:
    storage.at_once = 3  # type: ignore[misc]
    node = MemoryNode(MemoryOplog(), storage, LIMITS)
    node.admin(*(f"create-db d{number} t" for number in range(4)))
    admin = node.admin()
    storage.waiting = []
    admin.send("snapshot false $admin")
    node.settle()
    first, second, third = storage.waiting
    storage.waiting = None
    second.errback(StorageUnavailable("no medium"))
    third.callback(None)
    node.settle()
    assert admin.received() == ""
    first.callback(None)
    node.settle()
    assert admin.received() == "error storage unavailable: no medium \n"
    # No more were begun, $admin least of all, so the log is not cut.
    assert sorted(storage.saved) == [1, 3]
    assert node.node.snapshots.covered() < 1
    storage.taken()
    assert take(node, "snapshot false $admin") == "ok \n"
    assert [number for number, *_ in storage.taken()[0]] == [2, 4, 0]
    assert sorted(storage.saved) == [0, 1, 2, 3, 4]


def test_what_comes_and_goes_during_a_round_is_right_after_a_restart(storage: Recording) -> None:
    oplog = MemoryOplog()
    node = MemoryNode(oplog, storage, LIMITS)
    node.admin("create-db d t", "create-db e t", "create-db f t")
    fill(node)
    storage.waiting = []
    admin = node.admin()
    admin.send("snapshot false $admin")
    node.settle()
    node.admin("create-db new t", "drop-db e", "drop-db f", "create-db f t")
    fill(node, 5)
    while storage.waiting:
        storage.waiting.pop(0).callback(None)
        node.settle()
    assert admin.received() == "ok \n"
    assert storage.saved[0][0].databases == ((1, b"d"), (2, b"e"), (3, b"f"))
    # The log is needed from the beginning of that round on.
    covered = node.node.snapshots.covered()
    assert covered <= storage.saved[0][0].index < oplog.last.index
    storage.waiting = None
    for _ in range(2):
        node = MemoryNode(oplog, storage, LIMITS)
        assert sorted(node.node.catalogue.by_name) == [b"$admin", b"d", b"f", b"new"]
        assert contents(node, b"f").keys() == {b"$$token"}
        assert sorted(storage.saved) == [0, 1]


def test_one_that_was_dropped_meanwhile_is_not_kept(node: MemoryNode, storage: Recording) -> None:
    fill(node)
    storage.waiting = []
    admin = node.admin()
    admin.send("snapshot false d")
    node.settle()
    node.admin("drop-db d")
    (done,), storage.waiting = storage.waiting, None
    done.callback(None)
    node.settle()
    assert storage.saved == {}


class LateOplog(MemoryOplog):
    """A log that makes durable when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.late: list[Deferred[None]] | None = None

    def append(self, epoch: Any, ops: Sequence[Op]) -> Deferred[None] | None:
        if self.late is None:
            return super().append(epoch, ops)
        self.late.append(Deferred())
        return self.late[-1]


@pytest.mark.parametrize("command", ["remove k1", "set k1 never", "increment k1"])
def test_one_that_holds_what_is_taken_back_is_given_up(command: str) -> None:
    oplog, storage = LateOplog(), Recording()
    node = MemoryNode(oplog, storage, LIMITS)
    node.admin("create-db d t")
    client = fill(node)
    take(node)
    before = saved(storage)
    oplog.late = []
    client.send(command)
    admin = node.admin()
    admin.send("snapshot true d")
    node.settle()
    assert admin.received() == ""
    (lost,), oplog.late = oplog.late, None
    lost.errback(StorageUnavailable("disk full"))
    node.settle()
    # What takes the same place in the log does not make it whole.
    client.send("set k1 after")
    node.settle()
    assert admin.received().startswith("error storage unavailable: ")
    assert saved(storage) == before
    assert take(node) == "ok \n"
    assert saved(storage) == contents(node)


@pytest.mark.parametrize("command", ["remove k1", "set k1 never", "increment k1"])
def test_one_is_final_only_when_the_disk_has_the_log(command: str) -> None:
    files, threads, storage = MemoryFiles(), Threads(), Recording()
    oplog = FlushedOplog(FileOplog(files, 1, threads), before_answers=True)
    node = MemoryNode(oplog, storage, LIMITS)

    def settle() -> None:
        node.settle()
        while threads.calls:
            threads.run()
            node.settle()

    node.admin().send("create-db d t")
    settle()
    client = using(node)
    client.send("\n".join(f"set k{number} {number}" for number in range(100)))
    settle()
    admin = node.admin()
    admin.send("snapshot false d")
    settle()
    assert admin.received() == "ok \n"
    before = saved(storage)
    client.send(command)
    admin.send("snapshot true d")
    node.settle()
    files.failing["sync"] = errno.EIO
    settle()
    assert admin.received().startswith("error storage unavailable: ")
    assert saved(storage) == before
    # What nobody knows to be lost is read from the log by the next start.
    files.restart()
    again = MemoryNode(FileOplog(files, 1), storage, LIMITS)
    take(again)
    assert saved(storage) == contents(again)
    assert before.items() - contents(again).items() <= {(b"k1", (b"1", 0))}


STEPS = st.lists(
    st.one_of(
        st.builds("set k{} {}".format, st.integers(0, 40), st.integers(0, 9)),
        st.builds("remove k{}".format, st.integers(0, 40)),
        st.sampled_from(["snapshot false d", "snapshot true d", "snapshot false $admin"]),
        st.sampled_from(["fail", "work", "restart"]),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_whatever_happens_what_is_kept_is_right(steps: list[str]) -> None:
    oplog, storage = MemoryOplog(), Recording()
    limits = Limits(partitions=3, one_partition=10)
    node = MemoryNode(oplog, storage, limits)
    node.admin("create-db d t")
    client, admin = using(node), node.admin()
    for step in steps:
        if step in ("fail", "work"):
            storage.failing = step == "fail"
        elif step == "restart":
            before = contents(node)
            node = MemoryNode(oplog, storage, limits)
            client, admin = using(node), node.admin()
            assert contents(node) == before
        elif step.startswith("snapshot"):
            answer = admin.ask(step)
            assert (answer == "ok \n") is not storage.failing
            if not storage.failing:
                assert saved(storage) == contents(node)
        else:
            client.send(step)
