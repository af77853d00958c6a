"""Snapshots in files: for each database its partitions and a manifest, named by its id
(:mod:`nuntwist.storage.disk_names`).

New partition files are written beside the old ones, flushed to the disk in a thread, and count
for nothing until a new manifest names them. The manifest is replaced in one step: a crash at any
moment leaves the old snapshot or the new one whole, and files that no manifest names, which the
next start removes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from twisted.internet.defer import Deferred, DeferredLock, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from nuntwist.errors import CorruptData, StartError
from nuntwist.files import Files, replace_durably
from nuntwist.interfaces import ISnapshotWriter, IStorage, SnapshotHeader
from nuntwist.storage import format as snapshot
from nuntwist.storage.disk_names import (
    MANIFEST,
    PART,
    UNFINISHED,
    WHOLE,
    generations,
    ids,
    is_left,
    manifest_name,
    whole_name,
)
from nuntwist.storage.disk_writer import DiskWriter
from nuntwist.storage.manifest import Manifest, Part, Parts, decode
from nuntwist.storage.partition import InThread, read_part, unavailable
from nuntwist.values import Op

_T = TypeVar("_T")


@implementer(IStorage)
class DiskStorage:
    """The snapshots of a node.

    :param files: the directory they live in.
    :param in_thread: runs a function in a thread and gives a Deferred of its result.
    :param writer: the id of this node.
    """

    _log = Logger()
    at_once = 2

    def __init__(self, files: Files, in_thread: InThread, writer: int = 0) -> None:
        self._files = files
        self._in_thread = in_thread
        self._writer = writer
        self._manifests: dict[int, Manifest] = {}
        self._generations: dict[int, int] = {}
        self._left: dict[int, set[str]] = {}
        self._turns: dict[int, DeferredLock] = {}

    @property
    def held(self) -> Mapping[int, SnapshotHeader]:
        """The headers of what is kept in partitions."""
        return {number: one.header for number, one in self._manifests.items()}

    # -- opening and reading -------------------------------------------------------------------

    def open(self) -> None:
        """Read the manifests."""
        try:
            names = self._files.names()
            self._manifests = {number: self._read(number) for number in ids(MANIFEST, names)}
            self._generations = generations(names, self._manifests)
        except OSError as error:
            raise _cannot_read(error) from None

    def _read(self, number: int) -> Manifest:
        name = manifest_name(number)
        with self._files.open_read(name) as file:
            manifest = decode(file.read(), name)
        if manifest.header.database_id != number:
            raise CorruptData(name, 0, f"it is of database {manifest.header.database_id}")
        for part in manifest.names:
            match = PART.fullmatch(part)
            if match is None or int(match[1]) != number:
                # It would be removed with the snapshot, whatever it is.
                raise CorruptData(name, 0, "it names something that is no partition of it")
        return manifest

    def load(
        self,
        database: Callable[[SnapshotHeader], None],
        entries: Callable[[Sequence[Op]], None],
    ) -> Deferred[None]:
        """Give all of them, by rising id: a database made again comes after its forerunner."""
        try:
            whole = ids(WHOLE, self._files.names())
            for number in sorted({*self._manifests, *whole}):
                manifest = self._manifests.get(number)
                if manifest is None:
                    self._load_whole(number, database, entries)
                else:
                    self._load(manifest, database, entries)
        except CorruptData:
            return fail()
        except OSError as error:
            return fail(_cannot_read(error))
        return succeed(None)

    def _load(
        self,
        manifest: Manifest,
        database: Callable[[SnapshotHeader], None],
        entries: Callable[[Sequence[Op]], None],
    ) -> None:
        number = manifest.header.database_id
        database(manifest.header)
        for partition, part in enumerate(manifest.parts):
            if part is not None:
                self._load_part(number, partition, part, entries)

    def _load_part(
        self, number: int, partition: int, part: Part, entries: Callable[[Sequence[Op]], None]
    ) -> None:
        try:
            file = self._files.open_read(part.name)
        except FileNotFoundError:
            raise CorruptData(part.name, 0, "the file is missing") from None
        with file:
            reader = snapshot.Reader(file, part.name, self._files.size(part.name))
            read_part(reader, part, number, partition, entries)

    def _load_whole(
        self,
        number: int,
        database: Callable[[SnapshotHeader], None],
        entries: Callable[[Sequence[Op]], None],
    ) -> None:
        name = whole_name(number)
        with self._files.open_read(name) as file:
            reader = snapshot.Reader(file, name, self._files.size(name))
            held = reader.header.database_id
            if held != number:
                raise CorruptData(name, 0, f"it holds database {held}")
            database(reader.header)
            for piece in reader:
                entries(piece)

    def tidy(self) -> Deferred[None]:
        """Remove files that no manifest names."""
        kept = frozenset[str]().union(*(one.names for one in self._manifests.values()))
        left = [name for name in self._files.names() if is_left(name, kept, self._manifests)]
        if not left:
            return succeed(None)
        self._log.info("removing {count} files of unfinished snapshots", count=len(left))
        try:
            # Now, as a snapshot that is begun while a thread does it has some of the same names.
            self._remove_all([name for name in left if UNFINISHED.fullmatch(name)])
        except OSError:
            self._not_removed(Failure())
        tidied: Deferred[None] = self._in_thread(self._remove_left, left)
        return tidied.addErrback(self._not_removed)

    def _remove_left(self, names: Sequence[str]) -> None:
        # A manifest whose name may be lost still needs them.
        self._files.sync_names()
        self._remove_all([name for name in names if not UNFINISHED.fullmatch(name)])

    # -- writing -------------------------------------------------------------------------------

    def begin(self, header: SnapshotHeader, changed: Collection[int] | None) -> ISnapshotWriter:
        """Begin one."""
        number = header.database_id
        parts: Parts = (None,) * header.partitions
        if changed is not None:
            parts = self._manifests[number].kept(header.partitions, changed)
        # A number is not used again: a manifest of a failed try may yet be found in its place.
        generation = self._generations[number] = self._generations.get(number, 0) + 1
        manifest = Manifest(header, generation, self._writer, parts)
        return DiskWriter(self, manifest, self._files, self._in_thread)

    def manifest(self, number: int) -> Manifest | None:
        """What the snapshot of a database consists of."""
        return self._manifests.get(number)

    def in_turn(
        self, number: int, change: Callable[..., Deferred[None]], *arguments: object
    ) -> Deferred[None]:
        """Change what is kept of a database when no other change of it is under way."""
        lock = self._turns.setdefault(number, DeferredLock())

        def forget_it(result: _T) -> _T:
            if not lock.locked and self._turns.get(number) is lock:
                del self._turns[number]
            return result

        done: Deferred[None] = lock.run(change, *arguments)
        return done.addBoth(forget_it)

    def replace(self, manifest: Manifest) -> Deferred[None]:
        """Make a manifest, whose files are on the disk, the one of its database.

        :return: fires with None; fails with StorageUnavailable.
        """
        name = manifest_name(manifest.header.database_id)
        replaced: Deferred[None] = self._in_thread(
            replace_durably, self._files, name, manifest.encode()
        )
        replaced.addCallbacks(self._replaced, self._not_replaced, (manifest,), {}, (manifest,))
        return replaced

    def _not_replaced(self, reason: Failure, manifest: Manifest) -> None:
        reason.trap(OSError)
        # It may have been, and only the flush of its name failed: what it names has to stay.
        number = manifest.header.database_id
        before = self._manifests.get(number)
        kept = frozenset() if before is None else before.names
        self._left.setdefault(number, set()).update(manifest.names - kept)
        raise unavailable(reason.value)

    def _replaced(self, _: object, manifest: Manifest) -> Deferred[None]:
        number = manifest.header.database_id
        before = self._manifests.get(number)
        self._manifests[number] = manifest
        going = self._left.pop(number, set())
        going |= frozenset() if before is None else before.names
        going -= manifest.names
        going.add(whole_name(number))
        return self._remove(sorted(going))

    def drop(self, database_id: int) -> Deferred[None]:
        """Remove one, in a thread: the manifest first."""
        return self.in_turn(database_id, self._drop, database_id)

    def _drop(self, database_id: int) -> Deferred[None]:
        manifest = self._manifests.pop(database_id, None)
        names = [whole_name(database_id), *self._left.pop(database_id, ())]
        if manifest is not None:
            names = [manifest_name(database_id), *names, *sorted(manifest.names)]
        return self._remove(names)

    def _remove(self, names: Sequence[str]) -> Deferred[None]:
        removed: Deferred[None] = self._in_thread(self._remove_all, names)
        return removed.addErrback(self._not_removed)

    def _remove_all(self, names: Sequence[str]) -> None:
        for name in names:
            with suppress(FileNotFoundError):
                self._files.remove(name)

    def _not_removed(self, reason: Failure) -> None:
        reason.trap(OSError)
        self._log.error(
            "a file of an old snapshot could not be removed, the next start does it: {error}",
            error=str(reason.value),
        )

    def close(self) -> None:
        """Nothing is kept open."""


def _cannot_read(error: OSError) -> StartError:
    return StartError(f"The snapshots cannot be read: {error.strerror}.")
