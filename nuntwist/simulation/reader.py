"""Asking a node of a simulated set something, with or without waiting for the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from nuntwist.simulation.network import Way
from nuntwist.simulation.promises import Violation
from nuntwist.testing import HeapClock

PATIENCE: Final = 10.0
"""Seconds until all must be answered."""


class Asking(Protocol):
    """Says one thing after the other over a connection of its own.

    :param ended: is called once, when all is answered or the connection is lost.
    :ivar answers: those that are whole, without the greeting.
    :ivar failed: whether there was no connection, or it was lost before all was answered.
    """

    transport: Any

    def __init__(
        self, way: Way, commands: Sequence[str], ended: Callable[[], object] = lambda: None
    ) -> None:
        self._commands = list(commands)
        # The greeting closes nothing that was asked.
        self._wanted = len(commands) + 1
        self._rest = ""
        self._answer = ""
        self._all: list[str] = []
        self._ended = ended
        self._over = self.failed = False
        factory = Factory()
        factory.buildProtocol = lambda addr: self  # type: ignore[method-assign]  # one
        way.connect(factory).addErrback(self._not_connected)

    @property
    def answers(self) -> list[str]:
        """What was answered."""
        return self._all[1:]

    @property
    def over(self) -> bool:
        """Whether there is nothing more to come."""
        return self._over

    def give_up(self) -> None:
        """Wait no longer."""
        self._end(True)
        if self.transport is not None:
            self.transport.loseConnection()

    def _not_connected(self, reason: Failure) -> None:
        self._end(True)

    def _end(self, failed: bool) -> None:
        if not self._over:
            self._over, self.failed = True, failed
            self._ended()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is lost."""
        self._end(True)

    def dataReceived(self, data: bytes) -> None:
        """Take lines."""
        *lines, self._rest = (self._rest + data.decode()).split("\n")
        for line in lines:
            self._answer += line + "\n"
            if line == "ok " or line.startswith("error "):
                self._all.append(self._answer)
                self._answer = ""
                if self._commands:
                    self.transport.write(self._commands.pop(0).encode() + b"\n")
        if len(self._all) >= self._wanted:
            self._end(False)
            self.transport.loseConnection()


def ask(clock: HeapClock, way: Way, commands: Sequence[str]) -> list[str]:
    """Ask over a connection of its own; time goes on until all is answered.

    :raise Violation: there is no answer.
    """
    asking = Asking(way, commands)
    end = clock.seconds() + PATIENCE
    while not asking.over and clock.seconds() < end:
        clock.advance(0.005)
    if asking.failed or not asking.over:
        raise Violation(f"no answer to {commands[len(asking.answers) :]}")
    clock.advance(0.1)
    return asking.answers
