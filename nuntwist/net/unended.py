"""What one connection has begun to send and not ended: a line over TCP, a message over WebSocket.

It has a time in which it is to end (:mod:`nuntwist.net.patience`), and where it is long it counts
in the sum of all (:mod:`nuntwist.net.unfinished`). Its time runs only while the other side could
end it::

    nothing ──some came──▶ timed ──it ended──▶ nothing, or timed anew where more came behind it
                            │ ▲
              it is not read│ │ it is read again: the whole time once more
                            ▼ │
                           ours

While what it has sent before is under way its time is not over either: that is answered first.
"""

from __future__ import annotations

from typing import Protocol

from nuntwist.core.client import Client
from nuntwist.net.outlet import is_busy
from nuntwist.net.patience import Hurried, Patience
from nuntwist.net.unfinished import SMALL, Sender, Unfinished


class Connection(Hurried, Sender, Protocol):
    """Whose it is."""


class Unended:
    """See the module's header.

    :param commands: gives it its time.
    :param unfinished: sums up what is long.
    :ivar noted: whether it is timed, or in the sum, and has to be told when it has ended.
    :ivar not_read: whether the connection is not read: that nothing ends is due to us.
    """

    __slots__ = ("_commands", "_in_sum", "_timed", "_unfinished", "_who", "not_read", "noted")

    def __init__(self, who: Connection, commands: Patience, unfinished: Unfinished) -> None:
        self._who = who
        self._commands = commands
        self._unfinished = unfinished
        self._timed = self._in_sum = self.noted = self.not_read = False

    def note(self, begun: bool, anew: bool, size: int) -> None:
        """Something has come.

        :param begun: whether something has begun that the other side has to end.
        :param anew: whether what had begun before, if anything had, has ended.
        :param size: bytes that are held of what is not whole.
        """
        if not begun:
            self._commands.forget(self._who)
        elif anew or not self._timed:
            self._commands.begin(self._who)
        self._timed = begun
        if self._in_sum or size > SMALL:
            self._in_sum = self._unfinished.note(self._who, size)
        self.noted = begun or self._in_sum

    def pause(self) -> None:
        """The connection is not read from now on."""
        self.not_read = True

    def resume(self) -> None:
        """It is read again, if it was not."""
        if self.not_read:
            self.not_read = False
            if self._timed:
                self._commands.begin(self._who)

    def waits_for_us(self, client: Client) -> bool:
        """Whether it is not over though its time is: where the connection is not read
        :meth:`resume` gives it its time anew, where it is busy it has it from now on."""
        if self.not_read:
            return True
        if is_busy(client):
            self._commands.begin(self._who)
            return True
        return False
