"""Snapshots in files: crashes at every step, disks that fail."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import Deferred, maybeDeferred

from nuntwist.errors import StartError, StorageUnavailable
from nuntwist.files import MemoryFiles, Stopped
from nuntwist.interfaces import IStorage
from nuntwist.storage.disk import DiskStorage
from nuntwist.storage.disk_names import manifest_name, part_name
from tests.unit.conformance_storage import (
    StorageConformance,
    done,
    entries,
    header,
    load,
    save,
    save_parts,
    split,
)
from tests.unit.faulty import FaultyFiles

NAME = part_name(7, 1, 0)
"""The one partition of the first snapshot of database 7."""
MANIFEST = manifest_name(7)


class TestDiskStorage(StorageConformance):
    def make(self) -> IStorage:
        self.files = MemoryFiles()
        return DiskStorage(self.files, maybeDeferred)

    def again(self, storage: IStorage) -> IStorage:
        self.files.restart(power_lost=True)
        return opened(self.files)


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles()


def opened(files: MemoryFiles) -> DiskStorage:
    """What a start that goes well finds."""
    storage = DiskStorage(files, maybeDeferred, 0xABC)
    storage.open()
    done(storage.tidy())
    return storage


def names(generation: int) -> list[str]:
    """The files of a snapshot of database 7 in one partition."""
    return sorted([MANIFEST, part_name(7, generation, 0)])


def held(files: MemoryFiles) -> dict[str, bytes]:
    return {name: bytes(content) for name, content in files.contents.items()}


# -- crashes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("power_lost", [False, True])
def test_a_process_that_ends_in_any_step_leaves_the_old_or_the_new(power_lost: bool) -> None:
    old = (header(index=5), entries(7, 5))
    new = (header(index=9), entries(7, 4, b"new"))
    outcomes = []
    for stop_at in range(20):
        files = MemoryFiles()
        save(opened(files), *old)
        files.stop_at = files.steps + stop_at
        try:
            save(opened(files), new[0], new[1][:2], new[1][2:])
            ended = False
        except Stopped:
            ended = True
        files.restart(power_lost=power_lost)
        found = load(opened(files))[7]
        assert found == new or (ended and found == old), stop_at
        assert files.names() in (names(1), names(2))
        outcomes.append(found)
    assert outcomes.count(old) >= 6
    assert new in outcomes


def test_a_first_snapshot_that_was_not_finished_is_none(files: MemoryFiles) -> None:
    storage = opened(files)
    storage.begin(header(), None).write(0, entries(7, 3))
    assert files.names() == [NAME]
    again = DiskStorage(files, maybeDeferred)
    again.open()
    assert load(again) == {}
    # Only when the start has gone well: it might be what is left of a lost snapshot.
    assert files.names() == [NAME]
    done(again.tidy())
    assert files.names() == []


def test_nothing_but_unfinished_snapshots_is_removed(files: MemoryFiles) -> None:
    others = ["database-7.snapshot.old", "database-x.snapshot", "database-07.snapshot", "node.json"]
    others += ["database-07.manifest", "database-7-1.part", "database-7-1-0.part", "x.part"]
    for name in others:
        files.append_to(name).write(b"x")
    for name in ("database-7.snapshot.new", "database-7.manifest.new", part_name(7, 3, 11)):
        files.append_to(name)
    assert load(opened(files)) == {}
    assert files.names() == sorted(others)


def test_it_is_in_its_place_only_when_it_is_durable(files: MemoryFiles) -> None:
    waiting: list[tuple[Callable[[], object], Deferred[Any]]] = []

    def later(function: Callable[..., object], *arguments: object) -> Deferred[Any]:
        waiting.append((partial(function, *arguments), Deferred()))
        return waiting[-1][1]

    storage = DiskStorage(files, later)
    writer = storage.begin(header(), None)
    writer.write(0, entries(7, 1))
    steps = files.steps
    fired: list[object] = []
    writer.commit().addCallback(fired.append)
    assert (load(storage), fired, files.steps) == ({}, [], steps)
    calls = 0
    while waiting:
        assert (fired, dict(storage.held)) == ([], {}) or calls > 1
        function, deferred = waiting.pop(0)
        deferred.callback(function())
        calls += 1
    assert (fired, calls) == ([None], 3)
    files.restart(power_lost=True)
    assert load(opened(files)) == {7: (header(), entries(7, 1))}


# -- disks that fail -------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["open", "write", "sync", "rename"])
def test_a_snapshot_that_fails_leaves_the_old_one(files: MemoryFiles, operation: str) -> None:
    storage = opened(files)
    save(storage, header(index=5), entries(7, 5))
    files.failing[operation] = errno.EIO
    with pytest.raises(StorageUnavailable, match=r"^Input/output error$"):
        save(storage, header(index=9), entries(7, 1))
    files.failing.clear()
    assert set(names(1)) <= set(files.names())
    for one in (storage, opened(files)):
        assert load(one) == {7: (header(index=5), entries(7, 5))}
    save(storage, header(index=9), entries(7, 1))
    assert load(storage) == {7: (header(index=9), entries(7, 1))}
    assert load(opened(files)) == {7: (header(index=9), entries(7, 1))}
    assert len(files.names()) == 2


@pytest.mark.parametrize("power_lost", [False, True])
@pytest.mark.parametrize("operation", ["open", "write", "sync", "rename", "remove"])
def test_any_single_failure_leaves_the_old_or_the_new(operation: str, power_lost: bool) -> None:
    outcomes = []
    for call in range(1, 9):
        files = FaultyFiles()
        storage = opened(files)
        save_parts(storage, split(2), None, {0: entries(7, 3), 1: entries(7, 1)})
        files.faults[operation, files.calls[operation] + call] = errno.EIO
        try:
            save_parts(storage, split(2, index=8), [1], {1: entries(7, 2, b"new")})
            failed = False
        except StorageUnavailable:
            failed = True
        expected = entries(7, 1) if failed else entries(7, 2, b"new")
        expected = [*entries(7, 3), *expected]
        assert load(storage) == {7: (split(2, index=5 if failed else 8), expected)}
        files.restart(power_lost=power_lost)
        again = opened(files)
        assert load(again) == load(storage)
        save_parts(again, split(2, index=11), [0], {0: entries(7, 1)})
        assert load(again)[7][1] == [*entries(7, 1), *expected[3:]]
        assert len(files.names()) == 3
        outcomes.append(failed)
    # What cannot be removed is no failure; any other is, wherever it comes.
    assert outcomes.count(True) == {"write": 4, "sync": 3, "open": 2, "rename": 1}.get(operation, 0)


class NamesLost(MemoryFiles):
    """Renames, but then cannot say whether the name is on the disk."""

    broken = False

    def rename(self, old: str, new: str) -> None:
        super().rename(old, new)
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")


def test_a_manifest_that_may_be_in_its_place_can_be_read_in_either_case() -> None:
    files = NamesLost()
    storage = opened(files)
    save(storage, header(index=5), entries(7, 5))
    before = held(files)
    files.broken = True
    with pytest.raises(StorageUnavailable):
        save(storage, header(index=9), entries(7, 1))
    files.broken = False
    # The new one is there; a loss of power might have left the old.
    new, old = MemoryFiles(), MemoryFiles()
    new.contents = {name: bytearray(content) for name, content in held(files).items()}
    old.contents = {n: bytearray(c) for n, c in (held(files) | before).items()}
    assert load(opened(new)) == {7: (header(index=9), entries(7, 1))}
    assert load(opened(old)) == {7: (header(index=5), entries(7, 5))}
    # And this process goes on from the old one, whatever the disk says.
    assert dict(storage.held) == {7: header(index=5)}
    save_parts(storage, header(index=11), [], {})
    assert load(opened(files)) == {7: (header(index=11), entries(7, 5))}
    assert len(files.names()) == 2


def test_a_disk_full_at_any_byte_leaves_the_old_one(files: MemoryFiles) -> None:
    storage = opened(files)
    save(storage, header(index=5), entries(7, 2))
    before = held(files)
    roomy = MemoryFiles()
    save_or_abort(opened(roomy))
    size = sum(map(len, held(roomy).values()))
    for room in range(size):
        files.room = room
        with pytest.raises(StorageUnavailable, match=r"^No space left on device$"):
            save_or_abort(storage)
        assert before.items() <= held(files).items()
        assert load(storage) == {7: (header(index=5), entries(7, 2))}
        opened(files)
        assert (held(files), files.room) == (before, room)
    # The new manifest is a little longer than the first one was.
    files.room = size + 20
    save_or_abort(storage)
    assert load(storage) == {7: (header(index=9), entries(7, 3))}
    assert len(files.names()) == 2


def save_or_abort(storage: DiskStorage) -> None:
    """Take a snapshot; abort it where it can't be written."""
    writer = storage.begin(header(index=9), None)
    try:
        writer.write(0, entries(7, 1))
        writer.write(0, entries(7, 3)[1:])
    except StorageUnavailable:
        writer.abort()
        raise
    done(writer.commit())


