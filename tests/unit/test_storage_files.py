"""Snapshots in files: crashes at every step, damage at every byte, disks that fail."""

from __future__ import annotations

import errno
import json
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, maybeDeferred

from nuntwist.errors import CorruptData, StartError, StorageUnavailable
from nuntwist.files import MemoryFiles, Stopped
from nuntwist.interfaces import IStorage, SnapshotHeader
from nuntwist.storage import format as snapshot
from nuntwist.storage import manifest as manifests
from nuntwist.storage.disk import DiskStorage, manifest_name, part_name
from nuntwist.storage.manifest import Manifest
from nuntwist.values import SET, Epoch, Op
from tests.unit.conformance_storage import (
    StorageConformance,
    done,
    entries,
    entry,
    header,
    load,
    save,
    save_parts,
    split,
)

NAME = part_name(7, 1, 0)
"""The one partition of the first snapshot of database 7."""
MANIFEST = manifest_name(7)
WHOLE = "database-7.snapshot"


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


# -- damage --------------------------------------------------------------------------------------


@pytest.fixture
def saved(files: MemoryFiles) -> dict[str, bytes]:
    save(opened(files), header(), entries(7, 2), entries(7, 3)[2:])
    return held(files)


def damaged(files: MemoryFiles, content: bytes, name: str = NAME) -> CorruptData:
    """What is said where one file holds something else; nothing may be changed."""
    files.contents[name] = bytearray(content)
    before = held(files)
    with pytest.raises(CorruptData) as caught:
        load(opened(files))
    assert held(files) == before
    assert caught.value.path == name
    return caught.value


def test_a_file_cut_short_anywhere_is_found(files: MemoryFiles, saved: dict[str, bytes]) -> None:
    for size in range(len(saved[NAME])):
        assert damaged(files, saved[NAME][:size]).offset <= size
    files.contents[NAME] = bytearray(saved[NAME])
    # The last byte of a manifest is a line end.
    for size in range(len(saved[MANIFEST]) - 1):
        assert damaged(files, saved[MANIFEST][:size], MANIFEST).offset <= size


def test_every_flipped_bit_is_found(files: MemoryFiles, saved: dict[str, bytes]) -> None:
    for at in range(len(saved[NAME])):
        for bit in range(8):
            content = bytearray(saved[NAME])
            content[at] ^= 1 << bit
            assert damaged(files, bytes(content)).offset <= at


def test_every_flipped_bit_of_a_manifest_is_found_or_changes_nothing(
    files: MemoryFiles, saved: dict[str, bytes]
) -> None:
    whole = manifests.decode(saved[MANIFEST], MANIFEST)
    for at in range(len(saved[MANIFEST])):
        for bit in range(8):
            content = bytearray(saved[MANIFEST])
            content[at] ^= 1 << bit
            with suppress(CorruptData):
                # White space is no part of it.
                assert manifests.decode(bytes(content), MANIFEST) == whole


def test_more_than_a_snapshot_is_found(files: MemoryFiles, saved: dict[str, bytes]) -> None:
    assert "follows its end" in damaged(files, saved[NAME] + b"\0").reason
    assert "follows its end" in damaged(files, saved[NAME] * 2).reason


def test_a_file_that_is_missing_is_told(files: MemoryFiles, saved: dict[str, bytes]) -> None:
    del files.contents[NAME]
    with pytest.raises(CorruptData, match=r"database-7-1-00\.part .*the file is missing"):
        load(opened(files))


def test_a_file_of_another_snapshot_is_found(files: MemoryFiles, saved: dict[str, bytes]) -> None:
    storage = opened(files)
    save(storage, header(index=6), entries(7, 3, b"w"))
    error = damaged(files, saved[NAME], part_name(7, 2, 0))
    assert "not the file that the manifest names" in error.reason
    save_parts(storage, split(2), None, {0: entries(7, 1), 1: entries(7, 1)})
    second = bytes(files.contents[part_name(7, 3, 1)])
    assert "holds partition 1" in damaged(files, second, part_name(7, 3, 0)).reason


def test_a_block_left_out_is_found(files: MemoryFiles, saved: dict[str, bytes]) -> None:
    parts = [snapshot.begin(header(), 0), snapshot.entries(entries(7, 2)), snapshot.end(3)]
    assert "as many entries" in damaged(files, b"".join(parts)).reason


def test_blocks_of_the_wrong_kind_are_found(files: MemoryFiles, saved: dict[str, bytes]) -> None:
    begin, end = snapshot.begin(header(), 0), snapshot.end(0)
    assert "no header" in damaged(files, snapshot.MAGIC + end).reason
    assert "unknown kind" in damaged(files, begin + begin[len(snapshot.MAGIC) :] + end).reason


def block(kind: int, body: bytes) -> bytes:
    """A block with a right checksum."""
    fixed = struct.pack("<BI", kind, len(body))
    return fixed + struct.pack("<I", zlib.crc32(body, zlib.crc32(fixed))) + body


