"""Turns one command text into a request, by the command table.

The rule of the language: skip leading spaces, strip ``;`` and line ends from the end, cut on
single spaces.  A value keeps its inner and trailing spaces; a word is what stands before the
next space, so two spaces in a row make an empty word, which counts as missing.

``parse`` raises nothing but :class:`~nuntwist.errors.CommandError`, whatever the bytes are;
``unparse`` writes a request so that it parses back to itself.
"""

from __future__ import annotations

import re
from typing import NamedTuple, TypeAlias

from nuntwist.errors import CommandError
from nuntwist.language.commands import (
    BY_WORD,
    INT32_MAX,
    INT32_MIN,
    INT64_MAX,
    INT64_MIN,
    Argument,
    Command,
    Kind,
)

Value: TypeAlias = bytes | int

_NUMBER = re.compile(rb"[+-]?[0-9]{1,19}\Z")
_LIMITS = {Kind.VERSION: (INT32_MIN, INT32_MAX), Kind.NUMBER: (INT64_MIN, INT64_MAX)}
SPACES = b"a token cannot hold spaces"
SHOWN = 64
"""How many bytes of bad input an error text repeats."""


class Request(NamedTuple):
    """A command with its arguments, one for each of the table's row, defaults filled in."""

    command: Command
    arguments: tuple[Value, ...]


def parse_number(text: bytes, low: int = INT64_MIN, high: int = INT64_MAX) -> int | None:
    """Read a whole number as clients write it (sign and ASCII digits only).

    :return: the number, or None where the text is none or lies outside ``low`` to ``high``.
    """
    if _NUMBER.match(text) is None:
        return None
    number = int(text)
    return number if low <= number <= high else None


def shorten(text: bytes, longest: int = SHOWN) -> bytes:
    """Cut what a client sent to a length fit for an error text, on a character's edge."""
    if len(text) <= longest:
        return text
    return text[:longest].decode("utf-8", "ignore").encode() + b"..."


def clean(text: bytes) -> bytes:
    """Strip what the language ignores around a command, and check that it is UTF-8.

    :raise CommandError: it is not.
    """
    text = text.rstrip(b";\r\n").lstrip(b" ")
    if not text.isascii():
        try:
            text.decode("utf-8")
        except UnicodeDecodeError:
            raise CommandError(b"command is not valid UTF-8") from None
    return text


def parse(text: bytes) -> Request:
    """Parse one command.

    :param text: what stood on the line or between two ``;``.
    :raise CommandError: with the text that the language defines for it.
    """
    text = clean(text)
    word, _, rest = text.partition(b" ")
    if not word:
        raise CommandError(b"empty command")
    command = BY_WORD.get(word)
    if command is None:
        raise CommandError(b"unknown command: " + shorten(word))
    arguments: list[Value] = []
    for argument in command.arguments:
        value, rest = _take(command, argument, rest)
        arguments.append(value)
    return Request(command, tuple(arguments))


def _take(command: Command, argument: Argument, rest: bytes) -> tuple[Value, bytes]:
    if argument.kind is Kind.REST:
        word, rest = rest.replace(b"\n", b""), b""
    elif argument.kind in _LIMITS and argument is command.arguments[-1]:
        # All that is left has to be the number: adding another one would be worse than an error.
        word, rest = rest.strip(b" "), b""
    else:
        word, _, rest = rest.partition(b" ")
        if argument.secret and argument is command.arguments[-1] and rest.strip(b" "):
            # What stands behind it would be left out, and the token be another one.
            raise CommandError(SPACES)
    if not word:
        if argument.default is None:
            raise CommandError(command.missing.encode())
        return argument.default, rest
    limits = _LIMITS.get(argument.kind)
    if limits is None:
        return word, rest
    number = parse_number(word, *limits)
    if number is None:
        raise CommandError(b"invalid number: " + shorten(word))
    return number, rest


def unparse(request: Request) -> bytes:
    """Write a request as a command text; ``parse`` of it gives the request back."""
    parts = [request.command.word.encode()]
    for value in request.arguments:
        parts.append(value if isinstance(value, bytes) else b"%d" % value)
    text = b" ".join(parts)
    # A word may end in what is ignored at the end of a command; a space keeps it.
    return text + b" " if text.endswith((b";", b"\r", b"\n")) else text
