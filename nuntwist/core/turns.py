"""Shares a node's time: how long a turn runs commands, and who waits for the next one.

A turn is one round of the reactor. The first command of a turn asks to be called at the end of
the round, when all that was there is read; that is where the batch is committed. A turn that
has run for ``Limits.turn_seconds`` runs no further commands: whoever comes later waits in line
with its backlog, so no connection's thousands hold up the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.logger import Logger

from nuntwist.core.client import Client


class Turns:
    """Opens and ends turns. An error in the commands of a client ends its connection.

    :param call_at_end: makes a call when the reactor has read all that is there.
    :param seconds: monotonic time, in seconds.
    :param share: how long a turn may run commands, in seconds.
    :param commit: called at the end of each turn.
    :param resume: called with a client whose backlog may be run.
    """

    _log = Logger()

    def __init__(
        self,
        call_at_end: Callable[[Callable[[], None]], object],
        seconds: Callable[[], float],
        share: float,
        commit: Callable[[], bool],
        resume: Callable[[Client], None],
    ) -> None:
        self._call_at_end = call_at_end
        self._seconds = seconds
        self._share = share
        self._commit = commit
        self._resume = resume
        self._line: deque[Client] = deque()
        self._open = False
        self._until = 0.0

    def open(self) -> None:
        """Make sure that a turn is open, and so that its end will come."""
        if not self._open:
            self._open = True
            self._until = self._seconds() + self._share
            self._call_at_end(self._end)

    def has_run_out(self) -> bool:
        """Whether the turn under way has run long enough."""
        return self._open and self._seconds() > self._until

    def enqueue(self, client: Client) -> None:
        """Let a client's backlog be run, in this turn's end or a later one."""
        if not client.queued:
            client.queued = True
            self._line.append(client)
        self.open()

    def _end(self) -> None:
        self._open = False
        more = self._commit()
        if self._line:
            self.open()
        for _ in range(len(self._line)):
            if self.has_run_out():
                break
            client = self._line.popleft()
            client.queued = False
            try:
                self._resume(client)
            except Exception:
                # As where it comes with the bytes: logged, and the end of that connection alone.
                # It would wait for an answer for ever, and others for their turn.
                self._log.failure("a command failed in a way nobody foresaw")
                client.outlet.abort("internal error")
        if more or self._line:
            self.open()
