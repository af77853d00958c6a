"""Who is told of what: subscribing, and turning an operation into events.

An event is encoded once for all watchers of one encoding; for each of them it is then one
append to the list of what the batch will send.
"""

from __future__ import annotations

from nuntwist.core.client import Client, Pending, Run
from nuntwist.core.database import Database, is_secret
from nuntwist.errors import CommandError
from nuntwist.language.replies import HIDDEN
from nuntwist.values import INDEX, KEY, VALUE, VERSION, Op


def subscribe(client: Client, database: Database, key: bytes, limit: int) -> None:
    """Watch a key; watching it twice is watching it once.

    :raise CommandError: the connection watches as many keys as it may.
    """
    keys = client.watching.get(database, set())
    if key in keys:
        return
    if client.watch_count >= limit:
        raise CommandError(b"too many watches: the limit is %d" % limit)
    client.watching.setdefault(database, keys).add(key)
    client.watched_as[database] = client.user
    client.watch_count += 1
    database.watchers.setdefault(key, {}).setdefault(client.encoding, {})[client] = None
    if client.watched is not None:
        client.watched.add(client, key)


def unsubscribe(client: Client, database: Database, key: bytes) -> None:
    """End a watch, if there is one."""
    keys = client.watching.get(database)
    if keys is None or key not in keys:
        return
    keys.remove(key)
    client.watch_count -= 1
    if client.watched is not None:
        client.watched.take(client, key)
    if not keys:
        del client.watching[database]
        del client.watched_as[database]
        signed = None if client.database is database else client.signed.pop(database, None)
        if signed is not None:
            signed.stop()
    encodings = database.watchers[key]
    clients = encodings[client.encoding]
    del clients[client]
    if not clients:
        del encodings[client.encoding]
    if not encodings:
        del database.watchers[key]


def watches_as(client: Client, database: Database) -> bytes | None:
    """As which user a client watches keys of a database; None with the database's own token."""
    return client.watched_as.get(database)


def unsubscribe_all(client: Client, database: Database) -> None:
    """End all watches of a client on one database."""
    for key in tuple(client.watching.get(database, ())):
        unsubscribe(client, database, key)


def notify(
    database: Database, op: Op, dirty: list[Client], revealed: int, in_set: bool = False
) -> None:
    """Tell the watchers of a key of an operation on it.

    :param revealed: the index up to which clients may know.
    :param in_set: whether an event that may not leave yet is kept by itself, because the answers
        beside it may have to be other ones when this node is no longer primary.
    :param dirty: the batch's list of clients to write to; those not on it yet are added.
    """
    encodings = database.watchers.get(op[KEY])
    if encodings is None:
        return
    key, value, index = op[KEY], op[VALUE], op[INDEX]
    # What the log has, or never will have, is not taken back with what it has not yet.
    fixed = index <= revealed
    if value is not None and is_secret(key):
        value = HIDDEN
    for encoding, clients in encodings.items():
        if value is None:
            event = encoding.removed(key)
        else:
            event = encoding.changed(key, value, op[VERSION])
        kept: Run | None = event if fixed else None
        if in_set and not fixed:
            kept = Pending(index, event, False)
        for client in clients:
            client.out.append(event)
            if kept is not None:
                client.chunks.append(kept)
            if index > client.needed:
                client.needed = index
            if not client.dirty:
                client.dirty = True
                dirty.append(client)
