"""The manifest: what the snapshot of one database consists of. Described in docs/formats.md.

It names the partition files and says of what size and with what checksum each must be, so files
of two snapshots are never taken for one. It is replaced in one step, when all it names is where
a crash cannot take it: that step is the snapshot.

It is JSON, so that an operator can read it; ``checksum`` covers all the rest.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from nuntwist.errors import CorruptData
from nuntwist.interfaces import SnapshotHeader
from nuntwist.values import Epoch

FORMAT: Final = 1
_END: Final = 1 << 64
"""No number is as high."""


@dataclass(frozen=True, slots=True)
class Part:
    """One partition file.

    :ivar name: of the file, or of the object.
    :ivar index: the log's index when it was written; all that came later has left it as it is,
        up to the index of the manifest.
    :ivar entries: how many it holds.
    :ivar size: its bytes.
    :ivar checksum: CRC-32 of all of them.
    """

    name: str
    index: int
    entries: int
    size: int
    checksum: int


Parts = tuple[Part | None, ...]
"""The partitions of a snapshot, in order; None for one without entries."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one snapshot consists of.

    :ivar generation: one more for each snapshot of this database.
    :ivar writer: the id of the node that wrote it.
    :ivar parts: one a partition, in order; None for a partition without entries.
    """

    header: SnapshotHeader
    generation: int
    writer: int
    parts: Parts

    @property
    def names(self) -> frozenset[str]:
        """The partition files it names."""
        return frozenset(part.name for part in self.parts if part is not None)

    def kept(self, partitions: int, changed: Collection[int]) -> Parts:
        """The partitions that a next snapshot takes over, and None for those to write.

        :param partitions: how many it has.
        :raise ValueError: it is not split as this one.
        """
        if len(self.parts) != partitions:
            raise ValueError("partitions can be taken over only where there are as many")
        return tuple(None if at in changed else part for at, part in enumerate(self.parts))

    def encode(self) -> bytes:
        """Give its bytes."""
        header = self.header
        fields: dict[str, Any] = {
            "format": FORMAT,
            "id": header.database_id,
            "name": header.name.decode(),
            "strategy": header.strategy.decode(),
            "index": header.index,
            "epoch": [header.epoch.number, header.epoch.node],
            "stamp": header.stamp,
            "generation": self.generation,
            "writer": self.writer,
            "parts": [
                part
                and {
                    "name": part.name,
                    "index": part.index,
                    "entries": part.entries,
                    "size": part.size,
                    "crc32": part.checksum,
                }
                for part in self.parts
            ],
        }
        if header.databases is not None:
            fields["databases"] = [[number, name.decode()] for number, name in header.databases]
        fields["checksum"] = _checksum(fields)
        return json.dumps(fields, ensure_ascii=False, indent=1).encode() + b"\n"


def decode(data: bytes, name: str) -> Manifest:
    """Read a manifest.

    :param name: for errors.
    :raise CorruptData: it is none, or damaged.
    """
    try:
        fields = json.loads(data)
        if not isinstance(fields, dict):
            raise ValueError("it is no manifest")
        form = fields.get("format")
        if form != FORMAT:
            # It goes into the log, and JSON may hold anything of any length.
            is_plain = form is None or (type(form) is int and 0 <= form < _END)
            shown = form if is_plain else "of that kind"
            raise ValueError(f"format {shown} is not known here, a newer release wrote it")
        if fields.pop("checksum", None) != _checksum(fields):
            raise ValueError("it does not match its checksum")
        return _manifest(fields)
    except UnicodeError:
        raise CorruptData(name, 0, "it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise CorruptData(name, error.pos, "it is not JSON") from None
    except (KeyError, TypeError, AttributeError, RecursionError):
        raise CorruptData(name, 0, "a field is missing, or of another type") from None
    except ValueError as error:
        raise CorruptData(name, 0, str(error)) from None


def _manifest(fields: dict[str, Any]) -> Manifest:
    parts = tuple(None if part is None else _part(part) for part in fields["parts"])
    if not parts:
        raise ValueError("it has no partitions")
    databases = fields.get("databases")
    number, node = fields["epoch"]
    header = SnapshotHeader(
        database_id=_number(fields["id"]),
        name=fields["name"].encode(),
        strategy=fields["strategy"].encode(),
        index=_number(fields["index"]),
        epoch=Epoch(_number(number), _number(node)),
        partitions=len(parts),
        stamp=_number(fields["stamp"]),
        databases=None if databases is None else tuple(map(_named, databases)),
    )
    return Manifest(header, _number(fields["generation"]), _number(fields["writer"]), parts)


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < _END:
        raise TypeError("it is no number of 64 bits")
    return value


def _named(pair: list[Any]) -> tuple[int, bytes]:
    number, name = pair
    return _number(number), name.encode()


def _part(fields: dict[str, Any]) -> Part:
    name = fields["name"]
    if not isinstance(name, str):
        raise TypeError("it is no name")
    index, entries, size, checksum = (
        _number(fields[field]) for field in ("index", "entries", "size", "crc32")
    )
    return Part(name, index, entries, size, checksum)


def _checksum(fields: dict[str, Any]) -> int:
    text = json.dumps(fields, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return zlib.crc32(text.encode())
