"""Clients that bring keys into conflict, and arbiters that decide.

They have a database of their own with the strategy ``arbiter``. A *disputer* writes with versions
that are too low as a rule, and notes which conflicts it was answered: each of them was promised to
be kept, like a write. An *arbiter* decides what it is sent, in any order, now and then twice; it
falls silent for a while, or goes to another node. It decides for values that nobody else writes, so
each of them tells in the log which answer it comes from.

In the end all conflicts are decided, and the log tells how (:mod:`nuntwist.simulation.decisions`).
"""

from __future__ import annotations

import re
from typing import Final

from nuntwist.simulation.client import PATIENCE, Client, Connection, Seat
from nuntwist.simulation.history import REMOVE, SET, SET_SAFE
from nuntwist.simulation.promises import Promises

DISPUTED: Final = "c"
"""The database."""
_UNRESOLVED: Final = "error $$conflitct unresolved "
_EXPECTED: Final = (
    "error An conflitct happend and there is no arbiter client not connected ",
    "error key is in conflict resolution ",
)
# Messages to arbiters are no lines; the values that are written here end in a mark of their own.
_MESSAGE: Final = re.compile(rb"resolve (\d+) \w+ (-?\d+) (\w+) (\S*) (\S+)!")


class Disputer(Client):
    """Writes keys of which most writes come into conflict.

    :ivar conflicts: how many did.
    """

    database = DISPUTED

    def __init__(
        self,
        seat: Seat,
        promises: Promises,
        keys: int,
    ) -> None:
        super().__init__(seat)
        self._promises = promises
        self._keys = keys
        self._value: bytes | None = None
        self._asked = 0
        self.conflicts = 0

    def first(self) -> list[str]:
        """Ask for what can be relied on."""
        return ["write-concern majority"]

    def ready(self) -> None:
        """Ask the next thing, after a while."""
        self._wait(self.chance.expovariate(6.0), self._ask)

    def _ask(self) -> None:
        kind = self.chance.choice((SET, SET_SAFE, SET_SAFE, SET_SAFE, REMOVE))
        key = f"k{self.chance.randrange(self._keys)}"
        self._asked += 1
        value = f"{self.number}.{self._asked}!"
        self._value = None if kind == REMOVE else value.encode()
        version = self.chance.choice((-5, -5, 0, 3, 100))
        self._wait(PATIENCE, self.give_up)
        text = {SET: f"set {key} {value}", REMOVE: f"remove {key}"}
        self.say(text.get(kind, f"set-safe {key} {version} {value}"))

    def answered(self, answer: str) -> None:
        """Note what was promised."""
        line = answer.removesuffix("\n")
        if line == "ok ":
            if self._value is not None:
                self._promises.made(self._value, True)
        elif line.startswith(_UNRESOLVED):
            self.conflicts += 1
            self._promises.made(line.removeprefix(_UNRESOLVED).strip().encode(), True)
        elif line not in _EXPECTED:
            self.give_up()
            return
        self.ready()


class Arbiter(Client):
    """Decides conflicts.

    :ivar given: of which conflict each value was an answer, by number.
    :ivar diligent: whether it is never silent, and stays.
    :ivar decided: how many of its answers were taken.
    """

    database = DISPUTED

    def __init__(
        self,
        seat: Seat,
        promises: Promises,
        given: dict[bytes, bytes],
    ) -> None:
        super().__init__(seat)
        self._promises = promises
        self.given = given
        self.diligent = False
        self.decided = 0
        self._asked = 0
        self._open: dict[bytes, tuple[str, str]] = {}
        self._answering: tuple[bytes, bytes] | None = None

    def first(self) -> list[str]:
        """Be an arbiter."""
        self._open = {}
        return ["arbiter", "write-concern majority"]

    def data(self, connection: Connection, data: bytes) -> bytes:
        """Take out the messages, which are no lines."""

        def take(found: re.Match[bytes]) -> bytes:
            number, version, key = found.group(1, 2, 3)
            self._open[number] = version.decode(), key.decode()
            return b""

        return _MESSAGE.sub(take, data)

    def ready(self) -> None:
        """Look for something to decide, soon or after a while."""
        chance = self.chance
        if self.diligent or chance.random() > 0.05:
            self._wait(chance.uniform(0.02, 0.3), self._decide)
        else:
            # It may stay, and be silent, or go.
            end = chance.choice((self._decide, self.give_up))
            self._wait(chance.uniform(1.0, 6.0), end)

    def _decide(self) -> None:
        if not self._open:
            self.ready()
            return
        chance = self.chance
        number = next(iter(self._open))
        if chance.random() < 0.2:
            number = chance.choice(list(self._open))
        version, key = self._open[number]
        if chance.random() < 0.3:
            version = chance.choice(("-1", "0", "50"))
        self._asked += 1
        value = f"{self.number}.{self._asked}!"
        self.given[value.encode()] = number
        self._answering = number, value.encode()
        self._wait(PATIENCE, self.give_up)
        self.say(f"resolve {number.decode()} {DISPUTED} {key} {version} {value}")

    def answered(self, answer: str) -> None:
        """Note what was promised."""
        assert self._answering is not None
        number, value = self._answering
        if answer == "ok \n":
            self.decided += 1
            self._promises.made(value, True)
        elif not answer.startswith("error no such conflict"):
            self.give_up()
            return
        if self.chance.random() < 0.9:
            # Or say so once more.
            self._open.pop(number, None)
        self.ready()
