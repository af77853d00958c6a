"""Clients of a simulated set: they write and read, watch, and record what they are told.

A client has one connection to one node, and one command at a time. Where an answer takes too long
or the connection is lost, nobody knows the outcome; the client goes to another node, after a
while.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from nuntwist.simulation.history import (
    DONE,
    GET,
    GET_SAFE,
    INCREMENT,
    READS,
    REMOVE,
    SET,
    SET_SAFE,
    Fate,
    History,
    Operation,
)
from nuntwist.simulation.invariants import WatchOrder
from nuntwist.simulation.network import Way
from nuntwist.simulation.process import Process
from nuntwist.simulation.promises import Promises

PATIENCE: Final = 4.0
"""Seconds that a client waits for an answer."""
DATABASE: Final = "d"
TOKEN: Final = "t"


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
    """What writers and watchers have in common: a connection, made again and again.

    :param places: gives the places of nodes.
    :param way: gives the way to a node.
    :ivar database: the one it selects.
    """

    database = DATABASE

    def __init__(
        self,
        number: int,
        process: Process,
        chance: random.Random,
        places: Callable[[], Sequence[int]],
        way: Callable[[int], Way],
    ) -> None:
        self.number = number
        self.process = process
        self.chance = chance
        self.stopped = False
        self._places = places
        self._way = way
        self._connection: Connection | None = None
        self._answered: list[str] = []
        self._next: list[str] = []
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Connect to some node."""
        if self.stopped:
            return
        self.place = self.chance.choice(self._places())
        factory = Factory()
        factory.buildProtocol = lambda addr: self._made()  # type: ignore[method-assign]  # one
        self._way(self.place).connect(factory).addErrback(self._not_connected)

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


class Writer(Client):
    """Writes, and reads where that is to be checked.

    :param promises: is told of writes that were answered.
    :param reads: whether it reads, too; it asks for linearizable reads then. (Without that a
        node that has lost its set and does not know yet gives old values.)
    :param majority: whether it asks for a majority to have what it writes.
    """

    def __init__(
        self,
        number: int,
        process: Process,
        chance: random.Random,
        places: Callable[[], Sequence[int]],
        way: Callable[[int], Way],
        history: History,
        promises: Promises,
        keys: int,
        reads: bool = False,
        majority: bool = True,
    ) -> None:
        super().__init__(number, process, chance, places, way)
        self._history = history
        self._promises = promises
        self._keys = keys
        self._reads = reads
        self._majority = majority
        self._kinds = (SET, SET, SET_SAFE, INCREMENT, REMOVE) + (GET, GET_SAFE) * 2 * reads
        self._operation: Operation | None = None
        self.done = 0

    def first(self) -> list[str]:
        """Ask for what can be relied on."""
        words = ["read-concern linearizable"] * self._reads
        return words + ["write-concern majority"] * self._majority

    def ready(self) -> None:
        """Ask the next thing, after a while."""
        self._wait(self.chance.expovariate(20.0), self._ask)

    def _ask(self) -> None:
        chance = self.chance
        kind = chance.choice(self._kinds)
        number = chance.randrange(self._keys)
        # Removed keys begin at version 0 again, so those that are watched are never removed.
        key = {INCREMENT: "n", REMOVE: "r"}.get(kind, chance.choice("kkrn"))
        value = f"{self.number}.{len(self._history.operations)}"
        if key == "n" and kind in (SET, SET_SAFE):
            key = "k"
        amount = chance.randrange(1, 9) if kind == INCREMENT else chance.randrange(0, 30)
        operation = self._history.call(
            self.number, kind, f"{key}{number}".encode(), value.encode(), amount
        )
        self._operation = operation
        self._wait(PATIENCE, self.give_up)
        self.say(operation.command())

    def answered(self, answer: str) -> None:
        """Record it, and go on."""
        operation, self._operation = self._operation, None
        assert operation is not None
        self._history.close(operation, answer)
        self.done += 1
        if operation.answer == DONE and operation.kind in (SET, SET_SAFE):
            self._promises.made(operation.value, self._majority)
        if operation.fate is Fate.ANSWERED:
            self.ready()
        else:
            self.give_up()

    def unanswered(self) -> None:
        """Nobody knows."""
        operation, self._operation = self._operation, None
        if operation is not None:
            unknown = Fate.REFUSED if operation.kind in READS else Fate.UNKNOWN
            self._history.close_without(operation, unknown)


class Watcher(Client):
    """Watches keys on one node after the other; what it is sent must be in order.

    :param cuts: gives for a place how often the node there has taken off what its set lacks.
    """

    def __init__(
        self,
        number: int,
        process: Process,
        chance: random.Random,
        places: Callable[[], Sequence[int]],
        way: Callable[[int], Way],
        keys: int,
        cuts: Callable[[int], int] = lambda place: 0,
    ) -> None:
        super().__init__(number, process, chance, places, way)
        self._keys = keys
        self._cuts = cuts
        self.seen = 0

    def first(self) -> list[str]:
        """Watch all keys that are never removed."""
        place = self.place
        name = f"watcher {self.number} at node {place}"
        self._order = WatchOrder(name, lambda: self._cuts(place))
        return [f"watch {letter}{number}" for letter in "kn" for number in range(self._keys)]

    def ready(self) -> None:
        """Wait for events; leave after a while."""
        self._wait(self.chance.uniform(1.0, 20.0), self.give_up)

    def event(self, line: str) -> None:
        """Look at the order."""
        self.seen += 1
        self._order.take(line)
