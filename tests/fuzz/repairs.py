"""Right checksums for damaged bytes, format by format; see :mod:`tests.fuzz.target`.

They walk over the bytes as the formats are laid down, and leave alone what they do not understand.
Where ``lengths`` is true, one that reaches beyond the end is made to end there.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

from tests.fuzz.target import bundle, unbundle

RECORD_HEAD = 52
SEGMENT_HEAD = 16
BLOCK_HEAD = 9


def _json(data: bytes) -> dict[str, Any] | None:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def records(data: bytes, lengths: bool) -> bytes:
    """Records of the log, one after the other."""
    parts, at = [], 0
    while len(data) - at >= RECORD_HEAD:
        head = bytearray(data[at : at + RECORD_HEAD])
        (length,) = struct.unpack_from("<I", head, 8)
        rest = len(data) - at - RECORD_HEAD
        if length > rest and lengths:
            length = rest
            struct.pack_into("<I", head, 8, length)
        body = data[at + RECORD_HEAD : at + RECORD_HEAD + length]
        struct.pack_into("<I", head, 4, zlib.crc32(body))
        struct.pack_into("<I", head, 0, zlib.crc32(head[4:]))
        parts += [bytes(head), body]
        at += RECORD_HEAD + len(body)
    return b"".join([*parts, data[at:]])


def segment(data: bytes, lengths: bool) -> bytes:
    """A segment of the log."""
    return data[:SEGMENT_HEAD] + records(data[SEGMENT_HEAD:], lengths)


def peer_frames(data: bytes, lengths: bool) -> bytes:
    """Frames between nodes."""
    parts, at = [], 0
    while len(data) - at >= 9:
        length, _, kind = struct.unpack_from("<IIB", data, at)
        if lengths:
            length = min(length, len(data) - at - 9)
        body = data[at + 9 : at + 9 + length]
        size = struct.pack("<I", length)
        checksum = zlib.crc32(body, zlib.crc32(bytes((kind,)), zlib.crc32(size)))
        parts.append(struct.pack("<IIB", length, checksum, kind) + body)
        at += 9 + len(body)
    return b"".join([*parts, data[at:]])


def _blocks(data: bytes, at: int, lengths: bool, body_of: Callable[..., bytes]) -> bytes:
    """Blocks of snapshots and archives.

    :param body_of: gives the body to write: of the kind, the one there is, and all before it.
    """
    parts = [data[:at]]
    while len(data) - at >= BLOCK_HEAD:
        kind, length, _ = struct.unpack_from("<BII", data, at)
        if lengths:
            length = min(length, len(data) - at - BLOCK_HEAD)
        body = data[at + BLOCK_HEAD : at + BLOCK_HEAD + length]
        at += BLOCK_HEAD + len(body)
        if len(body) == length:
            body = body_of(kind, body, parts)
            length = len(body)
        size = length.to_bytes(4, "little")
        checksum = zlib.crc32(body, zlib.crc32(bytes((kind,)) + size))
        parts.append(struct.pack("<BII", kind, length, checksum) + body)
    return b"".join([*parts, data[at:]])


def _count(body: bytes) -> int:
    """Entries of a block."""
    at = count = 0
    while len(body) - at >= 32:
        key, value = struct.unpack_from("<II", body, at)
        at += 32 + key + value
        count += 1
    return count


def snapshot(data: bytes, lengths: bool) -> bytes:
    """A partition file; its end counts what it holds."""

    def body_of(kind: int, body: bytes, before: list[bytes]) -> bytes:
        if kind == 3 and lengths:
            # The block after the header begins the entries.
            return struct.pack("<Q", sum(_count(one[BLOCK_HEAD:]) for one in before[2:]))
        return body

    return _blocks(data, 8, lengths, body_of)


def archive(data: bytes, lengths: bool) -> bytes:
    """An archive; its end counts what it holds."""

    def body_of(kind: int, body: bytes, before: list[bytes]) -> bytes:
        if kind == 4 and lengths:
            entries = sum(_count(one[BLOCK_HEAD:]) for one in before[1:] if one[:1] == b"\3")
            checksum = zlib.crc32(b"".join(before))
            return json.dumps({"entries": entries, "crc32": checksum}).encode()
        return body

    return _blocks(data, 8, lengths, body_of)


def manifest(data: bytes, lengths: bool) -> bytes:
    """A manifest."""
    fields = _json(data)
    if fields is None:
        return data
    fields.pop("checksum", None)
    text = json.dumps(fields, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    fields["checksum"] = zlib.crc32(text.encode("utf-8", "surrogatepass"))
    return json.dumps(fields).encode()


def snapshot_files(data: bytes, lengths: bool) -> bytes:
    """A manifest and the partition file it names."""
    head, part = unbundle(data, 2)
    part = snapshot(part, lengths)
    fields = _json(head)
    if fields is not None and lengths and isinstance(fields.get("parts"), list):
        for one in fields["parts"]:
            if isinstance(one, dict):
                one |= {"size": len(part), "crc32": zlib.crc32(part)}
                if len(part) >= 17:
                    (one["entries"],) = struct.unpack_from("<Q", part, len(part) - 8)
        head = json.dumps(fields).encode()
    return bundle(manifest(head, lengths), part)


def identity(data: bytes, lengths: bool) -> bytes:
    """The file of the identity."""
    fields = _json(data)
    if fields is None:
        return data
    fields.pop("check", None)
    checksum = zlib.crc32(json.dumps(fields, sort_keys=True).encode())
    return json.dumps({**fields, "check": f"{checksum:08x}"}).encode()


def base(data: bytes, lengths: bool) -> bytes:
    """The file that says where the log begins."""
    text = data.rstrip(b"\n").rpartition(b" ")[0]
    return b"%b %08x\n" % (text, zlib.crc32(text))
