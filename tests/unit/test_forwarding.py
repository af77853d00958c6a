"""Writes at a secondary: run by the primary, once, and answered when they are seen here."""

from __future__ import annotations

import binascii
import random
from typing import Any

import pytest

from nuntwist.archive.format import Reader
from nuntwist.cluster.forwards import Behind, Forward, Forwarding, Outcome
from nuntwist.core.forwarded import Executor
from nuntwist.core.forwarding import Forwarder
from nuntwist.core.forwards import Item
from nuntwist.core.limits import Limits
from nuntwist.errors import OutcomeUnknown, StorageUnavailable
from nuntwist.files import MemoryFiles
from nuntwist.testing import Connection, LineConnection, MemoryNode
from nuntwist.values import KEY
from tests.unit.lost import LateNode, Threads
from tests.unit.memory_set import MemorySet
from tests.unit.test_recovery import killed, snapshot, start, state

NO_DATABASE = "error no-db-selected\nerror error no-db-selected\n \n"


@pytest.fixture
def three() -> MemorySet:
    """A set whose primary is the first, with the database ``d``."""
    return formed()


def formed(nodes: MemorySet | None = None) -> MemorySet:
    nodes = nodes or MemorySet()
    nodes.run(2.0)
    nodes.nodes[1].admin("create-db d t")
    nodes.run(0.1)
    assert (nodes.primary(), nodes.secondaries()) == (1, [2, 3])
    return nodes


def at(nodes: MemorySet, me: int, use: str = "use-db d t") -> LineConnection:
    """A client of a node."""
    client = nodes.nodes[me].tcp()
    assert client.ask(use) == "ok \n"
    return client


def forwarder(nodes: MemorySet, me: int) -> Forwarder:
    return nodes.forwards[me].forwarder


def answers(nodes: MemorySet, client: LineConnection, text: str, seconds: float = 0.1) -> str:
    """Send, and give what comes within a time."""
    client.received()
    client.send(text)
    nodes.run(seconds)
    return client.received()


def rest(nodes: MemorySet, client: LineConnection) -> str:
    """What comes until nothing more does, where the node did not read all that was sent."""
    heard = ""
    for _ in range(100):
        client.deliver(b"")
        nodes.run(0.1)
        heard += client.received()
    return heard


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


@pytest.mark.parametrize("seed", range(40))
def test_a_conversation_reads_as_on_a_node_alone(seed: int) -> None:
    chance = random.Random(seed)
    nodes, alone = formed(), MemoryNode()
    alone.admin("create-db d t")
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


# -- when the primary dies -------------------------------------------------------------------------


class Killed:
    """A set whose primary is killed after so many messages from when it is armed.

    :ivar left: how many messages there are still to come; below 0 for killed.
    """

    def __init__(self, after: int, wait: float = 60.0) -> None:
        self.nodes = formed()
        for me in self.nodes.ids:
            forwarder(self.nodes, me)._wait = wait
        self.left = after
        self.nodes.arrived = self._arrived

    def _arrived(self, sender: int, receiver: int) -> None:
        self.left -= 1
        if self.left == -1:
            self.nodes.kill(1)


@pytest.mark.parametrize("after", range(40))
def test_each_increment_counts_once_whenever_the_primary_dies(after: int) -> None:
    killed = Killed(after)
    nodes = killed.nodes
    clients = {me: at(nodes, me) for me in (2, 3)}
    heard = dict.fromkeys(clients, "")
    for _ in range(4):
        for client in clients.values():
            client.send("increment n\nincrement n\nget n")
        nodes.run(0.001)
    nodes.run(8.0)
    assert killed.left < 0
    for me, client in clients.items():
        heard[me] += client.received() + rest(nodes, client)
        assert heard[me].count("error") == 0
        assert heard[me].count("ok \n") == 12
    for me in (2, 3):
        assert at(nodes, me).ask("get n") == "value 16\nok \n"
    assert state(nodes.nodes[2]) == state(nodes.nodes[3])


@pytest.mark.parametrize("after", range(40))
def test_what_stands_alone_is_done_once_whenever_the_primary_dies(after: int) -> None:
    killed = Killed(after)
    nodes = killed.nodes
    clients = [nodes.nodes[me].admin("use-db d t") for me in (2, 3)]
    for me, client in zip((2, 3), clients, strict=True):
        client.send(f"create-db e{me} t\ncreate-user u{me} t\ncreate-db f{me} t\ndrop-db f{me}")
    nodes.run(8.0)
    assert killed.left < 0
    for client in clients:
        assert client.received() == (
            "create-db success\nok \nok \ncreate-db success\nok \ndrop-db success\nok \n"
        )
    assert state(nodes.nodes[2]) == state(nodes.nodes[3])
    assert {b"e2", b"e3"} <= state(nodes.nodes[2]).keys()


