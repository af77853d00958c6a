"""A well-behaved client among thousands of hostile connections, and the memory of the node.

A quarter each of the hostile ones:

- has begun the handshake of a WebSocket and never ends it (the node gives up on it; then it comes
  again);
- watches a key that is changed all the time, and never reads;
- sends a command byte by byte, and never its end;
- has begun a message of a megabyte, sent a tenth of it, and stopped.

Meanwhile one client writes and reads a hundred times a second, whether what it asked before is
answered or not; how long each answer takes is counted from when it was to ask.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.figures import Row, Side, percentile
from benchmarks.servers import Node, closing_all

BEGUN = b"GET / HTTP/1.1\r\nHost: hostile\r\nUpgrade: websocket\r\n"
MESSAGE = 1_000_000
SENT = MESSAGE // 10
CHANGES = 10
"""Changes of the watched key, a second."""
EXCHANGES = 100
"""Of the client, a second."""
ARRIVAL = 4
"""Seconds until what the hostile ones send first, a quarter of a gigabyte, is dealt with."""
LINES = 3
"""Of an answer."""
VALUE = b"x" * 1_000
BYTES = 2_000
"""Bytes that the slow writers send in all, a second."""


def run(bench: Bench) -> Iterator[Row]:
    """Give the rows of the group ``hostile``."""
    count = bench.settings.hostile
    bench.say(f"{count:,} hostile connections")
    with bench.node() as node, contextlib.ExitStack() as stack:
        (good,) = stack.enter_context(closing_all(node.connect(1)))
        before = _waits(good, bench.settings.seconds)
        hostile = _Hostile(node, count // 4)
        stack.callback(hostile.close)
        waits, most = _measure(bench, node, good, hostile)
        closed = hostile.gone()
    title = f"{count:,} hostile connections"
    memory = Side([most / 1e6], notes={"count": float(len(waits)), "closed": float(closed)})
    yield Row("hostile-memory", f"{title}: memory of the node", "MB", memory)
    first = ARRIVAL * EXCHANGES
    for name, what, some, share in (
        ("p99", "p99", waits[first:], 0.99),
        ("worst", "worst", waits[first:], 1.0),
        ("arrival", f"p99 while they come ({ARRIVAL} s)", waits[:first], 0.99),
    ):
        side = Side([percentile(some, share) * 1000])
        yield Row(f"hostile-{name}", f"{title}: wait of a client, {what}", "ms", side)
    alone = Side([percentile(before, 0.99) * 1000])
    yield Row("hostile-alone", "The same client alone, p99", "ms", alone)


class _Hostile:
    """The connections, a quarter of each kind."""

    def __init__(self, node: Node, each: int) -> None:
        self._node = node
        self.half_open = [node.open_web() for _ in range(each)]
        for one in self.half_open:
            one.sendall(BEGUN)
        self.deaf = node.connect(each)
        for one in self.deaf:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.sendall(b"watch hostile\n")
        self.slow = node.connect(each)
        self.giant = node.connect_web(each)
        head = bytes((0x81, 0x80 | 127)) + struct.pack(">Q", MESSAGE) + bytes(4)
        for one in self.giant:
            with contextlib.suppress(OSError):
                one.sendall(head + bytes(SENT))
        self._next = 0

    def go_on(self, count: int) -> None:
        """Send some bytes, one each, and come again where the node gave up."""
        for _ in range(count):
            with contextlib.suppress(OSError):
                self.slow[self._next % len(self.slow)].send(b"x")
            place = self._next % len(self.half_open)
            self._next += 1
            if _is_gone(self.half_open[place]):
                self.half_open[place].close()
                self.half_open[place] = self._node.open_web()
                self.half_open[place].sendall(BEGUN)

    def gone(self) -> int:
        """How many that hold something the node has closed."""
        return sum(map(_is_gone, (*self.giant, *self.slow)))

    def close(self) -> None:
        for one in (*self.half_open, *self.deaf, *self.slow, *self.giant):
            one.close()


def _is_gone(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _waits(good: socket.socket, seconds: float) -> list[float]:
    client, end = _Client(good), time.monotonic() + seconds
    while time.monotonic() < end:
        client.go_on(0.0002)
    return client.waits


class _Client:
    """The one that is no enemy.

    :ivar waits: of what was answered, in seconds.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._due = time.monotonic()
        self._asked: deque[float] = deque()
        self._lines = 0
        self.waits: list[float] = []

    def go_on(self, patience: float) -> None:
        """Ask what is due, and take what is answered; wait no longer for that than some seconds."""
        while time.monotonic() >= self._due:
            self._connection.sendall(b"set mine 1\nget mine\n")
            self._asked.append(self._due)
            self._due += 1.0 / EXCHANGES
        if not select.select([self._connection], [], [], patience)[0]:
            return
        self._lines += self._connection.recv(65536).count(b"\n")
        now = time.monotonic()
        while self._lines >= LINES:
            self._lines -= LINES
            self.waits.append(now - self._asked.popleft())


def _measure(
    bench: Bench, node: Node, good: socket.socket, hostile: _Hostile
) -> tuple[list[float], int]:
    """The waits of the good client, and the most memory the node has had."""
    client, (writer,) = _Client(good), node.connect(1)
    most, changes, sent = node.memory(), 0, 0
    begin = looked = time.monotonic()
    seconds = bench.settings.seconds * 10
    while (now := time.monotonic()) < begin + seconds:
        client.go_on(0.001)
        if changes < (now - begin) * CHANGES:
            # Another one's: nobody waits for its answers.
            writer.sendall(b"set hostile " + VALUE + b"\n")
            changes += 1
        slow = int((now - begin) * BYTES) - sent
        hostile.go_on(min(slow, 50))
        sent += slow
        if now > looked + 0.2:
            looked, most = now, max(most, node.memory())
    writer.close()
    return client.waits, most
