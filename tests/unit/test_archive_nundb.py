"""NunDB's files, made by hand as they are described."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nuntwist.archive.nundb import (
    databases_in,
    entries_in,
    member,
    of_admin,
    old_databases_in,
    strategy_in,
)
from nuntwist.errors import CorruptData
from nuntwist.values import KEY, VALUE, VERSION


def key_record(key: bytes, version: int, address: int) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<iQ", version, address)


def value_record(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value + struct.pack("<i", 0)


def files(*entries: tuple[bytes, bytes, int]) -> tuple[bytes, bytes]:
    """The two files of a database with these keys, values and versions."""
    keys = values = b""
    for key, value, version in entries:
        keys += key_record(key, version, len(values))
        values += value_record(value)
    return keys, values


def found(keys: bytes, values: bytes) -> list[tuple[bytes, bytes | None, int]]:
    return [(op[KEY], op[VALUE], op[VERSION]) for op in entries_in("shop", keys, values)]


def test_keys_and_values() -> None:
    entries = [(b"a", b"1", 0), ("clé".encode(), "ü ; x".encode(), 12), (b"empty", b"", 3)]
    assert found(*files(*entries)) == entries
    assert found(b"", b"") == []


def test_deleted_keys_are_not_read_and_the_last_of_a_key_counts() -> None:
    values = value_record(b"old") + value_record(b"new")
    keys = (
        key_record(b"gone", -1, 1 << 63)
        + key_record(b"k", 1, 0)
        + key_record(b"back", -1, 0)
        + key_record(b"later", 4, 0)
        + key_record(b"k", 2, 15)
        + key_record(b"back", 1, 15)
        + key_record(b"later", -1, 15)
    )
    assert found(keys, values) == [(b"k", b"new", 2), (b"back", b"new", 1)]


def test_every_cut_of_the_keys_is_seen() -> None:
    keys, values = files((b"first", b"1", 0), (b"second", b"2", 0))
    ends = {0, len(key_record(b"first", 0, 0))}
    for size in range(len(keys)):
        if size in ends:
            continue
        with pytest.raises(CorruptData, match=r"shop-nun\.data\.keys is damaged at byte \d+: it e"):
            found(keys[:size], values)


def test_every_cut_of_the_last_value_is_seen() -> None:
    keys, values = files((b"a", b"first", 0), (b"b", b"second", 0))
    start = len(value_record(b"first"))
    for size in range(start, len(values)):
        with pytest.raises(CorruptData) as damage:
            found(keys, values[:size])
        assert (damage.value.path, damage.value.offset) == ("shop-nun.data.values", start)


@pytest.mark.parametrize(
    ("key", "value", "version", "reason"),
    [
        (b"\xff", b"v", 0, "the key is not valid UTF-8"),
        (b"k", b"\xff", 0, "the value is not valid UTF-8"),
        (b"k", b"a\nb", 0, "the value holds a line break"),
        (b"", b"v", 0, "the key is empty"),
        (b"k", b"v", -3, "-3 is not a version"),
    ],
)
def test_odd_entries_are_named_with_their_place(
    key: bytes, value: bytes, version: int, reason: str
) -> None:
    keys, values = files((b"good", b"v", 0), (key, value, version))
    with pytest.raises(CorruptData) as damage:
        found(keys, values)
    assert (damage.value.path, damage.value.offset) == ("shop-nun.data.keys", 24)
    assert damage.value.reason == reason


KEYS, VALUES = files((b"a", b"1", 0), (b"b", b"22", -1), (b"c", b"333", 7))


@given(st.binary(max_size=100), st.binary(max_size=100))
@example(b"\xff" * 8, b"")
@example(key_record(b"k", 0, 2**64 - 1), b"x")
@example(key_record(b"k", 0, 0), b"\xff" * 20)
def test_the_reader_raises_nothing_else(keys: bytes, values: bytes) -> None:
    for pair in ((keys, values), (KEYS + keys, VALUES + values), (keys, VALUES)):
        with contextlib.suppress(CorruptData):
            found(*pair)


@given(st.integers(0, len(KEYS) - 1), st.integers(1, 255))
def test_spoiled_keys_raise_nothing_else(at: int, change: int) -> None:
    spoiled = bytearray(KEYS)
    spoiled[at] ^= change
    with contextlib.suppress(CorruptData):
        found(bytes(spoiled), VALUES)


def test_the_strategy() -> None:
    for number, name in enumerate((b"none", b"newer", b"arbiter")):
        assert strategy_in("m", struct.pack("<Qi", 9, number)) == name
    for odd in (b"", b"x" * 11, b"x" * 13, struct.pack("<Qi", 9, 3), struct.pack("<Qi", 9, -1)):
        with pytest.raises(CorruptData):
            strategy_in("m", odd)


def test_which_databases_a_directory_has() -> None:
    names = ["b-nun.data.keys", "b-nun.data.values", "b-nun.madadata", "$admin-nun.data.keys"]
    names += ["keys-nun.keys", "oplog-nun.op", "b-nun.data.keys.old", "-nun.data.keys"]
    names += ["old-nun.data", "b-nun.data", "a-b-nun.data.keys"]
    assert databases_in(names) == ["$admin", "a-b", "b"]
    assert old_databases_in(names) == ["old"]


def test_what_is_taken_of_admin() -> None:
    entries = [(b"$admin", b"{}", 0), (b"shop", b"{}", 0), (b"own", b"v", 2), (b"$$token", b"t", 0)]
    ops = list(entries_in("$admin", *files(*entries, (b"$connections", b"1", 1))))
    assert [op[KEY] for op in of_admin(ops)] == [b"own"]
    assert member("$admin", b"none").strategy == b"newer"
