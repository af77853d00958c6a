"""The snapshot format: one database as bytes. Described in docs/formats.md.

A snapshot is a row of blocks, each with its length and checksum: first the header, then blocks
of entries, at the end a block that counts them, so that one cut short anywhere is known for it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from nuntwist.errors import CorruptData
from nuntwist.interfaces import SnapshotHeader
from nuntwist.values import SET, Op

MAGIC = b"NUNSNAP\n"
FORMAT = 1

_BLOCK = struct.Struct("<BII")
"""Kind, length of the body, CRC-32 of kind, length and body."""
_HEADER = struct.Struct("<IQQII")
"""Format, database id, index, length of the name, length of the strategy."""
_ENTRY = struct.Struct("<IIqQQ")
"""Key length, value length, version, index, stamp."""
_COUNT = struct.Struct("<Q")

HEADER_BLOCK, ENTRY_BLOCK, END_BLOCK = 1, 2, 3


def _block(kind: int, body: bytes) -> bytes:
    return _BLOCK.pack(kind, len(body), _checksum(kind, body)) + body


def _checksum(kind: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(bytes((kind,)) + len(body).to_bytes(4, "little")))


def begin(header: SnapshotHeader) -> bytes:
    """The bytes a snapshot begins with."""
    fixed = _HEADER.pack(
        FORMAT, header.database_id, header.index, len(header.name), len(header.strategy)
    )
    return MAGIC + _block(HEADER_BLOCK, fixed + header.name + header.strategy)


def entries(ops: Sequence[Op]) -> bytes:
    """A block of entries."""
    parts: list[bytes] = []
    add = parts.append
    pack = _ENTRY.pack
    for value, version, index, stamp, _, _, key in ops:
        kept = value or b""
        add(pack(len(key), len(kept), version, index, stamp))
        add(key)
        add(kept)
    return _block(ENTRY_BLOCK, b"".join(parts))


def end(count: int) -> bytes:
    """The block that ends a snapshot of so many entries."""
    return _block(END_BLOCK, _COUNT.pack(count))


class Reader:
    """Reads one snapshot.

    :param file: at its beginning.
    :param name: for errors.
    :param size: of the file, in bytes.
    :ivar header: what it says of its database.
    :raise CorruptData: it is none.
    """

    def __init__(self, file: BinaryIO, name: str, size: int) -> None:
        self._file = file
        self._name = name
        self._size = size
        self._offset = len(MAGIC)
        if file.read(len(MAGIC)) != MAGIC:
            raise CorruptData(name, 0, "it does not begin as a snapshot does")
        kind, body = self._next()
        if kind != HEADER_BLOCK or len(body) < _HEADER.size:
            raise self._damaged("it has no header")
        form, number, index, name_size, strategy_size = _HEADER.unpack_from(body)
        if form != FORMAT:
            raise self._damaged(f"format {form} is not known here, a newer release wrote it")
        middle = _HEADER.size + name_size
        if middle + strategy_size != len(body):
            raise self._damaged("its header does not end with the strategy")
        self.header = SnapshotHeader(
            number, body[_HEADER.size : middle], body[middle : middle + strategy_size], index
        )

    def __iter__(self) -> Iterator[list[Op]]:
        """Give the entries, a block at a time.

        :raise CorruptData: it is damaged or cut short.
        """
        count = 0
        while True:
            kind, body = self._next()
            if kind == END_BLOCK and len(body) == _COUNT.size:
                if _COUNT.unpack(body)[0] != count:
                    raise self._damaged("it does not hold as many entries as it says")
                if self._offset != self._size:
                    raise self._damaged("something follows its end")
                return
            if kind != ENTRY_BLOCK:
                raise self._damaged("it has a block of an unknown kind")
            ops = self._decode(body)
            count += len(ops)
            yield ops

    def _decode(self, body: bytes) -> list[Op]:
        ops: list[Op] = []
        add = ops.append
        unpack, size, number = _ENTRY.unpack_from, _ENTRY.size, self.header.database_id
        at, stop = 0, len(body)
        try:
            while at < stop:
                key_size, value_size, version, index, stamp = unpack(body, at)
                middle = at + size + key_size
                end = middle + value_size
                key = body[at + size : middle]
                add((body[middle:end], version, index, stamp, SET, number, key))
                at = end
        except struct.error:
            at = -1
        if at != stop:
            raise self._damaged("a block ends within an entry")
        return ops

    def _next(self) -> tuple[int, bytes]:
        head = self._file.read(_BLOCK.size)
        if len(head) < _BLOCK.size:
            raise self._damaged("it is cut short")
        kind, length, checksum = _BLOCK.unpack(head)
        # Looked at first, so that a flipped length does not ask for gigabytes.
        if length > self._size - self._offset - _BLOCK.size:
            raise self._damaged("it is cut short, or the length of a block is wrong")
        body = self._file.read(length)
        if len(body) != length:
            raise self._damaged("it is cut short")
        if _checksum(kind, body) != checksum:
            raise self._damaged("a block does not match its checksum")
        self._offset += _BLOCK.size + length
        return kind, body

    def _damaged(self, reason: str) -> CorruptData:
        return CorruptData(self._name, self._offset, reason)
