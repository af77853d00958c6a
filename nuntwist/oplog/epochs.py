"""Which epoch each operation of a log is of: where each epoch begins, and no more.

Epochs rise along a log, so a row of (first index, epoch) tells it for every index, and finding
it is a bisection. A node has a new epoch each time it starts or an election is held, so the row
stays short; what the log no longer holds is dropped from it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from nuntwist.values import Epoch


class Epochs:
    """The epochs of one log.

    :ivar newest: of the last operation; None where that is not known.
    """

    def __init__(self) -> None:
        self.newest: Epoch | None = None
        self._firsts: list[int] = []
        self._epochs: list[Epoch] = []

    def note(self, epoch: Epoch, first: int) -> None:
        """The operations from an index on are of an epoch."""
        if epoch != self.newest:
            self._firsts.append(first)
            self._epochs.append(epoch)
            self.newest = epoch

    def at(self, index: int) -> Epoch | None:
        """The epoch of an operation; None for what is before all that was noted."""
        place = bisect_right(self._firsts, index)
        return self._epochs[place - 1] if place else None

    def cut(self, index: int) -> None:
        """Operations after an index are gone."""
        place = bisect_right(self._firsts, index)
        del self._firsts[place:], self._epochs[place:]
        self.newest = self._epochs[-1] if place else None

    def forget(self, before: int) -> None:
        """Operations before an index are gone; that of the one before it is still known."""
        place = bisect_right(self._firsts, before - 1)
        if place > 1:
            del self._firsts[: place - 1], self._epochs[: place - 1]

    def latest(self, count: int) -> Sequence[tuple[Epoch, int]]:
        """The last epochs, rising, each with the index of its first operation, as far as the
        log still holds it."""
        return tuple(zip(self._epochs[-count:], self._firsts[-count:], strict=True))
