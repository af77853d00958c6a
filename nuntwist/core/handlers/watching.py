"""watch, unwatch, unwatch-all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nuntwist.core import watches
from nuntwist.core.handlers.common import selected
from nuntwist.errors import CommandError
from nuntwist.language.replies import OK, Reply

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.node import Node

TOO_MANY = b"too many watches of all connections together: they may take %d bytes"


def watch(node: Node, client: Client, arguments: tuple[bytes]) -> Reply:
    """Tell this connection each change of a key from now on."""
    (key,) = arguments
    if len(key) > node.limits.key and selected(client).value(key) is None:
        raise CommandError(b"key too long: the limit is %d bytes" % node.limits.key)
    if client.dismissed:
        # It was closed for what it watches, a moment ago.
        raise CommandError(TOO_MANY % node.limits.watch_total)
    watches.subscribe(client, selected(client), key, node.limits.watches)
    if not node.pipeline.watched.make_room():
        watches.unsubscribe(client, selected(client), key)
        raise CommandError(TOO_MANY % node.limits.watch_total)
    return OK


def unwatch(node: Node, client: Client, arguments: tuple[bytes]) -> Reply:
    """End a watch."""
    (key,) = arguments
    watches.unsubscribe(client, selected(client), key)
    return OK


def unwatch_all(node: Node, client: Client, arguments: tuple[()]) -> Reply:
    """End all watches of this connection on the selected database."""
    watches.unsubscribe_all(client, selected(client))
    return OK
