"""Hashes tokens with scrypt, and remembers in memory which ones were right.

A stored secret reads ``$scrypt$ln=14,r=8,p=1$SALT$HASH`` (base64 without padding), so the cost
can be raised later and old strings still be checked. Hashing takes tens of milliseconds and
16 MiB, so it runs in a small pool of threads; equal checks under way at the same time are one.

A pair found right is remembered as a keyed digest (BLAKE2b under a key that lives as long as
the process), so that a connection that comes again is checked in microseconds. Wrong ones are
not remembered: they cost the full hash each time.

What has to be read again, not only compared, is sealed instead (:mod:`nuntwist.sealing`).
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from nuntwist.interfaces import ISecrets
from nuntwist.scrypt import LENGTH, derive, parse, to_text
from nuntwist.sealing import NONCE_BYTES, SALT_BYTES, seal, unseal

NAME = b"scrypt"
REMEMBERED = 20_000
"""How many right pairs are remembered; the one used longest ago goes first."""


def hash_secret(secret: bytes, salt: bytes, log_n: int) -> bytes:
    """The string to store for a secret; takes tens of milliseconds."""
    return to_text(NAME, log_n, salt, derive(secret, salt, log_n, 8, 1))


def check_secret(secret: bytes, stored: bytes) -> bool:
    """Whether a secret is the one a stored string was made from; False for any other string."""
    try:
        log_n, r, p, salt, expected = parse(NAME, stored)
        return hmac.compare_digest(derive(secret, salt, log_n, r, p), expected)
    except ValueError:
        return False


@implementer(ISecrets)
class ScryptSecrets:
    """The hasher of a node.

    :param in_thread: runs a function away from the reactor's thread, as
        ``deferToThreadPool(reactor, pool, ...)``; its pool bounds how many run at once.
    :param random_bytes: ``os.urandom`` or a seeded double.
    :param log_n: the cost: 2 to this power blocks of 1 KiB.
    :param sealing: what it seals with.
    :ivar nobodys: a stored string that no secret is right for.
    """

    def __init__(
        self,
        in_thread: Callable[..., Deferred[Any]],
        random_bytes: Callable[[int], bytes],
        log_n: int = 14,
        sealing: bytes = b"",
    ) -> None:
        self._in_thread = in_thread
        self._random_bytes = random_bytes
        self._log_n = log_n
        self._sealing = sealing
        self._key = random_bytes(32)
        self.nobodys = to_text(NAME, log_n, random_bytes(16), random_bytes(LENGTH))
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._checking: dict[bytes, list[Deferred[bool]]] = {}

    def hash(self, secret: bytes) -> Deferred[bytes]:
        """Fires with the string to store."""
        return self._in_thread(hash_secret, secret, self._random_bytes(16), self._log_n)

    def seal(self, text: bytes) -> Deferred[bytes]:
        """Fires with the string to store."""
        random = self._random_bytes(SALT_BYTES + NONCE_BYTES)
        return self._in_thread(seal, text, self._sealing, random, self._log_n)

    def unseal(self, stored: bytes) -> Deferred[bytes | None]:
        """Fires with what it was made from; None where that was with another secret."""
        return self._in_thread(unseal, stored, self._sealing)

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