def test_who_is_elected_itself_runs_what_it_had_forwarded() -> None:
    nodes = formed()
    nodes.isolate(3)
    nodes.run(1.0)
    client = at(nodes, 2)
    forwarder(nodes, 2)._wait = 60.0
    client.send("increment n\ncreate-db x y\nget n")
    nodes.kill(1)
    nodes.run(1.0)
    assert client.received() == ""
    nodes.cut.clear()
    nodes.connect(2, 3)
    nodes.run(5.0)
    assert nodes.primary() in (2, 3)
    assert client.received() == "ok \nerror Not auth \nvalue 1\nok \n"


# -- when the log is durable later -----------------------------------------------------------------


class LateSet(MemorySet):
    """The flushes of each node's log wait while its ``threads`` hold."""

    def __init__(self) -> None:
        super().__init__(durability="disk")

    def flush(self, me: int) -> None:
        while self.threads[me].busy:
            self.threads[me].run_one()
        self.run(0.02)


@pytest.fixture
def late() -> LateSet:
    """A formed set, where the flushes of the first two are held."""
    nodes = LateSet()
    formed(nodes)
    for me in (1, 2):
        nodes.threads[me].hold = True
    return nodes


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
@pytest.mark.parametrize("command", ["set k 1", "create-user ann t"])
def test_an_answer_waits_for_both_logs(late: LateSet, order: tuple[int, int], command: str) -> None:
    client = late.nodes[2].admin("use-db d t")
    client.send(command)
    late.run(0.02)
    assert client.received() == ""
    late.flush(order[0])
    assert client.received() == ""
    late.flush(order[1])
    assert client.received() == "ok \n"


@pytest.mark.parametrize("command", ["set k 1", "create-user ann t"])
def test_a_lost_flush_at_the_primary_is_told(late: LateSet, command: str) -> None:
    client = late.nodes[2].admin("use-db d t")
    client.send(command)
    late.run(0.02)
    late.threads[1].fail_one()
    late.run(0.02)
    late.flush(2)
    assert client.received() == "error outcome unknown: Input/output error \n"


def test_what_was_read_before_a_write_is_answered_before_it_is_sent(late: LateSet) -> None:
    late.threads[1].hold = False
    late.flush(1)
    writer, reader = at(late, 1), at(late, 2)
    writer.send("set k 1")
    late.run(0.02)
    reader.send("get k\nset a 1\nget a")
    late.run(0.02)
    assert forwarder(late, 2).pending == 0
    late.flush(2)
    assert reader.received() == "value 1\nok \n"
    late.flush(2)
    assert reader.received() == "ok \nvalue 1\nok \n"


def test_a_marker_does_not_hold_up_what_follows_it(late: LateSet) -> None:
    late.threads[1].hold = False
    late.flush(1)
    writer = at(late, 3)
    for number in range(3):
        assert answers(late, writer, f"set k{number} 1") == "ok \n"
    # It is all applied at the second node, though nothing of it is durable there.
    journal = late.nodes[2].node.pipeline.journal
    assert journal.index == late.nodes[1].oplog.last.index
    assert journal.revealed < journal.index


def test_an_answer_that_is_not_revealed_here_does_not_count_at_the_next_primary(
    late: LateSet,
) -> None:
    """The primary had it and has said so, but nobody else has it on the disk."""
    client = at(late, 2)
    forwarder(late, 2)._wait = 60.0
    late.isolate(3)
    client.send("increment n\nget n")
    late.run(0.01)
    late.flush(1)
    lanes = forwarder(late, 2)._lanes
    assert lanes[0].outcome is not None
    late.kill(1)
    assert lanes[0].outcome is None
    late.flush(2)
    assert client.received() == ""
    late.cut.clear()
    late.connect(2, 3)
    for _ in range(10):
        late.run(0.5)
        late.flush(2)
    assert late.primary() == 2
    assert client.received() == "ok \nvalue 1\nok \n"


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
    number = three.members[1].bully.number
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


# -- without a primary -----------------------------------------------------------------------------


