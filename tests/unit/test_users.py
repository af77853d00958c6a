"""Users, tokens and permissions as an admin changes them, and what that does to who is there."""

from __future__ import annotations

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuntwist.core.limits import Limits
from nuntwist.core.permissions import Permissions, matches
from nuntwist.testing import FrameConnection, LineConnection, MemoryNode, client_frame
from tests.unit.forwarding_set import answers, at, formed
from tests.unit.memory_set import MemorySet

DENIED = "permission denied\nerror permission denied\n \n"


@pytest.fixture
def node() -> MemoryNode:
    return with_users(MemoryNode())


def with_users(node: MemoryNode) -> MemoryNode:
    node.admin(
        "create-db d t",
        "use-db d t",
        "create-user ana secret",
        "create-user bob hidden",
        *(f"set {key} 1" for key in ("apple", "apply", "bean", "b-c")),
    ).close()
    return node


def change(node: MemoryNode, *commands: str) -> str:
    """What an admin is answered, the last answer."""
    admin = node.admin("use-db d t")
    answer = [str(admin.ask(command)) for command in commands][-1]
    admin.close()
    node.settle()
    return answer


def using(node: MemoryNode, who: str = "ana secret") -> LineConnection:
    client = node.tcp()
    assert client.ask(f"use-db d {who}") == "ok \n"
    return client


def framed(node: MemoryNode, who: str = "ana secret") -> FrameConnection:
    client = node.ws()
    assert client.ask(f"use-db d {who}") == ["ok \n"]
    return client


# -- listing --


@pytest.mark.parametrize(
    ("listed", "shown"),
    [
        ("r *", "$connections,apple,apply,b-c,bean"),
        ("l app*", "apple,apply"),
        ("rl bean|l *y", "apply,bean"),
        ("l -", ""),
        ("r *|l -", ""),
        ("l -,bean", "bean"),
        ("ll -", ""),
        # With other letters it is the pattern it always was: keys that contain it.
        ("rl -", "b-c"),
    ],
)
@pytest.mark.parametrize("at_once", [0, 100])
def test_who_has_a_list_with_l_lists_what_it_names(listed: str, shown: str, at_once: int) -> None:
    node = with_users(MemoryNode(limits=Limits(keys_at_once=at_once)))
    change(node, f"set-permissions ana {listed}", f"set-permissions all {listed}")
    expected = f"keys {''.join(f',{key}' for key in shown.split(',') if key)}\nok \n"
    assert using(node).ask("keys") == expected
    assert using(node, "t").ask("keys") == expected
    assert node.admin("use-db d t").ask("keys $$*") != "keys \nok \n"
    # The pattern that is asked for counts, too.
    assert using(node).ask("keys zzz") == "keys \nok \n"


@given(
    st.lists(
        st.tuples(st.text("rwl", min_size=1, max_size=2), st.text("ab*-", min_size=1, max_size=3)),
        max_size=4,
    ),
    st.text("ab-", max_size=4).map(str.encode),
)
def test_a_key_is_listed_where_nothing_is_said_or_a_pattern_with_l_fits(
    groups: list[tuple[str, str]], key: bytes
) -> None:
    permissions = Permissions("|".join(f"{a} {b}" for a, b in groups).encode())
    named = [(a, b.encode()) for a, b in groups if "l" in a]
    fits = [matches(b, key) for a, b in named if (set(a), b) != ({"l"}, b"-")]
    assert permissions.lists(key) == (not named or any(fits))
    assert permissions.lists_all == (not named)


# -- what there is --


def test_users_and_what_they_may_do_can_be_asked_for(node: MemoryNode) -> None:
    assert change(node, "list-users") == "users-list ,ana,bob\nok \n"
    assert change(node, "get-permissions ana") == "permissions <Empty>\nok \n"
    assert change(node, "set-permissions ana r a*|l -", "get-permissions ana") == (
        "permissions r a*|l -\nok \n"
    )
    assert change(node, "get-permissions all") == "permissions <Empty>\nok \n"


@pytest.mark.parametrize(
    "command",
    ["list-users", "get-permissions ana", "drop-user ana", "set-token keep x", "create-user c d"],
)
def test_only_an_admin_may(node: MemoryNode, command: str) -> None:
    change(node, "set-permissions ana rwixla *")
    for client in (using(node), using(node, "t")):
        assert client.ask(command) == "error Not auth \n"
    admin = node.admin()
    assert admin.ask(command).startswith("error no-db-selected\n")


