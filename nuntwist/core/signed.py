"""Connections that are in a database by a signed token, for as long as that counts.

A token belongs to a connection and a database: the one selected, and it stays while the connection
only watches that one and has selected another. Some time before it ends the connection is told
``token-expiring SECONDS``; it sends ``use-db DB jwt TOKEN`` with a new one, and nothing else
changes, but for watches that the new one does not allow. Otherwise, when the token ends, so do the
watches, the database is not selected any more, and the connection is told ``token-expired DB``. It
may come again. A request over HTTP is told nothing, and can do nothing more.

The clock that counts is that of the wall, as in the token. It may be set, so it is looked at once a
minute at least.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from nuntwist.core import watches
from nuntwist.core.permissions import Permissions
from nuntwist.core.sessions import let_go
from nuntwist.language.replies import ATOMS

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from nuntwist.core.client import Client
    from nuntwist.core.database import Database
    from nuntwist.core.node import Node
    from nuntwist.core.signing import Claims

LOOK_SECONDS: Final = 60.0


class Signed:
    """A token that counts.

    :ivar rights: its own list of permissions, as text; None where those of the user count.
    :ivar permissions: the same, read.
    :ivar over: whether it has ended, and its connection is about to leave the database.
    :ivar told_at: when its end is announced, seconds since 1970; None where that was done.
    """

    __slots__ = ("expires", "over", "permissions", "rights", "timer", "told_at")

    def __init__(self, rights: bytes | None, expires: float = math.inf) -> None:
        self.rights = rights
        self.permissions = None if rights is None else Permissions(rights)
        self.expires = expires
        self.over = False
        self.told_at: float | None = None
        self.timer: IDelayedCall | None = None

    def stop(self) -> None:
        """It does not matter any more when it ends."""
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        self.timer = None


def hold(node: Node, client: Client, database: Database, claims: Claims) -> None:
    """A connection is in a database by a token from now on, in place of what it had before."""
    let_go(client, database)
    signed = client.signed[database] = Signed(claims.permissions, claims.expires)
    if client.encoding is not ATOMS:
        left = claims.expires - node.wall()
        signed.told_at = claims.expires - min(node.limits.token_warning, left / 2.0)
    _wait(node, client, database, signed)


def _wait(node: Node, client: Client, database: Database, signed: Signed) -> None:
    until = signed.expires if signed.told_at is None else signed.told_at
    seconds = min(max(0.0, until - node.wall()), LOOK_SECONDS)
    signed.timer = node.call_later(seconds, _look, node, client, database, signed)


def _look(node: Node, client: Client, database: Database, signed: Signed) -> None:
    signed.timer = None
    now = node.wall()
    if node.catalogue.by_id.get(database.number) is not database:
        # Dropped, and nobody had selected or watched it.
        let_go(client, database)
        return
    if signed.expires <= now:
        _end(node, client, database, signed)
        return
    if signed.told_at is not None and signed.told_at <= now:
        signed.told_at = None
        left = math.ceil(signed.expires - now)
        node.pipeline.tell(client, b"token-expiring %d\n" % left)
    _wait(node, client, database, signed)


def _end(node: Node, client: Client, database: Database, signed: Signed) -> None:
    signed.over = True
    node.counters.tokens_expired += 1
    watches.unsubscribe_all(client, database)
    if client.encoding is not ATOMS:
        node.pipeline.tell(client, b"token-expired %b\n" % database.name)
    node.pipeline.connections.leave(client)
