"""May this connection do that? From its session and the command's row in the table alone."""

from __future__ import annotations

from collections.abc import Sequence

from nuntwist.core.client import Client
from nuntwist.language.commands import Command, Needs
from nuntwist.language.replies import DENIED, NO_DATABASE, NOT_ADMIN, SECURE_KEY, Reply


def refusal_of(client: Client, command: Command, arguments: Sequence[bytes | int]) -> Reply | None:
    """The reply that refuses a command; None where it is allowed."""
    needs = command.needs
    if needs & Needs.ADMIN and not client.admin:
        return NOT_ADMIN
    if needs & Needs.DATABASE and client.database is None:
        return NO_DATABASE
    if needs & Needs.ADMIN_OR_DATABASE and client.database is None and not client.admin:
        return NO_DATABASE
    if not command.right:
        return None
    key = arguments[0]
    if not isinstance(key, bytes) or client.admin:
        return None
    if key.startswith(b"$$"):
        return SECURE_KEY
    return None if client.may(command.right.encode(), key) else DENIED
