"""A write concern as a value, and as it is written; what it does: :mod:`nuntwist.core.concerns`."""

from __future__ import annotations

from typing import Final, NamedTuple

from nuntwist.errors import CommandError
from nuntwist.language.parser import parse_number

PRIMARY: Final = 0
MAJORITY: Final = -1
MOST_REPLICAS: Final = 31
TIMEOUT_MS: Final = 5000
"""How long a write waits for its concern where nobody says otherwise."""
LONGEST_MS: Final = 3_600_000


class Concern(NamedTuple):
    """A write concern.

    :ivar replicas: PRIMARY, MAJORITY, or how many beside the primary.
    :ivar milliseconds: how long to wait for it; None: as the node's setting says.
    """

    replicas: int
    milliseconds: int | None = None

    def encode(self) -> bytes:
        """As it is written: what :func:`parse_concern` takes."""
        word = {PRIMARY: b"primary", MAJORITY: b"majority"}.get(self.replicas)
        text = word or b"%d" % self.replicas
        return text if self.milliseconds is None else b"%b %d" % (text, self.milliseconds)


def parse_concern(text: bytes) -> Concern:
    """Read ``primary``, ``majority`` or a number, and perhaps milliseconds.

    :raise CommandError: it is none.
    """
    word, _, rest = text.strip().partition(b" ")
    milliseconds = None
    if rest:
        milliseconds = _number(rest, LONGEST_MS)
        if milliseconds is None:
            raise CommandError(b"a write concern waits 1 to %d milliseconds" % LONGEST_MS)
    if word in (b"primary", b"majority"):
        return Concern(PRIMARY if word == b"primary" else MAJORITY, milliseconds)
    replicas = _number(word, MOST_REPLICAS)
    if replicas is None:
        raise CommandError(
            b"a write concern is primary, majority, or a number of replicas up to %d"
            % MOST_REPLICAS
        )
    return Concern(replicas, milliseconds)


def _number(text: bytes, most: int) -> int | None:
    """A number from 1 on, digits alone."""
    return parse_number(text, 1, most) if text.isdigit() else None
