"""The files of a node, behind a layer small enough to double.

The log and the storage work on a :class:`Files` they are given: on a directory of a disk
(:mod:`nuntwist.files_on_disk`) in a node, on :class:`MemoryFiles` in tests and in nodes that live
in memory, where faults of the disk can be put in at any byte. Names are flat: one directory, no
paths.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import BinaryIO, Protocol

from nuntwist.errors import StartError

LOCK_NAME = "lock"

IN_USE = (
    "The data directory {} is used by another process;"
    " stop that node, or choose another directory with NUN_DBS_DIR or --dbs-dir."
)


class Handle(Protocol):
    """A file open for appending; not buffered."""

    @property
    def size(self) -> int:
        """Its length in bytes."""

    def write(self, data: bytes) -> int:
        """Append; gives how many bytes were taken, perhaps fewer.

        :raise OSError: none was.
        """

    def truncate(self, size: int) -> None:
        """Cut it to a length.

        :raise OSError: it could not be done.
        """

    def write_back(self) -> None:
        """Let the system begin to write it to the disk, so that ``sync`` finds little left: one
        of 100 MB takes 80 ms and stalls writes beside it, with this 3 ms.

        :raise OSError: it did not take the hint.
        """

    def sync(self) -> None:
        """Return when it is on the disk.

        :raise OSError: it may not be.
        """

    def close(self) -> None:
        """Give it back."""


WRITE_BACK_EVERY = 4 << 20
"""Bytes appended to a large file between two hints to write it to the disk."""
COPIED_AT_ONCE = 1 << 20
"""Bytes of a file that is copied which are in memory."""


class Files(Protocol):
    """One directory of files."""

    def names(self) -> list[str]:
        """All names, sorted."""

    def size(self, name: str) -> int:
        """The length of a file, in bytes."""

    def open_read(self, name: str) -> BinaryIO:
        """Open a file for reading."""

    def append_to(self, name: str) -> Handle:
        """Open a file for appending, made where it is not there."""

    def create(self, name: str) -> Handle:
        """Open an empty file for appending, whatever was there; its name lasts after
        ``sync_names``."""

    def sync_names(self) -> None:
        """Return when no name that was given or taken so far can be lost.

        :raise OSError: one may be.
        """

    def rename(self, old: str, new: str) -> None:
        """Put a file in the place of another, at once and durably."""

    def remove(self, name: str) -> None:
        """Remove a file."""

    def lock(self) -> None:
        """Keep every other user out until ``unlock`` or the end of this process.

        :raise StartError: another has it.
        """

    def unlock(self) -> None:
        """Let others in again."""


def write_durably(files: Files, name: str, pieces: Iterable[bytes]) -> None:
    """Make a file hold some pieces, one after the other: all of them or, after a crash, what it
    held before.

    :raise OSError: it could not be done; the file is as it was.
    """
    temporary = name + ".new"
    handle = files.create(temporary)
    try:
        try:
            for piece in pieces:
                write_all(handle, piece)
            handle.sync()
        finally:
            handle.close()
        files.rename(temporary, name)
    except OSError:
        # It may be a full disk that it has filled.
        with suppress(OSError):
            files.remove(temporary)
        raise


def replace_durably(files: Files, name: str, data: bytes) -> None:
    """As :func:`write_durably`, with one piece.

    :raise OSError: it could not be done; the file is as it was.
    """
    write_durably(files, name, (data,))


def pieces_of(files: Files, name: str, offset: int, end: int | None = None) -> Iterator[bytes]:
    """What a file holds from an offset on, in pieces.

    :param end: where to stop; None for its end.
    :raise OSError: it cannot be read.
    """
    with files.open_read(name) as file:
        file.seek(offset)
        while end is None or offset < end:
            size = COPIED_AT_ONCE if end is None else min(COPIED_AT_ONCE, end - offset)
            piece = file.read(size)
            if not piece:
                return
            yield piece
            offset += len(piece)


def write_all(handle: Handle, data: bytes) -> None:
    """Append all of ``data``, in as many writes as it takes.

    After a short write the next one tells why (a full disk), or takes the rest.

    :raise OSError: not all was taken.
    """
    written = handle.write(data)
    while written < len(data):
        more = handle.write(data[written:])
        if more <= 0:
            raise _error(errno.ENOSPC)
        written += more


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


# -- in memory -----------------------------------------------------------------------------------


class Stopped(Exception):
    """The process of a :class:`MemoryFiles` has ended here, as if killed.

    No OSError, so nothing handles it: a test catches it, and opens what is left.
    """


class _MemoryHandle:
    """A file of a :class:`MemoryFiles`."""

    def __init__(self, files: MemoryFiles, name: str) -> None:
        self._files = files
        self._data = files.contents.setdefault(name, bytearray())

    @property
    def size(self) -> int:
        """Its length."""
        return len(self._data)

    def write(self, data: bytes) -> int:
        """Append as much as there is room for."""
        try:
            self._files.step("write")
        except Stopped:
            if self._files.ends_now():
                self._data += data[: len(data) // 2]
            raise
        taken = self._files.take_room(len(data))
        self._data += data[:taken]
        return taken

    def truncate(self, size: int) -> None:
        """Cut."""
        self._files.step("truncate")
        if self._files.room is not None:
            self._files.room += len(self._data) - size
        del self._data[size:]
        self._files.note_cut(self._data)

    def write_back(self) -> None:
        """Nothing to begin."""

    def sync(self) -> None:
        """From here on a loss of power takes nothing of it."""
        self._files.step("sync")
        self._files.note_synced(self._data)

    def close(self) -> None:
        """Nothing to give back."""


class MemoryFiles:
    """A directory in memory, whose disk fails as it is told to.

    :ivar contents: what each file holds.
    :ivar failing: operations (open, write, truncate, sync, rename, remove) that fail, with the
        ``errno`` each fails with.
    :ivar room: bytes that can still be written before the disk is full; None for no end.
    :ivar at_most: bytes that one write takes; None for no limit.
    :ivar steps: how many operations that change something were begun.
    :ivar stop_at: how many of them are done before the process ends in the next one: a write
        does half its work then, anything else none; None for never.
    """

    def __init__(self) -> None:
        self.contents: dict[str, bytearray] = {}
        self.failing: dict[str, int] = {}
        self.room: int | None = None
        self.at_most: int | None = None
        self.steps = 0
        self.stop_at: int | None = None
        # How much of each file a loss of power leaves, by the identity of its bytes: a rename
        # moves the name, not the bytes.
        self._synced: dict[int, int] = {}
        self._locked = False

    # -- faults ------------------------------------------------------------------------------

    def step(self, operation: str) -> None:
        """Count an operation; fail it where that was asked for.

        :raise OSError: as ``failing`` says.
        :raise Stopped: as ``stop_at`` says.
        """
        number = self.failing.get(operation)
        if number is not None:
            raise _error(number)
        self.steps += 1
        if self.stop_at is not None and self.steps > self.stop_at:
            raise Stopped

    def ends_now(self) -> bool:
        """Whether the process ends with the step under way, and not with an earlier one."""
        return self.stop_at is not None and self.steps == self.stop_at + 1

    def take_room(self, wanted: int) -> int:
        """How many bytes one write takes."""
        taken = wanted
        if self.at_most is not None:
            taken = min(taken, self.at_most)
        if self.room is not None:
            taken = min(taken, self.room)
            if taken == 0 and wanted:
                raise _error(errno.ENOSPC)
            self.room -= taken
        return taken

    def note_synced(self, data: bytearray) -> None:
        """All of a file is on the disk now."""
        self._synced[id(data)] = len(data)

    def note_cut(self, data: bytearray) -> None:
        """A file was cut; what is lost of it is lost at once."""
        self._synced[id(data)] = min(self._synced.get(id(data), 0), len(data))

    def restart(self, *, power_lost: bool = False) -> None:
        """Go on as a new process finds it; with a loss of power, without what was not synced."""
        self.stop_at = None
        self.failing.clear()
        self._locked = False
        if power_lost:
            for data in self.contents.values():
                del data[self._synced.get(id(data), 0) :]

    # -- files -------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self.contents)

    def size(self, name: str) -> int:
        """The length of a file."""
        return len(self._there(name))

    def open_read(self, name: str) -> BinaryIO:
        """Open for reading, as it is now."""
        number = self.failing.get("open")
        if number is not None:
            raise _error(number)
        return io.BytesIO(bytes(self._there(name)))

    def append_to(self, name: str) -> Handle:
        """Open for appending."""
        self.step("open")
        return _MemoryHandle(self, name)

    def create(self, name: str) -> Handle:
        """Open, emptied."""
        self.step("open")
        self._forget(name)
        self.contents[name] = bytearray()
        return _MemoryHandle(self, name)

    def sync_names(self) -> None:
        """Names are never lost here."""
        self.step("sync")

    def rename(self, old: str, new: str) -> None:
        """Replace."""
        data = self._there(old)
        self.step("rename")
        self._forget(new)
        self.contents[new] = data
        del self.contents[old]

    def remove(self, name: str) -> None:
        """Remove."""
        self._there(name)
        self.step("remove")
        self._forget(name)
        del self.contents[name]

    def lock(self) -> None:
        """Keep others out until ``unlock`` or ``restart``."""
        if self._locked:
            raise StartError(IN_USE.format("in memory"))
        self._locked = True

    def unlock(self) -> None:
        """Let others in again."""
        self._locked = False

    def _forget(self, name: str) -> None:
        data = self.contents.get(name)
        if data is not None:
            self._synced.pop(id(data), None)
            if self.room is not None:
                self.room += len(data)

    def _there(self, name: str) -> bytearray:
        data = self.contents.get(name)
        if data is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return data
