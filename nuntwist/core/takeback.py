"""What becomes of operations that the log does not have: they never happened.

What they replaced is put back (:mod:`nuntwist.core.journal`), what they would have sent is
forgotten, and the commands whose answers told of them run once more with every write refused.
Answers that need nothing of what is lost stay. With a log that is durable later, operations can
be lost after others have followed them; those fall with them, the last first.

In a set there are two ways more. A node that is no longer primary gives its writers up: what was
held for them becomes ``outcome unknown``, though their operations stay. And what the set does not
have is taken off; what watchers were told of that, they are told anew as it is now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from nuntwist.core.client import Pending, Run
from nuntwist.errors import OutcomeUnknown, StorageUnavailable, TakenBack
from nuntwist.language.replies import failure
from nuntwist.values import REMOVE, Op

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.pipeline import Pipeline

NO_LONGER_PRIMARY = b"outcome unknown: this node is no longer primary"

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
        if isinstance(error, TakenBack):
            return NO_LONGER_PRIMARY
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
            stays = list[Run]()
            for chunk in chunks:
                if isinstance(chunk, bytes):
                    self._put(client, chunk)
                elif isinstance(chunk, Pending):
                    if chunk.needed <= journal.index:
                        client.needed = max(client.needed, chunk.needed)
                        self._put(client, chunk.data)
                    elif chunk.answers:
                        chunk = client.encoding.reply(failure(reason))
                        self._put(client, chunk)
                    else:
                        # Another operation will have its index, and this one never was.
                        continue
                else:
                    lines, start, stop = chunk
                    self._run_lines(client, lines[start:stop])
                stays.append(chunk)
            # What they tell now may need operations that are lost later.
            client.chunks += stays
        journal.refusal = lasting

    def _put(self, client: Client, data: bytes) -> None:
        client.out.append(data)
        if not client.dirty:
            self._pipeline.touch(client)

    # -- in a set ----------------------------------------------------------------------------

    def take_off(self, index: int) -> int:
        """Take back what comes after an index, which the log has no more.

        :return: how many keys are not what clients were told.
        """
        pipeline = self._pipeline
        journal, delivery = pipeline.journal, pipeline.delivery
        revealed = journal.revealed
        journal.said = NO_LONGER_PRIMARY
        concerned = journal.take_off(index)
        runs = delivery.forget_held(index + 1)
        self._run_again(runs + self._forget_dirty(), NO_LONGER_PRIMARY)
        told = 0
        for (database, key), first in concerned.items():
            if first <= revealed:
                told += 1
                gone: Op = (None, -1, 0, 0, REMOVE, database.number, key)
                pipeline.notify(database, database.find(key) or gone)
        pipeline.commit()
        for client, _ in runs:
            delivery.wake(client)
        journal.reveal(index)
        journal.wake()
        return told

    def start_over(self, replace: Callable[[], Callable[[], int]]) -> int:
        """The state becomes another one; the batch must be empty.

        :param replace: makes it so; gives what tells watchers, last, of what is not as they were
            told, and says how many keys that are.
        :return: what that says.
        """
        pipeline = self._pipeline
        pipeline.journal.said = NO_LONGER_PRIMARY
        runs = [
            (client, [one for run in runs if (one := self._of_before(client, run))])
            for client, runs in pipeline.delivery.forget_held(0)
        ]
        tell = replace()
        self._run_again(runs, NO_LONGER_PRIMARY)
        told = tell()
        pipeline.commit()
        for client, _ in runs:
            pipeline.delivery.wake(client)
        pipeline.journal.wake()
        pipeline.journal.let_go()
        return told

    @staticmethod
    def _of_before(client: Client, run: Run) -> Run:
        """What stands for something that was held when the state became another one. Events are
        of what is no more: watchers are told of what is there anew."""
        if not isinstance(run, Pending):
            return run
        return client.encoding.reply(failure(NO_LONGER_PRIMARY)) if run.answers else b""

    def give_up(self) -> None:
        """Tell the writers who wait that the outcome is unknown; the batch must be empty.

        What else is held stays held: events, in their order, and reads.
        """
        pipeline = self._pipeline
        journal, delivery = pipeline.journal, pipeline.delivery
        journal.give_up(NO_LONGER_PRIMARY)
        lasting, journal.refusal = journal.refusal, NO_LONGER_PRIMARY
        for client, runs in delivery.forget_held(0):
            client.needed = min(client.needed, journal.revealed)
            self._answer_anew(client, runs)
            delivery.wake(client)
        journal.refusal = lasting
        for client in pipeline.dirty:
            client.dirty = False
        pipeline.dirty = []

    def _answer_anew(self, client: Client, runs: list[Run]) -> None:
        """Answer as far as may be, all of that at once; before the first answer that is to wait
        stand the events that wait, because it may tell of something later."""
        delivery, revealed = self._pipeline.delivery, self._pipeline.journal.revealed
        events = [run for run in runs if isinstance(run, Pending) and not run.answers]
        ready: list[bytes] = []
        for data, run in self._anew(client, runs):
            if client.needed <= revealed and not client.held:
                ready.append(data)
                continue
            if ready:
                delivery.send(client, b"".join(ready))
                ready = []
            self._hold(client, events, data, [run])
            events = []
        if ready:
            delivery.send(client, b"".join(ready))
        if events:
            self._hold(client, events, b"", [])

    def _anew(self, client: Client, runs: list[Run]) -> Iterator[tuple[bytes, Run]]:
        """Give each answer of now, and what it answers; ``client.needed`` is what it needs."""
        for run in runs:
            if isinstance(run, bytes):
                yield run, run
            elif not isinstance(run, Pending):
                lines, start, stop = run
                for place in range(start, stop):
                    self._run_lines(client, [lines[place]])
                    data = b"".join(client.out)
                    client.out.clear()
                    yield data, (lines, place, place + 1)
            elif run.answers:
                reply = client.encoding.reply(failure(NO_LONGER_PRIMARY))
                yield reply, reply

    def _hold(self, client: Client, events: list[Pending], data: bytes, runs: list[Run]) -> None:
        for event in events:
            client.needed = max(client.needed, event.needed)
        client.chunks = [*events, *runs]
        self._pipeline.delivery.hold(client, b"".join([*(event.data for event in events), data]))
