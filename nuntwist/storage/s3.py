"""Snapshots as objects in S3: for each database its partitions and a manifest
(:mod:`nuntwist.storage.s3_keys` tells of their names).

Partitions are put first, under names that nobody uses again; they count for nothing until a new
manifest names them. The manifest is put last, on the condition that it takes the place of the
very one this node read or wrote last. So a crash, or a failed request, leaves the old snapshot
or the new one whole, and of two nodes that write to one prefix one is told so; it then writes
nothing more. Objects are removed only after a manifest of this node has taken its place, so no
manifest of another node can name one of them.

Where the answer to a put is lost, it may have been done: what is there then is compared with
what was put.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from nuntwist.errors import CorruptData, StartError, StorageUnavailable
from nuntwist.files import Files
from nuntwist.interfaces import ISnapshotWriter, IStorage, SnapshotHeader
from nuntwist.storage.manifest import Manifest, Part, Parts, decode
from nuntwist.storage.partition import InThread, unavailable
from nuntwist.storage.s3_keys import Keys, cannot_write, part_name
from nuntwist.storage.s3_load import Loader, remove_spooled
from nuntwist.storage.s3_objects import Conflict, Found, Objects, RequestFailed
from nuntwist.storage.s3_upload import SPOOLED, UploadWriter
from nuntwist.values import ADMIN_ID, Op

SMALL: Final = 1 << 20
"""Bytes up to which a partition is sent from memory, in one go."""
ABANDONED_SECONDS: Final = 86_400.0
"""Age above which a partition in a place without a manifest is no snapshot under way."""
_TRIES: Final = 5


@implementer(IStorage)
class S3Storage:
    """The snapshots of a node.

    :param objects: the bucket.
    :param prefix: before all keys; without slashes at its ends.
    :param files: the data directory, for what is on its way up or down.
    :param in_thread: runs a function in a thread and gives a Deferred of its result.
    :param in_upload_thread: the same, in as many threads as requests may be under way.
    :param writer: the id of this node.
    :param inflight: how many requests may be under way at once.
    :param ours: whether to refuse what other nodes have written.
    :param chance: for names that no other writer uses.
    :param wall: gives wall time in seconds since 1970.
    """

    _log = Logger()

    def __init__(
        self,
        objects: Objects,
        prefix: str,
        files: Files,
        in_thread: InThread,
        in_upload_thread: InThread,
        writer: int = 0,
        inflight: int = 10,
        ours: bool = False,
        chance: random.Random | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.at_once = inflight
        self._objects = objects
        self._keys = Keys(objects, prefix)
        self._files = files
        self._in_thread = in_thread
        self._in_upload_thread = in_upload_thread
        self._writer = writer
        self._ours = ours
        self._chance = random.SystemRandom() if chance is None else chance
        self._wall = wall
        self._manifests: dict[int, Manifest] = {}
        self._tags: dict[int, str] = {}
        self._generations: dict[int, int] = {}
        self._left: dict[int, set[str]] = {}
        self._abandoned: list[str] = []
        self._doubtful: dict[int, set[bytes]] = {}
        self._writing: dict[int, UploadWriter] = {}
        self._taken: str | None = None

    @property
    def held(self) -> Mapping[int, SnapshotHeader]:
        """The headers of what is kept."""
        return {number: one.header for number, one in self._manifests.items()}

    # -- opening and reading -------------------------------------------------------------------

    def open(self) -> None:
        """Read the manifests, several at once.

        That of ``$admin`` is read before all else: what it names is then found, whatever
        another node writes meanwhile.
        """
        try:
            admin = self._keys.read(ADMIN_ID)
            found, self._abandoned = self._keys.list(self._wall() - ABANDONED_SECONDS)
            others = sorted(found.keys() - {ADMIN_ID})
            with ThreadPoolExecutor(self.at_once, "reading") as threads:
                reading = [threads.submit(self._keys.read, number) for number in others]
                try:
                    read = [admin, *(one.result() for one in reading)]
                finally:
                    threads.shutdown(cancel_futures=True)
        except RequestFailed as error:
            raise StartError(
                f"The snapshots in {self._keys.place} cannot be read: {error}."
            ) from None
        for number, one in zip([ADMIN_ID, *others], read, strict=True):
            if one is not None:
                self._note(number, *one)
                self._left[number] = found.get(number, set()) - one[0].names
        self._check_writers()
        self._log.info(
            "there are snapshots of {count} databases in {place}",
            count=len(self._manifests),
            place=self._keys.place,
        )

    def _note(self, number: int, manifest: Manifest, tag: str) -> None:
        self._manifests[number] = manifest
        self._tags[number] = tag
        self._generations[number] = max(self._generations.get(number, 0), manifest.generation)

    def _check_writers(self) -> None:
        others = {one.writer for one in self._manifests.values()} - {self._writer}
        if self._ours and others:
            raise StartError(
                f"In {self._keys.place} are snapshots of another node, {min(others):016x}: choose"
                " another NUN_S3_PREFIX to write to, or read from that one."
            )

    def load(
        self,
        database: Callable[[SnapshotHeader], None],
        entries: Callable[[Sequence[Op]], None],
    ) -> Deferred[None]:
        """Give all of them, by rising id; it blocks."""
        manifests = [self._manifests[number] for number in sorted(self._manifests)]
        loader = Loader(self._objects, self._files, self._keys.key, self._reread, self.at_once)
        try:
            loader.run(manifests, database, entries)
        except (CorruptData, StartError):
            return fail()
        return succeed(None)

    def _reread(self, number: int) -> Manifest | None:
        try:
            read = self._keys.read(number)
        except RequestFailed as error:
            raise StartError(
                f"The snapshots in {self._keys.place} cannot be read: {error}."
            ) from None
        if read is None:
            self._forget(number)
            return None
        self._note(number, *read)
        return read[0]

    def _forget(self, number: int) -> None:
        self._manifests.pop(number, None)
        self._tags.pop(number, None)

    def tidy(self) -> Deferred[None]:
        """Remove files that were on their way, and partitions of long ago where there never
        came to be a manifest; what else is left goes with the next snapshot of its database."""
        tidied: Deferred[None] = self._in_thread(remove_spooled, self._files, SPOOLED)
        tidied.addErrback(self._not_tidied)
        abandoned, self._abandoned = self._abandoned, []
        if abandoned:
            tidied.addCallback(lambda _: self._in_upload_thread(self._remove, abandoned))
        return tidied

    def _not_tidied(self, reason: Failure) -> None:
        reason.trap(OSError)
        self._log.error(
            "files of unfinished snapshots cannot be removed: {error}", error=str(reason.value)
        )

    # -- writing -------------------------------------------------------------------------------

    def begin(self, header: SnapshotHeader, changed: Collection[int] | None) -> ISnapshotWriter:
        """Begin one."""
        number = header.database_id
        parts: Parts = (None,) * header.partitions
        if changed is not None:
            parts = self._manifests[number].kept(header.partitions, changed)
        before = self._manifests.get(number)
        if before is not None and before.header.epoch > header.epoch:
            self._take_note_of(before)
        if self._taken is not None:
            raise StorageUnavailable(self._taken)
        generation = self._generations[number] = self._generations.get(number, 0) + 1
        once = self._chance.getrandbits(32)

        def name(partition: int) -> str:
            return part_name(generation, self._writer, once, partition)

        writer = self._writing[number] = UploadWriter(
            self,
            Manifest(header, generation, self._writer, parts),
            changed is None,
            self._files,
            self._in_thread,
            self._in_upload_thread,
            name,
            self._over,
        )
        return writer

    def _over(self, writer: UploadWriter) -> None:
        number = writer.manifest.header.database_id
        if self._writing.get(number) is writer:
            del self._writing[number]
            if writer.dropped:
                self.drop(number)

    def _take_note_of(self, other: Manifest | None) -> None:
        """Write nothing more: another node does."""
        who = "another node"
        if other is not None:
            who = f"another node, {other.writer:016x} in epoch {other.header.epoch.number},"
        self._taken = (
            f"{who} writes to {self._keys.place}; stop one of the two, or give this one a"
            " NUN_S3_PREFIX of its own, and restart it"
        )

    def put(self, number: int, name: str, part: Part) -> None:
        """Put a partition from the file ``part.name``; called in a thread.

        :raise StorageUnavailable: it could not be done.
        """
        self._left.setdefault(number, set()).add(name)
        try:
            with self._files.open_read(part.name) as file:
                body = file.read() if part.size <= SMALL else file
                self._objects.put(self._keys.key(number, name), body, part.checksum)
        except OSError as error:
            raise unavailable(error) from None
        except RequestFailed as error:
            raise cannot_write(self._keys.uri(number, name), error) from None

    def replace(self, manifest: Manifest, whole: bool) -> None:
        """Make a manifest the one of its database, and remove what it does not name; called
        in a thread.

        :param whole: whether to look for what nobody knows of, too.
        :raise StorageUnavailable: it is not, or that is not known.
        """
        number = manifest.header.database_id
        tag = self._replace(number, manifest.encode())
        before = self._manifests.get(number)
        self._note(number, manifest, tag)
        self._doubtful.pop(number, None)
        going = self._left.pop(number, set())
        going |= frozenset() if before is None else before.names
        self._clear(number, going - manifest.names, manifest.names if whole else None)

    def _replace(self, number: int, data: bytes) -> str:
        key, mark = self._keys.key(number), sha256(data).digest()
        doubtful = self._doubtful.setdefault(number, set())
        try:
            for _ in range(_TRIES):
                tag = self._tags.get(number)
                doubtful.add(mark)
                try:
                    return self._objects.replace(key, data, tag)
                except Conflict:
                    found = self._objects.get(key)
                if found is not None and found.data == data:
                    # The answer to a first try was lost.
                    return found.tag
                self._look_at(number, found, tag)
        except RequestFailed as error:
            raise cannot_write(self._keys.uri(number), error) from None
        raise cannot_write(self._keys.uri(number), RequestFailed("the service does not decide"))

    def _look_at(self, number: int, found: Found | None, tag: str | None) -> None:
        """Find out what is in the way of a manifest; on return, try again.

        :raise StorageUnavailable: it is not ours.
        """
        if found is None and tag is not None:
            # Somebody has removed it; what it named may be gone too.
            self._forget(number)
            raise StorageUnavailable(
                f"{self._keys.uri(number)} was removed; the next snapshot of the"
                " database is written whole"
            )
        if found is None or found.tag == tag:
            # Two requests at once, of which the service has refused both.
            return
        if sha256(found.data).digest() in self._doubtful[number]:
            self._tags[number] = found.tag
            return
        try:
            other: Manifest | None = decode(found.data, "")
        except CorruptData:
            other = None
        self._take_note_of(other)
        raise StorageUnavailable(self._taken)

    # -- removing ------------------------------------------------------------------------------

    def drop(self, database_id: int) -> Deferred[None]:
        """Remove one, the manifest first.

        It goes on after the Deferred has fired: nobody who drops a database has to wait for S3.
        """
        writer = self._writing.get(database_id)
        if writer is not None:
            # It may be just about to put the manifest; when it is over, this is done.
            writer.dropped = True
        elif self._manifests.pop(database_id, None) or self._left.get(database_id):
            self._in_upload_thread(self._drop, database_id)
        return succeed(None)

    def _drop(self, number: int) -> None:
        key, tag = self._keys.key(number), self._tags.pop(number, None)
        try:
            found = self._objects.get(key)
            if found is not None:
                ours = sha256(found.data).digest() in self._doubtful.get(number, ())
                if self._taken is not None or not (found.tag == tag or ours):
                    self._log.warn("{key} is of another node, it stays", key=self._keys.uri(number))
                    return
                self._objects.delete([key])
        except RequestFailed as error:
            self._not_removed(error)
            return
        if self._doubtful.pop(number, None):
            # A put that is still on its way would bring the manifest back.
            return
        self._clear(number, self._left.pop(number, set()), ())

    def _clear(self, number: int, names: Iterable[str], kept: Collection[str] | None) -> None:
        """Remove partitions of a database.

        :param kept: None: only those that are named; else all but these that are there.
        """
        going = set(names)
        try:
            if kept is not None:
                going.update(name for name in self._keys.parts(number) if name not in kept)
            self._objects.delete([self._keys.key(number, name) for name in sorted(going)])
        except RequestFailed as error:
            self._left.setdefault(number, set()).update(going)
            self._not_removed(error)

    def _remove(self, keys: Sequence[str]) -> None:
        try:
            self._objects.delete(keys)
        except RequestFailed as error:
            self._not_removed(error)

    def _not_removed(self, error: RequestFailed) -> None:
        self._log.warn(
            "objects of old snapshots in {place} could not be removed yet: {error}",
            place=self._keys.place,
            error=str(error),
        )

    def close(self) -> None:
        """Give back the connections."""
        self._objects.close()
