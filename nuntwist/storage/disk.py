"""Snapshots in files: one a database, named by its id.

A snapshot is written under a temporary name as its entries come, then flushed to the disk in a
thread and put in the place of the one before in one step: a crash at any moment leaves the old
one or the new one whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from nuntwist.errors import CorruptData, StartError, StorageUnavailable
from nuntwist.files import Files, Handle, write_all
from nuntwist.interfaces import ISnapshotWriter, IStorage, SnapshotHeader
from nuntwist.storage import format as snapshot
from nuntwist.values import Op

_PREFIX, _SUFFIX, _TEMPORARY = "database-", ".snapshot", ".snapshot.new"

InThread = Callable[..., Deferred[Any]]


def snapshot_name(database_id: int) -> str:
    """The file of a database's snapshot."""
    return f"{_PREFIX}{database_id}{_SUFFIX}"


@implementer(ISnapshotWriter)
class _Writer:
    def __init__(self, files: Files, in_thread: InThread, header: SnapshotHeader) -> None:
        self._files = files
        self._in_thread = in_thread
        self._name = snapshot_name(header.database_id)
        self._temporary = f"{_PREFIX}{header.database_id}{_TEMPORARY}"
        self._count = 0
        self._handle: Handle = self._try(files.append_to, self._temporary)
        self._try(self._handle.truncate, 0)
        self._put(snapshot.begin(header))

    def _try(self, action: Callable[..., Any], *args: Any) -> Any:
        try:
            return action(*args)
        except OSError as error:
            raise StorageUnavailable(error.strerror or str(error)) from None

    def _put(self, data: bytes) -> None:
        self._try(write_all, self._handle, data)

    def write(self, entries: Sequence[Op]) -> None:
        """Append a block."""
        self._put(snapshot.entries(entries))
        self._count += len(entries)

    def commit(self) -> Deferred[None]:
        """End it, flush it, put it in its place."""
        try:
            self._put(snapshot.end(self._count))
        except StorageUnavailable:
            self.abort()
            return fail()
        done: Deferred[None] = self._in_thread(self._finish)
        return done.addErrback(self._failed)

    def _finish(self) -> None:
        self._handle.sync()
        self._handle.close()
        self._files.rename(self._temporary, self._name)

    def _failed(self, reason: Failure) -> None:
        reason.trap(OSError)
        self.abort()
        raise StorageUnavailable(str(reason.value))

    def abort(self) -> None:
        """Remove what was written."""
        try:
            self._handle.close()
            self._files.remove(self._temporary)
        except (OSError, KeyError):
            # Closed or removed before; what is left is removed at the next start.
            return


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
        """Give all of them."""
        try:
            for name in self._files.names():
                if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
                    with self._files.open_read(name) as file:
                        reader = snapshot.Reader(file, name)
                        database(reader.header)
                        for piece in reader:
                            entries(piece)
        except (CorruptData, OSError):
            return fail()
        return succeed(None)

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
        reason.trap(OSError)
        self._log.error(
            "the snapshot {name} of a dropped database could not be removed: {error}",
            name=name,
            error=str(reason.value),
        )

    def close(self) -> None:
        """Nothing is kept open."""
