"""Any interleaving of writers, arbiters, their answers and restarts of a node, beside a model.

After each step the node has what the model has: values, versions, and the open conflicts of each
key in order. Each of these was sent to a living arbiter that may decide it, if there is one, or
waits as these have as much to decide as their windows hold, or none has decided what is before it.
Once all are decided no key is in resolution, what was decided last stands, and its version has
risen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from nuntwist.core import desk
from nuntwist.core.assigning import Table
from nuntwist.core.database import Database
from nuntwist.core.desk import LOOK_SECONDS
from nuntwist.core.handlers import HANDLERS
from nuntwist.core.pipeline import Pipeline
from nuntwist.core.seats import Seat
from nuntwist.files import MemoryFiles
from nuntwist.testing import FrameConnection, LineConnection
from nuntwist.values import IN_RESOLUTION, SET, VALUE, VERSION, Op
from tests.unit.test_recovery import killed, snapshot, start

TIMEOUT: Final = 30.0
KEYS: Final = ("a", "ab", "b")
USERS: Final = ("t", "ana secret")
"""Who arbiters are: the second one may decide the keys that begin with ``a``."""
NO_ARBITER: Final = "error An conflitct happend and there is no arbiter client not connected \n"
GONE: Final = -1
ROUNDS: Final = 8


@dataclass
class Key:
    """A key as it should be.

    :ivar pending: its open conflicts, as (number, message), the oldest first.
    :ivar before: the version it had before them.
    """

    value: str | None = None
    version: int = GONE
    before: int = GONE
    pending: list[tuple[str, str]] = field(default_factory=list)

    def next_version(self, asked: int) -> int | None:
        """What a write is stored with; None where that is a conflict."""
        if asked < -1 or self.pending:
            return None
        if asked == -1:
            return self.version + 1
        return asked + 1 if asked + 1 > self.version else None


class Arbiter:
    """One of them, and the numbers of all conflicts it was sent."""

    def __init__(self, client: FrameConnection, user: str) -> None:
        self.client = client
        self.user = user
        self.sent: dict[str, str] = {}

    def may(self, key: str) -> bool:
        return self.user == "t" or key.startswith("a")

    def take(self) -> None:
        self.note(self.client.received())

    def note(self, texts: list[str]) -> None:
        for text in texts:
            if text.startswith("resolve "):
                self.sent[text.split(" ")[1]] = text


class Case:
    """The node and the model.

    :ivar window: of each arbiter.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.files = MemoryFiles()
        self.model = {key: Key() for key in KEYS}
        self.arbiters: list[Arbiter] = []
        self._begin()
        admin = self.node.admin("create-db d t arbiter", "use-db d t")
        assert admin.ask("create-user ana secret") == "ok \n"
        assert admin.ask("set-permissions ana a a*") == "ok \n"
        admin.close()
        self._connect()

    def _begin(self) -> None:
        self.node = start(self.files)
        self.node.node.desk.table.window = self.window
        self.node.node.desk.start(self.node.clock, TIMEOUT)

    def _connect(self) -> None:
        self.writer: LineConnection = self.node.tcp()
        assert self.writer.ask("use-db d t") == "ok \n"

    @property
    def database(self) -> Database:
        return self.node.node.catalogue.by_name[b"d"]

    def able(self, key: str) -> list[Arbiter]:
        return [arbiter for arbiter in self.arbiters if arbiter.may(key)]

    # -- writers ---------------------------------------------------------------------------------

    def write(self, key: str, asked: int, value: str) -> None:
        command = f"set {key} {value}" if asked == -1 else f"set-safe {key} {asked} {value}"
        self._written(key, asked, value, self.writer.ask(command))

    def increment(self, key: str, amount: int) -> None:
        held = self.model[key]
        answer = self.writer.ask(f"increment {key} {amount}")
        if held.value is not None and not held.value.lstrip("-").isdigit():
            assert answer == "error Key is not numeric \n"
        else:
            # The value that it leads to is put before the arbiter.
            self._written(key, -1, str(int(held.value or 0) + amount), answer)

    def _written(self, key: str, asked: int, value: str, answer: str) -> None:
        held = self.model[key]
        version = held.next_version(asked)
        if version is not None:
            assert answer == "ok \n"
            held.value, held.version = value, version
        elif not held.pending and not self.able(key):
            assert answer == NO_ARBITER
        else:
            self._queued(key, asked, value, answer)

    def _queued(self, key: str, asked: int, value: str, answer: str) -> None:
        held = self.model[key]
        begin = f"error $$conflitct unresolved $conflicts_{key}_"
        assert answer.startswith(begin), answer
        number = answer.removeprefix(begin).removesuffix(" \n")
        old, shown = held.value or "", held.version
        if held.pending:
            old = f"$conflicts_{key}_{held.pending[-1][0]}"
            shown = asked + len(held.pending)
        else:
            held.before, held.version, held.value = held.version, IN_RESOLUTION, old
        message = f"resolve {number} d {shown} {key} {old} {value}"
        held.pending.append((number, message))

    def remove(self, key: str) -> None:
        held = self.model[key]
        answer = self.writer.ask(f"remove {key}")
        if held.pending:
            assert answer == "error key is in conflict resolution \n"
        else:
            assert answer == "ok \n"
            self.model[key] = Key()

    # -- arbiters --------------------------------------------------------------------------------

    def come(self, user: str) -> None:
        client = self.node.ws()
        assert client.ask(f"use-db d {user}") == ["ok \n"]
        arbiter = Arbiter(client, user)
        client.send("arbiter")
        self.arbiters.append(arbiter)

    def leave(self, number: int) -> None:
        if self.arbiters:
            self.arbiters.pop(number % len(self.arbiters)).client.close()

    def answer(self, which: int, place: int, version: int | None, value: str) -> None:
        """An arbiter decides one of those that it was sent, or once more."""
        if not self.arbiters:
            return
        arbiter = self.arbiters[which % len(self.arbiters)]
        if not arbiter.sent:
            return
        message = list(arbiter.sent.values())[place % len(arbiter.sent)]
        self.resolve(arbiter, message, version, value)

    def resolve(self, arbiter: Arbiter, message: str, version: int | None, value: str) -> None:
        _, number, _, shown, key, *_ = message.split(" ")
        given = int(shown) if version is None else version
        command = f"resolve {number} d {key} {given} {value}"
        arbiter.take()
        answer, *told = arbiter.client.ask(command)
        arbiter.note(told)
        held = self.model[key]
        if number not in [open_number for open_number, _ in held.pending]:
            assert answer == f"error no such conflict: $conflicts_{key}_{number} \n"
            return
        assert answer == "ok \n"
        held.pending = [one for one in held.pending if one[0] != number]
        held.value = value
        if not held.pending:
            held.version = max(given, held.before) + 1
            assert held.version > held.before

    # -- the world -------------------------------------------------------------------------------

    def restart(self, snapshotted: bool) -> None:
        if snapshotted:
            snapshot(self.node)
        self.files = killed(self.files)
        self.arbiters.clear()
        self._begin()
        self._connect()

    def wait(self) -> None:
        """Nobody says anything for longer than an arbiter may take."""
        self.node.clock.advance(TIMEOUT + 2 * LOOK_SECONDS)
        self.node.settle()
        self.check()
        if self.window < 3:
            # What waits for room comes in its turn, when what was sent before it has had its time.
            for _ in range(ROUNDS):
                self.node.clock.advance(TIMEOUT)
                self.node.settle()
            self.check()
        for key, held in self.model.items():
            if held.pending:
                oldest, able = held.pending[0][0], self.able(key)
                asked = [arbiter for arbiter in able if oldest in arbiter.sent]
                assert len(asked) >= min(2, len(able)), f"{key} stays with one that is silent"

    def open_numbers(self) -> list[str]:
        return [number for held in self.model.values() for number, _ in held.pending]

    # -- what must hold --------------------------------------------------------------------------

    def check(self) -> None:
        for arbiter in self.arbiters:
            arbiter.take()
        database = self.database
        for key, held in self.model.items():
            entry = database.find(key.encode())
            seen = (None, GONE) if entry is None else (entry[VALUE], entry[VERSION])
            expected = None if held.value is None else held.value.encode()
            assert seen == (expected, held.version), key
            names = [f"$conflicts_{key}_{number}".encode() for number, _ in held.pending]
            assert database.conflicts.get(key.encode(), []) == names
            messages = [(database.value(name) or b"").decode() for name in names]
            assert messages == [message for _, message in held.pending]
            for number, message in held.pending:
                able = self.able(key)
                told = [arbiter for arbiter in able if arbiter.sent.get(number) == message]
                assert told or self.waits(key, able), f"nobody was sent {number} of {key}"
        for arbiter in self.arbiters:
            for text in arbiter.sent.values():
                assert arbiter.may(text.split(" ")[4])

    def waits(self, key: str, able: list[Arbiter]) -> bool:
        """Whether somebody who has the key, or all who may, have as much to do as they may."""
        of_key = {number for number, _ in self.model[key].pending}
        full = [len(set(self.open_numbers()) & one.sent.keys()) >= self.window for one in able]
        has = [bool(of_key & one.sent.keys()) for one in able]
        if all(full) or any(one and two for one, two in zip(has, full, strict=True)):
            return True
        # Or all had it, and nobody has decided.
        case = self.node.node.desk.table._cases[self.database.number][key.encode()]
        return case.resting and len(able) > 1

    def end(self) -> None:
        """All is decided by one who comes last."""
        while self.arbiters:
            self.leave(0)
        self.come("t")
        self.check()
        (arbiter,) = self.arbiters
        number = 0
        while number < len(arbiter.sent):
            waiting = len([one for one in self.open_numbers() if one in arbiter.sent])
            assert waiting <= self.window, "it was sent more than its window holds"
            self.resolve(arbiter, list(arbiter.sent.values())[number], 0, f"last-{number}")
            number += 1
            self.check()
        assert not self.database.conflicts
        assert all(not held.pending for held in self.model.values())
        self.restart(snapshotted=False)
        self.check()
        for key, held in self.model.items():
            if held.value is not None:
                expected = f"value-version {held.version} {held.value}\nok \n"
                assert self.writer.ask(f"get-safe {key}") == expected


