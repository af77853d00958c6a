"""The files of a node, behind a layer small enough to double.

The log and the storage work on a :class:`Files` they are given: on :class:`DiskFiles` in a
node, on :class:`MemoryFiles` in tests and in nodes that live in memory, where faults of the
disk can be put in at any byte. Names are flat: one directory, no paths.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
from typing import BinaryIO, Protocol

from nuntwist.errors import StartError

LOCK_NAME = "lock"


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

    def sync(self) -> None:
        """Return when it is on the disk.

        :raise OSError: it may not be.
        """

    def close(self) -> None:
        """Give it back."""


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

    def rename(self, old: str, new: str) -> None:
        """Put a file in the place of another, at once and durably."""

    def remove(self, name: str) -> None:
        """Remove a file."""

    def lock(self) -> None:
        """Keep every other process out until this one ends.

        :raise StartError: another has it.
        """


def replace_durably(files: Files, name: str, data: bytes) -> None:
    """Make a file hold ``data``: all of it or, after a crash, what it held before.

    :raise OSError: it could not be done; the file is as it was.
    """
    temporary = name + ".new"
    if temporary in files.names():
        files.remove(temporary)
    handle = files.append_to(temporary)
    try:
        write_all(handle, data)
        handle.sync()
    finally:
        handle.close()
    files.rename(temporary, name)


def write_all(handle: Handle, data: bytes) -> None:
    """Append all of ``data``; a short write is a full disk.

    :raise OSError: not all was taken.
    """
    written = handle.write(data)
    while written < len(data):
        more = handle.write(data[written:])
        if more <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += more


# -- on a disk -----------------------------------------------------------------------------------


class _DiskHandle:
    """A descriptor opened with O_APPEND."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.size = os.fstat(self._descriptor).st_size

    def write(self, data: bytes) -> int:
        """Append."""
        written = os.write(self._descriptor, data)
        self.size += written
        return written

    def truncate(self, size: int) -> None:
        """Cut."""
        os.ftruncate(self._descriptor, size)
        self.size = size

    def sync(self) -> None:
        """Flush to the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close."""
        os.close(self._descriptor)


class DiskFiles:
    """A directory, made where it is not there.

    :raise StartError: it cannot be used.
    """

    def __init__(self, directory: str) -> None:
        self._directory = os.path.abspath(directory)
        self._lock: BinaryIO | None = None
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            probe = self._path(".probe")
            with open(probe, "wb") as file:
                file.write(b"x")
            os.remove(probe)
        except OSError as error:
            raise StartError(
                f"The data directory {directory} cannot be used: {error.strerror};"
                " choose another with NUN_DBS_DIR or --dbs-dir."
            ) from None

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(
            entry.name
            for entry in os.scandir(self._directory)
            if entry.is_file() and entry.name != LOCK_NAME
        )

    def size(self, name: str) -> int:
        """The length of a file."""
        return os.path.getsize(self._path(name))

    def open_read(self, name: str) -> BinaryIO:
        """Open for reading."""
        return open(self._path(name), "rb")

    def append_to(self, name: str) -> Handle:
        """Open for appending."""
        fresh = not os.path.exists(self._path(name))
        handle = _DiskHandle(self._path(name))
        if fresh:
            self._sync_directory()
        return handle

    def rename(self, old: str, new: str) -> None:
        """Replace."""
        os.replace(self._path(old), self._path(new))
        self._sync_directory()

    def remove(self, name: str) -> None:
        """Remove."""
        os.remove(self._path(name))
        self._sync_directory()

    def lock(self) -> None:
        """Take the lock file."""
        file = open(self._path(LOCK_NAME), "ab")  # noqa: SIM115 - held for the process's life
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise StartError(
                f"The data directory {self._directory} is used by another process;"
                " stop that node, or choose another directory with NUN_DBS_DIR or --dbs-dir."
            ) from None
        self._lock = file

    def unlock(self) -> None:
        """Let others in again."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# -- in memory -----------------------------------------------------------------------------------


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
        self._files.fail_if_told("write")
        taken = self._files.take_room(len(data))
        self._data += data[:taken]
        return taken

    def truncate(self, size: int) -> None:
        """Cut."""
        self._files.fail_if_told("truncate")
        if self._files.room is not None:
            self._files.room += len(self._data) - size
        del self._data[size:]

    def sync(self) -> None:
        """Nothing is lost in memory, unless told."""
        self._files.fail_if_told("sync")

    def close(self) -> None:
        """Nothing to give back."""


class MemoryFiles:
    """A directory in memory.

    :ivar contents: what each file holds.
    :ivar failing: operations (write, truncate, sync, rename, remove, open) that fail, with the
        ``errno`` each fails with.
    :ivar room: bytes that can still be written before the disk is full; None for no end.
    """

    def __init__(self) -> None:
        self.contents: dict[str, bytearray] = {}
        self.failing: dict[str, int] = {}
        self.room: int | None = None

    def fail_if_told(self, operation: str) -> None:
        """Raise the OSError that ``failing`` holds for an operation."""
        number = self.failing.get(operation)
        if number is not None:
            raise OSError(number, os.strerror(number))

    def take_room(self, wanted: int) -> int:
        """How many of the bytes fit on the disk; an OSError where none does."""
        if self.room is None:
            return wanted
        taken = min(wanted, self.room)
        if taken == 0 and wanted:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= taken
        return taken

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self.contents)

    def size(self, name: str) -> int:
        """The length of a file."""
        return len(self.contents[name])

    def open_read(self, name: str) -> BinaryIO:
        """Open for reading, as it is now."""
        self.fail_if_told("open")
        return io.BytesIO(bytes(self.contents[name]))

    def append_to(self, name: str) -> Handle:
        """Open for appending."""
        self.fail_if_told("open")
        return _MemoryHandle(self, name)

    def rename(self, old: str, new: str) -> None:
        """Replace."""
        self.fail_if_told("rename")
        self.contents[new] = self.contents.pop(old)

    def remove(self, name: str) -> None:
        """Remove."""
        self.fail_if_told("remove")
        del self.contents[name]

    def lock(self) -> None:
        """Nobody else can get at it."""

    def unlock(self) -> None:
        """Nobody else can get at it."""
