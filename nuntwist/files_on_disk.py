"""The files of a node in a directory of a disk."""

from __future__ import annotations

import fcntl
import os
from typing import BinaryIO

from nuntwist.errors import StartError
from nuntwist.files import IN_USE, LOCK_NAME, Handle


class _DiskHandle:
    """A descriptor opened with O_APPEND."""

    def __init__(self, path: str, flags: int = 0) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | flags, 0o600)
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

    def write_back(self) -> None:
        """Begin to write; what is written need not stay in memory."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Flush to the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close; a second time does nothing, as the number may be another file's by then."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class DiskFiles:
    """A directory.

    :param as_it_is: do not make it where it is not there, nor try to write in it: for who reads.
    :raise StartError: it cannot be used.
    """

    def __init__(self, directory: str, *, as_it_is: bool = False) -> None:
        self._directory = os.path.abspath(directory)
        self._lock = -1
        if not as_it_is:
            self._make(directory)

    def _make(self, directory: str) -> None:
        try:
            if not os.path.isdir(self._directory):
                os.makedirs(self._directory, mode=0o700, exist_ok=True)
                _sync_directory(os.path.dirname(self._directory))
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
            _sync_directory(self._directory)
        return handle

    def create(self, name: str) -> Handle:
        """Open, emptied."""
        return _DiskHandle(self._path(name), os.O_TRUNC)

    def sync_names(self) -> None:
        """Flush the directory."""
        _sync_directory(self._directory)

    def rename(self, old: str, new: str) -> None:
        """Replace."""
        os.replace(self._path(old), self._path(new))
        _sync_directory(self._directory)

    def remove(self, name: str) -> None:
        """Remove."""
        os.remove(self._path(name))
        _sync_directory(self._directory)

    def lock(self) -> None:
        """Take the lock file."""
        # A bare descriptor: a file object would let go of the lock when it is collected.
        descriptor = -1
        try:
            descriptor = os.open(self._path(LOCK_NAME), os.O_WRONLY | os.O_CREAT, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise StartError(IN_USE.format(self._directory)) from None
            raise StartError(
                f"The data directory {self._directory} cannot be locked: {error.strerror}."
            ) from None
        self._lock = descriptor

    def unlock(self) -> None:
        """Let others in again."""
        descriptor, self._lock = self._lock, -1
        if descriptor >= 0:
            os.close(descriptor)


def _sync_directory(path: str) -> None:
    """Make new, renamed and removed names last."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
