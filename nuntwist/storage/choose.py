"""The storage that a configuration asks for."""

from __future__ import annotations

from nuntwist.config import NodeConfig
from nuntwist.files import Files
from nuntwist.interfaces import IStorage
from nuntwist.storage.disk import DiskStorage
from nuntwist.storage.partition import InThread
from nuntwist.storage.split import SplitStorage


def make_storage(
    config: NodeConfig, files: Files, in_thread: InThread, in_upload_thread: InThread, writer: int
) -> IStorage:
    """Make the storage of a node; nothing is opened.

    :param files: the data directory.
    :param in_thread: runs a function in a thread and gives a Deferred of its result.
    :param in_upload_thread: the same, for requests to S3: in as many threads as may be under
        way at once.
    :param writer: the id of the node.
    :raise StartError: S3 is asked for, and what it needs is not installed.
    """
    prefix = config.s3_prefix
    read_prefix = config.s3_read_prefix or prefix
    read, write = config.read_strategy, config.write_strategy

    def disk() -> IStorage:
        return DiskStorage(files, in_thread, writer)

    def s3(prefix: str, ours: bool) -> IStorage:
        return _s3(config, prefix, files, in_thread, in_upload_thread, writer, ours)

    if read == "disk":
        return disk() if write == "disk" else SplitStorage(disk(), s3(prefix, True))
    if write == "disk":
        return SplitStorage(s3(read_prefix, False), disk())
    if read_prefix == prefix:
        return s3(prefix, False)
    return SplitStorage(s3(read_prefix, False), s3(prefix, True))


def _s3(
    config: NodeConfig,
    prefix: str,
    files: Files,
    in_thread: InThread,
    in_upload_thread: InThread,
    writer: int,
    ours: bool,
) -> IStorage:
    # boto3 takes half a second to import: only where it is used.
    from nuntwist.storage.s3 import S3Storage
    from nuntwist.storage.s3_objects import Access, Objects, connect

    access = Access(
        config.s3_api_url,
        config.s3_key_id,
        config.s3_secret_key,
        config.s3_max_inflight_requests,
        config.s3_retry,
    )
    objects = Objects(connect(access), config.s3_bucket, config.s3_retry)
    inflight = config.s3_max_inflight_requests
    return S3Storage(objects, prefix, files, in_thread, in_upload_thread, writer, inflight, ours)
