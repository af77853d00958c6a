"""Clients of a simulated set that write and read, and such that watch; they record what they are
told.

What any client does is :mod:`nuntwist.simulation.client`.
"""

from __future__ import annotations

from collections.abc import Callable

from nuntwist.simulation.client import PATIENCE, Client, Seat
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
from nuntwist.simulation.promises import Promises


class Writer(Client):
    """Writes, and reads where that is to be checked.

    :param promises: is told of writes that were answered.
    :param reads: whether it reads, too; it asks for linearizable reads then. (Without that a
        node that has lost its set and does not know yet gives old values.)
    :param majority: whether it asks for a majority to have what it writes.
    """

    def __init__(
        self,
        seat: Seat,
        history: History,
        promises: Promises,
        keys: int,
        reads: bool = False,
        majority: bool = True,
    ) -> None:
        super().__init__(seat)
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
        seat: Seat,
        keys: int,
        cuts: Callable[[int], int] = lambda place: 0,
    ) -> None:
        super().__init__(seat)
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
