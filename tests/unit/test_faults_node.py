"""A whole node on a disk that fails at random: what it answered is what a restart finds.

Clients send writes to a node whose log flushes when it is told to; faults and ends come in
between. A model notes what became of each command (see :mod:`tests.unit.faulty`), and what is
found after an end must be what the first N of those that were not refused leave, in the order in
which they were sent: none that was answered may be beyond N.
"""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import maybeDeferred

from nuntwist.core.limits import Limits
from nuntwist.oplog.flushed import FlushedOplog
from nuntwist.storage.disk import DiskStorage
from nuntwist.testing import LineConnection, MemoryNode
from tests.unit.faulty import FaultyFiles, Threads, make_log
from tests.unit.test_recovery import plain_values, state

LIMIT = 5_000
MESSAGES = ("create-db success", "drop-db success", "value ", "pong")
Model = dict[str, dict[str, str]]


class Sent:
    """A command and what became of it: kept, refused, or unknown so far.

    :ivar logged: whether it led to an operation; a read, and a removal of nothing, does not.
    """

    def __init__(self, database: str, text: str) -> None:
        self.database, self.text = database, text
        self.became = "unknown"
        self.logged = False

    def apply(self, model: Model) -> None:
        """What it does where it is kept."""
        word, _, rest = self.text.partition(" ")
        key, _, value = rest.partition(" ")
        if word in ("get", "ping"):
            return
        if word == "create-db":
            model[key] = {}
        elif word == "drop-db":
            del model[key]
        elif word == "set":
            model[self.database][key] = value
        elif word == "remove":
            model[self.database].pop(key, None)
        else:
            values = model[self.database]
            values[key] = str(int(values.get(key, "0")) + 1)


class Client:
    """A connection, and the commands on it that have no answer."""

    def __init__(self, connection: LineConnection) -> None:
        self.connection = connection
        self.waiting: list[Sent] = []
        connection.received()

    def note(self) -> None:
        """Take the answers that have come."""
        for line in self.connection.received().splitlines():
            if not (line == "ok " or line.startswith("error ")):
                assert line.startswith(MESSAGES), line
                continue
            assert self.waiting, f"{line!r} answers nothing"
            sent = self.waiting.pop(0)
            if line == "ok ":
                sent.became = "kept"
            elif line.startswith("error storage unavailable: "):
                sent.became = "refused"
            else:
                assert line.startswith("error outcome unknown: "), line


