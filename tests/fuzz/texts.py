"""Targets: addresses, settings, stored secrets, and answers that the command line gets."""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any

from nuntwist import cli_session, scrypt, secrets
from nuntwist.addresses import (
    client_endpoint,
    host_and_port,
    is_local,
    parse_host_port,
    parse_listeners,
    parse_peer,
    split_endpoint,
)
from nuntwist.cli_client import _DATA, AskFailed, first_line, is_error, parts_of, quoted
from nuntwist.cli_session import Place, Session
from nuntwist.cli_source import _values
from nuntwist.config import SETTINGS, make_config
from nuntwist.core.forwards import read_marker
from nuntwist.core.logins import address_of
from nuntwist.errors import ConfigError
from nuntwist.sealing import unseal
from nuntwist.values import SET
from tests.fuzz.target import put, tried

SHORT = 2_000
MOST_MEMORY = 64 << 20
"""Bytes that checking one secret may take."""


def address(data: bytes) -> None:
    """Addresses to listen on, and of other nodes: refused, or what Twisted takes apart alike."""
    text = data.decode("utf-8", "replace")
    for endpoint in tried(ValueError, parse_listeners, text) or ():
        arguments, _ = split_endpoint(endpoint)
        assert arguments
        is_local(endpoint)
        host_and_port(endpoint)
    for read in (parse_peer, parse_host_port):
        found = tried(ValueError, read, text)
        assert found is None or read(found) == found == found.strip()
        if found is not None and read is parse_peer:
            split_endpoint(client_endpoint(found, 5))
    address_of(text)


def setting(data: bytes) -> None:
    """The text of a setting: its reader refuses it with half a sentence, or takes it."""
    name, _, text = data.decode("utf-8", "replace").partition("=")
    for one in SETTINGS:
        if one.variable == name:
            value = tried(ValueError, one.read, text)
            assert not isinstance(value, float) or (math.isfinite(value) and value > 0)
            assert not isinstance(value, int | float) or len(text) <= 40
    given = {name: text, "NUN_USER": "a", "NUN_PWD": "b"}
    tried(ConfigError, make_config, {}, given)


def secret(data: bytes) -> None:
    """A stored secret, which may come from an archive: no is the answer to what is none, and
    no cost is paid that nobody needs."""
    asked: list[int] = []

    def derive(secret: bytes, **costs: Any) -> bytes:
        n, r, p = costs["n"], costs["r"], costs["p"]
        asked.append(128 * r * n)
        assert 128 * r * (n + p) <= MOST_MEMORY
        assert n * r * p <= 1 << 20
        return hashlib.sha256(secret + costs["salt"]).digest()

    with put(scrypt, hashlib=_Hashing(derive)):
        assert secrets.check_secret(b"token", data) in (False, True)
        assert unseal(data, b"token") is None
    if asked:
        assert re.match(rb"\$(scrypt|sealed)\$ln=[0-9]{1,2},r=[0-9]{1,2},p=[0-9]{1,2}\$", data)
    else:
        assert not secrets.check_secret(b"token", data)


class _Hashing:
    """``hashlib`` for those who only ask for scrypt."""

    def __init__(self, scrypt: Any) -> None:
        self.scrypt = scrypt


def marker(data: bytes) -> None:
    """The marker of a forwarded request, as a key of ``$admin`` holds it."""
    found = tried(ValueError, read_marker, (data, 0, 1, 1, SET, 0, b"k"))
    assert found is None or found[0] >= 0


def _slowly(text: str) -> list[str]:
    """Parts: a message with data ends with a newline before a semicolon, or at the end."""
    parts = []
    while text:
        message = re.match(r".*?\n(?=;|\Z)", text, re.DOTALL) if _DATA.match(text) else None
        part = text.partition(";")[0] if message is None else message[0]
        parts.append(part)
        text = text[len(part) + 1 :]
    return parts


def answer(data: bytes) -> None:
    """The answer of a server, as the command line takes it apart."""
    text = data.decode("utf-8", "replace")
    parts = list(parts_of(text))
    if len(text) < SHORT:
        assert parts == _slowly(text)
    assert sum(map(len, parts)) + max(0, len(parts) - 1) in (len(text), len(text) - 1)
    for part in parts:
        is_error(part)
    assert quoted(text).isprintable()
    assert first_line(text).isprintable()
    found = _values(text, text.count("\n"))
    assert found is None or len(found) == text.count("\n")
    session = Session(None, None, Place("http://x", "", None, 1.0))  # type: ignore[arg-type]
    tried(AskFailed, lambda: list(cli_session._pieces(session, text)))
    tried(AskFailed, cli_session._all_taken, session, text, 2)
    for form in (cli_session._BACKUP, cli_session._RESTORE, cli_session._RESTORED):
        match = form.match(text)
        if match is not None:
            assert all(0 <= int(one) < 1 << 64 for one in match.groups())
    dict(cli_session._LISTED.findall(text))
