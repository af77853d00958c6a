"""Snapshots in files: for each database its partitions and a manifest, named by its id.

New partition files are written beside the old ones, flushed to the disk in a thread, and count
for nothing until a new manifest names them. The manifest is replaced in one step: a crash at any
moment leaves the old snapshot or the new one whole, and files that no manifest names, which the
next start removes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final, TypeVar

from twisted.internet.defer import Deferred, DeferredLock, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from nuntwist.errors import CorruptData, StartError, StorageUnavailable
from nuntwist.files import Files, replace_durably
from nuntwist.interfaces import ISnapshotWriter, IStorage, SnapshotHeader
from nuntwist.storage import format as snapshot
from nuntwist.storage.manifest import Manifest, Part, decode
from nuntwist.storage.partition import InThread, PartitionFile, read_part, unavailable
from nuntwist.values import Op

_T = TypeVar("_T")

_NUMBER = "(0|[1-9][0-9]{0,19})"
_MANIFEST: Final = re.compile(rf"database-{_NUMBER}\.manifest")
_PART: Final = re.compile(rf"database-{_NUMBER}-([0-9]{{1,20}})-[0-9]{{2,5}}\.part")
_WHOLE: Final = re.compile(rf"database-{_NUMBER}\.snapshot")
"""What releases before partitions wrote: a whole database in one file."""
_UNFINISHED: Final = re.compile(rf"database-{_NUMBER}\.(manifest|snapshot)\.new")


def manifest_name(database_id: int) -> str:
    """The file that says of what the snapshot of a database consists."""
    return f"database-{database_id}.manifest"


def part_name(database_id: int, generation: int, partition: int) -> str:
    """The file of one partition of a snapshot."""
    return f"database-{database_id}-{generation}-{partition:02d}.part"


def _ids(pattern: re.Pattern[str], names: Iterable[str]) -> list[int]:
    return sorted(int(match[1]) for name in names if (match := pattern.fullmatch(name)))


@implementer(ISnapshotWriter)
class _Writer:
    def __init__(
        self, storage: DiskStorage, manifest: Manifest, files: Files, in_thread: InThread
    ) -> None:
        self._storage = storage
        self._manifest = manifest
        self._files = files
        self._in_thread = in_thread
        self._before = storage.manifest(manifest.header.database_id)
        self._open: dict[int, PartitionFile] = {}
        self._broken: StorageUnavailable | None = None

    def write(self, partition: int, entries: Sequence[Op]) -> None:
        """Append a block to a partition's file, which is made for the first one."""
        manifest = self._manifest
        try:
            file = self._open.get(partition)
            if file is None:
                name = part_name(manifest.header.database_id, manifest.generation, partition)
                file = PartitionFile(self._files, self._in_thread, name, manifest.header, partition)
                self._open[partition] = file
            file.write(entries)
        except StorageUnavailable as error:
            self._broken = error
            raise

    def commit(self) -> Deferred[None]:
        """Flush the partitions, then replace the manifest."""
        if self._broken is not None:
            self.abort()
            return fail(self._broken)
        flushed: Deferred[Manifest] = self._in_thread(self._flush)
        flushed.addErrback(self._not_flushed)
        return flushed.addCallback(self._replace)

    def _replace(self, manifest: Manifest) -> Deferred[None]:
        return self._storage.in_turn(manifest.header.database_id, self._replace_in_turn, manifest)

    def _replace_in_turn(self, manifest: Manifest) -> Deferred[None]:
        if self._storage.manifest(manifest.header.database_id) is not self._before:
            # Dropped meanwhile: what it would take over is gone.
            self.abort()
            return fail(StorageUnavailable("the snapshot it follows on is not there any more"))
        return self._storage.replace(manifest)

    def _flush(self) -> Manifest:
        parts = list(self._manifest.parts)
        for partition, file in self._open.items():
            parts[partition] = file.finish()
        self._files.sync_names()
        return replace(self._manifest, parts=tuple(parts))

    def _not_flushed(self, reason: Failure) -> Manifest:
        reason.trap(OSError)
        self.abort()
        raise unavailable(reason.value)

    def abort(self) -> None:
        """Remove what was written."""
        while self._open:
            self._open.popitem()[1].abort()


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
            self._manifests = {number: self._read(number) for number in _ids(_MANIFEST, names)}
            self._generations = _generations(names, self._manifests)
        except OSError as error:
            raise _cannot_read(error) from None

    def _read(self, number: int) -> Manifest:
        name = manifest_name(number)
        with self._files.open_read(name) as file:
            manifest = decode(file.read(), name)
        if manifest.header.database_id != number:
            raise CorruptData(name, 0, f"it is of database {manifest.header.database_id}")
        for part in manifest.names:
            match = _PART.fullmatch(part)
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
            whole = _ids(_WHOLE, self._files.names())
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
        name = f"database-{number}.snapshot"
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
        left = [name for name in self._files.names() if _is_left(name, kept, self._manifests)]
        if not left:
            return succeed(None)
        self._log.info("removing {count} files of unfinished snapshots", count=len(left))
        try:
            # Now, as a snapshot that is begun while a thread does it has some of the same names.
            self._remove_all([name for name in left if _UNFINISHED.fullmatch(name)])
        except OSError:
            self._not_removed(Failure())
        tidied: Deferred[None] = self._in_thread(self._remove_left, left)
        return tidied.addErrback(self._not_removed)

    def _remove_left(self, names: Sequence[str]) -> None:
        # A manifest whose name may be lost still needs them.
        self._files.sync_names()
        self._remove_all([name for name in names if not _UNFINISHED.fullmatch(name)])

    # -- writing -------------------------------------------------------------------------------

    def begin(self, header: SnapshotHeader, changed: Collection[int] | None) -> ISnapshotWriter:
        """Begin one."""
        number = header.database_id
        parts: list[Part | None] = [None] * header.partitions
        if changed is not None:
            kept = self._manifests[number].parts
            if len(kept) != header.partitions:
                raise ValueError("partitions can be taken over only where there are as many")
            parts = [None if at in changed else part for at, part in enumerate(kept)]
        # A number is not used again: a manifest of a failed try may yet be found in its place.
        generation = self._generations[number] = self._generations.get(number, 0) + 1
        manifest = Manifest(header, generation, self._writer, tuple(parts))
        return _Writer(self, manifest, self._files, self._in_thread)

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
        going.add(f"database-{number}.snapshot")
        return self._remove(sorted(going))

    def drop(self, database_id: int) -> Deferred[None]:
        """Remove one, in a thread: the manifest first."""
        return self.in_turn(database_id, self._drop, database_id)

    def _drop(self, database_id: int) -> Deferred[None]:
        manifest = self._manifests.pop(database_id, None)
        names = [f"database-{database_id}.snapshot", *self._left.pop(database_id, ())]
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


def _generations(names: Iterable[str], manifests: Mapping[int, Manifest]) -> dict[int, int]:
    """The highest generation there is of each database, those that were not finished included:
    their files are removed while new ones are written."""
    found = {number: one.generation for number, one in manifests.items()}
    for name in names:
        match = _PART.fullmatch(name)
        if match is not None:
            number = int(match[1])
            found[number] = max(found.get(number, 0), int(match[2]))
    return found


def _is_left(name: str, kept: Collection[str], manifests: Collection[int]) -> bool:
    """Whether a file is left of a snapshot that was not finished, or of the one before."""
    if _UNFINISHED.fullmatch(name):
        return True
    if _PART.fullmatch(name):
        return name not in kept
    whole = _WHOLE.fullmatch(name)
    return whole is not None and int(whole[1]) in manifests


def _cannot_read(error: OSError) -> StartError:
    return StartError(f"The snapshots cannot be read: {error.strerror}.")
