"""The record format: one byte after the other, there and back, and damage."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuntwist.errors import CorruptData
from nuntwist.oplog import record
from nuntwist.oplog.record import (
    HEAD_SIZE,
    TooLarge,
    check_body,
    decode,
    encode,
    read_head,
    split,
)
from nuntwist.values import CREATE_DATABASE, DROP_DATABASE, REMOVE, SET, Epoch, Op
from tests.unit.conformance_oplog import EPOCH, LATER, op
from tests.unit.conformance_records import received

U64 = st.integers(0, 2**64 - 1)


@st.composite
def batches(draw: st.DrawFn) -> list[Op]:
    """Operations with dense indexes."""
    first = draw(st.integers(1, 2**62))
    ops: list[Op] = []
    for index in range(first, first + draw(st.integers(1, 12))):
        kind = draw(st.sampled_from([SET, REMOVE, CREATE_DATABASE, DROP_DATABASE]))
        value = None if kind == REMOVE else draw(st.binary(max_size=80))
        version = draw(st.integers(-(2**63), 2**63 - 1))
        key = draw(st.binary(max_size=40))
        ops.append((value, version, index, draw(U64), kind, draw(U64), key))
    return ops


def parse(data: bytes) -> tuple[record.Head, list[Op]]:
    """A whole record, checked."""
    head = read_head(data, 0, "f", 0)
    body = data[HEAD_SIZE:]
    check_body(head, body, "f", 0)
    return head, decode(head, body, "f", 0)


def sealed(body: bytes, operations: int, **changes: int) -> bytes:
    """A record around any body, its checksums right."""
    fields = {"form": 1, "flags": 0, "reserved": 0, "first": 1, "length": len(body)} | changes
    checked = struct.pack(
        "<IIBBHIQQQQ",
        zlib.crc32(body),
        fields["length"],
        fields["form"],
        fields["flags"],
        fields["reserved"],
        operations,
        fields["first"],
        1,
        2,
        3,
    )
    return struct.pack("<I", zlib.crc32(checked)) + checked + body


def packed(flags: int = 0, kind: int = SET, reserved: int = 0, fields: bytes = b"") -> bytes:
    """One operation: key ``key``, value ``value``."""
    return struct.pack("<BBHIIQQq", kind, flags, reserved, 3, 5, 7, 99, -2) + b"keyvalue" + fields


# -- there and back ------------------------------------------------------------------------------


@given(batches(), U64, U64, U64)
def test_what_is_encoded_is_decoded(ops: list[Op], number: int, node: int, origin: int) -> None:
    head, found = parse(encode(Epoch(number, node), origin, ops))
    assert found == ops
    assert (head.first, head.last, head.operations) == (ops[0][2], ops[-1][2], len(ops))
    assert (head.epoch, head.origin) == (Epoch(number, node), origin)


GOLDEN_OPS: Sequence[Op] = [
    (b"value", 3, 0x0102030405060708, 0x1112131415161718, SET, 0x21, b"key"),
    (None, -1, 0x0102030405060709, 0x1112131415161719, REMOVE, 0x21, b"gone"),
]
GOLDEN = bytes.fromhex(
    "50e72795" "cb4aa008" "54000000" "01000000" "02000000"
    "0807060504030201" "3100000000000000" "3200000000000000" "3300000000000000"
    "010000000300000005000000" "2100000000000000" "1817161514131211" "0300000000000000"
    "6b657976616c7565"
    "020000000400000000000000" "2100000000000000" "1917161514131211" "ffffffffffffffff"
    "676f6e65"
)  # fmt: skip
"""A record of format 1, as docs/formats.md describes it: it has to stay readable for ever."""


def test_the_bytes_are_those_of_the_page() -> None:
    assert encode(Epoch(0x31, 0x32), 0x33, GOLDEN_OPS) == GOLDEN


def test_format_1_stays_readable() -> None:
    head, ops = parse(GOLDEN)
    assert ops == GOLDEN_OPS
    assert (head.epoch, head.origin) == (Epoch(0x31, 0x32), 0x33)


def test_one_checksum_covers_a_batch() -> None:
    data = encode(EPOCH, 1, [op(1), op(2), op(3)])
    assert len(data) == HEAD_SIZE + 3 * (record.OP_SIZE + 2)


# -- optional fields -----------------------------------------------------------------------------


def test_optional_fields_are_read_past() -> None:
    fields = struct.pack("<H", 6) + b"\x01\x00\x02\x00\xab\xcd"
    body = packed(flags=1, fields=fields) + packed() + packed(flags=1, fields=b"\0\0")
    _, ops = parse(sealed(body, 3))
    assert ops == [(b"value", -2, index, 99, SET, 7, b"key") for index in (1, 2, 3)]


def test_a_removal_may_have_fields() -> None:
    data = struct.pack("<BBHIIQQq", REMOVE, 1, 0, 3, 0, 7, 99, -1) + b"key" + b"\x01\x00z"
    _, ops = parse(sealed(data, 1))
    assert ops == [(None, -1, 1, 99, REMOVE, 7, b"key")]


@pytest.mark.parametrize("body", [packed(flags=2), packed(kind=9), packed(reserved=1)])
def test_what_a_newer_release_wrote_is_refused(body: bytes) -> None:
    with pytest.raises(CorruptData, match="newer release"):
        parse(sealed(body, 1))


@pytest.mark.parametrize("changes", [{"form": 2}, {"form": 0}, {"flags": 1}, {"reserved": 1}])
def test_another_format_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(CorruptData, match="newer release"):
        parse(sealed(packed(), 1, **changes))


# -- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        sealed(b"", 0),
        sealed(packed(), 1, first=0),
        sealed(packed(), 1, length=(1 << 30) + 1),
    ],
)
def test_a_head_without_sense_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptData, match="makes no sense"):
        parse(data)


@pytest.mark.parametrize(
    ("body", "operations"),
    [
        (packed(), 2),
        (packed() + packed(), 1),
        (packed()[:-1], 1),
        (packed()[:20], 1),
        (b"", 1),
        (packed(flags=1), 1),
        (packed(flags=1, fields=b"\x05\x00a"), 1),
        (packed() + b"\0", 1),
    ],
)
def test_a_body_that_does_not_add_up_is_refused(body: bytes, operations: int) -> None:
    with pytest.raises(CorruptData, match=r"a record (ends within|does not end)"):
        parse(sealed(body, operations))


@given(st.binary(max_size=200), st.integers(1, 5))
def test_decoding_raises_nothing_else(body: bytes, operations: int) -> None:
    data = sealed(body, operations)
    with suppress(CorruptData):
        _, ops = parse(data)
        assert len(ops) == operations


def test_every_flipped_bit_is_found() -> None:
    for at in range(len(GOLDEN)):
        for bit in range(8):
            damaged = bytearray(GOLDEN)
            damaged[at] ^= 1 << bit
            with pytest.raises(CorruptData):
                parse(bytes(damaged))


def test_a_batch_that_no_reader_would_take_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "LARGEST_BODY", 100)
    with pytest.raises(TooLarge, match="137 bytes"):
        encode(EPOCH, 1, [op(1, b"", b"v" * 101)])
    encode(EPOCH, 1, [op(1, b"", b"v" * 64)])


def test_only_whole_records_in_a_row_are_taken_apart() -> None:
    records = [received(1, 3), received(4, 1), received(5, 2, LATER)]
    data = b"".join(one.data for one in records)
    assert split(data, "x") == records
    assert split(b"", "x") == []
    for end in range(1, len(data)):
        if end not in (len(records[0].data), len(records[0].data + records[1].data)):
            with pytest.raises(CorruptData):
                split(data[:end], "x")
    for place in range(0, len(data), 3):
        spoiled = bytearray(data)
        spoiled[place] ^= 4
        with pytest.raises(CorruptData):
            split(bytes(spoiled), "x")
    with pytest.raises(CorruptData, match="index 5 stands where 4 must"):
        split(records[0].data + records[2].data, "x")
