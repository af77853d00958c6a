"""Turns outcomes and events into the bytes of the classic dialect, for each transport.

A command gives messages and then one closing line.  An :class:`Encoding` knows how these are
laid on a transport: as lines (TCP), as a text frame each (WebSocket), or as atoms that the
HTTP resource picks the first message of a command from.  Encodings are singletons without
state; an event is encoded once for all watchers of one encoding.

Frames are those of RFC 6455 from a server: final, text, not masked.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

HIDDEN = b"<hidden>"
EMPTY = b"<Empty>"


class Reply(NamedTuple):
    """What a command led to.

    :ivar messages: in order, each with its line end.
    :ivar error: the MSG of the closing line, or None where that is ``ok``.
    """

    messages: tuple[bytes, ...] = ()
    error: bytes | None = None


OK = Reply()
VALID = Reply((b"valid auth\n",))
INVALID = Reply((b"invalid auth\n",))
STILL_VALID = Reply((b"valid auth\n",))
"""To a wrong ``auth`` of a connection that is an admin's already; the audit tells the two apart."""
NO_DATABASE = Reply((b"error no-db-selected\n",), b"error no-db-selected\n")
DENIED = Reply((b"permission denied\n",), b"permission denied\n")
NOT_ADMIN = Reply(error=b"Not auth")
SECURE_KEY = Reply(error=b"To read security keys you must auth as an admin!")
TOO_LONG_MESSAGE = b"command too long: the limit is %d bytes"


def failure(message: bytes) -> Reply:
    """A reply that is an error and nothing else."""
    return Reply(error=message)


class Encoding(Protocol):
    """How messages, closing lines and events are laid on one kind of transport."""

    ok: bytes
    """A closing line ``ok``."""

    def message_head(self, length: int) -> bytes:
        """What goes before a message of that many bytes."""

    def reply(self, reply: Reply) -> bytes:
        """A whole reply."""

    def changed(self, key: bytes, value: bytes, version: int) -> bytes:
        """The event of a change."""

    def removed(self, key: bytes) -> bytes:
        """The event of a removal."""


class LineEncoding:
    """TCP: every message as it stands."""

    ok = b"ok \n"

    def message_head(self, length: int) -> bytes:
        """Nothing: a line needs no head."""
        return b""

    def reply(self, reply: Reply) -> bytes:
        """Messages, then the closing line."""
        closing = self.ok if reply.error is None else b"error %b \n" % reply.error
        return b"".join([*reply.messages, closing])

    def changed(self, key: bytes, value: bytes, version: int) -> bytes:
        """Both lines in one write."""
        return b"changed %b %b\nchanged-version %b %d %b\n" % (key, value, key, version, value)

    def removed(self, key: bytes) -> bytes:
        """One line."""
        return b"removed %b\n" % key


def frame_head(length: int) -> bytes:
    """The head of a final, unmasked text frame with ``length`` bytes of payload."""
    if length < 126:
        return SMALL_HEADS[length]
    if length < 65536:
        return b"\x81\x7e" + length.to_bytes(2, "big")
    return b"\x81\x7f" + length.to_bytes(8, "big")


SMALL_HEADS = [bytes((0x81, n)) for n in range(126)]


def frame(payload: bytes) -> bytes:
    """A final, unmasked text frame."""
    return frame_head(len(payload)) + payload


class FrameEncoding:
    """WebSocket: a text frame for every message and for the closing line."""

    ok = frame(b"ok \n")

    def message_head(self, length: int) -> bytes:
        """The head of one frame."""
        return frame_head(length)

    def reply(self, reply: Reply) -> bytes:
        """A frame a message, then one for the closing line."""
        closing = self.ok if reply.error is None else frame(b"error %b \n" % reply.error)
        if not reply.messages:
            return closing
        return b"".join([*map(frame, reply.messages), closing])

    def changed(self, key: bytes, value: bytes, version: int) -> bytes:
        """Two frames in one write."""
        return frame(b"changed %b %b\n" % (key, value)) + frame(
            b"changed-version %b %d %b\n" % (key, version, value)
        )

    def removed(self, key: bytes) -> bytes:
        """One frame."""
        return frame(b"removed %b\n" % key)


_MESSAGE, _END, _FAILED = b"m", b".", b"e"


def _atom(kind: bytes, text: bytes = b"") -> bytes:
    return kind + len(text).to_bytes(8, "big") + text


class AtomEncoding:
    """HTTP: atoms (kind, length, text) for :func:`first_messages` to read."""

    ok = _atom(_END)

    def message_head(self, length: int) -> bytes:
        """The head of a message atom."""
        return _MESSAGE + length.to_bytes(8, "big")

    def reply(self, reply: Reply) -> bytes:
        """An atom a message, then one that closes the command."""
        closing = self.ok if reply.error is None else _atom(_FAILED, reply.error)
        return b"".join([*(_atom(_MESSAGE, m) for m in reply.messages), closing])

    def changed(self, key: bytes, value: bytes, version: int) -> bytes:
        """The first event only: HTTP shows no more than that."""
        return _atom(_MESSAGE, b"changed %b %b\n" % (key, value))

    def removed(self, key: bytes) -> bytes:
        """One atom."""
        return _atom(_MESSAGE, b"removed %b\n" % key)


def first_messages(data: bytes) -> list[bytes]:
    """Read atoms: for every closed command its first message, ``empty``, or its error."""
    parts: list[bytes] = []
    first: bytes | None = None
    at, end = 0, len(data)
    while at < end:
        kind = data[at : at + 1]
        length = int.from_bytes(data[at + 1 : at + 9], "big")
        text = data[at + 9 : at + 9 + length]
        at += 9 + length
        if kind == _MESSAGE:
            first = text if first is None else first
            continue
        if first is None:
            first = text if kind == _FAILED else b"empty"
        parts.append(first)
        first = None
    return parts


LINES = LineEncoding()
FRAMES = FrameEncoding()
ATOMS = AtomEncoding()
