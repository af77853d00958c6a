"""What one command leads to, without its answer being sent: parse → authorise → decide.

    a text ──parse──▶ a request ──rights──▶ ──are writes taken?──▶ its handler ──▶ outcome
               │                   │                │                   │
               └── an error        └── an error     └── an error        └── an error

The outcome of a handler is a reply, a listing that is written in slices, or a Deferred of a reply
where it waits. Handlers raise CommandError for what cannot be done; nothing has changed then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from nuntwist.core.audit import Audit
from nuntwist.core.authorise import refusal_of
from nuntwist.core.client import Client
from nuntwist.core.scan import Listing
from nuntwist.errors import CommandError
from nuntwist.language import parser
from nuntwist.language.commands import Command
from nuntwist.language.framing import TOO_LONG
from nuntwist.language.replies import TOO_LONG_MESSAGE, Reply, failure

if TYPE_CHECKING:
    from nuntwist.core.pipeline import Pipeline

Outcome = Reply | Listing | Deferred[Reply]
Handler = Callable[[Client, Any], Outcome]


class Deciding:
    """See the module's header.

    :param pipeline: of which the limit of a line, the journal and the forwarder are used.
    :ivar handlers: what each command does, by its word in the command table; filled in by
        :mod:`nuntwist.core.node`.
    :ivar audit: is told what admins do and who logs in; None for nobody.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._journal = pipeline.journal
        self.handlers: dict[str, Handler] = {}
        self.audit: Audit | None = None

    def parse(self, line: bytes) -> parser.Request | Reply:
        """A command as it was sent, or the error that answers it."""
        if line == TOO_LONG:
            return failure(TOO_LONG_MESSAGE % self._pipeline.limits.line)
        try:
            return parser.parse(line)
        except CommandError as error:
            return failure(error.message)

    def outcome(self, client: Client, request: parser.Request) -> Outcome:
        """Authorise and decide."""
        command = request.command
        outcome: Outcome | None = refusal_of(client, command, request.arguments)
        if outcome is None and command.writes and command.word != "rp":
            # What rp carries is looked at by itself.
            outcome = None if self._journal.refusal is None else failure(self._refusal(command))
        if outcome is None:
            outcome = self._decide(client, request)
        return outcome if self.audit is None else self.audit.outcome(client, request, outcome)

    def _decide(self, client: Client, request: parser.Request) -> Outcome:
        command = request.command
        try:
            outcome = self.handlers[command.word](client, request.arguments)
        except CommandError as error:
            outcome = failure(error.message)
        if command.writes and client.needed < self._journal.index:
            # That it was refused may tell of what is not durable, too.
            client.needed = self._journal.index
        return outcome

    def _refusal(self, command: Command) -> bytes:
        reason, forwarder = self._journal.refusal or b"", self._pipeline.forwarder
        return reason if forwarder is None else forwarder.refusal(command, reason)

    def reply(self, client: Client, request: parser.Request) -> Reply:
        """Authorise and decide a command that does not stand alone: it is answered at once."""
        outcome = self.outcome(client, request)
        if isinstance(outcome, Reply):
            return outcome
        raise TypeError(f"{request.command.word} has to stand alone")

    def carried(self, client: Client, text: bytes) -> Outcome:
        """What a command leads to that came inside another one (``rp``)."""
        request = self.parse(text)
        return request if isinstance(request, Reply) else self.outcome(client, request)
