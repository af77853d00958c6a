"""Targets: snapshots, on the disk and in S3."""

from __future__ import annotations

import io
from collections.abc import Iterator

from twisted.internet.defer import execute

from nuntwist.errors import CorruptData, StartError
from nuntwist.files import MemoryFiles
from nuntwist.interfaces import SnapshotHeader
from nuntwist.storage import format as form
from nuntwist.storage.disk import DiskStorage
from nuntwist.storage.disk_names import manifest_name
from nuntwist.storage.manifest import decode
from nuntwist.storage.s3_keys import Keys
from nuntwist.storage.s3_objects import Listed
from nuntwist.values import Op
from tests.fuzz.target import tried, unbundle

NUMBER = 7
PART = f"database-{NUMBER}-1-00.part"
U64 = 1 << 64


def partition(data: bytes) -> None:
    """A partition file; what is read can be written again, byte for byte but for the blocks."""
    try:
        reader = form.Reader(io.BytesIO(data), "a test", len(data))
        blocks = list(reader)
    except CorruptData as error:
        assert 0 <= error.offset <= len(data)
        return
    assert reader.count == sum(map(len, blocks))
    header = reader.header
    pieces = [form.begin(header, reader.partition), *map(form.entries, blocks)]
    written = b"".join([*pieces, form.end(reader.count)])
    again = form.Reader(io.BytesIO(written), "a test", len(written))
    assert list(again) == blocks
    assert again.header == header


def manifest(data: bytes) -> None:
    """A manifest: what is not as it must be is damage, whatever the checksum says."""
    found = tried(CorruptData, decode, data, "a test")
    if found is None:
        return
    header = found.header
    numbers = [header.database_id, header.index, *header.epoch, header.stamp, found.generation]
    for part in found.parts:
        if part is not None:
            assert isinstance(part.name, str)
            numbers += [part.index, part.entries, part.size, part.checksum]
    for number, name in header.databases or ():
        numbers.append(number)
        name.decode()
    for number in [*numbers, found.writer]:
        assert type(number) is int
        assert 0 <= number < U64
    assert header.partitions == len(found.parts) > 0
    header.name.decode()
    assert len(found.names) <= header.partitions
    assert decode(found.encode(), "a test") == found


def files(data: bytes) -> None:
    """A manifest and a partition file, as a start loads them from the disk."""
    head, part = unbundle(data, 2)
    there = MemoryFiles()
    there.contents[manifest_name(NUMBER)] = bytearray(head)
    there.contents[PART] = bytearray(part)
    there.contents["lock"] = bytearray()
    storage = DiskStorage(there, execute)
    headers: list[SnapshotHeader] = []
    ops: list[Op] = []
    failed: list[BaseException] = []

    def note(reason: object) -> None:
        failed.append(reason.value)  # type: ignore[attr-defined]

    if tried((CorruptData, StartError), lambda: storage.open() or True) is None:
        return
    storage.load(headers.append, ops.extend).addErrback(note)
    assert all(isinstance(one, CorruptData | StartError) for one in failed)
    if not failed:
        assert all(op[5] == NUMBER for op in ops)
    storage.tidy()
    storage.drop(NUMBER)
    assert "lock" in there.contents, "what is no snapshot was removed"


class _Objects:
    """A bucket that says to have some keys."""

    def __init__(self, keys: list[str]) -> None:
        self._keys = keys

    def uri(self, key: str) -> str:
        return f"s3://b/{key}"

    def list(self, prefix: str) -> Iterator[Listed]:
        for number, key in enumerate(self._keys):
            yield Listed(prefix + key, float(number))


def keys(data: bytes) -> None:
    """Keys of a bucket: what is none of ours is left alone."""
    names = data.decode("utf-8", "replace").split("\n")
    found = Keys(_Objects(names), "p").list(5.0)  # type: ignore[arg-type]
    for number in found.parts:
        assert f"{number}/manifest.json" in names
    for key in found.abandoned:
        number = int(key.removeprefix("p/databases/").partition("/")[0])
        assert number not in found.parts
        assert key.removeprefix("p/databases/") in names
