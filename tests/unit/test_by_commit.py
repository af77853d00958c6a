"""Where clients are to know only of what a majority has: answers, reads and events wait for that,
on every node, and a failover takes nothing back that anybody was told."""

from __future__ import annotations

import random

import pytest

from nuntwist.cluster.ailing import Ailing
from nuntwist.core.concern import MAJORITY, Concern
from nuntwist.testing import Connection, LineConnection
from nuntwist.values import VALUE
from tests.cases import one_measured
from tests.unit.memory_set import MemorySet
from tests.unit.test_divergent import assert_all_alike

UNKNOWN = "error outcome unknown: this node is no longer primary \n"


def set_by_commit(nodes: MemorySet, by_commit: bool = True) -> None:
    for node in nodes.nodes.values():
        node.node.pipeline.journal.by_commit = by_commit


@pytest.fixture(params=["os", "disk"])
def three(request: pytest.FixtureRequest) -> MemorySet:
    """A set with the database ``d`` and keys in it, whose primary is node 1."""
    nodes = MemorySet(durability=request.param)
    nodes.run(2.0)
    nodes.nodes[1].admin("create-db d t", "use-db d t", "set a 1", "set b 1")
    nodes.run(0.2)
    set_by_commit(nodes)
    return nodes


def user(nodes: MemorySet, me: int, *watched: str) -> LineConnection:
    client = nodes.nodes[me].tcp()
    assert client.ask("use-db d t") == "ok \n"
    for key in watched:
        assert client.ask(f"watch {key}") == "ok \n"
    return client


def test_an_answer_waits_for_a_majority(three: MemorySet) -> None:
    writer, reader, watcher = user(three, 1), user(three, 1), user(three, 1, "a")
    assert writer.ask("set a 2") == ""
    assert reader.ask("get b") == "value 1\nok \n"
    assert reader.ask("get a") == ""
    assert watcher.received() == ""
    # There and back again.
    three.run(three.delay)
    assert writer.received() + reader.received() + watcher.received() == ""
    three.run(1.1 * three.delay)
    assert writer.received() == "ok \n"
    assert reader.received() == "value 2\nok \n"
    assert watcher.received() == "changed a 2\nchanged-version a 1 2\n"


def test_a_secondary_reveals_what_the_primary_says_is_committed(three: MemorySet) -> None:
    reader, watcher = user(three, 2), user(three, 2, "a")
    user(three, 1).send("set a 2")
    three.run(2 * three.delay)
    assert three.nodes[2].node.catalogue.by_name[b"d"].value(b"a") == b"2"
    assert reader.ask("get a") == ""
    assert watcher.received() == ""
    assert reader.received() == ""
    three.run(1.1 * three.delay)
    assert reader.received() == "value 2\nok \n"
    assert watcher.received() == "changed a 2\nchanged-version a 1 2\n"


def test_removals_listings_and_users_wait_as_well(three: MemorySet) -> None:
    admin, reader = three.nodes[1].admin("use-db d t"), three.nodes[1].admin("use-db d t")
    for command, question, before, after in (
        ("remove a", "get a", "", "value <Empty>\nok \n"),
        ("set c 1", "keys", "", "keys ,$$token,$connections,b,c\nok \n"),
        ("create-user ann pwd", "get b", "value 1\nok \n", ""),
        ("set $$plain x", "get b", "value 1\nok \n", ""),
        ("remove $$plain", "get $$plain", "", "value <Empty>\nok \n"),
        ("create-db e t", "get b", "value 1\nok \n", ""),
        ("drop-db e", "get b", "value 1\nok \n", ""),
    ):
        assert admin.ask(command) == "", command
        assert reader.ask(question) == before
        three.run(3.1 * three.delay)
        assert admin.received().endswith("ok \n"), command
        assert reader.received() == after
    assert three.nodes[1].node.catalogue.by_name[b"d"].find(b"a") is None


def test_writers_on_a_primary_that_steps_down_are_told_at_once(three: MemorySet) -> None:
    three.isolate(1)
    writer, watcher = user(three, 1), user(three, 1, "a", "c")
    alone, lister = three.nodes[1].admin("use-db d t"), user(three, 1)
    assert writer.ask("set a 2\nset c 3\nget b\nset a 4") == ""
    assert alone.ask("create-user ann pwd") == ""
    assert lister.ask("keys") == ""
    while three.nodes[1].node.info.role == "Primary":
        assert writer.received() + alone.received() == ""
        three.run(0.001)
    assert writer.received() == f"{UNKNOWN * 2}value 1\nok \n{UNKNOWN}"
    assert alone.received() == UNKNOWN
    three.run(3.0)
    three.heal()
    three.run(3.0)
    assert_all_alike(three)
    # Nobody was told of what did not come to be.
    assert watcher.received() == ""
    assert lister.received() == UNKNOWN
    assert lister.ask("keys") == "keys ,$connections,a,b\nok \n"


