"""How long the log takes to give its first operation from a place in the middle.

That is what a replica waits for that reconnects. The log is one of small records, 100 bytes
each, which is the hardest: most records to look through between two places of its index.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.figures import Row, Side
from nuntwist.files_on_disk import DiskFiles
from nuntwist.oplog.segments import FileOplog
from nuntwist.values import INDEX, SET, Epoch

BYTES_A_KEY = 1024
"""Of log, for each key of the settings: 1 GB with a million."""
PLACES = 200
_EPOCH = Epoch(1, 1)


def run(bench: Bench) -> Iterator[Row]:
    """Give the rows of the group ``position``."""
    size = bench.settings.keys * BYTES_A_KEY
    bench.say(f"writing a log of {size >> 20:,} MiB, then reading from {PLACES} places")
    with tempfile.TemporaryDirectory(prefix="nuntwist-position-") as directory:
        times = measure(directory, size, PLACES)
    title = f"First operation from a random place in a log of {size >> 20:,} MiB"
    yield Row("position", title, "ms", Side(times))
    yield Row("position-worst", f"The same, worst of {PLACES}", "ms", Side([max(times)]))


def measure(directory: str, size: int, places: int, seed: int = 1) -> list[float]:
    """Write a log and read from random places.

    :param directory: for the log, empty.
    :param size: bytes of the log.
    :return: milliseconds to the first operation, for each place.
    """
    log = FileOplog(DiskFiles(directory), 1, limit=size)
    log.open()
    try:
        _fill(log, size)
        chance = random.Random(seed)
        return [_first_from(log, chance.randrange(log.count)) for _ in range(places)]
    finally:
        log.close()


def _fill(log: FileOplog, size: int) -> None:
    index = 0
    while log.size < size:
        index += 1
        log.append(_EPOCH, [(b"%04d" % (index % 10_000), 0, index, index, SET, 1, b"key-%04d" % 7)])


def _first_from(log: FileOplog, after: int) -> float:
    began = time.perf_counter()
    ops = next(log.read(after))
    taken = (time.perf_counter() - began) * 1000
    if ops[0][INDEX] != after + 1:
        raise ValueError(f"asked for operation {after + 1}, got {ops[0][INDEX]}")
    return taken