def test_what_could_not_be_written_cannot_be_committed(files: MemoryFiles) -> None:
    storage = opened(files)
    writer = storage.begin(header(), None)
    files.room = 10
    with pytest.raises(StorageUnavailable):
        writer.write(0, entries(7, 3))
    files.room = None
    with pytest.raises(StorageUnavailable, match="No space left on device"):
        done(writer.commit())
    assert load(opened(files)) == {}
    assert files.names() == []


def test_each_file_is_closed_once() -> None:
    closed: list[str] = []

    class Counting(MemoryFiles):
        def create(self, name: str) -> Any:
            handle: Any = super().create(name)
            handle.close = lambda: closed.append(name)
            return handle

    counting = Counting()
    save_parts(opened(counting), split(3), None, {0: entries(7, 1), 2: entries(7, 1)})
    assert sorted(closed) == [part_name(7, 1, 0), part_name(7, 1, 2), f"{MANIFEST}.new"]


def test_what_is_left_when_nothing_can_be_removed_goes_at_the_next_start(
    files: MemoryFiles,
) -> None:
    storage = opened(files)
    writer = storage.begin(header(), None)
    writer.write(0, entries(7, 1))
    files.failing = {"remove": errno.EIO}
    writer.abort()
    opened(files)
    assert files.names() == [NAME]
    files.failing.clear()
    opened(files)
    assert files.names() == []


