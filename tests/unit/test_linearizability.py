"""The checker passes what can have happened, and nothing else."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuntwist.simulation.history import (
    DONE,
    GET,
    GET_SAFE,
    INCREMENT,
    KINDS,
    READS,
    REMOVE,
    SET,
    SET_SAFE,
    Answer,
    Fate,
    History,
    Operation,
    from_lines,
    merge,
    read_answer,
)
from nuntwist.simulation.linearizability import check, check_key
from nuntwist.simulation.one_key import NOTHING, State, perform
from nuntwist.simulation.verdict import Verdict
from nuntwist.testing import MemoryNode

PASS, FAIL, UNKNOWN = Verdict.LINEARIZABLE, Verdict.NOT_LINEARIZABLE, Verdict.UNKNOWN


def told(*lines: str) -> History:
    """A history from lines like ``1 set k 5`` (client 1 calls) and ``1 ok`` (it is answered).

    Answers: ``ok``, ``conflict``, ``not numeric``, ``value V``, ``version N V`` (V ``-`` for
    nothing), ``unknown``, ``refused``.
    """
    history = History()
    open_ = dict[int, Operation]()
    for line in lines:
        client, word, *rest = line.split()
        who = int(client)
        if word in KINDS:
            key = rest.pop(0).encode()
            amount = int(rest.pop(0)) if word in (SET_SAFE, INCREMENT) else 0
            value = rest[0].encode() if rest else b""
            open_[who] = history.call(who, word, key, value, amount)
            continue
        operation = open_.pop(who)
        if word in ("unknown", "refused"):
            fate = Fate.UNKNOWN if word == "unknown" else Fate.REFUSED
            history.close_without(operation, fate)
        elif word in ("value", "version"):
            value = None if rest[-1] == "-" else rest[-1].encode()
            version = int(rest[0]) if word == "version" else 0
            name = "value" if word == "value" else "value-version"
            history.close_with(operation, Answer(name, value, version))
        else:
            history.close_with(operation, Answer(" ".join([word, *rest])))
    return history


GOOD = {
    "nothing happened": (),
    "a read of nothing": ("1 get k", "1 value -", "1 get-safe k", "1 version 1 -"),
    "a write is read": ("1 set k a", "1 ok", "2 get k", "2 value a"),
    "a read overlaps a write and sees it": ("1 set k a", "2 get k", "2 value a", "1 ok"),
    "a read overlaps a write and does not": ("1 set k a", "2 get k", "2 value -", "1 ok"),
    "writes that overlap come in either order": (
        *("1 set k a", "2 set k b", "1 ok", "2 ok", "3 get-safe k", "3 version 1 a"),
    ),
    "an unanswered write may have happened": ("1 set k a", "2 get k", "2 value a"),
    "an unanswered write may not have happened": ("1 set k a", "2 get k", "2 value -"),
    "an unknown write may happen late": (
        *("1 set k a", "1 unknown", "2 get k", "2 value -", "2 get k", "2 value a"),
    ),
    "a refused write has not happened": ("1 set k a", "1 refused", "2 get k", "2 value -"),
    "versions": (
        *("1 set-safe k 0 a", "1 ok", "1 get-safe k", "1 version 1 a"),
        *("1 set-safe k 0 b", "1 conflict", "1 set-safe k 5 c", "1 ok"),
        *("1 get-safe k", "1 version 6 c", "1 set-safe k -1 d", "1 ok"),
        *("1 get-safe k", "1 version 7 d", "1 set-safe k -2 e", "1 conflict"),
    ),
    "a removed key begins anew": (
        *("1 set k a", "1 ok", "1 set k b", "1 ok", "1 remove k", "1 ok"),
        *("1 get k", "1 value -", "1 set k c", "1 ok", "1 get-safe k", "1 version 0 c"),
    ),
    "increments": (
        *("1 increment n 5", "2 increment n 2", "1 ok", "2 ok", "1 get n", "1 value 7"),
        *("1 set n x", "1 ok", "1 increment n 1", "1 not numeric"),
    ),
    "one of two that raced loses": (
        *("1 set-safe k 0 a", "2 set-safe k 0 b", "1 conflict", "2 ok"),
        *("3 get-safe k", "3 version 1 b"),
    ),
    "keys do not know of each other": (
        *("1 set a 1", "1 ok", "2 get b", "2 value -", "2 get a", "2 value 1"),
    ),
}

BAD = {
    "a stale read": (*("1 set k a", "1 ok", "1 set k b", "1 ok", "2 get k", "2 value a"),),
    "a lost write": ("1 set k a", "1 ok", "2 get k", "2 value -"),
    "an aborted read": ("1 set k a", "1 refused", "2 get k", "2 value a"),
    "a write that comes back": (
        *("1 set k a", "1 ok", "1 set k b", "1 ok"),
        *("2 get k", "2 value b", "2 get k", "2 value a"),
    ),
    "an unknown write that happens twice": (
        *("1 set k a", "1 unknown", "2 get k", "2 value a", "2 set k b", "2 ok"),
        *("2 get k", "2 value b", "2 get k", "2 value a"),
    ),
    "a duplicate increment": (*("1 increment n 1", "1 ok", "2 get n", "2 value 2"),),
    "a duplicate increment of unknown outcome": (
        *("1 increment n 1", "1 unknown", "2 get n", "2 value 2"),
    ),
    "two reads see two writes in different orders": (
        *("1 set k a", "2 set k b", "3 get k", "3 value a", "3 get k", "3 value b"),
        *("4 get k", "4 value a", "1 ok", "2 ok"),
    ),
    "a version that was given twice": (*("1 set-safe k 0 a", "2 set-safe k 0 b", "1 ok", "2 ok"),),
    "a version from before a removal": (
        *("1 set k a", "1 ok", "1 set k b", "1 ok", "1 remove k", "1 ok"),
        *("1 set k c", "1 ok", "1 get-safe k", "1 version 2 c"),
    ),
    "a conflict that nothing explains": ("1 set-safe k 0 a", "1 conflict"),
    "a reply to the wrong client": (
        *("1 set a 1", "1 ok", "1 set b 2", "1 ok"),
        *("2 get a", "3 get b", "2 value 2", "3 value 1"),
    ),
    "a reply to another command": ("1 set k a", "1 value a"),
    "a value from before it was written": ("2 get k", "2 value a", "1 set k a", "1 ok"),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_can_have_happened_passes(name: str) -> None:
    assert check(told(*GOOD[name])).verdict is PASS


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_have_happened_fails(name: str) -> None:
    report = check(told(*BAD[name]))
    assert report.verdict is FAIL
    assert "this cannot have been answered" in str(report)


def test_an_explanation_names_the_answer_and_what_came_before() -> None:
    history = told(
        *("1 set k a", "1 ok", "9 set k z", "2 get k", "2 value a"),
        *("1 set k b", "1 ok", "3 set other x", "3 ok", "2 get k", "2 value a"),
        *("1 get k", "1 value nonsense"),
    )
    (failure,) = check(history).failures
    assert (failure.key, failure.stuck) == (b"k", history.operations[5])
    assert failure.prefix == tuple(history.operations[at] for at in (0, 2, 3))
    assert failure.state == (b"b", 1)
    assert failure.around == (history.operations[1],)
    assert str(failure).splitlines()[1].endswith("client 2, 10 to 11: get k -> a")


def test_an_explanation_shows_only_the_end_of_a_long_history() -> None:
    lines = [line for _ in range(100) for line in ("1 set k a", "1 ok")]
    report = check(told(*lines, "1 get k", "1 value b"))
    assert "    (92 before)" in str(report).splitlines()
    assert len(str(report).splitlines()) == 14


# -- against all orders there are ------------------------------------------------------------------


def fits(operations: Sequence[Operation]) -> bool:
    """By trying every order of every choice, as the words of the definition go."""
    answered = [o for o in operations if o.fate is Fate.ANSWERED]
    rest = [o for o in operations if o.fate is not Fate.ANSWERED]
    for size in range(len(rest) + 1):
        for chosen in itertools.combinations(rest, size):
            for order in itertools.permutations([*answered, *chosen]):
                if _in_time(order) and _explains(order):
                    return True
    return False


def _in_time(order: Sequence[Operation]) -> bool:
    return not any(
        later.fate is Fate.ANSWERED and later.closed is not None and later.closed < earlier.called
        for earlier, later in itertools.combinations(order, 2)
    )


def _explains(order: Sequence[Operation]) -> bool:
    state = NOTHING
    for operation in order:
        state, answer = perform(state, operation)
        if operation.answer not in (None, answer):
            return False
    return True


@st.composite
def any_histories(draw: st.DrawFn) -> History:
    """A short history of one key in which anything may have been answered."""
    history, open_ = History(), dict[int, Operation]()
    for _ in range(draw(st.integers(1, 12))):
        client = draw(st.integers(1, 3))
        operation = open_.pop(client, None)
        if operation is None:
            if len(history.operations) < 6:
                open_[client] = _drawn_call(draw, history, client)
            continue
        state = draw(st.sampled_from([NOTHING, (b"1", 0), (b"1", 1), (b"2", 1), (b"3", 2)]))
        if draw(st.integers(0, 5)):
            history.close_with(operation, perform(state, operation)[1])
        else:
            history.close_without(operation, Fate.UNKNOWN)
    return history


def _drawn_call(draw: st.DrawFn, history: History, client: int) -> Operation:
    kind = draw(st.sampled_from(KINDS))
    return history.call(
        client,
        kind,
        b"k",
        draw(st.sampled_from([b"1", b"2", b"x"])),
        draw(st.integers(-2, 2)),
    )


@given(any_histories())
@settings(max_examples=400, deadline=None)
def test_it_agrees_with_trying_all_orders(history: History) -> None:
    for operations in history.by_key().values():
        assert (check_key(operations) is PASS) == fits(operations)


# -- histories of a real execution -----------------------------------------------------------------


class Execution:
    """Some clients at a server that does one thing after the other, and now and then loses an
    answer."""

    def __init__(self, seed: int, size: int, keys: int, clients: int, lost: float) -> None:
        self.chance = random.Random(seed)
        self.history = History()
        self.states = dict[bytes, State]()
        flying = dict[int, tuple[Operation, Answer | Fate | None]]()
        while len(self.history.operations) < size or flying:
            client = self.chance.randrange(clients)
            if client not in flying:
                if len(self.history.operations) < size:
                    flying[client] = self.call(client, keys), None
                continue
            operation, answer = flying[client]
            if answer is None:
                flying[client] = operation, self.serve(operation, lost)
                continue
            del flying[client]
            if isinstance(answer, Fate):
                self.history.close_without(operation, answer)
            else:
                self.history.close_with(operation, answer)

    def call(self, client: int, keys: int) -> Operation:
        chance = self.chance
        kind = chance.choice(KINDS if chance.random() < 0.5 else (SET, GET, GET_SAFE))
        key = b"k%d" % chance.randrange(keys)
        if kind == INCREMENT or chance.random() < 0.1:
            key = b"n" + key
        value = b"%d" % len(self.history.operations)
        return self.history.call(client, kind, key, value, chance.randrange(-1, 9))

    def serve(self, operation: Operation, lost: float) -> Answer | Fate:
        known = operation.kind in READS or self.chance.random() >= lost
        state, answer = perform(self.states.get(operation.key, NOTHING), operation)
        if known or self.chance.random() < 0.5:
            self.states[operation.key] = state
        return answer if known else Fate.UNKNOWN


@given(st.integers(0, 1 << 30), st.integers(1, 120), st.integers(1, 3), st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_a_real_execution_passes(seed: int, size: int, keys: int, clients: int) -> None:
    history = Execution(seed, size, keys, clients, lost=0.1).history
    assert check(history).verdict is PASS
    assert check(from_lines(history.to_lines())).verdict is PASS


@given(st.integers(0, 1 << 30), st.integers(2, 120), st.integers(1, 3), st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_one_impossible_answer_in_a_real_execution_fails(
    seed: int, size: int, keys: int, clients: int
) -> None:
    execution = Execution(seed, size, keys, clients, lost=0.05)
    operations = execution.history.operations
    answered = [operation for operation in operations if operation.answer is not None]
    spoiled = execution.chance.choice(answered or [execution.history.call(99, GET, b"k")])
    word = "value-version" if spoiled.kind == GET_SAFE else "value"
    spoiled.answer = Answer(word, b"never written", 3)
    spoiled.fate, spoiled.closed = Fate.ANSWERED, spoiled.closed or 1e9
    report = check(execution.history)
    assert report.verdict is FAIL
    assert [failure.key for failure in report.failures] == [spoiled.key]
    # What has seen a spoiled write may be stuck before that one.
    assert spoiled.kind not in READS or report.failures[0].stuck is spoiled


@given(st.integers(0, 1 << 30), st.integers(20, 200), st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_a_write_that_is_dropped_in_silence_is_seen_by_the_next_read(
    seed: int, size: int, clients: int
) -> None:
    execution = Execution(seed, size, 1, clients, lost=0.0)
    history = execution.history
    write = history.call(1, SET, b"k0", b"lost")
    history.close_with(write, DONE)
    history.close_with(
        history.call(2, GET, b"k0"), Answer("value", execution.states.get(b"k0", NOTHING)[0])
    )
    assert check(history).verdict is FAIL


@pytest.mark.many_cases
def test_fifty_thousand_operations_take_two_steps_each_at_most() -> None:
    report = check(Execution(1, 50_000, 50, 10, lost=0.01).history)
    assert report.verdict is PASS
    assert report.steps < 100_000


def test_what_takes_too_long_is_unknown_and_no_pass() -> None:
    history = Execution(1, 200, 1, 10, lost=0.0).history
    report = check(history, steps=150)
    assert report.verdict is UNKNOWN
    assert report.given_up
    assert "given up" in str(report)
    # A failure elsewhere is a failure all the same.
    history.close_with(history.call(1, GET, b"z"), Answer("value", b"1"))
    assert check(history, steps=150).verdict is FAIL


def test_many_unknown_writes_do_not_stop_a_good_history() -> None:
    history = History()
    for number in range(40):
        history.close_without(history.call(number, SET, b"k", b"u%d" % number), Fate.UNKNOWN)
    for number in range(0, 40, 3):
        answer = Answer("value", b"u%d" % number)
        history.close_with(history.call(99, GET, b"k"), answer)
    assert check(history).verdict is PASS


# -- what is recorded ------------------------------------------------------------------------------


def test_the_model_is_the_server() -> None:
    """What a real node answers, one command after the other, is what the model says."""
    node = MemoryNode()
    client = node.admin("create-db d t", "use-db d t")
    chance = random.Random(5)
    history = History()
    for number in range(3_000):
        kind = chance.choice(KINDS)
        value = b"%d" % number if chance.random() < 0.6 else b"text"
        operation = history.call(1, kind, b"k", value, chance.randrange(-3, 8))
        history.close(operation, client.ask(operation.command()))
    assert check(history).verdict is PASS
    assert {operation.answer and operation.answer.word for operation in history.operations} == {
        *("ok", "value", "value-version", "conflict", "not numeric"),
    }


@pytest.mark.parametrize(
    ("kind", "text", "answer"),
    [
        (SET, "ok \n", DONE),
        (GET, "value a b \nok \n", Answer("value", b"a b ")),
        (GET, "value <Empty>\nok \n", Answer("value", None)),
        (GET, "value \nok \n", Answer("value", b"")),
        (GET_SAFE, "value-version 3 x\nok \n", Answer("value-version", b"x", 3)),
        (SET_SAFE, "error Invalid version! \n", Answer("conflict")),
        (INCREMENT, "error Key is not numeric \n", Answer("not numeric")),
        (SET, "error outcome unknown: no primary answered \n", Fate.UNKNOWN),
        (SET, "error no primary \n", Fate.REFUSED),
        (REMOVE, "error storage unavailable: full \n", Fate.REFUSED),
    ],
)
def test_answers_are_read(kind: str, text: str, answer: Answer | Fate) -> None:
    assert read_answer(kind, text) == answer


@pytest.mark.parametrize("text", ["", "ok", "error something else \n", "pong\nok \n"])
def test_an_answer_that_nobody_expects_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="was answered"):
        read_answer(SET, text)


def test_what_is_answered_twice_is_an_error() -> None:
    history = History()
    operation = history.call(1, SET, b"k", b"v")
    history.close(operation, "ok \n")
    with pytest.raises(ValueError, match="answered twice"):
        history.close(operation, "ok \n")


def test_histories_of_one_clock_are_put_together() -> None:
    times = iter([1.0, 2.0, 3.0, 4.0, 5.0, 5.0])
    first, second = History(lambda: next(times)), History(lambda: next(times))
    write = first.call(1, SET, b"k", b"a")
    first.close(write, "ok \n")
    read = second.call(2, GET, b"k")
    second.close(read, "value <Empty>\nok \n")
    assert check(merge([second, first])).verdict is FAIL
    # At the same moment they overlap.
    write.closed = read.called
    assert check(merge([second, first])).verdict is PASS
    assert [operation.number for operation in merge([second, first]).operations] == [0, 1]
    assert first.operations[0] is write


def test_what_is_no_history_is_an_error() -> None:
    with pytest.raises(ValueError, match="no operation"):
        from_lines('{"kind": "set"}\n')
    with pytest.raises(ValueError, match="no kind"):
        History().call(1, "frobnicate", b"k")
