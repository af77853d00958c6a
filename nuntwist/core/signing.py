"""Signed tokens: the keys that a database checks them with, and what a right one says. Pure.

A signed token is a JSON Web Token (RFC 7519) that the back end of an application makes for one
visitor, for some minutes. The database knows keys, not visitors. Its keys are a JWK set (RFC 7517)
as one line of JSON; each says by its type how tokens of it are signed, never the token:

=======  =======================================  =========
``kty``  what else                                signature
=======  =======================================  =========
`oct`    a secret of 32 bytes or more             HS256
`RSA`    a public key of 2048 bits or more        RS256
`EC`     a public key on the curve P-256          ES256
=======  =======================================  =========

Several may be there at once, so that they can be changed without a gap: a token that names one
(``kid``) is checked with those of that name, another one with all that fit how it is signed.

The claims of a token:

- ``db``: the name of the database, or a list of names;
- ``sub``: who it is: a user of the database, which need not have been created, but is called by
  this name in the audit, and has its permissions where the token has none;
- ``exp``, in seconds since 1970: until when it counts; ``nbf``: from when on, if it is there;
- ``permissions``, if it is there: a list as ``set-permissions`` takes it, instead of the user's;
- ``aud``, if it is there, has to hold ``nuntwist``.

Anything else is for others. How signatures are checked is the business of PyJWT.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import jwt
from cryptography.exceptions import UnsupportedAlgorithm

from nuntwist.core.database import NO_USERS
from nuntwist.core.permissions import Permissions
from nuntwist.errors import CommandError

AUDIENCE: Final = "nuntwist"
LONGEST_TOKEN: Final = 8 << 10
"""Bytes of a token that is looked at: as much as a head of an HTTP request may have."""
MOST_KEYS: Final = 16
"""A token is checked with so many keys at most."""
LONGEST_SECRET: Final = 4 << 10
SHORTEST_SECRET: Final = 32
"""As many bytes as the hash of HS256 (RFC 7518, 3.2)."""
SMALLEST_RSA: Final = 2048
"""Bits (RFC 7518, 3.3)."""
LEEWAY_SECONDS: Final = 5.0
"""How far the clock of who has made a token may be ahead of this one, for ``nbf``."""
_ALGORITHMS: Final = {"oct": "HS256", "RSA": "RS256", "EC": "ES256"}
_NAME: Final = re.compile(r"[^\s;|,]{1,256}")
_PRIVATE: Final = frozenset("dpq")
_SIGNATURES: Final = jwt.PyJWS(algorithms=list(_ALGORITHMS.values()))
# What is wrong with a text is told by whatever the parsers of PyJWT and JSON raise for it.
_UNREADABLE: Final = (
    *(jwt.PyJWTError, UnsupportedAlgorithm),
    *(ValueError, TypeError, KeyError, RecursionError),
)


class Key(NamedTuple):
    """One key.

    :ivar name: its ``kid``; None where it has none.
    :ivar material: what PyJWT checks with.
    """

    name: str | None
    algorithm: str
    material: Any


class Keys(NamedTuple):
    """The keys of a database.

    :ivar text: them as one line of JSON, as they are kept.
    :ivar secret: whether they have to be kept from others: one of them signs, too.
    """

    keys: tuple[Key, ...]
    text: bytes
    secret: bool

    def names(self) -> list[str]:
        """How each signs, and its name if it has one."""
        return [" ".join(filter(None, (key.algorithm, key.name))) for key in self.keys]


class Claims(NamedTuple):
    """What a right token says.

    :ivar expires: seconds since 1970.
    :ivar permissions: None where those of the user count.
    """

    subject: bytes
    expires: float
    permissions: bytes | None


def keys_from(text: bytes) -> Keys:
    """Read keys as an admin gives them: a JWK set, one JWK, or any other text as a secret.

    :raise CommandError: it cannot be that.
    """
    if text.startswith(b"-----"):
        raise CommandError(b"a key in PEM has to be made a JWK: nun-db signing-keys does that")
    if not text.startswith(b"{"):
        _refuse_size(text)
        return _keys_of([{"kty": "oct", "k": _base64(text)}])
    try:
        found = json.loads(text)
    except _UNREADABLE:
        raise CommandError(b"signing keys are a JWK set in JSON, or a secret") from None
    listed = found.get("keys", [found])
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise CommandError(b"signing keys are a JWK set in JSON, or a secret")
    return _keys_of(listed)


def _refuse_size(secret: bytes) -> None:
    if not SHORTEST_SECRET <= len(secret) <= LONGEST_SECRET:
        raise CommandError(
            b"the secret of signed tokens has to have %d to %d bytes"
            % (SHORTEST_SECRET, LONGEST_SECRET)
        )


def _base64(secret: bytes) -> str:
    return jwt.utils.base64url_encode(secret).decode()


def _keys_of(listed: list[dict[str, Any]]) -> Keys:
    # Keys to encrypt with are no business of ours, and a set may well hold some.
    listed = [one for one in listed if one.get("use", "sig") == "sig"]
    if not 0 < len(listed) <= MOST_KEYS:
        raise CommandError(b"there have to be one to %d signing keys" % MOST_KEYS)
    keys = tuple(map(_key_of, listed))
    text = json.dumps({"keys": listed}, separators=(",", ":"), ensure_ascii=True).encode()
    return Keys(keys, text, any(key.algorithm == "HS256" for key in keys))


def _key_of(jwk: Mapping[str, Any]) -> Key:
    algorithm = _ALGORITHMS.get(str(jwk.get("kty")))
    if algorithm is None:
        raise CommandError(b"a signing key has to be of the kty oct, RSA or EC")
    if jwk.get("alg", algorithm) != algorithm:
        raise CommandError(f"a signing key of the kty {jwk['kty']} is for {algorithm}".encode())
    if algorithm != "HS256" and _PRIVATE & jwk.keys():
        raise CommandError(b"a signing key is a private key: give the public one, and keep that")
    if algorithm == "ES256" and jwk.get("crv") != "P-256":
        raise CommandError(b"an EC key has to be on the curve P-256")
    name = jwk.get("kid")
    if name is not None and not (isinstance(name, str) and _is_name(name)):
        raise CommandError(b"the kid of a signing key is a word of 256 characters or less")
    try:
        found = jwt.PyJWK(dict(jwk), algorithm)
        material = found.Algorithm.prepare_key(found.key)
    except _UNREADABLE:
        raise CommandError(b"a signing key cannot be read") from None
    if algorithm == "HS256":
        _refuse_size(material)
    if algorithm == "RS256" and not SMALLEST_RSA <= material.key_size <= 4 * SMALLEST_RSA:
        raise CommandError(b"an RSA key has to have %d bits or more" % SMALLEST_RSA)
    return Key(name, algorithm, material)


def _is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text)) and text.isprintable()


def check(token: bytes, keys: Keys, database: bytes, now: float) -> Claims | None:
    """Check a token for a database.

    :param now: seconds since 1970.
    :return: what it says; None where none of the keys has signed it.
    :raise CommandError: one has, but it does not count, or not here, or not now.
    """
    payload = _signed(token, keys)
    if payload is None:
        return None
    try:
        claims = json.loads(payload)
    except _UNREADABLE:
        claims = None
    if not isinstance(claims, dict):
        raise CommandError(b"the claims of the token are not JSON")
    if AUDIENCE not in _all(claims.get("aud", AUDIENCE)):
        raise CommandError(b"the token is for another audience than " + AUDIENCE.encode())
    if database.decode() not in _all(claims.get("db")):
        raise CommandError(b"the token is for another database")
    expires = _time(claims, "exp")
    if expires is None:
        raise CommandError(b"the token has no exp")
    if expires <= now:
        raise CommandError(b"the token has expired")
    if (_time(claims, "nbf") or 0.0) > now + LEEWAY_SECONDS:
        raise CommandError(b"the token does not count yet")
    return Claims(_subject(claims), expires, _permissions(claims))


def _signed(token: bytes, keys: Keys) -> bytes | None:
    """What a token says, where one of the keys has signed it."""
    if len(token) > LONGEST_TOKEN:
        return None
    for key in keys.keys if len(keys.keys) == 1 else _chosen(token, keys.keys):
        try:
            payload: bytes = _SIGNATURES.decode(token, key.material, algorithms=[key.algorithm])
        except _UNREADABLE:
            continue
        return payload
    return None


def _chosen(token: bytes, keys: Sequence[Key]) -> list[Key]:
    """The keys that may have signed a token, by what its head says."""
    try:
        head = jwt.get_unverified_header(token)
    except _UNREADABLE:
        return []
    named = [key for key in keys if key.name is not None and key.name == head.get("kid")]
    return [key for key in named or keys if key.algorithm == head.get("alg")]


def _all(claim: object) -> list[object]:
    return claim if isinstance(claim, list) else [claim]


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e15:
        raise CommandError(f"{name} of the token is no time in seconds".encode())
    seconds = float(value)
    if not math.isfinite(seconds):
        raise CommandError(f"{name} of the token is no time in seconds".encode())
    return seconds


def _subject(claims: Mapping[str, Any]) -> bytes:
    subject = claims.get("sub")
    if not isinstance(subject, str) or not _is_name(subject):
        raise CommandError(b"sub of the token is no name of a user")
    if subject.encode() in NO_USERS:
        raise CommandError(b"no user can be called " + subject.encode())
    return subject.encode()


def _permissions(claims: Mapping[str, Any]) -> bytes | None:
    listed = claims.get("permissions")
    if listed is None:
        return None
    if not isinstance(listed, str) or not listed.isprintable():
        raise CommandError(b"permissions of the token: invalid permission list")
    try:
        Permissions(listed.encode())
    except CommandError as error:
        raise CommandError(b"permissions of the token: " + error.message) from None
    return listed.encode()
