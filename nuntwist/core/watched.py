"""How much all connections watch together, and who watches most.

Each may watch some number of keys, but a key may be thousands of bytes long, and whoever may read
anything may watch keys that are not there: without a limit for all together a few readers of a
public page could fill the memory. Where they are over it, those that watch most are closed, one
after the other, as with what they are sent; whoever watches a usual number is not among them, and
is refused only where nobody watches more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.logger import Logger

from nuntwist.core import watches
from nuntwist.core.counters import Counters

if TYPE_CHECKING:
    from nuntwist.core.client import Client

EACH: Final = 300
"""Bytes that a watch takes beside those of its key (measured, rounded down)."""
USUAL: Final = 256 << 10
"""Bytes of watches for which a connection is not closed."""


class Watched:
    """The sum.

    :param limit: bytes.
    :param counters: of the node.
    :ivar total: bytes of all watches.
    """

    _log = Logger()

    def __init__(self, limit: int, counters: Counters) -> None:
        self._limit = limit
        self._counters = counters
        self._large: dict[Client, None] = {}
        self.total = 0

    def add(self, client: Client, key: bytes) -> None:
        """A connection watches one more key."""
        size = EACH + len(key)
        self.total += size
        client.watched_bytes += size
        if client.watched_bytes > USUAL:
            self._large[client] = None

    def take(self, client: Client, key: bytes) -> None:
        """It does not any more."""
        size = EACH + len(key)
        self.total -= size
        client.watched_bytes -= size
        if client.watched_bytes <= USUAL:
            self._large.pop(client, None)

    def make_room(self) -> bool:
        """Close those who watch most, while all together watch too much.

        :return: whether there is room.
        """
        if self.total <= self._limit:
            return True
        for client in sorted(self._large, key=lambda one: one.watched_bytes, reverse=True):
            self._log.warn(
                "closed {peer}: its {count} watches take {size} bytes, and all together may take"
                " {limit}; see what it watches, or raise NUN_WATCH_TOTAL",
                peer=client.peer,
                count=client.watch_count,
                size=client.watched_bytes,
                limit=self._limit,
            )
            self._counters.watches_closed += 1
            client.dismissed = True
            client.backlog.clear()
            for database in tuple(client.watching):
                watches.unsubscribe_all(client, database)
            client.outlet.abort("watches")
            if self.total <= self._limit:
                return True
        return False
