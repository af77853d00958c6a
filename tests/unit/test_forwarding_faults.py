"""Forwarded writes when primaries die, are cut off, or are not there."""

from __future__ import annotations

import random

import pytest

from nuntwist.testing import LineConnection
from tests.cases import one_measured
from tests.unit.forwarding_set import LateSet, answers, at, formed, forwarder, rest
from tests.unit.lost import Threads
from tests.unit.memory_set import MemorySet
from tests.unit.test_recovery import state


@pytest.fixture
def three() -> MemorySet:
    """A set whose primary is the first, with the database ``d``."""
    return formed()


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


@pytest.mark.parametrize("after", one_measured(range(40)))
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


@pytest.mark.parametrize("after", one_measured(range(40)))
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


def test_what_has_waited_for_a_primary_that_lived_waits_anew_when_it_dies(three: MemorySet) -> None:
    threads = Threads()
    threads.hold = True
    three.nodes[1].node.secrets._in_thread = threads
    admin = three.nodes[2].admin()
    forwarder(three, 2)._wait = 3.0
    admin.send("create-db e t")
    three.run(10.0)
    three.kill(1)
    three.run(3.0)
    assert admin.received() == "create-db success\nok \n"


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
@pytest.mark.parametrize("seed", one_measured(range(40)))
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
