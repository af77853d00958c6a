"""What several handlers need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from nuntwist.core.database import Database
from nuntwist.core.enact import enact
from nuntwist.core.quota import Write
from nuntwist.errors import CommandError
from nuntwist.language.parser import shorten
from nuntwist.language.replies import OK, Reply, failure
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


def names_in(text: bytes) -> list[bytes]:
    """The names in ``NAME|NAME``."""
    return [name for name in text.strip(b" ").split(b"|") if name]


def all_named(node: Node, text: bytes) -> list[Database]:
    """The databases given as ``NAME|NAME``.

    :raise CommandError: one is not there.
    """
    names = names_in(text)
    unknown = [name for name in names if name not in node.catalogue.by_name]
    if len(unknown) == 1:
        raise CommandError(b"%b is not a valid database name" % shorten(unknown[0]))
    if unknown:
        listed = b"".join(shorten(name) + b", " for name in unknown)
        raise CommandError(listed + b"are not a valid database names")
    return [node.catalogue.by_name[name] for name in names]


def when_durable(node: Node, database: Database, reply: Reply) -> Reply | Deferred[Reply]:
    """A reply that tells of all of a database, when the log has all that it tells."""
    journal = node.pipeline.journal
    if database.last_index <= journal.revealed:
        return reply
    waited: Deferred[Any] = journal.durable(database.last_index)
    return waited.addCallbacks(lambda _: reply, lambda _: failure(journal.said))


def log_alone(node: Node, client: Client, op: Op, reply: Reply = OK) -> Deferred[None]:
    """Log an operation that is not one plain key, and enact it when it is durable.

    As :func:`log_together` with one.
    """
    return log_together(node, client, [op], reply)


def log_together(node: Node, client: Client, made: list[Op], reply: Reply = OK) -> Deferred[None]:
    """Log operations that stand alone, all or none, and enact them when they are durable.

    :param client: whose command led to them; its mark is logged together with them.
    :param made: as :meth:`nuntwist.core.journal.Journal.append_together` takes them.
    :param reply: what the command is answered then.
    :return: as of :meth:`nuntwist.core.journal.Journal.append_together`.
    """
    ops = made if client.mark is None else [*made, client.mark(reply, len(made))]

    def apply() -> None:
        for one in ops:
            enact(node, one)

    return node.pipeline.journal.append_together(ops, apply)


def refuse_full(node: Node, database: Database, *writes: Write) -> None:
    """Refuse what a database has no room for.

    :raise CommandError: it has none.
    """
    usage = database.usage
    refusal = None if usage is None else usage.refusal(*writes)
    if refusal is not None:
        node.note_quota(database)
        raise CommandError(refusal)


def see(client: Client, entry: Op | None) -> Op | None:
    """Note that a reply tells of an entry, so it may not leave before that is durable."""
    if entry is not None and entry[INDEX] > client.needed:
        client.needed = entry[INDEX]
    return entry
