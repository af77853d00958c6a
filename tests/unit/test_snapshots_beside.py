"""Snapshots and what happens beside them: drops, leftovers, other nodes, starts without a log."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import maybeDeferred

from nuntwist.core.node import Node
from nuntwist.files import MemoryFiles
from nuntwist.oplog.memory import MemoryOplog
from nuntwist.storage.disk import DiskStorage
from nuntwist.storage.memory import MemoryStorage
from nuntwist.storage.split import SplitStorage
from nuntwist.testing import MemoryNode
from tests.unit.conformance_storage import done, entries, header, load, save, split
from tests.unit.faulty import Threads


def opened(files: MemoryFiles, in_thread: Any = maybeDeferred) -> DiskStorage:
    storage = DiskStorage(files, in_thread)
    storage.open()
    return storage


def test_what_is_tidied_is_not_what_is_being_written() -> None:
    files, threads = MemoryFiles(), Threads()
    save(opened(files), header(index=5), entries(7, 2))
    opened(files).begin(header(index=7), None).write(0, entries(7, 9))  # killed during that
    storage = opened(files, threads)
    tidied = storage.tidy()  # recovery does not wait for it
    writer = storage.begin(header(index=9), None)
    writer.write(0, entries(7, 3))
    threads.run_all()
    done(tidied)
    committed = writer.commit()
    threads.run_all()
    done(committed)
    assert load(opened(files)) == {7: (header(index=9), entries(7, 3))}


def test_a_number_of_a_generation_is_not_used_twice() -> None:
    files = MemoryFiles()
    save(opened(files), header(index=5), entries(7, 2))
    opened(files).begin(header(index=7), None).write(0, entries(7, 9))
    left = set(files.names())
    opened(files).begin(header(index=9), None).write(0, entries(7, 3))
    assert len(set(files.names()) - left) == 1


@pytest.mark.parametrize("order", ["drop first", "rename first"])
def test_a_drop_during_a_commit_leaves_all_or_nothing_at_every_moment(order: str) -> None:
    files, threads = MemoryFiles(), Threads()
    storage = opened(files, threads)

    def check() -> None:
        load(opened(files))

    writer = storage.begin(split(2), None)
    writer.write(0, entries(7, 1))
    writer.write(1, entries(7, 1))
    writer.commit()
    threads.run_all()
    writer = storage.begin(split(2, index=8), [1])
    writer.write(1, entries(7, 2))
    writer.commit()
    threads.run()  # the flush; the manifest's replacement waits
    dropped = storage.drop(7)
    while threads.calls:
        threads.calls.reverse() if order == "drop first" else None
        threads.run()
        check()
    done(dropped)
    assert load(opened(files)) == {}


def test_a_cold_start_that_was_killed_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    node = MemoryNode(MemoryOplog(), storage)
    node.admin("create-db d t", "create-db e t", "snapshot false $admin", "drop-db d")
    assert sorted(storage.saved) == [0, 2]
    oplog = MemoryOplog()
    monkeypatch.setattr("nuntwist.testing.Node", partial(Node, elsewhere=True))
    node = MemoryNode(oplog, storage)
    assert b"d" not in node.node.catalogue.by_name
    node.admin("create-db f t")
    again = MemoryNode(oplog, storage)
    assert b"f" in again.node.catalogue.by_name


def test_what_the_written_storage_holds_of_a_later_time_is_not_taken_for_ours() -> None:
    write = MemoryStorage()
    other = MemoryNode(MemoryOplog(), write)
    other.admin("create-db x t", "use-db x t", *(f"set k{n} other" for n in range(50)))
    other.admin("snapshot false $admin")
    read, oplog = MemoryStorage(), MemoryOplog()
    MemoryNode(oplog, read).admin("create-db d t", "use-db d t", "set k1 ours")
    node = MemoryNode(oplog, SplitStorage(read, write))
    assert node.admin().ask("snapshot false $admin") == "ok \n"
    assert node.node.snapshots.covered() <= oplog.last.index
    header, parts = write.saved[1]
    assert header.name == b"d"
    assert b"ours" in [op[0] for p in parts.values() for e in p for op in e]
    assert MemoryNode(oplog, write).node.catalogue.by_name.keys() == {b"$admin", b"d"}


def test_a_database_named_twice_is_written_once() -> None:
    files = MemoryFiles()
    threads = Threads()
    storage = DiskStorage(files, threads)
    node = MemoryNode(MemoryOplog(), storage)
    threads.run_all()
    admin = node.admin("create-db d t", "use-db d t", *(f"set k{n} v" for n in range(5000)))
    admin.send("snapshot true d|d")
    node.settle()
    while threads.calls:
        threads.run()
        node.settle()
    assert admin.received() == "ok \n"
    admin.received()
    admin.send("remove k1\nsnapshot false d|d")
    node.settle()
    while threads.calls:
        threads.run()
        node.settle()
    assert admin.received().endswith("ok \n")
    assert b"k1" not in [op[6] for op in load(opened(files))[1][1]]


def test_names_last_before_what_they_took_the_place_of_goes() -> None:
    files = MemoryFiles()
    storage = opened(files)
    save(storage, header(index=5), entries(7, 5))
    writer = storage.begin(header(index=9), None)
    writer.write(0, entries(7, 1))
    seen: list[str] = []
    step = files.step

    def note(operation: str) -> None:
        seen.append(operation)
        step(operation)

    files.step = note  # type: ignore[method-assign]
    again = opened(files)
    done(again.tidy())
    assert seen == ["sync", "remove"]


def test_a_database_that_is_new_does_not_keep_the_whole_log() -> None:
    node = MemoryNode()
    node.admin("create-db d t", "use-db d t", *(f"set k{n} v" for n in range(50)))
    node.admin("snapshot false $admin")
    covered = node.node.snapshots.covered()
    assert covered == node.oplog.last.index
    node.admin("create-db e t")
    assert node.node.snapshots.covered() == covered
