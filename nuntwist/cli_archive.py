"""Archives in files: checking one, making one of entries, and following one as it comes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Final

from nuntwist import __version__
from nuntwist.archive.entries import archive_of
from nuntwist.archive.format import End, Head, Member, Reader
from nuntwist.cli_client import AskFailed
from nuntwist.cli_files import shown
from nuntwist.errors import CorruptData
from nuntwist.values import Op

PIECE: Final = 1 << 20
"""Bytes that are read at once."""


@dataclass
class Contents:
    """What an archive holds.

    :ivar counts: entries of each database, by name.
    """

    head: Head | None = None
    counts: dict[str, int] = field(default_factory=dict)
    entries: int = 0
    size: int = 0

    def names(self) -> list[str]:
        """Of its databases."""
        return list(self.counts)


class Follower:
    """Reads an archive as it comes, and checks it.

    :param name: for errors.
    :param take: called with entries, as they come.
    """

    def __init__(self, name: str, take: Callable[[list[Op]], None] | None = None) -> None:
        self._name = shown(name)
        self._reader = Reader(self._name)
        self._take = take
        self._current = ""
        self.contents = Contents()

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        :raise AskFailed: they are damaged.
        """
        contents = self.contents
        contents.size += len(data)
        try:
            for piece in self._reader.feed(data):
                if isinstance(piece, Head):
                    contents.head = piece
                elif isinstance(piece, Member):
                    self._current = piece.name.decode()
                    contents.counts[self._current] = 0
                elif not isinstance(piece, End):
                    contents.counts[self._current] += len(piece)
                    contents.entries += len(piece)
                    if self._take is not None:
                        self._take(piece)
        except CorruptData as error:
            raise AskFailed(f"{error}.") from None

    def finish(self) -> Contents:
        """Nothing more will come.

        :raise AskFailed: it is cut short.
        """
        try:
            self._reader.finish()
        except CorruptData as error:
            raise AskFailed(f"{error}.") from None
        return self.contents


def check(name: str, file: IO[bytes], report: Callable[[int, int], None]) -> Contents:
    """Read a whole archive, and go back to its beginning.

    :param report: called with entries and bytes so far.
    :raise AskFailed: it is none, or damaged.
    """
    follower = Follower("the backup" if name == "-" else name)
    while data := file.read(PIECE):
        follower.feed(data)
        report(follower.contents.entries, follower.contents.size)
    contents = follower.finish()
    file.seek(0)
    return contents


@contextmanager
def made_of(databases: Sequence[tuple[Member, Iterable[Op]]]) -> Iterator[IO[bytes]]:
    """Make an archive in a temporary file, which is gone after the block.

    :param databases: each with its entries.
    :raise AskFailed: there is no room for it.
    """
    made = datetime.now(UTC).isoformat(timespec="seconds")
    with tempfile.TemporaryFile() as file:
        try:
            for piece in archive_of(databases, made, f"nun-db {__version__}"):
                file.write(piece)
            file.seek(0)
        except OSError as error:
            raise AskFailed(f"A temporary file cannot be written: {error.strerror}.") from None
        yield file
