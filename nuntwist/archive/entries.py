"""Entries from elsewhere, and the archives that are made of them.

What did not come out of a backup is checked before it goes into an archive: a key or a value
that no client could have set would break the lines of the protocol for those who read it.
Tokens that come in clear are hashed on the way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from nuntwist.archive.format import Head, Member, Writer
from nuntwist.errors import NuntwistError
from nuntwist.values import IN_RESOLUTION, KEY, SET, VALUE, Op

LARGEST: Final = 8 << 20
"""Bytes that a key and its value may have together."""
HIGHEST_VERSION: Final = (1 << 53) - 1
"""A version that every reader of JSON takes as it is."""
BLOCK_ENTRIES, BLOCK_BYTES = 1_000, 256 << 10
"""What a block has at most, but for one large value."""

ADMIN: Final = b"$admin"
TOKEN: Final = b"$$token"
USER: Final = b"$$user_"
SIGNING_KEYS: Final = b"$$signing_keys"
CONNECTIONS: Final = b"$connections"
SECURE: Final = b"$$"

_HASHED = re.compile(rb"\$scrypt\$ln=\d+,r=\d+,p=\d+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+\Z")


class WrongEntry(NuntwistError):
    """It cannot be an entry; the text says what is wrong, as in ``the key is empty``."""


class NoToken(NuntwistError):
    """A database has no token, and so nobody could ever open it."""


def entry(key: bytes, value: bytes, version: int) -> Op:
    """Make an entry.

    :param version: 0 or more, or IN_RESOLUTION.
    :raise WrongEntry: no key of a database could be so.
    """
    if not key:
        raise WrongEntry("the key is empty")
    if b" " in key or b"\n" in key:
        raise WrongEntry("the key holds a space or a line break")
    if b"\n" in value:
        raise WrongEntry("the value holds a line break")
    if len(key) + len(value) > LARGEST:
        raise WrongEntry(f"the key and the value have over {LARGEST} bytes")
    if not (0 <= version <= HIGHEST_VERSION or version == IN_RESOLUTION):
        # JSON may hold thousands of digits.
        shown = version if abs(version) < 1 << 64 else "a number of so many digits"
        raise WrongEntry(f"{shown} is not a version")
    for what, text in (("key", key), ("value", value)):
        if not text.isascii():
            try:
                text.decode()
            except UnicodeDecodeError:
                raise WrongEntry(f"the {what} is not valid UTF-8") from None
    return value, version, 0, 0, SET, 0, key


def is_secret(key: bytes) -> bool:
    """Whether its value is a token."""
    return key == TOKEN or key.startswith(USER)


def secured(
    entries: Iterable[Op], token: bytes | None, hash_secret: Callable[[bytes], bytes]
) -> Iterator[Op]:
    """Entries of a database as a node keeps them: tokens hashed, nothing that is local.

    :param token: the token of the database, in clear; None for the one among the entries.
    :param hash_secret: gives what is stored for a token.
    """
    if token is not None:
        yield entry(TOKEN, hash_secret(token), 0)
    for op in entries:
        key, value = op[KEY], op[VALUE] or b""
        if key == CONNECTIONS or (key == TOKEN and token is not None):
            continue
        if not is_secret(key) or _HASHED.match(value):
            yield op
        elif value:
            yield (hash_secret(value), *op[1:])


def with_token(name: bytes, entries: Iterable[Op]) -> Iterator[Op]:
    """Entries, among which there is a token in the end.

    :raise NoToken: there is none.
    """
    found = name == ADMIN
    for op in entries:
        found = found or op[KEY] == TOKEN
        yield op
    if not found:
        raise NoToken(
            f"The database {name.decode()} has no token: give one with --token, or --merge the"
            " entries into one that is there."
        )


def archive_of(
    databases: Sequence[tuple[Member, Iterable[Op]]], made: str, release: str
) -> Iterator[bytes]:
    """The bytes of an archive, in pieces.

    :param databases: each with its entries.
    :param made: when, as ISO 8601 with time zone.
    :param release: what wrote it.
    """
    writer = Writer()
    yield writer.begin(Head(made, 0, release, tuple(member for member, _ in databases)))
    for member, entries in databases:
        yield writer.member(member)
        for block in _blocks(entries):
            yield writer.entries(block)
    yield writer.end()


def _blocks(entries: Iterable[Op]) -> Iterator[list[Op]]:
    waiting: list[Op] = []
    size = 0
    for op in entries:
        waiting.append(op)
        size += len(op[KEY]) + len(op[VALUE] or b"")
        if len(waiting) >= BLOCK_ENTRIES or size >= BLOCK_BYTES:
            yield waiting
            waiting, size = [], 0
    if waiting:
        yield waiting
