"""Who has logged in, or failed to, and what admins did: an event each, for who has to know later.

Events are of the namespace ``nuntwist.audit``, with the fields ``peer``, ``who``, ``database``,
``command``, ``arguments`` and ``outcome``. What is written down:

- ``auth`` and ``use-db``, whatever comes of them;
- commands that only an admin may give, and those that touch a key beginning ``$$``, also where
  they are refused.

Arguments that the table of commands calls secret are not in them, nor are values of keys. Who
tries to log in as a user is named where there is such a user; what else stands there may be a part
of a password. A secondary notes that it has forwarded a command, and for whom; its primary notes
what came of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.core.database import PERMISSION_PREFIX, SIGNED
from nuntwist.errors import CommandError
from nuntwist.language.commands import Command, Kind, Needs
from nuntwist.language.parser import SHOWN, Request, shorten
from nuntwist.language.replies import INVALID, STILL_VALID, Reply

if TYPE_CHECKING:
    from nuntwist.core.catalogue import Catalogue
    from nuntwist.core.client import Client
    from nuntwist.core.deciding import Outcome

NAMESPACE: Final = "nuntwist.audit"
"""What :mod:`nuntwist.logs` knows it by."""
HIDDEN: Final = "***"
LONGEST_LIST: Final = 4_096
"""Bytes of a list of permissions that are written down; of other arguments a few."""
_log = Logger(namespace=NAMESPACE)
_LOGINS: Final = frozenset(("auth", "use-db"))


class Audit:
    """Writes it down.

    :param catalogue: of the node.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def outcome(self, client: Client, request: Request, outcome: Outcome) -> Outcome:
        """Note what has come of a command, or will; gives it back."""
        if not is_audited(request):
            return outcome
        # As it was when the command came; of a login, as it is after it.
        before = _who(client), _database(client)
        is_login = request.command.word in _LOGINS
        texts = self._texts(client, request)

        def note(said: str) -> None:
            who, database = (_who(client), _database(client)) if is_login else before
            _note(client, who, database, request, texts, said)

        if isinstance(outcome, Deferred):

            def answered(reply: Reply) -> Reply:
                note(_said(reply))
                return reply

            def failed(reason: Failure) -> Failure:
                error = reason.value
                if isinstance(error, CommandError):
                    note(f"error {_text(error.message)}")
                else:
                    note("failed")
                return reason

            outcome.addCallbacks(answered, failed)
        else:
            note(_said(outcome) if isinstance(outcome, Reply) else "ok")
        return outcome

    def forwarded(self, client: Client, request: Request) -> None:
        """A command goes to the primary."""
        if is_audited(request):
            texts = self._texts(client, request)
            _note(client, _who(client), _database(client), request, texts, "forwarded")

    def _texts(self, client: Client, request: Request) -> list[str]:
        texts = shown(request.command, request.arguments)
        key = request.arguments[0] if request.command.right == "w" else b""
        listed = request.arguments[-1] if request.arguments else b""
        if isinstance(key, bytes) and key.startswith(PERMISSION_PREFIX) and listed != b"":
            # The same as by set-permissions, and no secret.
            texts[-1] = _text(listed, LONGEST_LIST)
        if request.command.word != "use-db" or len(texts) < 3 or client.admin:
            return texts
        name, user = request.arguments[:2]
        database = self._catalogue.by_name.get(name) if isinstance(name, bytes) else None
        if database is None or not isinstance(user, bytes):
            return texts
        if user == SIGNED or database.user_token(user) is not None:
            texts[1] = _text(user)
        return texts


def _note(
    client: Client, who: str, database: str, request: Request, texts: list[str], outcome: str
) -> None:
    _log.info(
        "{peer} ({who}, {database}): {command} {arguments}: {outcome}",
        peer=client.peer,
        who=who,
        database=database,
        command=request.command.word,
        arguments=" ".join(texts),
        outcome=outcome,
    )


def is_audited(request: Request) -> bool:
    """Whether a command is written down."""
    command = request.command
    if command.needs & Needs.ADMIN or command.word in _LOGINS:
        return True
    key = request.arguments[0] if command.right else b""
    return isinstance(key, bytes) and key.startswith(b"$$")


def shown(command: Command, arguments: Sequence[bytes | int]) -> list[str]:
    """The arguments of a command, without those that are secret."""
    texts = []
    for number, (argument, value) in enumerate(zip(command.arguments, arguments, strict=True)):
        if value == b"":
            continue
        secret = argument.secret
        if argument.name == "USER_OR_TOKEN":
            # It is a user where one word follows, the token; more may be a password with spaces.
            token = command.arguments[number + 1]
            secret = token.kind is not Kind.WORD or not arguments[number + 1]
        longest = LONGEST_LIST if argument.name == "LIST" else SHOWN
        texts.append(HIDDEN if secret else _text(value, longest))
    return texts


def _text(value: bytes | int, longest: int = SHOWN) -> str:
    if isinstance(value, int):
        return str(value)
    return shorten(value, longest).decode("utf-8", "replace")


def _said(reply: Reply) -> str:
    if reply.error is not None:
        return f"error {_text(reply.error.strip())}"
    return "invalid" if reply is INVALID or reply is STILL_VALID else "ok"


def _who(client: Client) -> str:
    if client.admin:
        return "admin"
    if client.database is None:
        return "nobody"
    if client.user is None:
        return "token"
    by = "signed" if client.database in client.signed else "user"
    return f"{by} {_text(client.user)}"


def _database(client: Client) -> str:
    return "-" if client.database is None else _text(client.database.name)
