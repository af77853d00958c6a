"""A node in memory whose threads do what they are asked for when they are told to."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, execute

from nuntwist.core.limits import Limits
from nuntwist.files import MemoryFiles
from nuntwist.interfaces import IOplog
from nuntwist.oplog.flushed import FlushedOplog
from nuntwist.oplog.segments import FileOplog
from nuntwist.testing import LineConnection, MemoryNode

BROKEN = "error outcome unknown: Input/output error \n"
FULL = "error storage unavailable: No space left on device \n"


class Threads:
    """Runs functions at once, or keeps them while ``hold`` is set."""

    def __init__(self) -> None:
        self.hold = False
        self._kept: list[tuple[Deferred[Any], Callable[..., Any], tuple[Any, ...]]] = []

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        if not self.hold:
            return execute(function, *arguments)
        done: Deferred[Any] = Deferred()
        self._kept.append((done, function, arguments))
        return done

    def run_one(self, place: int = 0) -> None:
        """Let the first do its work, or another one."""
        done, function, arguments = self._kept.pop(place)
        execute(function, *arguments).addBoth(done.callback)

    def fail_one(self) -> None:
        """Let the first fail."""
        done, _, _ = self._kept.pop(0)
        done.errback(OSError(errno.EIO, "Input/output error"))

    @property
    def busy(self) -> bool:
        """Whether any is kept."""
        return bool(self._kept)


class LateNode(MemoryNode):
    """A node with the database ``d`` whose flushes wait to be told.

    :param durability: ``os``, ``interval`` or ``disk``.
    :param strategy: of the database.
    """

    def __init__(
        self, durability: str = "disk", limits: Limits | None = None, strategy: str = "none"
    ) -> None:
        self.files = MemoryFiles()
        self.threads = Threads()
        self.log: IOplog = FileOplog(self.files, 1, self.threads)
        if durability != "os":
            self.log = FlushedOplog(self.log, durability == "disk")
        super().__init__(self.log, limits=limits)
        self.admin(f"create-db d t {strategy}", "use-db d t", "set a 1")

    def user(self) -> LineConnection:
        """A connection that has selected ``d``."""
        client = self.tcp()
        assert client.ask("use-db d t") == "ok \n"
        return client

    def hold(self) -> None:
        """From now on flushes wait."""
        self.threads.hold = True

    def flush(self) -> None:
        """Let all flushes be done."""
        while self.threads.busy:
            self.threads.run_one()
            self.settle()
        self.settle()

    def break_flush(self) -> None:
        """Let the flush under way fail."""
        self.threads.fail_one()
        self.settle()
