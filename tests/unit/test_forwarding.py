"""Writes at a secondary: run by the primary, once, and answered when they are seen here."""

from __future__ import annotations

import random
from typing import Any

import pytest

from nuntwist.cluster.forwards import Forward, Forwarding, Outcome
from nuntwist.core.forwards import Item
from nuntwist.core.limits import Limits
from nuntwist.core.logins import Logins
from nuntwist.errors import OutcomeUnknown, StorageUnavailable
from nuntwist.testing import Connection, MemoryNode
from tests.cases import one_measured
from tests.unit.forwarding_set import NO_DATABASE, answers, at, formed, forwarder, rest
from tests.unit.lost import Threads
from tests.unit.memory_set import MemorySet
from tests.unit.test_recovery import state


@pytest.fixture
def three() -> MemorySet:
    """A set whose primary is the first, with the database ``d``."""
    return formed()


# -- what a client sees ----------------------------------------------------------------------------


def test_any_node_takes_writes_and_its_clients_read_them_there(three: MemorySet) -> None:
    for me in three.ids:
        client = at(three, me)
        client.received()
        client.send(f"set k {me}\nget k\nincrement n {me}\nget n\nremove k\nget-safe k")
        sums = sum(range(1, me + 1))
        three.run(0.1)
        assert client.received() == (
            f"ok \nvalue {me}\nok \nok \nvalue {sums}\nok \nok \nvalue-version 1 <Empty>\nok \n"
        )
    assert state(three.nodes[2]) == state(three.nodes[3]) == state(three.nodes[1])


def test_it_is_answered_no_sooner_than_it_is_seen_here(three: MemorySet) -> None:
    client, reader = at(three, 2), at(three, 2)
    client.send("set k 1")
    seen = []
    for _ in range(40):
        three.run(three.delay / 4)
        seen.append((reader.ask("get k"), client.received()))
    first = next(place for place, (_, answer) in enumerate(seen) if answer)
    assert seen[first] == ("value 1\nok \n", "ok \n")
    # There and back.
    assert first < 10


def test_a_read_behind_a_write_waits_for_it_and_others_do_not(three: MemorySet) -> None:
    client, other = at(three, 2), at(three, 2)
    client.send("get a\nset k 1\nget k\nset k 2\nget k")
    assert client.received() == "value <Empty>\nok \n"
    assert other.ask("get k") == "value <Empty>\nok \n"
    three.run(2.5 * three.delay)
    assert client.received() == "ok \nvalue 1\nok \n"
    three.run(2.5 * three.delay)
    assert client.received() == "ok \nvalue 2\nok \n"


def test_writes_in_a_row_go_together(three: MemorySet) -> None:
    client = at(three, 2)
    client.send("\n".join(f"set k{number} {number}" for number in range(256)))
    assert forwarder(three, 2).pending == 256
    three.run(2.5 * three.delay)
    assert client.received() == "ok \n" * 256
    assert forwarder(three, 2).pending == 0
    # One record: the writes and one marker.
    log = three.nodes[1].oplog
    assert max(len(ops) for ops in log.read(0)) == 257


WORDS = [
    *["set k{n} {n}", "set k{n} {n}", "get k{n}", "increment k{n} 2", "increment c", "remove k{n}"],
    *["set-safe k{n} {n} x", "get-safe k{n}", "keys k*", "nonsense", "set", "watch k{n}"],
    *["unwatch k{n}", "create-user u{n} t", "set-permissions u{n} rw k*", "use-db d t", "get c"],
    *["use-db d wrong", "set $$s{n} v", "get $$s{n}", "remove $$s{n}", "ping", "increment $$s{n}"],
    *[
        "create-db e{n} t",
        "drop-db e{n}",
        "use-db e{n} t",
        "set $connections 1",
        "auth nun nun-pwd",
    ],
    *["rp 1 set k{n} r", "replicate d k{n} -1 v", "replicate-increment d c 3", "rp 1 get k{n}"],
    *["rp 1 create-db e{n} t", "replicate-remove d k{n}", "use-db d u{n} t", "set k{n} a;b;"],
]


def parted(text: str) -> tuple[list[str], list[str]]:
    """The lines of events, and of answers."""
    lines = text.split("\n")
    events = [line for line in lines if line.startswith(("changed", "removed "))]
    return events, [line for line in lines if line not in events]


