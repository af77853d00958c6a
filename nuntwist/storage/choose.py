"""The storage that a configuration asks for, by name.

``disk`` and ``s3`` are here; any other name is looked for among Twisted's plugins, where a package
puts storages of its own (:class:`nuntwist.interfaces.IStorageKind`, docs/extend.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from zope.interface import implementer

from nuntwist.config import NodeConfig
from nuntwist.files import Files
from nuntwist.interfaces import BOTH, READ, WRITE, IStorage, IStorageKind
from nuntwist.plugins import find
from nuntwist.storage.disk import DiskStorage
from nuntwist.storage.partition import InThread
from nuntwist.storage.split import SplitStorage


@dataclass(frozen=True, slots=True)
class Means:
    """What a node gives the storages it makes.

    :ivar config: of the node.
    :ivar files: the data directory.
    :ivar in_thread: runs a function in a thread and gives a Deferred of its result.
    :ivar in_upload_thread: the same, for what waits for a network: in as many threads as
        requests to S3 may be under way at once.
    :ivar writer: the id of the node.
    """

    config: NodeConfig
    files: Files
    in_thread: InThread
    in_upload_thread: InThread
    writer: int


def make_storage(means: Means) -> IStorage:
    """Make the storage of a node; nothing is opened.

    :raise StartError: there is none of that name, or what it needs is not installed.
    """
    config = means.config
    read, write = find_kind(config.read_strategy), find_kind(config.write_strategy)
    if read is write:
        return _made(read, means, BOTH)
    return SplitStorage(_made(read, means, READ), _made(write, means, WRITE))


def find_kind(name: str) -> IStorageKind:
    """The kind of storage of a name.

    :raise StartError: there is none.
    """
    asked = f"storage {name!r}, which NUN_STORAGE_STRATEGY or one of its like asks for"
    found: IStorageKind = find(IStorageKind, _BUILT_IN, name, asked)
    return found


def _made(kind: IStorageKind, means: Means, role: str) -> IStorage:
    # mypy-zope does not take what a kind gives for what it is declared to.
    storage: IStorage = kind.make(means, role)
    return storage


@implementer(IStorageKind)
class _Disk:
    name: ClassVar[str] = "disk"
    elsewhere: ClassVar[bool] = False

    def make(self, means: Any, role: str) -> IStorage:
        return DiskStorage(means.files, means.in_thread, means.writer)


@implementer(IStorageKind)
class _S3:
    name: ClassVar[str] = "s3"
    elsewhere: ClassVar[bool] = True

    def make(self, means: Any, role: str) -> IStorage:
        config: NodeConfig = means.config
        prefix = config.s3_prefix
        read_prefix = config.s3_read_prefix or prefix
        if role == READ:
            return _in_s3(means, read_prefix, False)
        if role == WRITE:
            return _in_s3(means, prefix, True)
        if read_prefix == prefix:
            return _in_s3(means, prefix, False)
        return SplitStorage(_in_s3(means, read_prefix, False), _in_s3(means, prefix, True))


def _in_s3(means: Means, prefix: str, ours: bool) -> IStorage:
    # boto3 takes half a second to import: only where it is used.
    from nuntwist.storage.s3 import S3Storage
    from nuntwist.storage.s3_objects import Access, Objects, connect

    config = means.config
    inflight = config.s3_max_inflight_requests
    access = Access(
        config.s3_api_url, config.s3_key_id, config.s3_secret_key, inflight, config.s3_retry
    )
    objects = Objects(connect(access), config.s3_bucket, config.s3_retry)
    return S3Storage(
        objects,
        prefix,
        means.files,
        means.in_thread,
        means.in_upload_thread,
        means.writer,
        inflight,
        ours,
    )


_BUILT_IN: dict[str, IStorageKind] = {kind.name: kind for kind in (_Disk(), _S3())}
