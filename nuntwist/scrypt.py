"""scrypt (RFC 7914), and strings that say how it was used: ``$NAME$ln=14,r=8,p=1$SALT$RESULT``.

The costs stand in the string, so they can be raised later and old strings still be read. Base64 is
without padding.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final

LENGTH: Final = 32
"""Bytes of what it gives."""
MOST_MEMORY: Final = 64 << 20
"""Bytes that a stored string may ask for, four times what is written today. It may come from an
archive, and whoever made that must not say how much a login costs here."""
MOST_WORK: Final = 1 << 20
"""Blocks to be mixed that it may ask for, eight times what is written today."""
_COSTS: Final = re.compile(rb"ln=([0-9]{1,2}),r=([0-9]{1,2}),p=([0-9]{1,2})")


def derive(secret: bytes, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    """Make a key of a secret; takes tens of milliseconds, and 128 * r * 2**log_n bytes."""
    memory = 128 * r * (1 << log_n) * 2 + (1 << 20)
    return hashlib.scrypt(secret, salt=salt, n=1 << log_n, r=r, p=p, dklen=LENGTH, maxmem=memory)


def to_text(name: bytes, log_n: int, salt: bytes, result: bytes) -> bytes:
    """The string to store, for r = 8 and p = 1."""
    return b"$%b$ln=%d,r=8,p=1$%b$%b" % (name, log_n, _encode(salt), _encode(result))


def parse(name: bytes, text: bytes) -> tuple[int, int, int, bytes, bytes]:
    """Read a stored string.

    :return: the costs log2(N), r and p, the salt and the result.
    :raise ValueError: it is none of that name, or asks for more than is right.
    """
    begin, found, costs, salt, result = text.split(b"$")
    match = _COSTS.fullmatch(costs)
    if begin or found != name or match is None:
        raise ValueError("it is another string")
    log_n, r, p = int(match[1]), int(match[2]), int(match[3])
    if not (log_n and r and p) or not _is_affordable(log_n, r, p):
        raise ValueError("its costs are too high, or none")
    return log_n, r, p, _decode(salt), _decode(result)


def _is_affordable(log_n: int, r: int, p: int) -> bool:
    return 128 * r * ((1 << log_n) + p) <= MOST_MEMORY and (1 << log_n) * r * p <= MOST_WORK


def _encode(raw: bytes) -> bytes:
    return base64.b64encode(raw).rstrip(b"=")


def _decode(text: bytes) -> bytes:
    return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)


__all__ = ["LENGTH", "derive", "parse", "to_text"]
