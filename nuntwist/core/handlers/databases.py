"""use-db, create-db, drop-db, snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from nuntwist.core import access, sessions, signed
from nuntwist.core.catalogue import STRATEGIES
from nuntwist.core.database import SIGNED, SIGNING_KEYS, Database
from nuntwist.core.handlers.common import (
    NO_SUCH_DATABASE,
    all_named,
    log_alone,
    named,
    selected,
)
from nuntwist.core.handlers.users import in_its_turn, is_password
from nuntwist.core.quota import refuse_database
from nuntwist.core.signing import Claims, Keys, check
from nuntwist.errors import CommandError
from nuntwist.language.parser import shorten
from nuntwist.language.replies import OK, Reply
from nuntwist.values import CREATE_DATABASE, DROP_DATABASE

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.deciding import Outcome
    from nuntwist.core.node import Node

INVALID_TOKEN = b"Invalid token"
CREATED = Reply((b"create-db success\n",))
DROPPED = Reply((b"drop-db success\n",))


def use_db(node: Node, client: Client, arguments: tuple[bytes, bytes, bytes]) -> Outcome:
    """Select a database with its token, or as one of its users; an admin also with the password."""
    return in_its_turn(node, client, lambda: _use(node, client, *arguments))


def _use(node: Node, client: Client, name: bytes, second: bytes, third: bytes) -> Outcome:
    database = named(node, name)
    if database is node.catalogue.admin:
        # It has no users, and its token, the admin's password, may hold spaces.
        right = is_password(node, second + b" " + third if third else second)
        return _select(node, client, database, None, right)
    if client.admin and is_password(node, second + b" " + third if third else second):
        # Who may do everything to every database need not know its token.
        return _select(node, client, database, None, True)
    third = third.partition(b" ")[0]
    if second == SIGNED and third:
        return _use_signed(node, client, database, third)
    user, token = (second, third) if third else (None, second)
    stored = database.user_token(user)
    # How long it takes must not tell whether there is such a user.
    checked = node.secrets.verify(token, node.secrets.nobodys if stored is None else stored)

    def select(right: bool) -> Reply:
        if stored is None or database.user_token(user) != stored:
            right = False
        if node.catalogue.by_id.get(database.number) is not database:
            raise CommandError(NO_SUCH_DATABASE)
        node.pipeline.commit()
        return _select(node, client, database, user, right)

    return checked.addCallback(select)


def _use_signed(
    node: Node, client: Client, database: Database, token: bytes
) -> Reply | Deferred[Reply]:
    kept = database.value(SIGNING_KEYS)
    if kept is None:
        return _select(node, client, database, None, False)

    def select(keys: Keys | None) -> Reply:
        if node.catalogue.by_id.get(database.number) is not database:
            raise CommandError(NO_SUCH_DATABASE)
        if database.value(SIGNING_KEYS) != kept:
            # They were changed meanwhile.
            raise CommandError(INVALID_TOKEN)
        if keys is None:
            # Whoever comes, it is not his doing.
            raise CommandError(INVALID_TOKEN)
        claims = check(token, keys, database.name, node.wall())
        if claims is None:
            return _select(node, client, database, None, False)
        node.pipeline.commit()
        return _select(node, client, database, claims.subject, True, claims)

    return node.keyring.keys(kept, database.name).addCallback(select)


def _select(
    node: Node,
    client: Client,
    database: Database,
    user: bytes | None,
    right: bool,
    claims: Claims | None = None,
) -> Reply:
    if not right:
        node.note_refused_login(client)
        raise CommandError(INVALID_TOKEN)
    database.selected_at = node.wall()
    if client.closed:
        return OK
    before = client.signed.get(database)
    sessions.select(client, database, user, node.pipeline.notify)
    if claims is not None:
        signed.hold(node, client, database, claims)
    else:
        sessions.let_go(client, database)
    if claims is not None or before is not None:
        access.look_again(node, database, client)
    database.review_arbiter(client)
    return OK


def create_db(node: Node, client: Client, arguments: tuple[bytes, bytes, bytes]) -> Outcome:
    """Create a database; nobody has the token but who made it up."""
    name, token, strategy = arguments
    if name.startswith(b"$") or b"|" in name:
        raise CommandError(b"invalid database name: " + shorten(name))
    if strategy not in STRATEGIES:
        raise CommandError(b"unknown strategy: " + shorten(strategy))
    if name in node.catalogue.by_name:
        raise CommandError(b"database already exists")
    if len(name) > node.limits.key:
        raise CommandError(b"name too long: the limit is %d bytes" % node.limits.key)
    _refuse_another(node)

    def create(stored: bytes) -> Deferred[None]:
        if name in node.catalogue.by_name:
            raise CommandError(b"database already exists")
        _refuse_another(node)
        pipeline = node.pipeline
        pipeline.commit()
        op = pipeline.journal.make(CREATE_DATABASE, None, name, strategy + b" " + stored)
        return log_alone(node, client, op, CREATED)

    def hashed(stored: bytes) -> Deferred[Reply]:
        created = node.pipeline.journal.alone(lambda: create(stored))
        return created.addCallback(lambda _: CREATED)

    return node.secrets.hash(token).addCallback(hashed)


def _refuse_another(node: Node) -> None:
    try:
        refuse_database(node.limits.quota, len(node.catalogue.by_name) - 1)
    except CommandError:
        node.counters.quota_refusals += 1
        raise


def drop_db(node: Node, client: Client, arguments: tuple[bytes]) -> Deferred[Reply]:
    """Remove a database: whoever had selected it has none selected, and their watches end."""
    (name,) = arguments

    def drop() -> Deferred[int]:
        database = named(node, name)
        if database is node.catalogue.admin:
            raise CommandError(b"$admin cannot be dropped")
        node.pipeline.commit()
        journal = node.pipeline.journal
        op = journal.make(DROP_DATABASE, database.number, name, None)
        dropped = log_alone(node, client, op, DROPPED)
        return dropped.addCallback(lambda _: database.number)

    def forget(number: int) -> Deferred[Reply]:
        return node.storage.drop(number).addCallback(lambda _: DROPPED)

    return node.pipeline.journal.alone(drop).addCallback(forget)


def snapshot(node: Node, client: Client, arguments: tuple[bytes, bytes]) -> Outcome:
    """Write snapshots; the answer comes when they are durable."""
    reclaim, names = arguments
    if reclaim not in (b"", b"true", b"false"):
        raise CommandError(b"snapshot takes true or false, then names: " + shorten(reclaim))
    if not names:
        if client.database is None:
            raise CommandError(b"No database selected")
        return _take(node, [selected(client)], reclaim == b"true")
    return snapshot_named(node, names, reclaim == b"true")


def snapshot_named(node: Node, names: bytes, whole: bool) -> Deferred[Reply]:
    """Write snapshots of databases given as ``NAME|NAME``.

    :raise CommandError: one is not there; then none is snapshotted.
    """
    return _take(node, all_named(node, names), whole)


def _take(node: Node, databases: list[Database], whole: bool) -> Deferred[Reply]:
    return node.snapshots.take(databases, whole).addCallback(lambda _: OK)
