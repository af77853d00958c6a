"""RFC 6455, rule by rule, in raw bytes: whole, byte by byte, and behind what is right."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuntwist.core.limits import Limits
from nuntwist.testing import FrameConnection, MemoryNode

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
LIMIT = 100_000
PIECES = ["whole", "bytes", "behind"]
MASK = b"\x01\x02\x03\x04"
MANY = 65_536


def raw(
    payload: bytes,
    opcode: int = TEXT,
    final: bool = True,
    reserved: int = 0,
    masked: bool = True,
    length: bytes | None = None,
) -> bytes:
    """A frame, right or wrong.

    :param length: the seven bits of the length, and what more there is of it, where it is not as
        short as it can be.
    """
    size = len(payload)
    if length is None:
        if size < 126:
            length = bytes((size,))
        else:
            wide = size >= MANY
            length = (
                b"\x7f" + struct.pack(">Q", size) if wide else b"\x7e" + struct.pack(">H", size)
            )
    first = bytes((0x80 * final | reserved << 4 | opcode,))
    if not masked:
        return first + length + payload
    covered = bytes(byte ^ MASK[at & 3] for at, byte in enumerate(payload))
    return first + bytes((length[0] | 0x80,)) + length[1:] + MASK + covered


def close(code: int, reason: bytes = b"") -> bytes:
    return raw(code.to_bytes(2, "big") + reason, CLOSE)


@pytest.fixture
def node() -> MemoryNode:
    node = MemoryNode(limits=Limits(line=LIMIT))
    node.admin("create-db d t").close()
    return node


@pytest.fixture
def client(node: MemoryNode) -> FrameConnection:
    client = node.ws()
    assert client.ask("use-db d t") == ["ok \n"]
    return client


def deliver(client: FrameConnection, data: bytes, pieces: str) -> list[tuple[int, bytes]]:
    """Let it arrive, and give the frames that come back."""
    if pieces == "bytes":
        for at in range(len(data)):
            client.deliver(data[at : at + 1])
    elif pieces == "behind":
        client.deliver(raw(b"set a 1") + data)
        frames = client.received_frames()
        # A pong may overtake it.
        assert next(one for one in frames if one[0] != PONG) == (TEXT, b"ok \n")
        frames.remove((TEXT, b"ok \n"))
        return frames
    else:
        client.deliver(data)
    return client.received_frames()


def refused(client: FrameConnection, data: bytes, pieces: str, code: int) -> None:
    """It is the end of the connection, and nothing else comes of it."""
    others = [one for one in deliver(client, data, pieces) if one[0] != PONG]
    ((opcode, payload),) = others
    assert opcode == CLOSE
    assert int.from_bytes(payload[:2], "big") == code
    payload[2:].decode()
    # What comes behind it is not looked at, and the connection ends without an answer too.
    client.deliver(raw(b"set k late"))
    client.node.clock.advance(5.0)
    assert client.received_frames() == []
    assert client.closed
    other = client.node.ws()
    assert other.ask("use-db d t") == ["ok \n"]
    assert other.ask("get k") == ["value <Empty>\n", "ok \n"]


# -- close frames --


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("code", [*range(1000, 1004), *range(1007, 1012), 3000, 3999, 4000, 4999])
def test_a_code_that_may_be_sent_comes_back(
    client: FrameConnection, code: int, pieces: str
) -> None:
    frame = close(code, "grüße".encode())
    assert deliver(client, frame, pieces) == [(CLOSE, struct.pack(">H", code) + "grüße".encode())]
    assert client.closed


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize(
    "code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535]
)
def test_a_code_that_may_not(client: FrameConnection, code: int, pieces: str) -> None:
    refused(client, close(code), pieces, 1002)


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\x03", 1002),
        (b"\x03\xe8\xff", 1007),
        (b"\x03\xe8" + "ü".encode()[:1], 1007),
        (b"\x03\xe8" + b"x" * 120 + b"\xed\xa0\x80", 1007),
    ],
)
def test_a_close_frame_that_is_wrong(
    client: FrameConnection, payload: bytes, code: int, pieces: str
) -> None:
    refused(client, raw(payload, CLOSE), pieces, code)


@pytest.mark.parametrize("pieces", PIECES)
def test_close_frames_as_long_and_as_short_as_can_be(node: MemoryNode, pieces: str) -> None:
    for payload in (b"", b"\x03\xe8", b"\x03\xe8" + b"x" * 123):
        client = node.ws()
        client.ask("use-db d t")
        assert deliver(client, raw(payload, CLOSE), pieces) == [(CLOSE, payload)]
        assert client.closed


# -- fragments --


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("opcode", [PING, PONG])
def test_control_frames_between_fragments(
    client: FrameConnection, opcode: int, pieces: str
) -> None:
    control = [raw(b"%d" % number, opcode) for number in range(3)]
    data = b"".join(
        [
            raw(b"set k ", final=False),
            control[0],
            raw(b"", CONTINUATION, final=False),
            control[1],
            raw(b"vw", CONTINUATION, final=False),
            control[2],
            raw(b"x", CONTINUATION),
            raw(b"get k"),
        ]
    )
    frames = deliver(client, data, pieces)
    pongs = [(PONG, b"%d" % number) for number in range(3)] if opcode == PING else []
    assert [one for one in frames if one[0] == PONG] == pongs
    texts = [payload for number, payload in frames if number == TEXT]
    assert texts == [b"ok \n", b"value vwx\n", b"ok \n"]


@pytest.mark.parametrize("pieces", PIECES)
def test_a_close_between_fragments(client: FrameConnection, pieces: str) -> None:
    frames = deliver(client, raw(b"set k ", final=False) + close(1000), pieces)
    assert frames == [(CLOSE, b"\x03\xe8")]
    assert client.closed


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize(
    "data",
    [
        raw(b"x", CONTINUATION),
        raw(b"x", CONTINUATION, final=False),
        raw(b"", CONTINUATION),
        raw(b"get ", final=False) + raw(b"a", CONTINUATION) + raw(b"x", CONTINUATION),
        raw(b"set k ", final=False) + raw(b"set k x"),
        raw(b"set k ", final=False) + raw(b"set k x", final=False),
        raw(b"set k ", final=False) + raw(b"x", BINARY),
        raw(b"x", PING, final=False),
        raw(b"x", PONG, final=False),
        raw(b"\x03\xe8", CLOSE, final=False),
        raw(b"", PING, final=False),
        raw(b"set k ", final=False) + raw(b"x", PING, final=False),
    ],
)
def test_fragments_that_are_wrong(client: FrameConnection, data: bytes, pieces: str) -> None:
    frames = deliver(client, data, pieces)
    opcode, payload = frames[-1]
    assert (opcode, payload[:2]) == (CLOSE, b"\x03\xea")
    other = client.node.ws()
    other.ask("use-db d t")
    assert other.ask("get k") == ["value <Empty>\n", "ok \n"]


# -- bits and opcodes --


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("reserved", range(1, 8))
@pytest.mark.parametrize("size", [7, 200])
def test_reserved_bits(client: FrameConnection, reserved: int, size: int, pieces: str) -> None:
    refused(client, raw(b"set k x".ljust(size, b"x"), reserved=reserved), pieces, 1002)


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE, CONTINUATION, BINARY])
def test_reserved_bits_of_other_frames(client: FrameConnection, opcode: int, pieces: str) -> None:
    payload = b"\x03\xe8" if opcode == CLOSE else b"x"
    refused(client, raw(payload, opcode, reserved=4), pieces, 1002)


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("payload", [b"", b"set k x", b"x" * 200])
def test_reserved_opcodes(
    client: FrameConnection, opcode: int, payload: bytes, pieces: str
) -> None:
    refused(client, raw(payload, opcode), pieces, 1002)


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY, CONTINUATION, PING, PONG, CLOSE])
@pytest.mark.parametrize("size", [0, 7, 120, 300])
def test_frames_without_a_mask(
    client: FrameConnection, opcode: int, size: int, pieces: str
) -> None:
    payload = b"set k x".ljust(size, b"x")[:size]
    refused(client, raw(payload, opcode, masked=False), pieces, 1002)


# -- lengths --


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
@pytest.mark.parametrize("size", [126, 127, 300, MANY])
def test_control_frames_that_are_too_long(
    client: FrameConnection, opcode: int, size: int, pieces: str
) -> None:
    # The head says it all; of a long one no more is waited for.
    refused(client, raw(b"\x03\xe8".ljust(size, b"x"), opcode)[:20], pieces, 1002)


def test_a_control_frame_as_long_as_can_be(client: FrameConnection) -> None:
    assert deliver(client, raw(b"x" * 125, PING), "bytes") == [(PONG, b"x" * 125)]


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("opcode", [TEXT, PING])
@pytest.mark.parametrize(
    ("size", "length"),
    [
        (0, b"\x7e\x00\x00"),
        (7, b"\x7e\x00\x07"),
        (125, b"\x7e\x00\x7d"),
        (0, b"\x7f" + bytes(8)),
        (7, b"\x7f" + struct.pack(">Q", 7)),
        (125, b"\x7f" + struct.pack(">Q", 125)),
        (126, b"\x7f" + struct.pack(">Q", 126)),
        (65_535, b"\x7f" + struct.pack(">Q", 65_535)),
        # The highest bit is not used.
        (7, b"\x7f" + struct.pack(">Q", 1 << 63 | 7)),
        (7, b"\x7f" + b"\xff" * 8),
    ],
)
def test_lengths_that_are_written_wrong(
    client: FrameConnection, opcode: int, size: int, length: bytes, pieces: str
) -> None:
    data = raw(b"set k x".ljust(size, b"x")[:size], opcode, length=length)
    refused(client, data[:300] if pieces == "bytes" else data, pieces, 1002)


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize(
    "size", [LIMIT + 1, 1 << 31, 1 << 32, (1 << 32) + 5, 1 << 53, (1 << 63) - 1]
)
def test_lengths_over_the_limit_are_not_waited_for(
    client: FrameConnection, size: int, pieces: str
) -> None:
    head = raw(b"", length=b"\x7f" + struct.pack(">Q", size))
    refused(client, head, pieces, 1009)


@pytest.mark.parametrize("pieces", PIECES)
def test_fragments_over_the_limit(client: FrameConnection, pieces: str) -> None:
    """The last one is refused at its head."""
    half = b"x" * (LIMIT // 2)
    client.deliver(raw(b"set k " + half, final=False))
    refused(client, raw(half, CONTINUATION)[:20], "bytes" if pieces == "behind" else pieces, 1009)


@pytest.mark.parametrize("size", [0, 1, 124, 125, 126, 127, 65_535, 65_536, LIMIT - 6])
def test_lengths_that_are_right(client: FrameConnection, size: int) -> None:
    client.deliver(raw(b"set k " + b"x" * size) + raw(b"get k"))
    frames = client.received_frames()
    assert frames[-2][1][:6] == b"value "
    assert frames[-2][1].count(b"x") == size


# -- UTF-8 --

BAD_TEXTS = {
    "a byte that is never there": b"\xff",
    "a continuation alone": b"\x80",
    "longer than need be": b"\xc0\xaf",
    "longer than need be, in three": b"\xe0\x80\xaf",
    "longer than need be, in four": b"\xf0\x80\x80\xaf",
    "half of a pair": b"\xed\xa0\x80",
    "beyond the last": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "cut off by another": b"\xe2\x82x",
}


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("name", sorted(BAD_TEXTS))
@pytest.mark.parametrize("behind", [b"", b"y" * 300])
def test_texts_that_are_not_utf_8(
    client: FrameConnection, name: str, behind: bytes, pieces: str
) -> None:
    refused(client, raw(b"set k " + BAD_TEXTS[name] + behind), pieces, 1007)


@pytest.mark.parametrize("name", sorted(BAD_TEXTS))
def test_fragments_that_are_not_utf_8_however_they_are_cut(node: MemoryNode, name: str) -> None:
    text = b"set k " + BAD_TEXTS[name]
    for cut in range(1, len(text)):
        client = node.ws()
        data = raw(text[:cut], final=False) + raw(text[cut:], CONTINUATION)
        refused(client, data, "whole", 1007)


@pytest.mark.parametrize("name", sorted(BAD_TEXTS))
def test_a_text_that_is_wrong_is_not_waited_for(node: MemoryNode, name: str) -> None:
    """Neither the other fragments nor the rest of a long frame."""
    bad = b"set k " + BAD_TEXTS[name]
    client = node.ws()
    refused(client, raw(bad, final=False), "whole", 1007)
    client = node.ws()
    long = raw(bad + b"y" * 50_000)
    refused(client, long[: 20 + len(bad)], "whole", 1007)


@pytest.mark.parametrize("text", ["é", "€", "\U0001f600", "\U0010ffff", "\ue000", "\u0800"])
def test_a_character_may_be_cut_wherever(client: FrameConnection, text: str) -> None:
    encoded = text.encode()
    for cut in range(1, len(encoded)):
        client.deliver(raw(b"set k ", final=False) + raw(encoded[:cut], CONTINUATION, final=False))
        client.deliver(raw(b"", PING) + raw(encoded[cut:], CONTINUATION))
        client.received_frames()
        assert client.ask("get k") == [f"value {text}\n", "ok \n"]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG, 3, 11]),
            st.booleans(),
            st.sampled_from([0, 0, 0, 1, 4]),
            st.booleans(),
            st.one_of(st.binary(max_size=6), st.just(b"ping"), st.just(b"x" * 130)),
        ),
        max_size=6,
    ),
    st.lists(st.integers(0, 400), max_size=6),
)
def test_any_frames_in_any_pieces_end_as_they_do_whole(
    frames: list[tuple[int, bool, int, bool, bytes]], cuts: list[int]
) -> None:
    """Which code it is must not hang on how the network cuts them."""
    data = b"".join(
        raw(payload, opcode, final, reserved, masked)
        for opcode, final, reserved, masked, payload in frames
    )
    outcomes = []
    for places in ([], sorted(cut for cut in cuts if cut < len(data)), list(range(len(data)))):
        client = MemoryNode().ws()
        edges = [0, *places, len(data)]
        for start, stop in itertools.pairwise(edges):
            client.deliver(data[start:stop])
        got = client.received_frames()
        client.node.clock.advance(5.0)
        outcomes.append(([one for one in got if one[0] != PONG], client.closed))
    assert outcomes[0] == outcomes[1] == outcomes[2]
