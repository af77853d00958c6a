"""The bytes of replies and events on each transport."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuntwist.language.replies import (
    ATOMS,
    DENIED,
    FRAMES,
    LINES,
    NO_DATABASE,
    OK,
    Encoding,
    Reply,
    failure,
    first_messages,
    frame,
    frame_head,
)


def test_lines() -> None:
    assert LINES.reply(OK) == LINES.ok == b"ok \n"
    assert LINES.reply(Reply((b"value v\n",))) == b"value v\nok \n"
    assert LINES.reply(failure(b"Not auth")) == b"error Not auth \n"
    assert LINES.reply(NO_DATABASE) == (b"error no-db-selected\nerror error no-db-selected\n \n")
    assert LINES.reply(DENIED) == b"permission denied\nerror permission denied\n \n"
    assert LINES.changed(b"k", b"v", 7) == b"changed k v\nchanged-version k 7 v\n"
    assert LINES.removed(b"k") == b"removed k\n"
    assert LINES.message_head(10) == b""


def test_frames() -> None:
    assert FRAMES.reply(OK) == FRAMES.ok == b"\x81\x04ok \n"
    assert FRAMES.reply(Reply((b"value v\n",))) == b"\x81\x08value v\n\x81\x04ok \n"
    assert FRAMES.reply(failure(b"Not auth")) == b"\x81\x10error Not auth \n"
    assert FRAMES.reply(NO_DATABASE) == (
        b"\x81\x15error no-db-selected\n\x81\x1derror error no-db-selected\n \n"
    )
    assert FRAMES.changed(b"k", b"v", 7) == (
        b"\x81\x0cchanged k v\n\x81\x16changed-version k 7 v\n"
    )
    assert FRAMES.removed(b"k") == b"\x81\x0aremoved k\n"
    assert FRAMES.message_head(8) == b"\x81\x08"


@pytest.mark.parametrize(
    ("length", "head"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_heads_of_frames(length: int, head: bytes) -> None:
    assert frame_head(length) == FRAMES.message_head(length) == head
    assert frame(b"x" * length) == head + b"x" * length


@given(st.sampled_from([LINES, FRAMES, ATOMS]), st.binary(max_size=300))
def test_a_message_may_be_written_behind_its_head(encoding: Encoding, message: bytes) -> None:
    whole = encoding.reply(Reply((message,)))
    assert encoding.message_head(len(message)) + message + encoding.ok == whole


REPLIES = st.lists(
    st.builds(
        Reply,
        st.lists(st.binary(max_size=200), max_size=3).map(tuple),
        st.one_of(st.none(), st.binary(max_size=200)),
    ),
    max_size=8,
)


@given(REPLIES)
def test_first_messages_reads_what_atoms_wrote(replies: list[Reply]) -> None:
    expected = []
    for reply in replies:
        if reply.messages:
            expected.append(reply.messages[0])
        else:
            expected.append(b"empty" if reply.error is None else reply.error)
    assert first_messages(b"".join(map(ATOMS.reply, replies))) == expected


def test_http_shows_the_first_event_of_a_command_that_watches_itself() -> None:
    events = ATOMS.changed(b"k", b"v", 1) + ATOMS.removed(b"k")
    assert first_messages(events + ATOMS.ok) == [b"changed k v\n"]
    assert first_messages(ATOMS.removed(b"k") + ATOMS.ok) == [b"removed k\n"]
