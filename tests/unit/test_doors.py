"""Nodes that connect on the port of the clients: handed over, counted, ended."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from twisted.logger import LogEvent, globalLogPublisher

from nuntwist.cluster.frames import encode
from nuntwist.cluster.handshake import ITSELF, Connecting, Self
from nuntwist.cluster.stream import Idle
from nuntwist.core.logins import FIRST_PAUSE, FORGIVEN_SECONDS, LONGEST_PAUSE, Logins
from nuntwist.net.doors import MOST_BEGUN, Doors, Manner
from nuntwist.net.guesses import Guesses
from nuntwist.net.peer import (
    CLOSING_SECONDS,
    HANDSHAKE_SECONDS,
    TOO_MANY_GUESSES,
    PeerProtocol,
)
from nuntwist.net.tcp_port import LineFactory
from nuntwist.testing import Connection, MemoryNode

KEY = b"k" * 32
LIMIT = 3
"""Wrong proofs of an address after which others have to wait."""


class Port:
    """A node with doors on the port of its clients."""

    def __init__(self) -> None:
        self.node = MemoryNode()
        self.linked_nodes: list[int] = []
        self.unlinked_nodes = 0
        self.messages: list[object] = []
        clock = self.node.clock
        manner = Manner(
            *(lambda: Self(1, 7, "here:1"), KEY, self, clock, random.Random(1), 0.1, 0.5),
            guesses=Guesses(Logins(LIMIT, clock.seconds), self.node.node.counters),
        )
        self.doors = Doors(manner)
        self.lines = LineFactory(
            self.node.node.pipeline, self.node.guard, clock.callLater, self.doors.open
        )

    def linked(self, link: PeerProtocol) -> None:
        assert link.peer is not None
        self.linked_nodes.append(link.peer.node)

    def received(self, link: PeerProtocol, message: object) -> None:
        self.messages.append(message)

    def unlinked(self, link: PeerProtocol) -> None:
        self.unlinked_nodes += 1

    def connect(self) -> Caller:
        return Caller(self)

    @property
    def connections(self) -> int:
        """How many clients there are."""
        return self.node.node.counters.connections


class Caller(Connection):
    """Somebody who connects; after the hand-over the other protocol is spoken to."""

    def __init__(self, port: Port) -> None:
        super().__init__(port.node, port.lines)
        assert self.taken() == b"ok \n"
        hand_over = self.protocol._hand_over

        def seen(peer: PeerProtocol, data: bytes) -> None:
            client = self.protocol.client
            hand_over(peer, data)
            assert client.closed
            self.protocol = peer

        self.protocol._hand_over = seen

    def shake(
        self, number: int = 2, size: int = 1 << 20, then: bytes = b"", key: bytes = KEY
    ) -> str | None:
        """Be a node, whose lines come in pieces.

        :return: why one has refused the other.
        """
        shake = Connecting(Self(number, 7, "there:1"), key, random.Random(number))
        lines = shake.begin()
        while lines:
            if shake.peer is not None:
                lines += then
            for at in range(0, len(lines), size):
                self.deliver(lines[at : at + size])
            lines = b""
            for line in self.taken().splitlines():
                lines += shake.receive(line)
        return shake.refusal


@pytest.fixture
def port() -> Port:
    return Port()


@pytest.fixture
def events() -> Iterator[list[LogEvent]]:
    events: list[LogEvent] = []
    observer = events.append
    globalLogPublisher.addObserver(observer)
    yield events
    globalLogPublisher.removeObserver(observer)


def told(events: list[LogEvent]) -> list[str]:
    return [f"{event['why']}{event['more']}" for event in events if "more" in event]


# -- the first bytes -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5, 6, 1 << 20])
def test_a_node_is_taken_in_however_its_bytes_come(port: Port, size: int) -> None:
    caller = port.connect()
    assert port.connections == 1
    caller.shake(size=size, then=encode(Idle()))
    assert port.linked_nodes == [2]
    assert port.connections == 0
    assert not port.lines.clients
    assert caller.transport.producer is caller.protocol
    caller.close()
    assert port.unlinked_nodes == 1
    assert port.connections == 0
    assert port.node.timers() == []


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"ping\n", b"pong\nok \n"),
        (b"p\n", b"error unknown command: p \n"),
        (b"pe\n", b"error unknown command: pe \n"),
        (b"peer\n", b"error unknown command: peer \n"),
        (b"peer\tx\n", None),
        (b"PEER 1\n", b"error unknown command: PEER \n"),
        (b"ping\npeer 1\n", b"pong\nok \nerror unknown command: peer \n"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1 << 20])
def test_a_client_is_answered_without_delay(
    port: Port, sent: bytes, answer: bytes | None, size: int
) -> None:
    caller = port.connect()
    for at in range(0, len(sent), size):
        caller.deliver(sent[at : at + size])
    told = caller.taken()
    assert told == answer if answer is not None else told.startswith(b"error ")
    assert port.connections == 1
    assert not caller.closed


def test_only_the_first_bytes_count(port: Port) -> None:
    caller = port.connect()
    caller.deliver(b"pi")
    caller.deliver(b"ng\n")
    assert caller.taken() == b"pong\nok \n"
    caller.deliver(b"peer 1\n")
    assert caller.taken() == b"error unknown command: peer \n"


def test_a_node_alone_knows_no_peer() -> None:
    client = MemoryNode().tcp()
    assert client.ask("peer 1 2 3") == "error unknown command: peer \n"
    assert not client.closed


def test_who_says_half_the_word_and_no_more(port: Port) -> None:
    caller = port.connect()
    caller.deliver(b"pee")
    caller.protocol.readConnectionLost()
    port.node.settle()
    assert caller.closed or caller.transport.disconnecting
    caller.close()
    assert port.connections == 0


def test_what_others_watch_does_not_reach_a_node(port: Port) -> None:
    caller = port.connect()
    caller.shake()
    caller.taken()
    watcher = port.node.admin("create-db d t", "use-db d t", "watch k", "set k 1")
    watcher.close()
    port.node.settle()
    assert caller.taken() == b""


# -- limits ----------------------------------------------------------------------------------


def test_the_oldest_handshake_makes_room(port: Port, events: list[LogEvent]) -> None:
    callers = [port.connect() for _ in range(MOST_BEGUN + 3)]
    linked = port.connect()
    linked.shake()
    for caller in callers:
        caller.deliver(b"peer 1 ")
    port.node.settle()
    assert [caller.closed for caller in callers] == [True] * 3 + [False] * MOST_BEGUN
    assert port.doors.dropped == 3
    # Who is welcome does not count, and stays.
    assert not linked.closed
    assert told(events) == ["too many others have begun a handshake"]
    another = port.connect()
    another.shake(number=3)
    assert port.linked_nodes == [2, 3]


def test_those_that_end_make_room_too(port: Port) -> None:
    for _ in range(3 * MOST_BEGUN):
        caller = port.connect()
        caller.deliver(b"peer rubbish\n")
        port.node.settle()
        assert caller.closed
        assert b"refused" in caller.taken()
    for _ in range(3 * MOST_BEGUN):
        caller = port.connect()
        caller.deliver(b"peer ")
        caller.close()
    assert port.doors.dropped == 0
    assert port.node.timers() == []


def test_who_says_nothing_more_is_ended(port: Port) -> None:
    caller = port.connect()
    caller.deliver(b"peer ")
    port.node.clock.advance(HANDSHAKE_SECONDS + 0.1)
    assert caller.closed


def test_rubbish_makes_one_line_a_second(port: Port, events: list[LogEvent]) -> None:
    for second in range(3):
        for _ in range(10):
            port.connect().deliver(b"peer rubbish\n")
        if second < 2:
            port.node.clock.advance(1.0)
    assert told(events) == [
        "that is no line of the handshake",
        "that is no line of the handshake (9 more since the last such line)",
        "that is no line of the handshake (9 more since the last such line)",
    ]


def test_the_node_itself_makes_no_line(port: Port, events: list[LogEvent]) -> None:
    caller = port.connect()
    caller.shake(number=1)
    port.node.settle()
    assert caller.closed
    assert told(events) == []


# -- the end ---------------------------------------------------------------------------------


def test_stopping_ends_those_that_were_taken(port: Port, events: list[LogEvent]) -> None:
    linked, begun, client = port.connect(), port.connect(), port.connect()
    linked.shake()
    begun.deliver(b"peer 1 ")
    done: list[None] = []
    port.doors.stop().addCallback(done.append)
    assert done == []
    port.node.settle()
    assert done == [None]
    assert (linked.closed, begun.closed, client.closed) == (True, True, False)
    assert port.unlinked_nodes == 1
    # Who comes now finds no door.
    client.deliver(b"peer 1 2 3\n")
    assert client.taken() == b"error unknown command: peer \n"
    port.doors.stop().addCallback(done.append)
    assert done == [None, None]
    assert told(events) == []
    client.close()
    assert port.node.timers() == []


def test_who_does_not_close_is_cut_off(port: Port) -> None:
    caller = port.connect()
    lose, caller.transport.lose = caller.transport.lose, lambda: None
    caller.deliver(b"peer rubbish\n")
    assert caller.transport.disconnecting
    assert caller.transport.producer is None
    port.node.clock.advance(CLOSING_SECONDS - 0.01)
    assert not caller.transport.aborted
    caller.transport.lose = lose
    port.node.clock.advance(0.02)
    assert caller.transport.aborted
    assert caller.closed
    assert ITSELF not in caller.taken().decode()


# -- guesses ---------------------------------------------------------------------------------

WRONG = "the other node says: the two nodes do not have the same secret"
LATER = f"the other node says: {TOO_MANY_GUESSES}"


def test_a_proof_is_a_guess_and_who_guesses_has_to_wait(port: Port, events: list[LogEvent]) -> None:
    clock, counters = port.node.clock, port.node.node.counters
    for _ in range(LIMIT):
        assert port.connect().shake(key=b"x" * 32) == WRONG
    # One more is looked at, then none for a while, be it right or wrong.
    assert port.connect().shake(key=b"x" * 32) == WRONG
    for key in (KEY, b"x" * 32):
        caller = port.connect()
        assert caller.shake(key=key) == LATER
        assert caller.transport.disconnecting
    assert (counters.failed_logins, counters.delayed_logins) == (LIMIT + 1, 2)
    assert port.linked_nodes == []
    assert len(told(events)) == 1
    # Clients of that address have nothing to do with it.
    assert port.node.admin().ask("ping") == "pong\nok \n"
    # Who is right is let in, and comes and goes as before.
    clock.advance(FIRST_PAUSE * 2)
    assert port.connect().shake() is None
    assert port.linked_nodes == [2]


def test_guesses_are_few_however_long_one_goes_on(port: Port) -> None:
    hour = 3600
    for _ in range(hour):
        port.connect().shake(key=b"x" * 32)
        port.node.clock.advance(1.0)
    looked_at = port.node.node.counters.failed_logins
    assert looked_at <= LIMIT + 10 + hour / FORGIVEN_SECONDS
    assert looked_at + port.node.node.counters.delayed_logins == hour
    port.node.clock.advance(LONGEST_PAUSE)
    assert port.connect().shake() is None


def test_a_wrong_secret_that_is_mended_is_no_guess(port: Port) -> None:
    for _ in range(LIMIT - 1):
        port.connect().shake(key=b"x" * 32)
    for _ in range(20):
        assert port.connect().shake() is None
