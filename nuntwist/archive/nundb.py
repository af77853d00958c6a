"""Reads what a NunDB server keeps in its directory. Little endian:

- ``DB-nun.data.keys``: a run of [key length u64][key][version i32][address u64]; version -1
  says that the key was deleted, and its address means nothing then;
- ``DB-nun.data.values``: at an address [value length u64][value][status i32];
- ``DB-nun.madadata`` (so it is written): [id u64][strategy i32: 0 none, 1 newer, 2 arbiter];
  without it NunDB takes ``newer``.

It works on the files' bytes (``bytes`` or a memory map). Whatever they hold, nothing is raised
but CorruptData with the file and the place.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from mmap import mmap
from typing import Final, TypeAlias

from nuntwist.archive.entries import ADMIN, CONNECTIONS, TOKEN, WrongEntry, entry
from nuntwist.archive.format import Member
from nuntwist.errors import CorruptData
from nuntwist.values import KEY, VALUE, Op

Content: TypeAlias = bytes | mmap

KEYS, VALUES, META = "-nun.data.keys", "-nun.data.values", "-nun.madadata"
OLD: Final = "-nun.data"
"""How the one file of a database was called in early releases of NunDB."""
DELETED: Final = -1
_LISTING = b"{}"
"""The value under which ``$admin`` names a database."""
_STRATEGIES = {0: b"none", 1: b"newer", 2: b"arbiter"}
_LENGTH = struct.Struct("<Q")
_PLACE = struct.Struct("<iQ")
_STATUS_SIZE = 4
_META = struct.Struct("<Qi")


def databases_in(names: Iterable[str]) -> list[str]:
    """The databases of a directory, by the names of its files; sorted."""
    return sorted(name.removesuffix(KEYS) for name in names if _is_of(name, KEYS))


def old_databases_in(names: Iterable[str]) -> list[str]:
    """Those that only an early release of NunDB can read; sorted."""
    there = set(names)
    found = (name.removesuffix(OLD) for name in there if _is_of(name, OLD))
    return sorted(name for name in found if name + KEYS not in there)


def _is_of(name: str, ending: str) -> bool:
    return name.endswith(ending) and name != ending


def strategy_in(file: str, content: Content) -> bytes:
    """The strategy that a file of metadata names.

    :param file: its name, for the error.
    :raise CorruptData: it is odd.
    """
    if len(content) != _META.size:
        raise CorruptData(file, 0, f"it has {len(content)} bytes, not {_META.size}")
    strategy = _STRATEGIES.get(_META.unpack(content[:])[1])
    if strategy is None:
        raise CorruptData(file, 8, "its strategy is not known")
    return strategy


def entries_in(name: str, keys: Content, values: Content) -> Iterator[Op]:
    """The entries of a database, as they stand in its files.

    :param name: of the database.
    :raise CorruptData: a file is cut short, or odd.
    """
    for key, (version, address, offset) in _places(name + KEYS, keys).items():
        if version == DELETED:
            continue
        value = _value(name + VALUES, values, address)
        try:
            yield entry(key, value, version)
        except WrongEntry as error:
            raise CorruptData(name + KEYS, offset, str(error)) from None


def _places(file: str, keys: Content) -> dict[bytes, tuple[int, int, int]]:
    """Version, address and place of each key; the last one of it."""
    found: dict[bytes, tuple[int, int, int]] = {}
    at, end = 0, len(keys)
    while at < end:
        if end - at < _LENGTH.size:
            raise CorruptData(file, at, "it ends within the length of a key")
        (length,) = _LENGTH.unpack_from(keys, at)
        start = at + _LENGTH.size
        middle = start + length
        if end - middle < _PLACE.size:
            raise CorruptData(file, at, f"it ends within a key of {length} bytes")
        version, address = _PLACE.unpack_from(keys, middle)
        # In the order of the last ones.
        key = bytes(keys[start:middle])
        found.pop(key, None)
        found[key] = version, address, at
        at = middle + _PLACE.size
    return found


def _value(file: str, values: Content, at: int) -> bytes:
    if len(values) - at < _LENGTH.size:
        raise CorruptData(file, at, "it ends before the value that a key points to")
    (length,) = _LENGTH.unpack_from(values, at)
    start = at + _LENGTH.size
    if len(values) - start - _STATUS_SIZE < length:
        raise CorruptData(file, at, f"it ends within a value of {length} bytes")
    return bytes(values[start : start + length])


def of_admin(entries: Iterable[Op]) -> list[Op]:
    """What NunDB's ``$admin`` holds besides the names of databases."""
    return [op for op in entries if op[VALUE] != _LISTING and op[KEY] not in (TOKEN, CONNECTIONS)]


def member(name: str, strategy: bytes) -> Member:
    """What a database is called in the archive."""
    return Member(name.encode(), b"newer" if name.encode() == ADMIN else strategy)
