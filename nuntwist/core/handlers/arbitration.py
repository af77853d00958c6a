"""arbiter, resolve; and putting a key into conflict resolution.

While a key is in resolution its version is -2 and its value stays; each write to it becomes a
conflict key, ``$conflicts_KEY_OPID``, holding the message that arbiters are sent. Both are in
one batch, so the log has both or none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nuntwist.core.conflicts import ANY_VERSION, version_of
from nuntwist.core.database import CONFLICT_PREFIX, RESOLVED, TOMBSTONE_VERSION, Database
from nuntwist.core.handlers.common import named, refuse_full, selected
from nuntwist.errors import CommandError
from nuntwist.language.replies import DENIED, NO_DATABASE, OK, Reply
from nuntwist.values import IN_RESOLUTION, INDEX, KEY, REMOVE, SET, VALUE, Op

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.node import Node

NO_ARBITER = b"An conflitct happend and there is no arbiter client not connected"


def arbiter(node: Node, client: Client, arguments: tuple[()]) -> Reply:
    """Make this connection an arbiter; it is sent what is pending at once."""
    database = selected(client)
    if not client.may_arbitrate:
        return DENIED
    database.add_arbiter(client)
    if node.pipeline.journal.refusal is None:
        _clean(node, database)
    client.needed = max(client.needed, database.last_index)
    pending = [
        conflict
        for key, conflicts in database.conflicts.items()
        if client.may(b"a", key)
        for conflict in conflicts
    ]
    messages = [database.value(key) or b"" for key in pending]
    return Reply(tuple(messages))


def queue(node: Node, database: Database, key: bytes, value: bytes, asked: int) -> Reply:
    """Put a write that conflicts before the arbiters.

    :raise CommandError: there is none, and the key is not in resolution yet.
    """
    entry = database.find(key)
    current = version_of(entry)
    pending = database.conflicts.get(key, [])
    arbiters = [client for client in database.arbiters if client.may(b"a", key)]
    nobody = current != IN_RESOLUTION and not arbiters
    if nobody and not node.arbiters_elsewhere(database):
        raise CommandError(NO_ARBITER)
    old = b"" if entry is None else entry[VALUE] or b""
    shown = current
    if pending:
        old, shown = pending[-1], asked + len(pending)
    # The conflict key is named after its own operation, whose stamp is known only when it is
    # made, so the clock is asked for it first and the next one, for the key, comes after.
    number = node.pipeline.journal.stamps.next()
    conflict = b"%b%b_%d" % (CONFLICT_PREFIX, key, number)
    message = b"resolve %d %b %d %b %b %b" % (number, database.name, shown, key, old, value)
    of_key = () if current == IN_RESOLUTION else ((entry, key, old),)
    refuse_full(node, database, (None, conflict, message), *of_key)
    change = node.pipeline.change
    change(database, SET, conflict, message, 0)
    if current != IN_RESOLUTION:
        change(database, SET, key, old, IN_RESOLUTION)
    for client in arbiters:
        node.pipeline.answer_message(client, message)
    return Reply(error=b"$$conflitct unresolved " + conflict)


def tell(node: Node, database: Database, op: Op) -> None:
    """The primary has put a write before arbiters: so are those that are connected here."""
    conflict, message = op[KEY], op[VALUE]
    if not database.arbiters or message is None or message.startswith(RESOLVED):
        return
    key = conflict[len(CONFLICT_PREFIX) :].rpartition(b"_")[0]
    for client in database.arbiters:
        # Its rights are those that it has in the database it is an arbiter of: it has selected it.
        if client.may(b"a", key):
            node.pipeline.answer_message(client, message, op[INDEX])


def resolve(node: Node, client: Client, arguments: tuple[bytes, bytes, bytes, int, bytes]) -> Reply:
    """Take the arbiter's answer: settle one conflict, and the key when it was the last."""
    number, name, key, version, value = arguments
    database = named(node, name)
    if not client.admin:
        if database is not client.database:
            return NO_DATABASE
        # Which key an answer is about stands third, out of sight of the authorise stage.
        if not client.may(b"a", key):
            return DENIED
    conflict = b"%b%b_%b" % (CONFLICT_PREFIX, key, number)
    in_resolution = version_of(database.find(key)) == IN_RESOLUTION
    if not in_resolution or conflict not in database.conflicts.get(key, ()):
        raise CommandError(b"no such conflict: " + conflict)
    change = node.pipeline.change
    kept = version_of(database.find(conflict))
    change(database, SET, conflict, RESOLVED + value, kept + 1)
    if database.conflicts.get(key):
        change(database, SET, key, value, IN_RESOLUTION)
    else:
        # Kept until the next arbiter comes: this may be taken back.
        before = database.version_before.get(key, ANY_VERSION)
        change(database, SET, key, value, max(version, before) + 1)
    return OK


def _clean(node: Node, database: Database) -> None:
    """Remove the conflict keys that were resolved."""
    for key in tuple(database.resolved):
        node.pipeline.change(database, REMOVE, key, None, TOMBSTONE_VERSION)
    for key in database.version_before.keys() - database.conflicts.keys():
        del database.version_before[key]
