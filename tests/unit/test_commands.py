"""What each command answers and does, over a connection to a node in memory."""

from __future__ import annotations

import json

import pytest

from nuntwist.testing import LineConnection, MemoryNode

NO_DB = "error no-db-selected\nerror error no-db-selected\n \n"
SECURE = "error To read security keys you must auth as an admin! \n"
DENIED = "permission denied\nerror permission denied\n \n"


@pytest.fixture
def node() -> MemoryNode:
    node = MemoryNode()
    node.admin("create-db d t", "create-db n t newer", "create-db c t arbiter").close()
    return node


ALONE = "error this node is alone: start it with NUN_REPLICATE_ADDR to be in a set \n"


def user(node: MemoryNode, *commands: str) -> LineConnection:
    """A connection with the database d selected and some commands run."""
    connection = node.tcp()
    for command in ("use-db d t", *commands):
        connection.send(command)
    connection.received()
    return connection


# -- databases -----------------------------------------------------------------------------------


def test_create_db_refuses_names_that_could_not_be_used(node: MemoryNode) -> None:
    admin = node.admin()
    assert admin.ask("create-db $x t") == "error invalid database name: $x \n"
    assert admin.ask("create-db a|b t") == "error invalid database name: a|b \n"


def test_drop_db(node: MemoryNode) -> None:
    client, admin = user(node, "set k v", "watch k"), node.admin()
    assert admin.ask("drop-db nope") == "error Not a valid database name \n"
    assert admin.ask("drop-db d") == "drop-db success\nok \n"
    assert client.received() == ""
    assert client.ask("get k") == NO_DB
    assert client.ask("use-db d t") == "error Not a valid database name \n"
    assert admin.ask("drop-db $admin") == "error $admin cannot be dropped \n"


def test_a_database_made_again_is_another_one(node: MemoryNode) -> None:
    client, admin = user(node, "set k v", "watch k"), node.admin()
    first = node.node.catalogue.by_name[b"d"].number
    admin.send("drop-db d\ncreate-db d other")
    assert node.node.catalogue.by_name[b"d"].number != first
    other = node.tcp()
    assert other.ask("use-db d t") == "error Invalid token \n"
    assert other.ask("use-db d other") == "ok \n"
    assert other.ask("get k") == "value <Empty>\nok \n"
    other.send("set k 2")
    assert client.received() == ""


def test_drop_db_needs_admin(node: MemoryNode) -> None:
    assert user(node).ask("drop-db d") == "error Not auth \n"


def test_admin_database_lists_databases(node: MemoryNode) -> None:
    client = node.tcp()
    assert client.ask("use-db $admin wrong") == "error Invalid token \n"
    assert client.ask("use-db $admin nun-pwd") == "ok \n"
    assert client.ask("keys") == "keys ,$admin,$connections,c,d,n\nok \n"
    assert client.ask("get d") == "value {}\nok \n"
    assert client.ask("set d x") == "error d is a database: its key cannot be changed \n"
    assert client.ask("remove d") == "error d is a database: its key cannot be changed \n"
    assert client.ask("set note x") == "ok \n"
    assert client.ask("watch e") == "ok \n"
    node.admin("create-db e t")
    assert client.received() == "changed e {}\nchanged-version e 0 {}\n"
    node.admin("drop-db e")
    assert client.received() == "removed e\n"
    assert client.ask("get note") == "value x\nok \n"


def test_admin_token_is_configured_not_set(node: MemoryNode) -> None:
    admin = node.admin("use-db $admin nun-pwd")
    assert "configure it" in admin.ask("set $$token x")
    assert admin.ask("get $$token") == "value <hidden>\nok \n"


def test_use_db_again_counts_once(node: MemoryNode) -> None:
    client = user(node)
    client.send("use-db d t\nuse-db d t")
    assert client.ask("get $connections") == "value 1\nok \n"
    client.send("use-db n t")
    assert client.ask("get $connections") == "value 1\nok \n"
    assert user(node).ask("get $connections") == "value 1\nok \n"


def test_connections_cannot_be_changed(node: MemoryNode) -> None:
    client = user(node)
    for command in ("set $connections 9", "remove $connections", "increment $connections"):
        assert client.ask(command) == "error $connections cannot be changed \n"
    assert client.ask("get $connections") == "value 1\nok \n"


