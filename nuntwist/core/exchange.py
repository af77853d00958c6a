"""The state in memory becomes that of a copy (:mod:`nuntwist.core.copying`), in one turn.

A database that was there before and is still the same stays the same object: who has selected or
watches it notices nothing but the changes of the keys watched, as with any other. What is gone is
left as by a drop. Whoever looks at the state as it was (a listing, a backup) goes on looking at
that; its memory is given back in slices.

Nobody is told while it is exchanged. What there is to tell comes of :meth:`Exchange.tell`, in the
same turn: later the old content, which it compares with, is being freed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nuntwist.core import access
from nuntwist.core.client import REPLACED
from nuntwist.core.copying import Aside
from nuntwist.core.database import CONNECTIONS_KEY, Database
from nuntwist.core.sessions import release
from nuntwist.values import INDEX, REMOVE, STAMP, VALUE, VERSION, Op

if TYPE_CHECKING:
    from nuntwist.core.node import Node


class Exchange:
    """One exchange.

    :param node: that has the state.
    :param aside: finished; holds what there was when it is done.
    """

    def __init__(self, node: Node, aside: Aside) -> None:
        self._node = node
        self._aside = aside
        self._pairs: list[tuple[Database, Database]] = []
        self._revealed = node.pipeline.journal.revealed

    def run(self) -> None:
        """Do it; nobody is told."""
        node, aside = self._node, self._aside
        catalogue, coming = node.catalogue, aside.catalogue
        stays = {
            number: is_same(catalogue.admin, coming.admin, old, coming.by_id.get(number))
            for number, old in catalogue.by_id.items()
        }
        old_by_id, catalogue.by_id = catalogue.by_id, dict(coming.by_id)
        going: list[Database] = []
        for number, old in old_by_id.items():
            if stays[number]:
                self._keep(old, coming.by_id[number])
                catalogue.by_id[number] = old
                going.append(coming.by_id[number])
            else:
                going.append(old)
        catalogue.by_name = {
            name: catalogue.by_id[database.number] for name, database in coming.by_name.items()
        }
        for old in going:
            if old_by_id.get(old.number) is old:
                self._leave(old)
        node.foreign_stamps.observe(aside.stamp)
        node.pipeline.journal.start_over(aside.position.index)
        node.pipeline.streams.work(_free(going))

    def _keep(self, database: Database, content: Database) -> None:
        """A database stays, with another content."""
        database.exchange(content)
        local = content.find(CONNECTIONS_KEY)
        if local is not None:
            database.store(local)
        self._pairs.append((database, content))

    def _leave(self, gone: Database) -> None:
        """A database is gone; who has selected one of the same name has to ask for it anew, with
        the token of now."""
        members = release(gone)
        if gone.name in self._node.catalogue.by_name:
            for client in members:
                self._node.pipeline.connections.finish(client, REPLACED)

    def tell(self) -> int:
        """Tell watchers of keys that are not what they were told.

        :return: how many keys these are.
        """
        # First, as some may not see any more what there is to tell.
        access.review(self._node)
        for database, before in self._pairs:
            access.missed(self._node, database, before)
        told = 0
        for database, before in self._pairs:
            for key in tuple(database.watchers):
                old, new = before.find(key), database.find(key)
                if differ(old, new) or (old is not None and old[INDEX] > self._revealed):
                    told += 1
                    gone: Op = (None, -1, 0, 0, REMOVE, database.number, key)
                    self._node.pipeline.notify(database, new or gone)
        return told


def is_same(admin: Database, coming: Database, old: Database, new: Database | None) -> bool:
    """Whether a database is the same one in both: its id is the index of an operation, which
    in another log may have made another database."""
    if new is None or old.name != new.name:
        return False
    here, there = admin.find(old.name), coming.find(old.name)
    if here is None or there is None:
        return here is there
    # A stamp of 0 is not known.
    return here[STAMP] == there[STAMP] or not (here[STAMP] and there[STAMP])


def differ(old: Op | None, new: Op | None) -> bool:
    """Whether who was told of one entry of a key has to be told of the other."""
    if old is None or new is None:
        # A tombstone that is not forgotten yet is no value either.
        return old is not new and (old or new or ())[VALUE : VALUE + 1] != (None,)
    return (old[VALUE], old[VERSION]) != (new[VALUE], new[VERSION])


def _free(databases: Sequence[Database]) -> Iterator[None]:
    for database in databases:
        yield from database.free()