class Machine:
    """A node, its disk, its clients, and what is known of them.

    :ivar known: what was on the disk after the last loss of power.
    :ivar sent: all commands since then.
    :ivar flushed: how many of them a loss of power leaves, at least.
    :ivar there: how many of them the last start found: the end of a process leaves those, answered
        or not.
    """

    def __init__(self, durability: str) -> None:
        self.durability = durability
        self.files, self.threads = FaultyFiles(), Threads()
        self.threads.asked = self._asked
        self.known: Model = {}
        self.sent: list[Sent] = []
        self.flushed = self.there = 0
        self.serial = 0
        self.start()
        self.admin_sends("create-db d t")
        self.flush()
        self.snapshot()
        self.flush()
        self.restart(power_lost=True)
        assert self.known == {"d": {}}

    def start(self) -> None:
        """Start a node on what the files hold."""
        log = make_log(self.files, self.durability, self.threads, LIMIT)
        self.log = log
        self.node = MemoryNode(log, DiskStorage(self.files, maybeDeferred))
        self.admin = Client(self.node.admin())
        self.clients: list[Client] = []

    def connect(self) -> None:
        """Three clients, two of which may have commands in flight at once."""
        for _ in range(3):
            connection = self.node.tcp()
            assert connection.ask("use-db d t") == "ok \n"
            self.clients.append(Client(connection))

    def _asked(self) -> Any:
        # What is answered now was written before, so this flush will have it.
        kept = self._kept()

        def well() -> None:
            if not self.files.has_lied:
                self.flushed = max(self.flushed, kept)

        return well

    def _kept(self) -> int:
        """The number of commands up to the last that was answered and logged."""
        kept = [n for n, one in enumerate(self.sent) if one.became == "kept" and one.logged]
        return kept[-1] + 1 if kept else 0

    # -- what may happen ---------------------------------------------------------------------

    def sends(self, number: int, text: str) -> None:
        """A client sends a write."""
        if not self.clients:
            self.connect()
        client = self.clients[number]
        self.serial += 1
        self._send(client, Sent("d", text.format(self.serial)))

    def admin_sends(self, text: str) -> None:
        """An admin does, one at a time; what makes no sense is not sent."""
        word, name, *_ = text.split(" ")
        if self.admin.waiting or any(one.became == "unknown" for one in self.sent[self.there :]):
            return
        there = name in self.now(len(self.sent))
        if there == (word == "drop-db"):
            self._send(self.admin, Sent("", text))

    def _send(self, client: Client, sent: Sent) -> None:
        self.sent.append(sent)
        client.waiting.append(sent)
        before = self.log.last.index
        client.connection.send(sent.text)
        sent.logged = self.log.last.index > before
        self.note()

    def note(self) -> None:
        """Take all answers there are."""
        self.node.settle()
        for client in (self.admin, *self.clients):
            client.note()

    def run_thread(self) -> None:
        """A thread does its work."""
        self.threads.run()
        self.note()

    def flush(self) -> None:
        """All threads do; a second has gone."""
        if isinstance(self.log, FlushedOplog):
            self.log.flush_now()
        while self.threads.calls:
            self.run_thread()

    def snapshot(self) -> None:
        """As the timer does; it may fail."""
        self.node.node.snapshots.take_changed().addErrback(lambda _: None)
        self.note()

    def snapshot_of(self, name: str) -> None:
        """As a client asks for one, of a database alone; it may fail."""
        database = self.node.node.catalogue.by_name.get(name.encode())
        if database is not None:
            self.node.node.snapshots.take([database]).addErrback(lambda _: None)
            self.note()

    def fault(self, operation: str) -> None:
        """The next such operation fails."""
        self.files.fail_next(operation)

    def room(self, room: int | None) -> None:
        """The disk gets full soon, or has room again."""
        self.files.room = room

    def at_most(self, size: int | None) -> None:
        """Writes get short."""
        self.files.at_most = size

    def restart(self, power_lost: bool) -> None:
        """End, start, compare, and go on from what is there."""
        safe = self._kept() if power_lost else max(self._kept(), self.there)
        if power_lost and self.durability != "disk":
            safe = self.flushed
        possible = {number: self.now(number) for number in range(safe, len(self.sent) + 1)}
        sent, self.sent = self.sent, []
        self.files.restart(power_lost=power_lost)
        self.threads.calls.clear()
        self.clients = []
        self.start()
        found = plain_values(self.node)
        # By name and in the catalogue of clients there is what there is by number.
        names = {name.decode() for name in self.node.node.catalogue.by_name}
        assert names == {"$admin", *found}
        listed = state(self.node)[b"$admin"]
        assert {key.decode() for key in listed if key[:2] != b"$$"} == names
        told = [(one.text, one.became) for one in sent]
        assert found in possible.values(), f"{found} is none of {possible}: {told}"
        if power_lost:
            # All of it is on the disk.
            self.known, self.flushed, self.there = found, 0, 0
            return
        last = max(number for number, model in possible.items() if model == found)
        for one in sent[last:]:
            one.became = "refused"
        self.sent, self.there = sent, last

    def now(self, number: int) -> Model:
        """What the first commands leave, without those that were refused."""
        model = {name: dict(values) for name, values in self.known.items()}
        for sent in self.sent[:number]:
            if sent.became != "refused":
                sent.apply(model)
        return model


