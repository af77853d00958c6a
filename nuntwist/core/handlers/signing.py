"""set-signing-keys, get-signing-keys: what a database checks signed tokens with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, succeed

from nuntwist.core.conflicts import version_of
from nuntwist.core.database import SIGNED, SIGNED_OUT_PREFIX, SIGNING_KEYS, TOMBSTONE_VERSION
from nuntwist.core.handlers.common import log_together, selected, when_durable
from nuntwist.core.handlers.users import refuse_option, still_there
from nuntwist.core.signing import Keys, keys_from
from nuntwist.errors import CommandError
from nuntwist.language.replies import OK, Reply
from nuntwist.values import REMOVE, SET, Op

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.node import Node

NONE = b"none"
NOT_OPENED = b"the signing keys cannot be opened here: set them again"


def set_signing_keys(node: Node, client: Client, arguments: tuple[bytes, bytes]) -> Deferred[Reply]:
    """Give a database other keys for signed tokens, or none; who is there by one stays or goes."""
    option, given = arguments
    refuse_option(b"set-signing-keys", option)
    database = selected(client)
    if database is node.catalogue.admin:
        raise CommandError(b"$admin takes no signed tokens")

    def change(kept: bytes | None) -> Deferred[None]:
        still_there(node, database)
        node.pipeline.commit()
        make, number, before = node.pipeline.journal.make, database.number, database.find
        ops: list[Op] = []
        if kept is not None:
            version = version_of(before(SIGNING_KEYS)) + 1
            ops.append(make(SET, number, SIGNING_KEYS, kept, version))
        elif database.value(SIGNING_KEYS) is not None:
            ops.append(make(REMOVE, number, SIGNING_KEYS, None, TOMBSTONE_VERSION))
        if option == b"close":
            key, when = SIGNED_OUT_PREFIX + SIGNED, b"%d" % int(node.wall())
            version = version_of(before(key)) + 1
            ops.append(make(SET, number, key, when, version, place=len(ops)))
        return log_together(node, client, ops) if ops else succeed(None)

    def log(kept: bytes | None) -> Deferred[Reply]:
        done = node.pipeline.journal.alone(lambda: change(kept))
        return done.addCallback(lambda _: OK)

    if given == NONE:
        return log(None)
    return node.keyring.to_keep(keys_from(given)).addCallback(log)


def get_signing_keys(node: Node, client: Client, arguments: tuple[()]) -> Reply | Deferred[Reply]:
    """How signed tokens of a database have to be signed, and the names of the keys."""
    database = selected(client)
    kept = database.value(SIGNING_KEYS)
    if kept is None:
        return when_durable(node, database, Reply((b"signing-keys \n",)))

    def tell(keys: Keys | None) -> Reply | Deferred[Reply]:
        if keys is None:
            raise CommandError(NOT_OPENED)
        listed = "".join(f",{name}" for name in keys.names()).encode()
        return when_durable(node, database, Reply((b"signing-keys %b\n" % listed,)))

    return node.keyring.keys(kept, database.name).addCallback(tell)
