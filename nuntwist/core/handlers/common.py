"""What several handlers need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nuntwist.core.database import Database
from nuntwist.errors import CommandError
from nuntwist.values import INDEX, Op

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.node import Node

NO_SUCH_DATABASE = b"Not a valid database name"


def selected(client: Client) -> Database:
    """The database a client has selected (the authorise stage saw to it that there is one).

    :raise CommandError: there is none.
    """
    if client.database is None:
        raise CommandError(b"error no-db-selected\n")
    return client.database


def named(node: Node, name: bytes) -> Database:
    """A database by its name.

    :raise CommandError: there is none.
    """
    database = node.catalogue.by_name.get(name)
    if database is None:
        raise CommandError(NO_SUCH_DATABASE)
    return database


def see(client: Client, entry: Op | None) -> Op | None:
    """Note that a reply tells of an entry, so it may not leave before that is durable."""
    if entry is not None and entry[INDEX] > client.needed:
        client.needed = entry[INDEX]
    return entry
