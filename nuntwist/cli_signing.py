"""``nun-db signing-keys``: gives a database the keys of signed tokens from a file.

The file is what a back end or its provider has: a JWK set (or one JWK), public keys in PEM, or a
secret. It becomes one line of JSON, or stays the secret that it is, and is looked at before
anything is sent: a private key does not leave this machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm

from nuntwist.cli_client import AskFailed, checked_word
from nuntwist.core.signing import keys_from
from nuntwist.errors import CommandError

LARGEST: Final = 1 << 20
"""Bytes of a file that is read: a command cannot be longer."""
_BEGIN: Final = re.compile(r"-----BEGIN ([A-Z ]{1,40})-----")
_KINDS: Final = (jwt.algorithms.RSAAlgorithm, jwt.algorithms.ECAlgorithm)


def signing_commands(given: Mapping[str, Any], password: str) -> str:
    """Give the commands that set the keys.

    :param given: the options.
    :param password: of the admin, with which any database can be selected.
    :raise AskFailed: the file cannot be read, or holds no such keys.
    """
    name = checked_word("The name of a database", given["db-name"])
    keys = "none" if given["remove"] else _keys_in(Path(given["file"]))
    option = "close" if given["close"] else "keep"
    return f"use-db {name} {password}; set-signing-keys {option} {keys}; get-signing-keys"


def _keys_in(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        text = content.decode().strip()
    except OSError as error:
        raise AskFailed(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise AskFailed(f"{path} is not text.") from None
    if len(content) > LARGEST:
        raise AskFailed(f"{path} has over {LARGEST} bytes.")
    try:
        text = _from_pem(text) if text.startswith("-----") else text
        keys = keys_from(text.encode())
    except CommandError as error:
        raise AskFailed(f"{path} cannot be used: {error.message.decode()}.") from None
    if text.startswith("{"):
        # A semicolon would end the command; in JSON it stands in strings alone.
        return keys.text.decode().replace(";", "\\u003b")
    if re.search(r"[;\r\n]", text):
        raise AskFailed(
            f"The secret in {path} holds a semicolon or a line break, which cannot be sent over"
            " HTTP; another one, such as from openssl rand -hex 32, will do."
        )
    return text


def _from_pem(text: str) -> str:
    """A JWK set of keys in PEM.

    :raise CommandError: one is not a public key.
    """
    found = []
    for kind, pem in _blocks(text):
        if "PRIVATE" in kind:
            raise CommandError(b"it holds a private key: give the public one, and keep that")
        found.append(_jwk_of(pem))
    return json.dumps({"keys": found})


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Kind and text of each block in PEM, up to one that has no end."""
    begin = _BEGIN.search(text)
    while begin is not None:
        last = f"-----END {begin[1]}-----"
        end = text.find(last, begin.end())
        if end < 0:
            return
        yield begin[1], text[begin.start() : end + len(last)]
        begin = _BEGIN.search(text, end)


def _jwk_of(pem: str) -> dict[str, Any]:
    for kind in _KINDS:
        try:
            key: Any = kind(kind.SHA256).prepare_key(pem)
            return dict(kind.to_jwk(key, as_dict=True))
        except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError):
            continue
    raise CommandError(b"a key in it is no RSA and no EC key")