def test_a_header_that_does_not_add_up_is_found(
    files: MemoryFiles, saved: dict[str, bytes]
) -> None:
    for form, size, reason in [(2, 3, "header"), (2, 0, "header"), (3, 1, "newer release")]:
        body = struct.pack("<IQQIIQQII", form, 7, 5, 0, 1, 0, 0, size, 5) + b"dnewer"
        content = snapshot.MAGIC + block(1, body) + snapshot.end(0)
        assert reason in damaged(files, content).reason


@pytest.mark.parametrize("body", [b"x", bytes(31), b"\1" + bytes(31), b"\0\0\0\0\1" + bytes(27)])
def test_entries_that_do_not_add_up_are_found(
    files: MemoryFiles, saved: dict[str, bytes], body: bytes
) -> None:
    content = snapshot.begin(header(), 0) + block(2, body) + snapshot.end(1)
    assert "ends within an entry" in damaged(files, content).reason


def test_a_manifest_under_the_name_of_another_is_found(
    files: MemoryFiles, saved: dict[str, bytes]
) -> None:
    error = damaged(files, saved[MANIFEST], manifest_name(8))
    assert "it is of database 7" in error.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 2}, "newer release"),
        ({"parts": None}, "another type"),
        ({"index": None}, "checksum"),
        ({"name": 7}, "checksum"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(change: dict[str, Any], reason: str) -> None:
    fields = json.loads(Manifest(header(), 1, 1, (None,)).encode()) | change
    if "parts" in change:
        del fields["checksum"]
        fields["checksum"] = manifests._checksum(fields)
    with pytest.raises(CorruptData, match=reason):
        manifests.decode(json.dumps(fields).encode(), MANIFEST)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_rubbish_is_no_manifest(content: bytes) -> None:
    with pytest.raises(CorruptData):
        manifests.decode(content, MANIFEST)


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


GOLDEN_PART = (
    "4e554e534e41500a"
    "013d0000004598bd41"
    "020000000700000000000000221100000000000000000000010000000300000000000000bc0a0000"
    "00000000040000000500000073686f706e65776572"
    "022800000024052e19"
    "03000000050000000300000000000000211100000000000008070605040302016b657976616c7565"
    "0221000000d70a3c3b"
    "0100000000000000feffffffffffffff201100000000000007070605040302016b"
    "0308000000cf5b97f6"
    "0200000000000000"
)  # fmt: skip
"""A partition file of format 2, likewise."""
GOLDEN_CHECKSUM = 2538021424


def test_a_whole_database_in_one_file_of_format_1_stays_readable(files: MemoryFiles) -> None:
    files.contents[WHOLE] = bytearray(GOLDEN)
    storage = opened(files)
    assert load(storage) == {7: (GOLDEN_HEADER, GOLDEN_ENTRIES)}
    # It cannot be added to: the next snapshot is written whole, and then it goes.
    assert dict(storage.held) == {}
    save(storage, GOLDEN_HEADER, GOLDEN_ENTRIES)
    assert files.names() == names(1)
    assert load(opened(files)) == {7: (GOLDEN_HEADER, GOLDEN_ENTRIES)}


def test_what_is_left_of_format_1_goes(files: MemoryFiles) -> None:
    storage = opened(files)
    files.contents[WHOLE] = bytearray(GOLDEN)
    files.failing["remove"] = errno.EIO
    save(storage, header(index=6), entries(7, 1))
    files.failing.clear()
    assert WHOLE in files.names()
    assert load(opened(files)) == {7: (header(index=6), entries(7, 1))}
    assert files.names() == names(1)
    files.contents[WHOLE] = bytearray(GOLDEN)
    done(opened(files).drop(7))
    assert files.names() == []


@pytest.mark.parametrize("damage", [3, 40, len(GOLDEN) - 3])
def test_damage_of_format_1_is_found(files: MemoryFiles, damage: int) -> None:
    content = bytearray(GOLDEN)
    content[damage] ^= 1
    assert damaged(files, bytes(content), WHOLE).offset <= damage
    files.contents = {"database-8.snapshot": bytearray(GOLDEN)}
    with pytest.raises(CorruptData, match=r"database-8\.snapshot.*it holds database 7"):
        load(opened(files))


def test_the_bytes_are_those_of_the_page(files: MemoryFiles) -> None:
    head = replace(GOLDEN_HEADER, epoch=Epoch(3, 0xABC), stamp=9, databases=((8, b"e"),))
    save(opened(files), head, GOLDEN_ENTRIES[:1], GOLDEN_ENTRIES[1:])
    assert bytes(files.contents[NAME]).hex() == GOLDEN_PART
    assert json.loads(files.contents[MANIFEST]) == {
        "format": 1,
        "id": 7,
        "name": "shop",
        "strategy": "newer",
        "index": 0x1122,
        "epoch": [3, 0xABC],
        "stamp": 9,
        "generation": 1,
        "writer": 0xABC,
        "parts": [
            {
                "name": NAME,
                "index": 0x1122,
                "entries": 2,
                "size": len(files.contents[NAME]),
                "crc32": zlib.crc32(files.contents[NAME]),
            }
        ],
        "databases": [[8, "e"]],
        "checksum": GOLDEN_CHECKSUM,
    }


@given(
    st.integers(0, 2**64 - 1),
    st.text(max_size=20).map(str.encode),
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
