"""How many commands a second a connection may run.

Each connection has a bucket of tokens that fills by the rate and holds one second's worth
(a token bucket; Turner, 1986). A command takes a token. What has none waits *here*, before the
pipeline, in order, and the connection is not read meanwhile: so nothing is refused or lost, no more
waits than had been read, and whoever sends faster finds its own buffers full. Nobody else waits.

All that wait are looked at together, ``LOOKS`` times a second, and only while there are any. Where
no rate is set there is nothing of this: chunks go to the pipeline right away.

A connection that sends no more ends when what waits has run. One that is sent away loses it, as
what it had in the pipeline.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from twisted.logger import Logger

from nuntwist.core.client import Client
from nuntwist.core.pipeline import Pipeline
from nuntwist.language.framing import Chunk

LOOKS: Final = 20
"""Looks a second at those that wait."""


class Bucket:
    """The tokens of one connection.

    :param rate: tokens a second.
    :param now: in seconds.
    """

    __slots__ = ("_rate", "_since", "_tokens")

    def __init__(self, rate: int, now: float) -> None:
        self._rate = rate
        self._tokens = float(rate)
        self._since = now

    def take(self, wanted: int, now: float) -> int:
        """Take as many tokens as there are, at most so many; gives how many."""
        filled = self._tokens + (now - self._since) * self._rate
        self._tokens, self._since = min(float(self._rate), filled), now
        taken = min(wanted, int(self._tokens))
        self._tokens -= taken
        return taken


class Rate:
    """The rate, and who waits.

    :param most: commands a second, of one connection.
    :param call_later: IReactorTime.callLater.
    :param seconds: monotonic time, in seconds.
    :param slowed: is told of each that begins to wait, by its address.
    """

    _log = Logger()

    def __init__(
        self,
        most: int,
        call_later: Callable[..., Any],
        seconds: Callable[[], float],
        slowed: Callable[[str], object],
    ) -> None:
        self._most = most
        self._call_later = call_later
        self._slowed = slowed
        self._waiting: dict[Meter, None] = {}
        self._is_timed = self.is_over = False
        self.seconds = seconds

    def bucket(self) -> Bucket:
        """A full one, for a connection."""
        return Bucket(self._most, self.seconds())

    def wait(self, meter: Meter) -> None:
        """Look at one until nothing of it waits any more."""
        self._waiting[meter] = None
        self._slowed(meter.client.peer)
        if not self._is_timed:
            self._is_timed = True
            self._call_later(1.0 / LOOKS, self._look)

    def end(self) -> None:
        """The node stops: what waits is run at once, and nothing waits any more."""
        self.is_over = True
        self._go_on()

    def _look(self) -> None:
        self._is_timed = False
        self._go_on()
        if self._waiting and not self._is_timed:
            self._is_timed = True
            self._call_later(1.0 / LOOKS, self._look)

    def _go_on(self) -> None:
        for meter in tuple(self._waiting):
            try:
                is_done = meter.go_on()
            except Exception:
                # As where it comes with the bytes: logged, and the end of that connection alone.
                self._log.failure("a command failed in a way nobody foresaw")
                meter.client.outlet.abort("internal error")
                is_done = True
            if is_done:
                self._waiting.pop(meter, None)


class Meter:
    """Stands between a connection and the pipeline.

    :param bucket: of the connection.
    :ivar client: the connection's.
    """

    def __init__(self, rate: Rate, bucket: Bucket, pipeline: Pipeline, client: Client) -> None:
        self._rate = rate
        self._bucket = bucket
        self._pipeline = pipeline
        self._held: deque[tuple[list[bytes], int, bool]] = deque()
        self._is_finishing = False
        self.client = client

    @property
    def holds(self) -> bool:
        """Whether something waits; then the connection is not to be read."""
        return bool(self._held)

    def receive(self, client: Client, chunk: Chunk) -> None:
        """In the place of :meth:`nuntwist.core.pipeline.Pipeline.receive`."""
        lines, plain = chunk
        if self._is_finishing:
            return
        if self._held:
            self._held.append((lines, 0, plain))
            return
        may = self._may(len(lines))
        if may == len(lines):
            self._pipeline.receive(client, chunk)
            return
        self._held.append((lines, may, plain))
        client.outlet.pause_reading()
        self._rate.wait(self)
        if may:
            self._pipeline.receive(client, (lines[:may], plain))

    def finish(self, client: Client) -> None:
        """In the place of :meth:`nuntwist.core.pipeline.Pipeline.finish`."""
        if self._held:
            self._is_finishing = True
        else:
            self._pipeline.connections.finish(client)

    def go_on(self) -> bool:
        """Run what may be run by now; gives whether nothing waits any more."""
        client, held = self.client, self._held
        while held:
            if client.closed or client.ending:
                held.clear()
                return True
            if client.backlog and not self._rate.is_over:
                # Its own answers, or others, hold it up: that costs it nothing here.
                return False
            lines, at, plain = held.popleft()
            stop = at + self._may(len(lines) - at)
            if stop < len(lines):
                held.appendleft((lines, stop, plain))
            if at < stop:
                self._pipeline.receive(client, (lines[at:stop], plain))
            if stop < len(lines):
                return False
        if self._is_finishing:
            self._pipeline.connections.finish(client)
        elif not client.closed:
            # It goes on reading, when nothing else is in the way.
            self._pipeline.turns.enqueue(client)
        return True

    def _may(self, wanted: int) -> int:
        rate = self._rate
        return wanted if rate.is_over else self._bucket.take(wanted, rate.seconds())
