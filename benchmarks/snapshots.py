"""Snapshots of a million keys: what they cost, others and the disk; loading them; backups.

A snapshot of all is taken while ten connections write 25,000 and read 25,000 keys a second;
a probe tells what anybody else had to wait, and the memory of the process is looked at every 20
milliseconds. Redis loads the same keys from its RDB file.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.figures import Row, Side
from benchmarks.load import Channel
from benchmarks.million import read_some, under_load
from benchmarks.servers import DATABASE, Node, closing_all
from benchmarks.throughput import fill
from benchmarks.wire import once, value_of

SETTINGS = {"NUN_DECLUTTER_INTERVAL": "1000000", "NUN_MAX_OP_LOG_SIZE": "8GiB"}
"""So that no snapshot comes by itself."""
LOOK = 0.02


def run(bench: Bench) -> Iterator[Row]:
    """Give the rows of the group ``snapshot``."""
    count = bench.settings.keys
    with bench.node(variables=SETTINGS) as node:
        bench.say(f"snapshots of {count:,} keys")
        fill(bench, node, count)
        node.admin(b"snapshot true " + DATABASE)
        yield from _under_way(bench, node)
        for changed in (10, count // 100):
            yield _bytes_written(bench, node, changed)
        yield from _backup(bench, node)
        bench.say("loading a snapshot")
        node.stop()
        ours = Side([node.start()])
        read_some(bench, node)
    theirs = None
    with bench.redis("off") as redis:
        if redis is not None:
            fill(bench, redis, count)
            redis.save()
            redis.stop()
            theirs = Side([redis.start()])
            read_some(bench, redis)
    yield Row("snapshot-load", f"Start from a snapshot of {count:,} keys", "s", ours, theirs)


def _under_way(bench: Bench, node: Node) -> Iterator[Row]:
    """A snapshot of all under load: the longest wait, the memory, how long it took."""
    bench.say("a snapshot of all under load")
    before = node.memory()
    highest = before
    seconds: list[float] = []
    over = threading.Event()

    def look() -> None:
        nonlocal highest
        while not over.is_set():
            highest = max(highest, node.memory())
            time.sleep(LOOK)

    def take() -> None:
        begin = time.monotonic()
        node.admin(b"snapshot true " + DATABASE)
        seconds.append(time.monotonic() - begin)

    # What writing alone does to the memory and to others must be known too.
    alone = under_load(bench, node)
    before = highest = node.memory()
    watching, taking = threading.Thread(target=look), threading.Thread(target=take)
    watching.start()
    taking.start()
    waits = under_load(bench, node)
    taking.join()
    over.set()
    watching.join()
    yield Row("snapshot-wait", "Longest wait during a snapshot of all, moderate load", "ms", waits)
    yield Row("snapshot-wait-without", "  the same without a snapshot", "ms", alone)
    grown = (highest - before) / before * 100
    yield Row("snapshot-memory", "Memory grown during it", "%", Side([grown]))
    yield Row("snapshot-seconds", "How long it took", "s", Side(seconds))


def _bytes_written(bench: Bench, node: Node, changed: int) -> Row:
    """What a snapshot writes when a few keys have changed."""
    bench.say(f"a snapshot after {changed:,} keys changed")
    every = bench.settings.keys // changed
    node.admin(b"snapshot false " + DATABASE)
    before = _files(node)
    requests = [node.dialect.set(b"key:%012d" % (n * every), value_of(7)) for n in range(changed)]
    with closing_all(node.connect(1)) as (connection,):
        for request in requests:
            bench.engine.drive([Channel(connection, once(request), limit=1)], 60.0)
    begin = time.monotonic()
    node.admin(b"snapshot false " + DATABASE)
    seconds = time.monotonic() - begin
    written = sum(size for name, size in _files(node).items() if before.get(name) != size)
    side = Side([written / 1e6], notes={"seconds": seconds})
    title = f"Written by snapshot false after {changed:,} keys changed"
    return Row(f"snapshot-bytes-{changed}", title, "MB", side)


def _files(node: Node) -> dict[str, int]:
    place = node.directory / "dbs"
    return {one.name: one.stat().st_size for one in place.glob("database-*")}


def _backup(bench: Bench, node: Node) -> Iterator[Row]:
    bench.say("backup and restore")
    file = node.directory / "backup"
    seconds = node.command_line("backup", str(file))
    size = Path(file).stat().st_size / 1e6
    yield Row("backup-speed", "Backup to a file", "MB/s", Side([size / seconds]))
    seconds = node.command_line("restore", "--force", "--db", DATABASE.decode(), str(file))
    yield Row("restore-speed", "Restore from it", "MB/s", Side([size / seconds]))
