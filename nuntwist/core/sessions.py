"""Selecting a database and leaving it, and the count of connections that comes of it.

``$connections`` lives on this node only: it is not logged and not replicated, and its version
moves by one with each change.
"""

from __future__ import annotations

from collections.abc import Callable

from nuntwist.core import watches
from nuntwist.core.client import Client
from nuntwist.core.conflicts import version_of
from nuntwist.core.database import CONNECTIONS_KEY, Database, local_entry
from nuntwist.values import Op

Notify = Callable[[Database, Op], None]


def select(client: Client, database: Database, user: bytes | None, notify: Notify) -> None:
    """Make a database the one that a client's commands are about."""
    client.user = user
    if client.database is database:
        return
    deselect(client, notify)
    client.user = user
    client.database = database
    database.selected[client] = None
    client.heed()
    _count(database, notify)


def deselect(client: Client, notify: Notify) -> None:
    """Leave the selected database, if there is one."""
    database, client.database, client.user = client.database, None, None
    if database is None:
        return
    database.drop_arbiter(client)
    database.selected.pop(client, None)
    if database not in client.watching:
        let_go(client, database)
    client.heed()
    _count(database, notify)


def let_go(client: Client, database: Database) -> None:
    """A connection is not in a database by a signed token any more, if it was."""
    signed = client.signed.pop(database, None)
    if signed is not None:
        signed.stop()


def let_all_go(client: Client) -> None:
    """The same of all databases: the connection is gone, or let go."""
    for database in tuple(client.signed):
        let_go(client, database)


def release(database: Database) -> list[Client]:
    """Take a database that is gone from all who had selected or watched it.

    :return: those who had selected it.
    """
    for clients in [c for e in database.watchers.values() for c in e.values()]:
        for watcher in tuple(clients):
            watches.unsubscribe_all(watcher, database)
            let_go(watcher, database)
    members = list(database.selected)
    for member in members:
        member.database = member.user = None
        let_go(member, database)
        member.heed()
    database.selected.clear()
    for arbiter in tuple(database.arbiters):
        database.drop_arbiter(arbiter)
    return members


def _count(database: Database, notify: Notify) -> None:
    version = version_of(database.find(CONNECTIONS_KEY)) + 1
    entry = local_entry(database, CONNECTIONS_KEY, b"%d" % len(database.selected), version)
    database.store(entry)
    notify(database, entry)