def test_snapshot_answers(node: MemoryNode) -> None:
    admin = node.admin()
    assert admin.ask("snapshot") == "error No database selected \n"
    assert admin.ask("snapshot false d|n") == "ok \n"
    assert admin.ask("snapshot maybe") == "error snapshot takes true or false, then names: maybe \n"
    assert user(node).ask("snapshot") == "error Not auth \n"


# -- keys and versions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "amount", "answer"),
    [
        ("1.5", "", "error Key is not numeric \n"),
        ("x", "", "error Key is not numeric \n"),
        ("", "", "error Key is not numeric \n"),
        ("9223372036854775807", "1", "error Key is not numeric \n"),
        ("-9223372036854775808", "-1", "error Key is not numeric \n"),
        ("1", "9223372036854775808", "error invalid number: 9223372036854775808 \n"),
        ("1_0", "", "error Key is not numeric \n"),
        ("+7", "", "ok \n"),
    ],
)
def test_increment_limits(node: MemoryNode, value: str, amount: str, answer: str) -> None:
    client = user(node, f"set k {value}")
    assert client.ask(f"increment k {amount}") == answer
    if answer != "ok \n":
        assert client.ask("get-safe k") == f"value-version 0 {value}\nok \n"


def test_increment_with_an_empty_number_adds_one(node: MemoryNode) -> None:
    client = user(node)
    assert client.ask("increment k ") == "ok \n"
    assert client.ask("increment k -3") == "ok \n"
    assert client.ask("get-safe k") == "value-version 1 -2\nok \n"


def test_newer_lets_the_later_write_win(node: MemoryNode) -> None:
    client = node.tcp()
    client.send("use-db n t\nset-safe k 5 five\nset-safe k 2 two")
    assert client.received() == "ok \n" * 3
    assert client.ask("get-safe k") == "value-version 7 two\nok \n"


def test_a_version_below_minus_one_conflicts_on_a_new_key(node: MemoryNode) -> None:
    assert user(node).ask("set-safe fresh -2 v") == "error Invalid version! \n"


def test_minus_one_is_any_version(node: MemoryNode) -> None:
    client = user(node, "set-safe k 5 v")
    assert client.ask("set-safe k -1 w") == "ok \n"
    assert client.ask("get-safe k") == "value-version 7 w\nok \n"


def test_a_removed_key_starts_anew(node: MemoryNode) -> None:
    client = user(node, "set k v", "set k v")
    client.send("remove k\nset k w")
    client.received()
    assert client.ask("get-safe k") == "value-version 0 w\nok \n"


# -- users ---------------------------------------------------------------------------------------


def test_a_user_may_list_and_nothing_else_until_permitted(node: MemoryNode) -> None:
    admin = node.admin("use-db d t", "create-user ana secret", "set open 1")
    ana = node.tcp()
    assert ana.ask("use-db d ana wrong") == "error Invalid token \n"
    assert ana.ask("use-db d bob secret") == "error Invalid token \n"
    assert ana.ask("use-db d ana secret") == "ok \n"
    assert ana.ask("keys") == "keys ,$connections,open\nok \n"
    for command in ("get open", "set open 2", "increment open", "remove open", "watch open"):
        assert ana.ask(command) == DENIED
    assert admin.ask("set-permissions ana r open|wi n*,*z") == "ok \n"
    assert ana.ask("get open") == "value 1\nok \n"
    assert ana.ask("set open 2") == DENIED
    assert ana.ask("set name x") == "ok \n"
    assert ana.ask("set jazz 1") == "ok \n"
    assert ana.ask("increment jazz") == "ok \n"
    assert ana.ask("remove jazz") == DENIED


def test_permissions_of_all_limit_the_database_token(node: MemoryNode) -> None:
    client = user(node, "set k 1")
    admin = node.admin("use-db d t", "set-permissions all r *")
    assert client.ask("set k 2") == DENIED
    assert client.ask("get k") == "value 1\nok \n"
    assert admin.ask("set k 3") == "ok \n"
    assert admin.ask("set-permissions all rwix *") == "ok \n"
    assert client.ask("set k 4") == "ok \n"


