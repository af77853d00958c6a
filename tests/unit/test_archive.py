"""The archive format: what is written is read again, and no damage goes unseen."""

from __future__ import annotations

import contextlib
import json
import time
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuntwist.archive.entries import (
    ADMIN,
    HIGHEST_VERSION,
    LARGEST,
    TOKEN,
    NoToken,
    WrongEntry,
    archive_of,
    entry,
    secured,
    with_token,
)
from nuntwist.archive.format import MAGIC, End, Head, Member, Piece, Reader, Writer
from nuntwist.archive.lines import WrongLine, line_of, read_lines
from nuntwist.errors import CorruptData
from nuntwist.values import KEY, SET, VALUE, VERSION, Op

MADE = "2026-01-02T03:04:05+00:00"
MEMBERS = (Member(b"shop", b"none"), Member("clé".encode(), b"arbiter"), Member(b"e", b"newer"))
ENTRIES: dict[bytes, list[Op]] = {
    b"shop": [
        (b"hash", 0, 1, 2, SET, 0, TOKEN),
        (b"", 3, 1 << 60, 1 << 63, SET, 0, b"k"),
        ("ü; ".encode(), -2, 7, 8, SET, 0, "é".encode()),
    ],
    "clé".encode(): [(b"x" * 300, 0, 9, 9, SET, 0, b"%d" % number) for number in range(5)],
    b"e": [],
}


def archive() -> bytes:
    writer = Writer()
    data = writer.begin(Head(MADE, 12, "test", MEMBERS))
    for member in MEMBERS:
        data += writer.member(member)
        for op in ENTRIES[member.name]:
            data += writer.entries([op])
    return data + writer.end()


WHOLE = archive()


def read(data: bytes, size: int = 1 << 30) -> list[Piece]:
    """All pieces, fed so many bytes at a time."""
    reader = Reader("x.nun")
    found = [
        piece
        for start in range(0, len(data), size)
        for piece in reader.feed(data[start : start + size])
    ]
    reader.finish()
    return found


def test_what_is_written_is_read_again() -> None:
    expected: list[Piece] = [Head(MADE, 12, "test", MEMBERS)]
    for member in MEMBERS:
        expected += [member, *([op] for op in ENTRIES[member.name])]
    assert read(WHOLE) == [*expected, End(8)]


@pytest.mark.parametrize("size", [1, 2, 7, 64, 511])
def test_pieces_of_any_size_give_the_same(size: int) -> None:
    assert read(WHOLE, size) == read(WHOLE)


@pytest.mark.many_cases
def test_every_flipped_bit_is_seen() -> None:
    for at in range(len(WHOLE)):
        for bit in range(8):
            data = bytearray(WHOLE)
            data[at] ^= 1 << bit
            with pytest.raises(CorruptData) as found:
                read(bytes(data))
            assert 0 <= found.value.offset <= len(WHOLE)


def test_every_cut_is_seen() -> None:
    for size in range(len(WHOLE)):
        with pytest.raises(CorruptData):
            read(WHOLE[:size])


def test_what_follows_the_end_is_seen() -> None:
    for more in (b"\0", WHOLE, b"x" * 100):
        with pytest.raises(CorruptData):
            read(WHOLE + more)


def blocks() -> list[bytes]:
    """The archive without its magic, by blocks."""
    found, at = [], len(MAGIC)
    while at < len(WHOLE):
        size = 9 + int.from_bytes(WHOLE[at + 1 : at + 5], "little")
        found.append(WHOLE[at : at + size])
        at += size
    return found


def test_lost_doubled_and_swapped_blocks_are_seen() -> None:
    whole = blocks()
    assert MAGIC + b"".join(whole) == WHOLE
    for at in range(len(whole)):
        spoiled = [whole[:at] + whole[at + 1 :], [*whole[:at], whole[at], *whole[at:]]]
        if at:
            spoiled.append([*whole[: at - 1], whole[at], whole[at - 1], *whole[at + 1 :]])
        for one in spoiled:
            with pytest.raises(CorruptData):
                read(MAGIC + b"".join(one))