@pytest.mark.parametrize("name", ["all", "jwt", "a,b"])
def test_names_that_mean_something_else_are_no_users(node: MemoryNode, name: str) -> None:
    assert change(node, f"create-user {name} x") == f"error no user can be called {name} \n"
    assert change(node, f"set $$user_{name} x") == f"error no user can be called {name} \n"
    assert change(node, "list-users") == "users-list ,ana,bob\nok \n"


def test_the_catalogue_has_no_users(node: MemoryNode) -> None:
    admin = node.admin("use-db $admin nun-pwd")
    assert admin.ask("create-user ana x") == "error $admin has no users \n"
    assert admin.ask("set $$user_ana x") == "error $admin has no users \n"


@pytest.mark.parametrize(
    "command",
    [
        "create-user ana two words",
        "set-token keep ana two words",
        "set $$user_ana two words",
        "set-safe $$token 9 two words",
    ],
)
def test_a_token_that_nobody_could_log_in_with_is_refused(node: MemoryNode, command: str) -> None:
    assert change(node, command) == "error a token cannot hold spaces \n"
    using(node).close()
    using(node, "t").close()


def test_spaces_after_a_token_do_not_count(node: MemoryNode) -> None:
    assert change(node, "create-user ana another  ") == "ok \n"
    using(node, "ana another  ").close()
    using(node, "ana another").close()


# -- users that go --


def test_a_websocket_that_is_signed_out_is_told(node: MemoryNode) -> None:
    ana = framed(node)
    assert change(node, "drop-user ana") == "ok \n"
    # 1008: it need not come again, as with 1001.
    assert ana.received_frames() == [(8, b"\x03\xf0signed out")]
    ana.deliver(client_frame(b"\x03\xf0signed out", 8))
    assert ana.closed


def test_a_stop_does_not_change_why_somebody_was_sent_away(node: MemoryNode) -> None:
    ana = framed(node)
    ana.protocol.client.waiting = True
    assert change(node, "drop-user ana") == "ok \n"
    node.frames.finish_all()
    assert ana.received_frames() == []
    ana.protocol.client.waiting = False
    node.node.pipeline.resume(ana.protocol.client)
    assert ana.received_frames() == [(8, b"\x03\xf0signed out")]


def test_a_user_that_is_dropped_is_let_go_with_all_it_watches(node: MemoryNode) -> None:
    change(node, "set-permissions ana rw *")
    ana, bob, everybody = using(node), using(node, "bob hidden"), using(node, "t")
    assert ana.ask("watch bean") == "ok \n"
    assert change(node, "drop-user ana") == "ok \n"
    assert ana.transport.disconnecting or ana.transport.disconnected
    assert node.node.counters.signed_out == 1
    assert change(node, "list-users") == "users-list ,bob\nok \n"
    assert change(node, "get-permissions ana") == "permissions <Empty>\nok \n"
    assert node.tcp().ask("use-db d ana secret") == "error Invalid token \n"
    assert change(node, "set bean 2") == "ok \n"
    assert "changed" not in ana.received()
    assert everybody.ask("get bean") == "value 2\nok \n"
    assert bob.ask("keys bean") == "keys ,bean\nok \n"
    # One who comes later under the same name has nothing of the one before.
    assert change(node, "create-user ana other") == "ok \n"
    assert using(node, "ana other").ask("get bean") == DENIED


def test_what_a_dropped_user_has_sent_and_was_not_run_is_not_run(node: MemoryNode) -> None:
    change(node, "set-permissions ana rw *")
    ana = using(node)
    admin = node.admin("use-db d t")
    admin.send("drop-user ana\n")
    node.settle()
    ana.send("set bean 7\n" * 3)
    node.settle()
    assert using(node, "t").ask("get bean") == "value 1\nok \n"


def test_who_is_there_by_a_signed_token_need_not_be_a_user_to_be_let_go(node: MemoryNode) -> None:
    assert change(node, "drop-user visitor") == "error no such user: visitor \n"
    secret = "s" * 32
    change(node, f"set-signing-keys keep {secret}", "set-permissions visitor r *")
    claims = {"db": "d", "sub": "visitor", "exp": 2_000_000_000}
    token = jwt.encode(claims, secret, algorithm="HS256")
    visitor, another = using(node, f"jwt {token}"), using(node)
    assert visitor.ask("watch bean") == "ok \n"
    assert change(node, "drop-user visitor") == "ok \n"
    assert visitor.closed
    assert not another.closed
    assert change(node, "get-permissions visitor") == "permissions <Empty>\n" + "ok \n"
    # It can come again, as the token is good, and be let go again.
    visitor = using(node, f"jwt {token}")
    assert visitor.ask("get bean") == DENIED
    assert change(node, "drop-user visitor") == "ok \n"
    assert visitor.closed
    for name in ("all", "jwt"):
        assert change(node, f"drop-user {name}") == f"error no such user: {name} \n"


