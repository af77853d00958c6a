"""A node that is killed again and again under writers, and what it must know afterwards.

A :class:`Campaign` starts a node on a directory of its own and goes through the rounds of a
:func:`schedule`, which follows from a seed: writers on all transports (see
:mod:`tests.integration.writers`), ``SIGKILL`` at some moment, perhaps more of them while the node
starts again, a start, and a look at everything that is there.  A round's moment is a time, or
what is seen in the data directory: a new segment of the log, or any other file that comes or goes
(a snapshot).

Where something is wrong the directory is kept, with the logs, what the kill had left (``left``)
and ``history.json``: what each writer knew, sent and was answered.
"""

from __future__ import annotations

import json
import random
import shutil
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.integration.harness import LIMIT, OK, PASSWORD, USER, Lines, Process, no_trace_of_trouble
from tests.integration.writers import (
    SHARED,
    SHARED_IN,
    Author,
    Churner,
    FrameWriter,
    LineWriter,
    RequestWriter,
    State,
    Writer,
    check,
)

STATIC = {"red": "none", "green": "newer", "blue": "arbiter"}
"""The databases that are always there, with their strategies."""
FILL = 1_000
"""Keys written once: enough that a snapshot is split into partitions."""
LONG_LOG = 5 << 18
"""Bytes of log at which a round begins with snapshots: at twice its limit it takes no writes."""
LONGEST = 0.9
"""Seconds a round writes, at most, where nothing else ends it."""
DURABILITIES = ("os", "interval", "disk")
KINDS = ("time", "taken", "segment", "snapshot", "snapshot", "start")


@dataclass(frozen=True)
class Plan:
    """One round.

    :ivar kind: what the kill waits for: ``time``; ``taken``, that a snapshot is answered;
        ``segment``, a change of the row of segments; ``snapshot``, a change among the other
        files; ``start``, time, and then the node is killed while it starts.
    :ivar delay: seconds after that.
    :ivar snapshots: whether a client asks for snapshots without a pause.
    :ivar starts: moments at which a start is killed, in parts of the time a start takes.
    """

    kind: str
    delay: float
    snapshots: bool
    durability: str
    starts: tuple[float, ...]


def schedule(seed: int) -> Iterator[Plan]:
    """The rounds of a seed, without an end."""
    chance = random.Random(f"schedule {seed}")
    kinds: list[str] = []
    number = 0
    while True:
        if not kinds:
            kinds = chance.sample(KINDS, len(KINDS))
        kind = kinds.pop()
        starts = []
        if kind == "start":
            # Most of a start is the interpreter's; what matters comes towards its end.
            starts = [chance.choice((1.1, 0.5)) - chance.random() * 0.5 for _ in range(3)]
        yield Plan(
            kind,
            chance.random() * (0.01 if kind in ("segment", "snapshot") else LONGEST),
            kind in ("taken", "snapshot") or chance.random() < 0.3,
            DURABILITIES[number % len(DURABILITIES)],
            tuple(starts),
        )
        number += 1


# -- the node and its clients ----------------------------------------------------------------------


class Node(Process):
    """A node that can be killed before it is ready."""

    hasty = False

    def spawn(self) -> None:
        """Start it, and do not wait."""
        self.hasty = True
        try:
            self.start()
        finally:
            self.hasty = False

    def _ready_or_ended(self) -> bool:
        return self.hasty or super()._ready_or_ended()


class Watcher(threading.Thread):
    """Watches the shared counter: what an event told of must be there after a kill.

    :ivar seen: the highest number it was told.
    """

    def __init__(self, node: Process) -> None:
        super().__init__(daemon=True)
        self.node = node
        self.seen = 0

    def run(self) -> None:
        """Watch to the end."""
        try:
            with self.node.select(SHARED_IN) as client:
                client.send(f"watch {SHARED}\n".encode())
                while line := client.line():
                    if line.startswith(f"changed {SHARED} ".encode()) and line.endswith(b"\n"):
                        self.seen = int(line.split()[-1])
        except (OSError, AssertionError):
            return


