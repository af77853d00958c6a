"""Where a log begins that is not from the start: the file ``oplog.base``.

A node without files of its own begins with snapshots kept elsewhere. Its log then begins after
the last operation that they hold, and what is between them and it is known not to be missing.
"""

from __future__ import annotations

import re
import zlib

from nuntwist.errors import CorruptData
from nuntwist.files import Files, replace_durably

NAME = "oplog.base"


def read_base(files: Files) -> int:
    """The index after which the log was made to begin; 0 where nobody did.

    :raise CorruptData: the file is damaged.
    :raise OSError: it cannot be read.
    """
    try:
        file = files.open_read(NAME)
    except FileNotFoundError:
        return 0
    with file:
        match = re.fullmatch(rb"([0-9]{1,20}) ([0-9a-f]{8})\n", file.read(64))
    if match is None or int(match[2], 16) != zlib.crc32(match[1]):
        raise CorruptData(NAME, 0, "it does not match its checksum")
    return int(match[1])


def write_base(files: Files, index: int) -> None:
    """Note it, durably.

    :raise OSError: it could not be written.
    """
    text = b"%d" % index
    replace_durably(files, NAME, b"%b %08x\n" % (text, zlib.crc32(text)))
