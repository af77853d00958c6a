"""A restore: the databases of an archive come into a running node, all of them or none.

The archive comes in pieces. Each database goes into a staged one (:mod:`nuntwist.core.catalogue`)
as ordinary logged operations, a piece a batch, so the log has them all, recovery and other nodes
get them like any other change, and nobody sees them yet. The commit is one record of the log: it
gives all staged databases their names, drops what had these, and holds the keys of ``$admin``.
What is staged when a node becomes primary was left by a restore that nobody finished, and goes.

To merge is something else: entries are set in the databases that are there, as they come, like
writes of a client.
"""

from __future__ import annotations

from collections.abc import Collection, Generator
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, inlineCallbacks, succeed
from twisted.logger import Logger

from nuntwist.archive.format import Head, Member, Reader
from nuntwist.core.catalogue import ADMIN_NAME, STAGED, STRATEGIES
from nuntwist.core.database import (
    CONNECTIONS_KEY,
    SERVERS_OWN,
    SHARDS,
    TOKEN_KEY,
    Database,
)
from nuntwist.core.enact import enact
from nuntwist.core.quota import refuse_database
from nuntwist.core.restorable import check_entry, is_left_out, is_listing, is_name, shown
from nuntwist.errors import CommandError, CorruptData
from nuntwist.language.parser import shorten
from nuntwist.values import (
    ADMIN_ID,
    CREATE_DATABASE,
    INDEX,
    KEY,
    NAME_DATABASE,
    REMOVE,
    SET,
    VALUE,
    VERSION,
    Op,
)

if TYPE_CHECKING:
    from nuntwist.core.node import Node

NEW, FORCE, MERGE = b"new", b"force", b"merge"
MODES = (NEW, FORCE, MERGE)
ADMIN_BYTES = 32 << 20
"""How large the keys of ``$admin`` may be together: they are written in one record."""


