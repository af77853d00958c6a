"""The record format: what one group commit is as bytes. Described in docs/formats.md.

A record holds the operations of one batch: all of them are recovered, or none. It has a head
with a checksum of its own, so that a flipped length is told from a torn tail, and a body with
one checksum; encoding an operation is one ``pack`` and three appends, and the checksum is paid
once a batch.

The format has a version in each head. A change of it gets the next number, and the reader of
this one stays. Operations have room for optional fields; this release writes none, and reads
past those that it need not understand.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from nuntwist.errors import CorruptData
from nuntwist.interfaces import Received
from nuntwist.values import BEGIN_EPOCH, INDEX, REMOVE, STAMP, Epoch, Op, Position

FORMAT: Final = 1
HEAD_SIZE: Final = 52
OP_SIZE: Final = 36
"""Bytes of an operation beside its key and value."""
LARGEST_BODY: Final = 1 << 30
"""A length above this is damage, not a record."""
WITH_FIELDS: Final = 1
"""The flag of an operation that optional fields follow."""

_CHECKED = struct.Struct("<IIBBHIQQQQ")
"""The head after its own checksum: body checksum, body length, format, flags, reserved, count,
first index, epoch number, epoch node, origin."""
_WORD = struct.Struct("<I")
_OP = struct.Struct("<BBHIIQQq")
"""Kind, flags, reserved, key length, value length, database, stamp, version."""
_OP_READ = struct.Struct("<IIIQQq")
"""The same with kind, flags and reserved as one number: one comparison checks all three."""
_FIELDS = struct.Struct("<H")
_pack_op = _OP.pack
_pack_head = _CHECKED.pack
_unpack_head = struct.Struct("<IIIBBHIQQQQ").unpack_from
_crc = zlib.crc32
_new = tuple.__new__


class TooLarge(ValueError):
    """A batch that does not fit in one record."""


class Newer(CorruptData):
    """What a newer release wrote: its checksum is right, but this one cannot read it."""


class Head(NamedTuple):
    """The head of a record, field by field as it is laid down.

    :ivar checksum: of the head after this field.
    :ivar body_checksum: of the body, and ``length`` its bytes.
    :ivar operations: how many there are; ``first`` is the index of the first.
    """

    checksum: int
    body_checksum: int
    length: int
    form: int
    flags: int
    reserved: int
    operations: int
    first: int
    epoch_number: int
    epoch_node: int
    origin: int

    @property
    def epoch(self) -> Epoch:
        """The epoch in which the operations were decided."""
        return Epoch(self.epoch_number, self.epoch_node)

    @property
    def last(self) -> int:
        """The index of the last operation."""
        return self.first + self.operations - 1


def encode(epoch: Epoch, origin: int, ops: Sequence[Op]) -> bytes:
    """Make a record.

    :param origin: the id of the node where the operations were made.
    :param ops: one or more, with dense indexes.
    :raise TooLarge: it would be longer than a reader takes.
    """
    parts: list[bytes] = []
    add = parts.append
    for value, version, _, stamp, kind, database, key in ops:
        if value is None:
            value = b""
        add(_pack_op(kind, 0, 0, len(key), len(value), database, stamp, version))
        add(key)
        add(value)
    body = b"".join(parts)
    length = len(body)
    if length > LARGEST_BODY:
        raise TooLarge(f"a batch of {length} bytes is too large for the log")
    number, node = epoch
    checked = _pack_head(
        _crc(body), length, FORMAT, 0, 0, len(ops), ops[0][INDEX], number, node, origin
    )
    return b"".join((_WORD.pack(_crc(checked)), checked, body))


def read_head(data: bytes, at: int, name: str, offset: int) -> Head:
    """Read the head that begins at ``data[at]``; all of it must be there.

    :param name: of the file, and ``offset`` in it, for the error.
    :raise CorruptData: it is none.
    """
    # Head(...) would cost three times as much, and a quiet node's log is mostly heads.
    head = _new(Head, _unpack_head(data, at))
    if head[0] != _crc(data[at + 4 : at + HEAD_SIZE]):
        raise CorruptData(name, offset, "the head of a record does not match its checksum")
    _, _, length, form, flags, reserved, operations, first, _, _, _ = head
    if form != FORMAT or flags or reserved:
        raise Newer(
            name, offset, f"format {form}.{flags}.{reserved} is not known, a newer release wrote it"
        )
    if length > LARGEST_BODY or operations == 0 or first == 0:
        raise CorruptData(name, offset, "the head of a record makes no sense")
    return head


def split(data: bytes, name: str) -> list[Received]:
    """Take records apart that another node has sent.

    :param name: of where they come from, for the error.
    :raise CorruptData: they are not whole records, right and in a row.
    """
    found: list[Received] = []
    at, wanted = 0, None
    while at < len(data):
        if len(data) - at < HEAD_SIZE:
            raise CorruptData(name, at, "it ends within the head of a record")
        head = read_head(data, at, name, at)
        end = at + HEAD_SIZE + head.length
        if end > len(data):
            raise CorruptData(name, at, "it ends within a record")
        if wanted is not None and head.first != wanted:
            raise CorruptData(name, at, f"index {head.first} stands where {wanted} must")
        body = data[at + HEAD_SIZE : end]
        check_body(head, body, name, at)
        found.append(Received(head.epoch, decode(head, body, name, at), data[at:end]))
        at, wanted = end, head.last + 1
    return found


def check_row(records: Sequence[Received], last: Position) -> None:
    """Check that records follow on a position, and on each other.

    :raise ValueError: they do not, or an epoch is below the one before it.
    """
    epoch, before = last.epoch, last.index
    for record in records:
        index = record.ops[0][INDEX]
        if index != before + 1:
            raise ValueError(f"index {index} was to be logged after {before}")
        if record.epoch < epoch:
            numbers = f"{record.epoch.number} was to be logged after epoch {epoch.number}"
            raise ValueError(f"index {index} of epoch {numbers}")
        epoch, before = record.epoch, record.ops[-1][INDEX]


def check_body(head: Head, body: bytes, name: str, offset: int) -> None:
    """Check a body against its head.

    :raise CorruptData: it does not match.
    """
    if _crc(body) != head.body_checksum:
        raise CorruptData(name, offset, "a record does not match its checksum")


def decode(head: Head, body: bytes, name: str, offset: int) -> list[Op]:
    """Read the operations of a checked body.

    :raise CorruptData: the body has a right checksum but is none that this release can read.
    """
    ops: list[Op] = []
    add = ops.append
    unpack = _OP_READ.unpack_from
    at, index = 0, head.first
    try:
        for index in range(head.first, head.first + head.operations):
            kind, key_size, value_size, database, stamp, version = unpack(body, at)
            start = at + OP_SIZE
            middle = start + key_size
            at = middle + value_size
            value: bytes | None = body[middle:at]
            if kind > BEGIN_EPOCH:
                kind, at = _with_fields(kind, body, at, name, offset)
            if kind == REMOVE:
                value = None
            add((value, version, index, stamp, kind, database, body[start:middle]))
    except struct.error:
        raise CorruptData(name, offset, "a record ends within an operation") from None
    if at != len(body):
        raise CorruptData(name, offset, "a record does not end with its last operation")
    return ops


def _with_fields(word: int, body: bytes, at: int, name: str, offset: int) -> tuple[int, int]:
    """Step over the optional fields of an operation.

    :param word: its kind, flags and reserved bytes, as one number.
    :return: the kind, and where the next operation begins.
    """
    kind, flags = word & 0xFF, word >> 8
    if kind > BEGIN_EPOCH or flags != WITH_FIELDS:
        reason = f"an operation of kind {kind}.{flags} is not known, a newer release wrote it"
        raise Newer(name, offset, reason)
    return kind, at + _FIELDS.size + _FIELDS.unpack_from(body, at)[0]


def last_stamp(ops: Sequence[Op]) -> int:
    """The highest stamp among operations."""
    return max([op[STAMP] for op in ops])