def test_the_order_of_what_a_stepping_down_primary_answers(three: MemorySet) -> None:
    three.isolate(1)
    writer = user(three, 1, "a")
    alone = three.nodes[1].admin("use-db d t")
    assert writer.ask("set a 2\nset c 3\nget x\nget a\nset a 4") == ""
    assert alone.ask("create-user ann pwd") == ""
    while three.nodes[1].node.info.role == "Primary":
        three.run(0.01)
    three.run(0)
    # The read of what is not revealed waits, and so does what comes after it.
    assert writer.received() == UNKNOWN * 2 + "value <Empty>\nok \n"
    assert alone.received() == UNKNOWN
    assert writer.ask("get b") == ""
    three.run(3.0)
    three.nodes[three.primary()].admin("use-db d t", "set a 5")
    three.heal()
    three.run(3.0)
    assert_all_alike(three)
    assert writer.received() == "".join(
        [
            f"value 1\nok \n{UNKNOWN}value 1\nok \n",
            "changed a 5\nchanged-version a 1 5\n",
        ]
    )


def test_what_survives_a_failover_is_revealed_on_the_old_primary_as_well(three: MemorySet) -> None:
    """The others have it, and their answers were lost."""
    three.cut |= {(2, 1), (3, 1)}
    writer, reader = user(three, 1, "a"), user(three, 1)
    watcher = user(three, 1, "a", "b")
    assert writer.ask("set a 2\nset b 2\nget b") == ""
    assert reader.ask("get a") == ""
    three.run(3.0)
    assert writer.received() == UNKNOWN * 2
    assert watcher.received() == reader.received() == ""
    three.heal()
    three.run(3.0)
    assert_all_alike(three)
    assert reader.received() == "value 2\nok \n"
    assert writer.received() == "changed a 2\nchanged-version a 1 2\nvalue 2\nok \n"
    assert watcher.received() == (
        "changed a 2\nchanged-version a 1 2\nchanged b 2\nchanged-version b 1 2\n"
    )


def test_arbiters_are_told_of_a_conflict_that_survives(three: MemorySet) -> None:
    three.nodes[1].admin("create-db arb t arbiter")
    three.run(0.1)
    three.nodes[1].admin("use-db arb t", "set k 1", "set k 2")
    three.run(0.1)
    arbiter, writer = three.nodes[1].admin("use-db arb t", "arbiter"), three.nodes[1].tcp()
    writer.ask("use-db arb t")
    three.cut |= {(2, 1), (3, 1)}
    assert writer.ask("set-safe k 0 x") == ""
    three.run(3.0)
    assert writer.received() == UNKNOWN
    assert arbiter.received() == ""
    three.heal()
    three.run(3.0)
    # By the primary that it was, when it is committed, and by the next one: at least once.
    first, second = arbiter.received().split("resolve ")[1:]
    assert first.split(" ")[1:] == ["arb", "1", "k", "2", "x"]
    assert second == first


def test_who_waits_for_an_operation_of_its_own_waits_no_longer(three: MemorySet) -> None:
    three.isolate(1)
    user(three, 1).send("set a 2")
    journal = three.nodes[1].node.pipeline.journal
    failures: list[str] = []
    own, other = journal.durable(journal.index, writer=True), journal.durable(journal.index)
    own.addErrback(lambda reason: failures.append(str(reason.value)))
    other.addErrback(lambda reason: failures.append("other"))
    while three.nodes[1].node.info.role == "Primary":
        assert failures == []
        three.run(0.001)
    assert failures == ["outcome unknown: this node is no longer primary"]
    three.run(3.0)
    assert failures[1:] == []
    three.heal()
    three.run(3.0)
    assert failures[1:] == ["other"]


def test_an_operation_that_was_made_after_a_wait_is_waited_for() -> None:
    nodes = MemorySet(durability="disk")
    nodes.run(2.0)
    nodes.nodes[1].admin("create-db d t")
    nodes.run(0.2)
    set_by_commit(nodes)
    ann, bob = nodes.nodes[1].admin("use-db d t"), nodes.nodes[1].admin("use-db d t")
    threads = nodes.threads[1]
    threads.hold = True
    assert ann.ask("create-user ann pwd") + bob.ask("create-user bob pwd") == ""
    nodes.run(5 * nodes.delay)
    nodes.isolate(1)
    threads.run_one()
    nodes.run(0)
    # The others had the first one before it was durable here.
    assert ann.received() == "ok \n"
    while threads.busy:
        threads.run_one()
    threads.hold = False
    nodes.run(0)
    assert b"bob" in str(nodes.nodes[1].node.catalogue.by_name[b"d"].find(b"$$user_bob")).encode()
    assert bob.received() == ""
    nodes.run(3.0)
    assert bob.received() == UNKNOWN