WRITES = st.one_of(
    st.builds("set k{} {{}}".format, st.integers(0, 3)),
    st.builds("remove k{}".format, st.integers(0, 3)),
    st.just("increment n"),
    st.builds("get k{}".format, st.integers(0, 3)),
    st.just("ping"),
)
STEPS = st.one_of(
    st.tuples(st.just("sends"), st.integers(0, 2), WRITES),
    st.tuples(st.just("sends"), st.integers(0, 2), WRITES),
    st.tuples(st.just("sends"), st.integers(0, 2), WRITES),
    st.tuples(st.just("admin_sends"), st.sampled_from(["create-db e t", "drop-db e"])),
    st.tuples(st.just("run_thread")),
    st.tuples(st.just("flush")),
    st.tuples(st.just("snapshot")),
    st.tuples(st.just("snapshot_of"), st.sampled_from(["d", "e"])),
    st.tuples(st.just("fault"), st.sampled_from(["write", "sync", "truncate", "open", "rename"])),
    st.tuples(st.just("room"), st.one_of(st.none(), st.integers(0, 400))),
    st.tuples(st.just("at_most"), st.sampled_from([None, 1, 50, 100])),
    st.tuples(st.just("restart"), st.booleans()),
)


PLANS = st.lists(STEPS, max_size=40)
MANY = settings(max_examples=120, deadline=None)


def follow(durability: str, steps: list[tuple[Any, ...]]) -> None:
    """Do what a plan says, then end twice."""
    machine = Machine(durability)
    for name, *arguments in steps:
        getattr(machine, name)(*arguments)
    for power_lost in (False, True):
        machine.restart(power_lost)
        # And it goes on.
        machine.sends(0, "set last {}")
        machine.flush()
        assert machine.sent[-1].became == "kept"


SET, OTHER, COUNT = (("sends", 0, text) for text in ("set k0 {}", "set k1 {}", "increment n"))
CREATE, DROP = (("admin_sends", text) for text in ("create-db e t", "drop-db e"))
RUN, FLUSH, KILL = ("run_thread",), ("flush",), ("restart", False)

# (pytest-twisted takes no parameters beside those that hypothesis gives.)


@MANY
@given(steps=PLANS)
# A name used again, and a snapshot of the one that has it now.
@example(steps=[CREATE, DROP, FLUSH, CREATE, FLUSH, ("snapshot_of", "e"), FLUSH, KILL])
def test_handed_to_the_system_what_was_answered_survives_the_process(steps: Any) -> None:
    follow("os", steps)


@MANY
@given(steps=PLANS)
def test_flushed_every_second_a_loss_of_power_takes_only_what_came_after(steps: Any) -> None:
    follow("interval", steps)


@MANY
@given(steps=PLANS)
# Of two that waited for a flush, one still fits on the disk.
@example(steps=[SET, SET, COUNT, ("room", 91), RUN, KILL])
@example(steps=[SET, SET, COUNT, ("room", 91), RUN, RUN, COUNT, FLUSH, KILL])
# What was answered beside a batch that is lost is not answered again.
@example(steps=[SET, OTHER, ("sends", 1, "ping"), ("fault", "write"), RUN])
@example(steps=[CREATE, ("fault", "write"), COUNT, RUN])
@example(steps=[OTHER, SET, ("fault", "write"), ("sends", 1, "get k1"), RUN])
# The flush of a full segment fails beside one that somebody waits for.
@example(
    steps=[step for _ in range(6) for step in (SET, FLUSH)]
    + [step for _ in range(4) for step in (SET, ("fault", "sync"), RUN, RUN, ("restart", True))]
)
def test_flushed_before_the_answer_nothing_takes_what_was_answered(steps: Any) -> None:
    follow("disk", steps)


def test_killed_again_and_again_before_a_snapshot_the_log_does_not_get_full() -> None:
    """The bytes that a start replays count for when the next snapshots are due."""
    files = FaultyFiles()
    for _ in range(40):
        files.restart()
        log = make_log(files, "os", maybeDeferred, LIMIT)
        storage = DiskStorage(files, maybeDeferred)
        node = MemoryNode(log, storage, limits=Limits(replay=LIMIT // 4))
        node.admin("create-db d t")
        client = node.tcp()
        client.ask("use-db d t")
        written = log.appended
        while log.appended - written < LIMIT // 8:
            assert client.ask("set k " + "v" * 50) == "ok \n"
        if node.node.snapshots.are_due():
            node.node.snapshots.take_changed()
            node.settle()
