"""The load generator: what drives a server, the same code for every server.

A :class:`Channel` is a connection with a ring of batches encoded beforehand.  ``drive`` lets
every channel send a batch, wait for the whole answer (counted in newlines) and send the next;
``deliver`` sends once a round and waits until every listener has its event.

Both exist twice behind :class:`Engine`: in C (``load.c``, compiled at run time) and in Python
for machines without a compiler.  The Python loops fill a core at 165,000 batches a second where
Redis answers 215,000 gets at depth 1 to the C ones: that would flatter the node.  So the report
names the engine, and the share of a core that server and generator used tells which was full.
"""

from __future__ import annotations

import contextlib
import ctypes
import select
import shutil
import socket
import subprocess
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.wire import Ring

CAPACITY = 4_000_000
"""The most round trip times kept of one run."""

SILENCE = 60.0
"""Seconds without an answer after which a run has failed."""


class LoadError(Exception):
    """The server closed a connection, fell silent or gave answers of a wrong size."""


@dataclass
class Channel:
    """A connection and what it sends.

    :ivar socket: connected, past its greeting and login, nothing waiting in it.
    :ivar ring: what it sends; a ring without batches only listens (for ``deliver``).
    :ivar start: the first batch, so that not all connections send the same at once.
    :ivar limit: batches to send; 0 for as many as there is time for.
    :ivar record: whether its round trip times are kept.
    :ivar paced: whether it sends at the ticks of the run instead of at once.
    """

    socket: socket.socket
    ring: Ring
    start: int = 0
    limit: int = 0
    record: bool = False
    paced: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a run of ``drive`` did.

    :ivar seconds: from the first send to the last answer.
    :ivar batches: for each channel, the batches answered.
    :ivar received: for each channel, the bytes that came.
    :ivar times: round trip times of the channels that record, in seconds.
    """

    seconds: float
    batches: Sequence[int]
    received: Sequence[int]
    times: Sequence[float]


class Engine(Protocol):
    """The two loops."""

    name: str

    def drive(self, channels: Sequence[Channel], seconds: float, tick: float = 0.0) -> Outcome:
        """Drive channels for some seconds, or until those with a limit have reached it.

        :param tick: seconds between the batches of a paced channel (a millisecond or more).
        :raise LoadError: as it says.
        """

    def deliver(self, channels: Sequence[Channel], rounds: int) -> Sequence[float]:
        """Give for each round the seconds from the write to the last channel's answer.

        :raise LoadError: as it says.
        """


def check(channels: Sequence[Channel], outcome: Outcome) -> None:
    """Compare the bytes that came with those that had to.

    :raise LoadError: they differ, so some answers were not what was asked for.
    """
    for channel, batches, received in zip(channels, outcome.batches, outcome.received, strict=True):
        if channel.ring.size and received != batches * channel.ring.size:
            raise LoadError(
                f"{batches} batches were answered with {received} bytes "
                f"instead of {batches * channel.ring.size}"
            )


# --- in C ---------------------------------------------------------------------------------


class _Channel(ctypes.Structure):
    """``struct channel`` of load.c."""

    _fields_ = (
        ("data", ctypes.c_char_p),
        ("offsets", ctypes.c_void_p),
        ("batches", ctypes.c_long),
        ("next", ctypes.c_long),
        ("newlines", ctypes.c_long),
        ("limit", ctypes.c_long),
        ("missing", ctypes.c_long),
        ("done", ctypes.c_long),
        ("bytes", ctypes.c_long),
        ("sent", ctypes.c_double),
        ("fd", ctypes.c_int),
        ("record", ctypes.c_int),
        ("paced", ctypes.c_int),
        ("waiting", ctypes.c_int),
    )


_FAILURES = {-1: "the server closed a connection", -2: "no answer for a minute"}


class NativeEngine:
    """The loops in C.

    :param library: the compiled ``load.c``.
    """

    name = "C"

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._times = (ctypes.c_float * CAPACITY)()

    def drive(self, channels: Sequence[Channel], seconds: float, tick: float = 0.0) -> Outcome:
        table, keep = _table(channels)
        recorded, elapsed = ctypes.c_long(), ctypes.c_double()
        status = self._library.drive(
            table,
            len(channels),
            ctypes.c_double(seconds),
            ctypes.c_double(tick),
            self._times,
            ctypes.c_long(CAPACITY),
            ctypes.byref(recorded),
            ctypes.byref(elapsed),
        )
        _raise_for(status)
        del keep
        outcome = Outcome(
            elapsed.value,
            [entry.done for entry in table],
            [entry.bytes for entry in table],
            self._times[: recorded.value],
        )
        check(channels, outcome)
        return outcome

    def deliver(self, channels: Sequence[Channel], rounds: int) -> Sequence[float]:
        table, keep = _table(channels)
        _raise_for(self._library.deliver(table, len(channels), rounds, self._times))
        del keep
        return self._times[:rounds]


def _raise_for(status: int) -> None:
    if status:
        raise LoadError(_FAILURES.get(status, "epoll cannot be used"))


def _table(channels: Sequence[Channel]) -> tuple[ctypes.Array[_Channel], list[object]]:
    """Give the channels as C knows them, and what must stay alive as long as they do."""
    table = (_Channel * len(channels))()
    rings: dict[int, tuple[bytes, array[int]]] = {}
    for entry, channel in zip(table, channels, strict=True):
        ring = channel.ring
        if id(ring) not in rings:
            offsets = array("l", [0])
            for batch in ring.batches:
                offsets.append(offsets[-1] + len(batch))
            rings[id(ring)] = (b"".join(ring.batches), offsets)
        data, offsets = rings[id(ring)]
        entry.data = data
        entry.offsets = offsets.buffer_info()[0]
        entry.batches = len(ring.batches)
        entry.next = channel.start % max(1, len(ring.batches))
        entry.newlines = ring.newlines
        entry.limit = channel.limit
        entry.fd = channel.socket.fileno()
        entry.record = channel.record
        entry.paced = channel.paced
    return table, [rings]


def compile_native(directory: Path) -> Path | None:
    """Compile ``load.c`` into a directory; give the library, or None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    library = directory / "load.so"
    source = Path(__file__).with_name("load.c")
    command = [compiler, "-O3", "-shared", "-fPIC", "-o", str(library), str(source)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return library


# --- in Python ----------------------------------------------------------------------------


class _State:
    """What the Python loops know of a channel while they run."""

    def __init__(self, channel: Channel) -> None:
        self.socket = channel.socket
        self.batches = channel.ring.batches
        self.newlines = channel.ring.newlines
        self.limit = channel.limit
        self.record = channel.record
        self.paced = channel.paced
        self.next = channel.start % max(1, len(self.batches))
        self.missing = self.newlines
        self.waiting = True
        self.done = 0
        self.received = 0
        self.sent = 0.0

    def send(self) -> None:
        batch = self.batches[self.next]
        self.next = (self.next + 1) % len(self.batches)
        self.missing = self.newlines
        self.waiting = True
        if self.record:
            self.sent = time.monotonic()
        try:
            size = self.socket.send(batch, socket.MSG_DONTWAIT)
        except BlockingIOError:
            size = 0
        if size < len(batch):
            self.socket.sendall(batch[size:])

    def receive(self) -> bool:
        """Take what came; give whether that ends an answer."""
        with contextlib.suppress(BlockingIOError):
            data = self.socket.recv(1 << 18, socket.MSG_DONTWAIT)
            if not data:
                raise LoadError("the server closed a connection")
            self.received += len(data)
            self.missing -= data.count(b"\n")
        if not self.waiting or self.missing > 0:
            return False
        self.waiting = False
        self.done += 1
        return True

    @property
    def finished(self) -> bool:
        return bool(self.limit) and self.done >= self.limit


class PythonEngine:
    """The loops in Python."""

    name = "Python"

    def drive(self, channels: Sequence[Channel], seconds: float, tick: float = 0.0) -> Outcome:
        states = {channel.socket.fileno(): _State(channel) for channel in channels}
        try:
            elapsed, times = _drive(states, seconds, tick)
        except OSError as problem:
            raise LoadError(f"the server closed a connection: {problem}") from problem
        outcome = Outcome(
            elapsed,
            [state.done for state in states.values()],
            [state.received for state in states.values()],
            times,
        )
        check(channels, outcome)
        return outcome

    def deliver(self, channels: Sequence[Channel], rounds: int) -> Sequence[float]:
        states = {channel.socket.fileno(): _State(channel) for channel in channels}
        try:
            with _poller(states) as poller:
                return [_deliver(states, poller) for _ in range(rounds)]
        except OSError as problem:
            raise LoadError(f"the server closed a connection: {problem}") from problem


def _poller(states: dict[int, _State]) -> select.epoll:
    poller = select.epoll()
    for number in states:
        poller.register(number, select.EPOLLIN)
    return poller


def _drive(states: dict[int, _State], seconds: float, tick: float) -> tuple[float, list[float]]:
    """The loop of ``drive``; gives the seconds it took and the times recorded."""
    times: list[float] = []
    limited = sum(1 for state in states.values() if state.limit)
    outstanding = len(states)
    going = True
    begin = heard = time.monotonic()
    next_tick = begin + tick
    with _poller(states) as poller:
        for state in states.values():
            state.send()
        while outstanding or going:
            ready = poller.poll(0.001 if tick else 1.0)
            moment = time.monotonic()
            if ready:
                heard = moment
            elif moment - heard > SILENCE:
                raise LoadError("no answer for a minute")
            if moment >= begin + seconds:
                going = False
            for number, _ in ready:
                state = states[number]
                if not state.receive():
                    continue
                outstanding -= 1
                if state.record:
                    times.append(time.monotonic() - state.sent)
                if state.limit and state.done == state.limit:
                    limited -= 1
                    going = going and limited > 0
                if going and not state.paced and not state.finished:
                    state.send()
                    outstanding += 1
            if tick and going and moment >= next_tick:
                next_tick = moment + tick
                for state in states.values():
                    if state.paced and not state.waiting and not state.finished:
                        state.send()
                        outstanding += 1
    return time.monotonic() - begin, times


def _deliver(states: dict[int, _State], poller: select.epoll) -> float:
    """One round of ``deliver``; gives the seconds it took."""
    begin = time.monotonic()
    for state in states.values():
        state.missing = state.newlines
        state.waiting = True
    for state in states.values():
        if state.batches:
            state.send()
    waiting = len(states)
    while waiting:
        ready = poller.poll(SILENCE)
        if not ready:
            raise LoadError("no answer for a minute")
        for number, _ in ready:
            waiting -= states[number].receive()
    return time.monotonic() - begin
