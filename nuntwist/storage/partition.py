"""Writing one partition file: blocks of entries as they come, flushed at the end in a thread."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nuntwist.errors import CorruptData, StorageUnavailable
from nuntwist.files import WRITE_BACK_EVERY, Files, write_all
from nuntwist.interfaces import SnapshotHeader
from nuntwist.storage import format as snapshot
from nuntwist.storage.manifest import Part
from nuntwist.values import Op

InThread = Callable[..., Deferred[Any]]


class PartitionFile:
    """One file under way.

    :param files: the directory it is made in; what stood there under its name is lost.
    :param in_thread: runs a function in a thread and gives a Deferred of its result.
    :raise StorageUnavailable: it cannot be begun.
    """

    def __init__(
        self, files: Files, in_thread: InThread, name: str, header: SnapshotHeader, partition: int
    ) -> None:
        self.name = name
        self._files = files
        self._in_thread = in_thread
        self._index = header.index
        self._count = 0
        self._checksum = 0
        self._handed = 0
        self._hinting = False
        try:
            self._handle = files.create(name)
        except OSError as error:
            raise unavailable(error) from None
        try:
            self._write(snapshot.begin(header, partition))
        except StorageUnavailable:
            self.abort()
            raise

    def write(self, entries: Sequence[Op]) -> None:
        """Append a block.

        :raise StorageUnavailable: it could not be written whole.
        """
        self._write(snapshot.entries(entries))
        self._count += len(entries)
        if self._handle.size - self._handed >= WRITE_BACK_EVERY and not self._hinting:
            self._handed = self._handle.size
            self._hinting = True
            hinted = self._in_thread(self._handle.write_back)
            hinted.addErrback(_only_a_hint).addCallback(self._hinted)

    def _write(self, data: bytes) -> None:
        try:
            write_all(self._handle, data)
        except OSError as error:
            raise unavailable(error) from None
        self._checksum = zlib.crc32(data, self._checksum)

    def _hinted(self, _: object) -> None:
        self._hinting = False

    def finish(self, flush: bool = True) -> Part:
        """End it and flush it; called in a thread.

        :param flush: False where it need not survive a loss of power.
        :raise OSError: it may not be on the disk.
        """
        end = snapshot.end(self._count)
        write_all(self._handle, end)
        if flush:
            self._handle.sync()
        size = self._handle.size
        self._handle.close()
        return Part(self.name, self._index, self._count, size, zlib.crc32(end, self._checksum))

    def abort(self) -> None:
        """Remove it; what cannot be removed goes at the next start."""
        # Both are tried: a close may tell of an earlier write that failed.
        with suppress(OSError):
            self._handle.close()
        with suppress(OSError):
            self._files.remove(self.name)


def read_part(
    reader: snapshot.Reader,
    part: Part,
    number: int,
    partition: int,
    take: Callable[[Sequence[Op]], None],
) -> None:
    """Give the entries of a partition file, in pieces.

    :param part: what the manifest says of it.
    :param number: the id of the database.
    :raise CorruptData: it is damaged, or not the file that the manifest names.
    """
    if reader.header.database_id != number or reader.partition != partition:
        raise CorruptData(
            part.name,
            0,
            f"it holds partition {reader.partition} of database {reader.header.database_id}",
        )
    for entries in reader:
        take(entries)
    if (reader.count, reader.checksum) != (part.entries, part.checksum):
        raise CorruptData(part.name, 0, "it is not the file that the manifest names")


def _only_a_hint(reason: Failure) -> None:
    reason.trap(OSError)


def unavailable(error: BaseException | None) -> StorageUnavailable:
    """The error that tells of another one."""
    return StorageUnavailable(getattr(error, "strerror", None) or str(error))
