"""Snapshots in files: crashes at every step, damage at every byte, disks that fail."""

from __future__ import annotations

import errno
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, maybeDeferred

from nuntwist.errors import CorruptData, StartError, StorageUnavailable
from nuntwist.files import MemoryFiles, Stopped
from nuntwist.interfaces import IStorage, SnapshotHeader
from nuntwist.storage import format as snapshot
from nuntwist.storage.disk import DiskStorage, snapshot_name
from nuntwist.values import SET, Op
from tests.unit.conformance_storage import (
    StorageConformance,
    done,
    entries,
    entry,
    header,
    load,
    save,
)

NAME = snapshot_name(7)


class TestDiskStorage(StorageConformance):
    def make(self) -> IStorage:
        self.files = MemoryFiles()
        return DiskStorage(self.files, maybeDeferred)

    def again(self, storage: IStorage) -> IStorage:
        self.files.restart(power_lost=True)
        storage = DiskStorage(self.files, maybeDeferred)
        storage.open()
        return storage


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles()


def opened(files: MemoryFiles) -> DiskStorage:
    storage = DiskStorage(files, maybeDeferred)
    storage.open()
    return storage


def held(files: MemoryFiles) -> bytes:
    return bytes(files.contents[NAME])


# -- crashes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("power_lost", [False, True])
def test_a_process_that_ends_in_any_step_leaves_the_old_or_the_new(power_lost: bool) -> None:
    old = (header(index=5), entries(7, 5))
    new = (header(index=9), entries(7, 4, b"new"))
    outcomes = []
    for stop_at in range(12):
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
        assert files.names() == [NAME]
        outcomes.append(found)
    assert outcomes.count(old) >= 6
    assert new in outcomes


def test_a_first_snapshot_that_was_not_finished_is_none(files: MemoryFiles) -> None:
    storage = opened(files)
    storage.begin(header()).write(entries(7, 3))
    assert files.names() == ["database-7.snapshot.new"]
    assert load(opened(files)) == {}
    assert files.names() == []


def test_nothing_but_unfinished_snapshots_is_removed(files: MemoryFiles) -> None:
    others = ["database-7.snapshot.old", "database-x.snapshot", "database-07.snapshot", "node.json"]
    for name in others:
        files.append_to(name).write(b"x")
    files.append_to("database-7.snapshot.new")
    assert load(opened(files)) == {}
    assert files.names() == sorted(others)


def test_it_is_in_its_place_only_when_it_is_durable(files: MemoryFiles) -> None:
    waiting: list[tuple[Callable[[], None], Deferred[Any]]] = []

    def later(function: Callable[[], None]) -> Deferred[Any]:
        waiting.append((function, Deferred()))
        return waiting[-1][1]

    storage = DiskStorage(files, later)
    writer = storage.begin(header())
    writer.write(entries(7, 1))
    steps = files.steps
    fired: list[object] = []
    writer.commit().addCallback(fired.append)
    assert (load(storage), fired, files.steps) == ({}, [], steps)
    ((function, deferred),) = waiting
    function()
    deferred.callback(None)
    assert fired == [None]
    files.restart(power_lost=True)
    assert load(opened(files)) == {7: (header(), entries(7, 1))}


# -- disks that fail -------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["open", "write", "sync", "rename", "truncate"])
def test_a_snapshot_that_fails_leaves_the_old_one(files: MemoryFiles, operation: str) -> None:
    storage = opened(files)
    save(storage, header(index=5), entries(7, 5))
    files.failing[operation] = errno.EIO
    with pytest.raises(StorageUnavailable, match=r"^Input/output error$"):
        save(storage, header(index=9), entries(7, 1))
    files.failing.clear()
    assert files.names() == [NAME]
    assert load(storage) == {7: (header(index=5), entries(7, 5))}
    save(storage, header(index=9), entries(7, 1))
    assert load(storage) == {7: (header(index=9), entries(7, 1))}


