"""What of a backup may come into a node."""

from __future__ import annotations

import pytest

from nuntwist.archive.entries import HIGHEST_VERSION
from nuntwist.core.database import CONNECTIONS_KEY, MEMBERS_KEY, TOKEN_KEY, Database
from nuntwist.core.restorable import check_entry, is_left_out, is_listing, is_name, shown
from nuntwist.errors import CommandError
from nuntwist.values import CREATE_DATABASE, IN_RESOLUTION, SET, Op


@pytest.mark.parametrize(
    ("name", "sound"),
    [
        (b"shop", True),
        ("caf\u00e9".encode(), True),
        (b"", False),
        (b"$admin", False),
        *((b"a%bb" % mark, False) for mark in (b" ", b"|", b";", b"\r", b"\n")),
    ],
)
def test_a_database_has_a_name_that_a_client_could_give(name: bytes, sound: bool) -> None:
    assert is_name(name) is sound


@pytest.mark.parametrize(
    ("key", "value", "version"),
    [
        (b"k", b"v", 0),
        (b"k", b"a value; of words", HIGHEST_VERSION),
        (b"k", b"", IN_RESOLUTION),
        ("caf\u00e9".encode(), "\u20ac".encode(), 3),
    ],
)
def test_what_a_client_could_set_is_taken(key: bytes, value: bytes, version: int) -> None:
    check_entry((value, version, 5, 1, SET, 7, key))


@pytest.mark.parametrize(
    ("key", "value", "version"),
    [
        (b"", b"v", 0),
        (b"a b", b"v", 0),
        (b"a\nb", b"v", 0),
        (b"k", b"v\nw", 0),
        (b"k", b"v", HIGHEST_VERSION + 1),
        (b"k", b"v", -1),
        (b"k\xff", b"v", 0),
        (b"k", b"\xff", 0),
    ],
)
def test_what_no_client_could_set_is_refused(key: bytes, value: bytes, version: int) -> None:
    with pytest.raises(CommandError, match="no client could set"):
        check_entry((value, version, 5, 1, SET, 7, key))


def test_whatever_an_archive_holds_is_told_as_one_line_of_text() -> None:
    told = shown(b"a\n\x00\xff" + b"x" * 10_000)
    assert told.decode().isprintable()
    assert len(told) < 1_000


@pytest.mark.parametrize(
    ("key", "left_out"),
    [(TOKEN_KEY, True), (CONNECTIONS_KEY, True), (MEMBERS_KEY, True), (b"$$user_ann", False)],
)
def test_what_is_of_another_node_stays_there(key: bytes, left_out: bool) -> None:
    assert is_left_out(key) is left_out


def test_the_list_of_databases_is_no_entry_of_its_own() -> None:
    by_id = {7: Database(7, b"d", b"none")}
    created: Op = (b"", 0, 7, 1, CREATE_DATABASE, 0, b"d")
    assert is_listing(created, by_id)
    assert not is_listing((b"", 0, 7, 1, SET, 0, b"other"), by_id)
    assert not is_listing((b"", 0, 8, 1, SET, 0, b"d"), by_id)
