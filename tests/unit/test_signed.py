"""Signed tokens: who gets in by one, what it lets do, and what happens when it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import execute

from nuntwist.core import access
from nuntwist.core.audit import Audit
from nuntwist.core.forwards import PLAIN, Item
from nuntwist.core.outcomes import read_replies
from nuntwist.core.signing import LONGEST_TOKEN, MOST_KEYS, check, keys_from
from nuntwist.errors import CommandError
from nuntwist.files import MemoryFiles
from nuntwist.language.replies import DENIED, NO_DATABASE, Reply
from nuntwist.language.replies import OK as OK_REPLY
from nuntwist.oplog.memory import MemoryOplog
from nuntwist.oplog.segments import FileOplog
from nuntwist.storage.memory import MemoryStorage
from nuntwist.testing import (
    EPOCH_2026,
    USER,
    Connection,
    FrameConnection,
    LineConnection,
    MemoryNode,
)
from tests.unit.copy_pair import CopyPair, trim
from tests.unit.forwarding_set import NO_DATABASE as NOT_SELECTED
from tests.unit.forwarding_set import answers, at, formed, forwarder
from tests.unit.lost import BROKEN, LateNode
from tests.unit.memory_set import MemorySet

SECRET = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba9876543210fedcba9876543210"
NOW = EPOCH_2026
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
OK = "ok \n"
INVALID = "error Invalid token \n"


def claims(**more: Any) -> dict[str, Any]:
    """Of a right token; None takes one away."""
    usual = {"db": "d", "sub": "ana", "exp": NOW + 300, "permissions": "r a*|w b"}
    return {name: value for name, value in (usual | more).items() if value is not None}


def signed(key: Any = SECRET, algorithm: str = "HS256", kid: str | None = None, **more: Any) -> str:
    headers = None if kid is None else {"kid": kid}
    return jwt.encode(claims(**more), key, algorithm, headers=headers)


def jwk(key: Any, **more: Any) -> dict[str, Any]:
    """Of the public half of a private key."""
    algorithm = jwt.algorithms.RSAAlgorithm if key is RSA_KEY else jwt.algorithms.ECAlgorithm
    found: dict[str, Any] = algorithm.to_jwk(key.public_key(), as_dict=True)
    return found | more


def node_with(keys: str = SECRET, **arguments: Any) -> MemoryNode:
    node = MemoryNode(**arguments)
    node.admin(
        "create-db d t", "use-db d t", "set a1 x", "set b y", f"set-signing-keys keep {keys}"
    ).close()
    return node


@pytest.fixture
def node() -> MemoryNode:
    return node_with()


def using(node: MemoryNode, token: str) -> LineConnection:
    client = node.tcp()
    assert client.ask(f"use-db d jwt {token}") == OK
    return client


# -- who gets in --


def test_a_token_lets_do_what_it_says_and_no_more(node: MemoryNode) -> None:
    client = using(node, signed())
    assert client.ask("get a1") == "value x\nok \n"
    assert client.ask("set b z") == OK
    assert "permission denied" in client.ask("set a1 z")
    assert "permission denied" in client.ask("get b")
    assert "permission denied" in client.ask("watch b")
    assert client.ask("watch a1") == OK
    assert client.ask("keys") == "keys ,$connections,a1,b\nok \n"
    assert client.ask("get $$signing_keys").startswith("error To read security keys")


def test_over_http_too(node: MemoryNode) -> None:
    assert node.post(f"use-db d jwt {signed()}; get a1") == "empty;value x\n"
    # It leaves nothing behind that waits for the end of the token.
    assert node.timers() == []


@pytest.mark.parametrize(
    ("key", "algorithm"), [(SECRET, "HS256"), (RSA_KEY, "RS256"), (EC_KEY, "ES256")]
)
def test_each_kind_of_key(key: Any, algorithm: str) -> None:
    keys = SECRET if key is SECRET else json.dumps(jwk(key))
    node = node_with(keys)
    assert using(node, signed(key, algorithm)).ask("get a1") == "value x\nok \n"
    assert node.tcp().ask(f"use-db d jwt {signed(OTHER)}") == INVALID
    admin = node.admin("use-db d t")
    assert admin.ask("get-signing-keys") == f"signing-keys ,{algorithm}\nok \n"


def test_of_several_keys_the_named_one_or_any_that_fits() -> None:
    oct_key = {"kty": "oct", "k": jwt.utils.base64url_encode(SECRET.encode()).decode(), "kid": "h"}
    keys = {"keys": [jwk(RSA_KEY, kid="one"), jwk(EC_KEY, use="sig"), oct_key]}
    node = node_with(json.dumps(keys))
    for token in (
        signed(RSA_KEY, "RS256", "one"),
        signed(RSA_KEY, "RS256"),
        signed(RSA_KEY, "RS256", "renamed"),
        signed(EC_KEY, "ES256"),
        signed(SECRET, "HS256", "h"),
    ):
        using(node, token).close()
    assert node.tcp().ask(f"use-db d jwt {signed(EC_KEY, 'ES256', 'one')}") == INVALID
    admin = node.admin("use-db d t")
    assert admin.ask("get-signing-keys") == "signing-keys ,RS256 one,ES256,HS256 h\nok \n"


def public_pem() -> bytes:
    from cryptography.hazmat.primitives import serialization as s

    return RSA_KEY.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)


def forged_with_the_public_key() -> str:
    """As a careless verifier takes it: HS256, with the text of the public key as the secret."""
    import base64
    import hashlib
    import hmac

    def part(value: dict[str, Any]) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    text = part({"alg": "HS256", "typ": "JWT"}) + b"." + part(claims())
    digest = hmac.new(public_pem(), text, hashlib.sha256).digest()
    return (text + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")).decode()


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "a.b.c",
        "..",
        jwt.encode(claims(), None, "none"),
        jwt.encode(claims(), SECRET * 2, "HS512"),
        signed(OTHER),
        signed(SECRET)[:-2],
        signed(SECRET) + "x" * LONGEST_TOKEN,
        forged_with_the_public_key(),
        jwt.encode(claims(), SECRET, "HS256", headers={"crit": ["x"], "x": 1}),
        jwt.utils.base64url_encode(b"[" * 5000).decode() + ".e30.e30",
    ],
)
@pytest.mark.parametrize("keys", [SECRET, json.dumps(jwk(RSA_KEY)), json.dumps(jwk(EC_KEY)), None])
def test_what_was_not_signed_with_a_key_is_refused(token: str, keys: str | None) -> None:
    node = node_with() if keys is None else node_with(keys)
    if keys is None:
        node.admin("use-db d t", "set-signing-keys keep none").close()
    client = node.tcp()
    assert client.ask(f"use-db d jwt {token}") == INVALID
    assert client.ask("get a1").startswith("error no-db-selected")
    assert node.node.counters.failed_logins == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"exp": NOW}, "the token has expired"),
        ({"exp": NOW - 1e9}, "the token has expired"),
        ({"exp": None}, "the token has no exp"),
        ({"exp": "soon"}, "exp of the token is no time in seconds"),
        ({"exp": True}, "exp of the token is no time in seconds"),
        ({"exp": float("nan")}, "exp of the token is no time in seconds"),
        ({"exp": float("inf")}, "exp of the token is no time in seconds"),
        ({"exp": 10**400}, "exp of the token is no time in seconds"),
        ({"nbf": NOW + 6}, "the token does not count yet"),
        ({"nbf": []}, "nbf of the token is no time in seconds"),
        ({"db": "e"}, "the token is for another database"),
        ({"db": ["e", 1]}, "the token is for another database"),
        ({"db": None}, "the token is for another database"),
        ({"aud": "shop"}, "the token is for another audience than nuntwist"),
        ({"sub": None}, "sub of the token is no name of a user"),
        ({"sub": 7}, "sub of the token is no name of a user"),
        ({"sub": ""}, "sub of the token is no name of a user"),
        ({"sub": "a b"}, "sub of the token is no name of a user"),
        ({"sub": "a\x00"}, "sub of the token is no name of a user"),
        ({"sub": "\ud800"}, "sub of the token is no name of a user"),
        ({"sub": "x" * 257}, "sub of the token is no name of a user"),
        ({"sub": "all"}, "no user can be called all"),
        ({"sub": "jwt"}, "no user can be called jwt"),
        ({"permissions": "q *"}, "permissions of the token: invalid permission list"),
        ({"permissions": ["r *"]}, "permissions of the token: invalid permission list"),
        ({"permissions": "r \n"}, "permissions of the token: invalid permission list"),
    ],
)
def test_who_has_a_signed_token_is_told_what_is_wrong_with_it(
    node: MemoryNode, wrong: dict[str, Any], said: str
) -> None:
    client = node.tcp()
    assert client.ask(f"use-db d jwt {signed(**wrong)}") == f"error {said} \n"
    assert client.ask("get a1").startswith("error no-db-selected")
    # It is no guess: an address with many visitors is not locked out by old tokens.
    assert node.node.counters.failed_logins == 0


def test_claims_that_are_no_object_are_refused(node: MemoryNode) -> None:
    token = jwt.api_jws.encode(b"[1]", SECRET, "HS256")
    assert (
        node.tcp().ask(f"use-db d jwt {token}") == "error the claims of the token are not JSON \n"
    )


@pytest.mark.parametrize(
    "more",
    [
        {"db": ["e", "d"]},
        {"aud": "nuntwist"},
        {"aud": ["x", "nuntwist"]},
        {"nbf": NOW + 4},
        {"iat": NOW + 1e6, "iss": "me", "jti": "1"},
        {"sub": "anä"},
        {"exp": NOW + 0.5},
    ],
)
def test_what_else_a_right_token_may_say(node: MemoryNode, more: dict[str, Any]) -> None:
    using(node, signed(**more))


@settings(max_examples=300)
@given(st.binary(max_size=300), st.binary(max_size=300), st.booleans())
def test_no_token_does_more_than_be_refused(head: bytes, rest: bytes, encoded: bool) -> None:
    keys = keys_from(SECRET.encode())
    if encoded:
        head, rest = map(jwt.utils.base64url_encode, (head, rest))
    assert check(head + b"." + rest + b"." + rest, keys, b"d", NOW) is None


@settings(max_examples=300)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    ),
    st.sampled_from(["db", "sub", "exp", "nbf", "aud", "permissions", "kid", "b64"]),
)
def test_claims_of_any_kind_are_taken_or_refused(value: Any, name: str) -> None:
    try:
        text = json.dumps(claims() | {name: value}).encode()
    except ValueError:
        return
    token = jwt.api_jws.encode(text, SECRET, "HS256").encode()
    try:
        found = check(token, keys_from(SECRET.encode()), b"d", NOW)
    except CommandError:
        return
    assert found is not None
    assert found.expires > NOW


# -- permissions --


def test_without_permissions_of_its_own_those_of_the_user_count(node: MemoryNode) -> None:
    client = using(node, signed(permissions=None))
    assert "permission denied" in client.ask("get a1")
    admin = node.admin("use-db d t", "set-permissions ana r *")
    assert client.ask("get a1") == "value x\nok \n"
    assert client.ask("watch a1") == OK
    admin.ask("set-permissions ana r b*")
    assert client.received() == "unwatched a1\n"


def test_permissions_of_its_own_are_the_last_word(node: MemoryNode) -> None:
    client = using(node, signed())
    client.ask("watch a1")
    node.admin("use-db d t", "set-permissions ana w *", "set-permissions all w *").close()
    assert client.received() == ""
    assert client.ask("get a1") == "value x\nok \n"
    assert "permission denied" in using(node, signed(permissions="")).ask("get a1")


def test_only_who_has_the_letter_is_an_arbiter(node: MemoryNode) -> None:
    node.admin("create-db e t arbiter", "use-db e t", f"set-signing-keys keep {SECRET}").close()

    def arbiter(listed: str) -> str:
        client = node.tcp()
        client.ask(f"use-db e jwt {signed(db='e', permissions=listed)}")
        return client.ask("arbiter")

    assert "permission denied" in arbiter("rw *")
    assert arbiter("a *") == OK


# -- the end of a token --


@pytest.fixture
def watcher(node: MemoryNode) -> Iterator[FrameConnection]:
    client = node.ws()
    assert client.ask(f"use-db d jwt {signed()}") == [OK]
    assert client.ask("watch a1") == [OK]
    yield client
    client.close()
    # Nothing waits for it any more.
    assert node.timers() == []


def change(node: MemoryNode, value: str) -> None:
    node.admin("use-db d t", f"set a1 {value}").close()
    node.settle()


def test_the_end_is_announced_and_then_watches_stop(
    node: MemoryNode, watcher: FrameConnection
) -> None:
    node.clock.advance(239)
    assert watcher.received() == []
    node.clock.advance(1)
    assert watcher.received() == ["token-expiring 60\n"]
    change(node, "y")
    assert watcher.received()[0] == "changed a1 y\n"
    node.clock.advance(59)
    assert watcher.received() == []
    node.clock.advance(1)
    assert watcher.received() == ["token-expired d\n"]
    change(node, "z")
    assert watcher.received() == []
    assert watcher.ask("get a1")[0] == "error no-db-selected\n"
    assert node.node.counters.tokens_expired == 1
    connections = node.admin("use-db d t")
    assert connections.ask("get $connections") == "value 1\nok \n"
    # It may come again.
    assert watcher.ask(f"use-db d jwt {signed(exp=NOW + 1000)}") == [OK]
    assert watcher.ask("get a1")[0] == "value z\n"


def test_a_new_token_goes_on_without_a_gap(node: MemoryNode, watcher: FrameConnection) -> None:
    for number in range(1, 6):
        node.clock.advance(240)
        assert watcher.received() == ["token-expiring 60\n"]
        change(node, f"{number}")
        heard = watcher.received()
        # One that is used more than once, and just before it the change.
        token = signed(exp=NOW + 300 + number * 240)
        heard += [*watcher.ask(f"use-db d jwt {token}"), *watcher.ask(f"use-db d jwt {token}")]
        change(node, f"{number}.5")
        heard += watcher.received()
        assert [text for text in heard if text.startswith("changed ")] == [
            f"changed a1 {number}\n",
            f"changed a1 {number}.5\n",
        ]
        assert heard.count(OK) == 2
    assert node.node.counters.tokens_expired == 0
    node.clock.advance(300)
    assert watcher.received() == ["token-expiring 60\n", "token-expired d\n"]


def test_a_short_token_is_announced_when_half_of_it_is_over(node: MemoryNode) -> None:
    client = using(node, signed(exp=NOW + 10))
    node.clock.advance(5)
    assert client.received() == "token-expiring 5\n"
    node.clock.advance(5)
    assert client.received() == "token-expired d\n"


def test_a_long_token_is_looked_at_and_goes_on(node: MemoryNode) -> None:
    client = using(node, signed(exp=NOW + 86_400))
    node.clock.advance(86_400 - 61)
    assert client.received() == ""
    node.clock.advance(61)
    assert client.received() == "token-expiring 60\ntoken-expired d\n"


def test_a_clock_that_is_set_is_noticed_within_a_minute(node: MemoryNode) -> None:
    client = using(node, signed(exp=NOW + 86_400))
    wall = node.node.wall
    node.node.wall = lambda: wall() + 90_000
    node.clock.advance(60)
    assert client.received() == "token-expired d\n"


def test_a_new_token_that_allows_less_ends_watches(
    node: MemoryNode, watcher: FrameConnection
) -> None:
    watcher.ask("unwatch a1")
    watcher.ask("watch a2")
    watcher.ask("watch a1")
    token = signed(exp=NOW + 600, permissions="r a2")
    assert watcher.ask(f"use-db d jwt {token}") == ["unwatched a1\n", OK]
    change(node, "y")
    assert watcher.received() == []


def test_a_wrong_token_takes_nothing_away(node: MemoryNode, watcher: FrameConnection) -> None:
    assert watcher.ask(f"use-db d jwt {signed(OTHER)}") == [INVALID]
    assert watcher.ask(f"use-db d jwt {signed(exp=NOW - 1)}") == ["error the token has expired \n"]
    assert watcher.ask("get a1")[0] == "value x\n"
    node.clock.advance(240)
    assert watcher.received() == ["token-expiring 60\n"]


def test_who_logs_in_otherwise_has_no_token_any_more(
    node: MemoryNode, watcher: FrameConnection
) -> None:
    assert watcher.ask("use-db d t") == [OK]
    node.clock.advance(1000)
    change(node, "y")
    assert watcher.received()[0] == "changed a1 y\n"
    assert watcher.ask("set a1 z") != []


def test_who_has_selected_another_one_watches_as_long_as_the_token_counts(
    node: MemoryNode, watcher: FrameConnection
) -> None:
    node.admin("create-db e t").close()
    watcher.ask("use-db e t")
    change(node, "y")
    assert watcher.received()[0] == "changed a1 y\n"
    node.clock.advance(300)
    assert watcher.received() == ["token-expiring 60\n", "token-expired d\n"]
    change(node, "z")
    assert watcher.received() == []
    assert watcher.ask("set k v") == [OK]


def test_who_watches_nothing_and_selects_another_one_has_no_token_any_more(
    node: MemoryNode, watcher: FrameConnection
) -> None:
    watcher.ask("unwatch-all")
    node.admin("create-db e t").close()
    watcher.ask("use-db e t")
    node.clock.advance(300)
    assert watcher.received() == []


def test_a_database_that_is_dropped_takes_its_tokens_with_it(
    node: MemoryNode, watcher: FrameConnection
) -> None:
    node.admin("drop-db d").close()
    watcher.received()
    assert node.timers() == []
    node.clock.advance(1000)
    assert watcher.received() == []


# -- the keys --


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("x" * 31, "the secret of signed tokens has to have 32 to 4096 bytes"),
        ("x" * 4097, "the secret of signed tokens has to have 32 to 4096 bytes"),
        ("-----BEGIN PUBLIC KEY----- abc", "a key in PEM has to be made a JWK"),
        ("{", "signing keys are a JWK set in JSON, or a secret"),
        ('{"keys":7}', "signing keys are a JWK set in JSON, or a secret"),
        ('{"keys":[7]}', "signing keys are a JWK set in JSON, or a secret"),
        ('{"keys":[]}', "there have to be one to 16 signing keys"),
        ('{"kty":"OKP"}', "a signing key has to be of the kty oct, RSA or EC"),
        ('{"kty":"RSA"}', "a signing key cannot be read"),
        ('{"kty":"oct","k":"aGk"}', "the secret of signed tokens has to have 32 to 4096 bytes"),
        (json.dumps(jwk(RSA_KEY, alg="RS512")), "a signing key of the kty RSA is for RS256"),
        (json.dumps(jwk(RSA_KEY, d="x")), "a signing key is a private key"),
        (json.dumps(jwk(RSA_KEY, kid=7)), "the kid of a signing key is a word"),
        (json.dumps(jwk(RSA_KEY, use="enc")), "there have to be one to 16 signing keys"),
        (
            json.dumps({"keys": [jwk(RSA_KEY)] * (MOST_KEYS + 1)}),
            "there have to be one to 16 signing keys",
        ),
        (
            json.dumps(
                jwt.algorithms.ECAlgorithm.to_jwk(
                    ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True
                )
            ),
            "an EC key has to be on the curve P-256",
        ),
        (
            json.dumps(
                jwt.algorithms.RSAAlgorithm.to_jwk(
                    rsa.generate_private_key(65537, 1024).public_key(), as_dict=True
                )
            ),
            "an RSA key has to have 2048 bits or more",
        ),
    ],
)
def test_keys_that_cannot_be_used_are_refused(node: MemoryNode, keys: str, said: str) -> None:
    admin = node.admin("use-db d t")
    answer = admin.ask(f"set-signing-keys keep {keys}")
    assert answer.startswith(f"error {said}")
    assert answer.count("\n") == 1
    # Those from before still count.
    using(node, signed())


def test_only_an_admin_sets_keys_and_only_this_way(node: MemoryNode) -> None:
    client = node.tcp()
    client.ask("use-db d t")
    assert client.ask(f"set-signing-keys keep {SECRET}") == "error Not auth \n"
    assert client.ask("get-signing-keys") == "error Not auth \n"
    admin = node.admin("use-db d t")
    said = "error set-signing-keys sets the keys of signed tokens \n"
    assert admin.ask("set $$signing_keys x") == said
    assert admin.ask("remove $$signing_keys") == said
    assert admin.ask("replicate d $$signing_keys 7 x") == said
    assert admin.ask("set-signing-keys later x").startswith("error set-signing-keys takes keep")
    assert admin.ask(f"use-db $admin {node.node.info.password.decode()}") == OK
    assert admin.ask(f"set-signing-keys keep {SECRET}") == "error $admin takes no signed tokens \n"


def test_other_keys_count_at_once_and_let_go_on_demand(node: MemoryNode) -> None:
    client, other = using(node, signed()), node.tcp()
    other.ask("use-db d t")
    admin = node.admin("use-db d t")
    assert admin.ask(f"set-signing-keys keep {OTHER}") == OK
    assert client.ask("get a1") == "value x\nok \n"
    assert node.tcp().ask(f"use-db d jwt {signed()}") == INVALID
    again = using(node, signed(OTHER))
    assert admin.ask("set-signing-keys close none") == OK
    node.settle()
    assert (client.closed, again.closed, other.closed) == (True, True, False)
    assert admin.ask("get-signing-keys") == "signing-keys \nok \n"
    assert admin.ask("set-signing-keys keep none") == OK


def test_a_user_that_is_dropped_is_let_go_also_where_it_came_by_a_token(node: MemoryNode) -> None:
    client, other = using(node, signed()), using(node, signed(sub="bob"))
    node.admin("use-db d t", "create-user ana x", "drop-user ana").close()
    node.settle()
    assert (client.closed, other.closed) == (True, False)


def test_the_secret_is_nowhere_in_clear(node: MemoryNode) -> None:
    disk = MemoryFiles()
    node = node_with(oplog=FileOplog(disk, 1, execute))
    admin = node.admin("use-db d t")
    assert admin.ask("get $$signing_keys") == "value <hidden>\nok \n"
    kept = node.node.catalogue.by_name[b"d"].value(b"$$signing_keys") or b""
    assert kept.startswith(b"$sealed$")
    encoded = jwt.utils.base64url_encode(SECRET.encode())
    for secret in (SECRET.encode(), encoded):
        assert secret not in kept
        assert not any(secret in content for content in disk.contents.values())
    assert any(kept in content for content in disk.contents.values())


def test_keys_outlive_a_restart_and_not_another_password() -> None:
    oplog, storage = MemoryOplog(), MemoryStorage()
    node_with(oplog=oplog, storage=storage)
    using(MemoryNode(oplog=oplog, storage=storage), signed())
    changed = MemoryNode(oplog=oplog, storage=storage, password="another")
    for _ in range(2):
        assert changed.tcp().ask(f"use-db d jwt {signed()}") == INVALID
    admin = changed.tcp()
    assert admin.ask(f"auth {USER} another") == "valid auth\nok \n"
    assert admin.ask("use-db d another") == OK
    assert admin.ask("get-signing-keys") == (
        "error the signing keys cannot be opened here: set them again \n"
    )
    admin.ask(f"set-signing-keys keep {SECRET}")
    using(changed, signed())


# -- in a set --


def set_with_keys() -> MemorySet:
    nodes = formed()
    admin = nodes.nodes[1].admin("use-db d t")
    for command in ("set a1 x", "set b y", f"set-signing-keys keep {SECRET}"):
        assert answers(nodes, admin, command) == OK
    return nodes


def test_on_a_secondary_a_token_lets_do_the_same() -> None:
    nodes = set_with_keys()
    token = signed(exp=EPOCH_2026 + nodes.clock.seconds() + 100)
    client = at(nodes, 2, f"use-db d jwt {token}")
    assert client.ask("watch a1") == OK
    assert answers(nodes, client, "set b z") == OK
    assert answers(nodes, client, "increment b").startswith("permission denied")
    # Another one at the same time, as the same user, and with other rights.
    other = at(nodes, 2, f"use-db d jwt {signed(exp=NOW + 1000, permissions='w c')}")
    for one, key in ((client, "b"), (other, "c"), (other, "b"), (client, "c")):
        one.send(f"set {key} 1")
    nodes.run(0.1)
    assert client.received().startswith("ok \npermission denied")
    assert other.received().startswith("ok \npermission denied")
    nodes.run(100.0)
    assert client.received().endswith("token-expired d\n")


def test_the_primary_looks_at_the_rights_once_more() -> None:
    nodes = set_with_keys()
    number = nodes.nodes[1].node.catalogue.by_name[b"d"].number
    heard: list[Reply] = []
    # As of a secondary that has let through what it should not have, and of a later version.
    items = [
        Item(number, b"ana", False, b"set %b 1" % key, rights)
        for key, rights in ((b"b", b"w b"), (b"c", b"w b"), (b"b", b"q *"), (b"b", None))
    ]
    nodes.forwards[1]._executor.run(
        3, PLAIN, 1 << 62, items, lambda _, data: heard.extend(read_replies(data))
    )
    nodes.run(0.1)
    assert heard == [OK_REPLY, DENIED, DENIED, DENIED]
    reader = nodes.nodes[1].admin("use-db d t")
    assert [reader.ask(f"get {key}") for key in "bc"] == [
        "value 1\nok \n",
        "value <Empty>\nok \n",
    ]


@pytest.mark.parametrize(("seconds", "counts"), [(0.5, False), (100.0, True)])
def test_a_write_that_waited_for_a_primary_beyond_the_end_of_its_token_is_refused(
    seconds: float, counts: bool
) -> None:
    nodes = set_with_keys()
    # Long enough for an election.
    for me in (2, 3):
        forwarder(nodes, me)._wait = 20.0
    end = EPOCH_2026 + nodes.clock.seconds() + seconds
    mine = at(nodes, 2, f"use-db d jwt {signed(exp=end, permissions='rw b')}")
    other = at(nodes, 2)
    nodes.kill(1)
    mine.send("set b late\nget b")
    other.send("set c kept")
    nodes.run(0.2)
    assert (mine.received(), other.received()) == ("", "")
    nodes.run(5.0)
    assert nodes.primary() != 1
    assert other.received() == OK
    heard = mine.received()
    if counts:
        assert heard == f"{OK}value late\n{OK}"
    else:
        # It is told of the end when that comes, and is answered when there is a primary.
        assert heard.endswith(f"token-expired d\n{NOT_SELECTED * 2}")
    reader = at(nodes, 3)
    assert reader.ask("get b") == f"value {'late' if counts else 'y'}\nok \n"


def test_the_primary_looks_at_the_end_of_a_token() -> None:
    nodes = set_with_keys()
    number = nodes.nodes[1].node.catalogue.by_name[b"d"].number
    heard: list[Reply] = []
    now = EPOCH_2026 + nodes.clock.seconds()
    items = [
        Item(number, b"ana", admin, b"set b 1", rights, until)
        for admin, rights, until in (
            (False, b"w b", now + 1.0),
            (False, b"w b", now),
            (False, None, now - 1.0),
            (True, b"w b", now - 1.0),
        )
    ]
    nodes.forwards[1]._executor.run(
        3, PLAIN, 1 << 62, items, lambda _, data: heard.extend(read_replies(data))
    )
    nodes.run(0.1)
    # As for whoever has not selected a database, an admin too.
    assert heard == [OK_REPLY, NO_DATABASE, NO_DATABASE, NO_DATABASE]


def test_keys_are_changed_from_any_node_and_let_go_on_all() -> None:
    nodes = set_with_keys()
    clients = [at(nodes, me, f"use-db d jwt {signed(exp=NOW + 1000)}") for me in (1, 2, 3)]
    admin = nodes.nodes[3].admin("use-db d t")
    assert answers(nodes, admin, f"set-signing-keys close {OTHER}") == OK
    nodes.run(0.1)
    assert [client.closed for client in clients] == [True] * 3
    again = nodes.nodes[2].tcp()
    assert again.ask(f"use-db d jwt {signed(OTHER, exp=NOW + 1000)}") == OK


# -- the audit --


def test_the_audit_names_who_came_and_no_token(node: MemoryNode) -> None:
    from twisted.logger import globalLogPublisher

    events: list[Any] = []
    observer = lambda event: events.append(event)  # noqa: E731
    globalLogPublisher.addObserver(observer)
    try:
        node.node.pipeline.deciding.audit = Audit(node.node.catalogue)
        token = signed()
        node.tcp().ask(f"use-db d jwt {token}")
        node.tcp().ask(f"use-db d jwt {signed(OTHER)}")
        node.admin("use-db d t", f"set-signing-keys keep {OTHER}")
    finally:
        globalLogPublisher.removeObserver(observer)
    told = [
        (event["who"], event["arguments"], event["outcome"])
        for event in events
        if event.get("log_namespace") == "nuntwist.audit"
    ]
    assert told[0] == ("signed ana", "d jwt ***", "ok")
    assert told[1] == ("nobody", "d jwt ***", "error Invalid token")
    assert ("admin", "keep ***", "ok") in told
    assert not any(secret in str(told) for secret in (token, OTHER))


# -- what an end must not do --


def test_a_request_over_http_that_lasts_ends_with_its_token(node: MemoryNode) -> None:
    for _ in range(12):
        node.tcp().ask("use-db d wrong")
    body = f"use-db d jwt {signed(exp=NOW + 3)}; {'use-db d wrong; ' * 6}get a1; set b owned"
    connection = Connection(node, node.site)
    connection.deliver(
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body.encode())
    )
    node.clock.advance(200)
    answer = connection.taken().decode()
    assert "error no-db-selected" in answer
    assert "value x" not in answer
    assert node.admin("use-db d t").ask("get b") == "value y\nok \n"


@pytest.mark.parametrize("what", ["end", "signed out"])
def test_an_end_does_not_change_what_became_of_a_write_before_it(what: str) -> None:
    node = LateNode()
    node.admin("use-db d t", f"set-signing-keys keep {SECRET}")
    client = using(node, signed(exp=NOW + 10))
    assert client.ask("watch a1") == OK
    node.threads.hold = True
    client.send("set b late")
    client.send("get b")
    if what == "signed out":
        node.threads.hold = False
        admin_closes(node)
        node.threads.hold = True
    node.clock.advance(11)
    # The answer waits for the disk, and so does what comes after it.
    assert client.received() == ""
    while node.threads.busy:
        node.threads.fail_one()
    node.settle()
    heard = client.received()
    assert heard.startswith(BROKEN)
    assert "no-db" not in heard
    if what == "end":
        assert heard.endswith("token-expired d\n")
        assert "no-db-selected" in client.ask("get b")
    else:
        assert client.closed


def admin_closes(node: MemoryNode) -> None:
    """As the operation that signs out does, which would wait for the same disk."""
    database = node.node.catalogue.by_name[b"d"]
    access._sign_out(node.node, database, b"ana")


def test_keys_that_cannot_be_opened_are_not_the_visitors_fault() -> None:
    oplog, storage = MemoryOplog(), MemoryStorage()
    node_with(oplog=oplog, storage=storage)
    changed = MemoryNode(oplog=oplog, storage=storage, password="another")
    for _ in range(20):
        assert changed.tcp().ask(f"use-db d jwt {signed()}") == INVALID
    assert changed.node.counters.failed_logins == 0


def test_keys_in_clear_are_not_used() -> None:
    """As an import of a file that was written by hand brings them."""
    node = node_with(json.dumps(jwk(RSA_KEY)))
    database = node.node.catalogue.by_name[b"d"]
    oct_key = {"kty": "oct", "k": jwt.utils.base64url_encode(SECRET.encode()).decode()}
    text = json.dumps({"keys": [oct_key]}).encode()
    database.store((text, 5, database.last_index, 0, 0, database.number, b"$$signing_keys"))
    assert node.tcp().ask(f"use-db d jwt {signed()}") == INVALID


def test_a_token_does_not_outlive_what_it_was_for(node: MemoryNode) -> None:
    client = using(node, signed(permissions=None))
    admin = node.admin("create-db e t", "use-db d t", "set-permissions ana r *")
    client.ask("watch a1")
    client.ask("use-db e t")
    admin.ask("set-permissions ana r b*")
    assert client.received() == "unwatched a1\n"
    assert client.protocol.client.signed == {}
    admin.ask("drop-db d")
    for command in ("create-db d t", "use-db d t", f"set-signing-keys keep {SECRET}"):
        admin.ask(command)
    assert client.ask(f"use-db d jwt {signed(exp=NOW + 3000)}") == OK
    node.clock.advance(400)
    assert client.received() == ""


def test_who_was_signed_out_while_a_node_was_away_is_let_go_by_a_copy() -> None:
    pair = CopyPair()
    pair.fill(50)
    pair.admin.ask("use-db d t")
    pair.admin.ask(f"set-signing-keys keep {SECRET}")
    pair.connect()
    pair.run(20)
    end = pair.secondary.node.wall() + 100_000
    visitor, plain, other = pair.secondary.tcp(), pair.secondary.tcp(), pair.secondary.tcp()
    assert visitor.ask(f"use-db d jwt {signed(exp=end)}") == OK
    assert plain.ask("use-db d t") == OK
    pair.disconnect()
    pair.admin.ask("set-signing-keys close none")
    pair.admin.ask("set-token close newer")
    for number in range(200):
        pair.admin.send(f"set z{number} {'y' * 200}")
    pair.begin_reign()
    trim(pair.primary)
    assert pair.primary.oplog.first > pair.secondary.oplog.last.index
    pair.connect()
    pair.run(30)
    assert pair.placed == 2
    assert (visitor.closed, plain.closed, other.closed) == (True, True, False)
