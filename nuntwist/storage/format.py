"""The format of a partition file: entries of one database as bytes. Described in docs/formats.md.

It is a row of blocks, each with its length and checksum: first the header, then blocks of
entries, at the end a block that counts them, so that one cut short anywhere is known for it.

Format 1 held a whole database; it is still read.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from nuntwist.errors import CorruptData
from nuntwist.interfaces import SnapshotHeader
from nuntwist.values import NO_EPOCH, SET, Epoch, Op

MAGIC = b"NUNSNAP\n"
FORMAT = 2

_BLOCK = struct.Struct("<BII")
"""Kind, length of the body, CRC-32 of kind, length and body."""
_FORMAT = struct.Struct("<I")
_HEADER_1 = struct.Struct("<IQQII")
"""Format, database id, index, length of the name, length of the strategy."""
_HEADER = struct.Struct("<IQQIIQQII")
"""Format, database id, index, partition, of how many, epoch number, epoch node, length of the
name, length of the strategy."""
_ENTRY = struct.Struct("<IIqQQ")
"""Key length, value length, version, index, stamp."""
_COUNT = struct.Struct("<Q")

HEADER_BLOCK, ENTRY_BLOCK, END_BLOCK = 1, 2, 3


def _block(kind: int, body: bytes) -> bytes:
    return _BLOCK.pack(kind, len(body), _checksum(kind, body)) + body


def _checksum(kind: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(bytes((kind,)) + len(body).to_bytes(4, "little")))


def begin(header: SnapshotHeader, partition: int) -> bytes:
    """The bytes a partition file begins with."""
    fixed = _HEADER.pack(
        *(FORMAT, header.database_id, header.index, partition, header.partitions),
        *(*header.epoch, len(header.name), len(header.strategy)),
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
    """The block that ends a file of so many entries."""
    return _block(END_BLOCK, _COUNT.pack(count))


class Reader:
    """Reads one file.

    :param file: at its beginning.
    :param name: for errors.
    :param size: of the file, in bytes.
    :ivar header: what it says of its database.
    :ivar partition: which part of it this is.
    :ivar count: how many entries were read so far.
    :ivar checksum: CRC-32 of all bytes read so far.
    :raise CorruptData: it is none.
    """

    def __init__(self, file: BinaryIO, name: str, size: int) -> None:
        self._file = file
        self._name = name
        self._size = size
        self._offset = 0
        self.checksum = 0
        self.count = 0
        if self._take(len(MAGIC)) != MAGIC:
            raise self._damaged("it does not begin as a snapshot does")
        self._offset = len(MAGIC)
        kind, body = self._next()
        if kind != HEADER_BLOCK or len(body) < _HEADER_1.size:
            raise self._damaged("it has no header")
        self.header = self._header(body)

    def _header(self, body: bytes) -> SnapshotHeader:
        (form,) = _FORMAT.unpack_from(body)
        if form == FORMAT and len(body) >= _HEADER.size:
            _, number, index, self.partition, count, *epoch, name, strategy = _HEADER.unpack_from(
                body
            )
            start = _HEADER.size
        elif form == 1:
            _, number, index, name, strategy = _HEADER_1.unpack_from(body)
            self.partition, count, epoch, start = 0, 1, [*NO_EPOCH], _HEADER_1.size
        else:
            raise self._damaged(f"format {form} is not known here, a newer release wrote it")
        middle = start + name
        if middle + strategy != len(body):
            raise self._damaged("its header does not end with the strategy")
        return SnapshotHeader(
            number, body[start:middle], body[middle:], index, Epoch(*epoch), count
        )

    def __iter__(self) -> Iterator[list[Op]]:
        """Give the entries, a block at a time.

        :raise CorruptData: it is damaged or cut short.
        """
        while True:
            kind, body = self._next()
            if kind == END_BLOCK and len(body) == _COUNT.size:
                if _COUNT.unpack(body)[0] != self.count:
                    raise self._damaged("it does not hold as many entries as it says")
                if self._offset != self._size:
                    raise self._damaged("something follows its end")
                return
            if kind != ENTRY_BLOCK:
                raise self._damaged("it has a block of an unknown kind")
            ops = self._decode(body)
            self.count += len(ops)
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
        head = self._take(_BLOCK.size)
        if len(head) < _BLOCK.size:
            raise self._damaged("it is cut short")
        kind, length, checksum = _BLOCK.unpack(head)
        # Looked at first, so that a flipped length does not ask for gigabytes.
        if length > self._size - self._offset - _BLOCK.size:
            raise self._damaged("it is cut short, or the length of a block is wrong")
        body = self._take(length)
        if len(body) != length:
            raise self._damaged("it is cut short")
        if _checksum(kind, body) != checksum:
            raise self._damaged("a block does not match its checksum")
        self._offset += _BLOCK.size + length
        return kind, body

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        self.checksum = zlib.crc32(data, self.checksum)
        return data

    def _damaged(self, reason: str) -> CorruptData:
        return CorruptData(self._name, self._offset, reason)