@pytest.mark.parametrize("seed", one_measured(range(40)))
def test_a_conversation_reads_as_on_a_node_alone(seed: int) -> None:
    chance = random.Random(seed)
    nodes, alone = formed(), MemoryNode()
    alone.admin("create-db d t")
    for node in (alone, *nodes.nodes.values()):
        # Their clocks do not go alike.
        node.node.logins = Logins(0, node.clock.seconds)
    here, there = at(nodes, 2), alone.tcp()
    there.ask("use-db d t")
    heard, expected = "", ""
    for _ in range(25):
        words = chance.choices(WORDS, k=chance.randrange(1, 12))
        text = "\n".join(word.format(n=chance.randrange(4)) for word in words)
        here.send(text)
        there.send(text)
        nodes.run(chance.choice([0.0, 0.001, 0.005, 0.2]))
        heard += here.received()
        expected += there.received()
    heard += rest(nodes, here)
    # An event comes with the operation, so before the answers to all writes of one request.
    assert parted(heard) == parted(expected)
    assert state(nodes.nodes[2]) == state(nodes.nodes[3]) == state(nodes.nodes[1])
    mine = {name: keys for name, keys in state(nodes.nodes[2]).items() if name != b"$admin"}
    other = {name: keys for name, keys in state(alone).items() if name != b"$admin"}
    secrets = {name: dict.fromkeys(keys) for name, keys in mine.items()}
    assert secrets == {name: dict.fromkeys(keys) for name, keys in other.items()}


# -- what is refused -------------------------------------------------------------------------------


def test_rights_are_looked_at_here_and_there(three: MemorySet) -> None:
    admin = three.nodes[1].admin("use-db d t", "create-user ann pwd")
    admin.send("set-permissions ann rw a*")
    three.run(0.1)
    ann = at(three, 2, "use-db d ann pwd")
    assert answers(three, ann, "set a1 x") == "ok \n"
    denied = "permission denied\nerror permission denied\n \n"
    ann.received()
    # Known here: the primary is not asked.
    assert ann.ask("set b1 x") == denied
    # Not known here yet.
    admin.send("set-permissions ann r a*")
    assert answers(three, ann, "set a2 x\nincrement a1") == denied * 2
    three.run(0.1)
    assert ann.ask("set a2 x") == denied


def test_a_database_that_is_gone_is_none(three: MemorySet) -> None:
    client, nobody = at(three, 2), three.nodes[2].tcp()
    three.nodes[1].admin("drop-db d", "create-db d other")
    assert answers(three, client, "set k 1") == NO_DATABASE
    three.run(0.1)
    assert client.ask("set k 1") == NO_DATABASE
    assert nobody.ask("set k 1") == NO_DATABASE
    assert b"k" not in state(three.nodes[1])[b"d"]