def test_it_can_be_turned_off_and_on(three: MemorySet) -> None:
    three.isolate(1)
    writer, watcher = user(three, 1), user(three, 1, "a")
    assert writer.ask("set a 2") == ""
    set_by_commit(three, False)
    three.run(0)
    assert writer.received() == "ok \n"
    assert watcher.received() == "changed a 2\nchanged-version a 1 2\n"
    set_by_commit(three)
    assert writer.ask("get a") == "value 2\nok \n"
    assert writer.ask("set a 3") == ""
    three.run(3.0)
    assert writer.received() == UNKNOWN
    three.heal()
    three.run(3.0)
    # What was told before is told anew.
    assert watcher.received() == "changed a 1\nchanged-version a 0 1\n"
    assert_all_alike(three)


class Told:
    """What a client was told of, whose values rise with every write of the test."""

    def __init__(self, client: LineConnection) -> None:
        self.client = client
        self.values: dict[str, list[int]] = {"a": [], "b": []}

    def note(self) -> None:
        for line in self.client.received().splitlines():
            word, key, *rest = line.split(" ")
            if word == "changed":
                self.values[key].append(int(rest[0]))


@pytest.mark.parametrize("seed", one_measured(range(20)))
def test_nothing_that_anybody_was_told_is_lost(seed: int) -> None:
    nodes, chance = MemorySet(3, seed, ("os", "disk")[seed % 2]), random.Random(seed)
    nodes.run(2.0)
    nodes.nodes[nodes.primary()].admin("create-db d t")
    nodes.run(0.5)
    set_by_commit(nodes)
    watchers = [Told(user(nodes, me, "a", "b")) for me in nodes.ids]
    asked: list[tuple[int, LineConnection]] = []
    written, dead = 0, 0
    for _ in range(60):
        what = chance.choice(
            ["cut the primary", "one way", "heal", "heal", "kill", "start", "", ""]
        )
        leading = [
            me for me in nodes.ids if me != dead and nodes.nodes[me].node.info.role == "Primary"
        ]
        if what == "kill" and not dead and seed % 4 > 1:
            dead = chance.choice(leading or nodes.ids)
            nodes.kill(dead)
        elif dead and what in ("start", "heal"):
            nodes.cut.clear()
            nodes.restart(dead)
            nodes.nodes[dead].node.pipeline.journal.by_commit = True
            watchers.append(Told(user(nodes, dead, "a", "b")))
            dead = 0
        elif what == "cut the primary" and leading:
            nodes.isolate(chance.choice(leading))
        elif what == "one way":
            nodes.cut.add((chance.choice(nodes.ids), chance.choice(nodes.ids)))
        elif what == "heal":
            nodes.heal()
        for me in leading:
            for _ in range(chance.randrange(4)):
                written += 1
                client = user(nodes, me)
                client.send(f"set {chance.choice('ab')} {written}")
                asked.append((written, client))
        nodes.run(chance.choice([0.002, 0.01, 0.3, 1.0]))
        for watcher in watchers:
            watcher.note()
    if dead:
        nodes.cut.clear()
        nodes.restart(dead)
    for _ in range(8):
        nodes.heal()
        nodes.run(1.0)
    assert_all_alike(nodes)
    log = [
        int(op[VALUE])
        for batch in nodes.nodes[1].oplog.read(0)
        for op in batch
        if op[VALUE] and op[VALUE].isdigit()
    ]
    answers = {number: client.received() for number, client in asked}
    assert set(answers.values()) - {""} <= {
        "ok \n",
        UNKNOWN,
        "error not primary \n",
        "error no primary \n",
    }
    # Only a node that was killed does not answer.
    assert "" not in answers.values() or seed % 4 > 1
    assert {number for number, answer in answers.items() if answer == "ok \n"} <= set(log)
    for watcher in watchers:
        watcher.note()
        for values in watcher.values.values():
            assert values == sorted(set(values))
            assert set(values) <= set(log)
    for node in nodes.nodes.values():
        journal = node.node.pipeline.journal
        assert journal.undo is not None
        assert journal.undo.count == 0