def test_a_write_waits_for_a_primary_a_while(three: MemorySet) -> None:
    for me in three.ids:
        three.isolate(me)
    three.run(3.0)
    client, later = at(three, 2), at(three, 2)
    client.send("set k 1\nget k\nincrement n")
    three.run(0.9)
    later.send("set k 2")
    assert client.received() == ""
    three.run(0.11)
    assert client.received() == "error no primary \nvalue <Empty>\nok \n"
    three.cut.clear()
    for one, other in ((1, 2), (1, 3), (2, 3)):
        three.connect(one, other)
    three.run(5.0)
    assert later.received() in ("ok \n", "error no primary \n")
    assert client.received() in ("ok \n", "error no primary \n")


def test_a_write_that_came_before_there_was_a_primary_is_done() -> None:
    nodes = MemorySet()
    admin = nodes.nodes[3].admin()
    for me in nodes.ids:
        forwarder(nodes, me)._wait = 5.0
    admin.send("create-db d t\nuse-db d t\nset k 1\nget k")
    assert admin.received() == ""
    nodes.run(4.0)
    assert admin.received() == "create-db success\nok \nok \nok \nvalue 1\nok \n"


def test_of_what_was_sent_to_a_primary_that_went_nobody_knows(three: MemorySet) -> None:
    client, other = at(three, 2), at(three, 2)
    three.isolate(2)
    client.send("increment n")
    three.run(0.01)
    other.send("increment n")
    three.run(0.9)
    assert client.received() + other.received() == ""
    # 0.5 to 1 s until it takes its primary for lost, and 1 s more.
    three.run(1.2)
    assert client.received() == "error outcome unknown: no primary answered \n"
    assert other.received() == "error no primary \n"
    assert forwarder(three, 2).pending == 0


def test_a_primary_that_comes_back_in_time_answers(three: MemorySet) -> None:
    client = at(three, 2)
    client.send("increment n\nget n")
    three.run(three.delay)
    three.pipes[1, 2].end()
    three.pipes[2, 1].end()
    three.run(0.3)
    assert client.received() == ""
    three.connect(1, 2)
    three.run(0.1)
    assert three.primary() == 1
    assert client.received() == "ok \nvalue 1\nok \n"


def test_a_node_that_stops_says_what_it_knows(three: MemorySet) -> None:
    clients = [at(three, 2) for _ in range(2)]
    for client in clients:
        client.send("set k 1")
    forwarder(three, 2).stop()
    assert [client.received() for client in clients] == [
        "error outcome unknown: no primary answered \n",
        "error no primary \n",
    ]


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


# -- markers ---------------------------------------------------------------------------------------


def test_markers_are_the_servers_own(three: MemorySet) -> None:
    client, admin = at(three, 2), three.nodes[2].admin("use-db $admin nun-pwd")
    answers(three, client, "set k 1")
    key = "$$forwarded_0000000000000002_0"
    marker = three.nodes[3].node.catalogue.admin.value(key.encode())
    assert marker is not None
    assert marker.endswith(b" .")
    assert "forwarded" not in admin.ask("keys")
    kept = "error the server alone writes keys that begin with $$forwarded_ \n"
    for command in (f"set {key} 1", f"remove {key}", f"increment {key}", f"set-safe {key} 1 x"):
        assert answers(three, admin, command) == kept
    assert answers(three, admin, f"rp 1 replicate $admin {key} -1 x") == kept
    # Elsewhere it is a key like any other.
    assert answers(three, three.nodes[2].admin("use-db d t"), f"set {key} 1") == "ok \n"


def test_markers_of_nodes_that_left_are_removed(three: MemorySet) -> None:
    answers(three, at(three, 2), "set k 1")
    answers(three, three.nodes[2].admin(), "create-db e t")
    answers(three, at(three, 3), "set k 1")
    forwards = three.forwards[1]
    forwards.forget([2, 77])
    three.run(0.1)
    for me in three.ids:
        keys = [key for key in state(three.nodes[me])[b"$admin"] if b"forwarded" in key]
        assert keys == [b"$$forwarded_0000000000000003_0"]


def test_a_clock_that_was_set_back_does_not_lose_requests(three: MemorySet) -> None:
    client = three.nodes[2].admin("use-db d t")
    assert answers(three, client, "increment n\ncreate-user ann t") == "ok \nok \n"
    forwarder(three, 2)._request = 5
    assert answers(three, client, "increment n\ncreate-user ann t\nget n") == (
        "ok \nok \nvalue 2\nok \n"
    )
    assert forwarder(three, 2)._request > 1 << 20


