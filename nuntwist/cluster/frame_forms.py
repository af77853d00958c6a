"""The bodies of messages between nodes: how what follows the number is written, by its shape.

A form writes and reads the bodies of one or more kinds of messages; which kind has which form is in
the table of :mod:`nuntwist.cluster.frame_kinds`, which also tells what each of them holds.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

from nuntwist.cluster.arbiters import Arbiter, Arbiters
from nuntwist.cluster.ballots import Rank
from nuntwist.cluster.copies import CopyBegins
from nuntwist.cluster.forwards import Forward
from nuntwist.cluster.stream import Have
from nuntwist.core.copying import Outline
from nuntwist.core.forwards import Item
from nuntwist.core.limits import Limits
from nuntwist.errors import NuntwistError
from nuntwist.values import Epoch, Position

NUMBER = struct.Struct("<Q")
REIGN = struct.Struct("<QQQ")
POSITION = "QQQ"
RANK = POSITION + "qQ"
MOST_ARBITERS = Limits().arbiters
"""Of a node; it tells of all at once."""


class FrameError(NuntwistError):
    """What came over a link is no message; the link cannot go on."""


def numbers_of(position: Position) -> tuple[int, int, int]:
    """A position as the numbers of POSITION."""
    return (*position.epoch, position.index)


def make_position(number: int, node: int, index: int) -> Position:
    """The position of the numbers of POSITION."""
    return Position(Epoch(number, node), index)


def rank_numbers(rank: Rank) -> tuple[int, ...]:
    """A rank as the numbers of RANK."""
    return (*numbers_of(rank.position), rank.seniority, rank.node)


def make_rank(number: int, node: int, index: int, seniority: int, me: int) -> Rank:
    """The rank of the numbers of RANK."""
    return Rank(make_position(number, node, index), seniority, me)


def flag(value: int) -> bool:
    """What a byte says that is 0 or 1.

    :raise FrameError: it is neither.
    """
    if value > 1:
        raise FrameError(f"{value} is no flag")
    return bool(value)


class FixedForm:
    """How messages of one kind are written that have all the same length.

    :param fields: of the struct, after the number.
    :param take: gives the values of a message.
    :param make: gives the message of a number and values.
    """

    def __init__(
        self, fields: str, take: Callable[[Any], tuple[Any, ...]], make: Callable[..., Any]
    ) -> None:
        self._struct = struct.Struct("<Q" + fields)
        self._take = take
        self._make = make

    def encode(self, message: Any) -> bytes:
        return self._struct.pack(message.number, *self._take(message))

    def decode(self, body: bytes) -> Any:
        if len(body) != self._struct.size:
            raise FrameError(f"a body of {len(body)} bytes, where {self._struct.size} must be")
        return self._make(*self._struct.unpack(body))


class TailForm:
    """How messages of one kind are written that end in bytes of any length, behind values that
    have all the same length.

    :param fields: of the struct, after the number.
    :param tail: what the bytes are, in words.
    :param take: gives the values of a message, the bytes last.
    :param make: gives the message of a number and values, the bytes last.
    """

    def __init__(
        self,
        fields: str,
        tail: str,
        take: Callable[[Any], tuple[Any, ...]],
        make: Callable[..., Any],
    ) -> None:
        self._struct = struct.Struct("<Q" + fields)
        self._tail = tail
        self._take = take
        self._make = make

    def encode(self, message: Any) -> bytes:
        *values, tail = self._take(message)
        body: bytes = self._struct.pack(message.number, *values) + tail
        return body

    def decode(self, body: bytes) -> Any:
        size = self._struct.size
        if len(body) < size:
            raise FrameError(f"it ends before its {self._tail}")
        return self._make(*self._struct.unpack_from(body), body[size:])


class HaveForm:
    """A position and a list."""

    _begin = struct.Struct("<Q" + POSITION + "H")

    def encode(self, message: Have) -> bytes:
        begin = self._begin.pack(message.number, *numbers_of(message.position), len(message.reigns))
        reigns = [REIGN.pack(*epoch, first) for epoch, first in message.reigns]
        return b"".join([begin, *reigns])

    def decode(self, body: bytes) -> Have:
        size = self._begin.size
        if len(body) < size:
            raise FrameError("it ends before its list")
        number, *position, count = self._begin.unpack_from(body)
        if len(body) != size + count * REIGN.size:
            raise FrameError(f"it has no room for {count} epochs")
        reigns = tuple(
            (Epoch(epoch, node), first) for epoch, node, first in REIGN.iter_unpack(body[size:])
        )
        return Have(number, make_position(*position), reigns)


class ForwardForm:
    """A list of commands, each with an identity."""

    _begin = struct.Struct("<QBQ")
    _item = struct.Struct("<BQIII")
    _until = struct.Struct("<d")

    def encode(self, message: Forward) -> bytes:
        parts = [self._begin.pack(message.number, message.lane, message.request)]
        for database, user, admin, text, rights, until in message.items:
            flags = (database is not None) | (user is not None) << 1 | admin << 2
            flags |= (rights is not None) << 3 | (until is not None) << 4
            texts = user or b"", text, rights or b""
            parts += [self._item.pack(flags, database or 0, *map(len, texts)), *texts]
            if until is not None:
                parts.append(self._until.pack(until))
        return b"".join(parts)

    def decode(self, body: bytes) -> Forward:
        at, items = self._begin.size, []
        if len(body) < at:
            raise FrameError("it ends before its commands")
        number, lane, request = self._begin.unpack_from(body)
        while at < len(body):
            if len(body) - at < self._item.size:
                raise FrameError("a command of it is cut short")
            flags, database, *lengths = self._item.unpack_from(body, at)
            at += self._item.size
            end = at + sum(lengths) + (self._until.size if flags & 16 else 0)
            if flags > 31 or end > len(body):
                raise FrameError("a command of it is cut short, or has flags that are not known")
            texts = []
            for length in lengths:
                texts.append(body[at : at + length])
                at += length
            user, text, rights = texts
            until = None
            if flags & 16:
                (until,) = self._until.unpack_from(body, at)
                at = end
                if not math.isfinite(until):
                    raise FrameError("a command of it counts until no time")
            items.append(
                Item(
                    database if flags & 1 else None,
                    user if flags & 2 else None,
                    bool(flags & 4),
                    text,
                    rights if flags & 8 else None,
                    until,
                )
            )
        return Forward(number, lane, request, tuple(items))


class CopyBeginsForm:
    """What is before the list, and the list."""

    _begin = struct.Struct("<QQ" + POSITION + "Q")
    _item = struct.Struct("<QQII")

    def encode(self, message: CopyBegins) -> bytes:
        position = numbers_of(message.position)
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
        return CopyBegins(number, copy_id, make_position(*position), stamp, tuple(outlines))


class ArbitersForm:
    """A list of arbiters."""

    _item = struct.Struct("<QQBII")

    def encode(self, message: Arbiters) -> bytes:
        parts = [NUMBER.pack(message.number)]
        for one in message.arbiters:
            flags = (one.user is not None) | one.admin << 1 | (one.rights is not None) << 2
            texts = one.user or b"", one.rights or b""
            parts += [self._item.pack(one.number, one.database, flags, *map(len, texts)), *texts]
        return b"".join(parts)

    def decode(self, body: bytes) -> Arbiters:
        at, arbiters = NUMBER.size, []
        if len(body) < at:
            raise FrameError("it ends before its arbiters")
        while at < len(body):
            if len(body) - at < self._item.size:
                raise FrameError("an arbiter of it is cut short")
            number, database, flags, name, size = self._item.unpack_from(body, at)
            at += self._item.size
            middle, end = at + name, at + name + size
            known = flags <= 7 and (flags & 1 or not name) and (flags & 4 or not size)
            if not known or end > len(body):
                raise FrameError("an arbiter of it is cut short, or has flags that are not known")
            user = body[at:middle] if flags & 1 else None
            rights = body[middle:end] if flags & 4 else None
            arbiters.append(Arbiter(number, database, user, bool(flags & 2), rights))
            at = end
        if len(arbiters) > MOST_ARBITERS:
            raise FrameError(f"it tells of {len(arbiters)} arbiters; a node has {MOST_ARBITERS}")
        return Arbiters(NUMBER.unpack_from(body)[0], tuple(arbiters))


def nothing(message: Any) -> tuple[Any, ...]:
    """A message of this kind has nothing but its number."""
    return ()