def test_nobody_is_no_user(node: MemoryNode) -> None:
    assert change(node, "drop-user eve") == "error no such user: eve \n"
    assert change(node, "set-token keep eve x") == "error no such user: eve \n"
    assert change(node, "set-token maybe x") == "error set-token takes keep or close: maybe \n"


# -- tokens --


@pytest.mark.parametrize(("who", "token"), [("ana ", "secret"), ("", "t")])
def test_a_new_token_keeps_or_closes_who_is_there(node: MemoryNode, who: str, token: str) -> None:
    change(node, "set-permissions ana r *")
    client, other = using(node, who + token), using(node, "bob hidden")
    assert change(node, f"set-token keep {who}second") == "ok \n"
    assert client.ask("get bean") == "value 1\nok \n"
    assert node.tcp().ask(f"use-db d {who}{token}") == "error Invalid token \n"
    later = using(node, who + "second")
    assert using_admin(node, who, f"set-token close {who}third") == "ok \n"
    for gone in (client, later):
        assert gone.transport.disconnecting or gone.transport.disconnected
    assert node.node.counters.signed_out == 2
    assert using(node, who + "third").ask("get bean") == "value 1\nok \n"
    assert other.ask("keys bean") == "keys ,bean\nok \n"


def using_admin(node: MemoryNode, who: str, command: str) -> str:
    """What an admin is answered who selects the database with the token of now."""
    admin = node.admin(f"use-db d {'t' if who else 'second'}")
    answer = str(admin.ask(command))
    node.settle()
    # An admin stays, whatever token it has selected the database with.
    assert admin.ask("ping") == "pong\nok \n"
    admin.close()
    return answer


def test_the_token_of_the_catalogue_is_configured(node: MemoryNode) -> None:
    admin = node.admin()
    admin.ask(f"use-db $admin {node.node.info.password.decode()}")
    assert admin.ask("set-token keep x") == (
        "error the token of $admin is the admin password: configure it \n"
    )


# -- permissions that change --


def test_a_watch_ends_at_once_where_it_is_not_allowed_any_more(node: MemoryNode) -> None:
    change(node, "set-permissions ana rw *")
    ana, bob, everybody = framed(node), framed(node, "bob hidden"), framed(node, "t")
    for client in (ana, everybody):
        client.ask("watch apple; watch bean")
    assert change(node, "set-permissions ana r a*") == "ok \n"
    assert ana.received() == ["unwatched bean\n"]
    assert everybody.received() == bob.received() == []
    assert node.node.counters.watches_taken == 1
    change(node, "set bean 2", "set apple 2")
    assert ana.received() == ["changed apple 2\n", "changed-version apple 1 2\n"]
    assert len(everybody.received()) == 4
    assert ana.ask("watch bean") == ["permission denied\n", "error permission denied\n \n"]
    # What was allowed stays, and nothing is watched twice.
    change(node, "set-permissions ana r *", "set bean 3")
    assert ana.received() == []
    # A list that is gone allows nothing.
    change(node, "remove $$permission_$ana")
    assert ana.received() == ["unwatched apple\n"]


def test_a_list_for_all_ends_watches_with_the_token_of_the_database(node: MemoryNode) -> None:
    change(node, "set-permissions ana r *")
    ana, everybody, admin = framed(node), framed(node, "t"), node.admin("use-db d t")
    for client in (ana, everybody):
        client.ask("watch bean")
    admin.ask("watch bean")
    change(node, "set-permissions all r a*", "set bean 2")
    assert everybody.received() == ["unwatched bean\n"]
    assert ana.received() == ["changed bean 2\n", "changed-version bean 1 2\n"]
    assert "changed bean 2" in admin.received()


def test_a_watch_of_a_database_that_is_not_selected_any_more_ends_too(node: MemoryNode) -> None:
    change(node, "set-permissions ana r *")
    node.admin("create-db other o").close()
    ana = framed(node)
    ana.ask("watch bean; use-db other o")
    change(node, "set-permissions ana r a*", "set bean 2")
    assert ana.received() == ["unwatched bean\n"]


