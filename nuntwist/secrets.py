"""Hashes tokens with scrypt, and remembers in memory which ones were right.

A stored secret reads ``$scrypt$ln=14,r=8,p=1$SALT$HASH`` (base64 without padding), so the cost
can be raised later and old strings still be checked. Hashing takes tens of milliseconds and
16 MiB, so it runs in a small pool of threads; equal checks under way at the same time are one.

A pair found right is remembered as a keyed digest (BLAKE2b under a key that lives as long as
the process), so that a connection that comes again is checked in microseconds. Wrong ones are
not remembered: they cost the full hash each time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from nuntwist.interfaces import ISecrets

PREFIX = b"$scrypt$"
REMEMBERED = 20_000
"""How many right pairs are remembered; the one used longest ago goes first."""
_LENGTH = 32


def _encode(raw: bytes) -> bytes:
    return base64.b64encode(raw).rstrip(b"=")


def _decode(text: bytes) -> bytes:
    return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)


def _derive(secret: bytes, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    memory = 128 * r * (1 << log_n) * 2 + (1 << 20)
    return hashlib.scrypt(secret, salt=salt, n=1 << log_n, r=r, p=p, dklen=_LENGTH, maxmem=memory)


def hash_secret(secret: bytes, salt: bytes, log_n: int) -> bytes:
    """The string to store for a secret; takes tens of milliseconds."""
    derived = _derive(secret, salt, log_n, 8, 1)
    return b"%bln=%d,r=8,p=1$%b$%b" % (PREFIX, log_n, _encode(salt), _encode(derived))


def check_secret(secret: bytes, stored: bytes) -> bool:
    """Whether a secret is the one a stored string was made from; False for any other string."""
    try:
        _, name, costs, salt, expected = stored.split(b"$")
        cost = dict(part.split(b"=") for part in costs.split(b","))
        log_n, r, p = (int(cost[letter]) for letter in (b"ln", b"r", b"p"))
        if name != b"scrypt" or not 0 < log_n <= 20 or not 0 < r <= 32 or not 0 < p <= 16:
            return False
        derived = _derive(secret, _decode(salt), log_n, r, p)
        return hmac.compare_digest(derived, _decode(expected))
    except (ValueError, KeyError):
        return False


@implementer(ISecrets)
class ScryptSecrets:
    """The hasher of a node.

    :param in_thread: runs a function away from the reactor's thread, as
        ``deferToThreadPool(reactor, pool, ...)``; its pool bounds how many run at once.
    :param random_bytes: ``os.urandom`` or a seeded double.
    :param log_n: the cost: 2 to this power blocks of 1 KiB.
    """

    def __init__(
        self,
        in_thread: Callable[..., Deferred[Any]],
        random_bytes: Callable[[int], bytes],
        log_n: int = 14,
    ) -> None:
        self._in_thread = in_thread
        self._random_bytes = random_bytes
        self._log_n = log_n
        self._key = random_bytes(32)
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._checking: dict[bytes, list[Deferred[bool]]] = {}

    def hash(self, secret: bytes) -> Deferred[bytes]:
        """Fires with the string to store."""
        return self._in_thread(hash_secret, secret, self._random_bytes(16), self._log_n)

    def verify(self, secret: bytes, stored: bytes) -> Deferred[bool]:
        """Fires with whether the secret is the one ``stored`` was made from."""
        text = len(stored).to_bytes(4, "big") + stored + secret
        digest = hashlib.blake2b(text, key=self._key, digest_size=16).digest()
        if digest in self._right:
            self._right.move_to_end(digest)
            return succeed(True)
        result: Deferred[bool] = Deferred()
        waiting = self._checking.get(digest)
        if waiting is not None:
            waiting.append(result)
            return result
        self._checking[digest] = [result]
        self._in_thread(check_secret, secret, stored).addBoth(self._checked, digest)
        return result

    def _checked(self, right: object, digest: bytes) -> None:
        if right is True:
            self._right[digest] = None
            if len(self._right) > REMEMBERED:
                self._right.popitem(last=False)
        for result in self._checking.pop(digest):
            if isinstance(right, bool):
                result.callback(right)
            else:
                result.errback(right)  # type: ignore[arg-type]  # addBoth: a Failure
