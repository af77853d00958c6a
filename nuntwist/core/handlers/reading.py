"""get, get-safe, keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nuntwist.core.database import is_secret, shown
from nuntwist.core.handlers.common import see, selected, when_durable
from nuntwist.core.permissions import matches
from nuntwist.core.scan import Listing
from nuntwist.language.replies import EMPTY, HIDDEN, Reply
from nuntwist.values import VALUE, VERSION

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.deciding import Outcome
    from nuntwist.core.node import Node

_VERSION_OF_NOTHING = 1


def get(node: Node, client: Client, arguments: tuple[bytes]) -> Reply:
    """Read a key."""
    (key,) = arguments
    entry = see(client, selected(client).find(key))
    value = None if entry is None else entry[VALUE]
    return Reply((b"value %b\n" % _shown(key, value),))


def get_safe(node: Node, client: Client, arguments: tuple[bytes]) -> Reply:
    """Read a key and its version."""
    (key,) = arguments
    entry = see(client, selected(client).find(key))
    value = None if entry is None else entry[VALUE]
    version = _VERSION_OF_NOTHING if entry is None or value is None else entry[VERSION]
    return Reply((b"value-version %d %b\n" % (version, _shown(key, value)),))


def keys(node: Node, client: Client, arguments: tuple[bytes]) -> Outcome:
    """List keys, sorted; a large database in slices."""
    (pattern,) = arguments
    database = selected(client)
    permissions = client.permissions
    listed = None if permissions is None or permissions.lists_all else permissions.lists
    if database.key_count() > node.limits.keys_at_once:
        return Listing(database, pattern, client.admin, listed)
    found = shown(database, database.visible_keys(client.admin))
    chosen = sorted(
        key
        for key in found
        if (not pattern or matches(pattern, key)) and (listed is None or listed(key))
    )
    reply = Reply((b"keys %b\n" % b"".join(b"," + key for key in chosen),))
    return when_durable(node, database, reply)


def _shown(key: bytes, value: bytes | None) -> bytes:
    if value is None:
        return EMPTY
    return HIDDEN if is_secret(key) else value
