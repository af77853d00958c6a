"""Writers that remember what was acknowledged, and what a node may hold after it was killed.

An :class:`Author` makes up commands, the same for the same seed, and knows what they leave; a
:class:`Writer` is a thread that sends an author's commands over one transport until the node is
gone, and notes the answers.  :func:`check` is the judge.  The commands of an author are
acknowledged in order, so what is his must be what some first N of those that were sent leave,
N not below the number of answers: nothing acknowledged is lost, nothing is applied out of order,
twice (versions tell) or in part.  What was found is what the next round begins with.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import ClassVar, NamedTuple

from tests.integration.harness import OK, PASSWORD, USER, Frames, Lines, Process, frame

Key = tuple[str, str]
"""A database and a key; the key "" stands for the database itself."""
Entry = tuple[str, int]
"""Value and version; of a database, its token and strategy, and 0."""
State = dict[Key, Entry]

KEYS = 60
"""Keys of one author in one database: few, so that they are written over and removed often."""
SHARED = "shared"
"""A key that several authors increment by one; in none of their states."""
SHARED_IN = "red"
"""The database it is in."""
STRATEGIES = ("none", "newer", "arbiter")
PAUSE = 0.04
"""Seconds a writer rests after a batch, at most: the log must not reach twice its limit."""
ANSWERS = {
    "create-db": [b"create-db success\n", OK],
    "drop-db": [b"drop-db success\n", OK],
}
"""Of the commands that have a message of their own."""


class Step(NamedTuple):
    """A command, and the database it is for ("" where none need be selected)."""

    database: str
    text: str


def apply(state: State, step: Step) -> None:
    """What a command does, as the protocol says."""
    word, name, *rest = step.text.split(" ", 2)
    if word == "create-db":
        state[name, ""] = rest[0], 0
        return
    if word == "drop-db":
        for gone in [one for one in state if one[0] == name]:
            del state[gone]
        return
    key = step.database, name
    value, version = state.get(key, ("0", -1))
    if name == SHARED:
        return
    if word == "remove":
        state.pop(key, None)
    elif word == "increment":
        state[key] = str(int(value) + int(rest[0])), version + 1
    elif word == "set-safe":
        given, _, value = rest[0].partition(" ")
        state[key] = value, int(given) + 1
    else:
        state[key] = rest[0], version + 1


# -- what was done, and what may be found ----------------------------------------------------------


@dataclass
class Record:
    """What one author did in one round.

    :ivar known: what was his before it.
    :ivar sent: commands sent, whole or in part.
    :ivar acknowledged: how many of them were answered.
    :ivar wrong: answers that should not have come.
    """

    name: str
    known: State
    sent: list[Step] = field(default_factory=list)
    acknowledged: int = 0
    wrong: list[str] = field(default_factory=list)


def check(record: Record, found: State) -> tuple[int, int]:
    """Compare a record with what the node holds of it after its restart.

    :return: the lowest and the highest number of its commands that leave ``found``.
    :raise AssertionError: none between those acknowledged and those sent does.
    """
    assert not record.wrong, f"{record.name} was answered {record.wrong[:3]}"
    state = dict(record.known)
    for step in record.sent[: record.acknowledged]:
        apply(state, step)
    promised = dict(state)
    fitting = [record.acknowledged] if state == found else []
    for number, step in enumerate(record.sent[record.acknowledged :], record.acknowledged + 1):
        apply(state, step)
        if state == found:
            fitting.append(number)
    if fitting:
        return fitting[0], fitting[-1]
    differ = [key for key in {**promised, **found} if promised.get(key) != found.get(key)]
    shown = "; ".join(
        f"{database}/{key or '(itself)'}: {promised.get((database, key))} was acknowledged,"
        f" {found.get((database, key))} was found"
        for database, key in differ[:5]
    )
    raise AssertionError(
        f"{record.name}: what was found is not what {record.acknowledged} to {len(record.sent)}"
        f" of its commands leave; {len(differ)} differ from what was acknowledged: {shown}"
    )


# -- authors ---------------------------------------------------------------------------------------


class Author:
    """Makes up commands on keys of its own, in databases that are there for ever.

    :param databases: some names.
    :ivar record: of this round.
    """

    is_admin: ClassVar[bool] = False

    def __init__(self, name: str, seed: int, databases: Sequence[str]) -> None:
        self.name = name
        self.databases = tuple(databases)
        self._chance = random.Random(f"{seed} {name}")
        self._at = self.databases[0]
        self._serial = 0
        self.begin({})

    def begin(self, known: State) -> None:
        """Begin a round, from what is known to be there."""
        self.record = Record(self.name, known)
        self._ahead = dict(known)

    def owns(self, key: Key) -> bool:
        """Whether nobody else writes it."""
        return key[1].startswith(f"{self.name}-")

    def token(self, database: str, state: State | None = None) -> str:
        """Of a database, by what was sent, or by another state; "" where there is none."""
        return "tok"

    def tokens(self, database: str) -> list[str]:
        """Those a database may have after a kill, each once."""
        return ["tok"]

    def next_step(self) -> Step:
        """Make up a command, and note it as sent."""
        self._serial += 1
        step = self._make_up()
        apply(self._ahead, step)
        self.record.sent.append(step)
        return step

    def _make_up(self) -> Step:
        if self._chance.random() < 0.05:
            self._at = self._chance.choice(self.databases)
        return Step(self._at, self._change(self._at))

    def _change(self, database: str) -> str:
        chance = self._chance
        kind = chance.randrange(20)
        if kind == 0 and database == SHARED_IN:
            return f"increment {SHARED}"
        if kind <= 2:
            return f"increment {self.name}-total {chance.randrange(-5, 100)}"
        key = f"{self.name}-{chance.randrange(KEYS)}"
        if kind <= 4:
            return f"remove {key}"
        value = f"{self._serial}{'.' * chance.randrange(160)}"
        if kind == 5:
            version = self._ahead.get((database, key), ("", -1))[1]
            return f"set-safe {key} {version + chance.randrange(2)} {value}"
        return f"set {key} {value}"


class Churner(Author):
    """Creates databases, writes into them, and drops them; the names are used again."""

    is_admin = True

    def owns(self, key: Key) -> bool:
        """All of its databases."""
        return key[0] in self.databases

    def token(self, database: str, state: State | None = None) -> str:
        """Each time another."""
        stored = (self._ahead if state is None else state).get((database, ""))
        return stored[0].partition(" ")[0] if stored else ""

    def tokens(self, database: str) -> list[str]:
        """By all that was known or sent, the last first."""
        found = [self.token(database, self.record.known)]
        for step in self.record.sent:
            word, name, *rest = step.text.split(" ")
            if word == "create-db" and name == database:
                found.append(rest[0])
        return [token for token in reversed(found) if token]

    def _make_up(self) -> Step:
        chance = self._chance
        if chance.random() < 0.15:
            self._at = chance.choice(self.databases)
        if (self._at, "") not in self._ahead:
            strategy = chance.choice(STRATEGIES)
            return Step("", f"create-db {self._at} t{self._serial} {strategy}")
        if chance.random() < 0.06:
            return Step("", f"drop-db {self._at}")
        return Step(self._at, self._change(self._at))


# -- writers ---------------------------------------------------------------------------------------


class Writer(threading.Thread):
    """Sends what an author makes up until the node is gone, or until told to stop."""

    batch: ClassVar[int] = 20

    def __init__(self, author: Author, node: Process) -> None:
        super().__init__(name=author.name, daemon=True)
        self.author, self.node = author, node
        self.stopping = self.resting = False
        self._rest = random.Random(author.name)
        self._expected: deque[tuple[Step | None, list[bytes]]] = deque()

    def run(self) -> None:
        """Connect, and go on to the end."""
        try:
            self.connect()
            selected = ""
            while not self.stopping:
                texts = []
                for _ in range(self.batch):
                    # A token is that of the moment before the command.
                    step = self.author.next_step()
                    if step.database not in ("", selected):
                        selected = step.database
                        texts.append(f"use-db {selected} {self.author.token(selected)}")
                        self._expected.append((None, [OK]))
                    elif step.text == f"drop-db {selected}":
                        selected = ""
                    texts.append(step.text)
                    self._expected.append((step, ANSWERS.get(step.text.split(" ")[0], [OK])))
                self.write(texts)
                self.take(leave=self.in_flight)
                time.sleep(self._rest.random() * PAUSE)
                while self.resting and not self.stopping and self.node.child is not None:
                    time.sleep(PAUSE)
            self.take(leave=0)
        except (OSError, HTTPException, AssertionError):
            # The connection was cut; what had come before that counts. Wrong answers are noted.
            self.take_the_rest()

    def connect(self) -> None:
        """Make a connection."""
        raise NotImplementedError

    def write(self, texts: list[str]) -> None:
        """Send commands."""
        raise NotImplementedError

    in_flight: ClassVar[int] = 0
    """Commands that may stay unanswered while the next batch is sent."""

    def take(self, leave: int) -> None:
        """Take answers until so many are left to come."""
        while len(self._expected) > leave:
            self.note(self.answer())

    def answer(self) -> list[bytes]:
        """Wait for the answer to one command."""
        raise NotImplementedError

    def take_the_rest(self) -> None:
        """Take what was sent before the node ended."""

    def note(self, answer: list[bytes]) -> None:
        """Note the answer to the first command that has none."""
        step, right = self._expected.popleft()
        if answer != right:
            self.author.record.wrong.append(f"{answer!r} to {step or 'use-db'}")
        if step is not None:
            self.author.record.acknowledged += 1


class LineWriter(Writer):
    """Over TCP."""

    in_flight = 20
    _client: Lines | Frames

    def connect(self) -> None:
        """Keep one connection."""
        self._client = self.node.tcp()
        self._authorise()

    def _authorise(self) -> None:
        if self.author.is_admin:
            assert self._client.ask(f"auth {USER} {PASSWORD}") == [b"valid auth\n", OK]

    def write(self, texts: list[str]) -> None:
        """All at once."""
        self._client.socket.sendall("".join(f"{text}\n" for text in texts).encode())

    def answer(self) -> list[bytes]:
        """The next one."""
        return self._client.answer()

    def take_the_rest(self) -> None:
        """Read to the end."""
        try:
            while self._expected:
                self.note(self.answer())
        except (OSError, AssertionError, AttributeError):
            # The end; without a client it had come before the connection.
            return


class FrameWriter(LineWriter):
    """Over WebSocket."""

    def connect(self) -> None:
        """Keep one connection."""
        self._client = self.node.ws()
        self._authorise()

    def write(self, texts: list[str]) -> None:
        """A frame each."""
        self._client.socket.sendall(b"".join(frame(text.encode()) for text in texts))


class RequestWriter(Writer):
    """Over HTTP: a request a batch; with its answer all of it is acknowledged."""

    batch = 10

    def connect(self) -> None:
        """Each request is a connection of its own."""
        self._parts: list[str] = []

    def write(self, texts: list[str]) -> None:
        """Post, and keep the answer in parts."""
        before = [f"auth {USER} {PASSWORD}"] if self.author.is_admin else []
        # The session is that of the request: the database selected last, if it is still there.
        last = self._selected
        if last and not texts[0].startswith("use-db"):
            before.append(f"use-db {last}")
        self._parts = self.node.post("; ".join([*before, *texts])).split(";")[len(before) :]
        for text in texts:
            word, _, rest = text.partition(" ")
            if word == "use-db":
                self._selected = rest
            elif word == "drop-db" and self._selected.split(" ")[0] == rest:
                self._selected = ""

    _selected = ""

    def answer(self) -> list[bytes]:
        """The next part, as the other transports give it."""
        part = self._parts.pop(0).encode()
        return [OK] if part == b"empty" else [part, OK]
