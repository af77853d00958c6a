"""Where archives and lines come from and go to: a file, ``-``, or an object in S3.

What is written to a file is written beside it, as ``FILE.part``, and takes its place when it is
whole; whatever goes wrong, an older FILE stays as it is. Backups hold all data and the hashes of
all tokens: new files are for their owner alone. What is read from standard input or S3 goes to a
temporary file first, because it is read twice: to be checked, and to be sent.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import IO, Protocol

from nuntwist.cli_client import AskFailed
from nuntwist.cli_output import put
from nuntwist.cli_s3 import Bucket, is_s3

STANDARD = "-"
PART = ".part"


def shown(text: str) -> str:
    """A name as it can be printed."""
    return "".join(c if c.isprintable() else "?" for c in text)


class Sink(Protocol):
    """Takes bytes."""

    def write(self, data: bytes, /) -> object:
        """Take some."""


class _StandardOutput:
    """Standard output as it is written to."""

    def write(self, data: bytes, /) -> None:
        """Write.

        :raise OutputEnded: nobody reads.
        """
        put(data)


@contextlib.contextmanager
def writing(name: str, force: bool, environment: Mapping[str, str]) -> Iterator[Sink]:
    """Open what is to be written; it is there when the block ends well, and only then.

    :param name: a file, ``-`` or an object in S3.
    :param force: whether to replace what is there.
    :raise AskFailed: it cannot be.
    """
    if name == STANDARD:
        if sys.stdout is not None and sys.stdout.isatty():
            raise AskFailed("Standard output is a terminal: name a file, or send it elsewhere.")
        yield _StandardOutput()
    elif is_s3(name):
        bucket = Bucket(name, environment)
        if not force:
            bucket.check_free()
        with tempfile.TemporaryFile() as file, _in_words("a temporary file"):
            yield file
            file.seek(0)
            bucket.store(file)
    else:
        with _in_words(name):
            yield from _beside(os.path.realpath(name), name, force)


def _beside(path: str, name: str, force: bool) -> Iterator[Sink]:
    _check_free(path, name, force)
    part = path + PART
    descriptor = os.open(part, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if not _is_ours(descriptor, part):
            raise AskFailed(f"{shown(name)}{PART} is being written by another process.")
        try:
            file.truncate(0)
            yield file
            file.flush()
            os.fsync(descriptor)
            _check_free(path, name, force)
            os.rename(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise
    _flush_directory(os.path.dirname(path))


def _is_ours(descriptor: int, part: str) -> bool:
    """Lock a file against others; tell whether it was done and it has its name still."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), os.stat(part))
    except (BlockingIOError, FileNotFoundError):
        return False


def _check_free(path: str, name: str, force: bool) -> None:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(there.st_mode):
        raise AskFailed(f"{shown(name)} is not a file; - stands for standard output.")
    if not force:
        raise AskFailed(f"{shown(name)} is there already: --force replaces it.")


def _flush_directory(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def reading(name: str, environment: Mapping[str, str]) -> Iterator[IO[bytes]]:
    """Open what is to be read, so that it can be read again.

    :param name: a file, ``-`` or an object in S3.
    :raise AskFailed: it cannot be.
    """
    if name != STANDARD and not is_s3(name):
        with _in_words(name), open(name, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise AskFailed(f"{shown(name)} is not a file; - stands for standard input.")
            yield file
        return
    with tempfile.TemporaryFile() as file, _in_words("a temporary file"):
        if name == STANDARD:
            if sys.stdin is None:
                raise AskFailed("Standard input is closed.")
            shutil.copyfileobj(sys.stdin.buffer, file)
        else:
            Bucket(name, environment).fetch(file)
        file.seek(0)
        yield file


@contextlib.contextmanager
def _in_words(name: str) -> Iterator[None]:
    """Say what is wrong with a file in one sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise AskFailed(f"{shown(name)} cannot be read or written: {reason}.") from None
    except ValueError as error:
        if "null byte" not in str(error):
            raise
        raise AskFailed(f"{shown(name)} is not a name of a file.") from None
