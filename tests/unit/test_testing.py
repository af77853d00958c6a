"""The test harness itself: its clock is a clock, its clients see what real ones would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from nuntwist.core.limits import Limits
from nuntwist.testing import HeapClock, MemoryNode, client_frame


def test_it_is_a_reactors_time() -> None:
    clock = HeapClock()
    assert verifyObject(IReactorTime, clock)
    assert verifyObject(IDelayedCall, clock.callLater(1, list))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("later"), st.integers(0, 20), st.integers(0, 3)),
        st.tuples(st.just("cancel"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("delay"), st.integers(0, 30), st.integers(0, 10)),
        st.tuples(st.just("reset"), st.integers(0, 30), st.integers(0, 10)),
        st.tuples(st.just("advance"), st.integers(0, 8), st.just(0)),
    ),
    max_size=40,
)


def play(clock: Any, steps: list[tuple[str, int, int]]) -> list[object]:
    """What a schedule leads to. Times are unique, so that the order of moved calls is too."""
    seen: list[object] = []
    calls: list[Any] = []

    def later(number: int, delay: int, again: int) -> None:
        # The fraction tells calls of one second apart: a move must not make two times equal.
        calls.append(clock.callLater(delay + len(calls) / 1024, run, number, again))

    def run(number: int, again: int) -> None:
        seen.append(("ran", number, int(clock.seconds())))
        if again:
            later(number + 100, again, again - 1)

    for number, (what, first, second) in enumerate(steps):
        try:
            if what == "later":
                later(number, first, second)
            elif what == "advance":
                for _ in range(first):
                    # To the next call at a time: task.Clock lets calls see the time they are
                    # made late at, HeapClock the one they were due at.
                    until = clock.seconds() + 1
                    while due := [c for c in clock.getDelayedCalls() if c.getTime() <= until]:
                        clock.advance(min(c.getTime() for c in due) - clock.seconds())
                    clock.advance(until - clock.seconds())
            elif calls:
                call = calls[first % len(calls)]
                if what == "cancel":
                    call.cancel()
                elif what == "delay":
                    call.delay(second)
                else:
                    call.reset(second + (first % len(calls)) / 2048 + 1 / 4096)
        except (AlreadyCalled, AlreadyCancelled) as error:
            seen.append(type(error).__name__)
        seen.append(len(clock.getDelayedCalls()))
    return seen


@given(STEPS)
def test_the_same_order_as_twisteds_clock(steps: list[tuple[str, int, int]]) -> None:
    assert play(HeapClock(), steps) == play(Clock(), steps)


@pytest.mark.parametrize("make", [HeapClock, Clock])
def test_calls_of_the_same_time_are_made_in_the_order_they_were_asked_for(
    make: Callable[[], Any],
) -> None:
    clock, seen = make(), []
    for number in range(100):
        clock.callLater(5 - number % 2, seen.append, number)
    clock.advance(5)
    assert seen == [*range(1, 100, 2), *range(0, 100, 2)]


def test_a_call_moved_there_and_back_is_one_call() -> None:
    clock, seen = HeapClock(), []
    call = clock.callLater(1, seen.append, 1)
    call.delay(1)
    call.delay(-1)
    assert clock.getDelayedCalls() == [call]
    clock.advance(5)
    assert seen == [1]


def test_a_call_sees_the_time_it_was_due_at() -> None:
    clock, seen = HeapClock(), []
    clock.callLater(1, lambda: seen.append(clock.seconds()))
    clock.callLater(2, lambda: seen.append(clock.seconds()))
    clock.advance(10)
    assert seen == [1, 2]
    assert clock.seconds() == 10


def test_due_now() -> None:
    clock = HeapClock()
    clock.callLater(1, list)
    assert not clock.due_now()
    clock.callLater(0, list)
    assert clock.due_now()
    clock.advance(0)
    assert not clock.due_now()


def test_a_call_that_raises_does_not_spoil_the_clock() -> None:
    clock, seen = HeapClock(), []
    clock.callLater(1, lambda: 1 // 0)
    clock.callLater(2, seen.append, 2)
    with pytest.raises(ZeroDivisionError):
        clock.advance(5)
    clock.advance(5)
    assert seen == [2]


# -- clients --


def test_input_waits_while_the_server_does_not_read() -> None:
    node = MemoryNode()
    client = node.tcp()
    client.transport.producer.pauseProducing()
    client.send("ping")
    assert client.received() == ""
    client.transport.producer.resumeProducing()
    client.send("ping")
    assert client.received() == "pong\nok \n" * 2


def test_frames_of_every_length_are_read() -> None:
    node = MemoryNode()
    client = node.ws()
    node.admin("create-db d t").close()
    client.ask("use-db d t")
    for size in (1, 118, 119, 65_528, 65_529, 70_000):
        client.ask("set k " + "x" * size)
        assert client.ask("get k") == ["value " + "x" * size + "\n", "ok \n"]


def test_a_clients_frame_is_masked() -> None:
    assert client_frame(b"abc", mask=b"\0\0\0\0") == b"\x81\x83\0\0\0\0abc"
    assert client_frame(b"ab", 9, b"\xff\xff\xff\xff") == b"\x89\x82\xff\xff\xff\xff\x9e\x9d"


def test_two_nodes_are_the_same_node() -> None:
    """Nothing of the world comes in: the same conversation gives the same log."""

    def converse() -> list[object]:
        node = MemoryNode(limits=Limits())
        node.admin("create-db d t", "use-db d t", "create-user a b", "set k v").close()
        return [op for batch in node.oplog.read(0) for op in batch]

    assert converse() == converse()
