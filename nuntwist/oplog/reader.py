"""Reading the records of one segment: whole and checked ones, then the end or a torn tail.

What a crash leaves at the end of a log is told from damage: a *torn* tail is a record that the
file ends within, its head right or not whole, or nothing but zeros (what some file systems
leave when the power goes). Nobody was told that it was kept. Anything else that does not match
is damage.

The file is read in windows, because a log of a quiet node has one operation a record: two
reads a record would cost more than all else. The first is small, for who looks for one place;
each next one is twice as large, for who reads on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from nuntwist.errors import CorruptData
from nuntwist.oplog.record import HEAD_SIZE, Head, check_body, read_head

WINDOW = 1 << 20
"""Bytes read at once, at most."""
FIRST_WINDOW = 1 << 16
"""Bytes read first."""

Record = tuple[Head, bytes, int]
"""Head, body, and where in the file the record begins."""


def records(file: BinaryIO, name: str, offset: int, size: int) -> Iterator[Record]:
    """Give the whole records of a file.

    :param file: positioned at ``offset``, where a record begins.
    :param name: of the file, for errors.
    :param size: of the file, in bytes; what is appended meanwhile is not looked at.
    :raise CorruptData: at the first record that is damaged.
    """
    window, at = b"", 0
    read = min(FIRST_WINDOW, WINDOW)
    while True:
        if len(window) - at < HEAD_SIZE:
            window, at = window[at:] + file.read(read), 0
            read = min(2 * read, WINDOW)
        if size - offset < HEAD_SIZE or len(window) < HEAD_SIZE:
            return
        try:
            head = read_head(window, at, name, offset)
        except CorruptData:
            if _only_zeros(file, window[at:]):
                return
            raise
        whole = HEAD_SIZE + head.length
        if offset + whole > size:
            return
        if at + whole > len(window):
            wanted = max(read, at + whole - len(window))
            window, at = window[at:] + file.read(wanted), 0
            read = min(2 * read, WINDOW)
        body = window[at + HEAD_SIZE : at + whole]
        check_body(head, body, name, offset)
        yield head, body, offset
        at += whole
        offset += whole


def _only_zeros(file: BinaryIO, piece: bytes) -> bool:
    while piece:
        if piece.count(0) != len(piece):
            return False
        piece = file.read(WINDOW)
    return True
