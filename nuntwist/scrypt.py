"""scrypt (RFC 7914), and strings that say how it was used: ``$NAME$ln=14,r=8,p=1$SALT$RESULT``.

The costs stand in the string, so they can be raised later and old strings still be read. Base64 is
without padding.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

LENGTH: Final = 32
"""Bytes of what it gives."""
_LARGEST: Final = (20, 32, 16)
"""The highest costs that a stored string may ask for."""


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
    cost = dict(part.split(b"=") for part in costs.split(b","))
    try:
        log_n, r, p = (int(cost[letter]) for letter in (b"ln", b"r", b"p"))
    except KeyError as missing:
        raise ValueError(f"{missing} is not there") from None
    in_range = all(0 < n <= most for n, most in zip((log_n, r, p), _LARGEST, strict=True))
    if begin or found != name or not in_range:
        raise ValueError("it is another string, or its costs are too high")
    return log_n, r, p, _decode(salt), _decode(result)


def _encode(raw: bytes) -> bytes:
    return base64.b64encode(raw).rstrip(b"=")


def _decode(text: bytes) -> bytes:
    return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)


__all__ = ["LENGTH", "derive", "parse", "to_text"]
