"""The hash of the state, kept up to date, is what it is from nothing; on every node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuntwist.cluster.checks import REMEMBERED, WAITING, Checks
from nuntwist.core import state_sum
from nuntwist.core.catalogue import STAGED, Catalogue
from nuntwist.core.database import local_entry
from nuntwist.core.state_hash import (
    KEPT,
    MOST_BYTES,
    MOST_WAITING,
    SLICE,
    SLICE_BYTES,
    Check,
    StateHash,
    sum_of,
)
from nuntwist.testing import MemoryNode
from nuntwist.values import (
    ADMIN_ID,
    BEGIN_EPOCH,
    CREATE_DATABASE,
    DATABASE,
    DROP_DATABASE,
    INDEX,
    KEY,
    KIND,
    NAME_DATABASE,
    REMOVE,
    SET,
    Op,
)
from tests.unit.memory_set import MemorySet

NAMES = (b"a", b"b", b"c")
KEYS = (b"k", b"l", b"$conflicts_k_1", b"a", b"b", b"$$forwarded_x")


class Applied:
    """A state, and its log, made by operations as nodes make them."""

    def __init__(self, every: int = 5) -> None:
        self.catalogue = Catalogue()
        self.hash = StateHash(every)
        self.log: list[Op] = []
        self.sums: dict[int, int] = {}

    def make(self, kind: int, number: int | None, key: bytes, value: bytes | None) -> None:
        """Log an operation, and apply it."""
        index = len(self.log) + 1
        version = -1 if kind == REMOVE else index % 7
        number = index if number is None else number
        self.apply((value, version, index, index << 16, kind, number, key))

    def apply(self, op: Op) -> None:
        catalogue = self.catalogue
        database = catalogue.by_id.get(op[DATABASE])
        if op[KIND] in (CREATE_DATABASE, NAME_DATABASE):
            database = catalogue.admin
        old = None if database is None else database.find(op[KEY])
        self.log.append(op)
        catalogue.apply(op)
        if op[KIND] in (SET, REMOVE):
            self.hash.note([op], [old])
        elif op[KIND] != BEGIN_EPOCH:
            self.hash.note_lasting(op, old)
        self.sums[op[INDEX]] = sum_of(catalogue)

    def catch_up(self) -> None:
        """Sum up all that was noted."""
        while self.hash.waiting:
            self.hash.step()

    # -- what may be drawn -------------------------------------------------------------------

    def step(self, draw: Callable[[int], int]) -> None:
        """Something that a node could do; ``draw`` gives a number below another."""
        catalogue, choice = self.catalogue, draw(12)
        numbers = sorted(catalogue.by_id)
        number = numbers[draw(len(numbers))]
        database = catalogue.by_id[number]
        key = KEYS[draw(len(KEYS))]
        name = NAMES[draw(len(NAMES))]
        if choice < 6:
            if number != ADMIN_ID or key not in catalogue.by_name:
                self.make(SET, number, key, b"%d" % draw(5))
        elif choice == 6:
            if number != ADMIN_ID or key not in catalogue.by_name:
                self.make(REMOVE, number, key, None)
        elif choice == 7:
            if name not in catalogue.by_name:
                self.make(CREATE_DATABASE, None, name, b"newer hash")
        elif choice == 8:
            self.make(CREATE_DATABASE, None, STAGED + b"%d" % len(self.log), b"none hash")
        elif choice == 9 and number != ADMIN_ID:
            self.make(DROP_DATABASE, number, database.name, None)
        elif choice == 10 and database.name.startswith(STAGED):
            before = catalogue.by_name.get(name)
            gone = b"" if before is None else b"%d" % before.number
            self.make(NAME_DATABASE, number, name, gone)
        else:
            self.make(BEGIN_EPOCH, ADMIN_ID, b"", b"")
        database.store(local_entry(database, b"$connections", b"%d" % draw(9), draw(9)))


def run(work: Iterator[None]) -> None:
    for _ in work:
        pass


@given(st.data(), st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_kept_up_to_date_it_is_what_it_is_from_nothing(
    data: st.DataObject, before: int, after: int
) -> None:
    def draw(below: int) -> int:
        return data.draw(st.integers(0, below - 1))

    state = Applied()
    for _ in range(before):
        state.step(draw)
    work = state.hash.begin(state.catalogue, len(state.log))
    began = len(state.log)
    # Some of what comes is noted while the state is still summed up.
    for _ in range(after):
        for _ in range(draw(3)):
            next(work, None)
        state.step(draw)
        if not draw(4):
            state.catch_up()
    run(work)
    assert state.hash.ready
    state.catch_up()
    assert state.hash.sum == sum_of(state.catalogue)
    # Another node replays the log.
    other = Catalogue()
    for op in state.log:
        other.apply(op)
    other.relist()
    assert sum_of(other) == state.hash.sum
    checks = state.hash.take_checks()
    assert all(check.sum == state.sums[check.index] for check in checks)
    assert all(check.index % 5 == 0 and check.index > began for check in checks)


def ops(first: int, last: int, key: bytes = b"k%d") -> list[Op]:
    return [(b"v", 0, i, i << 16, SET, 1, key % i) for i in range(first, last + 1)]


def begun(every: int = 1_000) -> Applied:
    state = Applied(every)
    state.make(CREATE_DATABASE, None, b"d", b"none hash")
    run(state.hash.begin(state.catalogue, 1))
    return state


def test_a_check_stands_exactly_at_its_index_where_a_batch_spans_it() -> None:
    state, single = begun(10), begun(10)
    made = ops(2, 35)
    state.hash.note(made, [None] * len(made))
    assert state.hash.is_due
    state.catch_up()
    for op in made:
        single.apply(op)
    checks = state.hash.take_checks()
    assert [check.index for check in checks] == [10, 20, 30]
    assert list(checks) == [Check(index, single.sums[index]) for index in (10, 20, 30)]
    assert not state.hash.take_checks()


def test_nothing_is_summed_up_before_a_check_is_due() -> None:
    state = begun(10)
    for op in ops(2, 9):
        state.apply(op)
    assert (state.hash.is_due, state.hash.waiting, state.hash.index) == (False, 8, 1)
    state.apply(ops(10, 10)[0])
    assert state.hash.is_due
    state.hash.step()
    assert (state.hash.is_due, state.hash.waiting, state.hash.index) == (False, 0, 10)


def test_a_key_that_is_written_often_costs_once() -> None:
    state = begun(1_000)
    database = state.catalogue.by_id[1]
    made = [(b"%d" % i, i, i, i << 16, SET, 1, b"hot") for i in range(2, 501)]
    state.hash.note(made, [database.store(op) for op in made])
    hashed: list[Op] = []
    real = state_sum.entries_sum

    def counting(ops: Sequence[Op]) -> int:
        hashed.extend(ops)
        return real(ops)

    with mock.patch.object(state_sum, "entries_sum", counting):
        state.catch_up()
    assert hashed == [made[-1]]
    assert state.hash.sum == sum_of(state.catalogue)


def test_what_waits_is_bounded_in_number() -> None:
    state = begun(1 << 40)
    state.hash.note(made := ops(2, MOST_WAITING + 1_000), [None] * len(made))
    assert state.hash.waiting <= MOST_WAITING


def test_what_waits_is_bounded_in_bytes_and_large_values_have_slices_of_their_own() -> None:
    state = begun(1 << 40)
    database = state.catalogue.by_id[1]
    large = b"x" * (SLICE_BYTES // 3)
    for index in range(2, 202):
        op: Op = (large, 0, index, index << 16, SET, 1, b"k%d" % (index % 7))
        state.hash.note([op], [database.store(op)])
        assert state.hash.waiting * len(large) <= MOST_BYTES
    before = state.hash.waiting
    state.hash.step()
    assert 1 <= before - state.hash.waiting <= 3
    state.catch_up()
    assert state.hash.sum == sum_of(state.catalogue)


def test_an_operation_that_nobody_applies_does_not_hide_a_check() -> None:
    state = begun(10)
    for made in (ops(2, 9), ops(11, 12)):
        state.hash.note(made, [None] * len(made))
    state.catch_up()
    (check,) = state.hash.take_checks()
    other = begun(10)
    other.hash.note(ops(2, 9), [None] * 8)
    other.catch_up()
    assert check == Check(10, other.hash.sum)


def test_the_name_and_the_strategy_of_a_database_count() -> None:
    sums = set()
    for name, value in (
        (b"d", b"none t"),
        (b"e", b"none t"),
        (b"d", b"newer t"),
        (b"d", b"none u"),
    ):
        catalogue = Catalogue()
        catalogue.apply((value, 0, 1, 1, CREATE_DATABASE, 1, name))
        sums.add(sum_of(catalogue))
    assert len(sums) == 4


def test_a_large_database_is_summed_up_in_slices_while_writes_go_on() -> None:
    state = begun()
    database = state.catalogue.by_id[1]
    for op in ops(2, 200_001):
        database.store(op)
    state.hash.give_up()
    work, steps = state.hash.begin(state.catalogue, 200_001), 0
    for step, _ in enumerate(work):
        steps = step
        index = 200_002 + step
        op: Op = (b"new", 1, index, index << 16, SET, 1, b"k%d" % (2 + 97 * step))
        state.hash.note([op], [database.store(op)])
        if step % 3 == 0:
            state.hash.step()
    state.catch_up()
    assert steps >= 200_000 // SLICE
    assert state.hash.ready
    assert state.hash.sum == sum_of(state.catalogue)
    assert database.scans == []


def test_what_is_given_up_takes_no_notes() -> None:
    state = begun(2)
    work = state.hash.begin(state.catalogue, 1)
    next(work)
    state.hash.give_up()
    state.make(SET, 1, b"k", b"1")
    run(work)
    assert (state.hash.ready, state.hash.waiting, state.hash.sum) == (False, 0, 0)
    assert all(database.scans == [] for database in state.catalogue.by_id.values())


def test_a_later_begin_ends_an_earlier_one() -> None:
    state = begun()
    for number in range(2, 200):
        state.make(SET, 1, b"k%d" % number, b"v")
    first = state.hash.begin(state.catalogue, 199)
    next(first)
    second = state.hash.begin(state.catalogue, 199)
    next(second)
    run(first)
    assert not state.hash.ready
    run(second)
    assert state.hash.ready
    assert state.hash.sum == sum_of(state.catalogue)


def test_what_it_began_with_is_not_noted_again() -> None:
    """Operations are applied, and so in the view, before they are durable, and noted then."""
    state = begun()
    made = ops(2, 4)
    state.hash.give_up()
    for op in made:
        state.catalogue.apply(op)
    run(state.hash.begin(state.catalogue, 4))
    state.hash.note(made, [None] * 3)
    assert (state.hash.index, state.hash.sum) == (4, sum_of(state.catalogue))
    more = ops(3, 6)
    state.hash.note(more, [None] * 2 + [state.catalogue.by_id[1].store(op) for op in more[2:]])
    state.catch_up()
    assert (state.hash.index, state.hash.sum) == (6, sum_of(state.catalogue))


def test_what_is_not_in_the_log_is_not_in_it() -> None:
    state = begun()
    database = state.catalogue.by_id[1]
    before = state.hash.sum
    local = local_entry(database, b"$connections", b"5", 3)
    assert database.store(local) is None
    assert sum_of(state.catalogue) == before
    # An older log may have written to such a key.
    op: Op = (b"1", 0, 2, 2, SET, 1, b"$connections")
    state.hash.note([op], [database.store(op)])
    state.catch_up()
    assert state.hash.sum == sum_of(state.catalogue) != before


def test_checks_that_nobody_takes_are_bounded() -> None:
    state = begun(1)
    state.hash.note(made := ops(2, KEPT + 10), [None] * len(made))
    state.catch_up()
    assert len(state.hash.take_checks()) == KEPT


# -- on nodes --------------------------------------------------------------------------------------


def test_every_node_of_a_set_has_the_same_state() -> None:
    nodes = MemorySet()
    nodes.run(2.0)
    client = nodes.nodes[1].admin(
        *("create-db d t newer", "create-db e t", "create-db f t", "use-db d t"),
        *("create-user joe secret", "set-permissions joe rw a*", "drop-db f"),
    )
    nodes.nodes[2].admin("use-db $admin nun-pwd", "set plain 1", "set e2 x", "create-db e2 t")
    for number in range(50):
        client.send(f"set k{number % 7} {number}\nincrement n\nremove k{number % 5}")
    nodes.run(1.0)
    sums = [sum_of(nodes.nodes[me].node.catalogue) for me in nodes.ids]
    assert sums == [sums[0]] * 3
    nodes.kill(3)
    nodes.restart(3)
    nodes.run(1.0)
    assert sum_of(nodes.nodes[3].node.catalogue) == sums[0]
    client.ask("set k1 other")
    assert sum_of(nodes.nodes[1].node.catalogue) != sums[0]


def test_snapshots_and_restarts_do_not_change_it() -> None:
    node = MemoryNode()
    node.admin("create-db d t", "create-db e t", "use-db d t", "set a 1", "snapshot false d|e")
    node.admin("use-db d t", "set a 2", "drop-db e", "create-db e u", "use-db e u", "set x 1")
    node.clock.advance(60.0)
    before = sum_of(node.node.catalogue)
    again = MemoryNode(node.oplog, node.storage)
    assert sum_of(again.node.catalogue) == before


# -- comparing -------------------------------------------------------------------------------------


def checks() -> tuple[Checks, list[tuple[int, int]]]:
    alarms = list[tuple[int, int]]()
    return Checks(lambda node, index: alarms.append((node, index))), alarms


def test_states_that_agree_are_noted() -> None:
    made, alarms = checks()
    made.mine(1_000, 7)
    made.theirs(2, 1_000, 7)
    made.theirs(3, 2_000, 8)
    assert made.agreed == {2: 1_000}
    made.mine(2_000, 8)
    assert (made.agreed, alarms, made.alarms) == ({2: 1_000, 3: 2_000}, [], 0)


@pytest.mark.parametrize("first", ["mine", "theirs"])
def test_a_state_that_differs_is_an_alarm_once(first: str) -> None:
    made, alarms = checks()
    for index in (1_000, 2_000):
        if first == "mine":
            made.mine(index, 7)
        made.theirs(2, index, 8)
        made.theirs(3, index, 7)
        if first == "theirs":
            made.mine(index, 7)
    assert (alarms, made.alarms) == ([(2, 1_000)], 1)
    assert made.agreed == {3: 2_000}
    made.forget(2)
    made.theirs(2, 2_000, 7)
    assert made.agreed == {3: 2_000, 2: 2_000}
    made.mine(3_000, 7)
    made.theirs(2, 3_000, 9)
    assert made.alarms == 2


def test_nothing_is_compared_with_one_that_differs() -> None:
    made, alarms = checks()
    made.mine(1_000, 7)
    made.theirs(2, 2_000, 7)
    made.theirs(2, 1_000, 8)
    made.mine(2_000, 7)
    made.theirs(2, 2_000, 7)
    assert (alarms, made.agreed) == ([(2, 1_000)], {})


def test_what_is_remembered_is_bounded() -> None:
    made, alarms = checks()
    for index in range(REMEMBERED + 1):
        made.mine(index, 7)
    # Too old to be compared.
    made.theirs(2, 0, 8)
    made.theirs(2, 1, 7)
    assert (alarms, made.agreed) == ([], {2: 1})
    for index in range(1_000, 1_000 + WAITING + 1):
        made.theirs(3, index, 8)
    made.mine(1_000, 7)
    assert alarms == []
    made.mine(1_001, 7)
    assert alarms == [(3, 1_001)]