def test_permission_lists_are_checked(node: MemoryNode) -> None:
    admin = node.admin("use-db d t")
    assert admin.ask("set-permissions ana") == "error permission list is mandatory \n"
    assert admin.ask("set-permissions ana q *") == "error invalid permission list \n"
    assert admin.ask("set $$permission_$ana rw") == "error invalid permission list \n"


def test_secure_keys_need_admin(node: MemoryNode) -> None:
    client = user(node)
    for command in ("get $$x", "set $$x 1", "watch $$x", "remove $$x", "increment $$x"):
        assert client.ask(command) == SECURE
    admin = node.admin("use-db d t")
    assert admin.ask("remove $$token") == "error $$token key cannot be removed \n"
    assert admin.ask("set $$note x") == "ok \n"
    assert admin.ask("get-safe $$note") == "value-version 0 x\nok \n"
    assert admin.ask("remove $$note") == "ok \n"
    assert "$$note" not in admin.ask("keys")


# -- conflicts and the arbiter ---------------------------------------------------------------------


def test_a_conflict_without_an_arbiter_is_refused(node: MemoryNode) -> None:
    client = node.tcp()
    client.send("use-db c t\nset k v\nset-safe k -5 x")
    assert client.received().endswith(
        "error An conflitct happend and there is no arbiter client not connected \n"
    )
    assert client.ask("get-safe k") == "value-version 0 v\nok \n"


def test_the_life_of_a_conflict(node: MemoryNode) -> None:
    arbiter, client = node.tcp(), node.tcp()
    arbiter.send("use-db c t\narbiter\nwatch k")
    client.send("use-db c t\nset-safe k 4 v")
    arbiter.received()
    client.received()
    answer = client.ask("set-safe k 2 w")
    assert answer.startswith("error $$conflitct unresolved $conflicts_k_")
    first = answer.removeprefix("error $$conflitct unresolved ").removesuffix(" \n")
    number = first.rpartition("_")[2]
    events = arbiter.received()
    assert f"resolve {number} c 5 k v w" in events
    assert client.ask("get-safe k") == "value-version -2 v\nok \n"
    second = client.ask("set k again").removeprefix("error $$conflitct unresolved ")
    second = second.removesuffix(" \n")
    assert f"c 0 k {first} again" in arbiter.received()
    admin = node.admin("use-db c t")
    listed = f"conflitcts-list ,{first},{second}\nok \n"
    assert admin.ask("debug pendding-conflitcts") == listed
    assert client.ask("remove k") == "error key is in conflict resolution \n"
    assert arbiter.ask(f"resolve {number} c k 5 chosen").endswith("ok \n")
    assert client.ask("get-safe k") == "value-version -2 chosen\nok \n"
    assert client.ask(f"get {first}") == "value resolved chosen\nok \n"
    number = second.rpartition("_")[2]
    events = arbiter.ask(f"resolve {number} c k 1 final")
    assert "changed-version k 6 final\n" in events
    assert client.ask("get-safe k") == "value-version 6 final\nok \n"
    assert admin.ask("debug pending-conflicts") == "conflitcts-list \nok \n"
    arbiter.ask("arbiter")
    assert client.ask(f"get {first}") == "value <Empty>\nok \n"


# -- the node ------------------------------------------------------------------------------------


