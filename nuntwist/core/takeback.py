"""What becomes of operations that the log does not have: they never happened.

What they replaced is put back (:mod:`nuntwist.core.journal`), what they would have sent is
forgotten, and the commands whose answers told of them run once more with every write refused.
Answers that need nothing of what is lost stay. With a log that is durable later, operations can
be lost after others have followed them; those fall with them, the last first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nuntwist.errors import OutcomeUnknown, StorageUnavailable

if TYPE_CHECKING:
    from nuntwist.core.client import Client, Run
    from nuntwist.core.pipeline import Pipeline

RunLines = Callable[["Client", list[bytes]], None]
Runs = list[tuple["Client", list["Run"]]]


class TakeBack:
    """Takes operations back.

    :param pipeline: of which batch, journal and delivery are used.
    :param run_lines: runs commands that are no more than answered: none stands alone.
    """

    def __init__(self, pipeline: Pipeline, run_lines: RunLines) -> None:
        self._pipeline = pipeline
        self._run_lines = run_lines

    def not_written(self, error: StorageUnavailable | OutcomeUnknown) -> None:
        """The log refused the batch under way; the journal has put back what it replaced."""
        reason = self._pipeline.journal.refuse(error)
        self._run_again(self._forget_dirty(), reason)
        self._pipeline.journal.wake()

    def lost(self, error: StorageUnavailable | OutcomeUnknown, first: int) -> bytes:
        """The operations from an index on may not be on the disk: they are taken back.

        :return: the text for their writers.
        """
        journal, delivery = self._pipeline.journal, self._pipeline.delivery
        reason = journal.refuse(error)
        if journal.index >= first:
            journal.cut(first)
            runs = delivery.forget_held(first)
            self._run_again(runs + self._forget_dirty(), reason)
            self._pipeline.commit()
            for client, _ in runs:
                delivery.wake(client)
            journal.wake()
        return reason

    def _forget_dirty(self) -> Runs:
        runs = []
        for client in self._pipeline.dirty:
            runs.append((client, client.chunks))
            client.chunks = []
            client.out.clear()
            client.dirty = False
        self._pipeline.dirty = []
        return runs

    def _run_again(self, runs: Runs, reason: bytes) -> None:
        journal = self._pipeline.journal
        lasting, journal.refusal = journal.refusal, reason
        for client, chunks in runs:
            client.needed = min(client.needed, journal.index)
            for chunk in chunks:
                if isinstance(chunk, bytes):
                    client.out.append(chunk)
                    if not client.dirty:
                        self._pipeline.touch(client)
                else:
                    lines, start, stop = chunk
                    self._run_lines(client, lines[start:stop])
            # What they tell now may need operations that are lost later.
            client.chunks += chunks
        journal.refusal = lasting
