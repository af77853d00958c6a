"""Those who wait until the log has come as far as an index."""

from __future__ import annotations

from typing import NamedTuple

from twisted.internet.defer import Deferred

from nuntwist.errors import StorageUnavailable

GONE = "storage unavailable: the log failed"


class _One(NamedTuple):
    up_to: int
    done: Deferred[None]
    writer: bool


class Waiting:
    """A list of them. Who gives up waiting may fire the Deferred it got."""

    def __init__(self) -> None:
        self._waiting: list[_One] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def wait(self, index: int, reached: int, last: int, writer: bool = False) -> Deferred[None]:
        """Wait for an index.

        :param reached: the index that is reached already.
        :param last: of the last operation there is.
        :param writer: whether the one who waits has made it.
        :return: fires with None when it is reached; fails with StorageUnavailable where it will
            not be, as the operation is no more.
        """
        done: Deferred[None] = Deferred()
        if index <= reached:
            done.callback(None)
        elif index > last:
            done.errback(StorageUnavailable(GONE))
        else:
            self._waiting.append(_One(index, done, writer))
        return done

    def tell(self, reached: int, last: int) -> None:
        """Tell those who have waited long enough, or in vain."""
        waiting, self._waiting = self._waiting, []
        left = []
        for one in waiting:
            if one.done.called:
                continue
            if one.up_to <= reached:
                one.done.callback(None)
            elif one.up_to <= last:
                left.append(one)
            else:
                one.done.errback(StorageUnavailable(GONE))
        # Those who were told may wait for something else by now.
        self._waiting = left + self._waiting

    def fail_writers(self, why: str) -> None:
        """Let those who have made what they wait for wait no longer."""
        writers = [one.done for one in self._waiting if one.writer and not one.done.called]
        self._waiting = [one for one in self._waiting if not one.writer]
        for done in writers:
            done.errback(StorageUnavailable(why))
