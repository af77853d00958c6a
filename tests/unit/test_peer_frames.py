"""Messages between nodes as bytes: there and back, in any pieces, and damage."""

from __future__ import annotations

import struct
import tracemalloc
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuntwist.cluster import frames
from nuntwist.cluster.arbiters import Arbiter, Arbiters, Assigned
from nuntwist.cluster.ballots import (
    Alive,
    Ask,
    Beat,
    Obeyed,
    Rank,
    Release,
    Stale,
    Stand,
    Victory,
    Vote,
    Would,
)
from nuntwist.cluster.checks import Checked, Differs
from nuntwist.cluster.confirming import Confirm, Confirmed
from nuntwist.cluster.copies import (
    CopyBegins,
    CopyEnds,
    CopyLost,
    CopyPiece,
    CopyTaken,
    CopyWanted,
)
from nuntwist.cluster.counting import Count, Counted
from nuntwist.cluster.forwards import Behind, Forward, Outcome
from nuntwist.cluster.frame_forms import FrameError
from nuntwist.cluster.frame_kinds import KINDS
from nuntwist.cluster.frames import FrameReader, Message, encode
from nuntwist.cluster.greeting import Admitted, Hello, Invited, Joining, Whole
from nuntwist.cluster.offers import Offer, Offered
from nuntwist.cluster.stream import Applied, Cut, Have, Idle, Records, Refused
from nuntwist.core.copying import Outline
from nuntwist.core.forwards import Item
from nuntwist.values import Epoch, Position

U64 = st.integers(0, 2**64 - 1)
EPOCHS = st.builds(Epoch, U64, U64)
POSITIONS = st.builds(Position, EPOCHS, U64)
RANKS = st.builds(Rank, POSITIONS, st.integers(-(2**63), 2**63 - 1), U64)
U8 = st.integers(0, 255)
TEXTS = st.binary(max_size=50)
ITEMS = st.builds(
    Item,
    *(st.none() | U64, st.none() | TEXTS, st.booleans(), TEXTS, st.none() | TEXTS),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
OUTLINES = st.builds(Outline, U64, TEXTS, TEXTS, U64)
TIMES = st.floats(allow_nan=False)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Ask, U64, RANKS, st.booleans(), U64),
    st.builds(Would, U64, st.booleans()),
    st.builds(Stand, U64, RANKS, U64),
    st.builds(Vote, U64),
    st.builds(Alive, U64, RANKS),
    st.builds(Stale, U64),
    st.builds(Victory, U64, TIMES),
    st.builds(Beat, U64, TIMES),
    st.builds(Obeyed, U64, TIMES, POSITIONS),
    st.builds(Release, U64, U64),
    st.builds(Have, U64, POSITIONS, st.lists(st.tuples(EPOCHS, U64), max_size=64).map(tuple)),
    st.builds(Cut, U64, U64),
    st.builds(Records, U64, POSITIONS, U64, st.binary(max_size=300)),
    st.builds(Applied, U64, U64, U64),
    st.builds(Refused, U64, POSITIONS),
    st.builds(Idle, U64),
    st.builds(CopyWanted, U64, U64, U64),
    st.builds(CopyBegins, U64, U64, POSITIONS, U64, st.lists(OUTLINES, max_size=5).map(tuple)),
    st.builds(CopyPiece, U64, U64, U64, st.binary(max_size=300)),
    st.builds(CopyEnds, U64, U64, U64, U64, st.integers(0, 2**32 - 1)),
    st.builds(CopyTaken, U64, U64, U64),
    st.builds(CopyLost, U64, U64),
    st.builds(Checked, U64, U64, U64),
    st.builds(Differs, U64, U64),
    st.builds(Forward, U64, U8, U64, st.lists(ITEMS, max_size=5).map(tuple)),
    st.builds(Outcome, U64, U8, U64, U64, st.binary(max_size=300)),
    st.builds(Behind, U64, U8, U64, U64),
    st.builds(
        Hello,
        U64,
        U64,
        *[st.booleans()] * 5,
        st.integers(-(2**63), 2**63 - 1),
        POSITIONS,
    ),
    st.builds(Offer, U64, U64, st.binary(max_size=300)),
    st.builds(Offered, U64, U64, U64, U64),
    st.builds(Joining, U64, U64),
    st.builds(Admitted, U64, st.binary(max_size=300)),
    st.builds(Whole, U64),
    st.builds(Invited, U64, U64),
    st.builds(Confirm, U64, U64),
    st.builds(Confirmed, U64, U64, U64),
    st.builds(Count, U64, U64, U64, st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)),
    st.builds(Counted, U64, U64),
    st.builds(
        Arbiters,
        U64,
        st.lists(
            st.builds(
                Arbiter,
                *(U64, U64),
                st.none() | st.binary(max_size=20),
                st.booleans(),
                st.none() | st.binary(max_size=20),
            ),
            max_size=5,
        ).map(tuple),
    ),
    st.builds(Assigned, U64, U64, U64, U64, st.binary(max_size=300)),
)


