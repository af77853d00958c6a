"""What releases have written stays readable, and is still what is written today."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from nuntwist.errors import CorruptData
from nuntwist.files import MemoryFiles
from nuntwist.oplog.base import NAME as BASE
from nuntwist.oplog.base import read_base
from nuntwist.oplog.inspect import Logged, look, operations
from nuntwist.oplog.record import encode
from nuntwist.oplog.segment import SEGMENT_HEAD, segment_name
from nuntwist.oplog.segments import FileOplog
from nuntwist.values import NO_EPOCH, Epoch, Op, Position

FOLDER = Path(__file__).parents[1] / "golden_formats"
NAME = segment_name(1)
ORIGIN = 0x0123456789ABCDEF
FIRST, SECOND = Epoch(1, 0x0123456789ABCDEF), Epoch(2, 0xFEDCBA9876543210)
STAMP = 1767323045678 << 16

# The numbers of the kinds as they stand in the file: names may change their meaning.
OPS: list[Op] = [
    (b"newer scrypt$hash", 0, 1, STAMP, 3, 1, b"shop"),
    (b"scrypt$hash", 0, 2, STAMP + 1, 1, 1, b"$$token"),
    ("värde\n".encode(), 2**40, 3, STAMP + 2, 1, 1, "clé".encode()),
    (b"\xff\x00", -2, 4, 2**64 - 3, 1, 2**63, b""),
    (None, -1, 5, 2**64 - 2, 2, 1, b"gone"),
    (b"", 0, 6, 2**64 - 1, 4, 1, b"shop"),
]
BATCHES = [(FIRST, OPS[:2]), (FIRST, OPS[2:3]), (SECOND, OPS[3:])]
WITH_FIELDS: list[Op] = [
    (b"v", 0, 1, STAMP, 1, 1, b"k"),
    (None, -1, 2, STAMP + 1, 2, 1, b"k"),
    (b"w", 0, 3, STAMP + 2, 1, 1, b"k"),
]


def recorded(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("oplog-record-1.seg", OPS), ("oplog-record-1-fields.seg", WITH_FIELDS)],
)
def test_a_recorded_log_is_read(name: str, wanted: list[Op]) -> None:
    files = MemoryFiles()
    files.contents[NAME] = bytearray(recorded(name))
    log = FileOplog(files, 7)
    log.open()
    assert [op for ops in log.read(0) for op in ops] == wanted
    assert log.last_stamp == wanted[-1][3]
    assert log.last == Position(SECOND if wanted is OPS else FIRST, len(wanted))
    found = list(operations(files))
    assert [one.op for one in found if isinstance(one, Logged)] == wanted
    assert {one.origin for one in found if isinstance(one, Logged)} == {ORIGIN}
    assert [(report.torn, report.damage) for report in look(files)] == [(0, None)]
    assert files.contents[NAME] == recorded(name)


def test_the_same_is_written_today() -> None:
    files = MemoryFiles()
    log = FileOplog(files, ORIGIN)
    log.open()
    for epoch, ops in BATCHES:
        log.append(epoch, ops)
    assert bytes(files.contents[NAME]) == recorded("oplog-record-1.seg")


def test_the_file_with_fields_differs_by_them_alone() -> None:
    """So it is no other version: without the fields it has the bytes of the writer."""
    data = recorded("oplog-record-1-fields.seg")
    plain = SEGMENT_HEAD + encode(FIRST, ORIGIN, WITH_FIELDS)
    fields = b"\x0b\x00" + b"\x01\x08\x00requests"
    assert data.count(fields) == 1
    assert len(data) == len(plain) + len(fields) + 2


@pytest.mark.parametrize(
    ("name", "epoch"), [("oplog-base-1", NO_EPOCH), ("oplog-base-2", Epoch(3, SECOND.node))]
)
def test_where_a_recorded_log_begins(name: str, epoch: Epoch) -> None:
    files = MemoryFiles()
    files.contents[BASE] = bytearray(recorded(name))
    begun = segment_name(4712)
    files.contents[begun] = bytearray(SEGMENT_HEAD)
    log = FileOplog(files, ORIGIN)
    log.open()
    assert (log.base, log.last) == (4711, Position(epoch, 4711))
    assert log.epoch_at(4711) == (None if epoch == NO_EPOCH else epoch)


def test_the_beginning_is_noted_as_it_was() -> None:
    files = MemoryFiles()
    log = FileOplog(files, ORIGIN)
    log.open()
    log.begin_after(Position(Epoch(3, SECOND.node), 4711))
    assert files.contents[BASE] == recorded("oplog-base-2")


@pytest.mark.parametrize("text", [b"99999999999999999999", b"1 99999999999999999999 %016x" % 1])
def test_a_base_of_more_than_64_bits_is_damage(text: bytes) -> None:
    files = MemoryFiles()
    files.contents[BASE] = bytearray(b"%b %08x\n" % (text, zlib.crc32(text)))
    with pytest.raises(CorruptData, match="64 bits"):
        read_base(files)
