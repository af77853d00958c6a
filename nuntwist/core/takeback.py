"""What becomes of a batch that the log does not have: it never happened.

What it replaced is put back (:mod:`nuntwist.core.journal`), what it would have sent is
forgotten, and its commands run once more with every write refused. With a log that is durable
later, a batch can be lost after others have followed it; those fall with it, the last first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.python.failure import Failure

from nuntwist.core.journal import Batch
from nuntwist.errors import OutcomeUnknown, StorageUnavailable

if TYPE_CHECKING:
    from nuntwist.core.client import Client, Run
    from nuntwist.core.pipeline import Pipeline

RunLines = Callable[["Client", list[bytes]], None]


class TakeBack:
    """Takes batches back.

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

    def lost(self, reason: Failure) -> None:
        """A batch may not be on the disk: it and all after it are taken back."""
        error = reason.value
        if not isinstance(error, (StorageUnavailable, OutcomeUnknown)):
            reason.raiseException()
        journal = self._pipeline.journal
        text = journal.refuse(error)
        if journal.ops:
            journal.in_flight.append(Batch(journal.ops, journal.replaced))
            journal.ops, journal.replaced = [], []
        batches = list(journal.in_flight)
        journal.in_flight.clear()
        if not batches:
            return
        batches[-1].runs += self._forget_dirty()
        self._pipeline.delivery.forget_held()
        for batch in reversed(batches):
            journal.take_back(batch.ops, batch.replaced)
        for batch in batches:
            self._run_again(batch.runs, text)
        self._pipeline.commit()

    def _forget_dirty(self) -> list[tuple[Client, list[Run]]]:
        runs = []
        for client in self._pipeline.dirty:
            runs.append((client, client.chunks))
            client.chunks = []
            client.out.clear()
            client.dirty = False
        self._pipeline.dirty = []
        return runs

    def _run_again(self, runs: list[tuple[Client, list[Run]]], reason: bytes) -> None:
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
            client.chunks = []
        journal.refusal = lasting
