"""What a fuzz target is, and what targets share.

A target is a function of bytes that raises where something is wrong: an error that the parser does
not document, an answer that depends on how the bytes came, or one that another way to the same does
not give. What is wrong with the bytes is no failure of the target.

Formats with checksums have a *repair*: it puts right checksums into damaged bytes, and on demand
lengths that fit, so that what stands behind them is reached. Each input is tried as it is, with
checksums repaired, and with lengths repaired, too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar
from zlib import crc32

from twisted.logger import LogEvent, globalLogPublisher

T = TypeVar("T")

MOST_PIECES = 1_000
"""Pieces in which an input is delivered, at most."""


class Target(NamedTuple):
    """One parser with what must be true of it.

    :ivar name: as it is called, and the directory of its seeds.
    :ivar about: what it reads, in a few words.
    :ivar check: tries one input; raises where something is wrong.
    :ivar repair: gives an input with right checksums; and with lengths that fit, where the second
        argument is true. None for formats without.
    :ivar examples: how many mutated inputs a test run tries.
    :ivar largest: bytes of an input on which the time is measured: less for those that run a
        whole node several times.
    """

    name: str
    about: str
    check: Callable[[bytes], None]
    repair: Callable[[bytes, bool], bytes] | None = None
    examples: int = 200
    largest: int = 1 << 20

    def run(self, data: bytes) -> None:
        """Try an input, and what becomes of it when its checksums are repaired."""
        self.check(data)
        if self.repair is None:
            return
        tried = {data}
        for lengths in (False, True):
            repaired = self.repair(data, lengths)
            if repaired not in tried:
                tried.add(repaired)
                self.check(repaired)


def tried(
    errors: type[Exception] | tuple[type[Exception], ...], function: Callable[..., T], *args: object
) -> T | None:
    """What a function gives; None where it raises one of the errors that it may."""
    try:
        return function(*args)
    except errors:
        return None


def ways_to_cut(data: bytes) -> Iterator[list[bytes]]:
    """The same bytes whole, one by one, and in pieces that are as good as random."""
    if not data:
        yield []
        return
    yield [data]
    size = len(data) // MOST_PIECES + 1
    yield [data[at : at + size] for at in range(0, len(data), size)]
    yield cut(data)


def cut(data: bytes) -> list[bytes]:
    """Bytes in pieces: the same ones each time."""
    chance = random.Random(crc32(data))
    places = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(1, 8)))
    ends = [*places, len(data)]
    pieces = [data[start:end] for start, end in zip([0, *places], ends, strict=True)]
    return [piece for piece in pieces if piece]


def bundle(*parts: bytes) -> bytes:
    """Several files as one input: each with its length before it, but for the last one."""
    *most, last = parts
    return b"".join(len(part).to_bytes(4, "little") + part for part in most) + last


def unbundle(data: bytes, count: int) -> list[bytes]:
    """Several files out of one input; what is missing is empty."""
    parts = []
    for _ in range(count - 1):
        size = int.from_bytes(data[:4], "little")
        parts.append(data[4 : 4 + size])
        data = data[4 + size :]
    return [*parts, data]


@contextmanager
def nothing_fails() -> Iterator[None]:
    """No error may be logged meanwhile: what is caught at the edge of the node is one, too."""
    failures: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        if event.get("log_failure") is not None:
            failures.append(event)

    globalLogPublisher.addObserver(observe)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(observe)
    for event in failures:
        raise AssertionError("an error was logged") from event["log_failure"].value


@contextmanager
def put(place: object, **changes: object) -> Iterator[None]:
    """Have other attributes for a while."""
    before = {name: getattr(place, name) for name in changes}
    for name, value in changes.items():
        setattr(place, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(place, name, value)
