"""Set and get: 50 connections, each a batch of some depth in flight, the log on.

The two servers take turns of some seconds.  The key space has 100,000 keys, all there before
the first turn.  WebSocket sets are held against Redis' sets over TCP at the same depth.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.bench import Bench
from benchmarks.figures import Row
from benchmarks.load import Channel
from benchmarks.servers import Node, RedisServer, closing_all
from benchmarks.wire import KEY_SPACE, Ring, random_gets, random_sets, sets_in_order

COMMANDS = 100_000
"""Commands encoded beforehand; each connection begins somewhere else in them."""

TITLES = {"set": "TCP set", "get": "TCP get", "ws": "WebSocket set"}

Server = Node | RedisServer


def run(bench: Bench, ours: Node, other: Server | None, groups: set[str]) -> Iterator[Row]:
    """Give the rows of the groups ``set``, ``get`` and ``ws``.

    :param other: the yardstick: Redis, another node, or None.
    """
    servers = [server for server in (ours, other) if server is not None]
    for server in servers:
        fill(bench, server, KEY_SPACE)
    for group in TITLES:
        if group not in groups:
            continue
        depths = bench.settings.web_depths if group == "ws" else bench.settings.depths
        for depth in depths:
            bench.say(f"{TITLES[group]}, depth {depth}")
            players = [(server, _turn(bench, server, group, depth)) for server in servers]
            sides = bench.turns(players)
            title = f"{TITLES[group]}, depth {depth}"
            yield Row(f"{group}-{depth}", title, "/s", sides[0], *sides[1:])


def fill(bench: Bench, server: Server, keys: int) -> None:
    """Set all keys of a key space, as fast as it goes.

    :param keys: a multiple of 100.
    """
    ring = sets_in_order(server.dialect, 100, 0, keys)
    with closing_all(server.connect(1)) as (connection,):
        bench.engine.drive([Channel(connection, ring, limit=keys // 100)], 3600.0)


def _turn(bench: Bench, server: Server, group: str, depth: int) -> Callable[[], float]:
    """Give what runs one turn of a server and gives its operations a second."""
    chance = random.Random(depth)
    web = group == "ws" and isinstance(server, Node)
    dialect = server.web_dialect if web and isinstance(server, Node) else server.dialect
    make = random_gets if group == "get" else random_sets
    ring = make(dialect, depth, KEY_SPACE, COMMANDS, chance)
    return partial(_drive, bench, server, web, ring)


def _drive(bench: Bench, server: Server, web: bool, ring: Ring) -> float:
    connect = server.connect_web if web and isinstance(server, Node) else server.connect
    return drive(bench, connect(bench.settings.connections), ring)


def drive(bench: Bench, connections: list[socket.socket], ring: Ring) -> float:
    """Run one turn over connections, which are closed then; give the operations a second."""
    count = len(connections)
    with closing_all(connections):
        step = max(1, len(ring.batches) // count)
        channels = [
            Channel(connection, ring, start=number * step)
            for number, connection in enumerate(connections)
        ]
        outcome = bench.engine.drive(channels, bench.settings.seconds)
    return sum(outcome.batches) * ring.depth / outcome.seconds
