"""Quotas and lengths: what is refused, exactly where, and that the count is right."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import execute

from nuntwist.core.database import Database
from nuntwist.core.limits import Limits
from nuntwist.core.quota import TELL_SECONDS, UNLIMITED, Quota, Usage
from nuntwist.files import MemoryFiles
from nuntwist.oplog.segments import FileOplog
from nuntwist.storage.disk import DiskStorage
from nuntwist.testing import LineConnection, MemoryNode
from nuntwist.values import INDEX, KEY, VALUE
from tests.unit.forwarding_set import answers, at
from tests.unit.memory_set import MemorySet
from tests.unit.test_backup import backup, restore

OK = "ok \n"
# The token of a database is one of its keys.
TOKEN_KEYS = 1


def node_with(quota: Quota = UNLIMITED, **limits: Any) -> MemoryNode:
    node = MemoryNode(limits=Limits(quota=quota, **limits))
    node.admin("create-db d t").close()
    return node


def using(node: MemoryNode) -> LineConnection:
    client = node.tcp()
    assert client.ask("use-db d t") == OK
    return client


def database(node: MemoryNode, name: bytes = b"d") -> Database:
    return node.node.catalogue.by_name[name]


def usage(node: MemoryNode) -> Usage:
    found = database(node).usage
    assert found is not None
    return found


def counted(held: Database) -> tuple[int, int]:
    entries = [op for shard in held.shards for op in shard.values()]
    kept = [op for op in entries if op[VALUE] is not None and op[INDEX]]
    return len(kept), sum(len(op[KEY]) + len(op[VALUE] or b"") for op in kept)


def used_by(node: MemoryNode) -> tuple[int, int]:
    """What it holds without its token."""
    keys, size = counted(database(node))
    assert (usage(node).keys, usage(node).size) == (keys, size)
    token = database(node).value(b"$$token") or b""
    return keys - TOKEN_KEYS, size - len(b"$$token") - len(token)


def of_bytes(node: MemoryNode, more: int) -> Quota:
    """So many bytes more than a database has with nothing in it."""
    return Quota(size=counted(database(node))[1] + more)


# -- keys --


def test_so_many_keys_and_no_more() -> None:
    client = using(node := node_with(Quota(keys=TOKEN_KEYS + 2)))
    refusal = "error quota of 3 keys of this database is used up \n"
    assert [client.ask(f"set k{n} v") for n in range(4)] == [OK, OK, refusal, refusal]
    assert client.ask("increment n") == refusal
    assert client.ask("set-safe s 0 v") == refusal
    # Those that are there go on.
    assert client.ask("set k0 other") == OK
    assert client.ask("remove k1") == OK
    assert client.ask("set k2 v") == OK
    assert client.ask("set k3 v") == refusal
    assert used_by(node)[0] == 2
    assert node.node.counters.quota_refusals == 5


@pytest.mark.parametrize("chunks", [1, 3])
def test_a_key_that_was_removed_a_moment_ago_is_a_new_one(chunks: int) -> None:
    """While the log does not have the removal, its entry is still there."""
    node = MemoryNode(limits=Limits(quota=Quota(keys=TOKEN_KEYS + 3)))
    node.admin("create-db d t arbiter").close()
    arbiter, client = using(node), using(node)
    arbiter.ask("arbiter")
    client.ask("set a 1\nset a 2\nset b 1\nset d 1")
    # The key of the conflict takes the room that the removed one has left.
    commands = [b"remove d\n", b"set-safe a 0 3\n", b"set d 2\n"]
    for data in commands if chunks == 3 else [b"".join(commands)]:
        client.protocol.dataReceived(data)
    node.settle()
    answers = client.received()
    assert answers.startswith("ok \nerror $$conflitct unresolved ")
    assert answers.endswith("error quota of 4 keys of this database is used up \n")
    assert usage(node).keys == TOKEN_KEYS + 3


def test_the_log_tells_once_until_there_was_room() -> None:
    from twisted.logger import globalLogPublisher

    told: list[Any] = []

    def observe(event: Any) -> None:
        if "is full" in (event.get("log_format") or ""):
            told.append(event)

    globalLogPublisher.addObserver(observe)
    try:
        client = using(node := node_with(Quota(keys=TOKEN_KEYS + 2)))

        def fill_and_empty() -> None:
            for n in range(5):
                client.ask(f"set k{n} v")
            for n in range(2):
                client.ask(f"remove k{n}")

        # Nor does it more than once a minute, whatever a client does.
        for _ in range(3):
            fill_and_empty()
            assert len(told) == 1
        node.clock.advance(TELL_SECONDS)
        fill_and_empty()
    finally:
        globalLogPublisher.removeObserver(observe)
    assert len(told) == 2


def test_the_admin_database_has_no_quota_and_users_none() -> None:
    node = node_with(Quota(keys=TOKEN_KEYS))
    admin = node.admin("use-db d t")
    assert admin.ask("create-user ana x") == OK
    assert admin.ask("set k v").startswith("error quota")
    admin.ask(f"use-db $admin {node.node.info.password.decode()}")
    assert admin.ask("set k v") == OK


# -- databases --


def test_so_many_databases_and_no_more() -> None:
    node = node_with(Quota(databases=2))
    admin = node.admin()
    refusal = "error quota of 2 databases is used up \n"
    assert admin.ask("create-db e t") == "create-db success\nok \n"
    assert admin.ask("create-db f t") == refusal
    assert admin.ask("drop-db e") == "drop-db success\nok \n"
    assert admin.ask("create-db f t") == "create-db success\nok \n"
    # Two at once, while their tokens are hashed.
    admin.ask("drop-db f")
    one, other = node.admin(), node.admin()
    one.send("create-db g t")
    other.send("create-db h t")
    said = sorted((one.received(), other.received()))
    assert said == ["create-db success\nok \n", refusal]
    assert node.node.counters.quota_refusals == 2


def test_a_restore_makes_no_more_databases_than_there_may_be() -> None:
    source = node_with()
    source.admin("create-db e t").close()
    archive = backup(source)
    node = MemoryNode(limits=Limits(quota=Quota(databases=1)))
    assert restore(node.admin(), archive) == ["error quota of 1 databases is used up "]
    assert node.admin().ask("create-db d t") == "create-db success\nok \n"
    # Those that are there may be replaced.
    assert restore(node.admin(), backup(source, "d"), "force")[-1] == OK.strip("\n")


# -- lengths --


@pytest.mark.parametrize("more", ["", " ", "\nset b v"])
def test_a_key_may_be_so_long(more: str) -> None:
    """Alone, and in a run of commands; on the hot road and off it."""
    client = using(node := node_with(key=16))
    long, longest = "k" * 17, "k" * 16
    refusal = "error key too long: the limit is 16 bytes \n"
    for command in ("set {} v", "set-safe {} 0 v", "increment {}", "watch {}"):
        client.ask(f"{command.format(long)}{more}")
        assert client.ask(command.format(long)) == refusal
        assert client.ask(f"set a v\n{command.format(long)}\nset b v") == OK + refusal + OK
        assert client.ask(command.format(longest)) == OK or command.startswith("inc")
        client.ask(f"remove {longest}")
    assert client.ask(f"get {long}") == "value <Empty>\nok \n"
    assert client.ask(f"remove {long}") == OK
    admin = node.admin("use-db d t")
    assert admin.ask(f"create-user {long} x") == refusal
    assert admin.ask(f"create-db {long} t") == "error name too long: the limit is 16 bytes \n"


def test_a_value_may_be_so_long() -> None:
    client = using(node_with(value=8))
    refusal = "error value too long: the limit is 8 bytes \n"
    for command in ("set k {}", "set-safe k 9 {}"):
        assert client.ask(command.format("v" * 9)) == refusal
        assert client.ask(f"set a v\n{command.format('v' * 9)}\nset b v") == OK + refusal + OK
    assert client.ask("set k " + "v" * 8) == OK
    assert client.ask("get k\nget k") == 2 * f"value {'v' * 8}\nok \n"


def test_a_longer_key_that_is_there_stays_in_use() -> None:
    disk = MemoryFiles()
    before = MemoryNode(oplog=FileOplog(disk, 1, execute))
    before.admin("create-db d t", "use-db d t", f"set {'k' * 50} v").close()
    node = MemoryNode(oplog=FileOplog(disk, 1, execute), limits=Limits(key=16))
    client = using(node)
    assert client.ask(f"get {'k' * 50}") == "value v\nok \n"
    for command in ("set {} w", "set-safe {} 7 w", "set {} 1", "increment {}", "watch {}"):
        assert client.ask(command.format("k" * 50)).endswith(OK)
    again = f"set {'k' * 50} x"
    refusal = "error key too long: the limit is 16 bytes \n"
    assert client.ask(f"remove {'k' * 50}\n{again}\nping\n{again}").endswith(
        OK + refusal + "pong\n" + OK + refusal
    )


# -- the count --

COMMANDS = st.one_of(
    st.builds("set {} {}".format, st.sampled_from("abcde"), st.text("xy", max_size=5)),
    st.builds(
        "set-safe {} {} {}".format,
        st.sampled_from("abcde"),
        st.integers(-3, 4),
        st.text("xy", max_size=5),
    ),
    st.builds("increment {} {}".format, st.sampled_from("fgh"), st.integers(-100, 100)),
    st.builds("remove {}".format, st.sampled_from("abcdefgh")),
)
STEPS = st.one_of(
    st.lists(COMMANDS, min_size=1, max_size=6),
    st.sampled_from(["full", "room", "snapshot", "restart"]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=25), st.sampled_from(["none", "newer", "arbiter"]))
def test_what_is_counted_is_what_is_there(steps: list[Any], strategy: str) -> None:
    disk = MemoryFiles()
    quota = Quota(keys=6, size=300)

    def start() -> MemoryNode:
        return MemoryNode(
            FileOplog(disk, 1, execute), DiskStorage(disk, execute), Limits(quota=quota)
        )

    node = start()
    node.admin(f"create-db d t {strategy}").close()

    def connect() -> list[LineConnection]:
        clients = [using(node) for _ in range(2)]
        clients[1].ask("arbiter")
        return clients

    clients = connect()
    for step in steps:
        if isinstance(step, list):
            clients[0].send("\n".join(step))
        elif step == "full":
            disk.room = 0
        elif step == "room":
            disk.room = None
        elif step == "snapshot":
            node.admin("snapshot true d").close()
        else:
            disk.room = None
            disk.unlock()
            node = start()
            clients = connect()
        keys, size = counted(database(node))
        assert (usage(node).keys, usage(node).size) == (keys, size)
        assert keys <= 6
        assert size <= 300


# -- in a set --


def grow(nodes: MemorySet, client: LineConnection, numbers: range) -> list[str]:
    return [answers(nodes, client, f"set k{n} v") for n in numbers]


@pytest.mark.parametrize("copied", [False, True])
def test_every_node_counts_and_the_primary_refuses(copied: bool) -> None:
    nodes = MemorySet(limits=Limits(quota=Quota(keys=TOKEN_KEYS + 3)), check_every=10)
    nodes.run(2.0)
    nodes.nodes[1].admin("create-db d t").close()
    nodes.run(0.2)
    client = at(nodes, 2)
    refusal = "error quota of 4 keys of this database is used up \n"
    assert grow(nodes, client, range(5)) == [OK, OK, OK, refusal, refusal]
    if copied:
        # What was lost in memory is found when states are compared, and comes as a copy of all.
        database(nodes.nodes[3]).forget(b"k1")
        for _ in range(30):
            answers(nodes, client, "set k1 w")
        assert nodes.nodes[3].node.counters.copies_taken == 1
    for me in nodes.ids:
        assert used_by(nodes.nodes[me])[0] == 3, me
    nodes.kill(1)
    nodes.kill(2)
    nodes.restart(2)
    nodes.run(5.0)
    again = at(nodes, nodes.primary())
    assert grow(nodes, again, range(2, 5)) == [OK, refusal, refusal]
    assert answers(nodes, again, "remove k0") == OK
    assert grow(nodes, again, range(3, 5)) == [OK, refusal]