def test_what_a_write_is_refused_with_at_the_primary_is_said(three: MemorySet) -> None:
    client = at(three, 2)
    assert answers(three, client, "set k x\nincrement k\nset-safe k 0 y\nset-safe k 0 z") == (
        "ok \nerror Key is not numeric \nok \nerror Invalid version! \n"
    )
    index = three.nodes[1].oplog.last.index
    # It has changed nothing, so it leaves nothing.
    assert answers(three, client, "increment k") == "error Key is not numeric \n"
    assert three.nodes[1].oplog.last.index == index


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StorageUnavailable("full"), "storage unavailable: full"),
        (OutcomeUnknown("broken"), "outcome unknown: broken"),
    ],
)
def test_a_log_that_fails_at_the_primary_is_told(
    three: MemorySet, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    # Else another node would lead, and take them.
    monkeypatch.setattr(three.members[1].machine, "troubled", lambda: None)
    client, other = three.nodes[2].admin("use-db d t"), at(three, 2)

    def fail(*arguments: object) -> None:
        raise error

    text = later = f"error {said} \n"
    may_go_on = isinstance(error, StorageUnavailable)
    if not may_go_on:
        later = "error storage unavailable: the log failed, the node must be restarted \n"
    with monkeypatch.context() as patch:
        patch.setattr(three.nodes[1].oplog, "append", fail)
        other.send("set a 1\nset-safe k 5 x")
        client.send("set k 1\nincrement k x\nremove k\nincrement n\nget n")
        three.run(0.1)
        assert client.received() == (
            f"{later}error invalid number: x \n{later}{later}value <Empty>\nok \n"
        )
        assert other.received() == text * 2
    if may_go_on:
        assert answers(three, client, "increment n\ncreate-user ann t\nget n") == (
            "ok \nok \nvalue 1\nok \n"
        )
        assert state(three.nodes[2]) == state(three.nodes[1])


@pytest.mark.parametrize("command", ["create-user ann t", "create-db e t", "rp 1 set k 1"])
def test_a_log_that_fails_under_what_stands_alone_is_told(
    three: MemorySet, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    client = three.nodes[2].admin("use-db d t")

    def fail(*arguments: object) -> None:
        raise StorageUnavailable("No space left on device")

    before = state(three.nodes[2])
    with monkeypatch.context() as patch:
        patch.setattr(three.nodes[1].oplog, "append", fail)
        assert answers(three, client, command) == (
            "error storage unavailable: No space left on device \n"
        )
    assert state(three.nodes[2]) == state(three.nodes[1]) == before


def test_a_restore_is_for_the_primary_itself(three: MemorySet) -> None:
    client = three.nodes[2].admin("use-db d t")
    where = "error restore on the primary: node-1:3014 \n"
    assert client.ask("restore-begin new") == where
    assert client.ask("rp 1 restore-write 1 AAAA") == where
    assert client.ask("rp 1 rp 1 set k 1") == "error rp cannot carry rp \n"
    assert client.ask("rp 1 get k") == "value <Empty>\nok \n"
    # Whom rp made somebody else would be that at the primary.
    assert client.ask("rp 1 use-db d t") == "ok \n"
    three.isolate(2)
    three.run(2.0)
    assert client.ask("restore-begin new") == "error no primary \n"


def test_conflicts_go_to_the_arbiter_at_the_primary(three: MemorySet) -> None:
    three.nodes[1].admin("create-db c t arbiter")
    three.run(0.1)
    client = at(three, 2, "use-db c t")
    arbiter = at(three, 1, "use-db c t")
    arbiter.ask("arbiter")
    answer = answers(three, client, "set k 1\nset-safe k 0 2\nset-safe k 0 3")
    assert answer.startswith("ok \nok \nerror $$conflitct unresolved $conflicts_k_")
    resolve = arbiter.received().split("\n")[0].split(" ")
    assert resolve[0] == "resolve"
    words = [resolve[1], "c", "k", resolve[3], "settled"]
    assert answers(three, client, f"resolve {' '.join(words)}\nget k") == (
        "ok \nvalue settled\nok \n"
    )


def test_a_primary_passes_over_what_cannot_be_a_request(
    three: MemorySet, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = three.nodes[1].node.catalogue.by_name[b"d"].number
    forwards = three.forwards[1]
    number = three.members[1].election.number
    sent: list[Forwarding] = []
    to_others = three.members[1].send

    def send(node: int, message: Any) -> None:
        if node == 7:
            sent.append(message)
        else:
            to_others(node, message)

    monkeypatch.setattr(three.members[1], "send", send)

    def run(lane: int, *texts: bytes, epoch: int = number) -> None:
        items = tuple(Item(database, None, False, text) for text in texts)
        forwards.run(7, Forward(epoch, lane, 1, items))
        three.run(0.1)

    run(0, b"set k 1", epoch=number - 1)
    run(0)
    run(9, b"set k 1")
    run(1, b"set k 1", b"set k 2")
    run(0, *[b"set k 1"] * 257)
    assert sent == []
    wrong = b"-29:this is no command to forward"
    run(0, b"get k", b"create-user ann t", b"use-db d t", b"restore-begin new", b"auth nun nun-pwd")
    run(1, b"set k 1")
    run(2, b"set")
    assert [(m.lane, m.replies) for m in sent if isinstance(m, Outcome)] == [
        (0, wrong * 5),
        (1, wrong),
        (2, b"-22:set must contain a key"),
    ]
    assert b"k" not in state(three.nodes[1])[b"d"]


# -- many at once ----------------------------------------------------------------------------------


def test_commands_of_many_go_together_and_each_gets_its_answer(three: MemorySet) -> None:
    three.nodes[1].admin("create-db e t", "use-db d t", "create-user ann pwd")
    three.run(0.1)
    clients = [
        three.nodes[2].admin("use-db d t"),
        at(three, 2),
        at(three, 2, "use-db e t"),
        at(three, 2, "use-db d ann pwd"),
        at(three, 2),
    ]
    clients[0].send("set under way")
    for number, client in enumerate(clients[1:]):
        client.send(f"set n {number}\nincrement n\nincrement n x\nset m {number}\nget n")
    before = three.nodes[1].oplog.last.index
    three.run(0.1)
    heard = [client.received() for client in clients]
    fine = "ok \nok \nerror invalid number: x \nok \nvalue {} \nok \n".replace("} ", "}")
    denied = "permission denied\nerror permission denied\n \n"
    assert heard[0] == "ok \n"
    assert heard[2] == fine.format(2)
    assert heard[3].startswith(denied * 2)
    assert heard[4] == fine.format(4)
    assert before < three.nodes[1].oplog.last.index
    assert state(three.nodes[2]) == state(three.nodes[1])


def test_a_connection_is_not_read_on_at_its_limit(three: MemorySet) -> None:
    client = at(three, 2)
    for me in three.ids:
        three.isolate(me)
    text = "\n".join(f"increment n\nset k{number} x" for number in range(1_000))
    client.send(text)
    assert forwarder(three, 2).pending == Limits().forwards
    assert client.transport.producerState == "paused"
    heard = ""
    for _ in range(8):
        three.run(1.0)
        assert forwarder(three, 2).pending <= Limits().forwards
        heard += client.received()
    heard += rest(three, client)
    assert heard.count("\n") == 2_000
    assert client.transport.producerState == "producing"


def test_bytes_count_too_and_a_long_command_goes_alone(three: MemorySet) -> None:
    client, other = at(three, 2), at(three, 2)
    client.send("\n".join(f"set k{number} {'x' * 300_000}" for number in range(8)))
    assert forwarder(three, 2).pending == 3
    assert other.ask(f"set k {'y' * 1_000_000}") == ""
    assert forwarder(three, 2).pending == 4
    three.run(1.0)
    assert client.received() + rest(three, client) == "ok \n" * 8
    assert other.received() == "ok \n"
    assert state(three.nodes[2]) == state(three.nodes[1])


def test_all_together_have_a_limit_and_wait_in_line() -> None:
    three = formed(MemorySet(limits=Limits(all_forwards=10)))
    clients = [at(three, 2) for _ in range(8)]
    for number, client in enumerate(clients):
        client.send("\n".join(f"set k{number} {place}" for place in range(4)) + f"\nget k{number}")
        assert forwarder(three, 2).pending <= 10
    clients[6].close()
    three.run(0.2)
    for number, client in enumerate(clients):
        if number != 6:
            assert client.received() == "ok \n" * 4 + "value 3\nok \n"
    assert forwarder(three, 2).pending == 0
    assert not forwarder(three, 2)._without_room


def test_what_hashes_does_not_hold_up_the_writes(three: MemorySet) -> None:
    threads = Threads()
    threads.hold = True
    three.nodes[1].node.secrets._in_thread = threads
    admins = [three.nodes[2].admin("use-db d t") for _ in range(6)]
    for number, admin in enumerate(admins):
        admin.send(f"create-db e{number} t\nset k{number} 1")
    client = at(three, 2)
    assert answers(three, client, "set k 1") == "ok \n"
    # So many lanes there are.
    assert len(threads._kept) == 4
    while threads.busy:
        threads.run_one()
        three.run(0.05)
    assert [admin.received() for admin in admins] == ["create-db success\nok \nok \n"] * 6


def test_who_goes_away_is_forgotten_and_its_writes_are_done(three: MemorySet) -> None:
    client, ended = at(three, 2), at(three, 2)
    client.send("increment n\nget n\nincrement n")
    ended.send("increment m\nget m")
    client.close()
    ended.protocol.readConnectionLost()
    three.run(0.1)
    assert ended.received() == "ok \nvalue 1\nok \n"
    assert ended.closed
    assert forwarder(three, 2).pending == 0
    assert at(three, 2).ask("get n") == "value 1\nok \n"


def test_http_and_websocket_clients_are_served_alike(three: MemorySet) -> None:
    frames = three.nodes[2].ws()
    frames.send("use-db d t; set k 1; get k")
    three.run(0.1)
    assert frames.received() == ["ok \n", "ok \n", "value 1\n", "ok \n"]


def test_http_clients_are_answered_when_all_is_done(three: MemorySet) -> None:
    http = Connection(three.nodes[2], three.nodes[2].site)
    body = b"use-db d t; set k 1; get k; increment n; set-safe k 0 2; set-safe k 0 3"
    http.deliver(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    assert http.taken() == b""
    three.run(0.1)
    answer = http.taken().partition(b"\r\n\r\n")[2]
    assert answer == b"empty;empty;value 1\n;empty;empty;Invalid version!"
