"""Connecting to other nodes: when it is tried again, when it is not, and what the log tells."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionRefusedError, TimeoutError
from twisted.logger import LogEvent, globalLogPublisher
from twisted.python.failure import Failure

from nuntwist.cluster.handshake import ITSELF, Accepting, Self
from nuntwist.net.doors import Manner
from nuntwist.net.out_of_reach import MOST_TOLD
from nuntwist.net.peer import CLOSING_SECONDS, PeerProtocol
from nuntwist.net.peering import (
    FIRST_DELAY,
    LASTING_SECONDS,
    LONGEST_DELAY,
    LONGEST_REFUSED,
    OWN_REST_SECONDS,
    REST_SECONDS,
    Peering,
)
from nuntwist.testing import HeapClock, MemoryTransport

KEY = b"k" * 32
BEAT, SILENCE = 0.1, 0.5


class There:
    """What is at one address; an endpoint.

    :ivar attempts: when it was connected to.
    :ivar open: what stands.
    """

    def __init__(self, world: World, node: int) -> None:
        self.world, self.node, self.key = world, node, KEY
        self.attempts: list[float] = []
        self.reason: Exception | None = None
        self.answers, self.closes_at_once, self.says = True, False, b""
        self.is_slow = False
        self.open: list[tuple[Any, MemoryTransport]] = []
        self.pending: list[Deferred[Any]] = []
        self.factories: list[Any] = []
        self.told: list[bytes] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        self.attempts.append(self.world.clock.seconds())
        made: Deferred[Any] = Deferred()
        if self.reason is not None:
            made.errback(Failure(self.reason))
            return made
        self.pending.append(made)
        self.factories.append(factory)
        if self.answers:
            self.answer()
        return made

    def answer(self) -> None:
        """Answer the last attempt."""
        made, factory = self.pending.pop(), self.factories.pop()
        protocol, transport = factory.buildProtocol(None), MemoryTransport()
        end = protocol, transport
        self.open.append(end)
        transport.lose = lambda: self.world.clock.callLater(0, self.lose, end)
        protocol.makeConnection(transport)
        made.callback(protocol)
        if not self.is_slow:
            self.shake(*end)

    def shake(self, protocol: Any, transport: MemoryTransport) -> None:
        """The handshake of a node that is there."""
        if self.says:
            protocol.dataReceived(b"ok \n" + self.says)
            return
        other = Accepting(Self(self.node, 7, f"there:{self.node}"), self.key, random.Random(5))
        while data := transport.value():
            transport.clear()
            for line in data.splitlines():
                self.told.append(line)
                protocol.dataReceived(other.receive(line))
        if self.closes_at_once:
            transport.lose()

    def lose(self, end: tuple[Any, MemoryTransport]) -> None:
        if end in self.open:
            self.open.remove(end)
            end[0].connectionLost(Failure(ConnectionDone()))

    def lose_all(self) -> None:
        for end in tuple(self.open):
            self.lose(end)


class World:
    """A peering, and what it connects to.

    :ivar links: the nodes that are linked by connections of the peering.
    :ivar theirs: those linked by connections that they have made.
    """

    def __init__(self) -> None:
        self.clock = HeapClock()
        self.links: set[int] = set()
        self.theirs: set[int] = set()
        self.at: dict[str, int] = {}
        self.set_id = 1
        manner = Manner(
            lambda: Self(1, self.set_id, "here:1"),
            KEY,
            self,
            self.clock,
            random.Random(3),
            BEAT,
            SILENCE,
        )
        self.there: dict[str, There] = {}
        self.peering = Peering(
            manner,
            self.endpoint_for,
            lambda node: node in self.links | self.theirs,
            lambda address: self.at.get(address),
        )

    def endpoint_for(self, address: str) -> Any:
        if address == "-":
            raise ValueError("that is no address")
        return self.there.setdefault(address, There(self, len(self.there) + 2))

    def linked(self, link: PeerProtocol) -> None:
        assert link.peer is not None
        self.links.add(link.peer.node)

    def received(self, link: PeerProtocol, message: object) -> None:
        pass

    def unlinked(self, link: PeerProtocol) -> None:
        self.links.clear()

    def run(self, seconds: float, talk: bool = True) -> None:
        """Let time go by; who is there talks, so that nothing is silent."""
        for _ in range(round(seconds / 0.01)):
            self.clock.advance(0.01)
            for there in self.there.values():
                for protocol, _ in there.open if talk else ():
                    protocol._protocol.heard = self.clock.seconds()

    def to(self, address: str, **how: Any) -> There:
        """Say what is at an address, and connect to it."""
        there = self.endpoint_for(address)
        for name, value in how.items():
            setattr(there, name, value)
        self.peering.set_addresses([address])
        return there


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def events() -> Iterator[list[LogEvent]]:
    events: list[LogEvent] = []
    observer = events.append
    globalLogPublisher.addObserver(observer)
    yield events
    globalLogPublisher.removeObserver(observer)


def told(events: list[LogEvent]) -> list[str]:
    """What our own code has logged, but for how it went on."""
    return [
        f"{event['why']}{event.get('remedy', '')}"
        for event in events
        if event["log_level"].name != "info"
    ]


def said(events: list[LogEvent], words: str) -> int:
    """How often a line with these words was logged."""
    return sum(words in str(event.get("log_format")) for event in events)


def gaps(there: There) -> list[float]:
    """Between attempts."""
    return [
        later - earlier for earlier, later in zip(there.attempts, there.attempts[1:], strict=False)
    ]


def test_it_waits_longer_and_longer_and_never_too_long(
    world: World, events: list[LogEvent]
) -> None:
    there = world.to("a:1", reason=ConnectionRefusedError())
    world.run(60.0)
    between = gaps(there)
    assert FIRST_DELAY / 2 <= between[0] <= FIRST_DELAY + 0.01
    assert LONGEST_DELAY / 2 <= min(between[10:]) < max(between[10:]) <= LONGEST_DELAY + 0.01
    assert len({round(gap, 3) for gap in between[10:]}) > 10
    assert len(told(events)) == 1
    assert told(events)[0].endswith("is the node started, and does it listen there?")
    there.reason = None
    world.run(LONGEST_DELAY)
    assert world.links == {2}
    assert said(events, "is reached again") == 1


def test_an_attempt_that_nobody_answered_has_waited_already(world: World) -> None:
    """Behind a firewall that drops everything; so that its end is noticed soon."""
    there = world.to("a:1", answers=False)
    for _ in range(20):
        world.run(2.0)
        there.factories.clear()
        there.pending.pop().errback(Failure(TimeoutError()))
        attempts = len(there.attempts)
        world.run(FIRST_DELAY + 0.01)
        assert len(there.attempts) == attempts + 1
    assert min(gaps(there)) >= 2.0 + FIRST_DELAY / 2
    world.run(2.0)
    there.answers = True
    there.pending.pop().errback(Failure(TimeoutError()))
    world.run(FIRST_DELAY + 0.01)
    assert world.links == {2}


def test_each_reason_is_told_once_and_not_too_many(world: World, events: list[LogEvent]) -> None:
    there = world.to("a:1", reason=ConnectionRefusedError())
    world.run(5.0)
    there.reason = TimeoutError()
    world.run(5.0)
    there.reason = ConnectionRefusedError()
    world.run(5.0)
    assert len(told(events)) == 2
    for number in range(50):
        there.reason = OSError(f"reason {number}")
        world.run(2.0)
    assert len(told(events)) == MOST_TOLD
    there.reason = None
    world.run(2.0)
    there.reason = TimeoutError()
    there.lose_all()
    world.run(5.0)
    assert len(told(events)) == MOST_TOLD + 1


def test_a_link_that_had_lasted_is_made_again_at_once(world: World) -> None:
    there = world.to("a:1")
    world.run(LASTING_SECONDS + 0.1)
    there.lose_all()
    world.clock.advance(0)
    assert len(there.attempts) == 2
    assert gaps(there)[0] == pytest.approx(LASTING_SECONDS + 0.1)


def test_silence_ends_a_link_and_begins_the_next(world: World, events: list[LogEvent]) -> None:
    there = world.to("a:1")
    world.run(2.0)
    there.answers = False
    world.run(SILENCE + BEAT, talk=False)
    world.run(0.01)
    assert len(there.attempts) == 2
    assert gaps(there)[0] <= 2.0 + SILENCE + BEAT + 0.02
    assert ["silent" in line for line in told(events)] == [True]


def test_links_that_do_not_last_are_not_made_all_the_time(world: World) -> None:
    there = world.to("a:1", closes_at_once=True)
    world.run(60.0)
    assert len(there.attempts) < 60
    assert min(gaps(there)[10:]) >= LONGEST_DELAY / 2


def test_it_rests_while_the_other_has_made_the_link(world: World, events: list[LogEvent]) -> None:
    # The member closes ours, as theirs stays.
    there = world.to("a:1", closes_at_once=True)
    world.theirs.add(2)
    world.run(0.5)
    there.closes_at_once = False
    assert len(there.attempts) == 1
    world.run(60.0)
    assert len(there.attempts) == 1
    world.theirs.clear()
    world.run(REST_SECONDS + 0.01)
    assert len(there.attempts) == 2
    assert world.links == {2}
    assert told(events) == []


def test_the_first_attempt_may_come_too_late_as_well(world: World) -> None:
    there = world.to("a:1", answers=False, is_slow=True)
    world.run(0.5)
    world.at["a:1"] = 2
    world.theirs.add(2)
    there.answer()
    world.run(20.0)
    assert (there.open, len(there.attempts)) == ([], 1)


def test_who_is_linked_and_says_that_it_is_there_is_not_connected_to(world: World) -> None:
    world.at["a:1"] = 9
    world.theirs.add(9)
    there = world.to("a:1")
    world.run(30.0)
    assert there.attempts == []
    world.at.clear()
    world.theirs.clear()
    world.run(REST_SECONDS + 0.01)
    assert len(there.attempts) == 1


def test_a_node_that_is_linked_by_itself_is_reached_again(
    world: World, events: list[LogEvent]
) -> None:
    there = world.to("a:1")
    world.run(2.0)
    there.reason = ConnectionRefusedError()
    there.lose_all()
    world.run(5.0)
    world.theirs.add(2)
    world.run(5.0)
    assert said(events, "is reached again") == 1
    world.theirs.clear()
    world.run(5.0)
    assert len(told(events)) == 2


def test_another_node_at_the_same_address_is_found(world: World) -> None:
    there = world.to("a:1")
    world.run(2.0)
    there.node = 50
    there.lose_all()
    world.run(0.1)
    assert world.links == {50}


def test_its_own_address_is_left_alone(world: World, events: list[LogEvent]) -> None:
    there = world.to("a:1", says=b"refused %b\n" % ITSELF.encode())
    world.run(OWN_REST_SECONDS - 1.0)
    assert len(there.attempts) == 1
    world.run(2.0)
    assert len(there.attempts) == 2
    assert told(events) == []
    assert said(events, "own address") == 2


@pytest.mark.parametrize(
    ("says", "remedy"),
    [
        (b"refused the two nodes do not have the same secret\n", "NUN_CLUSTER_SECRET"),
        (b"refused version 2 is spoken here, not 1\n", "versions"),
        (b"error unknown command: peer \n", "is told of a replica set?"),
        (b"HTTP/1.1 400 Bad Request\r\n", "is told of a replica set?"),
    ],
)
def test_a_refusal_is_told_with_what_helps(
    world: World, events: list[LogEvent], says: bytes, remedy: str
) -> None:
    there = world.to("a:1", says=says)
    world.run(120.0)
    assert len(told(events)) == 1
    assert remedy in told(events)[0]
    assert LONGEST_REFUSED / 2 <= min(gaps(there)[15:]) <= LONGEST_REFUSED
    # When it is mended, and then just down, it is tried as often as any other.
    there.says = b""
    world.run(LONGEST_REFUSED)
    assert world.links == {2}
    there.reason = ConnectionRefusedError()
    there.lose_all()
    world.run(60.0)
    assert max(gaps(there)[-10:]) <= LONGEST_DELAY + 0.01


def test_another_secret_is_told_by_this_side_too(world: World, events: list[LogEvent]) -> None:
    there = world.to("a:1", key=b"o" * 32)
    world.run(20.0)
    assert len(told(events)) == 1
    assert "NUN_CLUSTER_SECRET" in told(events)[0]
    assert there.open == []


def test_what_it_says_of_itself_is_as_it_is_now(world: World) -> None:
    there = world.to("a:1")
    world.run(2.0)
    world.set_id = 0xABC
    there.lose_all()
    world.run(1.0)
    welcomes = [line.split()[2] for line in there.told if line.startswith(b"welcome")]
    assert welcomes == [b"%016x" % 1, b"%016x" % 0xABC]
    first_lines = {line for line in there.told if line.startswith(b"peer ")}
    assert len(first_lines) == 2


def test_an_address_that_is_none_harms_no_other(world: World, events: list[LogEvent]) -> None:
    for _ in range(3):
        world.peering.set_addresses(["-", "a:1"])
        world.run(1.0)
    assert world.links == {2}
    assert told(events) == ["that is no address"]
    world.peering.set_addresses(["a:1"])
    world.peering.set_addresses(["-", "a:1"])
    assert len(told(events)) == 2
    assert len(world.there["a:1"].attempts) == 1


def test_addresses_that_are_not_wanted_any_more_are_left(world: World) -> None:
    first, second = world.to("a:1"), world.endpoint_for("b:1")
    world.run(2.0)
    world.peering.set_addresses(["b:1"])
    world.run(10.0)
    assert (len(first.attempts), first.open) == (1, [])
    assert len(second.open) == 1


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"answers": False},
        {"reason": ConnectionRefusedError()},
        {"says": b"peer 1 "},
        {"closes_at_once": True},
    ],
    ids=["linked", "connecting", "waiting", "shaking hands", "resting"],
)
@pytest.mark.parametrize("is_removed", [False, True])
def test_stopping_leaves_nothing(
    world: World, events: list[LogEvent], how: dict[str, Any], is_removed: bool
) -> None:
    there = world.to("a:1", **how)
    world.run(0.02)
    if "closes_at_once" in how:
        world.theirs.add(2)
        world.run(2.0)
    before = len(told(events))
    if is_removed:
        world.peering.set_addresses([])
    done: list[None] = []
    world.peering.stop().addCallback(done.append)
    assert done == [] or not there.open
    world.run(0.01)
    assert done == [None]
    assert there.open == []
    assert world.clock.getDelayedCalls() == []
    assert len(told(events)) == before
    world.peering.set_addresses(["a:1"])
    world.run(5.0)
    assert world.clock.getDelayedCalls() == []


def test_stopping_does_not_wait_for_who_does_not_close(world: World) -> None:
    there = world.to("a:1")
    world.run(2.0)
    ((_, transport),) = there.open
    lose, transport.lose = transport.lose, lambda: None
    done: list[None] = []
    world.peering.stop().addCallback(done.append)
    # A transport that waits for its producer would wait for ever.
    assert transport.producer is None
    assert (transport.disconnecting, transport.aborted) == (True, False)
    world.run(CLOSING_SECONDS - 0.1)
    assert not transport.aborted
    transport.lose = lose
    world.run(0.2)
    assert transport.aborted
    assert done == [None]
    assert world.clock.getDelayedCalls() == []


def test_who_refused_and_is_down_now_is_tried_as_often_as_any(world: World) -> None:
    there = world.to("a:1", says=b"refused version 2 is spoken here, not 1\n")
    world.run(120.0)
    there.reason = ConnectionRefusedError()
    world.run(60.0)
    assert max(gaps(there)[-10:]) <= LONGEST_DELAY + 0.01


def test_a_node_with_two_addresses_is_tried_at_one_at_a_time(world: World) -> None:
    one, other = world.endpoint_for("a:1"), world.endpoint_for("b:1")
    one.node = other.node = 2
    world.peering.set_addresses(["a:1"])
    world.run(2.0)
    world.at["b:1"] = 2
    world.peering.set_addresses(["a:1", "b:1"])
    world.run(2.0)
    assert other.attempts == []
    one.answers = False
    one.lose_all()
    world.run(2.0)
    assert (len(one.pending), other.attempts) == (1, [])
    # Where it is not reached at one, it is tried at the other, and then again at the first.
    one.pending.pop().errback(Failure(TimeoutError()))
    world.run(0.2)
    assert len(other.open) == 1
    other.reason = ConnectionRefusedError()
    other.lose_all()
    world.run(1.0)
    one.pending.pop().errback(Failure(TimeoutError()))
    world.run(10.0)
    assert one.pending


def test_an_attempt_that_comes_too_late_ends_before_it_is_a_link(
    world: World, events: list[LogEvent]
) -> None:
    there = world.to("a:1")
    world.run(2.0)
    there.answers, there.is_slow = False, True
    there.lose_all()
    world.run(0.5)
    # Meanwhile the other has made a link.
    world.theirs.add(2)
    there.answer()
    world.run(0.02)
    assert there.open == []
    assert world.links == set()
    world.run(20.0)
    assert len(there.attempts) == 2
    assert told(events) == []


def test_who_is_linked_is_not_told_to_be_out_of_reach(world: World, events: list[LogEvent]) -> None:
    there = world.to("a:1")
    world.run(2.0)
    there.answers = False
    there.lose_all()
    world.run(0.5)
    world.theirs.add(2)
    there.pending.pop().errback(Failure(TimeoutError()))
    world.run(5.0)
    assert told(events) == []
    assert len(there.attempts) == 2
