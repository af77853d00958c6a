"""What clients see when the log loses what it was given: nothing that never happened, everything
that did, each answer once and in order."""

from __future__ import annotations

import pytest

from nuntwist.core.limits import Limits
from nuntwist.testing import Connection, client_frame
from tests.unit.lost import BROKEN, FULL, LateNode


@pytest.fixture
def node() -> LateNode:
    return LateNode()


# -- a full disk, durability os --------------------------------------------------------------------


def test_a_read_in_one_run_with_a_write_that_fails_keeps_its_answer() -> None:
    node = LateNode("os")
    client = node.user()
    node.files.room = 0
    for write in ("remove a", "set c 1", "increment z"):
        client.deliver(f"get a\n{write}\n".encode())
        assert client.received() == "value 1\nok \n" + FULL


def test_reads_of_others_in_the_same_turn_keep_their_answers() -> None:
    node = LateNode("os")
    writer, reader = node.user(), node.user()
    pipeline = node.node.pipeline
    for one in (reader, writer):
        pipeline.connections.set_paused(one.protocol.client, True)
    reader.protocol.dataReceived(b"get a\n")
    writer.protocol.dataReceived(b"remove a\n")
    node.files.room = 0
    for one in (reader, writer):
        pipeline.connections.set_paused(one.protocol.client, False)
    node.settle()
    assert (reader.received(), writer.received()) == ("value 1\nok \n", FULL)


@pytest.mark.parametrize(
    "command", ["replicate d k -1 v", "rp 7 set k v", "replicate-increment d n 5", "set $$k 1"]
)
def test_a_command_that_stands_alone_says_that_it_failed(command: str) -> None:
    node = LateNode("os")
    admin = node.admin("use-db d t")
    node.files.room = 0
    assert admin.ask(command) == FULL
    node.files.room = None
    assert admin.ask("get k") == "value <Empty>\nok \n"


def test_a_conflict_whose_resolution_fails_keeps_version_and_order() -> None:
    node = LateNode("os", strategy="arbiter")
    client, arbiter = node.user(), node.user()
    arbiter.ask("arbiter")
    for number in range(10):
        client.send(f"set a v{number}")
    client.send("set-safe a 0 first")
    client.send("set-safe a 0 second")
    first, second = (part.split()[0] for part in arbiter.received().split("resolve ")[1:])
    node.files.room = 0
    assert arbiter.ask(f"resolve {first} d a 0 x") == FULL
    node.files.room = None
    pending = node.node.catalogue.by_name[b"d"].conflicts[b"a"]
    assert [key.rpartition(b"_")[2].decode() for key in pending] == [first, second]
    assert arbiter.ask(f"resolve {first} d a 0 x") == "ok \n"
    node.files.room = 0
    assert arbiter.ask(f"resolve {second} d a 0 settled") == FULL
    node.files.room = None
    assert arbiter.ask(f"resolve {second} d a 0 settled") == "ok \n"
    assert client.ask("get-safe a").endswith("value-version 11 settled\nok \n")


# -- a flush that fails ----------------------------------------------------------------------------


def test_answers_that_have_left_are_not_sent_again(node: LateNode) -> None:
    writer, other = node.user(), node.user()
    node.hold()
    writer.send("set x 1")
    other.deliver(b"ping\nget a\nget a\n")
    assert other.received() == "pong\nok \n" + "value 1\nok \n" * 2
    node.break_flush()
    assert (writer.received(), other.received()) == (BROKEN, "")


def test_what_was_read_of_a_write_that_is_lost_is_read_again(node: LateNode) -> None:
    writer, reader = node.user(), node.user()
    node.hold()
    writer.send("set a 2")
    reader.deliver(b"get a\nping\n")
    assert reader.received() == ""
    node.break_flush()
    assert reader.received() == "value 1\nok \npong\nok \n"


def test_a_read_stays_of_the_database_it_was_asked_of(node: LateNode) -> None:
    node.admin("create-db e t", "use-db e t", "set a of-e")
    writer, reader = node.user(), node.user()
    node.hold()
    writer.send("set a 2")
    reader.deliver(b"get a\nuse-db e t\nping\nget a\n")
    node.break_flush()
    assert reader.received() == "value 1\nok \nok \npong\nok \nvalue of-e\nok \n"


@pytest.mark.parametrize("at_once", [2, 2_000])
def test_keys_tells_of_nothing_that_is_lost_and_answers(at_once: int) -> None:
    node = LateNode(limits=Limits(keys_at_once=at_once))
    writer, lister = node.user(), node.user()
    for number in range(5):
        writer.send(f"set k{number} 1")
    writer.received()
    node.hold()
    writer.send("set phantom 1")
    lister.send("keys\nping")
    assert lister.received() == ""
    node.break_flush()
    answer = lister.received()
    assert "phantom" not in answer
    assert answer.endswith("pong\nok \n")


def test_refusals_that_tell_of_what_is_not_durable_wait(node: LateNode) -> None:
    writer, other = node.user(), node.user()
    writer.send("set n 1")
    writer.received()
    node.hold()
    writer.send("set a 2\nset n abc")
    other.send("set-safe a -1 mine\nincrement n\nremove nothing")
    assert other.received() == ""
    node.flush()
    assert other.received() == "ok \nerror Key is not numeric \nok \n"


def test_arbiters_hear_of_no_conflict_that_is_lost() -> None:
    node = LateNode(strategy="arbiter")
    writer, arbiter, late = node.user(), node.user(), node.user()
    writer.send("set a 2")
    arbiter.ask("arbiter")
    node.hold()
    writer.send("set-safe a 0 conflict")
    late.send("arbiter")
    looking = node.admin("use-db d t")
    looking.send("debug pending-conflicts")
    assert arbiter.received() + late.received() + looking.received() == ""
    node.break_flush()
    assert "resolve" not in arbiter.received() + late.received()
    assert "conflicts_a" not in looking.received()


