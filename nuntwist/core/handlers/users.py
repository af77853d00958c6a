"""auth; create-user and drop-user, what users may do, and tokens."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from nuntwist.core.conflicts import ANY_VERSION, version_of
from nuntwist.core.database import (
    NO_USERS,
    PERMISSION_PREFIX,
    SIGNED_OUT_PREFIX,
    SIGNING_KEYS,
    TOKEN_KEY,
    TOMBSTONE_VERSION,
    USER_PREFIX,
)
from nuntwist.core.handlers.common import (
    NO_SUCH_DATABASE,
    log_together,
    selected,
    when_durable,
)
from nuntwist.core.handlers.writing import refuse_kept, write_secure
from nuntwist.errors import CommandError
from nuntwist.language.parser import shorten
from nuntwist.language.replies import EMPTY, INVALID, OK, STILL_VALID, VALID, Reply
from nuntwist.values import REMOVE, SET, Op

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.database import Database
    from nuntwist.core.deciding import Outcome
    from nuntwist.core.node import Node

TOO_MANY_FAILURES = b"too many failed logins from this address: try again later"
NO_SUCH_USER = b"no such user: "


def in_its_turn(node: Node, client: Client, login: Callable[[], Outcome]) -> Outcome:
    """Log in, or be refused; now, or when an address that has failed too often may try again.

    :param login: tries it; it is not tried where that would be too long.
    """
    wait = node.logins.wait(client.peer)
    if wait == 0.0:
        return login()
    node.counters.delayed_logins += 1
    if wait is None:
        raise CommandError(TOO_MANY_FAILURES)
    turn: Deferred[None] = Deferred()
    node.call_later(wait, turn.callback, None)

    def go(_: None) -> Reply | Deferred[Reply]:
        node.pipeline.commit()
        outcome = login()
        assert isinstance(outcome, Reply | Deferred)
        return outcome

    return turn.addCallback(go)


def auth(node: Node, client: Client, arguments: tuple[bytes, bytes]) -> Outcome:
    """Make this connection an admin's; a wrong try takes nothing away."""
    return in_its_turn(node, client, lambda: _auth(node, client, *arguments))


def _auth(node: Node, client: Client, user: bytes, password: bytes) -> Reply:
    right_user = hmac.compare_digest(user, node.info.user)
    right_password = is_password(node, password)
    if right_user and right_password:
        client.admin = True
        if client.database is not None:
            client.database.review_arbiter(client)
        return VALID
    node.note_refused_login(client)
    return STILL_VALID if client.admin else INVALID


def is_password(node: Node, given: bytes) -> bool:
    """Whether it is the admin's password; spaces around it, which some clients send, do not count
    unless it has them."""
    password = node.info.password
    exactly = hmac.compare_digest(given, password)
    return hmac.compare_digest(given.strip(b" "), password) or exactly


def create_user(node: Node, client: Client, arguments: tuple[bytes, bytes]) -> Deferred[Reply]:
    """Create a user, or give one a new token."""
    name, token = arguments
    return write_secure(node, client, selected(client), USER_PREFIX + name, token, ANY_VERSION)


def set_permissions(node: Node, client: Client, arguments: tuple[bytes, bytes]) -> Deferred[Reply]:
    """Set what a user, or everybody with the database's token, may do."""
    name, listed = arguments
    return write_secure(
        node, client, selected(client), PERMISSION_PREFIX + name, listed, ANY_VERSION
    )


def drop_user(node: Node, client: Client, arguments: tuple[bytes]) -> Deferred[Reply]:
    """Remove a user and its permissions; who is connected as it is let go.

    Where there are signed tokens a user need not be there, nor be connected to this node.
    """
    (name,) = arguments
    database = selected(client)

    def drop() -> Deferred[None]:
        still_there(node, database)
        is_there = database.user_token(name) is not None
        if not is_there and (name in NO_USERS or database.value(SIGNING_KEYS) is None):
            raise CommandError(NO_SUCH_USER + shorten(name))
        node.pipeline.commit()
        make, gone = node.pipeline.journal.make, (USER_PREFIX + name, PERMISSION_PREFIX + name)
        ops: list[Op] = []
        for key in gone:
            if database.value(key) is not None:
                ops.append(
                    make(REMOVE, database.number, key, None, TOMBSTONE_VERSION, place=len(ops))
                )
        if not is_there:
            key, value = SIGNED_OUT_PREFIX + name, b"%d" % int(node.wall())
            version = version_of(database.find(key)) + 1
            ops.append(make(SET, database.number, key, value, version, place=len(ops)))
        return log_together(node, client, ops)

    return node.pipeline.journal.alone(drop).addCallback(lambda _: OK)


def list_users(node: Node, client: Client, arguments: tuple[()]) -> Reply | Deferred[Reply]:
    """Who may select the database as a user."""
    database = selected(client)
    names = sorted(
        key[len(USER_PREFIX) :]
        for key in database.visible_keys(hidden=True)
        if key.startswith(USER_PREFIX)
    )
    reply = Reply((b"users-list %b\n" % b"".join(b"," + name for name in names),))
    return when_durable(node, database, reply)


def get_permissions(node: Node, client: Client, arguments: tuple[bytes]) -> Reply | Deferred[Reply]:
    """What a user, or everybody with the database's token, may do."""
    (name,) = arguments
    database = selected(client)
    listed = database.value(PERMISSION_PREFIX + name)
    reply = Reply((b"permissions %b\n" % (EMPTY if listed is None else listed),))
    return when_durable(node, database, reply)


def set_token(node: Node, client: Client, arguments: tuple[bytes, bytes, bytes]) -> Deferred[Reply]:
    """Give a database or one of its users another token; who is connected stays or goes."""
    option, second, third = arguments
    refuse_option(b"set-token", option)
    user, token = (second, third) if third else (None, second)
    database = selected(client)
    key = TOKEN_KEY if user is None else USER_PREFIX + user
    refuse_kept(node, database, key)

    def change(stored: bytes) -> Deferred[None]:
        still_there(node, database)
        if user is not None and database.user_token(user) is None:
            raise CommandError(NO_SUCH_USER + shorten(user))
        node.pipeline.commit()
        make = node.pipeline.journal.make
        values = {key: stored}
        if option == b"close":
            values[SIGNED_OUT_PREFIX + (user or b"")] = b"%d" % int(node.wall())
        ops: list[Op] = []
        for changed, value in values.items():
            version = version_of(database.find(changed)) + 1
            ops.append(make(SET, database.number, changed, value, version, place=len(ops)))
        return log_together(node, client, ops)

    def hashed(stored: bytes) -> Deferred[Reply]:
        done = node.pipeline.journal.alone(lambda: change(stored))
        return done.addCallback(lambda _: OK)

    return node.secrets.hash(token).addCallback(hashed)


def refuse_option(word: bytes, option: bytes) -> None:
    """See that who is connected is to be kept or let go.

    :raise CommandError: it is neither.
    """
    if option not in (b"keep", b"close"):
        raise CommandError(b"%b takes keep or close: %b" % (word, shorten(option)))


def still_there(node: Node, database: Database) -> None:
    """See that a database was not dropped while its command waited.

    :raise CommandError: it was.
    """
    if node.catalogue.by_id.get(database.number) is not database:
        raise CommandError(NO_SUCH_DATABASE)
