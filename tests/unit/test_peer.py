"""Connections between nodes: from the first line to the last frame, and what ends them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.logger import LogEvent, globalLogPublisher
from twisted.python.failure import Failure

from nuntwist.cluster.ballots import Beat, Vote
from nuntwist.cluster.frames import Message, encode
from nuntwist.cluster.handshake import LONGEST, SAME_SECRET, Accepting, Connecting, Peer, Self
from nuntwist.net.peer import FULL_SECONDS, HANDSHAKE_SECONDS, QUIET_SHARE, PeerProtocol
from nuntwist.testing import HeapClock, MemoryTransport

KEY = b"k" * 32
BEAT, SILENCE = 0.1, 0.5


class Seen:
    """What one side was told."""

    def __init__(self) -> None:
        self.peers: list[Peer | None] = []
        self.messages: list[Message] = []
        self.gone = 0

    def linked(self, link: PeerProtocol) -> None:
        self.peers.append(link.peer)

    def received(self, link: PeerProtocol, message: Message) -> None:
        self.messages.append(message)

    def unlinked(self, link: PeerProtocol) -> None:
        self.gone += 1


class Wire:
    """Two protocols, and what is between them.

    :ivar cut: whether what is sent arrives nowhere.
    """

    def __init__(self, key: bytes = KEY, greeting: bytes = b"") -> None:
        self.clock, self.cut = HeapClock(), False
        chance = random.Random(1)
        self.seen = Seen(), Seen()
        shakes = (
            Connecting(Self(1, 0, "a:1"), KEY, chance),
            Accepting(Self(2, 0, "b:2"), key, chance),
        )
        self.ends = [
            PeerProtocol(shake, seen, self.clock, BEAT, SILENCE)
            for shake, seen in zip(shakes, self.seen, strict=True)
        ]
        self.transports = [MemoryTransport(), MemoryTransport()]
        self.lost = [False, False]
        for place, (end, transport) in enumerate(zip(self.ends, self.transports, strict=True)):
            transport.lose = lambda place=place: self._lose(place)
            end.makeConnection(transport)
        if greeting:
            self.ends[0].dataReceived(greeting)

    def _lose(self, place: int) -> None:
        self.clock.callLater(0, self.close, place)

    def close(self, place: int) -> None:
        """One end, and so the other."""
        self.pump()
        for one in (place, 1 - place):
            if not self.lost[one]:
                self.lost[one] = True
                self.ends[one].connectionLost(Failure(ConnectionDone()))

    def pump(self, size: int = 1 << 20) -> None:
        """Let all that was sent arrive, in pieces."""
        moved = True
        while moved:
            moved = False
            for place, transport in enumerate(self.transports):
                data = transport.value()
                transport.clear()
                if data and not self.cut and not self.lost[1 - place]:
                    moved = True
                    for at in range(0, len(data), size):
                        self.ends[1 - place].dataReceived(data[at : at + size])

    def run(self, seconds: float) -> None:
        """Let time go by, and things arrive at once."""
        for _ in range(round(seconds / 0.05)):
            self.clock.advance(0.05)
            self.pump()


@pytest.fixture
def warnings() -> Any:
    events: list[LogEvent] = []
    observer = events.append
    globalLogPublisher.addObserver(observer)
    yield events
    globalLogPublisher.removeObserver(observer)


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("greeting", [b"", b"ok \n"])
def test_from_the_first_line_to_messages(size: int, greeting: bytes) -> None:
    wire = Wire(greeting=greeting)
    wire.pump(size)
    assert [seen.peers for seen in wire.seen] == [[Peer(2, 0, "b:2")], [Peer(1, 0, "a:1")]]
    for end in wire.ends:
        end.send(Vote(3))
        end.send(Beat(4, 0.5))
    wire.pump(size)
    assert [seen.messages for seen in wire.seen] == [[Vote(3), Beat(4, 0.5)]] * 2


def test_frames_may_come_with_the_last_line() -> None:
    wire = Wire()
    accepting = wire.ends[1]
    linked = wire.seen[1].linked
    wire.seen[1].linked = lambda link: (linked(link), accepting.send(Vote(9)))  # type: ignore[method-assign, assignment, func-returns-value]
    wire.pump()
    assert wire.seen[0].messages == [Vote(9)]


def test_before_it_is_welcome_nothing_is_sent_nor_taken() -> None:
    wire = Wire()
    wire.transports[0].clear()
    wire.ends[0].send(Vote(1))
    assert wire.transports[0].value() == b""
    wire.ends[1].dataReceived(encode(Vote(1)) + b"\n")
    assert wire.seen[1].messages == []
    assert wire.transports[1].disconnecting


def test_who_has_nothing_to_say_says_so() -> None:
    wire = Wire()
    wire.pump()
    wire.run(10.0)
    assert wire.lost == [False, False]
    assert [seen.messages for seen in wire.seen] == [[], []]


def test_who_is_silent_is_cut_off(warnings: list[LogEvent]) -> None:
    wire = Wire()
    wire.pump()
    wire.run(1.0)
    wire.cut = True
    wire.run(0.4)
    assert wire.lost == [False, False]
    wire.run(0.3)
    assert wire.lost == [True, True]
    assert [seen.gone for seen in wire.seen] == [1, 1]
    assert wire.transports[0].aborted
    assert "silent" in warnings[0]["why"]
    assert wire.clock.getDelayedCalls() == []


def test_a_full_transport_is_not_filled_further() -> None:
    wire = Wire()
    wire.pump()
    wire.ends[0].pauseProducing()
    assert wire.ends[0].full
    wire.clock.advance(0.2)
    assert wire.transports[0].value() == b""
    wire.ends[0].resumeProducing()
    wire.clock.advance(0.1)
    assert wire.transports[0].value() != b""


def test_who_talks_but_takes_nothing_is_cut_off(warnings: list[LogEvent]) -> None:
    wire = Wire()
    wire.pump()
    # The other end is a program that is at fault: it looks after nothing.
    wire.ends[1]._clear_timer()
    link = wire.ends[0]

    def talk(seconds: float) -> None:
        for _ in range(round(seconds / 0.25)):
            # A full transport says so with each write.
            link.pauseProducing()
            link.dataReceived(encode(Vote(1)))
            wire.run(0.25)

    talk(20.0)
    # It takes some, and is given as long again.
    link.resumeProducing()
    talk(FULL_SECONDS - 0.5)
    assert wire.lost == [False, False]
    talk(1.0)
    assert wire.lost == [True, True]
    assert wire.transports[0].aborted
    assert warnings[0]["why"] == f"it has taken nothing for {FULL_SECONDS:g} s"


def test_another_secret_is_told_on_both_sides(warnings: list[LogEvent]) -> None:
    wire = Wire(key=b"o" * 32)
    wire.pump()
    wire.run(0.1)
    assert wire.lost == [True, True]
    reasons = [str(event["why"]) for event in warnings]
    assert reasons == [
        f"the two nodes do not have the same secret: {SAME_SECRET}",
        f"the other node says: the two nodes do not have the same secret: {SAME_SECRET}",
    ]
    assert [(seen.peers, seen.gone) for seen in wire.seen] == [([], 0), ([], 0)]
    assert wire.clock.getDelayedCalls() == []


def test_a_handshake_that_takes_too_long_is_ended() -> None:
    wire = Wire()
    wire.cut = True
    accepting = wire.ends[1]
    # The other has a patience of its own.
    wire.ends[0]._clear_timer()
    shake = Connecting(Self(1, 0, "a:1"), KEY, random.Random(1))
    for at, byte in enumerate(shake.begin()[: round(HANDSHAKE_SECONDS)]):
        # What comes in between does not make it longer.
        accepting.dataReceived(bytes([byte]))
        wire.run(1.0 if at else 0.9)
    assert wire.lost[1] is False
    wire.run(0.2)
    assert wire.lost == [True, True]


def test_who_has_connected_and_gets_no_answer_does_not_wait_long() -> None:
    wire = Wire()
    wire.cut = True
    wire.run(QUIET_SHARE * SILENCE - 0.1)
    wire.ends[0].dataReceived(b"ok \n")
    wire.run(QUIET_SHARE * SILENCE - 0.1)
    assert wire.lost == [False, False]
    wire.run(0.2)
    assert wire.lost == [True, True]


def test_who_does_not_speak_as_a_node_does_is_cut_off() -> None:
    wire = Wire()
    wire.ends[1].dataReceived(b"x" * LONGEST)
    assert not wire.transports[1].disconnecting
    wire.ends[1].dataReceived(b"x")
    assert wire.transports[1].disconnecting
    # What comes after that is not looked at.
    wire.ends[1].dataReceived(b"peer\n" * 1_000)


def test_damage_ends_the_connection(warnings: list[LogEvent]) -> None:
    wire = Wire()
    wire.pump()
    wire.ends[1].dataReceived(encode(Vote(1)) + b"\0" * 20)
    assert wire.transports[1].aborted
    assert "damaged" in warnings[0]["why"]
    wire.ends[1].dataReceived(encode(Vote(2)))
    wire.run(0.1)
    assert wire.seen[1].messages == []


def test_closing_sends_nothing_more_and_takes_nothing_more() -> None:
    wire = Wire()
    wire.pump()
    wire.ends[0].close()
    wire.ends[0].send(Vote(1))
    wire.ends[0].dataReceived(encode(Vote(2)))
    wire.run(0.1)
    assert [seen.messages for seen in wire.seen] == [[], []]
    assert [seen.gone for seen in wire.seen] == [1, 1]
    wire.ends[1].send(Vote(3))
    assert wire.clock.getDelayedCalls() == []
