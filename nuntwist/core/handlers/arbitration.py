"""arbiter, resolve; and putting a key into conflict resolution.

While a key is in resolution its version is -2 and its value stays; each write to it becomes a
conflict key, ``$conflicts_KEY_OPID``, holding the message that its arbiter is sent. Both are in
one batch, so the log has both or none. The version of a conflict key is one above the version that
the key had before the first of its conflicts: so that outlives a restart, whichever of them are
decided by then.

Which arbiter is sent what is the business of :mod:`nuntwist.core.desk`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nuntwist.core.client import LONGEST_ARBITER
from nuntwist.core.conflicts import version_of
from nuntwist.core.database import CONFLICT_PREFIX, RESOLVED, TOMBSTONE_VERSION, Database
from nuntwist.core.handlers.common import named, refuse_full, selected
from nuntwist.errors import CommandError
from nuntwist.language.replies import DENIED, NO_DATABASE, OK, Reply
from nuntwist.values import IN_RESOLUTION, REMOVE, SET, VALUE

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.node import Node

NO_ARBITER = b"An conflitct happend and there is no arbiter client not connected"


def arbiter(node: Node, client: Client, arguments: tuple[()]) -> Reply:
    """Make this connection an arbiter; it is sent at once what is pending, as far as its window
    holds that, and the next as it decides."""
    database = selected(client)
    if client.identity_size > LONGEST_ARBITER:
        raise CommandError(
            b"the user name of an arbiter, and the permissions of its signed token, have at most %d"
            b" bytes together" % LONGEST_ARBITER
        )
    if not client.may_arbitrate:
        return DENIED
    if client not in database.arbiters:
        if node.desk.trays.count >= node.limits.arbiters:
            raise CommandError(b"too many arbiters: a node takes %d" % node.limits.arbiters)
        database.add_arbiter(client)
    if node.pipeline.journal.refusal is None:
        _clean(node, database)
    client.needed = max(client.needed, database.last_index)
    messages = [database.value(key) or b"" for key in node.desk.trays.pending(client, database)]
    return Reply(tuple(messages))


def queue(node: Node, database: Database, key: bytes, value: bytes, asked: int) -> Reply:
    """Put a write that conflicts before the arbiters.

    :raise CommandError: there is none, and the key is not in resolution yet.
    """
    entry = database.find(key)
    current = version_of(entry)
    pending = database.conflicts.get(key, [])
    if current != IN_RESOLUTION and not node.desk.anyone(database, key):
        raise CommandError(NO_ARBITER)
    old = b"" if entry is None else entry[VALUE] or b""
    shown, above = current, max(0, current + 1)
    if pending:
        old, shown = pending[-1], asked + len(pending)
        above = version_of(database.find(pending[-1]))
    # The conflict key is named after its own operation, whose stamp is known only when it is
    # made, so the clock is asked for it first and the next one, for the key, comes after.
    number = node.pipeline.journal.stamps.next()
    conflict = b"%b%b_%d" % (CONFLICT_PREFIX, key, number)
    message = b"resolve %d %b %d %b %b %b" % (number, database.name, shown, key, old, value)
    of_key = () if current == IN_RESOLUTION else ((entry, key, old),)
    refuse_full(node, database, (None, conflict, message), *of_key)
    change = node.pipeline.change
    change(database, SET, conflict, message, above)
    if current != IN_RESOLUTION:
        change(database, SET, key, old, IN_RESOLUTION)
    node.desk.queued()
    return Reply(error=b"$$conflitct unresolved " + conflict)


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
        change(database, SET, key, value, max(version + 1, kept))
    return OK


def _clean(node: Node, database: Database) -> None:
    """Remove the conflict keys that were resolved."""
    for key in tuple(database.resolved):
        node.pipeline.change(database, REMOVE, key, None, TOMBSTONE_VERSION)
