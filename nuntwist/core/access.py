"""What a change of users, tokens and permissions does to connections that are there, at once.

The same happens on every node of a set, as the operations come: whoever was made a smaller list
loses the watches that it does not allow, and is told of each by ``unwatched KEY``; whoever's user
is gone, or was signed out, is let go. Signing out is an operation of its own, on a key beginning
``$$signed_out_``: a new token alone leaves those connected who had the old one.

Whether a key may be seen is decided once for all who watch it as the same user, so a change costs
what is watched, and not how many watch it, but for those who lose something. Who is there by a
signed token that brings its own permissions is not concerned by those of the user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nuntwist.core import watches
from nuntwist.core.database import (
    EVERYBODY,
    PERMISSION_PREFIX,
    SIGNED,
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
        node.desk.rights_changed(database)
    elif key.startswith(USER_PREFIX) and op[VALUE] is None:
        _sign_out(node, database, key[len(USER_PREFIX) :])
    elif key.startswith(SIGNED_OUT_PREFIX) and op[VALUE] is not None:
        _sign_out(node, database, key[len(SIGNED_OUT_PREFIX) :] or None)


def review(node: Node) -> None:
    """Much may have changed: operations were taken back, or a copy of all has come."""
    for database in node.catalogue.by_id.values():
        # Users of signed tokens need not be there.
        signed = [client for client in database.selected if database in client.signed]
        for user in {client.user for client in database.selected.keys() - signed}:
            if user is not None and database.user_token(user) is None:
                _sign_out(node, database, user)
        for user in {watches.watches_as(client, database) for client in _watchers(database)}:
            _take_watches(node, database, user)
    node.desk.renew()


def missed(node: Node, database: Database, before: Database) -> None:
    """A copy of all has come: let those go who were signed out by an operation that did not come
    by itself.

    :param before: what the database held before.
    """
    users = {client.user for client in database.selected}
    users |= {watches.watches_as(client, database) for client in _watchers(database)}
    for user in (*users, SIGNED):
        key = SIGNED_OUT_PREFIX + (user or b"")
        value = database.value(key)
        if value is not None and value != before.value(key):
            _sign_out(node, database, user)


def _take_watches(node: Node, database: Database, user: bytes | None) -> None:
    """Take from those who are a user (None: have the database's token) what they may not see."""
    for client in tuple(database.arbiters):
        if client.user == user:
            _look_at_arbiter(node, database, client)
    listed = database.permissions.get(EVERYBODY if user is None else user)
    if listed is None and user is None:
        return
    for key in tuple(database.watchers):
        if listed is not None and listed.allow(b"r", key) and not key.startswith(b"$$"):
            continue
        for clients in tuple(database.watchers[key].values()):
            for client in tuple(clients):
                if client.admin or watches.watches_as(client, database) != user:
                    continue
                if client.own_list(database) is None:
                    _take_watch(node, database, client, key)


def look_again(node: Node, database: Database, client: Client) -> None:
    """A connection has selected a database as another one, or with other rights, than before: what
    it watches there it watches as that."""
    if client in database.arbiters:
        _look_at_arbiter(node, database, client)
    watched = client.watching.get(database, set())
    if watched:
        client.watched_as[database] = client.user
    for key in tuple(watched):
        if not client.admin and (key.startswith(b"$$") or not client.may(b"r", key)):
            _take_watch(node, database, client, key)


def _take_watch(node: Node, database: Database, client: Client, key: bytes) -> None:
    watches.unsubscribe(client, database, key)
    node.counters.watches_taken += 1
    node.pipeline.tell(client, b"unwatched %b\n" % key)


def _look_at_arbiter(node: Node, database: Database, client: Client) -> None:
    if not client.may_arbitrate:
        database.drop_arbiter(client)
        node.note_arbiter_gone(client)


def _sign_out(node: Node, database: Database, user: bytes | None) -> None:
    """Let those go who are in a database as a user, or by a signed token, but for admins."""
    for client in tuple(database.selected):
        if not client.admin and _is(client, database, client.user, user):
            node.counters.signed_out += 1
            node.pipeline.connections.dismiss(client)
    for client in _watchers(database):
        # It has selected another one since, and stays there.
        if not client.admin and _is(client, database, watches.watches_as(client, database), user):
            for key in tuple(client.watching[database]):
                _take_watch(node, database, client, key)


def _is(client: Client, database: Database, has: bytes | None, user: bytes | None) -> bool:
    return database in client.signed if user == SIGNED else has == user


def _watchers(database: Database) -> set[Client]:
    return {
        client
        for encodings in database.watchers.values()
        for clients in encodings.values()
        for client in clients
    }
