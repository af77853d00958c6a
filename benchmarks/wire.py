"""What goes over the wire: commands as bytes, and the shape of their answers.

The generator never parses an answer.  It counts newlines to know when a batch is answered, and
at the end compares the bytes that came with the bytes that had to come: keys and values all
have one length, so an error among the answers shows as a wrong total.

A WebSocket frame of ten bytes would carry a newline in its length, and be counted wrongly; no
frame that is counted here has that length.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

VALUE_SIZE = 20
KEY_SIZE = 16
KEY_SPACE = 100_000
PREFIX = b"key:0000001"
"""With a million keys, the first letters of 100,000 of them."""


def key_of(number: int) -> bytes:
    """Give the key of a number below 10**12, 16 bytes as redis-benchmark makes them."""
    return b"key:%012d" % number


def value_of(number: int) -> bytes:
    """Give a value of 20 bytes."""
    return b"v%019d" % number


@dataclass(frozen=True)
class Request:
    """One command and the shape of its answer.

    :ivar data: the bytes to send.
    :ivar newlines: how many newlines its answer has.
    :ivar size: how many bytes its answer has; 0 where that is not fixed.
    """

    data: bytes
    newlines: int
    size: int


class Dialect(Protocol):
    """How one server wants its commands."""

    def set(self, key: bytes, value: bytes) -> Request: ...
    def get(self, key: bytes) -> Request: ...
    def ping(self) -> Request: ...
    def keys(self, prefix: bytes, matches: int) -> Request: ...


class NunTcp:
    """The node over TCP: a command a line, ``ok \\n`` closes each answer."""

    def set(self, key: bytes, value: bytes) -> Request:
        return Request(b"set %b %b\n" % (key, value), 1, 4)

    def get(self, key: bytes) -> Request:
        return Request(b"get %b\n" % key, 2, len(b"value ") + VALUE_SIZE + 1 + 4)

    def ping(self) -> Request:
        return Request(b"ping\n", 2, len(b"pong\nok \n"))

    def keys(self, prefix: bytes, matches: int) -> Request:
        """The list of keys with a prefix (empty: all), of which ``matches`` exist."""
        size = len(b"keys \n") + matches * (KEY_SIZE + 1) + 4
        if prefix:
            return Request(b"keys %b*\n" % prefix, 2, size)
        return Request(b"keys\n", 2, size + len(b",$connections"))


class NunWebSocket:
    """The node over WebSocket: a masked text frame a command, each answer line a frame.

    :param chance: where the masks come from.
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def _frame(self, text: bytes) -> bytes:
        return frame(text, self._chance.getrandbits(32).to_bytes(4, "big"))

    def set(self, key: bytes, value: bytes) -> Request:
        return Request(self._frame(b"set %b %b" % (key, value)), 1, 2 + 4)

    def get(self, key: bytes) -> Request:
        size = 2 + len(b"value ") + VALUE_SIZE + 1 + 2 + 4
        return Request(self._frame(b"get " + key), 2, size)

    def ping(self) -> Request:
        return Request(self._frame(b"ping"), 2, 2 + len(b"pong\n") + 2 + 4)

    def keys(self, prefix: bytes, matches: int) -> Request:
        command = b"keys %b*" % prefix if prefix else b"keys"
        return Request(self._frame(command), 2, 0)


class Redis:
    """Redis' own framing, as redis-benchmark sends it."""

    def set(self, key: bytes, value: bytes) -> Request:
        return Request(resp(b"SET", key, value), 1, len(b"+OK\r\n"))

    def get(self, key: bytes) -> Request:
        return Request(resp(b"GET", key), 2, len(b"$20\r\n") + VALUE_SIZE + 2)

    def ping(self) -> Request:
        return Request(resp(b"PING"), 1, len(b"+PONG\r\n"))

    def keys(self, prefix: bytes, matches: int) -> Request:
        size = len(b"*%d\r\n" % matches) + matches * (len(b"$16\r\n") + KEY_SIZE + 2)
        return Request(resp(b"KEYS", prefix + b"*"), 1 + 2 * matches, size)


def resp(*words: bytes) -> bytes:
    """Encode one Redis command."""
    parts = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
    return b"*%d\r\n%b" % (len(words), parts)


def frame(text: bytes, mask: bytes) -> bytes:
    """Encode a client's text frame (RFC 6455, 5.2).

    :param text: the payload, under 64 KiB.
    :param mask: four bytes.
    """
    size = len(text)
    head = bytes((0x81, 0x80 | size)) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
    stretched = (mask * (size // 4 + 1))[:size]
    masked = int.from_bytes(text, "big") ^ int.from_bytes(stretched, "big")
    return head + mask + masked.to_bytes(size, "big")


@dataclass(frozen=True)
class Ring:
    """Batches that a connection sends one after the other, and round again.

    :ivar batches: each is sent at once; the next when this one is answered.
    :ivar depth: commands a batch.
    :ivar newlines: newlines in the answer to a batch.
    :ivar size: bytes in it; 0 where that is not fixed.
    """

    batches: Sequence[bytes]
    depth: int
    newlines: int
    size: int


def ring(requests: Sequence[Request], depth: int) -> Ring:
    """Join requests of one shape into batches of ``depth``; a rest that fills none is left out.

    :raise ValueError: where there are fewer than ``depth``, or their answers differ in shape.
    """
    shapes = {(request.newlines, request.size) for request in requests}
    if len(requests) < depth or len(shapes) != 1:
        raise ValueError("a ring needs a whole batch of requests of one shape")
    ((newlines, size),) = shapes
    batches = [
        b"".join(request.data for request in requests[start : start + depth])
        for start in range(0, len(requests) - depth + 1, depth)
    ]
    return Ring(batches, depth, newlines * depth, size * depth)


def random_sets(
    dialect: Dialect, depth: int, space: int, count: int, chance: random.Random
) -> Ring:
    """Batches of ``set`` on random keys of a key space."""
    numbers = [(chance.randrange(space), chance.getrandbits(32)) for _ in range(count)]
    return ring([dialect.set(key_of(key), value_of(value)) for key, value in numbers], depth)


def random_gets(
    dialect: Dialect, depth: int, space: int, count: int, chance: random.Random
) -> Ring:
    """Batches of ``get`` on random keys of a key space, all of which must be there."""
    return ring([dialect.get(key_of(chance.randrange(space))) for _ in range(count)], depth)


def sets_in_order(dialect: Dialect, depth: int, first: int, count: int) -> Ring:
    """Batches that set the keys ``first`` to ``first + count - 1`` (a multiple of ``depth``)."""
    numbers = range(first, first + count)
    return ring([dialect.set(key_of(number), value_of(number)) for number in numbers], depth)


def once(request: Request) -> Ring:
    """A ring of one command."""
    return ring([request], 1)