Step = tuple[str, tuple[Any, ...]]
VALUES = st.integers(0, 99).map(str)
KEY = st.sampled_from(KEYS)


def step(word: str, *details: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.tuples(st.just(word), st.tuples(*details))


WINDOWS = st.sampled_from([1, 2, 500])
WRITE = step("write", KEY, st.sampled_from([-5, -1, 0, 1, 2, 7]), VALUES | st.just("text"))
CLASH = step("write", KEY, st.just(-5), VALUES)
COME = step("come", st.sampled_from(USERS))
ANSWER = step(
    "answer", st.integers(0, 3), st.integers(0, 9), st.sampled_from([None, -1, 0, 3, 20]), VALUES
)
STEP = st.one_of(
    *(WRITE, CLASH, CLASH, COME, COME, ANSWER, ANSWER),
    step("increment", KEY, st.integers(-9, 9)),
    step("remove", KEY),
    step("leave", st.integers(0, 3)),
    step("restart", st.booleans()),
    step("wait"),
)
MANY = st.lists(STEP, min_size=10, max_size=30)
STEPS = st.lists(STEP, max_size=30) | MANY


def play(window: int, steps: list[Step]) -> None:
    """Do them, and look after each."""
    case = Case(window)
    for word, details in steps:
        getattr(case, word)(*details)
        case.check()
    case.end()


@settings(max_examples=200)
@given(WINDOWS, STEPS)
def test_no_conflict_is_lost_and_none_is_decided_twice(window: int, steps: list[Step]) -> None:
    play(window, steps)


# -- faults that are put into the code on purpose ----------------------------------------------

Patch = pytest.MonkeyPatch


def forget_the_version_before(patch: Patch) -> None:
    """What a key had before its conflicts is not kept with them."""
    usual = Pipeline.change

    def change(
        self: Pipeline, database: Database, kind: int, key: bytes, value: bytes, version: int
    ) -> Op:
        is_new = value is not None and value.startswith(b"resolve ")
        return usual(self, database, kind, key, value, 0 if is_new else version)

    patch.setattr(Pipeline, "change", change)


def lose_one_of_a_chain_at_a_restart(patch: Patch) -> None:
    """The last of several conflicts of a key is not found again."""
    usual = Database.mend_conflicts

    def mend(self: Database) -> None:
        usual(self)
        for pending in self.conflicts.values():
            del pending[1:]

    patch.setattr(Database, "mend_conflicts", mend)


def forget_the_order_at_a_restart(patch: Patch) -> None:
    """Open conflicts come in the order that their keys have in memory."""

    def mend(self: Database) -> None:
        for pending in self.conflicts.values():
            pending.sort(key=lambda name: name[::-1])

    patch.setattr(Database, "mend_conflicts", mend)


def leave_with_all_keys(patch: Patch) -> None:
    """What an arbiter had goes with it."""

    def leave(self: Table, seat: Seat) -> None:
        gone = [self._cases[seat.database][key] for key in seat.keys]
        usual(self, seat)
        for case in gone:
            self._ready.pop(case, None)

    usual = Table.leave
    patch.setattr(Table, "leave", leave)


def give_to_anybody(patch: Patch) -> None:
    """Rights do not count."""
    usual = desk.Seat

    def seat(node: int, number: int, database: int, may: object, name: str) -> Seat:
        return usual(node, number, database, lambda key: True, name)

    patch.setattr(desk, "Seat", seat)


def wait_for_ever(patch: Patch) -> None:
    """An arbiter that is silent keeps what it has."""
    patch.setattr(Table, "overdue", lambda self, most: [])


def take_each_answer(patch: Patch) -> None:
    """An answer to what is decided already counts."""
    usual = HANDLERS["resolve"]

    def resolve(node: Any, client: Any, arguments: Any) -> Any:
        try:
            return usual(node, client, arguments)
        except Exception:
            _, _, key, version, value = arguments
            node.pipeline.change(client.database, SET, key, value, version + 1)
            raise

    patch.setitem(HANDLERS, "resolve", resolve)


def forget_what_waits(patch: Patch) -> None:
    """Who has room again is given nothing."""
    patch.setattr(Table, "_freed", lambda self, seat: None)


def give_all_that_is_there(patch: Patch) -> None:
    """Windows are not kept."""
    patch.setattr(Table, "_has_room", lambda self, seat, size: True)


FAULTS: Final = (
    *(forget_the_version_before, lose_one_of_a_chain_at_a_restart, forget_the_order_at_a_restart),
    *(leave_with_all_keys, give_to_anybody, wait_for_ever, take_each_answer),
    *(forget_what_waits, give_all_that_is_there),
)


@pytest.mark.many_cases
@pytest.mark.parametrize("fault", FAULTS, ids=[fault.__name__ for fault in FAULTS])
def test_a_fault_in_the_code_is_found(
    fault: Callable[[Patch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)

    @settings(max_examples=400, phases=[Phase.generate], database=None, derandomize=True)
    @given(WINDOWS, MANY)
    def found(window: int, steps: list[Step]) -> None:
        play(window, steps)

    with pytest.raises(AssertionError):
        found()
