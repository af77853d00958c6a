"""How long a node takes to have all that its primary has.

- *full*: an empty node joins a set of two with a million keys, whose log no longer reaches back to
  the beginning, so it takes a copy of all. Meanwhile one client writes at the primary and another
  one asks the new node, one request after the other: their longest waits tell what others had to
  wait. The core time of both (of the receiver with its start) says what it takes on machines of
  their own. The memory of both is looked at every 20 milliseconds; what counts is what came on top
  of what is there in the end.
- *partial*: it is stopped, 100,000 sets are made, and it is started again.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from functools import partial

from benchmarks import sets
from benchmarks.bench import Bench
from benchmarks.figures import Row, Side
from benchmarks.load import Channel
from benchmarks.servers import DATABASE, Node, ServerError, ask, closing_all, receive_lines
from benchmarks.throughput import fill
from benchmarks.wire import KEY_SPACE, sets_in_order

LOOK = 0.02
SYNC_PATIENCE = 300.0
SETTINGS = {"NUN_DECLUTTER_INTERVAL": "1000000", "NUN_MAX_OP_LOG_SIZE": "64MiB"}
"""A log that is cut soon, so that it does not reach back to the beginning."""


def run(bench: Bench) -> Iterator[Row]:
    """Give the rows of the group ``sync``."""
    keys = bench.settings.keys
    with ExitStack() as running:
        # Nothing but two probes has to be on another core, and both ends work at once.
        nodes = [running.enter_context(bench.made_node(SETTINGS, False)) for _ in range(3)]
        primary, second, other = nodes
        sets.introduce(nodes)
        primary.start()
        second.start(second.listens)
        _wait(primary, second)
        bench.say(f"full sync of {keys:,} keys")
        fill(bench, primary, keys)
        primary.admin(b"snapshot true $admin|" + DATABASE)
        primary.admin(b"oplog-clean 0", b"oplog-clean")
        highest = yield from _full(primary, other)
        bench.say("partial sync")
        other.stop()
        ring = sets_in_order(primary.dialect, 100, 0, KEY_SPACE)
        with closing_all(primary.connect(1)) as (connection,):
            limit = KEY_SPACE // 100
            bench.engine.drive([Channel(connection, ring, limit=limit)], SYNC_PATIENCE)
        begin = time.monotonic()
        started = other.start(other.listens)
        _wait(primary, other)
        took = time.monotonic() - begin
        title = f"Start and catch up with {KEY_SPACE:,} sets"
        yield Row("sync-partial", title, "s", Side([took]))
        yield Row("sync-catch-up", "  of that, once it listens", "s", Side([took - started]))
        # A process seldom gives back what it needed once: only a new one tells what is the data.
        there = other.memory()
        notes = {"after": there / 1e6, "highest": highest / 1e6}
        side = Side([max(0, highest - there) / 1e6], notes=notes)
        yield Row("sync-memory-receiver", "Memory on top in a full sync, receiver", "MB", side)


def _full(primary: Node, other: Node) -> Generator[Row, None, int]:
    """The rows of a full sync; gives the most memory that the receiver had."""
    before, cpu_before = primary.memory(), primary.cpu()
    begin = time.monotonic()
    other.start(other.listens)
    looks = Looks([primary, other])
    (writer,) = primary.connect(1)
    probes = [Probe(writer, b"set probe x\n", 1), Probe(_reach(other), b"ping\n", 2)]
    try:
        _wait(primary, other)
        took = time.monotonic() - begin
        cpu = primary.cpu() - cpu_before, other.cpu()
    finally:
        for probe in probes:
            probe.stop()
        looks.stop()
    yield Row("sync-full", "Full sync to an empty node", "s", Side([took]))
    for end, seconds in zip(("sender", "receiver"), cpu, strict=True):
        yield Row(f"sync-cpu-{end}", f"  core time of the {end}", "s", Side([seconds]))
    grown = (looks.highest[0] - before) / 1e6
    notes = {"before": before / 1e6, "highest": looks.highest[0] / 1e6}
    yield Row("sync-memory-sender", "  memory on top, sender", "MB", Side([grown], notes=notes))
    for probe, end in zip(probes, ("primary", "receiver"), strict=True):
        side = Side([probe.longest * 1000], notes={"count": float(probe.count)})
        yield Row(f"sync-wait-{end}", f"  longest wait at the {end}", "ms", side)
    return looks.highest[1]


def _wait(primary: Node, other: Node) -> None:
    sets.wait_until(partial(sets.follows, primary, other), "the sync", SYNC_PATIENCE)


def _reach(node: Node) -> socket.socket:
    """Give a connection to a node that has no database yet."""
    host, port = node.address.split(":")
    connection = socket.create_connection((host, int(port)))
    receive_lines(connection, 1)
    return connection


class Looks:
    """Looks at the memory of servers, in a thread.

    :ivar highest: the most that each had, in bytes.
    """

    def __init__(self, servers: list[Node]) -> None:
        self.highest = [server.memory() for server in servers]
        self._servers = servers
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(LOOK):
            now = [server.memory() for server in self._servers]
            self.highest = [max(pair) for pair in zip(self.highest, now, strict=True)]

    def stop(self) -> None:
        """End it."""
        self._over.set()
        self._thread.join()


class Probe:
    """Asks a node the same again and again, in a thread.

    :param connection: to the node; closed at the end.
    :param newlines: of an answer.
    :ivar longest: the longest wait for one, in seconds.
    """

    def __init__(self, connection: socket.socket, request: bytes, newlines: int) -> None:
        self.longest, self.count = 0.0, 0
        self._request, self._newlines = request, newlines
        self._over = False
        self._problem: Exception | None = None
        self._connection = connection
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._ask()
        except (OSError, ServerError) as problem:
            self._problem = problem

    def _ask(self) -> None:
        while not self._over:
            begin = time.monotonic()
            answer = ask(self._connection, self._request, self._newlines)
            if not answer.endswith(b"ok \n"):
                raise ServerError(f"a probe was answered {answer!r}")
            self.longest = max(self.longest, time.monotonic() - begin)
            self.count += 1
            time.sleep(0.001)

    def stop(self) -> None:
        """End it.

        :raise ServerError: it was not answered as it should be: its longest wait is worth nothing.
        """
        self._over = True
        self._thread.join()
        self._connection.close()
        if self._problem is not None:
            raise ServerError(f"a probe failed: {self._problem}")
