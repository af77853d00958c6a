"""Clients in threads that write at the nodes of a real set, and know what they were answered.

Times are those of ``time.monotonic``, so what several threads note can be put in one order.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import ClassVar, NamedTuple

from nuntwist.simulation.history import (
    GET,
    INCREMENT,
    READS,
    REMOVE,
    SET,
    SET_SAFE,
    Fate,
    History,
    Operation,
)
from tests.integration.harness import LIMIT, OK, Lines
from tests.integration.replica_set import NodeSet

TOKEN = "tok"
PATIENCE = 5.0
"""Seconds after which a client that is not answered hangs up, as its node may be stopped."""
AT_ONCE = 5
"""Writes that are sent before their answers are read."""
BREATH = 0.04
"""Seconds between an answer and the next writes: steady, with cores left for the nodes."""
KINDS = (SET, SET, SET_SAFE, GET, GET, GET, INCREMENT, REMOVE)
"""What a client does that does all, each equally often."""
ASKED_AT_ONCE = 500
"""Keys that are asked for before the answers are read."""


class Client:
    """A connection to one node in a thread of its own, made again whenever it ends.

    :param database: that it selects.
    :param first: commands for every connection.
    """

    patience: ClassVar[float] = PATIENCE

    def __init__(self, nodes: NodeSet, place: int, database: str, *first: str) -> None:
        self.place = place
        self.database = database
        self._first = (f"use-db {database} {TOKEN}", *first)
        self._process = nodes.processes[place]
        self._stopped = threading.Event()
        self.failed: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Let it finish what it waits for, and end it; it must not have failed."""
        self._stopped.set()
        self._thread.join(2 * self.patience)
        assert not self._thread.is_alive()
        if self.failed is not None:
            raise self.failed

    def _run(self) -> None:
        while not self._stopped.is_set():
            client = self._connect()
            if client is None:
                self._stopped.wait(0.05)
                continue
            try:
                while not self._stopped.is_set():
                    self.turn(client)
            except (OSError, AssertionError):
                self.lost()
            except Exception as error:  # an answer that there must not be
                self.failed = error
                return
            finally:
                client.close()

    def _connect(self) -> Lines | None:
        with suppress(OSError, AssertionError):
            client = self._process.tcp()
            client.socket.settimeout(self.patience)
            if all(client.ask(command)[-1] == OK for command in self._first):
                return client
            client.close()
        return None

    def turn(self, client: Lines) -> None:
        """Ask something, and note the answer."""
        raise NotImplementedError

    def lost(self) -> None:
        """The connection has ended: what was asked will not be answered."""


class Write(NamedTuple):
    """A write that was answered ``ok``; each has a key of its own, which is its value too."""

    text: bytes
    sent: float
    answered: float


class Writer(Client):
    """Writes steadily, some keys at a time, and never one twice.

    :param start: of the numbers of its keys.
    :ivar done: what was acknowledged.
    :ivar others: how often something else came of a write: what was answered, or ``lost``.
    :ivar longest: the longest wait for an answer, in seconds.
    """

    # No node is made to stand still under them.
    patience = LIMIT

    def __init__(
        self, nodes: NodeSet, place: int, database: str, *first: str, start: int = 0
    ) -> None:
        super().__init__(nodes, place, database, *first)
        self.done: list[Write] = []
        self.others = Counter[str]()
        self.longest = 0.0
        self._number = start
        self._pending: list[bytes] = []

    def turn(self, client: Lines) -> None:
        """Write some keys."""
        self._pending = [self._next() for _ in range(AT_ONCE)]
        sent = time.monotonic()
        client.send(b"".join(b"set %b %b\n" % (text, text) for text in self._pending))
        while self._pending:
            answer = client.answer()[-1]
            now = time.monotonic()
            text = self._pending.pop(0)
            if answer == OK:
                self.done.append(Write(text, sent, now))
            else:
                self.others[answer.decode().strip()] += 1
            self.longest = max(self.longest, now - sent)
        self._stopped.wait(BREATH)

    def _next(self) -> bytes:
        self._number += 1
        return f"{self.database}.{self.place}.{self._number}".encode()

    def lost(self) -> None:
        """Nobody will say."""
        self.others["lost"] += len(self._pending)
        self._pending = []


def missing(client: Lines, texts: Collection[bytes]) -> set[bytes]:
    """Which of some writes a node does not have; a client that has selected their database."""
    asked = list(texts)
    found = set[bytes]()
    for at in range(0, len(asked), ASKED_AT_ONCE):
        some = asked[at : at + ASKED_AT_ONCE]
        client.send(b"".join(b"get %b\n" % text for text in some))
        for text in some:
            answer = client.answer()
            assert answer[-1] == OK, answer
            if answer[0] != b"value %b\n" % text:
                assert answer[0] == b"value <Empty>\n", answer
                found.add(text)
    return found


def first_done(writers: Iterable[Writer], since: float) -> float | None:
    """When the first write that was sent after a moment was acknowledged."""
    times = [one.answered for w in writers for one in tuple(w.done)[-400:] if one.sent > since]
    return min(times, default=None)


class Historian(Client):
    """Does this and that with a few keys, and records it.

    :param number: of the client, in the history.
    :param kinds: what it does. Who writes has to wait where no majority is; who only reads would be
        served what is over, by a node that does not know.
    :param keys: gives the keys that are used right now, without their first letter.
    """

    def __init__(
        self,
        nodes: NodeSet,
        place: int,
        database: str,
        number: int,
        chance: random.Random,
        keys: Callable[[], list[str]],
        kinds: Sequence[str] = KINDS,
    ) -> None:
        super().__init__(nodes, place, database, "read-concern linearizable")
        self.history = History(order=time.monotonic)
        self._number = number
        self._chance = chance
        self._keys = keys
        self._kinds = kinds
        self._asked: Operation | None = None

    def turn(self, client: Lines) -> None:
        """Ask one thing."""
        self._asked = self._choose()
        lines = client.ask(self._asked.command())
        operation, self._asked = self._asked, None
        self.history.close(operation, b"".join(lines).decode())
        self._stopped.wait(self._chance.expovariate(1 / 0.02))

    def _choose(self) -> Operation:
        chance = self._chance
        kind = chance.choice(self._kinds)
        letter = {INCREMENT: "n", SET: "k", SET_SAFE: "k"}.get(kind, chance.choice("kn"))
        value = f"{self._number}.{len(self.history.operations)}".encode()
        amount = chance.randrange(1, 9) if kind == INCREMENT else chance.randrange(30)
        key = letter + chance.choice(self._keys())
        return self.history.call(self._number, kind, key.encode(), value, amount)

    def lost(self) -> None:
        """It may happen at any time, or never; a read says nothing then."""
        operation, self._asked = self._asked, None
        if operation is not None:
            fate = Fate.REFUSED if operation.kind in READS else Fate.UNKNOWN
            self.history.close_without(operation, fate)
