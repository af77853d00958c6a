"""set, set-safe, increment, remove; and what a write to a secure key goes through."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from nuntwist.core.concern import parse_concern
from nuntwist.core.conflicts import ANY_VERSION, next_version, version_of
from nuntwist.core.database import (
    CONCERN_KEY,
    CONFLICT_PREFIX,
    CONNECTIONS_KEY,
    NO_USERS,
    PERMISSION_PREFIX,
    SERVERS_OWN,
    SIGNING_KEYS,
    TOKEN_KEY,
    TOMBSTONE_VERSION,
    USER_PREFIX,
    Database,
    is_secret,
)
from nuntwist.core.handlers import arbitration
from nuntwist.core.handlers.common import NO_SUCH_DATABASE, log_alone, refuse_full, selected
from nuntwist.core.permissions import Permissions
from nuntwist.errors import CommandError
from nuntwist.language.commands import INT64_MAX, INT64_MIN
from nuntwist.language.parser import SPACES, parse_number, shorten
from nuntwist.language.replies import OK, Reply
from nuntwist.values import IN_RESOLUTION, REMOVE, SET, VALUE

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.deciding import Outcome
    from nuntwist.core.node import Node

NOT_NUMERIC = b"Key is not numeric"


def set_key(node: Node, client: Client, arguments: tuple[bytes, bytes]) -> Outcome:
    """Set a key, whatever its version."""
    key, value = arguments
    return write(node, client, selected(client), key, value, ANY_VERSION)


def set_safe(node: Node, client: Client, arguments: tuple[bytes, int, bytes]) -> Outcome:
    """Set a key if its version allows."""
    key, version, value = arguments
    return write(node, client, selected(client), key, value, version)


def increment(node: Node, client: Client, arguments: tuple[bytes, int]) -> Outcome:
    """Add to a number."""
    key, amount = arguments
    return add(node, client, selected(client), key, amount)


def remove(node: Node, client: Client, arguments: tuple[bytes]) -> Outcome:
    """Remove a key."""
    (key,) = arguments
    return erase(node, client, selected(client), key)


def write(
    node: Node, client: Client, database: Database, key: bytes, value: bytes, asked: int
) -> Outcome:
    """Decide and make a write.

    :param asked: the version it carries.
    :raise CommandError: it is refused.
    """
    refuse_kept(node, database, key)
    refuse_size(node, database, key, value)
    if key.startswith(b"$$"):
        return write_secure(node, client, database, key, value, asked)
    entry = database.find(key)
    version = _decide(database, version_of(entry), asked)
    if version is None:
        return arbitration.queue(node, database, key, value, asked)
    refuse_full(node, database, (entry, key, value))
    node.pipeline.change(database, SET, key, value, version)
    return OK


def add(node: Node, client: Client, database: Database, key: bytes, amount: int) -> Outcome:
    """Decide and make an increment: the log holds the value it leads to.

    :raise CommandError: the key holds no whole number, or the sum does not fit 64 bits.
    """
    refuse_kept(node, database, key)
    if is_secret(key):
        raise CommandError(NOT_NUMERIC)
    if key.startswith(PERMISSION_PREFIX) or not key.startswith(b"$$"):
        return write(node, client, database, key, _sum(database, key, amount), ANY_VERSION)
    return log_secure(
        node, client, database, SET, key, lambda: _sum(database, key, amount), ANY_VERSION
    )


def _sum(database: Database, key: bytes, amount: int) -> bytes:
    value = database.value(key)
    number = 0 if value is None else parse_number(value)
    if number is None or not INT64_MIN <= number + amount <= INT64_MAX:
        raise CommandError(NOT_NUMERIC)
    return b"%d" % (number + amount)


def erase(node: Node, client: Client, database: Database, key: bytes) -> Outcome:
    """Decide and make a removal; of a key that is not there, nothing.

    :raise CommandError: the key cannot be removed.
    """
    if key == TOKEN_KEY:
        raise CommandError(b"$$token key cannot be removed")
    refuse_kept(node, database, key)
    entry = database.find(key)
    if entry is None or entry[VALUE] is None:
        return OK
    if version_of(entry) == IN_RESOLUTION:
        raise CommandError(b"key is in conflict resolution")
    if key.startswith(b"$$"):
        return log_secure(node, client, database, REMOVE, key, lambda: None, TOMBSTONE_VERSION)
    node.pipeline.change(database, REMOVE, key, None, TOMBSTONE_VERSION)
    return OK


def _decide(database: Database, current: int, asked: int) -> int | None:
    """The version to store a write with; None where the arbiter has to decide."""
    version = next_version(current, asked)
    if version is not None:
        return version
    if database.strategy == b"newer":
        # The write that is being made now is the later one.
        return current + 1
    if database.strategy == b"arbiter":
        return None
    raise CommandError(b"Invalid version!")


def write_secure(
    node: Node, client: Client, database: Database, key: bytes, value: bytes, asked: int
) -> Deferred[Reply]:
    """Write a key beginning ``$$``: a token is hashed first; logged alone, then applied."""
    refuse_size(node, database, key, value)
    if key.startswith(USER_PREFIX):
        _refuse_user(node, database, key[len(USER_PREFIX) :])
    if key.startswith(PERMISSION_PREFIX):
        Permissions(value)
    if key == CONCERN_KEY:
        parse_concern(value)
    if not is_secret(key):
        return log_secure(node, client, database, SET, key, lambda: value, asked)
    if not value:
        raise CommandError(b"a token cannot be empty")
    if b" " in value:
        # Nobody could log in with it.
        raise CommandError(SPACES)
    hashed = node.secrets.hash(value)
    return hashed.addCallback(
        lambda stored: log_secure(node, client, database, SET, key, lambda: stored, asked)
    )


def log_secure(
    node: Node,
    client: Client,
    database: Database,
    kind: int,
    key: bytes,
    make_value: Callable[[], bytes | None],
    asked: int,
) -> Deferred[Reply]:
    """Log an operation on a secure key alone, then apply it."""
    pipeline = node.pipeline

    def decide() -> Deferred[None]:
        if node.catalogue.by_id.get(database.number) is not database:
            raise CommandError(NO_SUCH_DATABASE)
        pipeline.commit()
        version = asked
        if kind == SET:
            current = version_of(database.find(key))
            decided = next_version(current, asked)
            if decided is None and database.strategy == b"none":
                raise CommandError(b"Invalid version!")
            version = current + 1 if decided is None else decided
        op = pipeline.journal.make(kind, database.number, key, make_value(), version)
        return log_alone(node, client, op)

    return pipeline.journal.alone(decide).addCallback(lambda _: OK)


def refuse_size(node: Node, database: Database, key: bytes, value: bytes) -> None:
    """Refuse what is longer than one may be; a key that is there already may be.

    :raise CommandError: the key is, or the value.
    """
    limits = node.limits
    if len(key) > limits.key and database.value(key) is None:
        raise CommandError(b"key too long: the limit is %d bytes" % limits.key)
    if limits.value and len(value) > limits.value:
        raise CommandError(b"value too long: the limit is %d bytes" % limits.value)


def _refuse_user(node: Node, database: Database, name: bytes) -> None:
    """Refuse a user that could not log in, or be told apart in a list.

    :raise CommandError: it is one.
    """
    if database is node.catalogue.admin:
        raise CommandError(b"$admin has no users")
    if not name or name in NO_USERS or b"," in name or b" " in name:
        raise CommandError(b"no user can be called " + shorten(name))


def _own(key: bytes) -> bytes:
    return next(prefix for prefix in SERVERS_OWN if key.startswith(prefix))


def refuse_kept(node: Node, database: Database, key: bytes) -> None:
    """Refuse a change to what only the server writes.

    :raise CommandError: it is such a key.
    """
    if key == CONNECTIONS_KEY:
        raise CommandError(b"$connections cannot be changed")
    if key.startswith(CONFLICT_PREFIX):
        raise CommandError(b"conflict keys cannot be changed: an arbiter resolves them")
    if key == SIGNING_KEYS:
        raise CommandError(b"set-signing-keys sets the keys of signed tokens")
    if database is node.catalogue.admin:
        if key in node.catalogue.by_name:
            raise CommandError(b"%b is a database: its key cannot be changed" % key)
        if key == TOKEN_KEY:
            raise CommandError(b"the token of $admin is the admin password: configure it")
        if key.startswith(SERVERS_OWN):
            raise CommandError(b"the server alone writes keys that begin with %b" % _own(key))