def fed(data: bytes, size: int, limit: int = frames.LARGEST) -> list[Message]:
    """What comes out of pieces of a size."""
    reader = FrameReader(limit)
    return [
        message for at in range(0, len(data), size) for message in reader.feed(data[at : at + size])
    ]


def framed(kind: int, body: bytes) -> bytes:
    """A frame with a right checksum around whatever there is."""
    length = struct.pack("<I", len(body))
    return length + struct.pack("<IB", crc32(length + bytes((kind,)) + body), kind) + body


@given(st.lists(MESSAGES, max_size=6), st.integers(1, 40))
def test_there_and_back_in_any_pieces(messages: list[Message], size: int) -> None:
    data = b"".join(map(encode, messages))
    assert fed(data, size) == messages
    assert fed(data, max(1, len(data))) == messages


def test_each_kind_of_message_has_a_number_and_keeps_its_bytes() -> None:
    numbers = {
        *range(1, 11),
        *range(16, 30),
        *range(30, 33),
        34,
        35,
        *range(40, 51),
    }
    assert set(KINDS) == numbers
    rank = Rank(Position(Epoch(1, 2), 3), -4, 5)
    assert encode(Ask(6, rank, True, 7)) == framed(
        1, struct.pack("<QQBQQQqQ", 6, 7, 1, 1, 2, 3, -4, 5)
    )
    assert encode(Beat(6, 1.5)) == framed(8, struct.pack("<Qd", 6, 1.5))
    have = Have(6, Position(Epoch(1, 2), 3), ((Epoch(1, 2), 1),))
    assert encode(have) == framed(16, struct.pack("<QQQQHQQQ", 6, 1, 2, 3, 1, 1, 2, 1))
    records = Records(6, Position(Epoch(1, 2), 3), 2, b"records")
    assert encode(records) == framed(18, struct.pack("<QQQQQ", 6, 1, 2, 3, 2) + b"records")
    begins = CopyBegins(6, 5, Position(Epoch(1, 2), 3), 4, (Outline(9, b"name", b"none", 8),))
    assert encode(begins) == framed(
        23, struct.pack("<QQQQQQQQII", 6, 5, 1, 2, 3, 4, 9, 8, 4, 4) + b"namenone"
    )
    assert encode(CopyPiece(6, 5, 4, b"..")) == framed(24, struct.pack("<QQQ", 6, 5, 4) + b"..")
    forward = Forward(
        *(6, 1, 7),
        (Item(3, b"ann", False, b"set k v", b"w *", 1.5), Item(None, None, True, b"x")),
    )
    assert encode(forward) == framed(
        30,
        struct.pack("<QBQ", 6, 1, 7)
        + struct.pack("<BQIII", 27, 3, 3, 7, 3)
        + b"annset k vw *"
        + struct.pack("<d", 1.5)
        + struct.pack("<BQIII", 4, 0, 0, 1, 0)
        + b"x",
    )
    arbiters = Arbiters(6, (Arbiter(7, 8, b"ann", False, b"a *"), Arbiter(9, 8, None, True)))
    assert encode(arbiters) == framed(
        49,
        struct.pack("<QQQBII", 6, 7, 8, 5, 3, 3) + b"anna *" + struct.pack("<QQBII", 9, 8, 2, 0, 0),
    )
    assert encode(Assigned(6, 5, 8, 7, b"k")) == framed(50, struct.pack("<QQQQ", 6, 5, 8, 7) + b"k")
    assert encode(Outcome(6, 1, 7, 8, b"..")) == framed(
        31, struct.pack("<QBQQ", 6, 1, 7, 8) + b".."
    )


@given(MESSAGES, st.data())
def test_damage_is_never_another_message(message: Message, data: st.DataObject) -> None:
    frame = bytearray(encode(message))
    place = data.draw(st.integers(0, len(frame) - 1))
    frame[place] ^= data.draw(st.integers(1, 255))
    reader = FrameReader(limit=100_000)
    try:
        found = reader.feed(bytes(frame))
    except FrameError:
        return
    # Its length says now that there is more to come.
    assert found == []
    assert place < 4


