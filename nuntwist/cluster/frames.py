"""What two nodes say to each other, as bytes on a link.

A frame is a head of 9 bytes and a body; numbers are little endian::

    0  u32  length of the body
    4  u32  CRC32 of all that follows, and of the length
    8  u8   kind of the message
    9       body

What the body holds is of each kind (:mod:`nuntwist.cluster.frame_kinds`). TCP finds errors of the
wire; the checksum is for what it does not find, and for a peer that is at fault: either ends the
link.
"""

from __future__ import annotations

import struct
from typing import Final
from zlib import crc32

from nuntwist.cluster.frame_forms import FrameError
from nuntwist.cluster.frame_kinds import KINDS, Message

__all__ = ["LARGEST", "FrameReader", "Message", "encode"]

LARGEST: Final = (1 << 30) + (1 << 16)
"""Bytes of a body at most: one record of the log, which is sent whole, and what is around it."""

_HEAD = struct.Struct("<IIB")
_LENGTH = struct.Struct("<I")
_KIND_OF: Final = {message: (kind, form) for kind, (message, form) in KINDS.items()}


def encode(message: Message) -> bytes:
    """A message as a frame."""
    kind, form = _KIND_OF[type(message)]
    body = form.encode(message)
    length = _LENGTH.pack(len(body))
    checksum = crc32(body, crc32(bytes((kind,)), crc32(length)))
    frame: bytes = _HEAD.pack(len(body), checksum, kind) + body
    return frame


class FrameReader:
    """Takes the frames out of what comes over a link, in whatever pieces that is.

    :param limit: bytes of a body above which it is none; until then what has come of one is
        kept.
    """

    def __init__(self, limit: int = LARGEST) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self._held = 0
        self._wanted = _HEAD.size

    def feed(self, data: bytes) -> list[Message]:
        """Give the messages that are whole with this.

        :raise FrameError: it is no message; nothing can be read after it.
        """
        self._pieces.append(data)
        self._held += len(data)
        if self._held < self._wanted:
            # Not put together until it is whole: a large one comes in thousands of pieces.
            return []
        buffer, at = b"".join(self._pieces), 0
        found: list[Message] = []
        while len(buffer) - at >= _HEAD.size:
            length, checksum, kind = _HEAD.unpack_from(buffer, at)
            if length > self._limit:
                raise FrameError(f"a frame of {length} bytes; the limit is {self._limit}")
            self._wanted = _HEAD.size + length
            end = at + self._wanted
            if end > len(buffer):
                break
            found.append(_message(length, checksum, kind, buffer[at + _HEAD.size : end]))
            at = end
            self._wanted = _HEAD.size
        rest = buffer[at:]
        self._pieces, self._held = [rest] if rest else [], len(rest)
        return found


def _message(length: int, checksum: int, kind: int, body: bytes) -> Message:
    head = crc32(bytes((kind,)), crc32(_LENGTH.pack(length)))
    if checksum != crc32(body, head):
        raise FrameError("a frame does not match its checksum")
    form = KINDS.get(kind)
    if form is None:
        raise FrameError(f"messages of kind {kind} are not known")
    message: Message = form[1].decode(body)
    return message
