"""Sets on a primary with no, one and two replicas, under both write concerns.

Beside each stands a Redis with as many replicas: as it is for the concern ``primary``, and with a
``WAIT 1`` behind every batch for ``majority`` (of two or three nodes that is one replica).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from benchmarks import sets
from benchmarks.bench import Bench, Player
from benchmarks.figures import Row
from benchmarks.servers import Node, RedisServer
from benchmarks.throughput import COMMANDS, drive, fill
from benchmarks.wire import KEY_SPACE, Ring, random_sets, resp

DEPTHS = (1, 16)
REPLICAS = (0, 1, 2)

Server = Node | RedisServer


def run(bench: Bench) -> Iterator[Row]:
    """Give the rows of the group ``replication``."""
    for replicas in REPLICAS:
        concerns = ("primary", "majority") if replicas else ("primary",)
        for concern in concerns:
            bench.say(f"sets with {replicas} replicas, {concern}")
            yield from _run(bench, replicas, concern)


def _run(bench: Bench, replicas: int, concern: str) -> Iterator[Row]:
    waits = concern == "majority"
    with (
        sets.nodes(bench, replicas + 1, {"NUN_WRITE_CONCERN": concern}) as nodes,
        sets.redis_with_replicas(bench, replicas) as redis,
    ):
        servers: list[Server] = [nodes[0], *([] if redis is None else [redis])]
        for server in servers:
            fill(bench, server, KEY_SPACE)
        for depth in DEPTHS:
            players: list[Player] = [
                (server, partial(_drive, bench, server, _ring(server, depth, waits)))
                for server in servers
            ]
            sides = bench.turns(players)
            name = f"replication-{replicas}-{concern}-{depth}"
            those = "1 replica" if replicas == 1 else f"{replicas} replicas"
            beside = " (Redis: WAIT 1)" if waits else ""
            title = f"set, depth {depth}, {those}, {concern}{beside}"
            yield Row(name, title, "/s", *sides)


def _ring(server: Server, depth: int, waits: bool) -> Ring:
    ring = random_sets(server.dialect, depth, KEY_SPACE, COMMANDS, random.Random(depth))
    return with_wait(ring) if waits and isinstance(server, RedisServer) else ring


def with_wait(ring: Ring) -> Ring:
    """Batches of Redis, behind each of which one replica is waited for."""
    wait = resp(b"WAIT", b"1", b"5000")
    return replace(
        ring,
        batches=[batch + wait for batch in ring.batches],
        newlines=ring.newlines + 1,
        size=ring.size + len(b":1\r\n"),
    )


def _drive(bench: Bench, server: Server, ring: Ring) -> float:
    return drive(bench, server.connect(bench.settings.connections), ring)
