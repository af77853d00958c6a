"""Targets: signed tokens of visitors, and the keys that they are checked with."""

from __future__ import annotations

import base64
import hashlib
import hmac
import math

from nuntwist.cli_signing import _from_pem
from nuntwist.core.permissions import Permissions
from nuntwist.core.signing import Claims, Keys, check, keys_from
from nuntwist.errors import CommandError
from tests.fuzz.language import LONGEST_ERROR
from tests.fuzz.target import tried

SECRET = b"0123456789abcdef0123456789abcdef"
NOW = 1_767_225_600.0


def keys(data: bytes) -> None:
    """Keys as an admin gives them, or as a file holds them in PEM."""
    found = _said(keys_from, data)
    if isinstance(found, Keys):
        assert found.keys
        again = keys_from(found.text)
        assert (again.names(), again.text, again.secret) == (
            found.names(),
            found.text,
            found.secret,
        )
        assert b"\n" not in found.text
        for name in found.names():
            assert "\n" not in name
    made = tried(CommandError, _from_pem, data.decode("utf-8", "replace"))
    if made is not None:
        tried(CommandError, keys_from, made.encode())


def token(data: bytes) -> None:
    """A token as it comes, and one whose claims are the input, rightly signed."""
    both = keys_from(SECRET)
    assert _said(check, data, both, b"d", NOW) is None
    signed = b".".join((_base64(b'{"alg":"HS256","typ":"JWT"}'), _base64(data)))
    signed += b"." + _base64(hmac.digest(SECRET, signed, hashlib.sha256))
    found = _said(check, signed, both, b"d", NOW)
    if isinstance(found, Claims):
        assert math.isfinite(found.expires)
        assert found.expires > NOW
        assert not {*" ;|,\n"} & {*found.subject.decode()}
        if found.permissions is not None:
            Permissions(found.permissions)
            assert b"\n" not in found.permissions


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _said(function: object, *arguments: object) -> object:
    """What a function gives; an error has to fit the wire, and gives its text."""
    try:
        return function(*arguments)  # type: ignore[operator]
    except CommandError as error:
        error.message.decode()
        assert len(error.message) <= LONGEST_ERROR
        assert b"\n" not in error.message
        return error.message
