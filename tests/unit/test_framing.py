"""Lines are the same however their bytes are delivered, and an endless one takes no memory."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nuntwist.language.framing import TOO_LONG, LineFramer, is_plain, split_commands

LIMIT = 8

STREAMS = st.lists(
    st.one_of(
        st.sampled_from([b"\n", b";", b"\r", b" $", b"$", b" ", b"\xff", "é".encode(), b"k"]),
        st.binary(max_size=6),
        st.sampled_from([b"x" * n for n in (LIMIT - 1, LIMIT, LIMIT + 1, 3 * LIMIT)]),
    ),
    max_size=30,
).map(b"".join)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges)]


def expected_lines(data: bytes) -> list[bytes]:
    """The complete lines, one over the limit as TOO_LONG."""
    return [line if len(line) <= LIMIT else TOO_LONG for line in data.split(b"\n")[:-1]]


def is_plain_line(line: bytes) -> bool:
    """What the hot road relies on, said of one line."""
    if line.endswith((b";", b"\r")) or any(w.startswith(b"$") for w in line.split(b" ")[1:]):
        return False
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def feed_all(pieces: list[bytes], limit: int = LIMIT) -> list[bytes]:
    framer, lines = LineFramer(limit), []
    for piece in pieces:
        chunk = framer.feed(piece)
        assert framer.pending <= limit
        if chunk is not None:
            found, plain = chunk
            assert found
            if plain:
                assert all(is_plain_line(line) for line in found if line != TOO_LONG)
            lines += found
    return lines


@given(STREAMS, st.lists(st.integers(0, 400), max_size=12))
@example(b"x" * (LIMIT + 1) + b"\nget k\n", [3])
@example(b"x" * LIMIT + b"\nget k\n", [LIMIT])
def test_lines_do_not_depend_on_the_pieces(data: bytes, places: list[int]) -> None:
    expected = expected_lines(data)
    assert feed_all([data]) == expected
    assert feed_all(cut(data, places)) == expected
    assert feed_all([data[at : at + 1] for at in range(len(data))]) == expected


@given(STREAMS)
def test_plain_means_plain(data: bytes) -> None:
    chunk = LineFramer(1000).feed(data)
    if chunk is not None and chunk[1]:
        assert all(map(is_plain_line, chunk[0]))


@pytest.mark.parametrize("data", [b"get k\n", b"set k v w\nget k\n", "set é ü\n".encode()])
def test_ordinary_commands_are_plain(data: bytes) -> None:
    assert LineFramer(100).feed(data) == (data.split(b"\n")[:-1], True)


@pytest.mark.parametrize(
    "text", [b"get $$token", b"set k v;", b"get k\r", b"get k;\nget k", b"set k \xff"]
)
def test_what_the_hot_road_may_not_take_is_not_plain(text: bytes) -> None:
    assert not is_plain(text)


def test_a_character_cut_in_two_chunks_is_whole_again() -> None:
    framer = LineFramer(100)
    assert framer.feed(b"set k \xc3") is None
    assert framer.feed(b"\xa9\n") == ([b"set k \xc3\xa9"], True)


def test_an_endless_line_is_thrown_away() -> None:
    framer = LineFramer(LIMIT)
    for _ in range(1000):
        assert framer.feed(b"x" * 1000) is None
        assert framer.pending == 0
    assert framer.feed(b"x\nget k\n") == ([TOO_LONG, b"get k"], False)
    assert framer.feed(b"get k\n") == ([b"get k"], True)


def test_the_limit_itself_is_allowed() -> None:
    assert feed_all([b"x" * LIMIT + b"\n"]) == [b"x" * LIMIT]
    assert feed_all([b"x" * (LIMIT + 1) + b"\n"]) == [TOO_LONG]


def test_no_real_line_looks_like_the_mark_of_a_long_one() -> None:
    assert TOO_LONG not in feed_all([b"\n\n\r\n \n"])


# -- commands between semicolons --


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        (b"", []),
        (b";", []),
        (b" ; ;", []),
        (b"\n", []),
        (b"\r\n;\n", []),
        (b"get a", [b"get a"]),
        (b"get a;", [b"get a"]),
        (b"get a;get b", [b"get a", b"get b"]),
        (b"get a; get b ;", [b"get a", b" get b "]),
        (b"set k a\nb", [b"set k ab"]),
        (b"set k a\r\nb", [b"set k ab"]),
        (b"set k a\rb", [b"set k a\rb"]),
        (b"get a\n;\nget b\n", [b"get a", b"get b"]),
    ],
)
def test_split_commands(text: bytes, commands: list[bytes]) -> None:
    assert split_commands(text) == commands


@given(STREAMS)
def test_a_split_command_is_one_line_and_not_empty(text: bytes) -> None:
    for command in split_commands(text):
        assert b"\n" not in command
        assert b";" not in command
        assert command.strip(b" ")
