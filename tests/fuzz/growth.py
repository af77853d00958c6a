"""How time and memory grow with an input: what a parser must never do is more than its share.

A large input is made of a small one in several ways, a quarter as large and whole. Work that grows
with the square takes sixteen times as long then, right work four times.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator

from nuntwist.archive.entries import archive_of
from nuntwist.archive.format import Member
from nuntwist.cluster.ballots import Vote
from nuntwist.cluster.frames import encode
from nuntwist.interfaces import SnapshotHeader
from nuntwist.oplog import record
from nuntwist.oplog.segment import SEGMENT_HEAD
from nuntwist.storage import format as snapshot
from nuntwist.values import INDEX, SET, Epoch
from tests.fuzz.seeds import seeds_of
from tests.fuzz.table import TARGETS
from tests.fuzz.target import Target, bundle

FACTOR = 4
QUICK = 1 << 16
"""Bytes of an input of the tests; ``python -m tests.fuzz times`` takes a mebibyte."""
MOST_PLACES = 60
MOST_TIMES = 11.0
"""Between four and sixteen."""
MEASURED = 5
"""How often what takes too long is measured, before it counts."""
SLACK_SECONDS = 0.15
"""Below this nobody minds."""
PIECES = [b"a", b" ", b";", b"\n", b"\r\n", b"x;", b"a,", b"a|", b"r a|", b":"]
PIECES += [b"[", b"9", b"\0", b"\xff"]
WORDS = (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x40", b"\0\0\0\x08")
"""Lengths of gigabytes, little endian, and of 128 MiB, which is allowed."""


def large(name: str, size: int) -> Iterator[bytes]:
    """Inputs of a size."""
    if name in _MANY:
        yield _MANY[name](size)
    for seed in seeds_of(name)[:3]:
        if seed:
            yield (seed * (size // len(seed) + 1))[:size]
            # Its end repeated: entries, lines or arguments, behind a right beginning.
            half = len(seed) // 2
            end = seed[half:]
            yield (seed[:half] + end * (size // len(end) + 1))[:size]
    for piece in PIECES:
        yield (piece * (size // len(piece) + 1))[:size]


def _many_databases(size: int) -> bytes:
    members = [(Member(b"%d" % number, b"none"), ()) for number in range(size // 100)]
    return b"".join(archive_of(members, "", ""))


def _many_records(size: int) -> bytes:
    ops = ((b"v", 0, index, index, SET, 1, b"k") for index in range(1, size // 90 + 2))
    return b"".join(record.encode(Epoch(op[INDEX], 1), 2, [op]) for op in ops)


def _many_keys(size: int) -> bytes:
    places = (b"k%d" % (number % 1000) for number in range(size // 40))
    keys = b"".join(struct.pack("<Q", len(key)) + key + struct.pack("<iQ", 1, 0) for key in places)
    return bundle(bytes(12), keys, struct.pack("<Q", 1) + b"v" + bytes(4))


def _many_blocks(size: int) -> bytes:
    begin = snapshot.begin(SnapshotHeader(7, b"n", b"none", 1), 0)
    blocks = [snapshot.entries([(b"v", 0, 1, 1, SET, 7, b"k")])] * (size // 50)
    return b"".join([begin, *blocks, snapshot.end(len(blocks))])


_MANY: dict[str, Callable[[int], bytes]] = {
    "archive": _many_databases,
    "records": _many_records,
    "segment": lambda size: SEGMENT_HEAD + _many_records(size),
    "nundb": _many_keys,
    "partition": _many_blocks,
    "peer-frames": lambda size: encode(Vote(1)) * (size // 17),
    "answer": lambda size: b"value a;" * (size // 8),
    "copy-piece": lambda size: (bytes(8) + b"\x20\0\0\0" + bytes(32)) * (size // 44),
    "restore": _many_databases,
}
"""Right inputs of many small pieces; beside them those of all targets."""


def seconds(target: Target, data: bytes) -> float:
    """Seconds of the processor that an input takes."""
    began = time.process_time()
    target.run(data)
    return time.process_time() - began


def worst(name: str, largest: int = 0) -> tuple[float, float, bytes]:
    """The input whose time grows most.

    :return: how many times as long the whole takes, its seconds, and its beginning.
    """
    target = TARGETS[name]
    size = min(largest or QUICK, target.largest)
    found = (0.0, 0.0, b"")
    for small, whole in zip(large(name, size // FACTOR), large(name, size), strict=True):
        taken = seconds(target, whole)
        if taken <= SLACK_SECONDS:
            found = max(found, (0.0, taken, whole[:32]))
            continue
        # The best of some: what is measured beside others is never too short.
        before = max(seconds(target, small), SLACK_SECONDS / 100)
        for _ in range(MEASURED):
            taken = min(taken, seconds(target, whole))
            if taken < max(SLACK_SECONDS, MOST_TIMES * before):
                break
        if taken > SLACK_SECONDS:
            found = max(found, (taken / before, taken, whole[:32]))
    return found


def report(name: str) -> None:
    """Print that."""
    times, taken, begins = worst(name, 1 << 20)
    print(f"{name:14} {taken:7.3f} s, {times:5.1f} times a quarter of it: {begins!r}", flush=True)


def claims(data: bytes) -> Iterator[bytes]:
    """An input with a length of gigabytes in each place where one may be."""
    step = len(data) // MOST_PLACES + 1
    for at in range(0, len(data), step):
        for word in WORDS[:: 1 + (step > 1)]:
            yield data[:at] + word + data[at + 4 :]
            yield data[:at] + word[::-1] + data[at + 4 :]