@given(MESSAGES)
def test_a_frame_that_is_not_whole_waits(message: Message) -> None:
    frame = encode(message)
    for end in range(len(frame)):
        reader = FrameReader()
        assert reader.feed(frame[:end]) == []
        assert reader.feed(frame[end:]) == [message]


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (framed(99, b""), "kind 99"),
        (framed(0, b"\0" * 8), "kind 0"),
        (framed(4, b"\0" * 7), "a body of 7 bytes, where 8 must be"),
        (framed(4, b"\0" * 9), "a body of 9 bytes"),
        (framed(2, b"\0" * 8 + b"\2"), "2 is no flag"),
        (framed(16, b"\0" * 33), "before its list"),
        (framed(16, b"\0" * 32 + b"\1\0"), "no room for 1 epochs"),
        (framed(16, b"\0" * 32 + b"\1\0" + b"\0" * 25), "no room for 1 epochs"),
        (framed(18, b"\0" * 39), "before its records"),
        (framed(30, b"\0" * 16), "before its commands"),
        (framed(30, b"\0" * 17 + b"\1" * 16), "cut short"),
        (framed(30, b"\0" * 17 + b"\0" * 9 + b"\1\0\0\0" + b"\0" * 4), "cut short"),
        (framed(30, b"\0" * 17 + b"\x20" + b"\0" * 20), "flags"),
        (framed(30, b"\0" * 17 + b"\x10" + b"\0" * 27), "cut short"),
        (framed(30, b"\0" * 17 + b"\x10" + b"\0" * 20 + b"\xff" * 8), "until no time"),
        (framed(31, b"\0" * 24), "before its replies"),
        (framed(49, b"\0" * 7), "before its arbiters"),
        (framed(49, b"\0" * 8 + b"\0" * 24), "cut short"),
        (framed(49, b"\0" * 8 + b"\0" * 16 + b"\x08" + b"\0" * 8), "flags"),
        (framed(49, b"\0" * 8 + b"\0" * 16 + b"\1" + b"\2\0\0\0\0\0\0\0x"), "cut short"),
        (framed(49, b"\0" * 8 + b"\0" * 16 + b"\5" + b"\1\0\0\0\1\0\0\0x"), "cut short"),
        # It has a user, or a list, where it says that there is none.
        (framed(49, b"\0" * 8 + b"\0" * 16 + b"\4" + b"\1\0\0\0\0\0\0\0x"), "flags"),
        (framed(49, b"\0" * 8 + b"\0" * 16 + b"\1" + b"\0\0\0\0\1\0\0\0x"), "flags"),
        (framed(49, b"\0" * 8 + b"\0" * 25 * 1_001), "1001 arbiters; a node has 1000"),
        (framed(50, b"\0" * 31), "before its key"),
        (framed(4, b"\0" * 8)[:-1] + b"\1", "checksum"),
    ],
)
def test_what_is_no_message_ends_it(frame: bytes, why: str) -> None:
    with pytest.raises(FrameError, match=why):
        FrameReader().feed(frame)


def test_what_is_whole_before_it_is_lost_with_the_link() -> None:
    with pytest.raises(FrameError):
        FrameReader().feed(encode(Vote(1)) + framed(99, b""))


def test_a_frame_over_the_limit_is_refused_before_it_is_kept() -> None:
    reader = FrameReader(limit=100)
    assert reader.feed(encode(Records(1, Position(Epoch(1, 1), 1), 0, b"x" * 60))) != []
    with pytest.raises(FrameError, match="a frame of 101 bytes; the limit is 100"):
        reader.feed(encode(Records(1, Position(Epoch(1, 1), 1), 0, b"x" * 61))[:9])


def test_a_large_frame_in_small_pieces_is_put_together_once() -> None:
    frame = encode(Records(1, Position(Epoch(1, 1), 1), 0, b"x" * 4_000_000))
    reader = FrameReader()
    tracemalloc.start()
    try:
        for at in range(0, len(frame) - 1_000, 1_000):
            assert reader.feed(frame[at : at + 1_000]) == []
        _, highest = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert highest < 1.2 * len(frame)
    (message,) = reader.feed(frame[at + 1_000 :])
    assert isinstance(message, Records)
    assert len(message.data) == 4_000_000