def test_what_an_earlier_try_left_is_no_part_of_the_next(files: MemoryFiles) -> None:
    storage = opened(files)
    storage.begin(header(index=3), None).write(0, entries(7, 50))
    save(storage, header(index=4), entries(7, 1))
    assert load(storage) == {7: (header(index=4), entries(7, 1))}
    assert load(opened(files)) == {7: (header(index=4), entries(7, 1))}
    assert files.names() == names(2)


def test_a_snapshot_that_cannot_be_removed_goes_at_the_next_start(files: MemoryFiles) -> None:
    storage = opened(files)
    save(storage, header(), entries(7, 1))
    files.failing["remove"] = errno.EIO
    done(storage.drop(7))
    assert files.names() == names(1)


def test_a_drop_that_ends_in_any_step_leaves_all_or_nothing() -> None:
    for stop_at in range(6):
        files = MemoryFiles()
        storage = opened(files)
        save_parts(storage, split(2), None, {0: entries(7, 1), 1: entries(7, 1)})
        files.stop_at = files.steps + stop_at
        with suppress(Stopped):
            done(storage.drop(7))
        files.restart()
        found = load(opened(files))
        assert found in ({}, {7: (split(2), [*entries(7, 1), *entries(7, 1)])})
        assert len(files.names()) == (3 if found else 0)


def test_snapshots_that_cannot_be_read_stop_the_start(files: MemoryFiles) -> None:
    storage = opened(files)
    save(storage, header(), entries(7, 1))
    files.failing["open"] = errno.EIO
    with pytest.raises(StartError, match=r"^The snapshots cannot be read: Input/output error\.$"):
        load(storage)
    with pytest.raises(StartError, match=r"^The snapshots cannot be read: Input/output error\.$"):
        opened(files)


def test_only_what_changed_is_written(files: MemoryFiles) -> None:
    storage = opened(files)
    save_parts(storage, split(3), None, {n: entries(7, 50) for n in range(3)})
    before = held(files)
    save_parts(storage, split(3, index=8), [1], {1: entries(7, 2)})
    assert files.names() == sorted(
        [MANIFEST, part_name(7, 1, 0), part_name(7, 2, 1), part_name(7, 1, 2)]
    )
    for name in (part_name(7, 1, 0), part_name(7, 1, 2)):
        assert bytes(files.contents[name]) == before[name]
