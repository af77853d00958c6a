"""Cuts what arrives into command texts.

``LineFramer`` serves TCP: one command a line.  It works by the chunk: everything complete in
a chunk is split at once, and the chunk is looked at once, as a whole, for anything the hot
road does not take (see :mod:`nuntwist.core.hotroad`), which is far cheaper than looking at
every line.  ``split_commands`` serves WebSocket frames and HTTP bodies, where ``;`` separates.

A line over the limit is not kept: the framer throws its bytes away until the line ends and
gives ``TOO_LONG`` in its place, so that the error comes in the order of the commands.
"""

from __future__ import annotations

from typing import TypeAlias

TOO_LONG = b"\n"
"""Stands for a line that was over the limit; no real line holds a line end."""


_DOLLAR, _RETURN, _SEMICOLON = b"$\r;"

Chunk: TypeAlias = tuple[list[bytes], bool]
"""The commands of one piece of input, in order, and whether they are plain: no text is other
than valid UTF-8, none ends with ``;`` or a carriage return, and no argument begins with ``$``.
The hot road relies on that. A bare tuple, because one is made for every request."""


def is_plain(data: bytes) -> bool:
    """Whether texts cut from ``data`` at line ends are plain, see :data:`Chunk`."""
    # A number is looked for ten times as fast as bytes of length one.
    if (_DOLLAR in data and b" $" in data) or _RETURN in data:
        return False
    if _SEMICOLON in data and (b";\n" in data or data.endswith(b";")):
        return False
    if data.isascii():
        return True
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


MOST_PARTS = 1_000
"""Pieces in which an unfinished line is kept."""


class LineFramer:
    """Collects lines.

    :param limit: how many bytes a line may have, its end not counted.
    :ivar pending: how many bytes of an unfinished line are kept.
    :ivar begun: whether a line has begun and not ended, kept or thrown away.
    """

    __slots__ = ("_limit", "_overlong", "_parts", "begun", "pending")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._overlong = self.begun = False
        self.pending = 0

    def feed(self, data: bytes) -> Chunk | None:
        """Take what arrived.

        :return: the lines that are complete by now; None where none is.
        """
        end = data.rfind(b"\n")
        if 0 <= end == len(data) - 1 <= self._limit and not self._parts and not self._overlong:
            # Whole lines and nothing else, as nearly always.
            return data[:end].split(b"\n"), is_plain(data)
        if end < 0:
            self._keep(data)
            return None
        complete = data[:end]
        if self._parts or self._overlong:
            return self._after_partial(complete, data[end + 1 :])
        if end + 1 < len(data):
            self._keep(data[end + 1 :])
        lines = complete.split(b"\n")
        if end > self._limit:
            lines = [line if len(line) <= self._limit else TOO_LONG for line in lines]
        return lines, is_plain(complete)

    def _after_partial(self, complete: bytes, tail: bytes) -> Chunk:
        overlong = self._overlong
        complete = b"".join([*self._parts, complete])
        self._parts, self._overlong, self.pending = [], False, 0
        self.begun = False
        if tail:
            self._keep(tail)
        lines = [line if len(line) <= self._limit else TOO_LONG for line in complete.split(b"\n")]
        if overlong:
            lines[0] = TOO_LONG
        return lines, not overlong and is_plain(complete)

    def _keep(self, data: bytes) -> None:
        self.begun = True
        if self._overlong:
            return
        self._parts.append(data)
        if len(self._parts) > MOST_PARTS:
            # Of one byte each they would take forty times what they hold.
            self._parts = [b"".join(self._parts)]
        self.pending += len(data)
        if self.pending > self._limit:
            self._parts, self._overlong, self.pending = [], True, 0


def split_commands(text: bytes) -> list[bytes]:
    """Cut a WebSocket message or an HTTP body into its commands, empty ones left out.

    Line ends are removed: a value is one line.
    """
    if b"\n" in text:
        text = text.replace(b"\r\n", b"").replace(b"\n", b"")
    if b";" not in text:
        return [text] if text.strip(b" ") else []
    return [part for part in text.split(b";") if part.strip(b" ")]
