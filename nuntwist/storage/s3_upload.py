"""Writing one snapshot to S3: each partition goes through a file of the data directory, then up.

The files are needed because entries come a slice at a time, and an object has to be put whole,
perhaps several times. They are gone when the snapshot is made or given up; what a crash leaves
of them goes at the next start.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks
from zope.interface import implementer

from nuntwist.errors import StorageUnavailable
from nuntwist.files import Files
from nuntwist.interfaces import ISnapshotWriter
from nuntwist.storage.manifest import Manifest, Part
from nuntwist.storage.partition import InThread, PartitionFile, unavailable
from nuntwist.values import Op

SPOOLED: Final = re.compile(r"(upload|download)-.*\.part")
"""Files of the data directory that only pass through it."""


class Uploads(Protocol):
    """What the writer needs of its storage; called in a thread."""

    def put(self, number: int, name: str, part: Part) -> None:
        """Put a partition from the file ``part.name`` under a name.

        :raise StorageUnavailable: it could not be done.
        """

    def replace(self, manifest: Manifest, whole: bool) -> None:
        """Make a manifest the one of its database, and remove what it does not name.

        :param whole: whether to look for what nobody knows of, too.
        :raise StorageUnavailable: it is not, or that is not known.
        """


@implementer(ISnapshotWriter)
class UploadWriter:
    """A snapshot under way.

    :param name: gives the name of the object of a partition.
    :param over: called with this writer when it is committed, failed or aborted.
    :ivar dropped: set when its database is: then it ends well and leaves nothing.
    """

    def __init__(
        self,
        uploads: Uploads,
        manifest: Manifest,
        whole: bool,
        files: Files,
        in_thread: InThread,
        in_upload_thread: InThread,
        name: Callable[[int], str],
        over: Callable[[UploadWriter], None],
    ) -> None:
        self.manifest = manifest
        self.dropped = False
        self._uploads = uploads
        self._whole = whole
        self._files = files
        self._in_thread = in_thread
        self._in_upload_thread = in_upload_thread
        self._name = name
        self._over = over
        self._open: dict[int, PartitionFile] = {}
        self._broken: StorageUnavailable | None = None

    def write(self, partition: int, entries: Sequence[Op]) -> None:
        """Append a block to a partition's file, which is made for the first one."""
        try:
            file = self._open.get(partition)
            if file is None:
                header = self.manifest.header
                name = f"upload-{header.database_id}-{self._name(partition)}"
                file = PartitionFile(self._files, self._in_thread, name, header, partition)
                self._open[partition] = file
            file.write(entries)
        except StorageUnavailable as error:
            self._broken = error
            raise

    @inlineCallbacks
    def commit(self) -> Generator[Deferred[Any], Any, None]:
        """Put the partitions, then the manifest."""
        try:
            if self._broken is not None:
                raise self._broken
            spooled: dict[int, Part] = yield self._in_thread(self._finish)
            sent = [self._send(partition, part) for partition, part in spooled.items()]
            outcomes = yield DeferredList(sent, consumeErrors=True)
            for well, outcome in outcomes:
                if not well:
                    outcome.raiseException()
            yield self._in_upload_thread(self._conclude, spooled)
        except OSError as error:
            raise unavailable(error) from None
        finally:
            # In a thread: to remove large files takes milliseconds.
            going, self._open = self._open, {}
            yield self._in_thread(_remove, going.values())
            self._over(self)

    def _finish(self) -> dict[int, Part]:
        return {partition: file.finish(flush=False) for partition, file in self._open.items()}

    def _send(self, partition: int, part: Part) -> Deferred[None]:
        sent: Deferred[None] = self._in_upload_thread(self._put, partition, part)
        return sent

    def _put(self, partition: int, part: Part) -> None:
        # After a failure the others need not be tried: it was tried again often enough.
        if self._broken is not None:
            raise self._broken
        if self.dropped:
            return
        number = self.manifest.header.database_id
        try:
            self._uploads.put(number, self._name(partition), part)
        except StorageUnavailable as error:
            self._broken = error
            raise

    def _conclude(self, spooled: dict[int, Part]) -> None:
        if self.dropped:
            return
        parts = list(self.manifest.parts)
        for partition, part in spooled.items():
            parts[partition] = replace(part, name=self._name(partition))
        manifest = replace(self.manifest, parts=tuple(parts))
        self._uploads.replace(manifest, self._whole)

    def abort(self) -> None:
        """Remove the files; what was put already goes after the next snapshot."""
        while self._open:
            self._open.popitem()[1].abort()
        self._over(self)


def _remove(files: Iterable[PartitionFile]) -> None:
    for file in files:
        file.abort()