def test_a_disk_full_at_any_byte_leaves_the_old_one(files: MemoryFiles) -> None:
    storage = opened(files)
    save(storage, header(index=5), entries(7, 2))
    before = held(files)
    roomy = MemoryFiles()
    save_or_abort(opened(roomy))
    size = len(held(roomy))
    for room in range(size):
        files.room = room
        with pytest.raises(StorageUnavailable, match=r"^No space left on device$"):
            save_or_abort(storage)
        assert (files.names(), held(files), files.room) == ([NAME], before, room)
    files.room = size
    save_or_abort(storage)
    assert files.room == len(before)
    assert load(storage) == {7: (header(index=9), entries(7, 3))}


def save_or_abort(storage: DiskStorage) -> None:
    """Take a snapshot; abort it where it can't be written."""
    writer = storage.begin(header(index=9))
    try:
        writer.write(entries(7, 1))
        writer.write(entries(7, 3)[1:])
    except StorageUnavailable:
        writer.abort()
        raise
    done(writer.commit())


def test_what_could_not_be_written_cannot_be_committed(files: MemoryFiles) -> None:
    storage = opened(files)
    writer = storage.begin(header())
    files.room = 10
    with pytest.raises(StorageUnavailable):
        writer.write(entries(7, 3))
    files.room = None
    with pytest.raises(StorageUnavailable, match="No space left on device"):
        done(writer.commit())
    assert files.names() == []


def test_a_file_is_closed_once() -> None:
    closed: list[int] = []

    class Counting(MemoryFiles):
        def append_to(self, name: str) -> Any:
            handle: Any = super().append_to(name)
            handle.close = lambda: closed.append(1)
            return handle

    counting = Counting()
    save(opened(counting), header())
    assert closed == [1]


def test_what_is_left_when_nothing_can_be_removed_goes_at_the_next_start(
    files: MemoryFiles,
) -> None:
    storage = opened(files)
    writer = storage.begin(header())
    files.failing = {"remove": errno.EIO}
    writer.abort()
    assert files.names() == ["database-7.snapshot.new"]
    with pytest.raises(StartError, match=r"cannot be read: Input/output error\.$"):
        opened(files)
    files.failing.clear()
    opened(files)
    assert files.names() == []


def test_what_an_earlier_try_left_is_written_over(files: MemoryFiles) -> None:
    storage = opened(files)
    storage.begin(header(index=3)).write(entries(7, 50))
    save(storage, header(index=4), entries(7, 1))
    assert load(storage) == {7: (header(index=4), entries(7, 1))}


def test_a_snapshot_that_cannot_be_removed_is_logged(files: MemoryFiles) -> None:
    storage = opened(files)
    save(storage, header(), entries(7, 1))
    files.failing["remove"] = errno.EIO
    done(storage.drop(7))
    assert files.names() == [NAME]


def test_snapshots_that_cannot_be_read_stop_the_start(files: MemoryFiles) -> None:
    storage = opened(files)
    save(storage, header())
    files.failing["open"] = errno.EIO
    with pytest.raises(StartError, match=r"^The snapshots cannot be read: Input/output error\.$"):
        load(storage)


# -- damage --------------------------------------------------------------------------------------


@pytest.fixture
def saved(files: MemoryFiles) -> bytes:
    save(opened(files), header(), entries(7, 2), entries(7, 3)[2:])
    return held(files)


def damaged(files: MemoryFiles, content: bytes) -> CorruptData:
    files.contents[NAME] = bytearray(content)
    with pytest.raises(CorruptData) as caught:
        load(opened(files))
    assert held(files) == content
    assert caught.value.path == NAME
    return caught.value


def test_a_snapshot_cut_short_anywhere_is_found(files: MemoryFiles, saved: bytes) -> None:
    for size in range(len(saved)):
        assert damaged(files, saved[:size]).offset <= size


def test_every_flipped_bit_is_found(files: MemoryFiles, saved: bytes) -> None:
    for at in range(len(saved)):
        for bit in range(8):
            content = bytearray(saved)
            content[at] ^= 1 << bit
            assert damaged(files, bytes(content)).offset <= at


def test_more_than_a_snapshot_is_found(files: MemoryFiles, saved: bytes) -> None:
    assert "follows its end" in damaged(files, saved + b"\0").reason
    assert "follows its end" in damaged(files, saved + saved).reason


