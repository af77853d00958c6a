"""The parser: its errors, its numbers, what it keeps of a value; and that it cannot be broken."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nuntwist.errors import CommandError
from nuntwist.language.commands import (
    BY_WORD,
    INT32_MAX,
    INT32_MIN,
    INT64_MAX,
    INT64_MIN,
    TABLE,
    Argument,
    Command,
    Kind,
)
from nuntwist.language.parser import SHOWN, Request, parse, parse_number, shorten, unparse

WORDS = sorted(BY_WORD)


def error_of(text: bytes) -> str:
    with pytest.raises(CommandError) as caught:
        parse(text)
    return caught.value.message.decode()


def arguments_of(text: bytes) -> tuple[object, ...]:
    return parse(text).arguments


# -- it cannot be broken --

ANY_TEXT = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda word, gap, rest: word + gap + rest,
        st.sampled_from(WORDS),
        st.sampled_from([b" ", b"  ", b"", b";", b"\r", b"\n"]),
        st.one_of(
            st.binary(max_size=40),
            st.lists(
                st.sampled_from(
                    [b"a", b"", b"-1", b"99999999999", b"$$token", b"\xff", b";", b"\r", b"\n"]
                ),
                max_size=6,
            ).map(b" ".join),
        ),
    ),
)


@given(ANY_TEXT)
@example(b"get k; extra")
@example(b"get k\r extra")
@example(b"set k a\n;b")
def test_any_bytes_give_a_request_or_a_command_error(text: bytes) -> None:
    try:
        request = parse(text)
    except CommandError as error:
        message = error.message
    else:
        assert len(request.arguments) == len(request.command.arguments)
        assert parse(unparse(request)) == request
        return
    assert 0 < len(message) < 200
    message.decode()


def words_for(argument: Argument) -> st.SearchStrategy[bytes | int]:
    """Values that an argument can have, its default among them."""
    if argument.kind is Kind.VERSION:
        found: st.SearchStrategy[bytes | int] = st.integers(INT32_MIN, INT32_MAX)
    elif argument.kind is Kind.NUMBER:
        found = st.integers(INT64_MIN, INT64_MAX)
    elif argument.kind is Kind.WORD:
        found = st.text(st.characters(exclude_characters=" ", codec="utf-8"), min_size=1).map(
            str.encode
        )
    else:
        found = st.text(st.characters(exclude_characters="\n", codec="utf-8"), min_size=1).map(
            lambda text: (text.rstrip(";\r") or "x").encode()
        )
    return found if argument.default is None else st.one_of(found, st.just(argument.default))


@given(st.data(), st.sampled_from(TABLE))
def test_a_written_request_parses_back(data: st.DataObject, command: Command) -> None:
    values = tuple(data.draw(words_for(argument)) for argument in command.arguments)
    request = Request(command, values)
    assert parse(unparse(request)) == request


def test_aliases_are_the_same_command() -> None:
    for command in TABLE:
        for alias in command.aliases:
            assert BY_WORD[alias.encode()] is command
    assert parse(b"use d t") == parse(b"use-db d t")
    assert parse(b"ls x*") == parse(b"keys x*")


# -- errors --


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty command"),
        ("   ", "empty command"),
        (";;", "empty command"),
        ("\r", "empty command"),
        ("nope", "unknown command: nope"),
        ("GET k", "unknown command: GET"),
        ("get\tk", "unknown command: get\tk"),
        ("get", "get must contain a key"),
        ("get ", "get must contain a key"),
        ("get  k", "get must contain a key"),
        ("get;", "get must contain a key"),
        ("get-safe", "get-safe must contain a key"),
        ("set", "set must contain a key"),
        ("set  v", "set must contain a key"),
        ("remove", "remove must contain a key"),
        ("increment", "increment must contain a key"),
        ("watch", "watch must contain a key"),
        ("unwatch", "unwatch must contain a key"),
        ("set-safe", "set-safe must be followed by a version and key"),
        ("set-safe k", "set-safe must be followed by a version and key"),
        ("set-safe k  v", "set-safe must be followed by a version and key"),
        ("create-db", "create-db must be followed by a token"),
        ("create-db d", "create-db must be followed by a token"),
        ("use-db", "use-db must be followed by a database name and a token"),
        ("use-db d", "use-db must be followed by a database name and a token"),
        ("use d", "use-db must be followed by a database name and a token"),
        ("drop-db", "drop-db must be followed by a database name"),
        ("create-user", "create-user must contain a name and a token"),
        ("create-user ana", "create-user must contain a name and a token"),
        ("set-permissions", "permission list is mandatory"),
        ("set-permissions ana", "permission list is mandatory"),
        ("set-permissions ana ", "permission list is mandatory"),
        ("set-safe k x v", "invalid number: x"),
        ("increment k x", "invalid number: x"),
        ("increment k 1.5", "invalid number: 1.5"),
        ("increment k 3 4", "invalid number: 3 4"),
    ],
)
def test_error_texts(text: str, message: str) -> None:
    assert error_of(text.encode()) == message


@pytest.mark.parametrize("command", TABLE, ids=lambda command: command.word)
def test_a_missing_argument_is_told_by_the_table(command: Command) -> None:
    needed = [argument for argument in command.arguments if argument.default is None]
    if not needed:
        parse(command.word.encode())
        return
    for count in range(len(needed)):
        given_ones = [
            "x" if argument.kind in (Kind.WORD, Kind.REST) else "1" for argument in needed[:count]
        ]
        assert error_of(" ".join([command.word, *given_ones]).encode()) == command.missing


def test_bad_input_is_repeated_only_in_part() -> None:
    message = error_of(b"x" * 10_000)
    assert message == "unknown command: " + "x" * SHOWN + "..."
    assert len(error_of(b"increment k " + b"9" * 10_000)) < 100


def test_bad_input_is_cut_on_the_edge_of_a_character() -> None:
    for lead in range(4):
        text = "x" * lead + "é€😀" * 100
        assert shorten(text.encode()).decode().endswith("...")


@pytest.mark.parametrize(
    "text", [b"\xff", b"get \xff", b"set k \xc3", b"set k \xed\xa0\x80", b"nope\xc0\x80"]
)
def test_what_is_not_utf_8_is_refused(text: bytes) -> None:
    assert error_of(text) == "command is not valid UTF-8"


# -- numbers --


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"0", 0),
        (b"-0", 0),
        (b"+5", 5),
        (b"-5", -5),
        (b"007", 7),
        (b"9223372036854775807", INT64_MAX),
        (b"-9223372036854775808", INT64_MIN),
        (b"9223372036854775808", None),
        (b"-9223372036854775809", None),
        (b"1" * 5000, None),
        (b"1_000", None),
        (b"1 ", None),
        (b" 1", None),
        (b"1\n", None),
        (b"", None),
        (b"-", None),
        (b"+-1", None),
        (b"0x10", None),
        (b"1e3", None),
        (b"1.0", None),
        (b"nan", None),
        ("١٢".encode(), None),
        ("\uff11\uff12".encode(), None),
        ("²".encode(), None),
    ],
)
def test_numbers(text: bytes, number: int | None) -> None:
    assert parse_number(text) == number


@given(st.integers(INT64_MIN, INT64_MAX))
def test_every_number_in_range_is_read(number: int) -> None:
    assert parse_number(b"%d" % number) == number


@pytest.mark.parametrize("version", [INT32_MIN, INT32_MAX, -2, -1, 0])
def test_versions_have_32_bits(version: int) -> None:
    assert arguments_of(b"set-safe k %d v" % version) == (b"k", version, b"v")


@pytest.mark.parametrize("version", [INT32_MIN - 1, INT32_MAX + 1])
def test_versions_beyond_32_bits_are_refused(version: int) -> None:
    for text in (b"set-safe k %d v", b"resolve 1 d k %d v", b"replicate d k %d v"):
        assert error_of(text % version) == f"invalid number: {version}"


def test_increments_have_64_bits() -> None:
    assert arguments_of(b"increment k %d" % INT64_MIN) == (b"k", INT64_MIN)
    assert error_of(b"increment k %d" % (INT64_MAX + 1)).startswith("invalid number: 922")


def test_a_missing_number_has_its_default() -> None:
    assert arguments_of(b"increment k") == arguments_of(b"increment k ") == (b"k", 1)
    assert arguments_of(b"increment k  3") == arguments_of(b"increment k 3 ") == (b"k", 3)


# -- what is kept and what is not --


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("set k v", ("k", "v")),
        ("set k", ("k", "")),
        ("set k ", ("k", "")),
        ("set k  v", ("k", " v")),
        ("set k a  b ", ("k", "a  b ")),
        ("set k a;b", ("k", "a;b")),
        ("set a;b c", ("a;b", "c")),
        ("set k v;", ("k", "v")),
        ("set k v;;\r\n", ("k", "v")),
        ("set k v; ", ("k", "v; ")),
        ("   set k v", ("k", "v")),
        ("set k \t", ("k", "\t")),
        ("set 😀 é", ("😀", "é")),
        ("set k a\nb", ("k", "ab")),
        ("get k more words", ("k",)),
        ("keys", ("",)),
        ("keys *x", ("*x",)),
        ("set-permissions ana r a*|w b, c", ("ana", "r a*|w b, c")),
        ("use-db d t", ("d", "t", "")),
        ("use-db d ana t", ("d", "ana", "t")),
        ("create-db d t", ("d", "t", "none")),
        ("auth", ("", "")),
        ("auth u", ("u", "")),
        ("snapshot", ("", "")),
        ("snapshot true a|b", ("true", "a|b")),
        ("rp 1 set k  v ", ("1", "set k  v ")),
    ],
)
def test_arguments(text: str, arguments: tuple[str, ...]) -> None:
    assert arguments_of(text.encode()) == tuple(argument.encode() for argument in arguments)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n")))
def test_a_value_is_kept_to_the_last_space(value: str) -> None:
    assert arguments_of(f"set k {value} ".encode()) == (b"k", f"{value} ".encode())
