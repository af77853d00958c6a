"""Backups and restores under way: each has a number, under which its pieces are asked for.

Pieces travel as commands, so that every transport carries them, nobody but an admin moves any,
and who is slow holds up nobody: a backup makes the next piece when it is asked for, a restore
takes the next when the last is in the log. One of which nothing was heard for a while is given
up, and so is one that fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from twisted.logger import Logger

from nuntwist.errors import CommandError

IDLE_SECONDS = 60.0
"""How long one may be left alone."""
AT_ONCE = 4
"""How many of a kind there may be."""


class Transfer(Protocol):
    """A backup or a restore."""

    def close(self) -> None:
        """Give up what is not done, free what is held."""


_T = TypeVar("_T", bound=Transfer)


class Transfers(Generic[_T]):
    """Those of one kind.

    :param kind: ``backup`` or ``restore``, for error texts.
    :param call_later: IReactorTime.callLater.
    """

    _log = Logger()

    def __init__(self, kind: str, call_later: Callable[..., Any]) -> None:
        self._kind = kind
        self._call_later = call_later
        self._last = 0
        self._under_way: dict[int, tuple[_T, Any]] = {}

    def check_room(self) -> None:
        """Refuse another one where there are too many.

        :raise CommandError: there are.
        """
        if len(self._under_way) >= AT_ONCE:
            raise CommandError(f"too many {self._kind}s at once".encode())

    def add(self, transfer: _T) -> int:
        """Take one in; gives its number."""
        self._last += 1
        self._under_way[self._last] = (transfer, self._timer(self._last))
        return self._last

    def find(self, number: int) -> _T:
        """Give one, and let it live on.

        :raise CommandError: there is none of that number.
        """
        found = self._under_way.get(number)
        if found is None:
            raise CommandError(f"no such {self._kind}".encode())
        transfer, timer = found
        timer.cancel()
        self._under_way[number] = (transfer, self._timer(number))
        return transfer

    def drop(self, number: int) -> None:
        """End one, done or not; one that is not there is fine."""
        found = self._under_way.pop(number, None)
        if found is not None:
            transfer, timer = found
            if timer.active():
                timer.cancel()
            transfer.close()

    def drop_all(self) -> None:
        """End all: the node stops."""
        for number in tuple(self._under_way):
            self.drop(number)

    def _timer(self, number: int) -> Any:
        return self._call_later(IDLE_SECONDS, self._expire, number)

    def _expire(self, number: int) -> None:
        self._log.warn(
            "{kind} {number} was given up: nothing was heard of it for {seconds:g} s",
            kind=self._kind,
            number=number,
            seconds=IDLE_SECONDS,
        )
        self.drop(number)