class Restarted:
    """A primary and what it answers to requests.

    :param on: where its log and snapshots are, or itself.
    """

    def __init__(self, on: MemoryFiles | MemoryNode) -> None:
        self.node = on if isinstance(on, MemoryNode) else start(on)
        self.executor = Executor(self.node.node, self.node.clock.callLater)

    def run(self, request: int, *texts: bytes, lane: int = 0) -> object:
        database = self.node.node.catalogue.by_name.get(b"d")
        number = None if database is None else database.number
        items = [Item(number, None, True, text) for text in texts]
        answered: list[object] = []
        behind = self.executor.run(
            7, lane, request, items, lambda index, replies: answered.append((index, replies))
        )
        self.node.settle()
        return answered[0] if answered else behind


@pytest.mark.parametrize("with_snapshot", [False, True])
def test_a_request_is_known_after_a_restart(with_snapshot: bool) -> None:
    files = MemoryFiles()
    first = Restarted(files)
    created = first.run(3, b"create-db d t", lane=1)
    assert created == (2, b"+18:create-db success\n.")
    texts = (b"increment n", b"increment n x", b"set-safe n 9 1", b"set-safe n 1 1")
    run = first.run(4, *texts)
    assert run == (5, b".-17:invalid number: x.-16:Invalid version!")
    if with_snapshot:
        snapshot(first.node)
    again = Restarted(killed(files))
    last = again.node.oplog.last.index
    assert again.run(3, b"create-db d t", lane=1) == created
    assert again.run(4, *texts) == run
    assert again.run(3, b"increment n") == 4
    assert again.node.oplog.last.index == last
    assert again.run(5, b"increment n") == (7, b".")
    assert state(again.node)[b"d"][b"n"][0] == b"2"


def test_a_backup_has_no_markers_and_a_restore_leaves_them() -> None:
    files = MemoryFiles()
    primary = Restarted(files)
    primary.run(3, b"create-db d t", lane=1)
    admin = primary.node.admin("use-db $admin nun-pwd", "set note x")
    data = b""
    number = admin.ask("backup-begin $admin|d").split()[1]
    while (piece := admin.ask(f"backup-read {number}")).startswith("backup-data"):
        data += binascii.a2b_base64(piece.split()[1])
    entries = state(primary.node)[b"$admin"]
    assert sum(b"forwarded" in key for key in entries) == 1
    assert b"forwarded" not in b"".join(
        op[KEY] for block in Reader("backup").feed(data) if isinstance(block, list) for op in block
    )
    number = admin.ask("restore-begin force $admin|d").split()[1]
    admin.send(f"restore-write {number} {binascii.b2a_base64(data, newline=False).decode()}")
    admin.send(f"restore-commit {number}")
    assert "ok" in admin.received()
    assert primary.run(3, b"create-db d t", lane=1) == (2, b"+18:create-db success\n.")


def test_a_request_that_comes_again_while_it_is_under_way_runs_once() -> None:
    primary, threads = Restarted(MemoryFiles()), Threads()
    primary.run(1, b"create-db d t", lane=1)
    primary.node.node.secrets._in_thread = threads
    threads.hold = True
    assert primary.run(2, b"create-db e t", lane=1) is None
    assert primary.run(2, b"create-db e t", lane=1) is None
    assert primary.run(1, b"create-db x t", lane=1) == 2
    # It was given up; the one after it comes in its turn, and the last one counts.
    assert primary.run(3, b"create-db f t", lane=1) is None
    assert primary.run(4, b"create-db g t", lane=1) is None
    assert primary.run(3, b"create-db f t", lane=1) == 4
    assert len(threads._kept) == 1
    threads.run_one()
    primary.node.settle()
    threads.run_one()
    assert not threads.busy
    assert state(primary.node).keys() == {b"$admin", b"d", b"e", b"g"}


def test_an_answer_that_is_not_durable_yet_is_not_given_again() -> None:
    node = LateNode()
    primary = Restarted(node)
    node.threads.hold = True
    assert primary.run(2, b"increment n") is None
    # It is primary anew, and is asked anew.
    primary.executor.stop()
    assert primary.run(2, b"increment n") is None
    answered: list[tuple[int, bytes]] = []
    primary.executor._jobs[7, 0].answer = lambda index, replies: answered.append((index, replies))
    node.threads.fail_one()
    node.settle()
    lost = b"storage unavailable: the log failed, the node must be restarted"
    assert answered == [(0, b"-%d:%b" % (len(lost), lost))]
    assert b"n" not in state(node)[b"d"]