def test_it_is_the_same_over_http_and_websocket(three: MemorySet) -> None:
    three.isolate(1)
    node = three.nodes[1]
    frames = node.ws()
    frames.ask("use-db d t")
    assert frames.ask("set a 2") == []
    page = Connection(node, node.site)
    body = b"use-db d t; set b 2; get a"
    page.deliver(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    assert page.taken() == b""
    while node.node.info.role == "Primary":
        three.run(0.001)
    three.run(0)
    assert frames.received() == [UNKNOWN]
    three.run(3.0)
    three.heal()
    three.run(3.0)
    answer = page.taken().decode()
    assert answer.endswith("empty;outcome unknown: this node is no longer primary;value 1\n")


def test_who_waits_for_the_disk_when_the_primary_steps_down_is_told_as_well() -> None:
    """Though clients are told of what is durable here alone."""
    nodes = MemorySet(durability="disk")
    nodes.run(2.0)
    nodes.nodes[1].admin("create-db d t", "use-db d t", "set a 1")
    nodes.run(0.2)
    writer, watcher, alone = user(nodes, 1), user(nodes, 1, "a"), nodes.nodes[1].admin("use-db d t")
    nodes.threads[1].hold = True
    assert writer.ask("set a 2") == ""
    assert alone.ask("create-user ann pwd") == ""
    nodes.isolate(1)
    while nodes.nodes[1].node.info.role == "Primary":
        nodes.run(0.001)
    nodes.run(0)
    assert writer.received() == UNKNOWN
    assert watcher.received() == ""
    while nodes.threads[1].busy:
        nodes.threads[1].run_one()
    nodes.threads[1].hold = False
    nodes.run(0)
    assert watcher.received() == "changed a 2\nchanged-version a 1 2\n"
    assert writer.ask("get a") == "value 2\nok \n"
    assert alone.received() == "ok \n"
    nodes.run(3.0)
    nodes.heal()
    nodes.run(3.0)
    assert_all_alike(nodes)


def test_an_event_of_a_refused_write_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another operation gets its index: the event must not come with that one."""
    # Else another node would lead.
    monkeypatch.setattr(Ailing, "begin", lambda self: None)
    nodes = MemorySet(concern=Concern(MAJORITY, 1000))
    nodes.run(2.0)
    nodes.nodes[1].admin("create-db d t")
    nodes.run(0.1)
    writer, watcher = nodes.nodes[1].tcp(), nodes.nodes[1].tcp()
    for client in (writer, watcher):
        client.ask("use-db d t")
    watcher.ask("watch k")
    said = []
    for command, room in (("set k 1", 0), ("set other 1", None), ("set k 2", 0), ("set k 3", None)):
        nodes.disks[1].room = room
        writer.send(command)
        nodes.run(0.1)
        said.append(writer.received().split(":")[0])
    assert said == ["error storage unavailable", "ok \n", "error storage unavailable", "ok \n"]
    assert watcher.received() == "changed k 3\nchanged-version k 0 3\n"


def test_a_read_that_was_confirmed_never_shows_what_is_not_committed() -> None:
    """A write comes between the question and its confirmation; then the primary is cut off."""
    nodes = MemorySet(concern=Concern(MAJORITY, 1000))
    nodes.run(2.0)
    nodes.nodes[1].admin("create-db d t")
    nodes.run(0.1)
    writer, reader = nodes.nodes[1].tcp(), nodes.nodes[1].tcp()
    for client in (writer, reader):
        client.ask("use-db d t")
    reader.ask("read-concern linearizable")
    writer.send("set k old")
    nodes.run(0.1)
    writer.received()
    reader.send("get k")
    nodes.run(0.5 * nodes.delay)
    writer.send("set k new")
    nodes.run(1.75 * nodes.delay)
    assert nodes.nodes[1].node.catalogue.by_name[b"d"].value(b"k") == b"new"
    assert (writer.received(), reader.received()) == ("", "")
    nodes.isolate(1)
    nodes.run(3.0)
    gone = "error outcome unknown: this node is no longer primary \n"
    assert (writer.received(), reader.received()) == (gone, gone)


def test_a_read_that_was_confirmed_never_shows_what_could_not_be_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is confirmed while a batch is under way for which there is no room."""
    monkeypatch.setattr(Ailing, "begin", lambda self: None)
    nodes = MemorySet(concern=Concern(MAJORITY, 1000))
    nodes.run(2.0)
    nodes.nodes[1].admin("create-db d t", "use-db d t", "set k old")
    nodes.run(0.1)
    writer, reader = nodes.nodes[1].tcp(), nodes.nodes[1].tcp()
    for client in (writer, reader):
        client.ask("use-db d t")
    reader.ask("read-concern linearizable")
    reader.send("get-safe k")
    look = nodes.members[1].on_obeyed

    def look_amid_a_batch() -> None:
        nodes.disks[1].room = 0
        writer.protocol.dataReceived(b"remove k\n")
        look()

    monkeypatch.setattr(nodes.members[1], "on_obeyed", look_amid_a_batch)
    nodes.run(0.1)
    assert writer.received().startswith("error storage unavailable")
    assert reader.received() == "value-version 0 old\nok \n"
