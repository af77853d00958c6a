"""The archive format: databases as they were at one moment. Described in docs/formats.md.

An archive is a row of blocks, each with its length and checksum. It begins with a head that
names the databases, and ends with a block that counts what it holds, so that one cut short
anywhere is known for it. Between them each database has a block that begins it and blocks of
entries, in any number.

Both directions work on pieces as they come, with no file or socket in sight: :class:`Writer`
gives bytes, :class:`Reader` takes bytes in pieces of any size and gives what is whole by then.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nuntwist.errors import CorruptData
from nuntwist.values import SET, Op

MAGIC: Final = b"NUNBACK\n"
FORMAT: Final = 1
LARGEST_BLOCK: Final = 1 << 27
"""Bytes above which a length is damage, not a block."""

HEAD_BLOCK, DATABASE_BLOCK, ENTRY_BLOCK, END_BLOCK = 1, 2, 3, 4

_SHOWN: Final = 200
"""How much of a reason is told, in characters."""

_BLOCK = struct.Struct("<BII")
"""Kind, length of the body, CRC-32 of kind, length and body."""
_ENTRY = struct.Struct("<IIqQQ")
"""Key length, value length, version, index, stamp."""


@dataclass(frozen=True, slots=True)
class Member:
    """A database in an archive.

    :ivar name: UTF-8.
    :ivar strategy: ``none``, ``newer`` or ``arbiter``.
    """

    name: bytes
    strategy: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """What an archive says of itself.

    :ivar made: when, as ISO 8601 with time zone.
    :ivar index: the index of the last operation it has; 0 where it is not of a log.
    :ivar release: what wrote it.
    :ivar members: the databases, in order.
    """

    made: str
    index: int
    release: str
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class End:
    """The end of an archive, which is whole then.

    :ivar entries: how many it holds.
    """

    entries: int


Piece = Head | Member | list[Op] | End
"""What a reader gives: the head; where a database begins; some of its entries (SET operations
whose database is 0); the end."""


def _block(kind: int, body: bytes) -> bytes:
    return _BLOCK.pack(kind, len(body), _checksum(kind, body)) + body


def _checksum(kind: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(bytes((kind,)) + len(body).to_bytes(4, "little")))


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()


def _named(member: Member) -> dict[str, Any]:
    return {"name": member.name.decode(), "strategy": member.strategy.decode()}


_NOT_AS_IT_SHOULD = (
    *(ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError),
)
"""What JSON leads to that is none, or is of another shape."""


class Writer:
    """Writes one archive: ``begin``, then for each member ``member`` and ``entries``, ``end``."""

    def __init__(self) -> None:
        self._count = 0
        self._checksum = 0

    def begin(self, head: Head) -> bytes:
        """The first bytes."""
        fields = {
            "format": FORMAT,
            "made": head.made,
            "index": head.index,
            "release": head.release,
            "databases": [_named(member) for member in head.members],
        }
        return self._note(MAGIC + _block(HEAD_BLOCK, _json(fields)))

    def member(self, member: Member) -> bytes:
        """What begins a database."""
        return self._note(_block(DATABASE_BLOCK, _json(_named(member))))

    def entries(self, ops: Sequence[Op]) -> bytes:
        """Some entries of the database that was begun last."""
        parts: list[bytes] = []
        add = parts.append
        pack = _ENTRY.pack
        for value, version, index, stamp, _, _, key in ops:
            kept = value or b""
            add(pack(len(key), len(kept), version, index, stamp))
            add(key)
            add(kept)
        self._count += len(ops)
        return self._note(_block(ENTRY_BLOCK, b"".join(parts)))

    def end(self) -> bytes:
        """The last bytes."""
        return _block(END_BLOCK, _json({"entries": self._count, "crc32": self._checksum}))

    def _note(self, data: bytes) -> bytes:
        self._checksum = zlib.crc32(data, self._checksum)
        return data


class Reader:
    """Reads one archive.

    :param name: for errors.
    :ivar ended: whether its end has come.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._buffer = bytearray()
        self._offset = 0
        self._checksum = 0
        self._count = 0
        self._head: Head | None = None
        # Those of the head that have not come so far: there may be a million.
        self._awaited: set[Member] = set()
        self._current: Member | None = None
        self.ended = False

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Take the next bytes; give what is whole by now. All of it must be taken.

        :raise CorruptData: it is no archive, or damaged.
        """
        self._buffer += data
        if self._offset == 0:
            if not MAGIC.startswith(bytes(self._buffer[: len(MAGIC)])):
                raise self._damaged("it does not begin as a backup does")
            if len(self._buffer) < len(MAGIC):
                return
            self._pass(len(MAGIC))
        while (block := self._next()) is not None:
            yield self._piece(*block)

    def finish(self) -> None:
        """Nothing more will come.

        :raise CorruptData: it is cut short.
        """
        if not self.ended or self._buffer:
            raise self._damaged("it is cut short")

    def _next(self) -> tuple[int, bytes] | None:
        if len(self._buffer) < _BLOCK.size:
            return None
        if self.ended:
            raise self._damaged("something follows its end")
        kind, length, checksum = _BLOCK.unpack_from(self._buffer)
        if length > LARGEST_BLOCK:
            raise self._damaged("the length of a block makes no sense")
        whole = _BLOCK.size + length
        if len(self._buffer) < whole:
            return None
        body = bytes(self._buffer[_BLOCK.size : whole])
        if _checksum(kind, body) != checksum:
            raise self._damaged("a block does not match its checksum")
        if kind != END_BLOCK:
            self._pass(whole)
        else:
            del self._buffer[:whole]
            self._offset += whole
        return kind, body

    def _pass(self, size: int) -> None:
        self._checksum = zlib.crc32(self._buffer[:size], self._checksum)
        del self._buffer[:size]
        self._offset += size

    def _piece(self, kind: int, body: bytes) -> Piece:
        if kind == ENTRY_BLOCK and self._current is not None:
            entries = self._entries(body)
            self._count += len(entries)
            return entries
        try:
            if kind == HEAD_BLOCK and self._head is None:
                self._head = _head(json.loads(body))
                self._awaited = set(self._head.members)
                return self._head
            if kind == DATABASE_BLOCK and self._head is not None:
                return self._begin(_member(json.loads(body)))
            if kind == END_BLOCK and self._head is not None:
                return self._end(json.loads(body))
        except _NOT_AS_IT_SHOULD as error:
            raise self._damaged(f"a block cannot be read: {_plainly(error)}") from None
        raise self._damaged("it has a block where none of that kind may be")

    def _begin(self, member: Member) -> Member:
        if member not in self._awaited:
            raise ValueError("it is of a database that the head does not name, or came before")
        self._awaited.remove(member)
        self._current = member
        return member

    def _end(self, fields: dict[str, Any]) -> End:
        if fields["entries"] != self._count or fields["crc32"] != self._checksum:
            raise ValueError("it does not hold what its end says")
        if self._awaited:
            raise ValueError("it lacks databases that its head names")
        self.ended = True
        return End(self._count)

    def _entries(self, body: bytes) -> list[Op]:
        ops: list[Op] = []
        unpack, size = _ENTRY.unpack_from, _ENTRY.size
        at, stop = 0, len(body)
        try:
            while at < stop:
                key_size, value_size, version, index, stamp = unpack(body, at)
                middle = at + size + key_size
                end = middle + value_size
                ops.append(
                    (body[middle:end], version, index, stamp, SET, 0, body[at + size : middle])
                )
                at = end
        except struct.error:
            at = -1
        if at != stop:
            raise self._damaged("a block ends within an entry")
        return ops

    def _damaged(self, reason: str) -> CorruptData:
        return CorruptData(self._name, self._offset, reason)


def _plainly(error: Exception) -> str:
    """Why, in a line that fits an answer: what JSON holds may be long, and have any letter."""
    return ascii(str(error))[1:-1][:_SHOWN]


def _head(fields: dict[str, Any]) -> Head:
    if fields["format"] != FORMAT:
        raise ValueError(f"format {fields['format']} is not known, a newer release wrote it")
    members = tuple(map(_member, fields["databases"]))
    if len({member.name for member in members}) != len(members):
        raise ValueError("it names a database twice")
    return Head(str(fields["made"]), int(fields["index"]), str(fields["release"]), members)


def _member(fields: dict[str, Any]) -> Member:
    return Member(fields["name"].encode(), fields["strategy"].encode())
