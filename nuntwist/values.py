"""The values that travel the road of a change: operations, epochs, positions and stamps.

An operation is a plain tuple, not an object: a database holds millions of them, one is made
for every write, and the cyclic garbage collector stops looking at exact tuples of bytes and
numbers after it has seen them once (a slotted object it would visit for ever).  The same
tuple is what the log encodes, what ``apply`` takes and what a database keeps as the entry of
the key, so it is made once.  Read its fields through the names below, never by number::

    op[VALUE]     what the key holds from now on; None where it is removed
    op[VERSION]   the version the value has (-2: the key is in conflict resolution)
    op[INDEX]     its place in the log: dense, from 1; 0 for what never was in the log
    op[STAMP]     when it was made, by the hybrid clock below; the OPID of the wire
    op[KIND]      SET, REMOVE, CREATE_DATABASE, DROP_DATABASE, NAME_DATABASE, BEGIN_EPOCH
    op[DATABASE]  the id of the database (the index of the op that created it; ADMIN_ID)
    op[KEY]       the key; the database's name where a database is created, dropped or named

The value of CREATE_DATABASE is ``STRATEGY SP TOKENHASH``; that of NAME_DATABASE is the id of
the database that had the name and is dropped, in decimal, or nothing.  BEGIN_EPOCH changes
nothing: it is the first operation of a new primary of a set.  All texts are UTF-8 bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

Op: TypeAlias = tuple[bytes | None, int, int, int, int, int, bytes]

VALUE: Final = 0
VERSION: Final = 1
INDEX: Final = 2
STAMP: Final = 3
KIND: Final = 4
DATABASE: Final = 5
KEY: Final = 6

SET: Final = 1
REMOVE: Final = 2
CREATE_DATABASE: Final = 3
DROP_DATABASE: Final = 4
NAME_DATABASE: Final = 5
BEGIN_EPOCH: Final = 6

ADMIN_ID: Final = 0
"""The id of the catalogue database ``$admin``, which no op creates."""

IN_RESOLUTION: Final = -2
"""The version of a key whose conflict waits for the arbiter."""


class Epoch(NamedTuple):
    """One reign of one primary; compared number first, then the id of the node that won it."""

    number: int
    node: int


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the log: what a replica has is said with this, never with clock times."""

    epoch: Epoch
    index: int


NO_EPOCH = Epoch(0, 0)
START = Position(NO_EPOCH, 0)

_COUNTER_BITS = 16


def stamp_milliseconds(stamp: int) -> int:
    """The wall time in a stamp, in milliseconds since 1970."""
    return stamp >> _COUNTER_BITS


class StampClock:
    """A hybrid logical clock: 64 bit, unique and rising on a node even when the wall clock
    goes back.

    The upper 48 bits are wall time in milliseconds, the lower 16 a counter; a counter that
    runs over borrows from the next millisecond.  After Kulkarni et al., "Logical Physical
    Clocks" (2014).

    :param wall: gives wall time in seconds since 1970.
    :ivar last: the highest stamp given or seen.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self.last = 0

    def wall(self) -> int:
        """What wall time is as a stamp, whatever was given or seen."""
        return int(self._wall() * 1000.0) << _COUNTER_BITS

    def catch_up(self) -> int:
        """Move to wall time if that is ahead; give the last stamp used.

        The hot road calls this once a chunk and counts on from there by one an operation,
        then stores its last stamp in ``last``: a stamp costs an addition.
        """
        now = int(self._wall() * 1000.0) << _COUNTER_BITS
        if now > self.last:
            self.last = now
        return self.last

    def next(self) -> int:
        """Give a stamp above every one given or seen."""
        self.last = self.catch_up() + 1
        return self.last

    def observe(self, stamp: int) -> None:
        """Take note of a stamp made elsewhere (recovered from the log, sent by a peer)."""
        if stamp > self.last:
            self.last = stamp