class SnapshotTaker(threading.Thread):
    """Asks for snapshots without a pause.

    :ivar taken: how many were answered.
    """

    def __init__(self, node: Process, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self.node = node
        self.taken = 0
        self._texts = [
            f"snapshot {chance.choice(('true', 'false'))} {chance.choice(('$admin', *STATIC))}"
            for _ in range(1_000)
        ]

    def run(self) -> None:
        """Ask to the end."""
        try:
            with self.node.tcp() as admin:
                admin.ask(f"auth {USER} {PASSWORD}")
                for text in self._texts:
                    if admin.ask(text) == [OK]:
                        self.taken += 1
        except (OSError, AssertionError):
            return


def contents(client: Lines, name: str, tokens: list[str]) -> tuple[str, State]:
    """All plain keys of a database with their versions, read over a connection.

    :return: the token that was right, and the keys.
    """
    for token in tokens:
        if client.ask(f"use-db {name} {token}") == [OK]:
            break
    else:
        raise AssertionError(f"no token of {name} is right: not one of {tokens}")
    (listed, _) = client.ask("keys")
    names = [key for key in listed.decode().strip("\n").removeprefix("keys ").split(",") if key]
    names = [key for key in names if key[0] != "$"]
    client.send("".join(f"get-safe {key}\n" for key in names).encode())
    state: State = {}
    for key in names:
        value, closing = client.answer()
        assert closing == OK
        _, version, text = value.decode().removesuffix("\n").split(" ", 2)
        state[name, key] = text, int(version)
    return token, state


# -- the campaign ----------------------------------------------------------------------------------


@dataclass
class Told:
    """What a campaign did, for the end."""

    kills: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    dropped: int = 0
    snapshots: int = 0
    segments: set[str] = field(default_factory=set)


class Campaign:
    """Rounds on one node; a context manager that keeps the directory where one has failed.

    :param seed: what the schedule and the commands follow from.
    :param root: the sources to run, where they are not those of this file.
    """

    def __init__(self, seed: int, root: str = "") -> None:
        self.seed = seed
        self.directory = Path(tempfile.mkdtemp(prefix=f"nuntwist-crash-{seed}-"))
        variables = {"NUN_MAX_OP_LOG_SIZE": "1MiB", **({"PYTHONPATH": root} if root else {})}
        self.node = Node(self.directory / "node", variables=variables)
        self.told = Told()
        self.plans: list[Plan] = []
        self.authors: list[tuple[Author, type[Writer]]] = [
            (Author("tcp", seed, ["red"]), LineWriter),
            (Author("both", seed, ["red", "green"]), LineWriter),
            (Author("ws", seed, ["green", "blue"]), FrameWriter),
            (Author("http", seed, ["red", "blue"]), RequestWriter),
            (Churner("churn", seed, ["churn-0", "churn-1", "churn-2"]), LineWriter),
            (Churner("post", seed, ["post-0", "post-1"]), RequestWriter),
        ]
        self.static: State = {(name, ""): (f"tok {how}", 0) for name, how in STATIC.items()}
        self.shared = 0
        self._start_seconds = 0.5

    def __enter__(self) -> Campaign:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.node.child is not None:
            self.node.kill()
        if kind is None:
            shutil.rmtree(self.directory)

    def run(self, kills: int, seconds: float = 0.0) -> Told:
        """Go on until there were so many kills and so much time has gone.

        :raise AssertionError: something was lost, or the node got in trouble.
        """
        until = time.monotonic() + seconds
        rounds = schedule(self.seed)
        self.begin()
        while self.told.kills.total() < kills or time.monotonic() < until:
            self.round(next(rounds))
        self.judged(self.end)
        return self.told

    def judged(self, what: Callable[[], None]) -> None:
        """Do something; where it goes wrong, say how to do it again and where all is."""
        try:
            what()
        except (AssertionError, OSError) as error:
            history = {
                "seed": self.seed,
                "plans": [asdict(plan) for plan in self.plans],
                "records": [
                    {
                        **asdict(author.record),
                        "known": [[*key, *entry] for key, entry in author.record.known.items()],
                    }
                    for author, _ in self.authors
                ],
            }
            (self.directory / "history.json").write_text(json.dumps(history, indent=1))
            raise AssertionError(
                f"{error}\nIn round {len(self.plans)}: {self.plans[-1:]}."
                f"\nNUN_CRASH_SEED={self.seed} repeats the schedule; the data, as the kill had"
                f" left them and as they are now, the logs and the history are in {self.directory}"
            ) from error

    # -- rounds ------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the node, with what is always there."""
        self.node.start()
        for name, how in STATIC.items():
            assert "success" in self.node.admin(f"create-db {name} tok {how}")
        fill = {f"fill-{number}": f"{number:04}" * 8 for number in range(FILL)}
        body = "; ".join(f"set {key} {value}" for key, value in fill.items())
        assert set(self.node.post(f"use-db red tok; {body}").split(";")) == {"empty"}
        self.static |= {("red", key): (value, 0) for key, value in fill.items()}

    def round(self, plan: Plan) -> None:
        """Write, kill, start, check."""
        self.plans.append(plan)
        self.judged(lambda: self._round(plan))

    def _round(self, plan: Plan) -> None:
        node = self.node
        writers = [writer(author, node) for author, writer in self.authors]
        watcher = Watcher(node)
        chance = random.Random(f"{self.seed} snapshots {len(self.plans)}")
        taker = SnapshotTaker(node, chance)
        threads = [*writers, watcher, *([taker] if plan.snapshots else [])]
        for thread in threads:
            thread.start()
        self._kill(self._wait_for(plan, taker, writers))
        for thread in threads:
            thread.join(LIMIT)
            assert not thread.is_alive(), thread
        self.told.snapshots += taker.taken
        left = self.directory / "left"
        shutil.rmtree(left, ignore_errors=True)
        shutil.copytree(node.data, left)
        for part in plan.starts:
            node.spawn()
            time.sleep(max(0.0, part) * self._start_seconds)
            self._kill("start-up" if "is ready" not in node.log else "just ready")
        node.variables["NUN_DURABILITY"] = plan.durability
        self.start_and_check(watcher.seen)

    def _wait_for(self, plan: Plan, taker: SnapshotTaker, writers: list[Writer]) -> str:
        """Wait for the moment of a round; gives what it was in the end."""
        kind = plan.kind

        def look_on() -> None:
            # Where snapshots are slow, the log must not reach twice its limit meanwhile.
            full = self._log_size() > 3 << 19
            for writer in writers:
                writer.resting = full
            time.sleep(0.001)

        if kind == "taken":
            # However slow the machine is, for the campaign is to see some.
            until = time.monotonic() + LIMIT
            while not taker.taken:
                assert time.monotonic() < until, "no snapshot was answered"
                look_on()
        if kind in ("segment", "snapshot"):
            before = self._files(kind == "segment")
            until = time.monotonic() + LIMIT / 2
            while self._files(kind == "segment") == before:
                if time.monotonic() > until:
                    kind = "time"
                    break
                look_on()
        until = time.monotonic() + plan.delay
        while time.monotonic() < until:
            look_on()
        return kind

    def _log_size(self) -> int:
        size = 0
        for one in self.node.data.glob("*.seg"):
            with suppress(FileNotFoundError):
                size += one.stat().st_size
        return size

    def _files(self, segments: bool) -> set[str]:
        """Names of segments, or of all other files."""
        names = {one.name for one in self.node.data.iterdir()}
        found = {name for name in names if (name.endswith(".seg")) == segments}
        if segments:
            self.told.segments |= found
        return found

    def _kill(self, kind: str) -> None:
        self.node.kill()
        no_trace_of_trouble(self.node.log)
        self.told.kills[kind] += 1

    def start_and_check(self, seen: int = 0) -> None:
        """Start the node; all that was acknowledged, or seen by a watcher, must be there."""
        began = time.monotonic()
        self.node.start()
        self._start_seconds = time.monotonic() - began
        self.check(seen)
        if self._log_size() > LONG_LOG:
            answer = self.node.admin("snapshot false $admin")
            assert answer == "valid auth\n;empty", answer

    # -- the judgement -----------------------------------------------------------------------

    def check(self, seen: int = 0) -> None:
        """Compare everything the node holds with what it may hold; begin anew from that."""
        found = self.found()
        counter = found.pop((SHARED_IN, SHARED), ("0", -1))
        fewest = most = self.shared
        for author, _ in self.authors:
            own = {key: found.pop(key) for key in list(found) if author.owns(key)}
            record = author.record
            low, high = check(record, own)
            counted = [step.text == f"increment {SHARED}" for step in record.sent]
            fewest, most = fewest + sum(counted[:low]), most + sum(counted[:high])
            dropped = [step.text.startswith("drop-db ") for step in record.sent[:low]]
            self.told.acknowledged += record.acknowledged
            self.told.dropped += sum(dropped)
            author.begin(own)
        assert found == self.static, _difference(self.static, found)
        self.shared = int(counter[0])
        assert max(fewest, seen) <= self.shared <= most, (fewest, seen, self.shared, most)
        assert counter[1] == self.shared - 1, counter

    def found(self) -> State:
        """All that the node holds."""
        state: State = {}
        churners = [author for author, _ in self.authors if author.is_admin]
        with Lines(socket.create_connection(self.node.address("TCP"), LIMIT)) as client:
            client.ask(f"auth {USER} {PASSWORD}")
            (_, *rows, _) = client.ask("debug list-dbs")
            for row in rows:
                name, _, strategy = row.decode().strip().partition(" : ")
                if name == "$admin":
                    continue
                owners = [author for author in churners if author.owns((name, ""))]
                tokens = owners[0].tokens(name) if owners else ["tok"]
                token, keys = contents(client, name, tokens)
                state[name, ""] = f"{token} {strategy}", 0
                state |= keys
        return state

    def end(self) -> None:
        """Stop the node in order; the next start must find the same."""
        before = self.found()
        assert self.node.stop() == 0
        self.node.start()
        found = self.found()
        assert found == before, _difference(before, found)


def _difference(wanted: State, found: State) -> str:
    differ = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
    return "; ".join(
        f"{database}/{key or '(itself)'}: {wanted.get((database, key))} was wanted,"
        f" {found.get((database, key))} was found"
        for database, key in differ[:5]
    )
