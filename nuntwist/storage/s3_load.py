"""Loading snapshots from S3: partitions are fetched ahead, by several threads, and handed over
in order.

Memory is bounded: what is fetched ahead beyond :data:`IN_MEMORY` bytes goes to files of the data
directory. A database is handed over only when all of it is here. So where its snapshot was
replaced meanwhile, by a node that writes there, and a partition is gone, all of it is fetched
again as the new manifest says; parts of two snapshots are never mixed.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from typing import BinaryIO, Final

from nuntwist.errors import CorruptData, StartError
from nuntwist.files import Files
from nuntwist.interfaces import SnapshotHeader
from nuntwist.storage import format as snapshot
from nuntwist.storage.manifest import Manifest, Part
from nuntwist.storage.partition import read_part
from nuntwist.storage.s3_objects import Objects, RequestFailed
from nuntwist.values import Op

IN_MEMORY = 64 << 20
"""Bytes of partitions fetched ahead that are kept in memory."""
TRIES: Final = 5
"""How often the manifest is read anew before a partition counts as lost."""
_FETCHED: Final = re.compile(r"download-.*\.part")

Reread = Callable[[int], Manifest | None]


class _Part:
    """A partition being fetched.

    :ivar name: of the file it goes to; None: it stays in memory.
    :ivar data: once it is here; None where there is no such object.
    """

    __slots__ = ("fetched", "name", "number", "part")

    def __init__(self, number: int, part: Part, name: str | None) -> None:
        self.number = number
        self.part = part
        self.name = name
        self.fetched: Future[bytes | None]


class Loader:
    """One load.

    :param key: gives the key of a partition, from the id of the database and its name.
    :param reread: reads the manifest of a database anew; None where there is none any more.
    :param inflight: requests at once.
    """

    def __init__(
        self,
        objects: Objects,
        files: Files,
        key: Callable[[int, str], str],
        reread: Reread,
        inflight: int,
    ) -> None:
        self._objects = objects
        self._files = files
        self._key = key
        self._reread = reread
        self._inflight = inflight
        self._room = IN_MEMORY
        self._ahead = 0

    def run(
        self,
        manifests: Iterable[Manifest],
        database: Callable[[SnapshotHeader], None],
        entries: Callable[[Sequence[Op]], None],
    ) -> None:
        """Give all, in the order of ``manifests``.

        :raise CorruptData: an object is damaged or gone.
        :raise StartError: S3, or the data directory, cannot be read.
        """
        waiting: deque[tuple[Manifest, list[_Part]]] = deque()
        rest = iter(manifests)
        try:
            remove_spooled(self._files)
            with ThreadPoolExecutor(self._inflight, "fetching") as self._threads:
                try:
                    self._fill(rest, waiting)
                    while waiting:
                        manifest, parts = waiting.popleft()
                        found = self._complete(manifest, parts)
                        if found is not None:
                            self._hand_over(*found, database, entries)
                        self._fill(rest, waiting)
                finally:
                    self._threads.shutdown(wait=True, cancel_futures=True)
        except OSError as error:
            raise StartError(
                f"The data directory cannot take what is read from S3: {error.strerror}."
            ) from None
        finally:
            with suppress(OSError):
                remove_spooled(self._files)

    # -- fetching ------------------------------------------------------------------------------

    def _fill(self, rest: Iterable[Manifest], waiting: deque[tuple[Manifest, list[_Part]]]) -> None:
        """Fetch ahead: so much that all threads have work while one database is taken in."""
        while len(waiting) + self._ahead < 4 * self._inflight:
            manifest = next(iter(rest), None)
            if manifest is None:
                return
            waiting.append((manifest, self._fetch_all(manifest)))

    def _fetch_all(self, manifest: Manifest) -> list[_Part]:
        number = manifest.header.database_id
        found = []
        for at, part in enumerate(manifest.parts):
            if part is None:
                continue
            name = None
            if part.size > self._room:
                name = f"download-{number}-{part.name}"
            else:
                self._room -= part.size
            self._ahead += 1
            one = _Part(at, part, name)
            one.fetched = self._threads.submit(self._fetch, self._key(number, part.name), name)
            found.append(one)
        return found

    def _fetch(self, key: str, name: str | None) -> bytes | None:
        try:
            if name is not None:
                return b"" if self._objects.download(key, self._files, name) else None
            found = self._objects.get(key)
        except RequestFailed as error:
            raise StartError(f"{self._objects.uri(key)} cannot be read: {error}.") from None
        return None if found is None else found.data

    def _complete(
        self, manifest: Manifest, parts: list[_Part]
    ) -> tuple[Manifest, list[_Part]] | None:
        """Wait until all of a database is here.

        :return: None where it was dropped meanwhile.
        """
        number = manifest.header.database_id
        for _ in range(TRIES):
            gone = [one for one in parts if one.fetched.result() is None]
            if not gone:
                return manifest, parts
            now = self._reread(number)
            if now == manifest:
                break
            for one in parts:
                self._done_with(one)
            if now is None:
                return None
            manifest, parts = now, self._fetch_all(now)
        lost = self._objects.uri(self._key(number, gone[0].part.name))
        raise CorruptData(lost, 0, "the manifest names it, but there is no such object")

    # -- handing over ----------------------------------------------------------------------------

    def _hand_over(
        self,
        manifest: Manifest,
        parts: list[_Part],
        database: Callable[[SnapshotHeader], None],
        entries: Callable[[Sequence[Op]], None],
    ) -> None:
        number = manifest.header.database_id
        database(manifest.header)
        for one in parts:
            uri = self._objects.uri(self._key(number, one.part.name))
            with self._open(one) as file:
                size = file.seek(0, 2)
                file.seek(0)
                reader = snapshot.Reader(file, uri, size)
                read_part(reader, replace(one.part, name=uri), number, one.number, entries)
            self._done_with(one)

    def _open(self, one: _Part) -> BinaryIO:
        if one.name is None:
            return BytesIO(one.fetched.result() or b"")
        return self._files.open_read(one.name)

    def _done_with(self, one: _Part) -> None:
        del one.fetched
        self._ahead -= 1
        if one.name is None:
            self._room += one.part.size
            return
        with suppress(FileNotFoundError):
            self._files.remove(one.name)


def remove_spooled(files: Files, pattern: re.Pattern[str] = _FETCHED) -> None:
    """Remove files that were only to pass through the data directory.

    :raise OSError: one cannot be removed.
    """
    for name in files.names():
        if pattern.fullmatch(name):
            files.remove(name)
