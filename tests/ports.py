"""TCP ports for tests that must know a port before anybody listens on it."""

from __future__ import annotations

import random
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_LOWEST = 12_000
_HIGHEST = 32_767
"""The first port that a connection may get as its own where the system does not tell."""
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """TCP ports of the loopback interface that nobody uses right now.

    None of those that the system gives to outgoing connections: one of these could be taken
    between this call and the moment when somebody listens.  And none that was given out before, by
    this process or by another one that runs tests: whoever has it may listen only later, or again.
    """
    try:
        highest = min(_HIGHEST, int(_RANGE.read_text().split()[0]) - 1)
    except OSError:
        highest = _HIGHEST
    chosen: list[int] = []
    with ExitStack() as probes:
        while len(chosen) < count:
            port = random.SystemRandom().randint(_LOWEST, highest)
            probe = probes.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            if (mark := _mark(port)) is not None:
                _marks.append(mark)
                chosen.append(port)
    return chosen


@contextmanager
def sole_use(port: int) -> Iterator[None]:
    """Wait until no other test has a port that several tests want, and have it."""
    while (mark := _mark(port)) is None:
        time.sleep(0.05)
    with mark:
        yield


_marks: list[socket.socket] = []
"""Those of all ports that this process was given; they go with it."""


def _mark(port: int) -> socket.socket | None:
    """Say to other tests on this machine that a port is taken; None where one of them has."""
    mark = socket.socket(socket.AF_UNIX)
    if sys.platform == "linux":
        try:
            # A name that is in no directory: nothing is left of it, however the process ends.
            mark.bind(f"\0nuntwist-test-port-{port}")
        except OSError:
            mark.close()
            return None
    return mark