def test_answers_that_are_more_than_may_be_kept_are_given_up() -> None:
    nodes = MemorySet(durability="disk", limits=Limits(output_limit=1024))
    formed(nodes)
    client = at(nodes, 2)
    nodes.threads[1].hold = True
    client.send("set k 1\n" + "\n".join(["set-safe k -2 x"] * 100))
    nodes.run(0.1)
    while nodes.threads[1].busy:
        nodes.threads[1].run_one()
    nodes.run(0.1)
    lost = "error outcome unknown: the primary has lost the answer \n"
    assert client.received() == lost * 101


def test_what_comes_after_a_request_is_dropped_with_the_reign() -> None:
    primary, threads = Restarted(MemoryFiles()), Threads()
    primary.node.node.secrets._in_thread = threads
    threads.hold = True
    for stop in (False, True):
        first = 10 if stop else 2
        assert primary.run(first, b"create-db e%d t" % first, lane=1) is None
        assert primary.run(first + 1, b"create-db f%d t" % first, lane=1) is None
        threads.run_one()
        if stop:
            primary.executor.stop()
        # Whether writes are refused does not matter to that: it is answered so.
        primary.node.node.pipeline.journal.refusal = b"too few replicas"
        primary.node.settle()
        primary.node.node.pipeline.journal.refusal = None
        assert threads.busy is False
    assert state(primary.node).keys() == {b"$admin", b"e2", b"e10"}


def test_what_a_primary_has_not_logged_when_it_steps_down_it_does_not_log_later() -> None:
    primary, threads = Restarted(MemoryFiles()), Threads()
    primary.node.node.secrets._in_thread = threads
    threads.hold = True
    assert primary.run(2, b"create-db e t", lane=1) is None
    primary.executor.stop()
    # It is elected again at once, and is sent it again.
    assert primary.run(2, b"create-db e t", lane=1) is None
    answered: list[tuple[int, bytes]] = []
    threads.run_one()
    assert b"e" not in state(primary.node)
    job = primary.executor._jobs[7, 1]
    job.answer = lambda index, replies: answered.append((index, replies))
    threads.run_one()
    assert answered == [(2, b"+18:create-db success\n.")]


# -- under faults ----------------------------------------------------------------------------------


class Counting:
    """A client that counts with a key of its own, and what it knows of it.

    :ivar under_way: increments that are not answered.
    :ivar done: those that went well.
    :ivar unknown: those that may have been done.
    """

    def __init__(self, nodes: MemorySet, me: int, name: str) -> None:
        self.node, self.name = me, name
        self.client: LineConnection | None = at(nodes, me)
        self.client.received()
        self.under_way = self.done = self.unknown = 0

    def send(self, count: int) -> None:
        if self.client is not None:
            self.under_way += count
            self.client.send("\n".join([f"increment {self.name}"] * count))

    def look(self) -> None:
        if self.client is None:
            return
        self.client.deliver(b"")
        for line in self.client.received().splitlines():
            self.under_way -= 1
            if line == "ok ":
                self.done += 1
            elif "outcome unknown" in line:
                self.unknown += 1
            else:
                assert line in ("error no primary ", "error not primary ")

    def end(self) -> None:
        """The node is gone."""
        self.look()
        self.client = None
        self.unknown += self.under_way
        self.under_way = 0