class Restore:
    """One restore under way.

    :param mode: NEW refuses databases that are there, FORCE replaces them, MERGE adds to them.
    :param names: which databases of the archive; empty for all.
    """

    _log = Logger()

    def __init__(self, node: Node, mode: bytes, names: Collection[bytes]) -> None:
        self._node = node
        self._mode = mode
        self._names = frozenset(names)
        self._reader = Reader("the backup")
        self._staged: dict[bytes, Database] = {}
        self._target: Database | None = None
        self._in_admin = False
        self._admin: dict[bytes, Op] | None = None
        self._admin_bytes = 0
        self._undone = node.pipeline.journal.undone
        self._count = 0
        self._databases = 0
        self._busy = False
        self._over = False

    # -- pieces ------------------------------------------------------------------------------

    @inlineCallbacks
    def write(self, data: bytes) -> Generator[Deferred[Any], Any, None]:
        """Take the next piece.

        :return: fires with None when it is in the log; fails with CommandError, and then the
            restore is to be closed.
        """
        self._begin_step()
        try:
            if self._node.snapshots.are_due():
                # Or a large restore would make the log outgrow its limit.
                yield self._node.snapshots.take_changed()
            for piece in self._pieces(data):
                if isinstance(piece, Head):
                    self._check_head(piece)
                elif isinstance(piece, Member):
                    yield self._begin_database(piece)
                elif isinstance(piece, list):
                    self._take(piece)
            yield self._logged()
        finally:
            self._busy = False

    def _begin_step(self) -> None:
        if self._busy or self._over:
            raise CommandError(b"the restore is busy: wait for the last answer")
        self._busy = True
        self._node.pipeline.commit()

    def _pieces(self, data: bytes) -> Generator[Any, None, None]:
        try:
            yield from self._reader.feed(data)
        except CorruptData as error:
            raise CommandError(str(error).encode()) from None

    @inlineCallbacks
    def _logged(self) -> Generator[Deferred[Any], Any, None]:
        pipeline = self._node.pipeline
        pipeline.commit()
        yield pipeline.journal.durable(pipeline.journal.index, writer=True)
        if pipeline.journal.undone != self._undone:
            raise CommandError(b"storage unavailable: the log did not take it")

    def _is_wanted(self, name: bytes) -> bool:
        return not self._names or name in self._names

    def _check_head(self, head: Head) -> None:
        names = [member.name for member in head.members]
        missing = sorted(self._names.difference(names))
        if missing:
            raise CommandError(b"the backup has no database " + shorten(missing[0]))
        for member in head.members:
            if not self._is_wanted(member.name):
                continue
            self._databases += 1
            if member.strategy not in STRATEGIES:
                raise CommandError(b"unknown strategy: " + shown(member.strategy))
            if member.name != ADMIN_NAME and not is_name(member.name):
                raise CommandError(b"invalid database name: " + shown(member.name))
            if self._mode == NEW:
                self._check_free(member.name)
        by_name = self._node.catalogue.by_name
        coming = {m.name for m in head.members if self._is_wanted(m.name)} - by_name.keys()
        if coming:
            refuse_database(self._node.limits.quota, len(by_name) - 1, len(coming))

    def _check_free(self, name: bytes) -> None:
        """Refuse to replace what is there.

        :raise CommandError: there is something.
        """
        catalogue = self._node.catalogue
        if name == ADMIN_NAME:
            if self._admin_keys():
                raise CommandError(b"database already exists: $admin holds keys")
        elif name in catalogue.by_name:
            raise CommandError(b"database already exists: " + shorten(name))

    def _admin_keys(self) -> list[bytes]:
        """The logged keys of ``$admin``, but for those that only the server writes."""
        catalogue = self._node.catalogue
        return [
            op[KEY]
            for shard in range(SHARDS)
            for op in catalogue.admin.entries(shard)
            if not is_listing(op, catalogue.by_id) and not op[KEY].startswith(SERVERS_OWN)
        ]

    @inlineCallbacks
    def _begin_database(self, member: Member) -> Generator[Deferred[Any], Any, None]:
        self._target, self._in_admin = None, False
        if not self._is_wanted(member.name):
            return
        there = self._node.catalogue.by_name.get(member.name)
        if self._mode == MERGE and there is not None:
            self._target = there
        elif member.name == ADMIN_NAME:
            self._in_admin, self._admin = True, {}
        else:
            yield self._stage(member)

    @inlineCallbacks
    def _stage(self, member: Member) -> Generator[Deferred[Any], Any, None]:
        yield self._logged()
        pipeline, catalogue = self._node.pipeline, self._node.catalogue

        def create() -> Deferred[int]:
            pipeline.commit()
            op = pipeline.journal.make(
                CREATE_DATABASE, None, STAGED + member.name, member.strategy + b" "
            )
            created = pipeline.journal.append_alone(op, lambda: enact(self._node, op))
            return created.addCallback(lambda _: op[INDEX])

        number = yield pipeline.journal.alone(create)
        self._target = self._staged[member.name] = catalogue.by_id[number]

    def _take(self, entries: list[Op]) -> None:
        if self._target is not None:
            self._set(self._target, entries)
            self._count += len(entries)
        elif self._in_admin:
            self._keep_admin(entries)
            self._count += len(entries)

    def _set(self, database: Database, entries: list[Op]) -> None:
        pipeline = self._node.pipeline
        if self._node.catalogue.by_id.get(database.number) is not database:
            raise CommandError(b"the database was dropped meanwhile")
        merging = database.name in self._node.catalogue.by_name
        for op in entries:
            key, value, version = op[KEY], op[VALUE], op[VERSION]
            if key == CONNECTIONS_KEY or (database.number == ADMIN_ID and is_left_out(key)):
                continue
            check_entry(op)
            if not merging:
                pipeline.journal.change(database, SET, key, value, version)
            elif key != TOKEN_KEY:
                held = database.find(key)
                if held is not None and held[VALUE] is not None:
                    if held[VERSION] < 0:
                        raise CommandError(b"a conflict is open on the key " + shorten(key))
                    version = max(version, held[VERSION] + 1)
                pipeline.change(database, SET, key, value, max(version, 0))

    def _keep_admin(self, entries: list[Op]) -> None:
        assert self._admin is not None
        for op in entries:
            if not is_left_out(op[KEY]):
                check_entry(op)
                self._admin[op[KEY]] = op
                self._admin_bytes += len(op[KEY]) + len(op[VALUE] or b"")
        if self._admin_bytes > ADMIN_BYTES:
            raise CommandError(b"the keys of $admin are too large together")

    # -- the end -----------------------------------------------------------------------------

    @inlineCallbacks
    def commit(self) -> Generator[Deferred[Any], Any, tuple[int, int]]:
        """Let all databases appear.

        :return: fires with how many databases and how many entries came; fails with
            CommandError, and then nothing did.
        """
        self._begin_step()
        try:
            try:
                self._reader.finish()
            except CorruptData as error:
                raise CommandError(str(error).encode()) from None
            yield self._logged()
            replaced: list[Database] = []
            yield self._node.pipeline.journal.alone(lambda: self._name_all(replaced))
            self._over = True
            for database in replaced:
                # What cannot be removed goes at the next start.
                self._node.storage.drop(database.number)
        finally:
            self._busy = False
        self._log.info(
            "restored databases: {databases}, entries: {entries}",
            databases=self._databases,
            entries=self._count,
        )
        return self._databases, self._count

    def _name_all(self, replaced: list[Database]) -> Deferred[None]:
        """Log and apply the record that makes it all true.

        :param replaced: gets what is gone by it.
        """
        for name, database in self._staged.items():
            if not database.value(TOKEN_KEY):
                raise CommandError(b"no token for the database " + shorten(name))
            if self._mode != FORCE:
                self._check_free(name)
        self._node.pipeline.commit()
        ops = self._last_operations()
        if not ops:
            return succeed(None)
        journal = self._node.pipeline.journal
        return journal.append_together(ops, lambda: self._apply(ops, replaced))

    def _last_operations(self) -> list[Op]:
        """The record that makes it all true."""
        catalogue, make = self._node.catalogue, self._node.pipeline.journal.make
        ops: list[Op] = []
        for name, database in self._staged.items():
            there = catalogue.by_name.get(name)
            old = b"" if there is None else b"%d" % there.number
            ops.append(make(NAME_DATABASE, database.number, name, old, place=len(ops)))
        if self._admin is not None:
            number = catalogue.admin.number
            for key in self._admin_keys():
                if key not in self._admin:
                    ops.append(make(REMOVE, number, key, None, -1, place=len(ops)))
            for key, op in self._admin.items():
                ops.append(make(SET, number, key, op[VALUE], op[VERSION], place=len(ops)))
        return ops

    def _apply(self, ops: list[Op], replaced: list[Database]) -> None:
        gone = [enact(self._node, op) for op in ops]
        replaced += [database for database in gone if database is not None]

    def close(self) -> None:
        """Drop what is staged, unless it was committed."""
        if self._over:
            return
        self._over = True
        self._node.drop_staged(list(self._staged.values()))
