"""An election is driven: what it wants is done in order, and it is called in time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from twisted.internet.task import Clock

from nuntwist.cluster.ballots import Vote
from nuntwist.cluster.driver import Driver
from nuntwist.cluster.effects import Effect, Keep, Send, Turned
from nuntwist.cluster.member import Member
from nuntwist.cluster.states import Event, State

NEVER = float("inf")
TURNED = Turned(State.STARTING, State.CHECKING, Event.DUE, 1, None)


class Node:
    """A member whose election wants what a test says; it notes what is done."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.wanted: list[list[Effect]] = []
        self.done: list[object] = []
        self.keeps = True
        self.election = SimpleNamespace(due=NEVER, effects=self.effects, tick=self.tick)
        self.belonging = SimpleNamespace(due=NEVER, settle=lambda now: self.done.append("settled"))
        self.driver = Driver(cast(Member, self))

    def effects(self) -> list[Effect]:
        return self.wanted.pop(0) if self.wanted else []

    def tick(self, now: float) -> None:
        self.done.append(now)
        self.election.due = NEVER

    def carry_out(self) -> None:
        self.driver.run()

    def send(self, node: int, message: object) -> None:
        self.done.append((node, message))

    def turn(self, turned: Turned) -> None:
        self.done.append(turned)

    def promise(self, promise: Keep) -> bool:
        self.done.append(promise)
        return self.keeps

    def timers(self) -> list[float]:
        return [call.getTime() for call in self.clock.getDelayedCalls()]


@pytest.fixture
def node() -> Node:
    return Node()


def test_a_promise_is_kept_before_the_message_that_relies_on_it(node: Node) -> None:
    node.wanted = [[Keep(5, 2), Send(2, Vote(5)), TURNED], [Send(3, Vote(5))]]
    node.driver.run()
    assert node.done == [
        *("settled", Keep(5, 2), (2, Vote(5)), TURNED),
        *("settled", (3, Vote(5)), "settled"),
    ]


def test_after_a_promise_that_cannot_be_kept_nothing_is_done(node: Node) -> None:
    node.keeps = False
    node.election.due = 1.0
    node.wanted = [[Keep(5, 2), Send(2, Vote(5))], [TURNED]]
    node.driver.run()
    assert node.done == ["settled", Keep(5, 2)]
    assert node.timers() == []


def test_it_is_called_when_the_first_of_both_is_due(node: Node) -> None:
    node.election.due, node.belonging.due = 2.0, 1.5
    node.driver.run()
    assert node.timers() == [1.5]
    node.belonging.due = NEVER
    node.driver.run()
    assert node.timers() == [2.0]
    [timer] = node.clock.getDelayedCalls()
    node.driver.run()
    # It is not made anew each time.
    [same] = node.clock.getDelayedCalls()
    assert same is timer
    node.clock.advance(2.0)
    assert node.done[-2:] == [2.0, "settled"]
    assert node.timers() == []


def test_what_is_overdue_is_called_at_once(node: Node) -> None:
    node.clock.advance(5.0)
    node.election.due = 1.0
    node.driver.run()
    assert node.timers() == [5.0]


def test_it_is_not_called_once_it_is_stopped(node: Node) -> None:
    node.election.due = 1.0
    node.driver.run()
    node.driver.stop()
    assert node.timers() == []
