"""The verbs of NunDB's nodes, sent by hand to a primary, a secondary and a node alone."""

from __future__ import annotations

import json
import re

import pytest

from nuntwist.core.database import MEMBERS_KEY
from nuntwist.testing import LineConnection, MemoryNode
from tests.unit.memory_set import MemorySet
from tests.unit.test_member import members_of

OK = "ok \n"
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def three() -> MemorySet:
    """A set with a database, whose primary is node 1."""
    nodes = MemorySet()
    nodes.run(3.0)
    nodes.nodes[1].admin("create-db d t")
    nodes.run(0.5)
    return nodes


def hand(nodes: MemorySet, me: int) -> LineConnection:
    """An operator's connection with a node."""
    client = nodes.nodes[me].admin("use-db d t")
    nodes.run(0.1)
    client.received()
    return client


def ask(nodes: MemorySet, client: LineConnection, command: str, seconds: float = 0.2) -> str:
    """What it is answered within a time."""
    client.send(command)
    nodes.run(seconds)
    return client.received()


@pytest.mark.parametrize("me", [1, 2])
def test_what_carries_a_write_is_that_write_on_any_node(three: MemorySet, me: int) -> None:
    client = hand(three, me)
    for command in (
        "replicate d k 4 one two",
        "replicate-increment d n",
        "replicate-increment d n 4",
        "rp 17 set l by rp",
        "rp 18 replicate d m -1 x",
        "replicate d gone -1 x",
        "replicate-remove d gone",
    ):
        assert ask(three, client, command) == OK, command
    for node in three.ids:
        database = three.nodes[node].node.catalogue.by_name[b"d"]
        assert database.value(b"k") == b"one two"
        assert database.find(b"k")[1] == 5  # type: ignore[index]
        assert [database.value(key) for key in (b"n", b"l", b"m")] == [b"5", b"by rp", b"x"]
        assert database.value(b"gone") is None
    assert ask(three, client, "replicate d k 0 older") == "error Invalid version! \n"
    assert ask(three, client, "rp 19 create-db e t") == "create-db success\nok \n"
    assert ask(three, client, "replicate-snapshot d true") == OK
    assert ask(three, client, "replicate-snapshot d perhaps") == (
        "error replicate-snapshot takes true or false: perhaps \n"
    )


@pytest.mark.parametrize("me", [1, 2])
def test_nothing_is_written_past_the_rules(three: MemorySet, me: int) -> None:
    client = hand(three, me)
    before = [three.nodes[node].oplog.last for node in three.ids]
    for command, answer in {
        "replicate no k 1 v": "error Not a valid database name \n",
        "replicate d k x v": "error invalid number: x \n",
        "replicate d $connections 1 x": "error $connections cannot be changed \n",
        "replicate-remove d $$token": "error $$token key cannot be removed \n",
        "replicate $admin d -1 x": "error d is a database: its key cannot be changed \n",
        "rp 1 rp 2 get k": "error rp cannot carry rp \n",
        "rp 1 nosuch": "error unknown command: nosuch \n",
        "ack 1 n": OK,
        "replicate-since n 5": OK,
        "replicate-join a:1": OK,
        "replicate-leave node-2:3014": OK,
        "election candidate 1 n": OK,
        "election alive n": OK,
        "election perhaps": "error unknown election command: perhaps \n",
    }.items():
        assert ask(three, client, command) == answer, command
    assert [three.nodes[node].oplog.last for node in three.ids] == before
    assert three.primary() == 1


@pytest.mark.parametrize("me", [1, 2])
def test_who_is_in_the_set_is_changed_by_no_write(three: MemorySet, me: int) -> None:
    client = three.nodes[me].admin("use-db $admin nun-pwd")
    three.run(0.1)
    client.received()
    kept = "error the server alone writes keys that begin with $$members \n"
    for command in (
        "set $$members x",
        "set-safe $$members 9 x",
        "increment $$members",
        "remove $$members",
        "replicate $admin $$members -1 x",
        "replicate-remove $admin $$members",
    ):
        assert ask(three, client, command) == kept
    assert "$$members" not in ask(three, client, "keys")
    assert all(members_of(three, node) == [1, 2, 3] for node in three.ids)


def test_it_takes_an_admin(three: MemorySet) -> None:
    client = three.nodes[1].tcp()
    for command in ("join a:1", "leave a:1", "election win", "replicate d k 1 v", "rp 1 get k"):
        assert ask(three, client, command) == "error Not auth \n"