def test_a_newer_format_is_said() -> None:
    with pytest.raises(CorruptData, match="newer release"):
        list(Reader("x").feed(MAGIC + newer()))


def newer() -> bytes:
    """A head of format 2, its checksum right."""
    return block_of(1, b'{"format": 2}')


def block_of(kind: int, body: bytes) -> bytes:
    covered = bytes((kind,)) + len(body).to_bytes(4, "little") + body
    return covered[:5] + zlib.crc32(covered).to_bytes(4, "little") + body


@given(st.binary(max_size=400), st.integers(0, len(WHOLE)), st.integers(0, len(WHOLE)))
def test_the_reader_raises_nothing_else(data: bytes, start: int, end: int) -> None:
    for one in (data, MAGIC + data, WHOLE[:start] + data + WHOLE[end:]):
        if one == WHOLE:
            continue
        with pytest.raises(CorruptData):
            read(one, 50)


KEYS = st.text(st.characters(exclude_characters=" \n", codec="utf-8"), min_size=1, max_size=9)
VALUES = st.text(st.characters(exclude_characters="\n", codec="utf-8"), max_size=30)
VERSIONS = st.integers(0, HIGHEST_VERSION) | st.just(-2)
OPS = st.builds(
    lambda key, value, version: entry(key.encode(), value.encode(), version), KEYS, VALUES, VERSIONS
)


@given(st.lists(st.lists(OPS, max_size=20), max_size=4), st.integers(1, 300))
@settings(max_examples=50)
def test_archives_of_any_entries(databases: list[list[Op]], size: int) -> None:
    members = [Member(b"d%d" % number, b"none") for number in range(len(databases))]
    made = b"".join(archive_of(list(zip(members, databases, strict=True)), MADE, "test"))
    found: dict[bytes, list[Op]] = {}
    current: list[Op] = []
    for piece in read(made, size):
        if isinstance(piece, Member):
            current = found[piece.name] = []
        elif isinstance(piece, list):
            current += piece
    assert list(found.values()) == databases


def test_many_databases_take_the_time_of_each() -> None:
    """With a look at all names for each of them this would take a minute."""
    members = [(Member(b"%d" % number, b"none"), ()) for number in range(20_000)]
    data = b"".join(archive_of(members, MADE, "test"))
    began = time.process_time()
    assert len(read(data)) == 20_002
    assert time.process_time() - began < 10


def test_large_values_are_in_blocks_of_their_own() -> None:
    many = [entry(b"k%d" % number, b"x" * 100_000, 0) for number in range(10)]
    pieces = read(b"".join(archive_of([(Member(b"d", b"none"), many)], MADE, "test")))
    sizes = [len(piece) for piece in pieces if isinstance(piece, list)]
    assert sizes == [3, 3, 3, 1]


# -- entries ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "version", "words"),
    [
        (b"", b"v", 0, "the key is empty"),
        (b"a b", b"v", 0, "the key holds a space"),
        (b"a\nb", b"v", 0, "the key holds a space or a line break"),
        (b"k", b"a\nb", 0, "the value holds a line break"),
        (b"k", b"x" * LARGEST, 0, "over 8388608 bytes"),
        (b"k", b"v", -1, "-1 is not a version"),
        (b"k", b"v", HIGHEST_VERSION + 1, "is not a version"),
        (b"\xff", b"v", 0, "the key is not valid UTF-8"),
        (b"k", b"\xed\xa0\x80", 0, "the value is not valid UTF-8"),
    ],
)
def test_what_no_client_could_have_set(key: bytes, value: bytes, version: int, words: str) -> None:
    with pytest.raises(WrongEntry, match=words):
        entry(key, value, version)


def hashed(secret: bytes) -> bytes:
    return b"hash of " + secret


STORED = b"$scrypt$ln=14,r=8,p=1$c2FsdA$aGFzaA"