def test_events_of_what_stays_are_not_lost(node: LateNode) -> None:
    watcher = node.admin("use-db d t", "watch $connections", "watch $$x")
    writer = node.admin("use-db d t")
    watcher.received()
    node.hold()
    writer.send("set $$x 1")
    watcher.send("set y 1")
    node.threads.run_one()
    node.settle()
    newcomer = node.tcp()
    newcomer.send("use-db d t")
    node.break_flush()
    told = watcher.received()
    assert "changed $$x 1\n" in told
    assert "changed $connections 4\n" in told
    assert told.count(BROKEN) == 1


def test_nobody_hangs_when_a_flush_fails(node: LateNode) -> None:
    writer, ending = node.user(), node.user()
    node.hold()
    writer.send("set x 1")
    http = Connection(node, node.site)
    body = b"use-db d t;set y 1"
    http.deliver(b"POST / HTTP/1.1\r\nHost: l\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    ending.send("set z 1")
    ending.protocol.readConnectionLost()
    node.break_flush()
    assert b"empty;outcome unknown: Input/output error" in http.taken()
    assert (ending.received(), ending.closed) == (BROKEN, True)


def test_who_waits_for_a_hash_meanwhile_is_answered(node: LateNode) -> None:
    creator, other = node.admin(), node.user()
    node.hold()
    creator.send("create-db e t")
    other.send("remove nothing")
    node.flush()
    assert creator.received() == "create-db success\nok \n"
    assert other.received() == "ok \n"


def test_databases_of_other_batches_are_listed_after_a_loss(node: LateNode) -> None:
    node.admin("create-db e t")
    writer, other = node.user(), node.tcp()
    other.ask("use-db e t")
    node.hold()
    writer.send("set x 1")
    other.send("set y 1")
    node.break_flush()
    other.received()
    assert other.ask("keys") == "keys ,$connections\nok \n"


# -- a disk that gets full between two that wait ---------------------------------------------------


@pytest.mark.parametrize("durability", ["disk", "interval"])
def test_what_was_written_stays_and_what_came_behind_it_is_refused(durability: str) -> None:
    node = LateNode(durability)
    clients = [node.user() for _ in range(3)]
    node.hold()
    if durability == "interval":
        node.log.flush_now()  # type: ignore[attr-defined]
    for client, value in zip(clients, ("1", "2", "3" * 1_000), strict=True):
        client.send(f"set k{value[0]} {value}")
    node.files.room = 200
    node.threads.run_one()
    node.settle()
    node.files.room = None
    node.flush()
    assert [client.received() for client in clients] == ["ok \n", "ok \n", FULL]
    assert clients[0].ask("get k2") in ("value 2\nok \n", "")
    node.flush()
    clients[1].send("set after 1")
    node.flush()
    assert "ok \n" in clients[1].received()
    journal = node.node.pipeline.journal
    assert journal.index == journal.revealed == node.log.last.index


# -- changes of more than one key ------------------------------------------------------------------


def test_one_of_two_databases_of_a_name_is_made(node: LateNode) -> None:
    first, second = node.admin(), node.admin()
    node.hold()
    first.send("create-db e t")
    second.send("create-db e t2")
    node.flush()
    assert first.received() == "create-db success\nok \n"
    assert second.received() == "error database already exists \n"
    assert [one.name for one in node.node.catalogue.by_id.values()].count(b"e") == 1


def test_secure_keys_lose_no_update(node: LateNode) -> None:
    first, second = node.admin("use-db d t"), node.admin("use-db d t")
    node.hold()
    first.send("increment $$n")
    second.send("increment $$n")
    node.flush()
    assert first.received() + second.received() == "ok \nok \n"
    first.send("set-safe $$s 0 one")
    second.send("set-safe $$s 0 two")
    node.flush()
    assert first.received() == "ok \n"
    assert second.received() == "error Invalid version! \n"
    assert first.ask("get $$n") == "value 2\nok \n"


# -- memory and shares -----------------------------------------------------------------------------


def test_who_sends_more_than_may_be_kept_is_not_read_on() -> None:
    node = LateNode(limits=Limits(output_high_water=10_000))
    client = node.user()
    node.hold()
    client.send("set x 1")
    for _ in range(50):
        client.deliver(b"get " + b"k" * 1_000 + b"\n")
    assert client.transport.producerState == "paused"
    assert client.protocol.client.kept < 15_000
    node.node.pipeline.connections.set_paused(client.protocol.client, True)
    node.node.pipeline.connections.set_paused(client.protocol.client, False)
    node.settle()
    assert client.transport.producerState == "paused"
    node.flush()
    assert client.transport.producerState == "producing"
    client.deliver(b"")
    node.flush()
    assert client.received().count("<Empty>") == 50


def test_those_who_waited_for_a_flush_are_written_to_in_shares() -> None:
    node = LateNode(limits=Limits(sends=10))
    watchers = [node.user() for _ in range(35)]
    for watcher in watchers:
        watcher.ask("watch a")
    node.hold()
    node.user().send("set a 2")
    node.threads.run_one()
    assert sum(bool(watcher.transport.value()) for watcher in watchers) <= 10
    node.settle()
    assert all("changed a 2" in watcher.received() for watcher in watchers)


def test_a_websocket_that_goes_while_it_waits_is_forgotten(node: LateNode) -> None:
    client = node.ws()
    client.ask("use-db d t")
    node.hold()
    client.send("set x 1")
    client.deliver(client_frame(b"\x03\xe8", 8))
    client.close()
    node.flush()
    assert (len(node.frames.closing), len(node.frames.clients)) == (0, 0)
