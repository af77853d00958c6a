"""Where a log begins that is not from the start: the file ``oplog.base``.

A node without files of its own begins with snapshots kept elsewhere. Its log then begins after
the last operation that they hold, and what is between them and it is known not to be missing.
The epoch of that operation is kept too: a log that holds nothing more can still be compared with
that of another node. (The first releases kept the index alone.)
"""

from __future__ import annotations

import re
import zlib

from nuntwist.errors import CorruptData
from nuntwist.files import Files, replace_durably
from nuntwist.values import NO_EPOCH, START, Epoch, Position

NAME = "oplog.base"
_FORM = re.compile(rb"(([0-9]{1,20})(?: ([0-9]{1,20}) ([0-9a-f]{16}))?) ([0-9a-f]{8})\n")
_LONGEST = 128
_END = 1 << 64
"""No number is as high."""


def read_base(files: Files) -> Position:
    """The position after which the log was made to begin; START where nobody did, without an
    epoch where an earlier release did.

    :raise CorruptData: the file is damaged.
    :raise OSError: it cannot be read.
    """
    try:
        file = files.open_read(NAME)
    except FileNotFoundError:
        return START
    with file:
        match = _FORM.fullmatch(file.read(_LONGEST))
    if match is None or int(match[5], 16) != zlib.crc32(match[1]):
        raise CorruptData(NAME, 0, "it does not match its checksum")
    epoch = NO_EPOCH if match[3] is None else Epoch(int(match[3]), int(match[4], 16))
    index = int(match[2])
    if max(index, epoch.number) >= _END:
        raise CorruptData(NAME, 0, "it has a number of more than 64 bits")
    return Position(epoch, index)


def write_base(files: Files, position: Position) -> None:
    """Note it, durably.

    :raise OSError: it could not be written.
    """
    text = b"%d %d %016x" % (position.index, *position.epoch)
    replace_durably(files, NAME, b"%b %08x\n" % (text, zlib.crc32(text)))
