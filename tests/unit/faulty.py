"""A disk whose faults come when they are wanted, threads that run when they are told to, and a
log on both that remembers what it has promised.

:class:`FaultyFiles` fails the n-th call of an operation; where it is a flush, the disk lies from
then on, as real ones do: later flushes of that file succeed and keep nothing.  :class:`Written`
appends batches, each with values of its own, and notes what became of each::

    kept      answered: it must be there after a kill (under ``disk`` after a loss of power too)
    refused   StorageUnavailable: it must never be there
    unknown   OutcomeUnknown, or no answer yet: it may be there, in its place, all of it or nothing
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nuntwist.errors import OutcomeUnknown, StorageUnavailable
from nuntwist.files import MemoryFiles
from nuntwist.interfaces import IOplog, Received
from nuntwist.oplog.flushed import FlushedOplog
from nuntwist.oplog.record import encode
from nuntwist.oplog.segments import FileOplog
from nuntwist.oplog.unflushed import NAME
from nuntwist.values import KEY, Op
from tests.unit.conformance_oplog import EPOCH, all_of, op

DURABILITIES = ("os", "interval", "disk")


class FaultyFiles(MemoryFiles):
    """A directory in memory that fails once, at the calls that are named.

    :ivar calls: how often each operation was begun.
    :ivar faults: the errno for an operation and the number of its call, from 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.faults: dict[tuple[str, int], int] = {}
        self._lying = False
        self._lies: set[int] = set()

    @property
    def has_lied(self) -> bool:
        """Whether a flush may have succeeded that kept nothing."""
        return bool(self._lies)

    def fail_next(self, operation: str, number: int = errno.EIO) -> None:
        """Let the next call of an operation fail."""
        self.faults[operation, self.calls[operation] + 1] = number

    def step(self, operation: str) -> None:
        """Count, and fail where that was asked for."""
        self.calls[operation] += 1
        number = self.faults.pop((operation, self.calls[operation]), None)
        if number is not None:
            self._lying = operation == "sync"
            if not self._lying:
                raise OSError(number, os.strerror(number))
        super().step(operation)

    def note_synced(self, data: bytearray) -> None:
        """Nothing is on the disk of what it has failed to write."""
        if self._lying:
            self._lying = False
            self._lies.add(id(data))
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if id(data) not in self._lies:
            super().note_synced(data)

    def sync_names(self) -> None:
        """Names are never lost here, but this may fail."""
        super().sync_names()
        if self._lying:
            self._lying = False
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _forget(self, name: str) -> None:
        self._lies.discard(id(self.contents.get(name)))
        super()._forget(name)

    def restart(self, *, power_lost: bool = False) -> None:
        """As a new process finds it; nothing fails from here on, but unless the power was lost,
        flushes of a file that once failed still keep nothing.  (Where not even the note of that
        could be written, nothing is promised, so the disk is a good one then.)"""
        super().restart(power_lost=power_lost)
        self.faults.clear()
        self._lying = False
        if power_lost or NAME not in self.contents:
            self._lies.clear()
        self.room = self.at_most = None


