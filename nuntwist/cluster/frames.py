"""What two nodes say to each other, as bytes on a link.

A frame is a head of 9 bytes and a body; numbers are little endian::

    0  u32  length of the body
    4  u32  CRC32 of all that follows, and of the length
    8  u8   kind of the message
    9       body

The body begins with the number of the epoch (u64). What follows it, by kind:

====  ===========  ==========================================================================
 1    Ask          released u64, insists u8, rank
 2    Would        yes u8
 3    Stand        released u64, rank
 4    Vote
 5    Alive        rank
 6    Stale
 7    Victory      sent f64
 8    Beat         sent f64
 9    Obeyed       sent f64, position
10    Release      successor u64
16    Have         position, count u16, then for each epoch: number u64, node u64, first u64
17    Cut          index u64
18    Records      position, committed u64, then the records to the end
19    Applied      index u64, durable u64
20    Refused      position
21    Idle
22    CopyWanted   copy u64, piece u64
23    CopyBegins   copy u64, position, stamp u64, then for each database: id u64, last index u64,
                   lengths of name and strategy u32 each, name, strategy
24    CopyPiece    copy u64, piece u64, then the entries to the end (see the module of copies)
25    CopyEnds     copy u64, pieces u64, entries u64, checksum u32
26    CopyTaken    copy u64, piece u64
27    CopyLost     copy u64
28    Checked      index u64, sum u64
29    Differs      index u64
30    Forward      lane u8, request u64, then for each command: flags u8 (1: it has a database, 2: a
                   user, 4: admin), database u64, lengths of user and text u32 each, user, text
31    Outcome      lane u8, request u64, index u64, then the replies to the end
32    Behind       lane u8, request u64, seen u64
34    Offer        first u64, then the records to the end
35    Offered      last u64, taken u64, left u64
40    Hello        set u64, five u8 flags, since i64, position
41    Joining      set u64
42    Admitted     the members, as they are kept, to the end
43    Whole
44    Invited      set u64
45    Confirm      question u64
46    Confirmed    question u64, index u64
47    Count        question u64, index u64, replicas u16, milliseconds u32
48    Counted      question u64
====  ===========  ==========================================================================

A position is the epoch's number and node and an index (u64 each); a rank is a position, a
seniority (i64) and a node (u64). TCP finds errors of the wire; the checksum is for what it does
not find, and for a peer that is at fault: either ends the link.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, TypeAlias
from zlib import crc32

from nuntwist.cluster.ballots import (
    Alive,
    Ask,
    Ballot,
    Beat,
    Obeyed,
    Rank,
    Release,
    Stale,
    Stand,
    Victory,
    Vote,
    Would,
)
from nuntwist.cluster.checks import Checked, Differs
from nuntwist.cluster.confirming import Confirm, Confirmed
from nuntwist.cluster.copies import (
    CopyBegins,
    CopyEnds,
    Copying,
    CopyLost,
    CopyPiece,
    CopyTaken,
    CopyWanted,
)
from nuntwist.cluster.counting import Count, Counted
from nuntwist.cluster.forwards import Behind, Forward, Forwarding, Outcome
from nuntwist.cluster.greeting import Admitted, Greeting, Hello, Invited, Joining, Whole
from nuntwist.cluster.offers import Offer, Offered
from nuntwist.cluster.stream import Applied, Cut, Have, Idle, Records, Refused
from nuntwist.core.copying import Outline
from nuntwist.core.forwards import Item
from nuntwist.errors import NuntwistError
from nuntwist.values import Epoch, Position

Message: TypeAlias = (
    Ballot
    | Have
    | Cut
    | Records
    | Applied
    | Refused
    | Idle
    | Forwarding
    | Greeting
    | Offer
    | Offered
    | Confirm
    | Confirmed
    | Count
    | Counted
    | Checked
    | Differs
    | Copying
)

LARGEST: Final = (1 << 30) + (1 << 16)
"""Bytes of a body at most: one record of the log, which is sent whole, and what is around it."""

_HEAD = struct.Struct("<IIB")
_LENGTH = struct.Struct("<I")
_NUMBER = struct.Struct("<Q")
_REIGN = struct.Struct("<QQQ")
_POSITION = "QQQ"
_RANK = _POSITION + "qQ"


class FrameError(NuntwistError):
    """What came over a link is no message; the link cannot go on."""


def _at(position: Position) -> tuple[int, int, int]:
    return (*position.epoch, position.index)


def _position(number: int, node: int, index: int) -> Position:
    return Position(Epoch(number, node), index)


def _of(rank: Rank) -> tuple[int, ...]:
    return (*_at(rank.position), rank.seniority, rank.node)


def _rank(number: int, node: int, index: int, seniority: int, me: int) -> Rank:
    return Rank(_position(number, node, index), seniority, me)


def _flag(value: int) -> bool:
    if value > 1:
        raise FrameError(f"{value} is no flag")
    return bool(value)


class _Fixed:
    """How messages of one kind are written that have all the same length.

    :param fields: of the struct, after the number.
    :param take: gives the values of a message.
    :param make: gives the message of a number and values.
    """

    def __init__(
        self, fields: str, take: Callable[[Any], tuple[Any, ...]], make: Callable[..., Message]
    ) -> None:
        self._struct = struct.Struct("<Q" + fields)
        self._take = take
        self._make = make

    def encode(self, message: Message) -> bytes:
        return self._struct.pack(message.number, *self._take(message))

    def decode(self, body: bytes) -> Message:
        if len(body) != self._struct.size:
            raise FrameError(f"a body of {len(body)} bytes, where {self._struct.size} must be")
        return self._make(*self._struct.unpack(body))


class _Have:
    """A position and a list."""

    _begin = struct.Struct("<Q" + _POSITION + "H")

    def encode(self, message: Have) -> bytes:
        begin = self._begin.pack(message.number, *_at(message.position), len(message.reigns))
        reigns = [_REIGN.pack(*epoch, first) for epoch, first in message.reigns]
        return b"".join([begin, *reigns])

    def decode(self, body: bytes) -> Have:
        size = self._begin.size
        if len(body) < size:
            raise FrameError("it ends before its list")
        number, *position, count = self._begin.unpack_from(body)
        if len(body) != size + count * _REIGN.size:
            raise FrameError(f"it has no room for {count} epochs")
        reigns = tuple(
            (Epoch(epoch, node), first) for epoch, node, first in _REIGN.iter_unpack(body[size:])
        )
        return Have(number, _position(*position), reigns)


class _Records:
    """What is before the records, and the records."""

    _begin = struct.Struct("<Q" + _POSITION + "Q")

    def encode(self, message: Records) -> bytes:
        before = _at(message.before)
        return self._begin.pack(message.number, *before, message.committed) + message.data

    def decode(self, body: bytes) -> Records:
        if len(body) < self._begin.size:
            raise FrameError("it ends before its records")
        number, *before, committed = self._begin.unpack_from(body)
        return Records(number, _position(*before), committed, body[self._begin.size :])


class _Forward:
    """A list of commands, each with an identity."""

    _begin = struct.Struct("<QBQ")
    _item = struct.Struct("<BQII")

    def encode(self, message: Forward) -> bytes:
        parts = [self._begin.pack(message.number, message.lane, message.request)]
        for database, user, admin, text in message.items:
            flags = (database is not None) | (user is not None) << 1 | admin << 2
            name = user or b""
            parts += [self._item.pack(flags, database or 0, len(name), len(text)), name, text]
        return b"".join(parts)

    def decode(self, body: bytes) -> Forward:
        at, items = self._begin.size, []
        if len(body) < at:
            raise FrameError("it ends before its commands")
        number, lane, request = self._begin.unpack_from(body)
        while at < len(body):
            if len(body) - at < self._item.size:
                raise FrameError("a command of it is cut short")
            flags, database, name, text = self._item.unpack_from(body, at)
            at += self._item.size
            start, end = at + name, at + name + text
            if flags > 7 or end > len(body):
                raise FrameError("a command of it is cut short, or has flags that are not known")
            user = body[at:start] if flags & 2 else None
            admin = bool(flags & 4)
            items.append(Item(database if flags & 1 else None, user, admin, body[start:end]))
            at = end
        return Forward(number, lane, request, tuple(items))


class _Outcome:
    """What is before the replies, and the replies."""

    _begin = struct.Struct("<QBQQ")

    def encode(self, message: Outcome) -> bytes:
        begin = self._begin.pack(message.number, message.lane, message.request, message.index)
        return begin + message.replies

    def decode(self, body: bytes) -> Outcome:
        if len(body) < self._begin.size:
            raise FrameError("it ends before its replies")
        number, lane, request, index = self._begin.unpack_from(body)
        return Outcome(number, lane, request, index, body[self._begin.size :])


class _CopyBegins:
    """What is before the list, and the list."""

    _begin = struct.Struct("<QQ" + _POSITION + "Q")
    _item = struct.Struct("<QQII")

    def encode(self, message: CopyBegins) -> bytes:
        position = _at(message.position)
        parts = [self._begin.pack(message.number, message.copy_id, *position, message.stamp)]
        for one in message.outlines:
            sizes = len(one.name), len(one.strategy)
            parts += (self._item.pack(one.number, one.last_index, *sizes), one.name, one.strategy)
        return b"".join(parts)

    def decode(self, body: bytes) -> CopyBegins:
        at, outlines = self._begin.size, []
        if len(body) < at:
            raise FrameError("it ends before its databases")
        number, copy_id, *position, stamp = self._begin.unpack_from(body)
        while at < len(body):
            if len(body) - at < self._item.size:
                raise FrameError("a database of it is cut short")
            database, last_index, name, strategy = self._item.unpack_from(body, at)
            at += self._item.size
            middle, end = at + name, at + name + strategy
            if end > len(body):
                raise FrameError("a database of it is cut short")
            outlines.append(Outline(database, body[at:middle], body[middle:end], last_index))
            at = end
        return CopyBegins(number, copy_id, _position(*position), stamp, tuple(outlines))


class _CopyPiece:
    """What is before the entries, and the entries."""

    _begin = struct.Struct("<QQQ")

    def encode(self, message: CopyPiece) -> bytes:
        return self._begin.pack(message.number, message.copy_id, message.piece) + message.data

    def decode(self, body: bytes) -> CopyPiece:
        if len(body) < self._begin.size:
            raise FrameError("it ends before its entries")
        number, copy_id, piece = self._begin.unpack_from(body)
        return CopyPiece(number, copy_id, piece, body[self._begin.size :])


class _Admitted:
    """The members."""

    def encode(self, message: Admitted) -> bytes:
        return _NUMBER.pack(message.number) + message.members

    def decode(self, body: bytes) -> Admitted:
        if len(body) < _NUMBER.size:
            raise FrameError("it ends before its members")
        return Admitted(_NUMBER.unpack_from(body)[0], body[_NUMBER.size :])


class _Offer:
    """What is before the records, and the records."""

    _begin = struct.Struct("<QQ")

    def encode(self, message: Offer) -> bytes:
        return self._begin.pack(message.number, message.first) + message.data

    def decode(self, body: bytes) -> Offer:
        if len(body) < self._begin.size:
            raise FrameError("it ends before its records")
        number, first = self._begin.unpack_from(body)
        return Offer(number, first, body[self._begin.size :])


def _nothing(message: Message) -> tuple[Any, ...]:
    return ()


_KINDS: Final[dict[int, tuple[type, Any]]] = {
    1: (
        Ask,
        _Fixed(
            "QB" + _RANK,
            lambda m: (m.released, m.insists, *_of(m.rank)),
            lambda n, released, insists, *rank: Ask(n, _rank(*rank), _flag(insists), released),
        ),
    ),
    2: (Would, _Fixed("B", lambda m: (m.yes,), lambda n, yes: Would(n, _flag(yes)))),
    3: (
        Stand,
        _Fixed(
            "Q" + _RANK,
            lambda m: (m.released, *_of(m.rank)),
            lambda n, released, *rank: Stand(n, _rank(*rank), released),
        ),
    ),
    4: (Vote, _Fixed("", _nothing, Vote)),
    5: (Alive, _Fixed(_RANK, lambda m: _of(m.rank), lambda n, *rank: Alive(n, _rank(*rank)))),
    6: (Stale, _Fixed("", _nothing, Stale)),
    7: (Victory, _Fixed("d", lambda m: (m.sent,), Victory)),
    8: (Beat, _Fixed("d", lambda m: (m.sent,), Beat)),
    9: (
        Obeyed,
        _Fixed(
            "d" + _POSITION,
            lambda m: (m.sent, *_at(m.position)),
            lambda n, sent, *position: Obeyed(n, sent, _position(*position)),
        ),
    ),
    10: (Release, _Fixed("Q", lambda m: (m.successor,), Release)),
    16: (Have, _Have()),
    17: (Cut, _Fixed("Q", lambda m: (m.index,), Cut)),
    18: (Records, _Records()),
    19: (Applied, _Fixed("QQ", lambda m: (m.index, m.durable), Applied)),
    20: (
        Refused,
        _Fixed(
            _POSITION,
            lambda m: _at(m.position),
            lambda n, *position: Refused(n, _position(*position)),
        ),
    ),
    21: (Idle, _Fixed("", _nothing, Idle)),
    22: (CopyWanted, _Fixed("QQ", lambda m: (m.copy_id, m.next_piece), CopyWanted)),
    23: (CopyBegins, _CopyBegins()),
    24: (CopyPiece, _CopyPiece()),
    25: (
        CopyEnds,
        _Fixed("QQQI", lambda m: (m.copy_id, m.pieces, m.entries, m.checksum), CopyEnds),
    ),
    26: (CopyTaken, _Fixed("QQ", lambda m: (m.copy_id, m.piece), CopyTaken)),
    27: (CopyLost, _Fixed("Q", lambda m: (m.copy_id,), CopyLost)),
    28: (Checked, _Fixed("QQ", lambda m: (m.index, m.sum), Checked)),
    29: (Differs, _Fixed("Q", lambda m: (m.index,), Differs)),
    30: (Forward, _Forward()),
    31: (Outcome, _Outcome()),
    32: (Behind, _Fixed("BQQ", lambda m: (m.lane, m.request, m.seen), Behind)),
    34: (Offer, _Offer()),
    35: (
        Offered,
        _Fixed("QQQ", lambda m: (m.last, m.taken, m.left), Offered),
    ),
    40: (
        Hello,
        _Fixed(
            "Q5Bq" + _POSITION,
            lambda m: (
                m.set_id,
                m.formed,
                m.whole,
                m.holds_data,
                m.serves,
                m.member,
                m.since,
                *_at(m.position),
            ),
            lambda n, set_id, formed, whole, data, serves, member, since, *position: Hello(
                n,
                set_id,
                _flag(formed),
                _flag(whole),
                _flag(data),
                _flag(serves),
                _flag(member),
                since,
                _position(*position),
            ),
        ),
    ),
    41: (Joining, _Fixed("Q", lambda m: (m.set_id,), Joining)),
    42: (Admitted, _Admitted()),
    43: (Whole, _Fixed("", _nothing, Whole)),
    44: (Invited, _Fixed("Q", lambda m: (m.set_id,), Invited)),
    45: (Confirm, _Fixed("Q", lambda m: (m.question,), Confirm)),
    46: (Confirmed, _Fixed("QQ", lambda m: (m.question, m.index), Confirmed)),
    47: (
        Count,
        _Fixed("QQHI", lambda m: (m.question, m.index, m.replicas, m.milliseconds), Count),
    ),
    48: (Counted, _Fixed("Q", lambda m: (m.question,), Counted)),
}
_KIND_OF: Final = {message: (kind, form) for kind, (message, form) in _KINDS.items()}


def encode(message: Message) -> bytes:
    """A message as a frame."""
    kind, form = _KIND_OF[type(message)]
    body = form.encode(message)
    length = _LENGTH.pack(len(body))
    checksum = crc32(body, crc32(bytes((kind,)), crc32(length)))
    frame: bytes = _HEAD.pack(len(body), checksum, kind) + body
    return frame


class FrameReader:
    """Takes the frames out of what comes over a link, in whatever pieces that is.

    :param limit: bytes of a body above which it is none; until then what has come of one is
        kept.
    """

    def __init__(self, limit: int = LARGEST) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self._held = 0
        self._wanted = _HEAD.size

    def feed(self, data: bytes) -> list[Message]:
        """Give the messages that are whole with this.

        :raise FrameError: it is no message; nothing can be read after it.
        """
        self._pieces.append(data)
        self._held += len(data)
        if self._held < self._wanted:
            # Not put together until it is whole: a large one comes in thousands of pieces.
            return []
        buffer, at = b"".join(self._pieces), 0
        found: list[Message] = []
        while len(buffer) - at >= _HEAD.size:
            length, checksum, kind = _HEAD.unpack_from(buffer, at)
            if length > self._limit:
                raise FrameError(f"a frame of {length} bytes; the limit is {self._limit}")
            self._wanted = _HEAD.size + length
            end = at + self._wanted
            if end > len(buffer):
                break
            found.append(_message(length, checksum, kind, buffer[at + _HEAD.size : end]))
            at = end
            self._wanted = _HEAD.size
        rest = buffer[at:]
        self._pieces, self._held = [rest] if rest else [], len(rest)
        return found


def _message(length: int, checksum: int, kind: int, body: bytes) -> Message:
    head = crc32(bytes((kind,)), crc32(_LENGTH.pack(length)))
    if checksum != crc32(body, head):
        raise FrameError("a frame does not match its checksum")
    form = _KINDS.get(kind)
    if form is None:
        raise FrameError(f"messages of kind {kind} are not known")
    message: Message = form[1].decode(body)
    return message
