"""What a primary and a secondary say to each other about a copy of all, and how it is written.

Each message carries the *number* of the epoch that the primary serves.

==============  ==================================================================================
``CopyWanted``  secondary: begin a copy (id 0), or go on with that one at this piece
``CopyBegins``  primary: this is its id, where in the log it stands, and what databases it has
``CopyPiece``   primary: the next entries
``CopyTaken``   secondary: I have all pieces up to that number
``CopyEnds``    primary: so many pieces and entries it were, and this is the checksum of them all
``CopyLost``    primary: I have no such copy, ask for another; with id 0: you need one
==============  ==================================================================================

A piece is a row of blocks, each with the entries of one database::

    0  u64  id of the database
    8  u32  bytes of the entries
   12       entries: lengths of key and value (u32 each), version i64, index u64, stamp u64, key,
            value

Numbers are little endian. The checksum is a CRC32 over the pieces, one after the other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from nuntwist.core.copying import Outline
from nuntwist.errors import CorruptData
from nuntwist.values import SET, Op, Position

PIECE: Final = 64 << 10
"""Bytes of a piece, about: a millisecond of work at either end."""

_BLOCK = struct.Struct("<QI")
_ENTRY = struct.Struct("<IIqQQ")


@dataclass(frozen=True, slots=True)
class CopyWanted:
    """:ivar copy_id: 0 for a new one.
    :ivar next_piece: the first that is wanted.
    """

    number: int
    copy_id: int
    next_piece: int


@dataclass(frozen=True, slots=True)
class CopyBegins:
    """:ivar position: of the last operation that it has.
    :ivar stamp: no operation that it has bears a higher one.
    """

    number: int
    copy_id: int
    position: Position
    stamp: int
    outlines: tuple[Outline, ...]


@dataclass(frozen=True, slots=True)
class CopyPiece:
    """:ivar piece: its number, from 0."""

    number: int
    copy_id: int
    piece: int
    data: bytes


@dataclass(frozen=True, slots=True)
class CopyTaken:
    """:ivar piece: all up to this one are taken; as many as there are pieces: all is in place."""

    number: int
    copy_id: int
    piece: int


@dataclass(frozen=True, slots=True)
class CopyEnds:
    """:ivar pieces: how many there were."""

    number: int
    copy_id: int
    pieces: int
    entries: int
    checksum: int


@dataclass(frozen=True, slots=True)
class CopyLost:
    """:ivar copy_id: 0 where there was none: the secondary is to ask for one."""

    number: int
    copy_id: int


FromPrimary: TypeAlias = CopyBegins | CopyPiece | CopyEnds | CopyLost
FromSecondary: TypeAlias = CopyWanted | CopyTaken
Copying: TypeAlias = FromPrimary | FromSecondary


def pieces_of(
    entries: Iterable[tuple[int, Sequence[Op]]], size: int = PIECE
) -> Iterator[tuple[bytes, int]]:
    """Lay entries out in pieces.

    :param entries: some of a database together, with its id.
    :param size: bytes of a piece; one has at least one entry.
    :return: each piece, with how many entries it has.
    """
    blocks: list[bytes] = []
    taken = count = 0
    pack = _ENTRY.pack
    for number, ops in entries:
        parts: list[bytes] = []
        begun = taken
        for value, version, index, stamp, _, _, key in ops:
            held = value or b""
            parts += (pack(len(key), len(held), version, index, stamp), key, held)
            taken += 32 + len(key) + len(held)
            count += 1
            if taken >= size:
                blocks += (_BLOCK.pack(number, taken - begun), *parts)
                yield b"".join(blocks), count
                blocks, parts = [], []
                begun = taken = count = 0
        if parts:
            blocks += (_BLOCK.pack(number, taken - begun), *parts)
    if blocks:
        yield b"".join(blocks), count


def entries_of(data: bytes) -> Iterator[tuple[int, list[Op]]]:
    """Read a piece: the entries of one database after the other, with its id.

    :raise CorruptData: it is none.
    """
    at, size = 0, len(data)
    while at < size:
        if size - at < _BLOCK.size:
            raise CorruptData("a copy", at, "a block is cut short")
        number, length = _BLOCK.unpack_from(data, at)
        at += _BLOCK.size
        if length > size - at:
            raise CorruptData("a copy", at, "a block is cut short")
        yield number, _entries(data, at, at + length, number)
        at += length


def _entries(data: bytes, at: int, stop: int, number: int) -> list[Op]:
    ops: list[Op] = []
    add = ops.append
    unpack = _ENTRY.unpack_from
    while at < stop:
        if stop - at < 32:
            at = -1
            break
        key_size, value_size, version, index, stamp = unpack(data, at)
        middle = at + 32 + key_size
        end = middle + value_size
        add((data[middle:end], version, index, stamp, SET, number, data[at + 32 : middle]))
        at = end
    if at != stop:
        raise CorruptData("a copy", 0, "a block ends within an entry")
    return ops
