"""WebSocket clients: RFC 6455 kept, commands in order, and floods that hold up nobody."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuntwist.core.limits import Limits
from nuntwist.net import websocket
from nuntwist.testing import Connection, FrameConnection, MemoryNode, client_frame

TEXT, CONTINUATION, BINARY, CLOSE, PING, PONG = 1, 0, 2, 8, 9, 10
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture
def node() -> MemoryNode:
    node = MemoryNode(limits=Limits(line=10_000))
    node.admin("create-db d t").close()
    return node


@pytest.fixture
def client(node: MemoryNode) -> FrameConnection:
    return selected(node)


def selected(node: MemoryNode) -> FrameConnection:
    client = node.ws()
    assert client.ask("use-db d t") == ["ok \n"]
    return client


def part(payload: bytes, opcode: int, final: bool) -> bytes:
    """A frame of a fragmented message."""
    whole = client_frame(payload, opcode)
    return bytes((whole[0] if final else whole[0] & 0x7F,)) + whole[1:]


def close_frame(code: int, reason: bytes = b"") -> bytes:
    return client_frame(code.to_bytes(2, "big") + reason, CLOSE)


def closing(client: FrameConnection) -> tuple[int, str]:
    """The code and the reason of the close frame, which must be the last frame of all."""
    frames = client.received_frames()
    assert [opcode for opcode, _ in frames].count(CLOSE) == 1
    opcode, payload = frames[-1]
    assert opcode == CLOSE
    return int.from_bytes(payload[:2], "big"), payload[2:].decode()


# -- commands --


def test_the_handshake(node: MemoryNode) -> None:
    client = node.ws()
    assert client.handshake.startswith(b"HTTP/1.1 101 ")
    assert client.received() == []


@pytest.mark.parametrize(
    "origin",
    ["null", "file://", "https://front.example", "http://127.0.0.1:8080", "capacitor://localhost"],
)
def test_any_page_may_connect(node: MemoryNode, origin: str) -> None:
    connection = Connection(node, node.frames)
    connection.deliver(UPGRADE[:-2] + f"Origin: {origin}\r\n\r\n".encode())
    assert connection.taken().startswith(b"HTTP/1.1 101 ")


def test_several_commands_in_a_frame(client: FrameConnection) -> None:
    assert client.ask("set a 1;get a; ping ;") == ["ok \n", "value 1\n", "ok \n", "pong\n", "ok \n"]


@pytest.mark.parametrize("text", ["", ";", " ; ;;", "\n", " "])
def test_empty_commands_are_not_answered(client: FrameConnection, text: str) -> None:
    assert client.ask(text) == []
    assert client.ask("ping") == ["pong\n", "ok \n"]


def test_the_newline_of_a_value_is_removed(client: FrameConnection) -> None:
    client.ask("set a 1\n2\r\n3")
    assert client.ask("get a") == ["value 123\n", "ok \n"]
    client.ask("set a é\né")
    assert client.ask("get a") == ["value éé\n", "ok \n"]


@pytest.mark.parametrize("padding", ["", "x" * 200, "é", ";ping"])
@pytest.mark.parametrize("gap", ["\n", "\n\n", "\r\n", " \n", "\n "])
def test_a_newline_hides_no_secure_key(client: FrameConnection, gap: str, padding: str) -> None:
    """``get \\n$$token`` is ``get $$token`` when the line end is out of it."""
    for command in (f"get {gap}$$token", f"set {gap}$$token v{padding}"):
        answer = client.ask(command)
        assert answer[0] in (
            "error To read security keys you must auth as an admin! \n",
            "error get must contain a key \n",
            "error set must contain a key \n",
            "ok \n",
        )
        assert all("scrypt" not in text for text in answer)
    assert client.ask("use-db d t") == ["ok \n"]


def test_a_newline_does_not_get_past_what_only_the_server_writes(client: FrameConnection) -> None:
    assert client.ask("set \n$connections 9") == ["error $connections cannot be changed \n"]


def test_thousands_of_frames_are_answered_in_order(client: FrameConnection) -> None:
    commands = [f"set k{n} {n};get k{n}" for n in range(2000)]
    client.deliver(b"".join(client_frame(text.encode()) for text in commands))
    expected = [text for n in range(2000) for text in ("ok \n", f"value {n}\n", "ok \n")]
    assert client.received() == expected


def test_events_come_before_the_writers_ok(client: FrameConnection) -> None:
    client.ask("watch a")
    assert client.ask("set a 1") == ["changed a 1\n", "changed-version a 0 1\n", "ok \n"]


@pytest.mark.parametrize("size", [125, 126, 9_000])
def test_values_of_every_frame_length(client: FrameConnection, size: int) -> None:
    assert client.ask("set a " + "x" * size) == ["ok \n"]
    assert client.ask("get a") == ["value " + "x" * size + "\n", "ok \n"]


# -- frames in pieces --

STREAM = b"".join(
    [
        client_frame(b"set a 1"),
        client_frame(b"get a; get b"),
        part(b"set b ", TEXT, False),
        client_frame(b"are you there", PING),
        part(b"xy", CONTINUATION, False),
        part(b"z", CONTINUATION, True),
        client_frame(b"get b"),
        client_frame(b"set c " + b"y" * 300),
        client_frame("set é ü".encode()),
        client_frame(b""),
        client_frame("get é".encode()),
        client_frame(b"get c"),
    ]
)
ANSWERS = [
    (TEXT, b"ok \n"),
    (TEXT, b"value 1\n"),
    (TEXT, b"ok \n"),
    (TEXT, b"value <Empty>\n"),
    (TEXT, b"ok \n"),
    (TEXT, b"ok \n"),
    (TEXT, b"value xyz\n"),
    (TEXT, b"ok \n"),
    (TEXT, b"ok \n"),
    (TEXT, b"ok \n"),
    (TEXT, "value ü\n".encode()),
    (TEXT, b"ok \n"),
    (TEXT, b"value " + b"y" * 300 + b"\n"),
    (TEXT, b"ok \n"),
]


def answers(client: FrameConnection) -> list[tuple[int, bytes]]:
    """The text frames received; there must be the one pong too, which may overtake them."""
    frames = client.received_frames()
    frames.remove((PONG, b"are you there"))
    return frames


def test_whole(client: FrameConnection) -> None:
    client.deliver(STREAM)
    assert answers(client) == ANSWERS


def test_byte_by_byte(client: FrameConnection) -> None:
    for at in range(len(STREAM)):
        client.deliver(STREAM[at : at + 1])
    assert answers(client) == ANSWERS


@settings(max_examples=60)
@given(st.lists(st.integers(0, len(STREAM)), max_size=10), st.booleans())
def test_in_any_pieces(places: list[int], behind_the_handshake: bool) -> None:
    node = MemoryNode()
    node.admin("create-db d t").close()
    if behind_the_handshake:
        client: Connection = Connection(node, node.frames)
        before = UPGRADE + client_frame(b"use-db d t")
    else:
        client = selected(node)
        before = b""
    data = before + STREAM
    edges = sorted([0, *(place + len(before) // 2 for place in places), len(data)])
    for start, stop in itertools.pairwise(edges):
        client.deliver(data[start:stop])
    found = client.taken()
    if before:
        found = found.partition(b"\r\n\r\n")[2].removeprefix(b"\x81\x04ok \n")
    reader = FrameConnection(node)
    reader._buffer = found
    assert answers(reader) == ANSWERS


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_frame_begun_behind_the_handshake(node: MemoryNode, cut: int) -> None:
    client = Connection(node, node.frames)
    frame = client_frame(b"ping")
    client.deliver(UPGRADE + frame[:cut])
    client.deliver(frame[cut:])
    assert client.taken().endswith(b"\r\n\r\n\x81\x05pong\n\x81\x04ok \n")


def test_an_endless_handshake_is_cut_off(node: MemoryNode) -> None:
    client = Connection(node, node.frames)
    for _ in range(100):
        if client.closed:
            break
        client.deliver(b"X-Padding: " + b"x" * 1000 + b"\r\n")
        assert len(client.protocol.data) <= websocket.LONGEST_HANDSHAKE
    assert client.closed
    assert client.transport.aborted


# -- control frames --


def test_a_ping_is_answered(client: FrameConnection) -> None:
    client.deliver(client_frame(b"hello", PING))
    assert client.received_frames() == [(PONG, b"hello")]
    client.deliver(client_frame(b"unasked", PONG))
    assert client.received_frames() == []
    assert client.ask("ping") == ["pong\n", "ok \n"]


def test_a_close_frame_is_answered_with_its_code(client: FrameConnection) -> None:
    client.deliver(close_frame(1001, b"bye"))
    assert closing(client) == (1001, "bye")
    assert client.closed


def test_a_close_frame_without_a_code(client: FrameConnection) -> None:
    client.deliver(client_frame(b"", CLOSE))
    assert client.received_frames() == [(CLOSE, b"")]
    assert client.closed


def test_what_was_asked_is_answered_before_the_close(client: FrameConnection) -> None:
    client.deliver(client_frame(b"set a 1") + client_frame(b"get a") + close_frame(1000))
    frames = client.received_frames()
    assert frames == [
        (TEXT, b"ok \n"),
        (TEXT, b"value 1\n"),
        (TEXT, b"ok \n"),
        (CLOSE, b"\x03\xe8"),
    ]


def test_what_is_asked_after_a_close_frame_is_not_done(
    node: MemoryNode, client: FrameConnection
) -> None:
    other = selected(node)
    late = client_frame(b"set a 1") + client_frame(b"set a " + b"x" * 200)
    client.deliver(close_frame(1000) + late)
    assert closing(client) == (1000, "")
    assert client.closed
    assert other.ask("get a") == ["value <Empty>\n", "ok \n"]


def test_nothing_follows_a_close_frame(node: MemoryNode, client: FrameConnection) -> None:
    other = selected(node)
    client.ask("watch a")
    client.deliver(client_frame(b"x", BINARY))
    assert closing(client)[0] == 1003
    other.ask("set a 1")
    client.deliver(client_frame(b"get a") + client_frame(b"x", PING) + client_frame(b"get a" * 50))
    assert client.received_frames() == []
    assert other.ask("get $connections") == ["value 1\n", "ok \n"]
    client.deliver(close_frame(1003))
    assert client.closed


def test_a_client_that_does_not_answer_a_close_is_dropped(
    node: MemoryNode, client: FrameConnection
) -> None:
    client.deliver(client_frame(b"x", BINARY))
    assert not client.closed
    node.clock.advance(5)
    assert client.closed


def test_the_answer_to_a_close_is_read_behind_a_flood(
    node: MemoryNode, client: FrameConnection
) -> None:
    client.deliver(client_frame(b"x", BINARY) + client_frame(b"", PING) * 200)
    assert closing(client)[0] == 1003
    client.deliver(close_frame(1003))
    assert client.closed


def test_a_handshake_that_does_not_come_is_not_waited_for(node: MemoryNode) -> None:
    client = Connection(node, node.frames)
    client.deliver(UPGRADE[:50])
    node.clock.advance(9)
    assert not client.closed
    node.clock.advance(2)
    assert client.closed


def test_no_timer_is_left_behind(node: MemoryNode, client: FrameConnection) -> None:
    client.ask("get a")
    assert node.timers() == []
    client.deliver(close_frame(1000))
    assert node.timers() == []


def test_events_to_a_closing_connection(node: MemoryNode, client: FrameConnection) -> None:
    other = selected(node)
    client.ask("watch a")
    client.protocol.dataReceived(client_frame(b"set a 0"))
    other.protocol.dataReceived(client_frame(b"set a 1"))
    client.protocol.dataReceived(close_frame(1000))
    other.protocol.dataReceived(client_frame(b"set a 2"))
    node.settle()
    texts = client.received()
    assert texts[-1] == "<opcode 8>"
    assert "changed a 0\n" in texts
    assert "changed a 2\n" not in texts
    assert other.received() == ["ok \n", "ok \n"]
    assert not node.node.catalogue.by_name[b"d"].watchers


def test_the_node_stops_with_a_close_frame(node: MemoryNode, client: FrameConnection) -> None:
    client.protocol.dataReceived(client_frame(b"get a"))
    node.frames.finish_all()
    node.settle()
    assert client.received_frames() == [
        (TEXT, b"value <Empty>\n"),
        (TEXT, b"ok \n"),
        (CLOSE, b"\x03\xe9the node is stopping"),
    ]


# -- what is refused --

WRONG = {
    "binary": (client_frame(b"get a", BINARY), 1003),
    "unmasked": (b"\x81\x05get a", 1002),
    "reserved bit 1": (b"\xc1" + client_frame(b"get a")[1:], 1002),
    "reserved bit 2": (b"\xa1" + client_frame(b"get a")[1:], 1002),
    "reserved bit 3": (b"\x91" + client_frame(b"get a")[1:], 1002),
    "reserved data opcode": (client_frame(b"get a", 3), 1002),
    "reserved control opcode": (client_frame(b"get a", 11), 1002),
    "fragmented ping": (part(b"x", PING, False), 1002),
    "long ping": (client_frame(b"x" * 126, PING), 1002),
    "continuation of nothing": (part(b"x", CONTINUATION, True), 1002),
    "text inside a message": (part(b"x", TEXT, False) + client_frame(b"get a"), 1002),
    "length in more bytes than needed": (b"\x81\xfe\x00\x01abcdx", 1002),
    "close with one byte": (client_frame(b"x", CLOSE), 1002),
    "close with a code that is none": (close_frame(999), 1002),
    "close with a reason that is not UTF-8": (close_frame(1000, b"\xff"), 1007),
    "small text that is not UTF-8": (client_frame(b"set k \xff"), 1007),
    "large text that is not UTF-8": (client_frame(b"set k \xff" + b"x" * 500), 1007),
    "text that ends in a character": (client_frame(b"set k \xc3"), 1007),
    "two texts that are UTF-8 together": (
        client_frame(b"set k \xc3") + client_frame(b"\xa9"),
        1007,
    ),
    "fragments that are not UTF-8": (
        part(b"set k \xc3", TEXT, False) + part(b"(", CONTINUATION, True),
        1007,
    ),
    "fragments that end in a character": (
        part(b"set k ", TEXT, False) + part(b"\xc3", CONTINUATION, True),
        1007,
    ),
    "frame over the limit": (client_frame(b"set k " + b"x" * 10_000), 1009),
    "message over the limit": (
        part(b"set k " + b"x" * 6_000, TEXT, False) + part(b"x" * 6_000, CONTINUATION, True),
        1009,
    ),
    "frame of half of all numbers": (
        b"\x81\xff" + (1 << 62).to_bytes(8, "big") + b"abcd" + b"x" * 100,
        1009,
    ),
}


@pytest.mark.parametrize("pieces", ["whole", "bytes", "among others"])
@pytest.mark.parametrize("name", sorted(WRONG))
def test_what_is_wrong_closes_with_a_reason(
    node: MemoryNode, client: FrameConnection, name: str, pieces: str
) -> None:
    data, expected = WRONG[name]
    if pieces == "bytes":
        for at in range(len(data)):
            client.deliver(data[at : at + 1])
    elif pieces == "among others":
        client.deliver(client_frame(b"set a 1") + data + client_frame(b"set a 2") * 3)
    else:
        client.deliver(data)
    code, reason = closing(client)
    assert code == expected
    assert reason
    other = selected(node)
    if pieces == "among others":
        assert other.ask("get a") == ["value 1\n", "ok \n"]
    assert other.ask("get k") == ["value <Empty>\n", "ok \n"]
    assert other.ask("get $connections") == ["value 1\n", "ok \n"]


def test_a_character_may_be_cut_between_fragments(client: FrameConnection) -> None:
    client.deliver(part(b"set k \xc3", TEXT, False) + part(b"\xa9", CONTINUATION, True))
    assert client.ask("get k") == ["ok \n", "value é\n", "ok \n"][1:]


def test_a_frame_at_the_limit_is_taken(client: FrameConnection) -> None:
    assert client.ask("set k " + "x" * (10_000 - 6)) == ["ok \n"]


def test_a_frame_over_the_limit_takes_no_memory(client: FrameConnection) -> None:
    client.deliver(b"\x81\xff" + (1 << 40).to_bytes(8, "big") + b"abcd")
    for _ in range(50):
        client.deliver(b"x" * 65536)
    protocol = client.protocol
    assert len(protocol.data) + len(protocol._pending) < 100_000
    assert sum(map(len, getattr(protocol, "frame_data", None) or [])) < 100_000
    assert sum(map(len, getattr(protocol, "message_data", None) or [])) < 100_000


@pytest.mark.parametrize(
    "request_head", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\r\n\r\n"]
)
def test_what_is_no_handshake_is_refused(node: MemoryNode, request_head: bytes) -> None:
    client = Connection(node, node.frames)
    client.deliver(request_head)
    assert client.taken().startswith(b"HTTP/1.1 4")
    assert client.closed
    assert node.node.counters.connections == 0


# -- floods --


class Counting:
    """Counts the frames given to the general parser between two looks."""

    def __init__(self, client: FrameConnection) -> None:
        self.count = 0
        self._give = client.protocol._dataReceived
        client.protocol._dataReceived = self

    def __call__(self, data: bytes) -> None:
        self.count += 1
        self._give(data)


@pytest.mark.parametrize(
    "odd",
    [
        client_frame(b"", PONG),
        client_frame(b"", PING),
        part(b"", TEXT, False) + part(b"", CONTINUATION, True),
        client_frame(b"x" * 126),
    ],
)
def test_a_flood_of_odd_frames_is_eaten_a_few_a_turn(
    node: MemoryNode, client: FrameConnection, odd: bytes
) -> None:
    other = selected(node)
    counting = Counting(client)
    total = 1000
    client.protocol.dataReceived(odd * total)
    most, turns = counting.count, 1
    answered = None
    other.protocol.dataReceived(client_frame(b"ping"))
    while client.protocol._pending:
        assert client.transport.producerState == "paused"
        before = counting.count
        due = min(call.time for call in node.timers())
        calls = [c for c in node.timers() if c.time == due]
        run_one(node, calls[0])
        most = max(most, counting.count - before)
        turns += 1
        if answered is None and other.received() == ["pong\n", "ok \n"]:
            answered = turns
    assert most <= websocket.FRAMES_A_TURN
    assert counting.count >= total
    assert answered is not None
    assert answered < turns / 4
    node.settle()
    assert client.transport.producerState == "producing"
    client.received_frames()
    assert client.ask("ping") == ["pong\n", "ok \n"]


def run_one(node: MemoryNode, call: object) -> None:
    """Make one due call, and not those that it asks for."""
    assert call in node.timers()
    call.pending, call.called = False, True  # type: ignore[attr-defined]
    call.function(*call.args, **call.kwargs)  # type: ignore[attr-defined]


def test_commands_after_a_flood_keep_their_place(client: FrameConnection) -> None:
    flood = client_frame(b"", PING) * 200
    client.deliver(client_frame(b"set a 1") + flood + client_frame(b"get a"))
    frames = client.received_frames()
    assert frames.count((PONG, b"")) == 200
    texts = [payload for opcode, payload in frames if opcode == TEXT]
    assert texts == [b"ok \n", b"value 1\n", b"ok \n"]


def test_what_comes_during_a_flood_waits_behind_it(client: FrameConnection) -> None:
    client.protocol.dataReceived(client_frame(b"", PING) * 100 + client_frame(b"set a 1")[:3])
    client.protocol.dataReceived(client_frame(b"set a 1")[3:] + client_frame(b"get a"))
    client.node.settle()
    texts = [payload for opcode, payload in client.received_frames() if opcode == TEXT]
    assert texts == [b"ok \n", b"value 1\n", b"ok \n"]


def test_a_watcher_that_does_not_read_is_cut_off() -> None:
    node = MemoryNode(limits=Limits(output_limit=20_000))
    node.admin("create-db d t").close()
    slow, writer = selected(node), selected(node)
    slow.ask("watch a")
    slow.transport.producer.pauseProducing()
    for _ in range(10):
        writer.ask("set a " + "x" * 3_000)
    assert slow.transport.aborted
    assert slow.closed
    assert writer.ask("get $connections") == ["value 1\n", "ok \n"]
    assert node.node.counters.watchers_closed == 1


def test_a_connection_lost_in_a_flood(node: MemoryNode, client: FrameConnection) -> None:
    client.protocol.dataReceived(client_frame(b"", PING) * 1000)
    client.close()
    node.settle()
    assert selected(node).ask("get $connections") == ["value 1\n", "ok \n"]


def test_a_full_transport_is_not_read_and_loses_nothing(client: FrameConnection) -> None:
    producer = client.transport.producer
    producer.pauseProducing()
    assert client.transport.producerState == "paused"
    client.protocol.dataReceived(client_frame(b"set a 1") + client_frame(b"get a"))
    client.node.settle()
    assert client.received() == []
    producer.resumeProducing()
    client.node.settle()
    assert client.received() == ["ok \n", "value 1\n", "ok \n"]
    assert client.transport.producerState == "producing"