def kept(entries: list[tuple[bytes, bytes]], token: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    ops = [entry(key, value, 4) for key, value in entries]
    for op in secured(ops, token, hashed):
        yield op[KEY], op[VALUE] or b""


def test_tokens_are_hashed_and_hashes_kept() -> None:
    entries = [(TOKEN, b"t"), (b"$$user_a", b"s"), (b"$$user_b", STORED), (b"k", b"v")]
    entries += [(b"$connections", b"3"), (b"$$user_c", b""), (b"$$permission_$a", b"r *")]
    users = [(b"$$user_a", b"hash of s"), (b"$$user_b", STORED)]
    rest = [*users, (b"k", b"v"), (b"$$permission_$a", b"r *")]
    assert list(kept(entries, None)) == [(TOKEN, b"hash of t"), *rest]
    assert list(kept(entries, b"new")) == [(TOKEN, b"hash of new"), *rest]
    assert list(kept([(TOKEN, STORED)], None)) == [(TOKEN, STORED)]


def test_a_database_without_a_token_is_refused() -> None:
    op = entry(b"k", b"v", 0)
    with pytest.raises(NoToken, match="The database d has no token"):
        list(with_token(b"d", [op]))
    assert list(with_token(ADMIN, [op])) == [op]
    token = entry(TOKEN, b"h", 0)
    assert list(with_token(b"d", [op, token])) == [op, token]


# -- lines -----------------------------------------------------------------------------------------


@given(st.lists(OPS, max_size=10))
def test_lines_are_read_again(ops: list[Op]) -> None:
    lines = [f"{line_of(op)}\n".encode() for op in ops]
    assert all(line.count(b"\n") == 1 for line in lines)
    assert list(read_lines(lines)) == ops


def test_lines_by_hand() -> None:
    lines = [
        b'\xef\xbb\xbf{"key": "a", "value": "\\u00e9"}\r\n',
        b"\n",
        b'  {"version": 7, "value": "", "key": "a"}',
    ]
    found = [(op[KEY], op[VALUE], op[VERSION]) for op in read_lines(lines)]
    assert found == [(b"a", "é".encode(), 0), (b"a", b"", 7)]


@pytest.mark.parametrize("form", ["\ud800", "1\nok ", "x" * 5_000, ["é"]])
def test_a_reason_is_a_line_that_can_be_sent(form: object) -> None:
    body = json.dumps({"format": form}).encode()
    data = MAGIC + block_of(1, body)
    with pytest.raises(CorruptData) as caught:
        list(Reader("x.nun").feed(data))
    reason = caught.value.reason
    assert reason.isprintable()
    assert reason.isascii()
    assert len(reason) < 300


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"nope", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b'{"key": "k", "value": "v", "version": ' + b"9" * 5_000 + b"}", "it is not JSON"),
        (b'["k", "v"]', "it is not a JSON object"),
        (b"\xff", "it is not valid UTF-8"),
        (b'{"key": "k"}', '"value" must be a text'),
        (b'{"value": "v"}', '"key" must be a text'),
        (b'{"key": "k", "value": 1}', '"value" must be a text'),
        (b'{"key": "k", "value": "v", "verison": 1}', "there is no field 'verison'"),
        (b'{"key": "k", "value": "v", "version": true}', "must be a whole number"),
        (b'{"key": "k", "value": "v", "version": 1.5}', "must be a whole number"),
        (b'{"key": "k", "value": "v", "version": -1}', "-1 is not a version"),
        (
            b'{"key": "k", "value": "v", "version": ' + b"9" * 4_000 + b"}",
            "a number of so many digits is not a version$",
        ),
        (b'{"key": "k", "value": "\\ud800"}', "the value is not valid UTF-8"),
        (b'{"key": "a b", "value": "v"}', "the key holds a space"),
        (b" " * 7 * LARGEST + b"x", "it has over"),
    ],
)
def test_wrong_lines_are_named(line: bytes, words: str) -> None:
    with pytest.raises(WrongLine, match=f"line 3: .*{words}"):
        list(read_lines([b'{"key": "k", "value": "v"}', b"", line]))


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode()))
def test_lines_raise_nothing_else(data: bytes) -> None:
    with contextlib.suppress(WrongLine):
        list(read_lines([data]))
