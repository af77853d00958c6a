"""What a change of users, tokens and permissions does to connections that are there, at once.

The same happens on every node of a set, as the operations come: whoever was made a smaller list
loses the watches that it does not allow, and is told of each by ``unwatched KEY``; whoever's user
is gone, or was signed out, is let go. Signing out is an operation of its own, on a key beginning
``$$signed_out_``: a new token alone leaves those connected who had the old one.

Whether a key may be seen is decided once for all who watch it as the same user, so a change costs
what is watched, and not how many watch it, but for those who lose something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nuntwist.core import watches
from nuntwist.core.database import (
    EVERYBODY,
    PERMISSION_PREFIX,
    SIGNED_OUT_PREFIX,
    USER_PREFIX,
    Database,
)
from nuntwist.values import KEY, VALUE, Op

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.node import Node


def changed(node: Node, database: Database, op: Op) -> None:
    """An operation was applied: see whom it takes something from."""
    key = op[KEY]
    if key.startswith(PERMISSION_PREFIX):
        name = key[len(PERMISSION_PREFIX) :]
        _take_watches(node, database, None if name == EVERYBODY else name)
    elif key.startswith(USER_PREFIX) and op[VALUE] is None:
        _sign_out(node, database, key[len(USER_PREFIX) :])
    elif key.startswith(SIGNED_OUT_PREFIX) and op[VALUE] is not None:
        _sign_out(node, database, key[len(SIGNED_OUT_PREFIX) :] or None)


def review(node: Node) -> None:
    """Much may have changed: operations were taken back, or a copy of all has come."""
    for database in node.catalogue.by_id.values():
        for user in {client.user for client in database.selected}:
            if user is not None and database.user_token(user) is None:
                _sign_out(node, database, user)
        for user in {watches.watches_as(client, database) for client in _watchers(database)}:
            _take_watches(node, database, user)


def _take_watches(node: Node, database: Database, user: bytes | None) -> None:
    """Take from those who are a user (None: have the database's token) what they may not see."""
    for client in tuple(database.arbiters):
        if client.user == user and not client.may_arbitrate:
            database.drop_arbiter(client)
            node.note_arbiter_gone(client)
    listed = database.permissions.get(EVERYBODY if user is None else user)
    if listed is None and user is None:
        return
    for key in tuple(database.watchers):
        if listed is not None and listed.allow(b"r", key) and not key.startswith(b"$$"):
            continue
        for clients in tuple(database.watchers[key].values()):
            for client in tuple(clients):
                if not client.admin and watches.watches_as(client, database) == user:
                    watches.unsubscribe(client, database, key)
                    node.counters.watches_taken += 1
                    node.pipeline.answer_message(client, b"unwatched %b\n" % key)


def _sign_out(node: Node, database: Database, user: bytes | None) -> None:
    """Let those go who have selected a database as a user, but for admins."""
    for client in tuple(database.selected):
        if client.user == user and not client.admin:
            node.counters.signed_out += 1
            node.pipeline.dismiss(client)


def _watchers(database: Database) -> set[Client]:
    return {
        client
        for encodings in database.watchers.values()
        for clients in encodings.values()
        for client in clients
    }
