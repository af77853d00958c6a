"""Asking a node of a simulated set something, and waiting for the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from twisted.internet.protocol import Factory, Protocol

from nuntwist.simulation.invariants import Violation
from nuntwist.simulation.network import Way
from nuntwist.testing import HeapClock

PATIENCE: Final = 10.0
"""Seconds until all must be answered."""


class _Asking(Protocol):
    """Says one thing after the other.

    :ivar answers: those that are whole, the greeting first.
    """

    transport: Any

    def __init__(self, commands: Sequence[str]) -> None:
        self._commands = list(commands)
        self._rest = ""
        self._answer = ""
        self.answers: list[str] = []

    def dataReceived(self, data: bytes) -> None:
        """Take lines."""
        *lines, self._rest = (self._rest + data.decode()).split("\n")
        for line in lines:
            self._answer += line + "\n"
            if line == "ok " or line.startswith("error "):
                self.answers.append(self._answer)
                self._answer = ""
                if self._commands:
                    self.transport.write(self._commands.pop(0).encode() + b"\n")


def ask(clock: HeapClock, way: Way, commands: Sequence[str]) -> list[str]:
    """Ask over a connection of its own; time goes on until all is answered.

    :raise Violation: there is no answer.
    """
    asking = _Asking(commands)
    factory = Factory()
    factory.buildProtocol = lambda addr: asking  # type: ignore[method-assign]  # one
    connected = way.connect(factory)
    failed: list[Any] = []
    connected.addErrback(failed.append)
    end = clock.seconds() + PATIENCE
    while len(asking.answers) <= len(commands):
        if failed or clock.seconds() >= end:
            raise Violation(f"no answer to {commands[len(asking.answers) - 1 :]}")
        clock.advance(0.005)
    asking.transport.loseConnection()
    clock.advance(0.1)
    return asking.answers[1:]
