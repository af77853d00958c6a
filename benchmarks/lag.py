"""How long after the primary's reply a watcher on a secondary has the event.

One connection writes a key at a pace, in a set of three; another watches it on a secondary. For
each write the moments are taken at which the reply and the event have come; a lag below nothing
(the event was first) counts as nothing. Both moments are taken by one loop, so a busy generator
makes them later together.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator

from benchmarks import sets
from benchmarks.bench import Bench
from benchmarks.figures import Row, Side, percentile
from benchmarks.load import LoadError
from benchmarks.servers import ask, closing_all

RATES = (1_000, 10_000)
TICK = 0.001
SILENCE = 10.0
"""Seconds without an event after which a run has failed."""
REPLY = b"ok"
EVENT = b"changed-version "


def run(bench: Bench) -> Iterator[Row]:
    """Give the rows of the group ``lag``."""
    with sets.nodes(bench, 3) as nodes:
        for rate in RATES:
            bench.say(f"replication lag at {rate:,} writes a second")
            with closing_all([*nodes[0].connect(1), *nodes[1].connect(1)]) as (writer, watcher):
                if not ask(watcher, b"watch k\n", 1).startswith(b"ok"):
                    raise LoadError("the watcher was refused")
                lags = measure(writer, watcher, rate, bench.settings.seconds * 5)
            title = f"Reply to event on a secondary, {rate:,} writes/s"
            for name, share in (("p50", 0.5), ("p99", 0.99)):
                side = Side([percentile(lags, share) * 1000], notes={"count": float(len(lags))})
                yield Row(f"lag-{rate}-{name}", f"{title}, {name}", "ms", side)


class Counted:
    """A connection of which certain answers are counted.

    :param mark: what each of them begins with, at the beginning of a line.
    :ivar times: when each has come.
    """

    def __init__(self, connection: socket.socket, mark: bytes) -> None:
        self.connection = connection
        self.times: list[float] = []
        self._mark = b"\n" + mark
        self._rest = b"\n"

    def read(self) -> None:
        """Take what is there.

        :raise LoadError: the connection was closed.
        """
        data = self.connection.recv(1 << 18)
        if not data:
            raise LoadError("the server closed a connection")
        data = self._rest + data
        end = data.rfind(b"\n")
        # The last newline stays: the next mark may follow it.
        self.times += [time.monotonic()] * data.count(self._mark, 0, end)
        self._rest = data[end:]


def measure(
    writer: socket.socket, watcher: socket.socket, rate: int, seconds: float
) -> list[float]:
    """Write at a pace; give the lag of each write, in seconds.

    :raise LoadError: events stay away.
    """
    replies, events = Counted(writer, REPLY), Counted(watcher, EVENT)
    ends = {end.connection: end for end in (replies, events)}
    a_tick, sent = max(1, round(rate * TICK)), 0
    begin = time.monotonic()
    last = begin
    while len(events.times) < sent or time.monotonic() - begin < seconds:
        now = time.monotonic()
        if now - begin < seconds and sent < (now - begin) * rate:
            writer.sendall(b"".join(b"set k %d\n" % n for n in range(sent, sent + a_tick)))
            sent += a_tick
        for ready in select.select(list(ends), [], [], TICK / 4)[0]:
            ends[ready].read()
            last = now
        if now - last > SILENCE:
            raise LoadError(
                f"{len(events.times)} events came of {sent} writes,"
                f" {len(replies.times)} of which were answered by ok"
            )
    while len(replies.times) < sent:
        replies.read()
    return [max(0.0, e - r) for r, e in zip(replies.times, events.times, strict=True)]
