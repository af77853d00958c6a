"""Seals secrets that have to be read again, under the secret of the node or its set.

A token that is only compared is kept as a hash (:mod:`nuntwist.secrets`). A secret that signs has
to be there itself: it is encrypted with AES-256-GCM (NIST SP 800-38D) under a key that scrypt makes
of the node's secret and a salt of its own, so who has a backup has to guess at the price of a
login. It reads ``$sealed$ln=14,r=8,p=1$SALT$NONCE_AND_TEXT`` (base64 without padding).

All nodes of a set have the same secret. Who changes it gives the signing keys anew.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nuntwist.scrypt import derive, parse, to_text

PREFIX: Final = b"$sealed$"
SALT_BYTES: Final = 16
NONCE_BYTES: Final = 12


def seal(text: bytes, secret: bytes, random: bytes, log_n: int) -> bytes:
    """The string to store; takes tens of milliseconds.

    :param random: ``SALT_BYTES + NONCE_BYTES`` bytes that never come twice.
    """
    salt, nonce = random[:SALT_BYTES], random[SALT_BYTES:]
    sealed = nonce + AESGCM(derive(secret, salt, log_n, 8, 1)).encrypt(nonce, text, PREFIX)
    return to_text(b"sealed", log_n, salt, sealed)


def unseal(stored: bytes, secret: bytes) -> bytes | None:
    """What a stored string was made from; None where it is none, or of another secret."""
    try:
        log_n, r, p, salt, sealed = parse(b"sealed", stored)
        key = derive(secret, salt, log_n, r, p)
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], PREFIX)
    except (ValueError, InvalidTag):
        return None
