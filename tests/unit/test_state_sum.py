"""What a sum over a state is made of."""

from __future__ import annotations

import random

from nuntwist.core.state_sum import StateSum, entry_hash
from nuntwist.values import CREATE_DATABASE, DROP_DATABASE, NAME_DATABASE, REMOVE, SET, Op

CREATED: Op = (b"none token", 0, 5, 1, CREATE_DATABASE, 5, b"d")
OTHER: Op = (b"none token", 0, 6, 1, CREATE_DATABASE, 6, b"e")


def entry(index: int, key: bytes, value: bytes | None = b"v", number: int = 5) -> Op:
    return (value, 0, index, index << 16, REMOVE if value is None else SET, number, key)


def begun() -> StateSum:
    state = StateSum()
    state.change(CREATED, None)
    return state


def test_each_field_counts() -> None:
    op: Op = (b"value", 3, 7, 9 << 16, SET, 1, b"key")
    others: list[Op] = [
        (b"valuf", 3, 7, 9 << 16, SET, 1, b"key"),
        (b"value", 4, 7, 9 << 16, SET, 1, b"key"),
        (b"value", -2, 7, 9 << 16, SET, 1, b"key"),
        (b"value", 3, 8, 9 << 16, SET, 1, b"key"),
        (b"value", 3, 7, 10 << 16, SET, 1, b"key"),
        (b"value", 3, 7, 9 << 16, SET, 2, b"key"),
        (b"value", 3, 7, 9 << 16, SET, 1, b"kez"),
        (b"yvalue", 3, 7, 9 << 16, SET, 1, b"ke"),
        (b"", 3, 7, 9 << 16, SET, 1, b"keyvalue"),
    ]
    assert len({entry_hash(one) for one in [op, *others]}) == 1 + len(others)


def test_a_sum_is_what_is_there_in_whatever_order_it_came() -> None:
    entries = [entry(10 + number, b"k%d" % number) for number in range(20)]
    one, other = begun(), begun()
    one.add(5, entries)
    random.Random(3).shuffle(entries)
    for op in entries:
        other.add(5, [op])
    assert one.sum == other.sum != begun().sum


def test_what_an_operation_takes_the_place_of_goes() -> None:
    state = begun()
    first, second = entry(10, b"k"), entry(11, b"k", b"w")
    state.add(5, [first])
    state.exchange([second], [first], 10)
    expected = begun()
    expected.add(5, [second])
    assert state.sum == expected.sum
    state.exchange([entry(12, b"k", None)], [second], 11)
    assert state.sum == begun().sum


def test_what_comes_and_goes_at_once_never_counts() -> None:
    state = begun()
    first, second, tombstone = entry(10, b"k"), entry(11, b"k", b"w"), entry(12, b"k", None)
    state.exchange([first, second, tombstone], [None, first, second], 9)
    assert state.sum == begun().sum


def test_what_was_not_in_the_log_takes_nothing_with_it() -> None:
    state = begun()
    local = (b"v", 3, 0, 0, SET, 5, b"k")
    state.exchange([entry(10, b"k")], [local], 9)
    expected = begun()
    expected.add(5, [entry(10, b"k")])
    assert state.sum == expected.sum


def test_a_database_goes_with_all_that_it_holds() -> None:
    state = begun()
    state.add(5, [entry(10, b"k"), entry(11, b"l")])
    state.change(OTHER, None)
    state.change((b"", 0, 12, 1, DROP_DATABASE, 5, b""), None)
    expected = StateSum()
    expected.change(OTHER, None)
    assert state.sum == expected.sum
    assert list(state.databases) == [6]
    state.add(5, [entry(13, b"m")])
    assert state.sum == expected.sum


def test_a_database_with_another_name_is_what_it_was() -> None:
    state = begun()
    state.change((b"", 0, 9, 1, NAME_DATABASE, 5, b"new"), None)
    assert state.sum != begun().sum
    state.change((b"", 0, 10, 1, NAME_DATABASE, 5, b"d"), None)
    assert state.sum == begun().sum
