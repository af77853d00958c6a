"""Snapshots read from one place and written to another; what a configuration asks for."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from twisted.internet.defer import maybeDeferred

from nuntwist.config import make_config
from nuntwist.files import MemoryFiles
from nuntwist.interfaces import IStorage
from nuntwist.storage.choose import Means, make_storage
from nuntwist.storage.disk import DiskStorage
from nuntwist.storage.memory import MemoryStorage
from nuntwist.storage.s3 import S3Storage
from nuntwist.storage.split import SplitStorage
from tests.unit.conformance_storage import StorageConformance, done, entries, header, load, save


class TestSplitStorage(StorageConformance):
    """It is any storage where both places are the same."""

    def make(self) -> IStorage:
        both = MemoryStorage()
        return SplitStorage(both, both)

    def again(self, storage: IStorage) -> IStorage:
        storage.close()
        storage.open()
        return storage


def test_one_is_read_and_the_other_written() -> None:
    files = MemoryFiles()
    read, write = MemoryStorage(), DiskStorage(files, maybeDeferred)
    save(read, header(7), entries(7, 2))
    storage = SplitStorage(read, write)
    storage.open()
    assert load(storage) == {7: (header(7), entries(7, 2))}
    assert dict(storage.held) == {}
    assert storage.at_once == write.at_once
    save(storage, header(8), entries(8, 1))
    assert list(storage.held) == [8]
    assert list(load(storage)) == [7]
    done(storage.drop(7))
    assert list(load(storage)) == [7]
    done(storage.drop(8))
    assert dict(write.held) == {}
    files.append_to("database-9.manifest.new").close()
    done(storage.tidy())
    assert files.names() == []


@pytest.mark.parametrize(
    ("given", "read", "write"),
    [
        ({}, DiskStorage, None),
        ({"STORAGE_STRATEGY": "s3"}, ("p", False), None),
        ({"STORAGE_READ_STRATEGY": "s3"}, ("p", False), DiskStorage),
        ({"STORAGE_WRITE_STRATEGY": "s3"}, DiskStorage, ("p", True)),
        ({"STORAGE_STRATEGY": "s3", "S3_READ_PREFIX": "/p/"}, ("p", False), None),
        ({"STORAGE_STRATEGY": "s3", "S3_READ_PREFIX": "q"}, ("q", False), ("p", True)),
        ({"STORAGE_READ_STRATEGY": "s3", "S3_READ_PREFIX": "q"}, ("q", False), DiskStorage),
    ],
)
def test_what_a_configuration_asks_for(given: dict[str, str], read: Any, write: Any) -> None:
    bucket = {"NUN_S3_BUCKET": "bucket", "NUN_S3_PREFIX": "p", "NUN_S3_API_URL": "http://x"}
    keys = {"NUN_S3_KEY_ID": "id", "NUN_S3_SECRET_KEY": "secret"}
    environment = {f"NUN_{name}": value for name, value in given.items()}
    config = make_config({}, {**bucket, **keys, **environment})
    made: Any = make_storage(Means(config, MemoryFiles(), maybeDeferred, maybeDeferred, 1))
    parts = [made]
    if write is not None:
        assert isinstance(made, SplitStorage)
        parts = [made._read, made._write]
    for part, expected in zip(parts, [read, write], strict=False):
        if expected is DiskStorage:
            assert isinstance(part, DiskStorage)
            continue
        assert isinstance(part, S3Storage)
        assert (part._keys.place, part._ours) == (f"s3://bucket/{expected[0]}", expected[1])
        assert part.at_once == 10


def test_boto3_is_only_loaded_where_it_is_used() -> None:
    # In a process of its own: here it is loaded already.
    code = "import sys, nuntwist.service; print([m for m in sys.modules if m.startswith('boto')])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")
