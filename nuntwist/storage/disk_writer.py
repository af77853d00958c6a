"""Writing one snapshot to files: a file a partition, made for the first block that comes for it.

    write … write ──commit──▶ partitions flushed, in a thread ──▶ in turn ──▶ the manifest replaced
       │                            │                               │
       └ a write failed ────────────┴───────────────────────────────┴ what was written is removed

Changes of one database's manifest come one behind the other. A drop that was quicker has removed
what this snapshot would take over, so it is then not made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from zope.interface import implementer

from nuntwist.errors import StorageUnavailable
from nuntwist.files import Files
from nuntwist.interfaces import ISnapshotWriter
from nuntwist.storage.disk_names import part_name
from nuntwist.storage.manifest import Manifest
from nuntwist.storage.partition import InThread, PartitionFile, unavailable
from nuntwist.values import Op


class Manifests(Protocol):
    """What the writer needs of its storage."""

    def manifest(self, number: int) -> Manifest | None:
        """What the snapshot of a database consists of."""

    def in_turn(
        self, number: int, change: Callable[..., Deferred[None]], *arguments: object
    ) -> Deferred[None]:
        """Change what is kept of a database when no other change of it is under way."""

    def replace(self, manifest: Manifest) -> Deferred[None]:
        """Make a manifest, whose files are on the disk, the one of its database."""


@implementer(ISnapshotWriter)
class DiskWriter:
    """A snapshot under way.

    :param manifests: where its manifest is to be put.
    :param manifest: with the partitions that are taken over, and None for those to write.
    """

    def __init__(
        self, manifests: Manifests, manifest: Manifest, files: Files, in_thread: InThread
    ) -> None:
        self._manifests = manifests
        self._manifest = manifest
        self._files = files
        self._in_thread = in_thread
        self._before = manifests.manifest(manifest.header.database_id)
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
        return self._manifests.in_turn(manifest.header.database_id, self._replace_in_turn, manifest)

    def _replace_in_turn(self, manifest: Manifest) -> Deferred[None]:
        if self._manifests.manifest(manifest.header.database_id) is not self._before:
            # Dropped meanwhile: what it would take over is gone.
            self.abort()
            return fail(StorageUnavailable("the snapshot it follows on is not there any more"))
        return self._manifests.replace(manifest)

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
