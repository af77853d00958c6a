"""Patterns and permission lists; who may do what to which key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuntwist.core.permissions import Permissions, matches
from nuntwist.errors import CommandError
from nuntwist.testing import LineConnection, MemoryNode

DENIED = "permission denied\nerror permission denied\n \n"
SECURE = "error To read security keys you must auth as an admin! \n"
KEYS = st.text("ab*,", max_size=6).map(str.encode)


# -- patterns --


@given(KEYS, KEYS)
def test_patterns(text: bytes, key: bytes) -> None:
    plain = text.replace(b"*", b"")
    assert matches(plain + b"*", key) == key.startswith(plain)
    if plain:
        assert matches(b"*" + plain, key) == key.endswith(plain)
        assert matches(plain, key) == (plain in key)
    assert matches(b"*", key)


# -- lists --


def allowed(listed: str, key: str) -> str:
    permissions = Permissions(listed.encode())
    return "".join(letter for letter in "rwix" if permissions.allow(letter.encode(), key.encode()))


@pytest.mark.parametrize(
    ("listed", "key", "letters"),
    [
        ("rw some*,other|i count|r *", "something", "rw"),
        ("rw some*,other|i count|r *", "another", "rw"),
        ("rw some*,other|i count|r *", "count", "ri"),
        ("rw some*,other|i count|r *", "x", "r"),
        ("r *a", "ba", "r"),
        ("r *a", "ab", ""),
        ("x *|w *", "k", "wx"),
        ("xiwr *", "k", "rwix"),
        (" rw  a*,b ", "abc", "rw"),
        ("r a*|", "a", None),
        ("rq *", "a", None),
        ("rqr *", "a", None),
        ("r", "a", None),
        ("*", "a", None),
        ("|", "a", None),
        ("R *", "a", None),
        ("r ,", "a", None),
        ("", "a", ""),
    ],
)
def test_lists(listed: str, key: str, letters: str | None) -> None:
    if letters is None:
        with pytest.raises(CommandError):
            allowed(listed, key)
    else:
        assert allowed(listed, key) == letters


@given(st.text("rwixq |,*ab", max_size=20).map(str.encode), KEYS)
def test_any_list_is_read_or_refused(text: bytes, key: bytes) -> None:
    try:
        permissions = Permissions(text)
    except CommandError:
        return
    for letter in (b"r", b"w", b"i", b"x"):
        assert permissions.allow(letter, key) in (True, False)


# -- over connections --


@pytest.fixture
def node() -> MemoryNode:
    node = MemoryNode()
    node.admin(
        "create-db d t", "use-db d t", "set a 1", "set n 1", "create-user ana secret"
    ).close()
    return node


def as_user(node: MemoryNode, name: str = "ana secret") -> LineConnection:
    client = node.tcp()
    assert client.ask(f"use-db d {name}") == "ok \n"
    return client


COMMANDS = {
    "r": ["get a", "get-safe a", "watch a"],
    "w": ["set a 2", "set-safe a 9 x"],
    "i": ["increment n", "increment n 2"],
    "x": ["remove a"],
}


@pytest.mark.parametrize("letter", COMMANDS)
def test_a_letter_allows_its_commands_and_no_others(node: MemoryNode, letter: str) -> None:
    node.admin("use-db d t", f"set-permissions ana {letter} *").close()
    for needed, commands in COMMANDS.items():
        for command in commands:
            answer = as_user(node).ask(command)
            if needed == letter:
                assert answer.endswith("ok \n")
                assert "denied" not in answer
            else:
                assert answer == DENIED


def test_a_user_may_only_list_until_permissions_are_set(node: MemoryNode) -> None:
    ana = as_user(node)
    assert ana.ask("keys") == "keys ,$connections,a,n\nok \n"
    for commands in COMMANDS.values():
        for command in commands:
            assert ana.ask(command) == DENIED
    assert ana.ask("get $connections") == DENIED
    node.admin("use-db d t", "set-permissions ana r *").close()
    assert ana.ask("get a") == "value 1\nok \n"
    node.admin("use-db d t", "remove $$permission_$ana").close()
    assert ana.ask("get a") == DENIED


def test_permissions_of_one_are_not_those_of_another(node: MemoryNode) -> None:
    node.admin("use-db d t", "create-user bob hidden", "set-permissions ana rwix *").close()
    assert as_user(node).ask("set a 2") == "ok \n"
    assert as_user(node, "bob hidden").ask("get a") == DENIED
    assert as_user(node, "t").ask("get a") == "value 2\nok \n"


def test_all_limits_the_database_token_and_not_users(node: MemoryNode) -> None:
    node.admin("use-db d t", "set-permissions all r a*", "set-permissions ana w *").close()
    everybody = as_user(node, "t")
    assert everybody.ask("get a") == "value 1\nok \n"
    assert everybody.ask("get n") == DENIED
    assert everybody.ask("set a 2") == DENIED
    assert as_user(node).ask("get a") == DENIED
    assert as_user(node).ask("set a 2") == "ok \n"
    node.admin("use-db d t", "remove $$permission_$all").close()
    assert everybody.ask("set a 3") == "ok \n"


def test_permissions_hold_on_all_transports(node: MemoryNode) -> None:
    node.admin("use-db d t", "set-permissions ana r *").close()
    framed = node.ws()
    framed.ask("use-db d ana secret")
    assert framed.ask("set a 2") == ["permission denied\n", "error permission denied\n \n"]
    assert framed.ask("get a") == ["value 1\n", "ok \n"]
    assert node.post("use-db d ana secret; set a 2; get a") == (
        "empty;permission denied\n;value 1\n"
    )


def test_secure_keys_are_an_admins(node: MemoryNode) -> None:
    node.admin("use-db d t", "set-permissions ana rwix *", "set-permissions all rwix *").close()
    for client in (as_user(node), as_user(node, "t")):
        for key in ("$$token", "$$user_ana", "$$permission_$ana", "$$note"):
            for command in ("get", "get-safe", "set", "increment", "remove", "watch"):
                assert client.ask(f"{command} {key}") == SECURE
            assert client.ask(f"set-safe {key} 1 v") == SECURE
        assert client.ask("create-user eve x") == "error Not auth \n"
        assert client.ask("set-permissions ana rwix *") == "error Not auth \n"
        assert "$$" not in client.ask("keys") + client.ask("keys $$*") + client.ask("keys token")


def test_an_admin_sees_and_may_do_everything(node: MemoryNode) -> None:
    admin = node.admin("use-db d t", "set-permissions all r nothing")
    assert admin.ask("set a 2") == "ok \n"
    assert admin.ask("keys $$*") == "keys ,$$permission_$all,$$token,$$user_ana\nok \n"
    assert admin.ask("get $$user_ana") == "value <hidden>\nok \n"
    assert admin.ask("get-safe $$token") == "value-version 0 <hidden>\nok \n"
    assert admin.ask("get $$permission_$all") == "value r nothing\nok \n"


def test_a_wrong_name_and_a_wrong_token_look_the_same(node: MemoryNode) -> None:
    client = node.tcp()
    for text in ("use-db d ana wrong", "use-db d nobody secret", "use-db d wrong"):
        assert client.ask(text) == "error Invalid token \n"
    assert client.ask("get a").startswith("error no-db-selected\n")


def test_a_wrong_token_leaves_the_selection_as_it_was(node: MemoryNode) -> None:
    client = as_user(node, "t")
    assert client.ask("use-db d wrong") == "error Invalid token \n"
    assert client.ask("get a") == "value 1\nok \n"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("$$token", "taken"),
        ("$$user_ana", "taken"),
        ("$$permission_$ana", "rwix *"),
        ("$connections", "99"),
    ],
)
def test_resolve_is_no_way_around(node: MemoryNode, key: str, value: str) -> None:
    before = node.node.catalogue.by_name[b"d"].value(key.encode())
    client = as_user(node, "t")
    client.send(f"set $conflicts_{key}_1 x\nresolve 1 d {key} 5 {value}")
    after = node.node.catalogue.by_name[b"d"].value(key.encode())
    if key == "$connections":
        before = b"1"
    assert after == before


def test_resolve_needs_the_right_to_write(node: MemoryNode) -> None:
    admin = node.admin(
        "create-db c t arbiter", "use-db c t", "create-user ana secret", "set-permissions ana r *"
    )
    arbiter, ana = node.tcp(), node.tcp()
    arbiter.send("use-db c t\narbiter\nset-safe k 5 v\nset-safe k 1 w")
    number = arbiter.received().rpartition("_")[2].split()[0]
    ana.send(f"use-db c ana secret\nresolve {number} c k 5 chosen by a reader")
    assert ana.received() == "ok \n" + DENIED
    assert admin.ask("get k") == "value v\nok \n"


@pytest.mark.parametrize("command", ["set {} x", "set-safe {} 1 x", "increment {} 1", "remove {}"])
def test_conflict_keys_are_the_servers(node: MemoryNode, command: str) -> None:
    refused = "error conflict keys cannot be changed: an arbiter resolves them \n"
    client = as_user(node, "t")
    client.received()
    for key in ("$conflicts_k_1", "$conflicts_"):
        assert client.ask(command.format(key)) == refused
        assert node.admin("use-db d t").ask(command.format(key)) == refused
        assert client.ask(f"get {key}") == "value <Empty>\nok \n"
