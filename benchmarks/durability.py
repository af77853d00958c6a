"""Sets, one at a time, with each setting of durability beside that of Redis.

Six servers run side by side and take turns: the node with ``os``, ``interval`` and ``disk``,
Redis with ``appendfsync`` ``no``, ``everysec`` and ``always``. With ``disk`` and ``always`` each
answer waits for a flush, which all connections share: so their number decides.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from benchmarks.bench import Bench, Player
from benchmarks.figures import Row, Side
from benchmarks.servers import Node, RedisServer
from benchmarks.throughput import COMMANDS, drive
from benchmarks.wire import KEY_SPACE, random_sets

CONNECTIONS = (1, 50, 500)
PAIRS = (("os", "no"), ("interval", "everysec"), ("disk", "always"))

Server = Node | RedisServer


def run(bench: Bench) -> Iterator[Row]:
    """Give the rows of the group ``durability``."""
    with ExitStack() as running:
        servers: dict[str, Server] = {}
        for ours, theirs in PAIRS:
            servers[ours] = running.enter_context(bench.node(variables={"NUN_DURABILITY": ours}))
            redis = running.enter_context(bench.redis(theirs))
            if redis is not None:
                servers[theirs] = redis
        for count in CONNECTIONS:
            bench.say(f"durability, {count} connections")
            players: list[Player] = [
                (server, partial(_drive, bench, server, count)) for server in servers.values()
            ]
            sides = dict(zip(servers, bench.turns(players), strict=True))
            yield from _rows(sides, count)


def _rows(sides: dict[str, Side], count: int) -> Iterator[Row]:
    connections = "1 connection" if count == 1 else f"{count} connections"
    for ours, theirs in (*PAIRS, ("os", "everysec")):
        name = f"durability-{ours}" + ("-everysec" if (ours, theirs) == ("os", "everysec") else "")
        title = f"set, {connections}, {ours} (Redis: {theirs})"
        yield Row(f"{name}-{count}", title, "/s", sides[ours], sides.get(theirs))


def _drive(bench: Bench, server: Server, count: int) -> float:
    ring = random_sets(server.dialect, 1, KEY_SPACE, COMMANDS, random.Random(count))
    return drive(bench, server.connect(count), ring)
