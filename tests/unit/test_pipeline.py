"""The road: order, batches, back-pressure, turns, and a log that fails or is late."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from nuntwist.core.limits import Limits
from nuntwist.errors import OutcomeUnknown, StorageUnavailable
from nuntwist.oplog.memory import MemoryOplog
from nuntwist.testing import LineConnection, MemoryNode
from nuntwist.values import INDEX, KEY, Epoch, Op


class FailingOplog(MemoryOplog):
    """A log that fails when told to.

    :ivar error: raised by the next appends.
    :ivar late: the Deferreds of appends that are to be durable later.
    """

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.late: list[Deferred[None]] | None = None
        self.batches: list[int] = []

    def append(self, epoch: Epoch, ops: Sequence[Op]) -> Deferred[None] | None:
        if self.error is not None:
            raise self.error
        super().append(epoch, ops)
        self.batches.append(len(ops))
        if self.late is None:
            return None
        self.late.append(Deferred())
        return self.late[-1]


def connect(node: MemoryNode, *commands: str) -> LineConnection:
    connection = node.tcp()
    for command in ("use-db d t", *commands):
        connection.send(command)
    connection.received()
    return connection


@pytest.fixture
def oplog() -> FailingOplog:
    return FailingOplog()


@pytest.fixture
def node(oplog: FailingOplog) -> MemoryNode:
    node = MemoryNode(oplog)
    node.admin("create-db d t").close()
    oplog.batches.clear()
    return node


# -- order ---------------------------------------------------------------------------------------


def test_thousands_of_pipelined_commands_are_answered_in_order(node: MemoryNode) -> None:
    client = connect(node)
    count = 5000
    client.send("\n".join(f"set k{i} {i}\nget k{i}" for i in range(count)))
    expected = "".join(f"ok \nvalue {i}\nok \n" for i in range(count))
    assert client.received() == expected


def test_a_command_that_waits_keeps_its_place(node: MemoryNode) -> None:
    client = node.tcp()
    client.send("auth nun nun-pwd\ncreate-db e t\nuse-db e t\nset a 1\nget a\nping")
    assert client.received() == (
        "valid auth\nok \ncreate-db success\nok \nok \nok \nvalue 1\nok \npong\nok \n"
    )


def test_events_come_before_the_writers_ok_and_in_the_order_of_the_log(node: MemoryNode) -> None:
    writer, watcher = connect(node, "watch a"), connect(node, "watch a", "watch b")
    writer.send("set a 1\nset b 2\nset a 3\nremove a")
    assert writer.received() == (
        "changed a 1\nchanged-version a 0 1\nok \n"
        "ok \n"
        "changed a 3\nchanged-version a 1 3\nok \n"
        "removed a\nok \n"
    )
    assert watcher.received() == (
        "changed a 1\nchanged-version a 0 1\n"
        "changed b 2\nchanged-version b 0 2\n"
        "changed a 3\nchanged-version a 1 3\n"
        "removed a\n"
    )


def test_a_turn_is_one_log_write(node: MemoryNode, oplog: FailingOplog) -> None:
    clients = [connect(node) for _ in range(5)]
    for number, client in enumerate(clients):
        client.protocol.dataReceived(b"set k%d 1\nset k%d 2\n" % (number, number))
    assert all(client.received() == "" for client in clients)
    node.settle()
    assert oplog.batches == [10]
    assert all(client.received() == "ok \nok \n" for client in clients)


def test_indexes_are_dense_and_stamps_rise(node: MemoryNode, oplog: FailingOplog) -> None:
    client = connect(node)
    client.send("set a 1\nincrement n\nset b 2\nremove a\nset a 2")
    ops = [op for batch in oplog.read(0) for op in batch]
    assert [op[INDEX] for op in ops] == list(range(1, len(ops) + 1))
    assert [op[3] for op in ops] == sorted({op[3] for op in ops})


# -- a log that cannot be written ------------------------------------------------------------------


def test_a_failed_batch_never_happened(node: MemoryNode, oplog: FailingOplog) -> None:
    client, watcher = connect(node, "set a 1", "set gone 1"), connect(node, "watch a", "watch b")
    before = node.node.pipeline.journal.index
    oplog.error = StorageUnavailable("No space left on device")
    client.send("set a 2\nget a\nremove gone\nget gone\nset b 1\nincrement n\nget b\nwatch a")
    refused = "error storage unavailable: No space left on device \n"
    assert client.received() == (
        f"{refused}value 1\nok \n{refused}value 1\nok \n{refused}{refused}value <Empty>\nok \nok \n"
    )
    assert watcher.received() == ""
    assert node.node.pipeline.journal.index == before
    oplog.error = None
    assert client.ask("set a 3").endswith("ok \n")
    assert watcher.received() == "changed a 3\nchanged-version a 1 3\n"
    assert client.ask("keys") == "keys ,$connections,a,gone\nok \n"
    ops = [op for batch in oplog.read(0) for op in batch]
    assert [op[INDEX] for op in ops] == list(range(1, len(ops) + 1))


def test_others_in_a_failed_batch_are_answered_rightly(
    node: MemoryNode, oplog: FailingOplog
) -> None:
    writer, reader = connect(node, "set a 1"), connect(node)
    oplog.error = StorageUnavailable("full")
    writer.protocol.dataReceived(b"set a 2\n")
    reader.protocol.dataReceived(b"get a\nping\n")
    node.settle()
    assert writer.received() == "error storage unavailable: full \n"
    assert reader.received() == "value 1\nok \npong\nok \n"


def test_create_db_is_refused_while_the_log_fails(node: MemoryNode, oplog: FailingOplog) -> None:
    admin = node.admin("use-db d t")
    oplog.error = StorageUnavailable("full")
    refused = "error storage unavailable: full \n"
    assert admin.ask("create-db e t") == refused
    assert admin.ask("drop-db d") == refused
    assert admin.ask("create-user ana s") == refused
    oplog.error = None
    assert admin.ask("create-db e t") == "create-db success\nok \n"
    assert admin.ask("get $$user_ana") == "value <Empty>\nok \n"


def test_an_unknown_outcome_ends_writing_for_good(node: MemoryNode, oplog: FailingOplog) -> None:
    client = connect(node, "set a 1")
    oplog.error = OutcomeUnknown("I/O error")
    assert client.ask("set a 2") == "error outcome unknown: I/O error \n"
    oplog.error = None
    assert client.ask("set a 3").startswith("error storage unavailable: the log failed")
    assert client.ask("get a") == "value 1\nok \n"
    node.node.pipeline.commit()


# -- a log that is durable later -------------------------------------------------------------------


def test_nothing_tells_of_what_is_not_durable(node: MemoryNode, oplog: FailingOplog) -> None:
    writer, watcher = connect(node, "set a 1", "set b 1"), connect(node, "watch a")
    reader = connect(node)
    oplog.late = []
    writer.send("set a 2")
    assert writer.received() == watcher.received() == ""
    assert reader.ask("get b") == "value 1\nok \n"
    assert reader.ask("get a") == ""
    assert reader.ask("get b") == ""
    writer.send("remove b")
    assert len(oplog.late) == 2
    oplog.late[0].callback(None)
    node.settle()
    assert writer.received() == "ok \n"
    assert watcher.received() == "changed a 2\nchanged-version a 1 2\n"
    assert reader.received() == "value 2\nok \nvalue 1\nok \n"
    assert reader.ask("get b") == ""
    oplog.late[1].callback(None)
    node.settle()
    assert writer.received() == "ok \n"
    assert reader.received() == "value <Empty>\nok \n"


def test_a_listing_waits_for_the_last_operation(node: MemoryNode, oplog: FailingOplog) -> None:
    client, other = connect(node), connect(node)
    oplog.late = []
    client.send("set a 1")
    other.send("keys")
    assert other.received() == ""
    oplog.late[0].callback(None)
    node.settle()
    assert other.received() == "keys ,$connections,a\nok \n"


def test_later_batches_fall_with_one_that_is_lost(node: MemoryNode, oplog: FailingOplog) -> None:
    writer, watcher = connect(node, "set a 1"), connect(node, "watch a")
    oplog.late = []
    writer.send("set a 2")
    writer.send("get a\nset b 1")
    writer.send("ping\nget b")
    oplog.late[0].errback(OutcomeUnknown("fsync failed"))
    node.settle()
    lost = "error outcome unknown: fsync failed \n"
    assert writer.received() == (f"{lost}value 1\nok \n{lost}pong\nok \nvalue <Empty>\nok \n")
    assert watcher.received() == ""
    assert writer.ask("set a 5").startswith("error storage unavailable")
    assert writer.ask("get a") == "value 1\nok \n"


def test_create_db_waits_until_it_is_durable(node: MemoryNode, oplog: FailingOplog) -> None:
    admin, other = node.admin(), node.tcp()
    oplog.late = []
    admin.send("create-db e t\nping")
    assert admin.received() == ""
    assert other.ask("use-db e t") == "error Not a valid database name \n"
    oplog.late[0].callback(None)
    node.settle()
    assert admin.received() == "create-db success\nok \npong\nok \n"
    assert other.ask("use-db e t") == "ok \n"


# -- back-pressure and turns -----------------------------------------------------------------------


def test_a_connection_that_does_not_read_is_not_read(node: MemoryNode) -> None:
    client = connect(node, "set k " + "x" * 1000)
    producer = client.transport.producer
    producer.pauseProducing()
    assert client.transport.producerState == "paused"
    client.protocol.dataReceived(b"get k\nset k 1\n")
    node.settle()
    assert client.received() == ""
    assert connect(node).ask("get k") == f"value {'x' * 1000}\nok \n"
    producer.resumeProducing()
    node.settle()
    assert client.received() == f"value {'x' * 1000}\nok \nok \n"
    assert client.transport.producerState == "producing"


def test_large_answers_are_made_a_share_a_turn() -> None:
    node = MemoryNode(limits=Limits(output_high_water=10_000))
    node.admin("create-db d t").close()
    client = connect(node, "set k " + "x" * 3000)
    client.protocol.dataReceived(b"get k\n" * 40)
    client.transport.producer.pauseProducing()
    node.settle()
    first = len(client.taken())
    assert 10_000 <= first <= 16_000
    client.transport.producer.resumeProducing()
    node.settle()
    assert first + len(client.taken()) == 40 * len("value \nok \n" + "x" * 3000)


def test_a_watcher_that_does_not_read_is_closed_and_counted() -> None:
    node = MemoryNode(limits=Limits(output_limit=20_000))
    node.admin("create-db d t").close()
    slow, quick, writer = connect(node, "watch k"), connect(node, "watch k"), connect(node)
    slow.transport.producer.pauseProducing()
    for _ in range(10):
        writer.send("set k " + "x" * 3000)
        quick.received()
    assert slow.transport.aborted
    assert slow.closed
    assert node.node.counters.watchers_closed == 1
    assert not quick.closed
    assert writer.ask("get $connections") == "value 2\nok \n"


def test_those_that_read_least_are_closed_where_too_much_waits_for_all() -> None:
    node = MemoryNode(limits=Limits(output_limit=100_000, output_total=400_000))
    node.admin("create-db d t").close()
    most = [connect(node, "watch k", "watch big") for _ in range(3)]
    few = [connect(node, "watch k") for _ in range(10)]
    quick, writer = connect(node, "watch k", "watch big"), connect(node)
    for client in (*most, *few):
        client.transport.producer.pauseProducing()
    for _ in range(8):
        writer.send("set big " + "x" * 3000)
    for _ in range(20):
        writer.send("set k " + "x" * 300)
        quick.received()
    assert node.node.counters.watchers_closed == 0
    # 3 * 60 KB and 10 * 12 KB are less; with 13 * 24 KB more it is too much.
    for _ in range(40):
        writer.send("set k " + "x" * 300)
        quick.received()
    closed = [client.transport.aborted for client in most]
    assert any(closed)
    assert not any(client.transport.aborted for client in (*few, quick, writer))
    assert node.node.counters.watchers_closed == sum(closed)
    # Those who go and those who read again count no more.
    for client in few:
        client.transport.producer.resumeProducing()
        node.settle()
        client.received()
    before = node.node.counters.watchers_closed
    for _ in range(100):
        writer.send("set k " + "x" * 3000)
        for client in (quick, *few):
            client.received()
    assert node.node.counters.watchers_closed <= before + closed.count(False)
    assert not any(client.transport.aborted for client in (*few, quick, writer))


def test_who_is_gone_counts_for_nothing_whatever_comes_for_it_later() -> None:
    node = MemoryNode(limits=Limits(output_limit=100_000, output_total=400_000))
    node.admin("create-db d t").close()
    delivery = node.node.pipeline.delivery
    for _ in range(20):
        slow = connect(node, "watch k")
        slow.transport.producer.pauseProducing()
        gone = slow.protocol.client
        slow.close()
        delivery.send(gone, b"x" * 50_000)
        gone.paused = True
        delivery.send(gone, b"x" * 50_000)
    assert not delivery._behind
    quick = connect(node, "watch k")
    assert quick.ask("set k 1").endswith("ok \n")
    assert node.node.counters.watchers_closed == 0


class Ticking(MemoryNode):
    """A node whose every look at the time moves it on."""

    def tick(self, seconds: float) -> None:
        turns = self.node.pipeline.turns
        clock = self.clock

        def look() -> float:
            clock._now += seconds
            return clock._now

        turns._seconds = look


def test_a_turn_that_is_over_leaves_the_rest_to_the_next() -> None:
    node = Ticking(limits=Limits(slice_commands=10, turn_seconds=0.004))
    node.admin("create-db d t").close()
    busy, other = connect(node), connect(node)
    node.tick(0.001)
    busy.protocol.dataReceived(b"set k 1\n" * 1000)
    other.protocol.dataReceived(b"ping\n")
    answered_before_the_other = None
    answered = 0
    while node.clock.getDelayedCalls():
        node.clock.advance(0.0001)
        answered += busy.received().count("ok")
        if other.received() == "pong\nok \n":
            answered_before_the_other = answered
    assert answered == 1000
    assert answered_before_the_other is not None
    assert answered_before_the_other < 200


def test_a_change_for_many_is_sent_a_share_a_turn() -> None:
    node = MemoryNode(limits=Limits(sends=3))
    node.admin("create-db d t").close()
    watchers = [connect(node, "watch k") for _ in range(10)]
    writer = connect(node)
    writer.protocol.dataReceived(b"set k 1\n")
    shares = []
    node.node.pipeline.commit()
    while node.node.pipeline.delivery.busy:
        shares.append(sum(bool(watcher.taken()) for watcher in watchers))
        node.node.pipeline.delivery.pump()
    shares.append(sum(bool(watcher.taken()) for watcher in watchers))
    assert sum(shares) == 10
    assert max(shares) <= 3
    node.settle()
    assert writer.received() == "ok \n"
    writer.send("set k 2\nset k 3")
    for watcher in watchers:
        assert watcher.received() == (
            "changed k 2\nchanged-version k 1 2\nchanged k 3\nchanged-version k 2 3\n"
        )


def test_too_many_watches_are_refused() -> None:
    node = MemoryNode(limits=Limits(watches=2))
    node.admin("create-db d t").close()
    client = connect(node, "watch a", "watch b")
    assert client.ask("watch c") == "error too many watches: the limit is 2 \n"
    assert client.ask("watch a") == "ok \n"
    client.send("unwatch a")
    client.received()
    assert client.ask("watch c") == "ok \n"


# -- the end of connections ------------------------------------------------------------------------


def test_a_closed_connection_leaves_nothing_behind(node: MemoryNode) -> None:
    client, other = connect(node, "watch a", "watch b"), connect(node, "watch $connections")
    client.protocol.dataReceived(b"set a 1\n")
    client.close()
    database = node.node.catalogue.by_name[b"d"]
    assert b"a" not in database.watchers
    assert b"b" not in database.watchers
    assert other.received() == "changed $connections 1\nchanged-version $connections 2 1\n"
    assert other.ask("get a") == "value 1\nok \n"
    assert node.node.counters.connections == 1
    other.close()
    assert node.node.counters.connections == 0
    assert not database.watchers
    assert not database.selected


def test_half_closing_clients_get_all_their_answers(node: MemoryNode, oplog: FailingOplog) -> None:
    client = connect(node)
    oplog.late = []
    client.protocol.dataReceived(b"set a 1\nget a\n")
    client.protocol.readConnectionLost()
    node.settle()
    assert not client.closed
    oplog.late[0].callback(None)
    node.settle()
    assert client.received() == "ok \nvalue 1\nok \n"
    assert client.closed


def test_reads_of_removed_keys_leave_no_tombstones(node: MemoryNode) -> None:
    client = connect(node, "set a 1", "set b 1")
    client.send("remove a\nremove b\nset b 2\nget a\nget b")
    assert client.received() == "ok \nok \nok \nvalue <Empty>\nok \nvalue 2\nok \n"
    database = node.node.catalogue.by_name[b"d"]
    assert database.find(b"a") is None
    assert [op[KEY] for shard in database.shards for op in shard.values() if op[0] is None] == []


def test_an_error_in_a_later_turn_ends_that_connection_alone(
    node: MemoryNode, oplog: FailingOplog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler is at fault: its client would wait for ever, and others for their turn."""

    def broken(*arguments: object) -> NoReturn:
        raise ZeroDivisionError

    monkeypatch.setitem(node.node.pipeline.deciding.handlers, "ping", broken)
    bad, good = node.admin("use-db d t"), connect(node)
    oplog.late = []
    bad.protocol.dataReceived(b"create-db e t\nping\nget k\n")
    good.protocol.dataReceived(b"get k\n")
    (durable,) = oplog.late
    oplog.late = None
    with capturedLogs() as logged:
        durable.callback(None)
        node.settle()
    assert bad.closed
    failures = [event["log_failure"].type for event in logged if "log_failure" in event]
    assert failures == [ZeroDivisionError]
    assert good.received() == "value <Empty>\nok \n"
    assert good.ask("get k") == "value <Empty>\nok \n"
