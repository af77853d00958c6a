"""``nun-db signing-keys``: what of a file is sent, and what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from nuntwist.cli import Options, body_of
from nuntwist.cli_client import AskFailed
from nuntwist.testing import EPOCH_2026, MemoryNode

SECRET = "0123456789abcdef0123456789abcdef"
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
PEM = serialization.Encoding.PEM


def public(key: Any) -> bytes:
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    data: bytes = key.public_key().public_bytes(PEM, kind)
    return data


def private(key: Any) -> bytes:
    none = serialization.NoEncryption()
    data: bytes = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, none)
    return data


def body(*words: str) -> str:
    options = Options()
    options.parseOptions(["signing-keys", "-d", "d", *words])
    return body_of(options, {})


def run(node: MemoryNode, path: Path, content: bytes, *words: str) -> str:
    path.write_bytes(content)
    return node.post(body(*words, str(path)))


@pytest.fixture
def node() -> MemoryNode:
    node = MemoryNode(user="nun", password="nun-pwd")
    node.admin("create-db d t").close()
    return node


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def jwk(key: Any, **more: str) -> dict[str, Any]:
    kind = jwt.algorithms.RSAAlgorithm if key is RSA_KEY else jwt.algorithms.ECAlgorithm
    return dict(kind.to_jwk(key.public_key(), as_dict=True)) | more


@pytest.mark.parametrize(
    ("content", "listed", "key", "algorithm"),
    [
        (f"{SECRET}\n".encode(), ",HS256", SECRET, "HS256"),
        (public(RSA_KEY), ",RS256", RSA_KEY, "RS256"),
        (public(EC_KEY), ",ES256", EC_KEY, "ES256"),
        (public(EC_KEY) + b"\n" + public(RSA_KEY), ",ES256,RS256", RSA_KEY, "RS256"),
        (json.dumps(jwk(EC_KEY, kid="a"), indent=2).encode(), ",ES256 a", EC_KEY, "ES256"),
        (
            json.dumps({"keys": [jwk(EC_KEY, x5u="a;b")]}, indent=2).encode(),
            ",ES256",
            EC_KEY,
            "ES256",
        ),
    ],
)
def test_a_file_becomes_keys(
    node: MemoryNode, path: Path, content: bytes, listed: str, key: Any, algorithm: str
) -> None:
    answer = run(node, path, content)
    assert answer == f"valid auth\n;empty;empty;signing-keys {listed}\n"
    token = jwt.encode({"db": "d", "sub": "a", "exp": EPOCH_2026 + 60}, key, algorithm)
    assert node.tcp().ask(f"use-db d jwt {token}") == "ok \n"


def test_keys_are_taken_away_and_who_came_by_them_is_let_go(node: MemoryNode, path: Path) -> None:
    run(node, path, SECRET.encode())
    client = node.tcp()
    token = jwt.encode({"db": "d", "sub": "a", "exp": EPOCH_2026 + 60}, SECRET)
    client.ask(f"use-db d jwt {token}")
    assert node.post(body("--remove", "--close")) == "valid auth\n;empty;empty;signing-keys \n"
    node.settle()
    assert client.closed


ODD_CURVE = public(EC_KEY).replace(
    b"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcD", b"MFkwEwYHKoZIzj0CAQYI/oZIzj0DAQcD"
)
"""It names a curve that nobody knows."""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (private(RSA_KEY), "holds a private key"),
        (public(EC_KEY) + private(EC_KEY), "holds a private key"),
        (public(ed25519.Ed25519PrivateKey.generate()), "no RSA and no EC key"),
        (public(ec.generate_private_key(ec.SECP521R1())), "P-256"),
        (public(ec.generate_private_key(ec.BrainpoolP256R1())), "no RSA and no EC key"),
        (ODD_CURVE, "no RSA and no EC key"),
        (b"-----BEGIN", "one to 16 signing keys"),
        # With a search to the end for each it would take an hour.
        (b"-----BEGIN PUBLIC KEY-----\n" * 30_000, "one to 16 signing keys"),
        (b"-----BEGIN X-----\nrubbish\n-----END X-----", "no RSA and no EC key"),
        (b"short", "has to have 32 to 4096 bytes"),
        (b"", "has to have 32 to 4096 bytes"),
        (b"{", "a JWK set in JSON"),
        (b"\xff" * 40, "is not text"),
        ((SECRET + ";" + SECRET).encode(), "semicolon"),
        ((SECRET + "\n" + SECRET).encode(), "line break"),
        (b"x" * (1 << 21), "bytes"),
    ],
)
def test_what_cannot_be_used_is_not_sent(path: Path, content: bytes, said: str) -> None:
    path.write_bytes(content)
    with pytest.raises(AskFailed, match=said) as failed:
        body(str(path))
    assert "\n" not in str(failed.value)


def test_a_file_that_is_not_there_is_said(path: Path) -> None:
    with pytest.raises(AskFailed, match="cannot be read: No such file"):
        body(str(path))
