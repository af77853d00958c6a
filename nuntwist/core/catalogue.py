"""All databases of a node, by name and by id; and ``apply``, which moves their state.

``apply`` is total and deterministic: what it is given was decided before.  Its callers are
recovery at start, the stream from a primary, and (for operations that are not one key of one
database) a live write; a live write of one key stores its operation the same way.

A database that is being restored is *staged*: it has an id and a name that no client can say,
and is in no list; a NAME_DATABASE operation puts it in its place, and what had the name goes.

The database ``$admin`` is the catalogue as clients see it: it holds a key for every database,
itself included, with the value ``{}``.  Those keys follow from the operations that create and
drop databases; they are not operations of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nuntwist.core.database import TOKEN_KEY, Database, local_entry
from nuntwist.core.quota import UNLIMITED, Quota
from nuntwist.values import (
    ADMIN_ID,
    BEGIN_EPOCH,
    CREATE_DATABASE,
    DATABASE,
    DROP_DATABASE,
    INDEX,
    KEY,
    KIND,
    NAME_DATABASE,
    SET,
    STAMP,
    VALUE,
    Op,
)

if TYPE_CHECKING:
    from nuntwist.core.client import Client

ADMIN_NAME = b"$admin"
NAMED = b"{}"
STAGED = b"$restoring "
"""What the names of staged databases begin with; no word of a command can hold the space."""
STRATEGIES = (b"none", b"newer", b"arbiter")


class Catalogue:
    """The databases of a node; ``$admin`` is there from the start.

    :param quota: what each other one may hold.
    :ivar by_name: for commands.
    :ivar by_id: for operations: a database made again under a name has another id.
    :ivar on_arbiters: is called with a database and a client that is an arbiter of it now, is none
        any more, or has other rights.
    :ivar on_conflicts: is called with a database, a key of it whose open conflicts are others, and
        the one that has come or gone.
    """

    def __init__(self, quota: Quota = UNLIMITED) -> None:
        self.quota = quota
        self.on_arbiters: Callable[[Database, Client], None] = lambda database, client: None
        self.on_conflicts: Callable[[Database, bytes, bytes], None] = lambda *about: None
        self.admin = Database(ADMIN_ID, ADMIN_NAME, b"newer")
        self.by_name: dict[bytes, Database] = {ADMIN_NAME: self.admin}
        self.by_id: dict[int, Database] = {ADMIN_ID: self.admin}
        # The admin database's token is the password the node was configured with, so what
        # stands under its key is only there to be listed (reading it gives <hidden>).
        self.admin.store(local_entry(self.admin, TOKEN_KEY, b"", 0))
        self._list(ADMIN_NAME, 0, 0)

    def apply(self, op: Op) -> None:
        """Move the state by one operation."""
        kind = op[KIND]
        if kind == CREATE_DATABASE:
            self.create(op)
        elif kind == DROP_DATABASE:
            self.drop(op)
        elif kind == NAME_DATABASE:
            self.adopt(op)
        elif kind != BEGIN_EPOCH:
            database = self.by_id.get(op[DATABASE])
            if database is not None:
                database.store(op)
                if op[VALUE] is None:
                    database.purge(op)

    def create(self, op: Op) -> Database:
        """Add the database that a CREATE_DATABASE operation names, with its token."""
        strategy, _, token = (op[VALUE] or b"none ").partition(b" ")
        database = self.restore(op[DATABASE], op[KEY], strategy)
        index, stamp = op[INDEX], op[STAMP]
        database.store((token, 0, index, stamp, SET, database.number, TOKEN_KEY))
        if not op[KEY].startswith(STAGED):
            self._list(op[KEY], index, stamp)
        return database

    def restore(self, number: int, name: bytes, strategy: bytes) -> Database:
        """Add a database as a snapshot's header names it, still empty."""
        database = self.by_id[number] = Database(number, name, strategy)
        database.on_arbiters = self._tell_arbiters
        database.on_conflicts = self._tell_conflicts
        database.usage = self.quota.usage()
        if not name.startswith(STAGED):
            self.by_name[name] = database
        return database

    def _tell_arbiters(self, database: Database, client: Client) -> None:
        self.on_arbiters(database, client)

    def _tell_conflicts(self, database: Database, key: bytes, conflict: bytes) -> None:
        self.on_conflicts(database, key, conflict)

    def drop(self, op: Op) -> Database | None:
        """Take out the database that a DROP_DATABASE operation names; gives it back."""
        return self._take_out(op[DATABASE], op[KEY])

    def _take_out(self, number: int, name: bytes) -> Database | None:
        database = self.by_id.pop(number, None)
        if database is not None and self.by_name.get(name) is database:
            del self.by_name[name]
        if self.is_listed(number, name):
            self.admin.forget(name)
        return database

    def adopt(self, op: Op) -> Database | None:
        """Give a staged database its name, as a NAME_DATABASE operation says.

        :return: the one that had the name, which is gone.
        """
        name = op[KEY]
        before = self._take_out(int(op[VALUE]), name) if op[VALUE] else None
        database = self.by_id.get(op[DATABASE])
        if database is not None:
            database.name = name
            database.last_index = max(database.last_index, op[INDEX])
            self.by_name[name] = database
            self._list(name, database.number, op[STAMP])
        return before

    def staged(self) -> list[Database]:
        """The databases that have no name yet."""
        return [d for d in self.by_id.values() if d.name.startswith(STAGED)]

    def is_listed(self, number: int, name: bytes) -> bool:
        """Whether ``$admin`` names a database: an entry has the index of its creation."""
        entry = self.admin.find(name)
        return entry is not None and entry[INDEX] == number

    def relist(self) -> None:
        """Find names and keys of ``$admin`` anew (after a recovery): of several databases that
        had a name one after the other, snapshots may be younger than what was replayed."""
        named = [d for _, d in sorted(self.by_id.items()) if not d.name.startswith(STAGED)]
        self.by_name = {database.name: database for database in named}
        for name, database in self.by_name.items():
            if not self.is_listed(database.number, name):
                self._list(name, database.number, 0)

    def _list(self, name: bytes, index: int, stamp: int) -> None:
        self.admin.store((NAMED, 0, index, stamp, SET, ADMIN_ID, name))
