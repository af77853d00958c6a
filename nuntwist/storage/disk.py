"""Snapshots in files: one a database, named by its id.

A snapshot is written under a temporary name as its entries come, then flushed to the disk in a
thread and put in the place of the one before in one step: a crash at any moment leaves the old
one or the new one whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from nuntwist.errors import CorruptData, StartError, StorageUnavailable
from nuntwist.files import WRITE_BACK_EVERY, Files, Handle, write_all
from nuntwist.interfaces import ISnapshotWriter, IStorage, SnapshotHeader
from nuntwist.storage import format as snapshot
from nuntwist.values import Op

_PREFIX, _SUFFIX, _TEMPORARY = "database-", ".snapshot", ".snapshot.new"

InThread = Callable[..., Deferred[Any]]


def snapshot_name(database_id: int) -> str:
    """The file of a database's snapshot."""
    return f"{_PREFIX}{database_id}{_SUFFIX}"


def _id_in(name: str) -> int | None:
    """The id of the database whose snapshot has this name; None where it is no snapshot's."""
    number = name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    if number.isdecimal() and number.isascii() and snapshot_name(int(number)) == name:
        return int(number)
    return None


@implementer(ISnapshotWriter)
class _Writer:
    def __init__(self, files: Files, in_thread: InThread, header: SnapshotHeader) -> None:
        self._files = files
        self._in_thread = in_thread
        self._name = snapshot_name(header.database_id)
        self._temporary = f"{_PREFIX}{header.database_id}{_TEMPORARY}"
        self._count = 0
        self._handed = 0
        self._hinting = False
        self._broken: StorageUnavailable | None = None
        try:
            self._handle: Handle = files.append_to(self._temporary)
        except OSError as error:
            raise _unavailable(error) from None
        try:
            # One of an earlier try may still be there.
            self._handle.truncate(0)
            write_all(self._handle, snapshot.begin(header))
        except OSError as error:
            self.abort()
            raise _unavailable(error) from None

    def write(self, entries: Sequence[Op]) -> None:
        """Append a block."""
        try:
            write_all(self._handle, snapshot.entries(entries))
        except OSError as error:
            self._broken = _unavailable(error)
            raise self._broken from None
        self._count += len(entries)
        if self._handle.size - self._handed >= WRITE_BACK_EVERY and not self._hinting:
            self._handed = self._handle.size
            self._hinting = True
            hinted = self._in_thread(self._handle.write_back)
            hinted.addErrback(_only_a_hint).addCallback(self._hinted)

    def _hinted(self, _: object) -> None:
        self._hinting = False

    def commit(self) -> Deferred[None]:
        """End it, flush it, put it in its place."""
        if self._broken is not None:
            self.abort()
            return fail(self._broken)
        done: Deferred[None] = self._in_thread(self._finish)
        return done.addErrback(self._failed)

    def _finish(self) -> None:
        write_all(self._handle, snapshot.end(self._count))
        self._handle.sync()
        self._handle.close()
        self._files.rename(self._temporary, self._name)

    def _failed(self, reason: Failure) -> None:
        reason.trap(OSError)
        self.abort()
        raise _unavailable(reason.value)

    def abort(self) -> None:
        """Remove what was written; what cannot be removed goes at the next start."""
        # Both are tried: a close may tell of an earlier write that failed.
        with suppress(OSError):
            self._handle.close()
        with suppress(OSError):
            self._files.remove(self._temporary)


def _only_a_hint(reason: Failure) -> None:
    reason.trap(OSError)


def _unavailable(error: BaseException | None) -> StorageUnavailable:
    return StorageUnavailable(getattr(error, "strerror", None) or str(error))


@implementer(IStorage)
class DiskStorage:
    """The snapshots of a node.

    :param files: the directory they live in.
    :param in_thread: runs a function in a thread and gives a Deferred of its result.
    """

    _log = Logger()

    def __init__(self, files: Files, in_thread: InThread) -> None:
        self._files = files
        self._in_thread = in_thread

    def open(self) -> None:
        """Remove what an earlier process left unfinished."""
        try:
            for name in self._files.names():
                if name.startswith(_PREFIX) and name.endswith(_TEMPORARY):
                    self._files.remove(name)
                    self._log.info("removed the unfinished snapshot {name}", name=name)
        except OSError as error:
            raise StartError(f"The snapshots cannot be read: {error.strerror}.") from None

    def load(
        self,
        database: Callable[[SnapshotHeader], None],
        entries: Callable[[Sequence[Op]], None],
    ) -> Deferred[None]:
        """Give all of them, by rising id: a database made again comes after its forerunner."""
        try:
            numbers = sorted(
                number for name in self._files.names() if (number := _id_in(name)) is not None
            )
            for number in numbers:
                self._load(number, database, entries)
        except CorruptData:
            return fail()
        except OSError as error:
            return fail(StartError(f"The snapshots cannot be read: {error.strerror}."))
        return succeed(None)

    def _load(
        self,
        number: int,
        database: Callable[[SnapshotHeader], None],
        entries: Callable[[Sequence[Op]], None],
    ) -> None:
        name = snapshot_name(number)
        with self._files.open_read(name) as file:
            reader = snapshot.Reader(file, name, self._files.size(name))
            held = reader.header.database_id
            if held != number:
                raise CorruptData(name, 0, f"it holds database {held}")
            database(reader.header)
            for piece in reader:
                entries(piece)

    def begin(self, header: SnapshotHeader) -> ISnapshotWriter:
        """Begin one."""
        return _Writer(self._files, self._in_thread, header)

    def drop(self, database_id: int) -> Deferred[None]:
        """Remove one, in a thread."""
        name = snapshot_name(database_id)
        if name not in self._files.names():
            return succeed(None)
        removed: Deferred[None] = self._in_thread(self._files.remove, name)
        return removed.addErrback(self._not_removed, name)

    def _not_removed(self, reason: Failure, name: str) -> None:
        if reason.check(FileNotFoundError):
            return
        reason.trap(OSError)
        self._log.error(
            "the snapshot {name} of a dropped database could not be removed: {error}",
            name=name,
            error=str(reason.value),
        )

    def close(self) -> None:
        """Nothing is kept open."""
