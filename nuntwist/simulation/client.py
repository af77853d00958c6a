"""A client of a simulated set: its connection, made again and again, and its turns on it.

A client has one connection to one node, and one command at a time. Where an answer takes too long
or the connection is lost, nobody knows the outcome; the client goes to another node, after a
while::

    start ──connected──▶ greeted, commands for every connection ──all ok──▶ ready ──say──▶ asks
      ▲                                                                       ▲             │
      │                                                                       └──answered───┤
      └──after a while── gives up ◀──PATIENCE seconds, an error at first, the connection lost

What it asks, and what it makes of answers, is of each kind (:mod:`nuntwist.simulation.clients`,
:mod:`nuntwist.simulation.disputes`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from nuntwist.simulation.network import Way
from nuntwist.simulation.process import Process

PATIENCE: Final = 4.0
"""Seconds that a client waits for an answer."""
DATABASE: Final = "d"
TOKEN: Final = "t"


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a client sits in a run.

    :ivar number: of the client, in the network and among the clients.
    :ivar process: in which its timers run.
    :ivar chance: of its own.
    :ivar places: gives the places of nodes.
    :ivar way: gives the way to a node.
    """

    number: int
    process: Process
    chance: random.Random
    places: Callable[[], Sequence[int]]
    way: Callable[[int], Way]


class Connection(Protocol):
    """One connection of a client."""

    transport: Any

    def __init__(self, client: Client) -> None:
        self._client = client
        self._rest = b""

    def connectionMade(self) -> None:
        """Nothing is sent before the greeting."""

    def dataReceived(self, data: bytes) -> None:
        """Give whole lines."""
        *lines, self._rest = self._client.data(self, self._rest + data).split(b"\n")
        for line in lines:
            self._client.line(self, line.decode())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell."""
        self._client.lost(self)


class Client:
    """What all kinds have in common.

    :ivar database: the one it selects.
    """

    database = DATABASE

    def __init__(self, seat: Seat) -> None:
        self.number = seat.number
        self.process = seat.process
        self.chance = seat.chance
        self.stopped = False
        self._seat = seat
        self._connection: Connection | None = None
        self._answered: list[str] = []
        self._next: list[str] = []
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Connect to some node."""
        if self.stopped:
            return
        self.place = self.chance.choice(self._seat.places())
        factory = Factory()
        factory.buildProtocol = lambda addr: self._made()  # type: ignore[method-assign]  # one
        self._seat.way(self.place).connect(factory).addErrback(self._not_connected)

    def _made(self) -> Connection:
        self._connection = Connection(self)
        self._answered = []
        # The greeting closes nothing that was asked.
        self._next = ["", f"use-db {self.database} {TOKEN}", *self.first()]
        self._wait(PATIENCE, self.give_up)
        return self._connection

    def _not_connected(self, reason: Failure) -> None:
        self.later(self.start)

    def later(self, call: Callable[[], object]) -> None:
        """Do something after a while."""
        self._wait(self.chance.uniform(0.05, 0.5), call)

    def _wait(self, seconds: float, call: Callable[[], object]) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = self.process.callLater(seconds, call)

    def line(self, connection: Connection, line: str) -> None:
        """A line has come."""
        if connection is not self._connection:
            return
        if line.startswith(("changed", "removed ")):
            self.event(line)
            return
        self._answered.append(line)
        if line != "ok " and not line.startswith("error "):
            return
        answer, self._answered = "".join(f"{each}\n" for each in self._answered), []
        if self._next:
            self._next.pop(0)
            if not answer.startswith("ok "):
                self.give_up()
            elif self._next:
                self.say(self._next[0])
            else:
                self.ready()
        else:
            self.answered(answer)

    def say(self, command: str) -> None:
        """Send a command."""
        if self._connection is not None:
            self._connection.transport.write(command.encode() + b"\n")

    def lost(self, connection: Connection) -> None:
        """A connection has gone."""
        if connection is self._connection:
            self.give_up()

    def give_up(self) -> None:
        """Go to another node."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.transport.loseConnection()
        self.unanswered()
        if not self.stopped:
            self.later(self.start)
        elif self._timer is not None and self._timer.active():
            self._timer.cancel()

    def stop(self) -> None:
        """Do nothing more."""
        self.stopped = True
        self.give_up()

    # -- what each kind does -----------------------------------------------------------------

    def first(self) -> list[str]:
        """Commands for every new connection."""
        return []

    def ready(self) -> None:
        """The connection can be used."""

    def answered(self, answer: str) -> None:
        """A command is answered."""

    def unanswered(self) -> None:
        """There will be no answer."""

    def data(self, connection: Connection, data: bytes) -> bytes:
        """Bytes have come that are not taken as lines yet; gives those that may be."""
        return data

    def event(self, line: str) -> None:
        """A watched key has changed."""
