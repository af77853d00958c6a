"""What one command leads to: which refusal comes first, and what is told of it."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
from twisted.internet.defer import Deferred

from nuntwist.core.client import GONE, Client
from nuntwist.core.deciding import Deciding
from nuntwist.errors import CommandError
from nuntwist.language.framing import TOO_LONG
from nuntwist.language.parser import Request
from nuntwist.language.replies import LINES, OK, Reply


class One:
    """Deciding without a node behind it, and a client that may do everything.

    :ivar ran: the handlers that were called, by their words.
    """

    def __init__(self) -> None:
        self.pipeline: Any = mock.Mock(forwarder=None)
        self.pipeline.limits.line = 100
        self.pipeline.journal.refusal = None
        self.pipeline.journal.index = 7
        self.deciding = Deciding(self.pipeline)
        self.ran: list[str] = []
        self.answer: Any = OK
        for word in ("auth", "set", "get", "rp", "list-dbs"):
            self.deciding.handlers[word] = self._handler(word)
        self.client = Client(GONE, LINES, "somewhere")
        self.client.admin = True
        self.client.database = mock.Mock(concern=None, permissions={}, number=1)

    def _handler(self, word: str) -> Any:
        def handle(client: Client, arguments: object) -> Any:
            self.ran.append(word)
            if isinstance(self.answer, CommandError):
                raise self.answer
            return self.answer

        return handle

    def ask(self, text: bytes) -> bytes | None:
        """The error that a command leads to; None where it is another answer."""
        outcome = self.deciding.carried(self.client, text)
        assert isinstance(outcome, Reply)
        return outcome.error


@pytest.fixture
def one() -> One:
    return One()


def test_what_is_no_command_is_not_looked_at_further(one: One) -> None:
    assert one.ask(b"nonsense") == b"unknown command: nonsense"
    assert b"100" in (one.ask(TOO_LONG) or b"")
    assert one.ran == []


def test_rights_come_before_whether_writes_are_taken(one: One) -> None:
    one.client.admin = False
    one.client.database = None
    one.pipeline.journal.refusal = b"no primary"
    assert one.ask(b"set k v") == b"error no-db-selected\n"
    one.client.admin = True
    one.client.database = mock.Mock(concern=None, permissions={}, number=1)
    assert one.ask(b"set k v") == b"no primary"
    assert one.ran == []


def test_reads_and_what_is_carried_go_on_where_writes_are_refused(one: One) -> None:
    one.pipeline.journal.refusal = b"no primary"
    assert one.ask(b"get k") is None
    assert one.ask(b"rp set k v") is None
    assert one.ran == ["get", "rp"]


def test_a_forwarder_says_why_writes_are_refused(one: One) -> None:
    one.pipeline.journal.refusal = b"not primary"
    one.pipeline.forwarder = mock.Mock()
    one.pipeline.forwarder.refusal.side_effect = lambda command, reason: reason + b", there"
    assert one.ask(b"set k v") == b"not primary, there"


def test_what_a_write_tells_of_has_to_be_durable_even_if_it_is_refused(one: One) -> None:
    one.ask(b"get k")
    assert one.client.needed == 0
    one.answer = CommandError(b"it is there already")
    assert one.ask(b"set k v") == b"it is there already"
    assert one.client.needed == 7


def test_the_audit_is_told_of_what_was_refused_too(one: One) -> None:
    told: list[Any] = []

    class Audit:
        def outcome(self, client: Client, request: Request, outcome: Any) -> Any:
            told.append((request.command.word, outcome.error))
            return outcome

    audit: Any = Audit()
    one.deciding.audit = audit
    one.ask(b"set k v")
    one.pipeline.journal.refusal = b"no primary"
    one.ask(b"set k v")
    assert told == [("set", None), ("set", b"no primary")]


def test_a_command_that_waits_cannot_be_answered_at_once(one: One) -> None:
    one.answer = Deferred()
    request = one.deciding.parse(b"get k")
    assert isinstance(request, Request)
    assert one.deciding.outcome(one.client, request) is one.answer
    with pytest.raises(TypeError, match="get has to stand alone"):
        one.deciding.reply(one.client, request)