class Threads:
    """Runs what is given to it when told to.

    :ivar asked: called when a flush is given to it, and gives what to call if that goes well.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[[], Any], Deferred[Any], Callable[[], None]]] = []
        self.asked: Callable[[], Callable[[], None]] = lambda: lambda: None

    def __call__(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        well = self.asked() if function.__name__ == "sync" else lambda: None
        self.calls.append((lambda: function(*args), done, well))
        return done

    def run(self) -> None:
        """Run the call that has waited longest, if there is one."""
        if not self.calls:
            return
        function, done, well = self.calls.pop(0)
        try:
            result = function()
        except OSError:
            done.errback(Failure())
        else:
            well()
            done.callback(result)

    def run_all(self) -> None:
        """Run all, and what comes of them."""
        while self.calls:
            self.run()


def make_log(
    files: MemoryFiles, durability: str, threads: Callable[..., Deferred[Any]], limit: int
) -> FileOplog | FlushedOplog:
    """A log as a node of that durability has it; not open."""
    log = FileOplog(files, 1, threads, limit)
    return log if durability == "os" else FlushedOplog(log, durability == "disk")


class Written:
    """A log that is written to; see the module's header.

    :ivar became: of each batch so far, in order: kept, refused or unknown.
    :ivar said: what the log said to those it refused, or did not know of.
    :ivar flushed: how many of the first batches a loss of power leaves, at least.
    """

    def __init__(self, durability: str, files: FaultyFiles, limit: int = 3_000) -> None:
        self.durability, self.files, self.limit = durability, files, limit
        self.threads = Threads()
        self.threads.asked = self._asked
        self.log: IOplog = make_log(files, durability, self.threads, limit)
        self.became: list[str] = []
        self.said: dict[int, str] = {}
        self.flushed = 0
        self.log.open()

    def _asked(self) -> Callable[[], None]:
        kept = len(self.became)

        def well() -> None:
            if not self.files.has_lied:
                self.flushed = max(self.flushed, kept)

        return well

    def batch(self, number: int, first: int) -> list[Op]:
        """Two operations that no other batch has."""
        return [
            op(first + place, b"%d %d" % (number, place), b"x" * (7 * number % 50))
            for place in (0, 1)
        ]

    def append(self) -> str:
        """Append a batch; gives what became of it so far."""
        number = len(self.became)
        self.became.append("unknown")
        try:
            durable = self._append(number, self.batch(number, self.log.last.index + 1))
        except (StorageUnavailable, OutcomeUnknown) as error:
            self._note_failed(number, error)
        else:
            if durable is None:
                self.became[number] = "kept"
            else:
                durable.addCallbacks(self._note_kept, self._failed, (number,), {}, (number,))
        return self.became[number]

    def _append(self, number: int, ops: list[Op]) -> Deferred[None] | None:
        if number % 2 == 0:
            done: Deferred[None] | None = self.log.append(EPOCH, ops)
        else:
            # Every other one as if it came from another node.
            done = self.log.append_records([Received(EPOCH, ops, encode(EPOCH, 1, ops))])
        return done

    def _note_kept(self, _: object, number: int) -> None:
        self.became[number] = "kept"

    def _failed(self, reason: Failure, number: int) -> None:
        self._note_failed(number, reason.value)

    def _note_failed(self, number: int, error: BaseException | None) -> None:
        assert isinstance(error, (StorageUnavailable, OutcomeUnknown)), error
        self.became[number] = "refused" if isinstance(error, StorageUnavailable) else "unknown"
        self.said[number] = str(error)

    def go_on(self, batches: int) -> None:
        """Append batches, each flushed where the durability has flushes."""
        for _ in range(batches):
            self.append()
            self.flush()

    def flush(self) -> None:
        """Let all threads run; where that is done every second, a second has gone."""
        if isinstance(self.log, FlushedOplog):
            self.log.flush_now()
        self.threads.run_all()

    def restart(self, power_lost: bool = False) -> list[int]:
        """Go on as a new process, and compare.

        :return: the numbers of the batches that are there.
        """
        self.files.restart(power_lost=power_lost)
        self.threads.calls.clear()
        self.log = make_log(self.files, self.durability, self.threads, self.limit)
        self.log.open()
        found = self.found()
        numbers = range(len(self.became))
        refused = {number for number in numbers if self.became[number] == "refused"}
        assert refused.isdisjoint(found), (refused, found)
        taken = [number for number in numbers if number not in refused]
        assert found == taken[: len(found)], (found, taken)
        kept = [number for number in numbers if self.became[number] == "kept"]
        if power_lost and self.durability != "disk":
            kept = [number for number in kept if number < self.flushed]
        assert set(kept) <= set(found), (kept, found)
        # From here on what was found is all there is.
        self.became = ["kept" if number in found else "refused" for number in numbers]
        self.flushed = len(self.became) if power_lost else self.flushed
        return found

    def found(self) -> list[int]:
        """The numbers of the batches that the log has; each must be there as it was made."""
        ops = all_of(self.log)
        found = [int(one[KEY].split()[0]) for one in ops[::2]]
        for place, number in enumerate(found):
            assert ops[2 * place : 2 * place + 2] == self.batch(number, 2 * place + 1)
        assert len(ops) == 2 * len(found)
        return found
