"""What an idle connection costs the server's process: resident memory, thousands of them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

from benchmarks.bench import Bench
from benchmarks.figures import Row, Side
from benchmarks.servers import Process, closing_all

SETTLE = 1.0
"""Seconds given to a server between connecting and measuring."""


def run(bench: Bench) -> Iterator[Row]:
    """Give the row of idle connections, on fresh servers."""
    bench.say(f"memory of {bench.settings.idle:,} idle connections")
    with bench.node() as node:
        ours = _idle(bench, node, node.connect_web)
    theirs = None
    with bench.redis() as redis:
        if redis is not None:
            theirs = _idle(bench, redis, redis.connect)
    yield Row("idle-connection", "Idle WebSocket connection (Redis: TCP)", "KB", ours, theirs)


def _idle(bench: Bench, server: Process, connect: Callable[[int], list[socket.socket]]) -> Side:
    # A few connections first, so that what a server loads at its first client is not counted.
    with closing_all(connect(50)):
        time.sleep(SETTLE)
        before = server.memory()
        with closing_all(connect(bench.settings.idle)):
            time.sleep(SETTLE)
            used = server.memory() - before
    return Side([used / bench.settings.idle / 1024])