# -- arbiters --


@pytest.fixture
def arbitrated() -> MemoryNode:
    node = MemoryNode()
    node.admin(
        "create-db d t arbiter",
        "use-db d t",
        "create-user ana secret",
        "create-user bob hidden",
        "set apple 1",
        "set bean 1",
    ).close()
    return node


def test_deciding_conflicts_is_a_right_of_its_own(arbitrated: MemoryNode) -> None:
    node = arbitrated
    change(node, "set-permissions ana rwixl *", "set-permissions bob a app*")
    assert using(node).ask("arbiter") == DENIED
    bob = framed(node, "bob hidden")
    assert bob.ask("arbiter") == ["ok \n"]
    writer = using(node, "t")
    # Nobody who is there may decide on this one.
    assert writer.ask("set-safe bean -5 x").startswith("error An conflitct happend")
    assert writer.ask("set-safe apple -5 x").startswith("error $$conflitct unresolved")
    (message,) = bob.received()
    number = message.split(" ")[1]
    assert using(node).ask(f"resolve {number} d apple 3 y") == DENIED
    assert bob.ask(f"resolve {number} d apple 3 y") == ["ok \n"]
    assert writer.ask("get-safe apple") == "value-version 4 y\nok \n"
    assert bob.ask("get apple") == ["permission denied\n", "error permission denied\n \n"]


def test_the_token_of_the_database_decides_unless_a_list_for_all_says_otherwise(
    arbitrated: MemoryNode,
) -> None:
    node = arbitrated
    first = framed(node, "t")
    assert first.ask("arbiter") == ["ok \n"]
    change(node, "set-permissions all rw *")
    writer = using(node, "t")
    assert writer.ask("set-safe bean -5 x").startswith("error An conflitct happend")
    assert framed(node, "t").ask("arbiter") == [
        "permission denied\n",
        "error permission denied\n \n",
    ]
    change(node, "set-permissions all rwa *")
    assert first.ask("arbiter") == ["ok \n"]
    assert writer.ask("set-safe bean -5 x").startswith("error $$conflitct unresolved")
    assert len(first.received()) == 1


# -- in a set --


@pytest.fixture
def three() -> MemorySet:
    nodes = formed()
    admin(nodes, "create-user ana secret", "create-user bob hidden", "set-permissions ana r *")
    return nodes


def admin(nodes: MemorySet, *commands: str, me: int = 2) -> str:
    """What an admin of a node is answered, the last answer."""
    client = nodes.nodes[me].admin("use-db d t")
    answer = [answers(nodes, client, command) for command in commands][-1]
    client.close()
    return answer


def test_permissions_and_tokens_count_on_every_node(three: MemorySet) -> None:
    watching = {me: at(three, me, "use-db d ana secret") for me in three.ids}
    for client in watching.values():
        assert client.ask("watch bean") == "ok \n"
    bob = at(three, 3, "use-db d bob hidden")
    assert admin(three, "set-permissions ana r a*") == "ok \n"
    for client in watching.values():
        assert client.received() == "unwatched bean\n"
        assert client.ask("watch bean") == DENIED
    assert admin(three, "set-token close ana second") == "ok \n"
    for client in watching.values():
        assert client.transport.disconnecting or client.transport.disconnected
    assert bob.ask("keys bean") == "keys \nok \n"
    for me in three.ids:
        assert at(three, me, "use-db d ana second").ask("keys bean") == "keys \nok \n"
    assert admin(three, "drop-user bob", me=1) == "ok \n"
    assert bob.transport.disconnecting or bob.transport.disconnected
    assert admin(three, "list-users", me=3) == "users-list ,ana\nok \n"


def test_what_is_taken_back_may_take_a_watch(three: MemorySet) -> None:
    """The primary gives a right that the set has not, and is cut off before it knows."""
    ana = at(three, 1, "use-db d ana secret")
    admin(three, "set-permissions ana r a*", me=1)
    three.isolate(1)
    at_first = three.nodes[1].admin("use-db d t")
    at_first.send("set-permissions ana r *\n")
    three.nodes[1].settle()
    assert ana.ask("watch bean") == "ok \n"
    three.run(3.0)
    three.heal()
    three.run(5.0)
    assert three.primary() != 1
    assert three.nodes[1].node.counters.tails_cut == 1
    assert "unwatched bean\n" in ana.received()
    assert ana.ask("watch bean") == DENIED
