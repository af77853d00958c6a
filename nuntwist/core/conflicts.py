"""Versions: what a write stores, and when it is a conflict. Pure.

Every value has a version. A write carries one, N; ``set`` carries -1, which means "whatever
it is". A new key is stored with N+1. An existing one at C is stored with N+1, or C+1 where N
is -1; where that is not above C, it is a conflict, and the database's strategy decides.
"""

from __future__ import annotations

from nuntwist.core.database import TOMBSTONE_VERSION
from nuntwist.values import IN_RESOLUTION, VALUE, VERSION, Op

ANY_VERSION = -1


def version_of(entry: Op | None) -> int:
    """The version of a key: -1 where it does not exist, -2 where it is in resolution."""
    if entry is None or entry[VALUE] is None:
        return TOMBSTONE_VERSION
    return entry[VERSION]


def next_version(current: int, asked: int) -> int | None:
    """The version a write is stored with.

    :param current: as :func:`version_of` gives it.
    :param asked: the version the write carries.
    :return: None where it is a conflict.
    """
    if asked < ANY_VERSION or current == IN_RESOLUTION:
        return None
    if asked == ANY_VERSION:
        return current + 1
    return asked + 1 if asked + 1 > current else None
