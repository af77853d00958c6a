"""The quick reader of small frames takes what a slow one would, and nothing else."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from nuntwist.net.frames import frame_size, small_texts
from nuntwist.testing import client_frame


def slow_small_texts(data: bytes) -> tuple[list[bytes], int]:
    """RFC 6455, 5.2, a byte at a time: whole, final, text, masked, under 126 bytes."""
    texts, at = [], 0
    while len(data) - at >= 2:
        final, reserved, opcode = data[at] >> 7, (data[at] >> 4) & 7, data[at] & 15
        masked, size = data[at + 1] >> 7, data[at + 1] & 127
        whole = 2 + 4 + size
        if (final, reserved, opcode, masked) != (1, 0, 1, 1) or size > 125:
            break
        if len(data) - at < whole:
            break
        mask = data[at + 2 : at + 6]
        covered = data[at + 6 : at + whole]
        texts.append(bytes(byte ^ mask[i % 4] for i, byte in enumerate(covered)))
        at += whole
    return texts, at


MASKS = st.binary(min_size=4, max_size=4)
SMALL = st.builds(client_frame, st.binary(max_size=125), mask=MASKS)
OTHER = st.one_of(
    st.builds(
        client_frame,
        st.binary(max_size=130).map(lambda data: data * 2),
        st.integers(0, 15),
        MASKS,
    ),
    st.sampled_from(
        [
            b"\x81\x00",
            b"\x81\x05hello",
            b"\x01\x80abcd",
            b"\xc1\x80abcd",
            b"\x81\xfe\x00\x01abcdx",
            b"\x81\xff" + bytes(8) + b"abcd",
            b"\x81",
        ]
    ),
    st.binary(max_size=10),
)
CHUNKS = st.builds(
    lambda frames, cut: b"".join(frames)[: cut if cut >= 0 else None],
    st.lists(st.one_of(SMALL, SMALL, SMALL, OTHER), max_size=12),
    st.integers(-1, 400),
)


@given(CHUNKS)
@example(b"")
@example(client_frame(b""))
@example(client_frame(b"") * 3 + client_frame(b"x" * 125))
@example(client_frame(b"x" * 126))
@example(client_frame(b"get k")[:-1])
def test_small_texts_are_what_a_slow_reader_finds(data: bytes) -> None:
    assert small_texts(data) == slow_small_texts(data)


@given(st.lists(st.binary(max_size=125), min_size=1, max_size=50), MASKS)
def test_a_chunk_of_small_frames_is_taken_whole(texts: list[bytes], mask: bytes) -> None:
    data = b"".join(client_frame(text, mask=mask) for text in texts)
    assert small_texts(data) == (texts, len(data))


@given(st.sampled_from([0, 1, 125, 126, 127, 65535, 65536, 70_000]), st.integers(0, 15))
def test_frame_size(size: int, opcode: int) -> None:
    whole = client_frame(b"x" * size, opcode)
    assert frame_size(whole) == len(whole)
    assert frame_size(whole + b"more") == len(whole)
    head = len(whole) - size
    assert frame_size(whole[:head]) == len(whole)
    for cut in range(head):
        assert frame_size(whole[:cut]) is None


def test_frame_size_of_what_is_not_masked() -> None:
    assert frame_size(b"\x81\x05") == 7
    assert frame_size(b"\x81\x7e\x01\x00") == 4 + 256
    assert frame_size(b"\x81\x7f" + (1 << 62).to_bytes(8, "big")) == 10 + (1 << 62)
