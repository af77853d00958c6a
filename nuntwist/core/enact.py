"""What an operation does to a node that runs, beside moving its state: watchers are told, the
sessions of what is gone end, its memory is given back.

The same happens whoever made the operation: a client of this node, a restore, or the primary it
follows. Recovery needs only :meth:`nuntwist.core.catalogue.Catalogue.apply`: nobody is there yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nuntwist.core import access
from nuntwist.core.catalogue import STAGED
from nuntwist.core.client import REPLACED
from nuntwist.core.database import Database
from nuntwist.core.sessions import release
from nuntwist.values import (
    BEGIN_EPOCH,
    CREATE_DATABASE,
    DATABASE,
    DROP_DATABASE,
    INDEX,
    KEY,
    KIND,
    NAME_DATABASE,
    VALUE,
    Op,
)

if TYPE_CHECKING:
    from nuntwist.core.node import Node


def enact(node: Node, op: Op) -> Database | None:
    """Apply a durable operation and let everybody concerned know.

    :return: the database that is gone by it; its snapshot is left to the caller.
    """
    kind = op[KIND]
    if kind == CREATE_DATABASE:
        node.catalogue.create(op)
        _tell(node, op)
        return None
    if kind == DROP_DATABASE:
        gone = node.catalogue.drop(op)
        if gone is not None:
            release(gone)
            node.desk.dropped(gone)
            _tell(node, op)
            node.pipeline.streams.work(gone.free())
        return gone
    if kind == NAME_DATABASE:
        return _name(node, op)
    if kind == BEGIN_EPOCH:
        return None
    database = node.catalogue.by_id.get(op[DATABASE])
    if database is not None:
        database.store(op)
        if op[VALUE] is None:
            node.pipeline.journal.stay(op, database)
        node.pipeline.notify(database, op)
        access.changed(node, database, op)
    return None


def _name(node: Node, op: Op) -> Database | None:
    """A staged database takes its name, and the one that had it goes."""
    gone = node.catalogue.adopt(op)
    restored = node.catalogue.by_id.get(op[DATABASE])
    if restored is not None:
        restored.mend_conflicts()
    if gone is not None:
        node.desk.dropped(gone)
        for client in release(gone):
            # It has to ask for the database anew, with the token of now.
            node.pipeline.connections.finish(client, REPLACED)
        node.pipeline.streams.work(gone.free())
    _tell(node, op)
    return gone


def _tell(node: Node, op: Op) -> None:
    if not op[KEY].startswith(STAGED):
        node.tell_catalogue(op[KEY], op[INDEX])
