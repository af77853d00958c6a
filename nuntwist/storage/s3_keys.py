"""Where snapshots are in a bucket: the keys of their objects, found and read.

::

    PREFIX/databases/ID/manifest.json
    PREFIX/databases/ID/GENERATION-WRITER-RANDOM-PARTITION.part

What else is there is nobody's business here: it is never read and never removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from nuntwist.errors import CorruptData, StorageUnavailable
from nuntwist.storage.manifest import Manifest, decode
from nuntwist.storage.s3_objects import Objects, RequestFailed

MANIFEST: Final = "manifest.json"
_OBJECT: Final = re.compile(r"(0|[1-9][0-9]{0,19})/(manifest\.json|.*\.part)")
_PART: Final = re.compile(r"[0-9]{1,20}-[0-9a-f]{16}-[0-9a-f]{8}-[0-9]{2,5}\.part")


def part_name(generation: int, writer: int, once: int, partition: int) -> str:
    """A name that nobody uses again.

    :param once: 32 random bits.
    """
    return f"{generation}-{writer:016x}-{once:08x}-{partition:02d}.part"


class Present(NamedTuple):
    """What a prefix holds.

    :ivar parts: the names of the partitions of each database that has a manifest.
    :ivar abandoned: the keys of old partitions where there is none.
    """

    parts: dict[int, set[str]]
    abandoned: list[str]


class Keys:
    """The keys of one prefix.

    :param prefix: without slashes at its ends; may be empty.
    :ivar place: the prefix as it is named to people.
    """

    def __init__(self, objects: Objects, prefix: str) -> None:
        self._objects = objects
        self._root = f"{prefix}/databases/" if prefix else "databases/"
        self.place = objects.uri(prefix).rstrip("/")

    def key(self, number: int, name: str = MANIFEST) -> str:
        """The key of an object of a database."""
        return f"{self._root}{number}/{name}"

    def uri(self, number: int, name: str = MANIFEST) -> str:
        """How that object is named to people."""
        return self._objects.uri(self.key(number, name))

    def read(self, number: int) -> tuple[Manifest, str] | None:
        """Read a manifest.

        :return: it and its entity tag; None where there is none.
        :raise RequestFailed: it cannot be read.
        :raise CorruptData: it is damaged.
        """
        found = self._objects.get(self.key(number))
        if found is None:
            return None
        uri = self.uri(number)
        manifest = decode(found.data, uri)
        if manifest.header.database_id != number:
            raise CorruptData(uri, 0, f"it is of database {manifest.header.database_id}")
        if not all(_PART.fullmatch(name) for name in manifest.names):
            raise CorruptData(uri, 0, "it names something that is no partition")
        return manifest, found.tag

    def list(self, before: float) -> Present:
        """Look what there is.

        :param before: what was written earlier, in seconds since 1970, and has no manifest,
            is abandoned.
        :raise RequestFailed: it cannot be listed.
        """
        manifests: set[int] = set()
        parts: dict[int, set[str]] = {}
        old: dict[int, list[str]] = {}
        for key, written in self._objects.list(self._root):
            match = _OBJECT.fullmatch(key.removeprefix(self._root))
            if match is None:
                continue
            number, name = int(match[1]), match[2]
            if name == MANIFEST:
                manifests.add(number)
            elif _PART.fullmatch(name):
                parts.setdefault(number, set()).add(name)
                if written < before:
                    old.setdefault(number, []).append(key)
        abandoned = [key for number in old.keys() - manifests for key in old[number]]
        return Present({number: parts.get(number, set()) for number in manifests}, abandoned)

    def parts(self, number: int) -> Iterator[str]:
        """Give the names of the partitions of a database that are there.

        :raise RequestFailed: they cannot be listed.
        """
        root = self.key(number, "")
        for key, _ in self._objects.list(root):
            name = key.removeprefix(root)
            if _PART.fullmatch(name):
                yield name


def cannot_write(uri: str, error: RequestFailed) -> StorageUnavailable:
    """The error that tells of an object that could not be put."""
    return StorageUnavailable(f"{uri} cannot be written: {error}")
