"""What of a backup may come into a node: names and entries that a client could have made.

A backup may be of another node, of an older version, or made by hand. What no client could set
would break the lines of the protocol for all who read it; what is of the node or the set that it
comes from (its token, members, markers) means nothing here. All this is pure.
"""

from __future__ import annotations

from nuntwist.archive.entries import HIGHEST_VERSION
from nuntwist.core.database import CONNECTIONS_KEY, SERVERS_OWN, TOKEN_KEY, Database
from nuntwist.errors import CommandError
from nuntwist.language.parser import SHOWN, shorten
from nuntwist.values import IN_RESOLUTION, INDEX, KEY, VALUE, VERSION, Op


def is_name(name: bytes) -> bool:
    """Whether a client could have created a database of this name."""
    return bool(name) and not name.startswith(b"$") and not set(name) & set(b" |;\r\n")


def check_entry(op: Op) -> None:
    """Refuse what no client could have set: it would break the lines of the protocol, or be a
    version that has no next one.

    :raise CommandError: it is such a thing.
    """
    key, text, version = op[KEY], op[VALUE] or b"", op[VERSION]
    sound = bool(key) and b" " not in key and b"\n" not in key + text
    sound = sound and (0 <= version <= HIGHEST_VERSION or version == IN_RESOLUTION)
    if sound and not (key.isascii() and text.isascii()):
        try:
            (key + text).decode()
        except UnicodeDecodeError:
            sound = False
    if not sound:
        raise CommandError(b"the backup holds what no client could set: " + shown(key))


def shown(text: bytes) -> bytes:
    """What an archive holds, fit for an answer, which is a line of UTF-8."""
    letters = text[: 2 * SHOWN].decode("utf-8", "replace")
    return shorten("".join(one if one.isprintable() else "?" for one in letters).encode())


def is_left_out(key: bytes) -> bool:
    """Whether a key of ``$admin`` is of the node or the set that it comes from."""
    return key in (TOKEN_KEY, CONNECTIONS_KEY) or key.startswith(SERVERS_OWN)


def is_listing(op: Op, by_id: dict[int, Database]) -> bool:
    """Whether an entry of ``$admin`` follows from a database being there."""
    database = by_id.get(op[INDEX])
    return database is not None and database.name == op[KEY]
