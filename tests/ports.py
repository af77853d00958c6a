"""TCP ports for tests that must know a port before anybody listens on it."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from pathlib import Path

_LOWEST = 12_000
_HIGHEST = 32_767
"""The first port that a connection may get as its own where the system does not tell."""
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """TCP ports of the loopback interface that nobody uses right now.

    None of those that the system gives to outgoing connections: one of these could be taken
    between this call and the moment when somebody listens.
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
            chosen.append(port)
    return chosen
