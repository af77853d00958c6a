"""What a primary and a secondary say to each other about the log.

Each message carries the *number* of the epoch that the primary serves.

============  ====================================================================================
``Have``      secondary: my log ends here, and these are its epochs
``Cut``       primary: what you have after this index is not of the set's log, take it off
``Records``   primary: these records follow on that position, and a majority has all up to there
``Applied``   secondary: I have all up to this index, and all up to that one on the disk
``Refused``   secondary: that does not follow on what I have
``Idle``      either: I have nothing to say, and am here
============  ====================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nuntwist.values import Epoch, Position

REIGNS: Final = 64
"""How many epochs of its log a secondary tells, at most: one more each time a node was started
or elected. Where the logs part earlier than that, all is copied."""


@dataclass(frozen=True, slots=True)
class Have:
    """:ivar position: where the log ends.
    :ivar reigns: its last epochs, rising, each with the index of its first operation.
    """

    number: int
    position: Position
    reigns: tuple[tuple[Epoch, int], ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """:ivar index: the last index that stays."""

    number: int
    index: int


@dataclass(frozen=True, slots=True)
class Records:
    """:ivar before: what the first record follows on.
    :ivar committed: a majority has all up to this index.
    :ivar data: whole records as they stand in the log; nothing, to tell of ``committed`` alone.
    """

    number: int
    before: Position
    committed: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Applied:
    """:ivar index: the last one that is in the log.
    :ivar durable: the last one that is on the disk, as far as it is known.
    """

    number: int
    index: int
    durable: int


@dataclass(frozen=True, slots=True)
class Refused:
    """:ivar position: where the log of the sender ends."""

    number: int
    position: Position


@dataclass(frozen=True, slots=True)
class Idle:
    """:ivar number: of no meaning."""

    number: int = 0
