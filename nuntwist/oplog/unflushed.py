"""After a flush that failed: the last segment is written anew before anybody relies on it.

A system that could not write what a file holds says so once. From then on it takes the pages for
written: the file reads well as long as they are in memory, the next flush succeeds, and a loss
of power takes what never was on the disk (Rebello and others, "Can Applications Recover from
fsync Failures?", USENIX ATC 2020). So whoever sees a flush fail leaves an empty file,
``oplog.unflushed``, and a start that finds it copies the last segment, flushes the copy and puts
it in the place of the first. The file need not be flushed itself: where a loss of power takes
it, the pages are gone too.
"""

from __future__ import annotations

from contextlib import suppress

from twisted.logger import Logger

from nuntwist.files import Files, pieces_of, write_durably

_log = Logger()

NAME = "oplog.unflushed"


def note_unflushed(files: Files) -> None:
    """Note that the last segment could not be flushed.

    Where even that cannot be written there is nobody left to tell: the failed flush itself is
    logged, and stops the writing.
    """
    with suppress(OSError):
        files.create(NAME).close()


def write_anew(files: Files, name: str) -> None:
    """Write a segment anew where a flush has failed; it is on the disk on return.

    :param name: of the last segment.
    :raise OSError: it could not be done; all is as it was.
    """
    if NAME not in files.names():
        return
    write_durably(files, name, pieces_of(files, name, 0))
    files.remove(NAME)
    _log.warn(
        "wrote {name} anew, as a flush of it had failed before: what it held in memory might not"
        " have been on the disk",
        name=name,
    )
