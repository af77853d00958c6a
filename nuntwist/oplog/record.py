"""The record format: what one group commit is as bytes. Described in docs/formats.md.

A record holds the operations of one batch: all of them are recovered, or none. It has a head
with a checksum of its own, so that a flipped length is told from a torn tail, and a body with
one checksum; encoding an operation is one ``pack`` and two appends, and the checksum is paid
once a batch.

The format has a version in each head. A change of it gets the next number, and the reader of
this one stays.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from nuntwist.errors import CorruptData
from nuntwist.values import INDEX, REMOVE, Epoch, Op

FORMAT = 1
HEAD_SIZE = 52
LARGEST_BODY = 1 << 30
"""A length above this is damage, not a record."""

_CHECKED = struct.Struct("<IIBBHIQQQQ")
"""The head after its own checksum: body checksum, body length, format, flags, reserved, count,
first index, epoch number, epoch node, origin."""
_WORD = struct.Struct("<I")
_OP = struct.Struct("<BBHIIQQq")
"""Kind, flags, reserved, key length, value length, database, stamp, version."""
_pack_op = _OP.pack
_OP_SIZE = _OP.size


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a record.

    :ivar checksum: of the body.
    :ivar length: of the body, in bytes.
    """

    checksum: int
    length: int
    count: int
    first: int
    epoch: Epoch
    origin: int


def encode(epoch: Epoch, origin: int, ops: Sequence[Op]) -> bytes:
    """Make a record.

    :param origin: the id of the node where the operations were made.
    :param ops: one or more, with dense indexes.
    """
    parts: list[bytes] = [b""]
    add = parts.append
    for value, version, _, stamp, kind, database, key in ops:
        if value is None:
            value = b""
        add(_pack_op(kind, 0, 0, len(key), len(value), database, stamp, version))
        add(key)
        add(value)
    body = b"".join(parts)
    checked = _CHECKED.pack(
        zlib.crc32(body),
        len(body),
        FORMAT,
        0,
        0,
        len(ops),
        ops[0][INDEX],
        epoch.number,
        epoch.node,
        origin,
    )
    return b"".join((_WORD.pack(zlib.crc32(checked)), checked, body))


def read_head(data: bytes, name: str, offset: int) -> Head:
    """Read a head.

    :param data: ``HEAD_SIZE`` bytes.
    :param name: of the file, and ``offset`` in it, for the error.
    :raise CorruptData: they are not a head.
    """
    if _WORD.unpack_from(data)[0] != zlib.crc32(data[_WORD.size :]):
        raise CorruptData(name, offset, "the head of a record does not match its checksum")
    checksum, length, form, _, _, count, first, number, node, origin = _CHECKED.unpack_from(
        data, _WORD.size
    )
    if form != FORMAT:
        raise CorruptData(
            name, offset, f"format {form} is not known here, a newer release wrote it"
        )
    if length > LARGEST_BODY or count == 0 or first == 0:
        raise CorruptData(name, offset, "the head of a record makes no sense")
    return Head(checksum, length, count, first, Epoch(number, node), origin)


def check_body(head: Head, body: bytes, name: str, offset: int) -> None:
    """Check a body against its head.

    :raise CorruptData: it does not match.
    """
    if zlib.crc32(body) != head.checksum:
        raise CorruptData(name, offset, "a record does not match its checksum")


def decode(head: Head, body: bytes, name: str, offset: int) -> list[Op]:
    """Read the operations of a checked body.

    :raise CorruptData: the body has a right checksum but is none that this format makes.
    """
    ops: list[Op] = []
    add = ops.append
    unpack = _OP.unpack_from
    at, index = 0, head.first
    try:
        for index in range(head.first, head.first + head.count):
            kind, _, _, key_size, value_size, database, stamp, version = unpack(body, at)
            middle = at + _OP_SIZE + key_size
            end = middle + value_size
            value = None if kind == REMOVE else body[middle:end]
            add((value, version, index, stamp, kind, database, body[at + _OP_SIZE : middle]))
            at = end
    except struct.error:
        raise CorruptData(name, offset, "a record ends within an operation") from None
    if at != len(body):
        raise CorruptData(name, offset, "a record does not end with its last operation")
    return ops


def last_stamp(ops: Sequence[Op]) -> int:
    """The highest stamp among operations."""
    return max(op[3] for op in ops)
