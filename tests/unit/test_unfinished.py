"""What connections have begun to send and not ended has a limit for all together."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address

from nuntwist.core.counters import Counters
from nuntwist.language.framing import MOST_PARTS, LineFramer
from nuntwist.net.guard import Rules
from nuntwist.net.unfinished import SMALL, Unfinished
from nuntwist.testing import MemoryNode, MemoryTransport, client_frame

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class One:
    """A connection."""

    def __init__(self) -> None:
        self.closed = False

    def give_up(self) -> str:
        self.closed = True
        return "somewhere"


def test_those_that_hold_most_are_closed() -> None:
    counters, limit = Counters(), 10 * SMALL
    unfinished = Unfinished(limit, counters, lambda: 0.0)
    ones = [One() for _ in range(4)]
    held = [
        unfinished.note(one, size * SMALL) for one, size in zip(ones, (2, 4, 1, 3), strict=True)
    ]
    assert held == [True, True, False, True]
    assert unfinished.total == 9 * SMALL
    assert unfinished.note(ones[0], 4 * SMALL)
    assert [one.closed for one in ones] == [False, True, False, False]
    assert counters.unfinished_closed == 1
    assert not unfinished.note(ones[0], 5)
    unfinished.forget(ones[3])
    unfinished.forget(ones[3])
    assert unfinished.total == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5 * SMALL)), max_size=60))
def test_the_sum_is_what_is_there_and_never_over_the_limit(steps: list[tuple[int, int]]) -> None:
    unfinished = Unfinished(8 * SMALL, Counters(), lambda: 0.0)
    ones, sizes = [One() for _ in range(6)], dict[int, int]()
    for number, size in steps:
        if ones[number].closed:
            continue
        unfinished.note(ones[number], size)
        sizes[number] = size if size > SMALL else 0
        sizes = {at: held for at, held in sizes.items() if not ones[at].closed}
        assert unfinished.total == sum(sizes.values()) <= 8 * SMALL


def test_a_line_that_comes_byte_by_byte_is_kept_in_few_pieces() -> None:
    framer = LineFramer(1 << 20)
    for number in range(5 * MOST_PARTS):
        assert framer.feed(b"%d" % (number % 10)) is None
        assert len(framer._parts) <= MOST_PARTS + 1
    chunk = framer.feed(b"\n")
    assert chunk is not None
    assert chunk[0] == [b"0123456789" * (MOST_PARTS // 2)]


# -- over connections --


class Doors:
    """A node with connections that share a limit."""

    def __init__(self, limit: int) -> None:
        self.node = MemoryNode(rules=Rules(input_total=limit))
        self.unfinished = self.node.guard.unfinished

    def connect(self, kind: str) -> tuple[object, MemoryTransport]:
        factory = self.node.lines if kind == "tcp" else self.node.frames
        protocol = factory.buildProtocol(IPv4Address("TCP", "10.0.0.1", 1))
        transport = MemoryTransport()
        protocol.makeConnection(transport)
        if kind == "ws":
            protocol.dataReceived(REQUEST)
        transport.clear()
        return protocol, transport


def beginning(kind: str, size: int) -> bytes:
    """So many bytes of a command, and not its end."""
    if kind == "tcp":
        return b"set k " + b"x" * (size - 6)
    head = bytes((0x81, 0x80 | 127)) + struct.pack(">Q", 900_000) + b"\0\0\0\0"
    return head + b"set k " + b"x" * (size - 6)


@pytest.mark.parametrize("kind", ["tcp", "ws"])
def test_many_that_do_not_end_are_closed_and_others_are_served(kind: str) -> None:
    doors = Doors(1_000_000)
    there = [doors.connect(kind) for _ in range(20)]
    for protocol, _ in there:
        for piece in range(10):
            protocol.dataReceived(  # type: ignore[attr-defined]
                beginning(kind, 10_000) if piece == 0 else b"x" * 10_000
            )
    closed = [transport.aborted for _, transport in there]
    assert 10 <= sum(closed) < 20
    assert doors.node.node.counters.unfinished_closed == sum(closed)
    assert doors.unfinished.total <= 1_000_000
    assert doors.node.tcp().ask("ping") == "pong\nok \n"


@pytest.mark.parametrize("kind", ["tcp", "ws"])
def test_whole_commands_are_not_in_the_sum_however_they_come(kind: str) -> None:
    doors = Doors(100_000)
    protocol, transport = doors.connect(kind)
    value = b"x" * 90_000
    command = b"set k " + value
    whole = command + b"\n" if kind == "tcp" else client_frame(command)
    for size in (1_000, 40_000, 200_000):
        for at in range(0, len(whole), size):
            protocol.dataReceived(whole[at : at + size])  # type: ignore[attr-defined]
        assert doors.unfinished.total == 0
    assert not transport.aborted
    assert b"no-db-selected" in transport.value()
    # What a connection that is gone has held is not held any more.
    protocol.dataReceived(beginning(kind, 50_000))  # type: ignore[attr-defined]
    assert doors.unfinished.total > 0
    protocol.connectionLost()  # type: ignore[attr-defined]
    assert doors.unfinished.total == 0


def test_what_is_eaten_in_later_turns_is_not_in_the_sum_after_them() -> None:
    doors = Doors(1_000_000)
    protocol, _ = doors.connect("ws")
    # Pings go to the general parser, a few a turn.
    protocol.dataReceived(client_frame(b"x" * 50, opcode=9) * 1_000)  # type: ignore[attr-defined]
    assert doors.unfinished.total > 0
    doors.node.settle()
    doors.node.clock.advance(1.0)
    assert doors.unfinished.total == 0


def test_what_a_frame_says_of_its_length_does_not_count() -> None:
    doors = Doors(1_000_000)
    protocol, transport = doors.connect("ws")
    protocol.dataReceived(beginning("ws", 20_000))  # type: ignore[attr-defined]
    assert 19_000 < doors.unfinished.total < 21_000
    assert not transport.aborted