@pytest.mark.parametrize("me", [1, 2])
@pytest.mark.parametrize("command", ["election win", "set-primary", "set-primary node-2:3014"])
def test_what_would_make_it_primary_starts_an_election(
    three: MemorySet, me: int, command: str
) -> None:
    before = three.members[1].election.number
    assert ask(three, hand(three, me), command, 5.0) == OK
    # The senior one wins again: nobody is primary because somebody says so.
    assert three.primary() == 1
    assert three.members[1].election.number > before


def test_a_primary_steps_down_for_another_that_has_all(three: MemorySet) -> None:
    client = hand(three, 1)
    client.send("set k last")
    assert ask(three, client, "set-secoundary", 5.0) == 2 * OK
    assert three.primary() != 1
    assert 1 in three.secondaries()
    for me in three.ids:
        assert three.nodes[me].node.catalogue.by_name[b"d"].value(b"k") == b"last"
    assert ask(three, client, "set k later") == OK


def test_nobody_steps_down_where_nobody_can_take_over(three: MemorySet) -> None:
    three.kill(2)
    three.kill(3)
    client = hand(three, 1)
    assert ask(three, client, "set-secoundary", 0.05) == (
        "error no other member follows this node: nobody could take over \n"
    )
    assert three.primary() == 1


def test_a_step_down_that_nobody_takes_up_ends_as_it_began(three: MemorySet) -> None:
    """The others stop while it waits for them; writes go on when they are back."""
    client = hand(three, 1)
    client.send("set-secoundary")
    for me in (2, 3):
        three.isolate(me)
    three.run(8.0)
    client.received()
    three.heal()
    three.run(8.0)
    client = hand(three, 2)
    assert ask(three, client, "set k v", 3.0) == OK


def test_a_secondary_has_nothing_to_step_down_from(three: MemorySet) -> None:
    before = three.members[1].election.number
    assert ask(three, hand(three, 2), "set-secoundary", 5.0) == OK
    assert (three.primary(), three.members[1].election.number) == (1, before)


# -- join and leave --------------------------------------------------------------------------------


def test_a_member_that_is_asked_in_again_stays_as_it_is(three: MemorySet) -> None:
    client = hand(three, 1)
    assert ask(three, client, "join node-3:3014") == OK
    three.run(30.0)
    assert all(members_of(three, me) == [1, 2, 3] for me in three.ids)
    assert three.primary() == 1


def test_an_invitation_of_a_member_leaves_it_nothing_to_do(three: MemorySet) -> None:
    """It once was called without end."""
    three.members[1].invite("node-3:3014")
    three.run(5.0)
    assert three.members[3].belonging.due == float("inf")


def test_what_cannot_be_reached_is_told(three: MemorySet) -> None:
    client = hand(three, 1)
    assert ask(three, client, f"join {NOWHERE}", 1.0) == ""
    three.run(10.0)
    assert client.received() == (
        f"error {NOWHERE} cannot be reached: it is asked in as soon as it can be \n"
    )
    assert ask(three, client, "join nope").startswith("error invalid address: ")
    assert ask(three, hand(three, 2), f"join {NOWHERE}") == (
        "error not primary: ask node-1:3014 \n"
    )


def test_who_has_left_is_asked_in_again(three: MemorySet) -> None:
    client = hand(three, 1)
    assert ask(three, client, "leave node-3:3014", 1.0) == OK
    assert members_of(three, 1) == [1, 2]
    assert ask(three, client, "leave node-3:3014", 1.0) == (
        "error no member has that address: node-3:3014 \n"
    )
    assert ask(three, client, "join node-3:3014", 3.0) == OK
    assert [members_of(three, me) for me in three.ids] == [[1, 2, 3]] * 3


def test_a_member_that_is_gone_can_be_taken_out(three: MemorySet) -> None:
    three.kill(3)
    client = hand(three, 1)
    assert ask(three, client, "leave node-3:3014", 1.0) == OK
    assert members_of(three, 2) == [1, 2]


def test_the_primary_itself_leaves(three: MemorySet) -> None:
    assert ask(three, hand(three, 1), "leave node-1:3014", 3.0) == OK
    assert three.primary() in (2, 3)
    assert members_of(three, 2) == [2, 3]


