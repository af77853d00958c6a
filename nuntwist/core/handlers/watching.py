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


def watch(node: Node, client: Client, arguments: tuple[bytes]) -> Reply:
    """Tell this connection each change of a key from now on."""
    (key,) = arguments
    if len(key) > node.limits.key and selected(client).value(key) is None:
        raise CommandError(b"key too long: the limit is %d bytes" % node.limits.key)
    watches.subscribe(client, selected(client), key, node.limits.watches)
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
