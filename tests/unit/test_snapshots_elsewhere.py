"""Snapshots kept elsewhere than the log: starts without a log, and what a log is cut by."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from nuntwist.core.node import Node
from nuntwist.errors import StartError, StorageUnavailable
from nuntwist.files import MemoryFiles, Stopped
from nuntwist.interfaces import IOplog, ISnapshotWriter, IStorage, SnapshotHeader
from nuntwist.oplog.base import NAME as BASE
from nuntwist.oplog.memory import MemoryOplog
from nuntwist.oplog.segments import FileOplog
from nuntwist.storage.memory import MemoryStorage
from nuntwist.storage.split import SplitStorage
from nuntwist.testing import MemoryNode
from nuntwist.values import KEY, STAMP, VALUE, VERSION

State = dict[bytes, dict[bytes, tuple[bytes | None, int]]]


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nuntwist.testing.Node", partial(Node, elsewhere=True))


def state(node: MemoryNode) -> State:
    """Value and version of every key of every database but ``$admin``."""
    found: State = {}
    for name, database in node.node.catalogue.by_name.items():
        ops = (op for shard in range(64) for op in database.entries(shard))
        found[name] = {op[KEY]: (op[VALUE], op[VERSION]) for op in ops}
    del found[b"$admin"]
    return found


def used(oplog: IOplog, storage: IStorage) -> MemoryNode:
    """A node with two databases, snapshotted."""
    node = MemoryNode(oplog, storage)
    for name in "de":
        node.admin(f"create-db {name} t", f"use-db {name} t", "set a 1", "set a 2", "set b 1")
    assert node.admin().ask("snapshot false $admin") == "ok \n"
    return node


def write(node: MemoryNode, *commands: str) -> None:
    """Change the database ``d``."""
    client = node.tcp()
    assert client.ask("use-db d t") == "ok \n"
    for command in commands:
        client.send(command)
    assert "error" not in client.received()


def test_a_node_without_a_log_goes_on_from_its_snapshots() -> None:
    storage, files = MemoryStorage(), MemoryFiles()
    before = used(MemoryOplog(), storage)
    last = before.oplog.last.index
    node = MemoryNode(FileOplog(files, 1), storage)
    assert state(node) == state(before)
    assert (node.oplog.base, node.oplog.last.index, node.oplog.count) == (last, last, 0)
    write(node, "set a 3", "remove b", "set c 1")
    assert (node.oplog.first, node.oplog.count) == (last + 1, 3)
    # The clock of this one is behind; what it writes is later all the same.
    database = node.node.catalogue.by_name[b"d"]
    stamps = {op[KEY]: op[STAMP] for shard in range(64) for op in database.entries(shard)}
    assert min(stamps[b"a"], stamps[b"c"]) > stamps[b"$$token"]
    again = MemoryNode(FileOplog(files, 1), storage)
    assert state(again) == state(node)
    assert again.oplog.base == last


@pytest.mark.parametrize("power_lost", [False, True])
def test_an_end_at_every_step_of_such_a_start_and_of_what_follows(power_lost: bool) -> None:
    storage = MemoryStorage()
    before = state(used(MemoryOplog(), storage))
    ended = 0
    for stop_at in range(12):
        files = MemoryFiles()
        files.stop_at = stop_at
        try:
            write(MemoryNode(FileOplog(files, 1), storage), "set a 3")
        except Stopped:
            ended += 1
        files.restart(power_lost=power_lost)
        node = MemoryNode(FileOplog(files, 1), storage)
        found = state(node)
        written = found[b"d"].pop(b"a")
        assert written in ((b"2", 1), (b"3", 2))
        assert found == {**before, b"d": {k: v for k, v in before[b"d"].items() if k != b"a"}}
        write(node, "set z 1")
        files.restart()
        assert state(MemoryNode(FileOplog(files, 1), storage))[b"d"][b"z"] == (b"1", 0)
    assert 4 <= ended < 12


def test_it_goes_on_after_the_last_entry_that_was_copied() -> None:
    storage = MemoryStorage()
    last = used(MemoryOplog(), storage).oplog.last.index
    for number, (header, parts) in storage.saved.items():
        storage.saved[number] = (replace(header, index=header.index - 2), parts)
    assert MemoryNode(MemoryOplog(), storage).oplog.last.index == last


def test_only_a_node_whose_snapshots_are_elsewhere_does_so(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    used(MemoryOplog(), storage)
    monkeypatch.setattr("nuntwist.testing.Node", Node)
    with pytest.raises(StartError, match="the end of the log is missing"):
        MemoryNode(MemoryOplog(), storage)


def test_a_log_that_has_operations_is_not_begun_anew() -> None:
    storage, oplog = MemoryStorage(), MemoryOplog()
    used(MemoryOplog(), storage)
    MemoryNode(oplog, MemoryStorage()).admin("create-db x t")
    with pytest.raises(StartError, match="the end of the log is missing"):
        MemoryNode(oplog, storage)


@pytest.mark.parametrize("content", [b"", b"7 00000000\n", b"x", b"7"])
def test_a_damaged_note_of_where_the_log_begins_stops_the_start(content: bytes) -> None:
    storage, files = MemoryStorage(), MemoryFiles()
    used(MemoryOplog(), storage)
    write(MemoryNode(FileOplog(files, 1), storage), "set a 3")
    files.restart()
    files.contents[BASE] = bytearray(content)
    with pytest.raises(Exception, match=r"oplog\.base is damaged"):
        MemoryNode(FileOplog(files, 1), storage)


class ShortOplog(MemoryOplog):
    """Keeps nothing that snapshots cover."""

    def forget(self, index: int, keep: int | None = None) -> Deferred[int]:
        return super().forget(index, 0)


class Full(MemoryStorage):
    """Takes nothing while it is full."""

    full = True

    def begin(self, header: SnapshotHeader, changed: object) -> ISnapshotWriter:
        if self.full:
            raise StorageUnavailable("full")
        return super().begin(header, changed)  # type: ignore[arg-type]


def test_the_log_is_cut_by_what_the_written_storage_holds() -> None:
    read, written, oplog = MemoryStorage(), Full(), ShortOplog()
    used(oplog, read)
    write(MemoryNode(oplog, read), "set a 3")
    held = oplog.count
    node = MemoryNode(oplog, SplitStorage(read, written))
    before = state(node)
    assert node.node.snapshots.covered() == -1
    assert node.admin().ask("snapshot true $admin") == "error storage unavailable: full \n"
    assert oplog.count == held
    written.full = False
    assert node.admin().ask("snapshot false $admin") == "ok \n"
    # Databases that have not changed since the last start are written there all the same.
    assert sorted(written.saved) == sorted(read.saved)
    assert oplog.count < held
    write(node, "remove a")
    assert state(MemoryNode(oplog, written)) == state(node) != before


def test_a_database_that_nobody_knows_any_more_goes_from_the_written_storage() -> None:
    read, written, oplog = MemoryStorage(), MemoryStorage(), MemoryOplog()
    used(oplog, read)
    node = MemoryNode(oplog, SplitStorage(read, written))
    node.admin("snapshot false $admin")
    MemoryNode(oplog, read).admin("drop-db e")
    assert len(written.saved) == 3
    MemoryNode(oplog, SplitStorage(read, written))
    assert len(written.saved) == 2


STEPS = st.lists(
    st.one_of(
        st.builds("set k{} {}".format, st.integers(0, 9), st.integers(0, 9)),
        st.builds("remove k{}".format, st.integers(0, 9)),
        st.sampled_from(["snapshot", "restart", "lose the log"]),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_without_its_log_a_node_has_what_was_snapshotted(steps: list[str]) -> None:
    storage, oplog = MemoryStorage(), ShortOplog()
    node = used(oplog, storage)
    snapshotted = state(node)
    for step in steps:
        if step == "snapshot":
            assert node.admin().ask("snapshot false $admin") == "ok \n"
            snapshotted = state(node)
        elif step == "restart":
            before = state(node)
            node = MemoryNode(oplog, storage)
            assert state(node) == before
        elif step == "lose the log":
            oplog = ShortOplog()
            node = MemoryNode(oplog, storage)
            assert state(node) == snapshotted
        else:
            write(node, step)
