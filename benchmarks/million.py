"""With a million keys: memory, pauses, lists of keys, restarts.

A *probe*, one connection that reads a key, waits for the answer and reads the next, runs beside
everything here; its longest wait is what any other client would have had to wait.  On a machine
that others use too it includes the times in which the probe or the server had no core; what
Redis shows in the same place tells how much that is.

A server is filled at a moderate pace (50,000 sets a second) while the probe runs, so that
growing tables and collections of garbage show.  The order is: fill, idle, load, lists, kill and
restart (from the log), stop and restart (from what the stop left).
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.bench import Bench
from benchmarks.figures import Row, Side, percentile
from benchmarks.load import Channel
from benchmarks.servers import Node, RedisServer, closing_all
from benchmarks.throughput import fill
from benchmarks.wire import PREFIX, once, random_gets, random_sets, sets_in_order

GROUPS = {"memory", "pause", "keys", "restart"}
WRITERS = 10
DEPTH = 10
TICK = 0.002
"""Ten connections, a batch of ten commands each every two milliseconds: 50,000 a second."""

Server = Node | RedisServer


class Line(NamedTuple):
    """A row to be: its name, title and unit."""

    name: str
    title: str
    unit: str


def run(bench: Bench, groups: set[str]) -> Iterator[Row]:
    """Give the rows of the groups ``memory``, ``pause``, ``keys`` and ``restart``."""
    with bench.node() as node:
        ours = _measure(bench, node, groups)
    theirs: dict[Line, Side] = {}
    with bench.redis() as redis:
        if redis is not None:
            theirs = _measure(bench, redis, groups)
    for line, side in ours.items():
        yield Row(*line, side, theirs.get(line))


def _measure(bench: Bench, server: Server, groups: set[str]) -> dict[Line, Side]:
    """Take one server through it all."""
    count = bench.settings.keys
    label = f"{count:,} keys"
    sides: dict[Line, Side] = {}
    before = server.memory()
    if "pause" in groups:
        bench.say(f"{server.name}: growing to {label} under a probe")
        line = Line("pause-growing", f"Longest wait while growing to {label}", "ms")
        sides[line] = _grow(bench, server)
    else:
        bench.say(f"{server.name}: filling {label}")
        fill(bench, server, count)
    if "memory" in groups:
        used = (server.memory() - before) / count
        sides[Line("memory-million", f"Memory of {label}, a key", "B")] = Side([used])
    if "pause" in groups:
        bench.say(f"{server.name}: pauses with {label}")
        line = Line("pause-idle", f"Longest wait, {label}, else idle", "ms")
        sides[line] = _probe(bench, server, [], bench.settings.seconds * 2)
        line = Line("pause-load", f"Longest wait, {label}, moderate load", "ms")
        sides[line] = under_load(bench, server)
    if "keys" in groups:
        for name, words, prefix, matches in (
            ("keys", "keys", b"", count),
            ("keys-prefix", "keys PREFIX*", PREFIX, min(100_000, max(0, count - 100_000))),
        ):
            bench.say(f"{server.name}: {words}")
            whole, wait = _list(bench, server, prefix, matches)
            sides[Line(name, f"{words}: {matches:,} of {label}", "ms")] = whole
            sides[Line(f"{name}-wait", "  longest wait of others", "ms")] = wait
    if "restart" in groups:
        for name, words, number in (
            ("restart-killed", "kill -9", signal.SIGKILL),
            ("restart-stopped", "a stop", signal.SIGTERM),
        ):
            bench.say(f"{server.name}: restart after {words}")
            stop = server.stop(number)
            line = Line(name, f"Restart after {words}, {label}", "s")
            sides[line] = Side([server.start()], notes={"stop seconds": stop})
            read_some(bench, server)
    return sides


def read_some(bench: Bench, server: Server) -> None:
    """Read keys from all over: a restart that lost them would be a quick one.

    :raise LoadError: some are not there.
    """
    ring = random_gets(server.dialect, 100, bench.settings.keys, 10_000, random.Random(11))
    with closing_all(server.connect(1)) as (connection,):
        bench.engine.drive([Channel(connection, ring, limit=len(ring.batches))], 60.0)


def _grow(bench: Bench, server: Server) -> Side:
    share = bench.settings.keys // WRITERS
    with closing_all(server.connect(WRITERS)) as connections:
        channels = [
            Channel(
                connection,
                sets_in_order(server.dialect, DEPTH, number * share, share),
                limit=share // DEPTH,
                paced=True,
            )
            for number, connection in enumerate(connections)
        ]
        return _probe(bench, server, channels, 3600.0)


def under_load(bench: Bench, server: Server) -> Side:
    chance, keys = random.Random(7), bench.settings.keys
    rings = [
        make(server.dialect, DEPTH, keys, 50_000, chance) for make in (random_sets, random_gets)
    ]
    with closing_all(server.connect(WRITERS)) as connections:
        channels = [
            Channel(connection, rings[number % 2], start=number * 500, paced=True)
            for number, connection in enumerate(connections)
        ]
        return _probe(bench, server, channels, bench.settings.seconds * 5)


def _probe(bench: Bench, server: Server, channels: Sequence[Channel], seconds: float) -> Side:
    """Run channels with a probe beside them; give its longest wait in milliseconds."""
    with closing_all(server.connect(1)) as (connection,):
        probe = Channel(connection, once(server.dialect.ping()), record=True)
        outcome = bench.engine.drive([*channels, probe], seconds, TICK)
    return _waits(outcome.times)


def _waits(times: Sequence[float]) -> Side:
    notes = {
        "median ms": percentile(times, 0.5) * 1000,
        "p99 ms": percentile(times, 0.99) * 1000,
        "p99.9 ms": percentile(times, 0.999) * 1000,
        "count": float(len(times)),
    }
    return Side([max(times) * 1000], notes=notes)


def _list(bench: Bench, server: Server, prefix: bytes, matches: int) -> tuple[Side, Side]:
    """List keys with a probe beside; give the time of the whole answer and the longest wait."""
    ring = once(server.dialect.keys(prefix, matches))
    probing = random_gets(server.dialect, 1, bench.settings.keys, 10_000, random.Random(matches))
    whole: list[float] = []
    waits: list[float] = []
    with closing_all(server.connect(2)) as (lister, other):
        for _ in range(3):
            probe = Channel(other, probing, record=True)
            outcome = bench.engine.drive([Channel(lister, ring, limit=1), probe], 3600.0)
            whole.append(outcome.seconds * 1000)
            waits.extend(outcome.times)
    return Side(whole), _waits(waits)
