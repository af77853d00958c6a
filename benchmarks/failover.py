"""How long writes fail when the primary is killed.

A set of three with default settings takes writes at every node, one after the other. The primary is
killed with SIGKILL; what counts is the time from there to the first ``ok`` that a survivor gives to
a write that was sent after the kill. The killed one comes back, and when all follow again, the next
one dies.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks import sets
from benchmarks.bench import Bench
from benchmarks.figures import Row, Side, percentile
from benchmarks.servers import Node, ServerError, ask, closing_all

KILLS = 20
QUICK_KILLS = 5
PAUSE = 0.002
"""Seconds between two writes of a writer."""


def run(bench: Bench) -> Iterator[Row]:
    """Give the rows of the group ``failover``."""
    kills = KILLS if bench.settings.rounds > 2 else QUICK_KILLS
    with sets.nodes(bench, 3) as nodes:
        times = []
        for number in range(kills):
            bench.say(f"failover {number + 1} of {kills}")
            times.append(_fail_over(nodes))
    yield from rows(times)


def rows(times: Sequence[float]) -> Iterator[Row]:
    """Give the rows that tell how some failovers are spread, from their seconds."""
    title = f"SIGKILL to the next answered write, {len(times)} times"
    yield Row("failover-median", f"{title}, median", "s", Side(times))
    yield Row("failover-least", "  least", "s", Side([min(times)]))
    yield Row("failover-p90", "  p90", "s", Side([percentile(times, 0.9)]))
    yield Row("failover-worst", "  worst", "s", Side([max(times)]))


def _fail_over(nodes: list[Node]) -> float:
    primary = sets.primary_of(nodes)
    survivors = [node for node in nodes if node is not primary]
    writers = [Writer(node) for node in nodes]
    time.sleep(0.3)
    primary.stop(signal.SIGKILL)
    killed = time.monotonic()
    try:
        sets.wait_until(lambda: any(w.first_after(killed) for w in writers), "a new primary")
        took = min(w.first_after(killed) or killed + sets.PATIENCE for w in writers) - killed
    finally:
        for writer in writers:
            writer.stop()
    primary.start(primary.listens)
    leads = sets.primary_of(survivors)
    for node in nodes:
        if node is not leads:
            sets.wait_until(partial(sets.follows, leads, node), "a node to follow")
    return took


class Writer:
    """Writes at one node, one write after the other, in a thread; begins anew when it is lost."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._stopped = False
        self._done: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def first_after(self, moment: float) -> float | None:
        """When the first write was answered that was sent after a moment."""
        return min((done for sent, done in self._done if sent > moment), default=None)

    def stop(self) -> None:
        """End it."""
        self._stopped = True
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped:
            try:
                with closing_all(self._node.connect(1)) as (connection,):
                    connection.settimeout(sets.PATIENCE)
                    self._write(connection)
            except (OSError, ServerError):
                time.sleep(PAUSE)

    def _write(self, connection: socket.socket) -> None:
        while not self._stopped:
            sent = time.monotonic()
            if ask(connection, b"set failover x\n", 1) == b"ok \n":
                self._done.append((sent, time.monotonic()))
            time.sleep(PAUSE)
