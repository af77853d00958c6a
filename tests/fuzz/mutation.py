"""Changed inputs: what hypothesis, or a run without a coverage-guided fuzzer, makes of seeds.

An :class:`Edit` is one change, made of small numbers, so that hypothesis can shrink a list of them.
"""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

LONGEST = 1 << 16
"""Bytes of a changed input."""

TOKENS = [
    *(b"", b"\0", b"\n", b"\r\n", b" ", b"  ", b";", b"$", b"$$", b"|", b",", b":", b"=", b"\\"),
    *(b"\xff", b"\xc3", b"\xed\xa0\x80", "é".encode(), "\u0660\uff11".encode(), b"\xef\xbb\xbf"),
    *(b'"\\ud800"', b"[" * 3000, b'{"a":' * 3000, b"null", b"true", b"[]", b"{}", b'""'),
    *(b"\x81\x80abcd", b"\x88\x80abcd", b"\x89\x80abcd", b"\x01\x80abcd", b"\x80\x80abcd"),
    *(b"a" * 70, b"-", b"+", b"*", b"/", b"..", b"../x"),
]
NUMBERS = [
    *(b"0", b"-1", b"+1", b"-2", b"00", b"1_0", b" 1", b"1 ", b"0x1", b"1.5", b"1e999", b"NaN"),
    *(b"16", b"19", b"20", b"32"),
    *(b"2147483647", b"2147483648", b"-2147483649", b"4294967296", b"9223372036854775807"),
    *(b"9223372036854775808", b"18446744073709551616", b"000000000001" + b"9" * 20, b"9" * 5000),
    *("\u0661".encode(), "\uff11".encode()),
]
WORDS = [0, 1, 2, 127, 128, 255, 256, 65535, 65536, 1 << 20, 1 << 27, (1 << 30) + 1]
WORDS += [(1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**32, 2**63, 2**64, -(2**63), 1.5, float("inf"), float("nan")),
    *("", "a", "a b", "a\nb", "\ud800", "é", "../x", "0", "-1", "ff", "0_1", " 1", "9" * 5000),
    *("lock", "node.json"),
    *([], {}, [1], {"a": 1}, [[1, "a"]]),
]
_EDIT = struct.Struct("<BHHH")
EDIT_SIZE = _EDIT.size
"""Bytes of an :class:`Edit` that is drawn as bytes."""
_DIGITS = re.compile(rb"[0-9]+")


class Edit(NamedTuple):
    """One change.

    :ivar kind: which, see ``KINDS``.
    :ivar place: where, in 65,536ths of the input.
    :ivar size: how much.
    :ivar what: with what.
    """

    kind: int
    place: int
    size: int
    what: int


def _flip(data: bytes, at: int, edit: Edit, others: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = min(at, len(data) - 1)
    return data[:at] + bytes((data[at] ^ (1 << edit.what % 8),)) + data[at + 1 :]


def _byte(data: bytes, at: int, edit: Edit, others: Sequence[bytes]) -> bytes:
    return data[:at] + bytes((edit.what % 256,)) + data[at + 1 :]


def _cut(data: bytes, at: int, edit: Edit, others: Sequence[bytes]) -> bytes:
    return data[:at] + data[at + edit.size % 64 + 1 :]


def _end(data: bytes, at: int, edit: Edit, others: Sequence[bytes]) -> bytes:
    return data[:at]


def _repeat(data: bytes, at: int, edit: Edit, others: Sequence[bytes]) -> bytes:
    piece = data[at : at + edit.size % 256 + 1]
    return data[:at] + piece * (edit.what % 40 + 1) + data[at:]


def _splice(data: bytes, at: int, edit: Edit, others: Sequence[bytes]) -> bytes:
    other = others[edit.what % len(others)]
    return data[:at] + other[len(other) * edit.size // LONGEST :]


def _insert(data: bytes, at: int, edit: Edit, others: Sequence[bytes]) -> bytes:
    return data[:at] + TOKENS[edit.what % len(TOKENS)] + data[at:]


def _replace(data: bytes, at: int, edit: Edit, others: Sequence[bytes]) -> bytes:
    token = TOKENS[edit.what % len(TOKENS)]
    return data[:at] + token + data[at + len(token) :]


def _word(data: bytes, at: int, edit: Edit, others: Sequence[bytes]) -> bytes:
    width = (1, 2, 4, 8)[edit.size % 4]
    word = WORDS[edit.what % len(WORDS)] % (1 << 8 * width)
    order = "little" if edit.size // 4 % 4 else "big"
    return data[:at] + word.to_bytes(width, order) + data[at + width :]  # type: ignore[arg-type]


def _number(data: bytes, at: int, edit: Edit, others: Sequence[bytes]) -> bytes:
    found = list(_DIGITS.finditer(data[:LONGEST]))
    if not found:
        return data
    one = found[edit.place % len(found)]
    return data[: one.start()] + NUMBERS[edit.what % len(NUMBERS)] + data[one.end() :]


def _field(data: bytes, at: int, edit: Edit, others: Sequence[bytes]) -> bytes:
    """Another value somewhere in a JSON text, which may be one block among others: then its
    length before it is made right."""
    begins = [match.start() for match in re.finditer(rb"\{", data[:LONGEST])]
    begin = begins[edit.size % len(begins)] if data[:1] != b"{" and begins else 0
    try:
        whole, length = json.JSONDecoder().raw_decode(data[begin:].decode("latin-1"))
    except (ValueError, RecursionError):
        return data
    places = list(_places(whole))
    if not places:
        return data
    holder, key = places[edit.place % len(places)]
    if edit.size % 8 == 0 and isinstance(holder, dict):
        del holder[key]
    else:
        holder[key] = ODD[edit.what % len(ODD)]
    text = json.dumps(whole).encode()
    before = data[:begin]
    for at in range(max(0, begin - 9), begin - 3):
        if int.from_bytes(before[at : at + 4], "little") == length:
            before = before[:at] + len(text).to_bytes(4, "little") + before[at + 4 :]
    return before + text + data[begin + length :]


def _places(value: Any) -> Iterable[tuple[Any, Any]]:
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    for key, inner in pairs:
        yield value, key
        yield from _places(inner)


KINDS = [_flip, _byte, _cut, _end, _repeat, _splice, _insert, _replace, _word, _number, _field]


def edited(data: bytes, edits: Iterable[Edit], others: Sequence[bytes]) -> bytes:
    """An input with some changes.

    :param others: what may be spliced in.
    """
    for edit in edits:
        at = len(data) * edit.place // LONGEST
        data = KINDS[edit.kind % len(KINDS)](data, at, edit, others)[:LONGEST]
    return data


def edits_of(data: bytes) -> list[Edit]:
    """Edits out of bytes; what is left over makes none."""
    whole = len(data) // EDIT_SIZE * EDIT_SIZE
    return [Edit(*fields) for fields in _EDIT.iter_unpack(data[:whole])]


def random_edits(chance: random.Random) -> list[Edit]:
    """A few changes."""
    draw = chance.randrange
    return [
        Edit(draw(len(KINDS)), draw(LONGEST + 1), draw(LONGEST), draw(LONGEST))
        for _ in range(min(draw(1, 7), draw(1, 7)))
    ]
