"""Taking the end off a log: operations that the rest of the set has not, and never will have.

They are first copied, on the disk before anything goes, into a file of their own: a segment in
form, though its name says nothing of the index it begins with. Then whole segments go, the last
first, and the one in which the rest begins is truncated. So whatever ends the process, the log
opens, and holds all up to the place of the cut and perhaps the beginning of what was to go. The
same cut again completes it: the file that is there begins with what is left of the tail then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from nuntwist.files import Files, pieces_of, write_durably
from nuntwist.oplog.segment import SEGMENT_HEAD, Segment


class Place(NamedTuple):
    """Where a log is cut.

    :ivar number: of the segment, by rising index; all later ones go.
    :ivar offset: where the first record begins in it that goes.
    :ivar last: the index of the last operation that stays, and ``stamp`` its stamp.
    """

    number: int
    offset: int
    last: int
    stamp: int


def place_after(segments: Sequence[Segment], index: int) -> Place:
    """Find the place after an operation.

    :raise ValueError: it is not the last one of a record.
    :raise CorruptData: the log was damaged since it was checked.
    :raise OSError: it cannot be read.
    """
    for number, segment in enumerate(segments):
        if segment.first <= index <= segment.last:
            return Place(number, *segment.end_of(index))
    if index == segments[0].first - 1:
        return Place(0, len(SEGMENT_HEAD), index, 0)
    raise ValueError(f"no record ends with index {index}")


def keep(files: Files, segments: Sequence[Segment], place: Place, name: str) -> None:
    """Copy what goes into a file; it is on the disk on return.

    :raise ValueError: there is a file of that name, which holds something else.
    :raise OSError: it could not be done; nothing of it is left.
    """
    if name in files.names():
        with files.open_read(name) as file:
            if all(file.read(len(piece)) == piece for piece in _tail(files, segments, place)):
                return
        raise ValueError(f"there is a file {name} already, which holds something else")
    write_durably(files, name, _tail(files, segments, place))


def _tail(files: Files, segments: Sequence[Segment], place: Place) -> Iterator[bytes]:
    yield SEGMENT_HEAD
    begin = place.offset
    for segment in segments[place.number :]:
        yield from pieces_of(files, segment.name, begin, segment.size)
        begin = len(SEGMENT_HEAD)


def cut(
    files: Files, segments: list[Segment], place: Place, gone: Callable[[Segment], object]
) -> None:
    """Take it off; it is on the disk on return.

    :param segments: of the log; in the end its last one is open for appending.
    :param gone: called with each segment whose file is removed.
    :raise OSError: it could not be done; ``segments`` is what is left.
    """
    while len(segments) > place.number + 1:
        files.remove(segments[-1].name)
        gone(segments.pop())
    segments[-1].cut(place.offset, place.last, place.stamp)
