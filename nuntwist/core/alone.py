"""Commands that stand alone: they wait for something, or change what the connection is.

Such a command is run when all that its connection sent before is answered, because what is not
answered yet may have to be run once more (:mod:`nuntwist.core.takeback`), and would mean
something else after it. It is in no batch with others, and is answered when its own operations
are durable; the commands after it wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.core.client import Client, Pending
from nuntwist.core.scan import Listing
from nuntwist.core.takeback import NO_LONGER_PRIMARY
from nuntwist.errors import CommandError
from nuntwist.language import parser
from nuntwist.language.replies import Reply, failure

if TYPE_CHECKING:
    from nuntwist.core.deciding import Outcome
    from nuntwist.core.pipeline import Pipeline


def stands_alone(request: parser.Request) -> bool:
    """Whether a command is never in one batch with others: it may wait, or changes what the
    connection is. A write to a secure key may wait for a hash."""
    command = request.command
    if command.waits or not (command.right and command.writes):
        return command.waits
    key = request.arguments[0]
    return isinstance(key, bytes) and key.startswith(b"$$")


class Alone:
    """Runs commands that stand alone."""

    _log = Logger()

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def run(self, client: Client, request: parser.Request) -> None:
        """Run a command, now or when all before it is answered; the batch must be empty."""
        self.when_answered(client, lambda: self._answer(client, request))

    def when_answered(self, client: Client, act: Callable[[], None]) -> None:
        """Change what a connection is, now or when all before that is answered; the batch must be
        empty, and commands after it wait."""
        if not client.held:
            act()
            return
        client.waiting = True

        def go_on(_: object) -> None:
            client.waiting = False
            if client.closed:
                return
            self._pipeline.commit()
            act()
            if not client.waiting:
                self._pipeline.turns.enqueue(client)

        answered: Deferred[None] = Deferred()
        answered.addCallback(go_on)
        answered.addErrback(self._unforeseen)
        drained = self._pipeline.delivery.drained(client)
        drained.addCallback(lambda _: answered.callback(None))

    def _answer(self, client: Client, request: parser.Request) -> None:
        writes, concerns = request.command.writes, self._pipeline.concerns
        if client.careful and not writes and request.command.right and client.linearizable:
            self._read_late(client, request)
            return
        outcome = self._pipeline.deciding.outcome(client, request)
        if client.careful and writes and concerns.holds(client, writes):
            outcome = concerns.outcome(client, outcome)
            writes = False
        self.answer(client, outcome, writes)

    def _read_late(self, client: Client, request: parser.Request) -> None:
        """Read when what is here is new enough."""

        def read(_: object) -> Any:
            # The batch under way would be taken back if it could not be logged, and the answer
            # to this would tell of it all the same.
            self._pipeline.commit()
            outcome = self._pipeline.deciding.outcome(client, request)
            if isinstance(outcome, Listing):
                return self._pipeline.streams.write(client, outcome)
            return outcome

        confirmed = self._pipeline.concerns.confirmed()
        self.answer(client, confirmed.addCallback(read), False, True)

    def answer(self, client: Client, outcome: Outcome, writes: bool, reads: bool = False) -> None:
        """Answer a command that was decided, when clients may know what it led to.

        :param writes: whether it can change data.
        :param reads: whether it tells data, and cannot be run once more.
        """
        if isinstance(outcome, Reply) and self._pipeline.journal.ops:
            outcome = self._logged(outcome)
        if isinstance(outcome, Reply):
            self._answer_now(client, outcome, writes or reads)
            return
        client.waiting = True
        streams = self._pipeline.streams
        answered: Deferred[Any] = (
            streams.write(client, outcome) if isinstance(outcome, Listing) else outcome
        )
        answered.addErrback(self._unforeseen)
        answered.addCallback(self._answer_late, client, writes, reads)

    def _logged(self, reply: Reply) -> Reply | Deferred[Reply]:
        """The answer to a command whose operations are the batch, when the log has them."""
        journal = self._pipeline.journal
        index, undone = journal.index, journal.undone
        self._pipeline.commit()
        if journal.undone != undone:
            return failure(journal.said)
        if index <= journal.revealed:
            return reply
        logged: Deferred[Any] = journal.durable(index, writer=True)
        return logged.addCallbacks(lambda _: reply, lambda _: failure(journal.said))

    def _unforeseen(self, reason: Failure) -> Reply:
        error = reason.value
        if isinstance(error, CommandError):
            return failure(error.message)
        self._log.failure("a command failed in a way nobody foresaw", failure=reason)
        return failure(b"internal error: see the log of the node")

    def _answer_late(self, reply: Reply | None, client: Client, writes: bool, reads: bool) -> None:
        client.waiting = False
        if client.closed:
            return
        journal = self._pipeline.journal
        # An operation that was lost meanwhile is nothing to wait for.
        client.needed = min(client.needed, journal.index)
        self._pipeline.commit()
        if reply is not None:
            if writes and reply.error is None and journal.undo is not None:
                # Its operation may have been made after a wait; this one or an earlier it is.
                client.needed = max(client.needed, min(journal.alone_index, journal.index))
                if journal.refusal is not None and client.needed > journal.revealed:
                    reply = failure(NO_LONGER_PRIMARY)
            self._answer_now(client, reply, writes or reads)
        self._pipeline.turns.enqueue(client)

    def _answer_now(self, client: Client, reply: Reply, tells: bool) -> None:
        self._pipeline.answer(client, reply)
        data, journal = client.out[-1], self._pipeline.journal
        # Not even its loss may show what was never revealed.
        waits = tells and client.needed > journal.revealed and journal.undo is not None
        self._pipeline.keep(client, Pending(client.needed, data, True) if waits else data)
        self._pipeline.commit()