def test_help_and_ping(node: MemoryNode) -> None:
    client = node.tcp()
    assert client.ask("ping") == "pong\nok \n"
    assert client.ask("help get") == "help get KEY: Reads a key.\nok \n"
    assert client.ask("help nope") == "error unknown command: nope \n"
    everything = client.ask("help")
    assert everything.startswith("help \nauth ")
    assert everything.endswith("ok \n")


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("join 127.0.0.1:9", ALONE),
        ("leave 127.0.0.1:9", ALONE),
        ("election candidate 1 x", "ok \n"),
        ("election alive x", "ok \n"),
        ("election win", "ok \n"),
        ("election", "error election must be followed by candidate, alive or win \n"),
        ("election lost", "error unknown election command: lost \n"),
        ("set-primary x", "ok \n"),
        ("set-secoundary x", "ok \n"),
        ("ack 1 x", "ok \n"),
        ("replicate-since x 0", "ok \n"),
        ("replicate d k 4 v w", "ok \n"),
        ("replicate-increment d n 5", "ok \n"),
        ("replicate-remove d k", "ok \n"),
        ("replicate nope k 4 v", "error Not a valid database name \n"),
        ("replicate-snapshot d true", "ok \n"),
        ("rp 123 ping", "pong\nok \n"),
        ("rp 123 replicate d k 4 v", "ok \n"),
        ("rp 123 rp 124 ping", "error rp cannot carry rp \n"),
        ("rp 123 nope", "error unknown command: nope \n"),
        ("debug force-election", "ok \n"),
    ],
)
def test_cluster_verbs_on_a_node_alone(node: MemoryNode, command: str, answer: str) -> None:
    admin = node.admin()
    assert admin.ask(command) == answer
    assert admin.ask("cluster-state") == "cluster-state  127.0.0.1:3014(self):Primary ,\nok \n"
    if "must be" not in answer:
        assert node.tcp().ask(command) == "error Not auth \n"


def test_replicate_is_an_ordinary_write(node: MemoryNode) -> None:
    client = user(node, "watch k")
    node.admin("replicate d k 4 v w")
    assert client.received() == "changed k v w\nchanged-version k 5 v w\n"


def test_an_election_raises_the_epoch(node: MemoryNode) -> None:
    before = node.node.pipeline.journal.epoch
    node.admin("debug force-election")
    assert node.node.pipeline.journal.epoch > before


def test_list_dbs_as_json_tells_what_is_unused() -> None:
    node = MemoryNode()
    admin = node.admin("create-db d t", "create-db é t arbiter")
    client = node.tcp()
    client.send("use-db d t\nset k 12345\nset gone v\nwatch k\nremove gone")
    node.clock.advance(60)
    client.send("remove nothing")

    def described() -> list[dict[str, object]]:
        word, _, text = admin.ask("debug list-dbs json").partition(" ")
        assert word == "dbs-list-json"
        listed: list[dict[str, object]] = json.loads(text.removesuffix("ok \n"))
        return listed

    listed = described()
    assert [one["name"] for one in listed] == ["$admin", "d", "é"]
    d, other = listed[1:]
    # The token's hash counts as well.
    token = len(node.node.catalogue.by_name[b"d"].value(b"$$token") or b"") + len("$$token")
    assert (d["keys"], d["bytes"], d["strategy"]) == (2, len("k12345") + token, "none")
    assert (d["connections"], d["watched_keys"]) == (1, 1)
    assert str(d["last_write"]).startswith("2026-01-01T00:00:00")
    assert str(d["last_selected"]).startswith("2026-01-01T00:00:00")
    assert (d["last_snapshot"], d["changed_since"]) == (None, True)
    assert (other["connections"], other["last_selected"]) == (0, None)
    admin.ask("snapshot true d")
    d = described()[1]
    assert str(d["last_snapshot"]).startswith("2026-01-01T00:01:00")
    assert d["changed_since"] is False
    assert admin.ask("debug process-info json") == "error no JSON for: process-info \n"


# -- passwords -----------------------------------------------------------------------------------


@pytest.mark.parametrize("password", ["a long secret", "short", "two  between"])
def test_a_password_may_hold_spaces(password: str) -> None:
    node = MemoryNode(password=password)
    assert node.tcp().ask(f"auth nun {password}") == "valid auth\nok \n"
    assert node.tcp().ask(f"use-db $admin {password}") == "ok \n"
    for wrong in (password.strip().split(" ")[0] + " x", "x", password + "x"):
        assert node.tcp().ask(f"auth nun {wrong}") == "invalid auth\nok \n"
        assert node.tcp().ask(f"use-db $admin {wrong}") == "error Invalid token \n"


def test_spaces_around_a_password_without_any_do_not_count(node: MemoryNode) -> None:
    assert node.tcp().ask("auth nun  nun-pwd ") == "valid auth\nok \n"


def test_words_after_a_token_are_passed_over(node: MemoryNode) -> None:
    assert node.tcp().ask("use-db d t ") == "ok \n"
    admin = node.admin("use-db d t", "create-user ann pwd")
    assert admin.ask("use-db d ann pwd more") == "ok \n"