def test_a_node_alone_says_that_it_is(three: MemorySet) -> None:
    node = MemoryNode()
    client = node.admin()
    alone = "error this node is alone: start it with NUN_REPLICATE_ADDR to be in a set \n"
    assert client.ask("join a:1") == client.ask("leave a:1") == alone
    assert client.ask("join nope").startswith("error invalid address: ")
    before = node.node.pipeline.journal.epoch.number
    for count, command in enumerate(("election win", "set-primary", "set-secoundary"), 1):
        assert client.ask(command) == OK
        assert node.node.pipeline.journal.epoch.number == before + count
    assert node.node.info.role == "Primary"
    assert node.node.catalogue.admin.value(MEMBERS_KEY) is None


# -- what is shown ---------------------------------------------------------------------------------


def test_the_set_is_shown_with_the_truth_of_each_link(three: MemorySet) -> None:
    client = hand(three, 1)
    assert ask(three, client, "cluster-state") == (
        "cluster-state  node-1:3014(self):Primary , node-2:3014(Connected):Secoundary,"
        " node-3:3014(Connected):Secoundary,\nok \n"
    )
    three.isolate(3)
    three.run(1.5)
    # No socket has told, but silence has.
    assert "node-3:3014(Disconnected):" in ask(three, client, "cluster-state")
    seen = ask(three, hand(three, 2), "cluster-state")
    assert " node-1:3014(Connected):Primary, node-2:3014(self):Secoundary , " in seen
    three.heal()
    three.run(3.0)
    assert ask(three, client, "cluster-state").count("(Connected)") == 2


def test_as_json_it_has_epochs_positions_lags_and_heartbeats(three: MemorySet) -> None:
    client = hand(three, 1)
    three.delay = 0.02
    client.send("set k v")
    three.run(0.01)
    client.received()
    told = ask(three, client, "cluster-state json", 0.0)
    state = json.loads(told.removeprefix("cluster-state-json ").removesuffix("ok \n"))
    last = three.nodes[1].oplog.last
    assert (state["epoch"], state["primary"]) == (last.epoch.number, "node-1:3014")
    assert (state["formed"], state["last"]) == (True, last.index)
    mine, second, third = state["replicas"]
    assert mine["position"] == {"epoch": last.epoch.number, "index": last.index}
    for replica in (second, third):
        assert replica["position"] == {"epoch": last.epoch.number, "index": last.index - 1}
        assert (replica["lag"], replica["role"], replica["connected"]) == (1, "Secondary", True)
        assert 0 <= replica["last_heartbeat_ms"] <= 200
        assert replica["durable"] == last.index - 1


def test_what_replicas_have_not_acknowledged_is_shown_without_values(three: MemorySet) -> None:
    client = hand(three, 1)
    assert ask(three, client, "debug pending-ops") == "pending-ops \nok \n"
    three.delay = 0.02
    client.send("set k hush")
    client.send("create-user ann hush")
    three.run(0.02)
    client.received()
    told = ask(three, client, "debug pending-ops", 0.0)
    lines = told.removeprefix("pending-ops \n").removesuffix("ok \n").splitlines()
    assert re.fullmatch(
        r"set d k, id: \d+, index: \d+, acknowledged: 0 of 2, node-2:3014 pending,"
        r" node-3:3014 pending",
        lines[0],
    )
    assert lines[1].startswith("set d $$user_ann, id: ")
    assert "hush" not in told
    state = ask(three, client, "metrics-state", 0.0)
    assert state.startswith("metrics-state pending_ops: 2, ")
    three.run(1.0)
    assert ask(three, client, "debug pending-ops") == "pending-ops \nok \n"
    state = ask(three, client, "metrics-state")
    assert state.startswith("metrics-state pending_ops: 0, ")
    (average,) = re.findall(r"replication_time_moving_avg: ([\d.]+)", state)
    assert 0.0 < float(average) < 100.0


def test_elections_are_shown_on_each_node(three: MemorySet) -> None:
    for me in three.ids:
        told = ask(three, hand(three, me), "debug elections")
        assert told.startswith("elections \n")
        assert told.endswith("ok \n")
        assert (" -> PRIMARY, as " if me == 1 else " -> FOLLOWING, as there is a primary") in told


def test_who_has_left_is_shown_as_no_secondary(three: MemorySet) -> None:
    client = hand(three, 1)
    assert ask(three, client, "leave node-3:3014", 1.0) == OK
    assert "node-3:3014(Connected):StartingUp," in ask(three, client, "cluster-state")
    three.kill(3)
    three.run(2.0)
    # Nor is it looked for, though the node was told of it when it was started.
    assert "node-3" not in ask(three, client, "cluster-state")
