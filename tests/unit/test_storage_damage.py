"""Snapshots in files: damage at every byte, files of another kind, and the bytes of the formats."""

from __future__ import annotations

import errno
import json
import struct
import zlib
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuntwist.errors import CorruptData
from nuntwist.files import MemoryFiles
from nuntwist.interfaces import SnapshotHeader
from nuntwist.storage import format as snapshot
from nuntwist.storage import manifest as manifests
from nuntwist.storage.disk_names import manifest_name, part_name
from nuntwist.storage.manifest import Manifest
from nuntwist.values import SET, Epoch, Op
from tests.unit.conformance_storage import (
    done,
    entries,
    entry,
    header,
    load,
    save,
    save_parts,
    split,
)
from tests.unit.test_storage_files import MANIFEST, NAME, held, names, opened

WHOLE = "database-7.snapshot"
"""What releases before partitions wrote."""


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles()


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
        ({"parts": []}, "no partitions"),
        ({"parts": [False]}, "another type"),
        ({"parts": [{"name": 1, "index": 1, "entries": 1, "size": 1, "crc32": 1}]}, "another type"),
        ({"id": "7", "parts": [None]}, "another type"),
        ({"stamp": 1 << 64, "parts": [None]}, "another type"),
        ({"generation": True, "parts": [None]}, "another type"),
        ({"name": "\ud800"}, "not UTF-8"),
        ({"format": "x\n" * 1000}, "format of that kind is not known"),
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


@pytest.mark.parametrize("name", ["lock", "database-8-1-00.part", "../x"])
def test_a_manifest_that_names_another_file_is_damaged(
    files: MemoryFiles, saved: dict[str, bytes], name: str
) -> None:
    """It would be removed with the snapshot."""
    found = manifests.decode(saved[MANIFEST], MANIFEST)
    parts = tuple(part and replace(part, name=name) for part in found.parts)
    content = replace(found, parts=parts).encode()
    assert "names something" in damaged(files, content, MANIFEST).reason


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
