"""What a secondary and its primary agree on about commands that are forwarded.

A secondary gives each request a number, higher each time, and the primary keeps the number of
the last one that changed anything, with what was answered, under a key of ``$admin``: the
*marker*, which is in the same record of the log as the changes. So it is on whichever node has
them, and a request that is sent again, to this primary or the next, is answered from it and not
run twice. Requests go by *lanes*, one at a time each, each lane with a marker of its own.

- The first lane takes the writes that are decided at once, many in a request.
- The others take commands that stand alone and may wait (for a hash, for their turn), one in a
  request: they hold up each other no more than the number of these lanes makes them, and never
  the writes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from nuntwist.core.alone import stands_alone
from nuntwist.core.authorise import refusal_of
from nuntwist.core.database import FORWARDED_PREFIX
from nuntwist.errors import CommandError
from nuntwist.language.parser import Request, parse
from nuntwist.values import VALUE, Op

if TYPE_CHECKING:
    from nuntwist.core.client import Client

PLAIN: Final = 0
"""The lane of writes that are decided at once."""
ALONE_LANES: Final = (1, 2, 3, 4)
"""The lanes of commands that stand alone."""
LANES: Final = (PLAIN, *ALONE_LANES)
REQUEST_ITEMS: Final = 256
"""Commands in one request, at most: one or two milliseconds of the primary's time."""
REQUEST_BYTES: Final = 256 << 10
"""Bytes of commands in one request, at most; one command that is longer goes alone."""


Identity: TypeAlias = tuple[int | None, bytes | None, bool, bytes | None, float | None]
"""As whom a command is sent."""


class Item(NamedTuple):
    """One command, and as whom it is sent: the primary looks at the rights once more.

    :ivar database: the id of the selected one.
    :ivar user: as whom it was selected; None with the database's own token.
    :ivar admin: whether ``auth`` was passed.
    :ivar rights: the permissions that its signed token brings with it; None where those of the user
        count.
    :ivar until: when its signed token ends, in seconds since 1970; None where it has none. Who is
        still waiting for a primary then is refused, like whoever comes after the end.
    """

    database: int | None
    user: bytes | None
    admin: bool
    text: bytes
    rights: bytes | None = None
    until: float | None = None

    @property
    def identity(self) -> Identity:
        """What is the same of all commands that are sent as the same one."""
        return self.database, self.user, self.admin, self.rights, self.until


def item_of(client: Client, text: bytes) -> Item:
    """A command of a client of this node."""
    database = client.database
    if database is None:
        return Item(None, client.user, client.admin, text)
    signed = client.signed.get(database)
    if signed is None:
        return Item(database.number, client.user, client.admin, text)
    until = signed.expires if math.isfinite(signed.expires) else None
    return Item(database.number, client.user, client.admin, text, signed.rights, until)


def is_forwarded(request: Request) -> bool:
    """Whether a command is one for the primary: it changes what all nodes have, and does not
    depend on a node as a restore does."""
    command = request.command
    if command.word == "rp":
        # What it carries decides.
        try:
            inner = parse(bytes(request.arguments[1]))
        except (CommandError, TypeError):
            return False
        return inner.command.word != "rp" and is_forwarded(inner)
    return command.writes and not command.word.startswith("restore-")


def kind_of(client: Client, request: Request) -> bool | None:
    """Whether a command that is for the primary stands alone; None where it is answered here,
    because the primary is not needed for that."""
    if not is_forwarded(request):
        return None
    if refusal_of(client, request.command, request.arguments) is not None:
        return None
    return stands_alone(request)


def marker_key(node: int, lane: int) -> bytes:
    """The key of a node's marker in ``$admin``."""
    return b"%b%016x_%d" % (FORWARDED_PREFIX, node, lane)


def marker_value(request: int, replies: bytes) -> bytes:
    """What a marker holds."""
    return b"%d %b" % (request, replies)


def read_marker(entry: Op | None) -> tuple[int, bytes]:
    """The number of the last request that changed anything, and what was answered; 0 for none.

    :raise ValueError: it is no marker; nobody but nodes can write one.
    """
    number, _, replies = ((entry and entry[VALUE]) or b"0").partition(b" ")
    if not number.isdigit() or len(number) > 20:
        raise ValueError("a marker has no number")
    return int(number), replies