class Faulty:
    """A set in which things go wrong while a client of each node counts."""

    def __init__(self, seed: int, by_commit: bool) -> None:
        self.nodes, self.chance = formed(MemorySet(seed=seed)), random.Random(seed)
        self.by_commit = by_commit
        self.dead: int | None = None
        for me in self.nodes.ids:
            self.nodes.nodes[me].node.pipeline.journal.by_commit = by_commit
        self.nodes.run(0.1)
        self.clients = [Counting(self.nodes, me, f"n{me}") for me in self.nodes.ids]

    def step(self) -> None:
        """Something happens, clients send, time goes by."""
        nodes, chance, ids = self.nodes, self.chance, self.nodes.ids
        what = chance.choice(["cut", "one way", "heal", "heal", "slow", "fast", "kill", "start"])
        if what == "cut":
            nodes.isolate(chance.choice(ids))
        elif what == "one way":
            nodes.cut.add((chance.choice(ids), chance.choice(ids)))
        elif what in ("slow", "fast"):
            nodes.delay = 0.05 if what == "slow" else 0.001
        elif what == "kill" and self.dead is None:
            self.dead = chance.choice(ids)
            nodes.kill(self.dead)
            for client in self.clients:
                if client.node == self.dead:
                    client.end()
        elif what == "start":
            self.start()
        elif what == "heal" and self.dead is None:
            nodes.heal()
        for client in self.clients:
            client.send(chance.randrange(1, 4))
        nodes.run(chance.choice([0.003, 0.05, 0.4, 1.5]))
        for client in self.clients:
            client.look()

    def start(self) -> None:
        """Who is dead comes back, with other clients."""
        if self.dead is None:
            return
        me, self.dead = self.dead, None
        self.nodes.cut.clear()
        self.nodes.restart(me)
        self.nodes.nodes[me].node.pipeline.journal.by_commit = self.by_commit
        self.nodes.run(2.0)
        self.clients.append(Counting(self.nodes, me, f"m{len(self.clients)}"))

    def settle(self) -> None:
        """All is well again, until everything is answered."""
        self.start()
        self.nodes.delay = 0.001
        for _ in range(12):
            self.nodes.heal()
            self.nodes.run(1.0)
            for client in self.clients:
                client.look()


@pytest.mark.parametrize("by_commit", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_every_increment_counts_once_or_is_known_not_to(seed: int, by_commit: bool) -> None:
    faulty = Faulty(seed, by_commit)
    for _ in range(50):
        faulty.step()
    faulty.settle()
    contents = state(faulty.nodes.nodes[1])
    assert contents == state(faulty.nodes.nodes[2]) == state(faulty.nodes.nodes[3])
    assert sum(client.done for client in faulty.clients) > 10
    for client in faulty.clients:
        assert client.under_way == 0
        value, _ = contents[b"d"].get(client.name.encode(), (b"0", 0))
        assert int(value or b"0") <= client.done + client.unknown
        if by_commit:
            # What a majority has stays; else what only the old primary had is gone with it.
            assert int(value or b"0") >= client.done


def test_who_is_primary_no_more_forgets_what_it_was_running(three: MemorySet) -> None:
    threads = Threads()
    threads.hold = True
    three.nodes[1].node.secrets._in_thread = threads
    admin = three.nodes[2].admin()
    forwarder(three, 2)._wait = 60.0
    admin.send("create-db e t")
    three.run(0.01)
    assert len(three.forwards[1]._executor._jobs) == 1
    three.isolate(1)
    three.run(3.0)
    assert not three.forwards[1]._executor._jobs
    # The next one has done it.
    assert admin.received() == "create-db success\nok \n"
    threads.run_one()
    assert b"e" not in state(three.nodes[1])
    three.heal()
    three.run(3.0)
    assert state(three.nodes[1]) == state(three.nodes[2])


def test_an_answer_of_another_epoch_or_of_another_node_does_not_count(three: MemorySet) -> None:
    client = at(three, 2)
    client.send("increment n")
    number = three.members[2].bully.number
    (lane,) = [lane for lane in forwarder(three, 2)._lanes if lane.under_way]
    forwards = three.forwards[2]
    forwards.answered(1, Outcome(number - 1, 0, lane.request, 0, b"."))
    forwards.answered(3, Outcome(number, 0, lane.request, 0, b"."))
    forwards.answered(1, Outcome(number, 0, lane.request - 1, 0, b"."))
    forwards.answered(1, Outcome(number, 1, lane.request, 0, b"."))
    forwards.answered(1, Outcome(number, 77, lane.request, 0, b"."))
    forwards.answered(1, Behind(number, 0, lane.request, lane.request - 1))
    three.run(0.0)
    assert client.received() == ""
    assert answers(three, client, "get n") == "ok \nvalue 1\nok \n"


@pytest.mark.parametrize("replies", [b"", b"..", b"-3:no", b"x", b"+2:ab", b"-:a", b".:"])
def test_an_answer_that_cannot_be_read_is_not_guessed_at(three: MemorySet, replies: bytes) -> None:
    client = at(three, 2)
    client.send("increment n")
    lane = forwarder(three, 2)._lanes[0]
    number = three.members[2].bully.number
    three.forwards[2].answered(1, Outcome(number, 0, lane.request, 0, replies))
    assert client.received() == "error outcome unknown: the primary's answer cannot be read \n"
    assert forwarder(three, 2).pending == 0