def test_a_block_left_out_is_found(files: MemoryFiles) -> None:
    parts = [snapshot.begin(header()), snapshot.entries(entries(7, 2)), snapshot.end(3)]
    assert "as many entries" in damaged(files, b"".join(parts)).reason


def test_blocks_of_the_wrong_kind_are_found(files: MemoryFiles) -> None:
    begin, end = snapshot.begin(header()), snapshot.end(0)
    assert "no header" in damaged(files, snapshot.MAGIC + end).reason
    assert "unknown kind" in damaged(files, begin + begin[len(snapshot.MAGIC) :] + end).reason


def block(kind: int, body: bytes) -> bytes:
    """A block with a right checksum."""
    fixed = struct.pack("<BI", kind, len(body))
    return fixed + struct.pack("<I", zlib.crc32(body, zlib.crc32(fixed))) + body


def test_a_header_that_does_not_add_up_is_found(files: MemoryFiles) -> None:
    for form, name_size, reason in [(1, 3, "header"), (1, 0, "header"), (2, 1, "newer release")]:
        body = struct.pack("<IQQII", form, 7, 5, name_size, 5) + b"dnewer"
        content = snapshot.MAGIC + block(1, body) + snapshot.end(0)
        assert reason in damaged(files, content).reason


@pytest.mark.parametrize("body", [b"x", bytes(31), b"\1" + bytes(31), b"\0\0\0\0\1" + bytes(27)])
def test_entries_that_do_not_add_up_are_found(files: MemoryFiles, body: bytes) -> None:
    content = snapshot.begin(header()) + block(2, body) + snapshot.end(1)
    assert "ends within an entry" in damaged(files, content).reason


def test_a_snapshot_under_the_name_of_another_is_found(files: MemoryFiles, saved: bytes) -> None:
    files.contents[snapshot_name(8)] = bytearray(saved)
    with pytest.raises(CorruptData, match=r"database-8\.snapshot.*it holds database 7"):
        load(opened(files))


# -- the format ----------------------------------------------------------------------------------

GOLDEN = bytes.fromhex(
    "4e554e534e41500a"
    "0125000000ea4b2adf"
    "0100000007000000000000002211000000000000040000000500000073686f706e65776572"
    "022800000024052e19"
    "03000000050000000300000000000000211100000000000008070605040302016b657976616c7565"
    "0221000000d70a3c3b"
    "0100000000000000feffffffffffffff201100000000000007070605040302016b"
    "0308000000cf5b97f6"
    "0200000000000000"
)  # fmt: skip
"""A snapshot of format 1, as docs/formats.md describes it: it has to stay readable for ever."""
GOLDEN_HEADER = SnapshotHeader(7, b"shop", b"newer", 0x1122)
GOLDEN_ENTRIES: list[Op] = [
    (b"value", 3, 0x1121, 0x0102030405060708, SET, 7, b"key"),
    (b"", -2, 0x1120, 0x0102030405060707, SET, 7, b"k"),
]


def test_the_bytes_are_those_of_the_page(files: MemoryFiles) -> None:
    save(opened(files), GOLDEN_HEADER, GOLDEN_ENTRIES[:1], GOLDEN_ENTRIES[1:])
    assert held(files) == GOLDEN


def test_format_1_stays_readable(files: MemoryFiles) -> None:
    files.contents[NAME] = bytearray(GOLDEN)
    assert load(opened(files)) == {7: (GOLDEN_HEADER, GOLDEN_ENTRIES)}


@given(
    st.integers(0, 2**64 - 1),
    st.binary(max_size=20),
    st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=50)), max_size=20),
    st.integers(1, 7),
)
def test_what_is_saved_is_loaded(
    number: int, name: bytes, pairs: list[tuple[bytes, bytes]], piece: int
) -> None:
    storage = opened(MemoryFiles())
    ops = [entry(number, key, value, index=index) for index, (key, value) in enumerate(pairs)]
    save(
        storage,
        header(number, name=name),
        *(ops[start : start + piece] for start in range(0, len(ops), piece)),
    )
    assert load(storage) == {number: (header(number, name=name), ops)}
