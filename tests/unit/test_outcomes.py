"""Replies between nodes: there and back, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuntwist.core.forwards import marker_key, marker_value, read_marker
from nuntwist.core.outcomes import OUTCOMES, encode_replies, read_replies
from nuntwist.language.replies import OK, Reply
from nuntwist.values import SET

TEXTS = st.binary(max_size=20)
REPLIES = st.builds(Reply, st.lists(TEXTS, max_size=3).map(tuple), st.none() | TEXTS)


@given(st.lists(st.just(OK) | REPLIES, max_size=20))
def test_replies_there_and_back(replies: list[Reply]) -> None:
    data = encode_replies(replies)
    assert read_replies(data) == replies
    assert data == b"".join(map(OUTCOMES.reply, replies))


def test_what_went_well_is_one_byte() -> None:
    assert encode_replies([OK] * 3) == b"..."
    assert encode_replies([Reply((b"a:1\n",), b"-")]) == b"+4:a:1\n-1:-"
    assert all(reply is OK for reply in read_replies(b"..."))


@given(st.lists(REPLIES, min_size=1, max_size=5), st.data())
def test_what_is_cut_short_is_not_read_as_more(replies: list[Reply], data: st.DataObject) -> None:
    whole = encode_replies(replies)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    try:
        found = read_replies(cut)
    except ValueError:
        return
    assert found == replies[: len(found)]
    assert len(found) < len(replies)


@given(st.binary(max_size=30))
def test_anything_else_is_an_error_or_replies(data: bytes) -> None:
    try:
        replies = read_replies(data)
    except ValueError:
        return
    assert read_replies(encode_replies(replies)) == replies


@pytest.mark.parametrize(
    "data", [b"+", b"+1", b"+1:", b"+1:a", b"-:a", b"-+1:a", b"+99999999999:", b" ."]
)
def test_what_is_no_reply(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"begins nothing|no length|cut short|no end"):
        read_replies(data)


@given(st.integers(1, 2**64 - 1), st.lists(REPLIES, max_size=5).map(encode_replies))
def test_a_marker_tells_what_was_put_in(request: int, replies: bytes) -> None:
    value = marker_value(request, replies)
    assert read_marker((value, 0, 7, 0, SET, 0, b"key")) == (request, replies)
    assert read_marker((None, -1, 7, 0, SET, 0, b"key")) == (0, b"")
    assert read_marker(None) == (0, b"")


def test_the_key_of_a_marker() -> None:
    assert marker_key(0xAB, 3) == b"$$forwarded_00000000000000ab_3"
