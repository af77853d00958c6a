"""write-concern, set-write-concern, read-concern."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nuntwist.core.concern import parse_concern
from nuntwist.core.conflicts import ANY_VERSION
from nuntwist.core.database import CONCERN_KEY, TOMBSTONE_VERSION
from nuntwist.core.handlers.common import selected
from nuntwist.core.handlers.writing import log_secure
from nuntwist.errors import CommandError
from nuntwist.language.parser import shorten
from nuntwist.language.replies import OK, Reply
from nuntwist.values import REMOVE, SET

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.deciding import Outcome
    from nuntwist.core.node import Node

DEFAULT = b"default"


def write_concern(node: Node, client: Client, arguments: tuple[bytes]) -> Reply:
    """Set how many nodes must have what this connection writes; without one, show it."""
    (text,) = arguments
    if not text:
        return Reply((b"write-concern " + node.pipeline.concerns.of(client).encode() + b"\n",))
    client.concern = None if text == DEFAULT else parse_concern(text)
    client.heed()
    return OK


def set_write_concern(node: Node, client: Client, arguments: tuple[bytes]) -> Outcome:
    """Set that for the selected database, on every node."""
    (text,) = arguments
    database = selected(client)
    if text == DEFAULT:
        if database.value(CONCERN_KEY) is None:
            return OK
        return log_secure(
            node, client, database, REMOVE, CONCERN_KEY, lambda: None, TOMBSTONE_VERSION
        )
    value = parse_concern(text).encode()
    return log_secure(node, client, database, SET, CONCERN_KEY, lambda: value, ANY_VERSION)


def read_concern(node: Node, client: Client, arguments: tuple[bytes]) -> Reply:
    """Set how new what this connection reads must be."""
    (word,) = arguments
    if word not in (b"local", b"linearizable"):
        raise CommandError(b"a read concern is local or linearizable: " + shorten(word))
    client.linearizable = word == b"linearizable"
    client.heed()
    return OK
