"""Long listings: what was there when they were asked for, in order, and nobody waits for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from nuntwist.core import scan
from nuntwist.core.database import Database
from nuntwist.core.limits import Limits
from nuntwist.core.permissions import matches
from nuntwist.core.scan import Listing
from nuntwist.errors import StorageUnavailable
from nuntwist.oplog.memory import MemoryOplog
from nuntwist.testing import Connection, FrameConnection, LineConnection, MemoryNode
from nuntwist.values import KEY, REMOVE, SET, Epoch, Op

COUNT = 300
NO_DATABASE = "error no-db-selected\nerror error no-db-selected\n \n"


@pytest.fixture(autouse=True, scope="module")
def _small_slices() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "SLICE", 7)
        yield


# -- the listing alone --


class Model:
    """A database, changed as the road changes it."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.database = Database(1, b"d", b"none")
        self.index = 0
        for key in keys:
            self.set(key)

    def set(self, key: bytes) -> None:
        self.index += 1
        self.database.store((b"v", 0, self.index, self.index, SET, 1, key))

    def remove(self, key: bytes, durable: bool) -> None:
        self.index += 1
        op: Op = (None, -1, self.index, self.index, REMOVE, 1, key)
        self.database.store(op)
        if durable:
            self.database.purge(op)

    def take_back(self, key: bytes) -> None:
        """Set a key and undo that, as where the log fails."""
        self.index += 1
        old = self.database.store((b"v", 0, self.index, self.index, SET, 1, key))
        self.database.restore(key, old)

    def listed(self) -> set[bytes]:
        return {op[KEY] for shard in self.database.shards for op in shard.values() if op[0]}


KEYS = st.one_of(
    st.integers(0, 60).map(lambda number: b"k%d" % number),
    st.sampled_from([b"$$token", b"$connections", b"$$user_a", "é".encode(), b"a,b", b"\x00"]),
)
CHANGES = st.lists(
    st.tuples(st.sampled_from(["set", "remove", "purge", "undo"]), KEYS), max_size=60
)
PATTERNS = st.sampled_from([b"", b"*", b"k*", b"*1", b"2", b"$*", b"nothing", "é".encode()])


@settings(max_examples=60)
@given(
    keys=st.lists(KEYS, max_size=80),
    changes=CHANGES,
    a_step=st.integers(1, 6),
    pattern=PATTERNS,
    hidden=st.booleans(),
)
def test_a_listing_is_what_was_there_when_it_began(
    keys: list[bytes],
    changes: list[tuple[str, bytes]],
    a_step: int,
    pattern: bytes,
    hidden: bool,
) -> None:
    model = Model(keys)
    model.remove(b"gone", durable=False)
    expected = sorted(
        key
        for key in model.listed()
        if (hidden or not key.startswith(b"$$")) and (not pattern or matches(pattern, key))
    )
    listing = Listing(model.database, pattern, hidden)
    found = b""
    for piece in listing.pieces():
        if piece is not None:
            found += piece
        for what, key in [changes.pop() for _ in range(min(a_step, len(changes)))]:
            if what == "set":
                model.set(key)
            elif what == "undo":
                model.take_back(key)
            else:
                model.remove(key, what == "purge")
    assert found == b"".join(b"," + key for key in expected)
    assert listing.length == len(found)
    assert model.database.scans == []


@settings(max_examples=20)
@given(st.lists(st.binary(max_size=5), max_size=400))
def test_any_keys_are_sorted(keys: list[bytes]) -> None:
    model = Model(keys)
    pieces = [piece for piece in Listing(model.database, b"", True).pieces() if piece is not None]
    assert b"".join(pieces) == b"".join(b"," + key for key in sorted(set(keys)))


def test_the_length_is_known_at_the_first_piece() -> None:
    model = Model([b"key%d" % number for number in range(COUNT)])
    listing = Listing(model.database, b"", False)
    total = sum(len(b",key%d" % number) for number in range(COUNT))
    seen = 0
    for piece in listing.pieces():
        if piece is not None:
            assert listing.length == total
            seen += len(piece)
    assert seen == total


def test_a_listing_that_is_given_up_keeps_nothing() -> None:
    model = Model([b"key%d" % number for number in range(COUNT)])
    listing = Listing(model.database, b"", False)
    pieces = listing.pieces()
    next(pieces)
    assert len(model.database.scans) == 1
    listing.close()
    listing.close()
    assert model.database.scans == []
    model.set(b"new")


# -- over connections --


@pytest.fixture
def node() -> MemoryNode:
    return filled(MemoryNode(limits=Limits(keys_at_once=50)))


def filled(node: MemoryNode) -> MemoryNode:
    admin = node.admin("create-db d t", "create-db small t", "use-db d t")
    admin.send("\n".join(f"set key{number:03} 1" for number in range(COUNT)))
    assert admin.received() == "ok \n" * COUNT
    admin.close()
    return node


ALL = "".join(f",key{number:03}" for number in range(COUNT))
PLAIN = f"keys ,$connections{ALL}\n"


def selected(node: MemoryNode, *commands: str) -> LineConnection:
    client = node.tcp()
    client.send("\n".join(["use-db d t", *commands]))
    client.received()
    return client


def turn(node: MemoryNode) -> bool:
    """Make the calls due now, and not those that they ask for; whether there were some."""
    calls = [c for c in node.clock.getDelayedCalls() if c.time <= node.clock.seconds()]
    for call in sorted(calls, key=lambda call: (call.time, call.number)):
        if call.pending:
            call.pending, call.called = False, True
            call.function(*call.args, **call.kwargs)
    return bool(calls)


@pytest.mark.parametrize(
    ("command", "listed"),
    [
        ("keys", PLAIN),
        ("ls", PLAIN),
        ("keys *", PLAIN),
        ("keys key00*", "keys " + "".join(f",key{n:03}" for n in range(10)) + "\n"),
        ("keys *99", "keys ,key099,key199,key299\n"),
        ("keys y29", "keys " + "".join(f",key{n:03}" for n in range(290, 300)) + "\n"),
        ("keys nothing", "keys \n"),
        ("keys $$*", "keys \n"),
        ("keys token", "keys \n"),
    ],
)
def test_answers(node: MemoryNode, command: str, listed: str) -> None:
    assert selected(node).ask(command) == listed + "ok \n"
    framed = node.ws()
    framed.ask("use-db d t")
    assert framed.ask(command) == [listed, "ok \n"]
    answer = node.post(f"use-db d t; {command}; ping")
    assert answer == f"empty;{listed};pong\n"
    assert node.node.catalogue.by_name[b"d"].scans == []


def test_an_admin_sees_hidden_keys(node: MemoryNode) -> None:
    admin = node.admin("use-db d t")
    assert admin.ask("keys") == f"keys ,$$token,$connections{ALL}\nok \n"
    assert admin.ask("rp 7 keys $$*") == "keys ,$$token\nok \n"


def test_it_is_done_in_slices_and_others_are_answered_between(node: MemoryNode) -> None:
    client, other = selected(node), selected(node)
    small = node.tcp()
    small.ask("use-db small t")
    client.protocol.dataReceived(b"keys\nping\n")
    received, turns = "", 0
    while not received.endswith("pong\nok \n"):
        other.protocol.dataReceived(b"set key000 %d\n" % turns)
        small.protocol.dataReceived(b"keys\n")
        assert turn(node)
        received += client.received()
        assert other.received() == "ok \n"
        assert small.received() == "keys ,$connections\nok \n"
        turns += 1
    assert turns > 50
    assert received == PLAIN + "ok \npong\nok \n"


def test_writes_of_others_go_on_and_are_not_seen(node: MemoryNode) -> None:
    client, other = selected(node), selected(node)
    client.protocol.dataReceived(b"keys\n")
    number = 0
    received = ""
    while not received.endswith("ok \n"):
        other.protocol.dataReceived(b"set new%d 1\nremove key%03d\n" % (number, number % COUNT))
        number += 1
        turn(node)
        received += client.received()
    assert received == PLAIN + "ok \n"
    assert "new0," in client.ask("keys")
    assert number > 50


def test_two_listings_at_once(node: MemoryNode) -> None:
    first, second = selected(node), node.ws()
    second.ask("use-db d t")
    first.protocol.dataReceived(b"keys\nkeys\n")
    second.send("keys key29*")
    listed = "".join(f",key{n:03}" for n in range(290, 300))
    assert second.received() == [f"keys {listed}\n", "ok \n"]
    assert first.received() == (PLAIN + "ok \n") * 2


def listing_begun(node: MemoryNode, client: Connection) -> bytes:
    """Ask for a listing and run turns until some of it was sent."""
    client.protocol.dataReceived(b"keys\n")
    sent = b""
    while not sent:
        assert turn(node)
        sent = client.taken()
    return sent


def test_events_and_replies_wait_for_the_end_of_what_is_being_written(node: MemoryNode) -> None:
    client, other = selected(node, "watch key001"), selected(node)
    sent = listing_begun(node, client)
    other.protocol.dataReceived(b"set key001 a\nset key001 b\n")
    client.protocol.dataReceived(b"get key001\nping\n")
    node.settle()
    sent += client.taken()
    assert sent.decode() == (
        PLAIN
        + "ok \n"
        + "changed key001 a\nchanged-version key001 1 a\n"
        + "changed key001 b\nchanged-version key001 2 b\n"
        + "value b\nok \npong\nok \n"
    )


def test_no_event_passes_a_listing_asked_for_before(node: MemoryNode) -> None:
    client, other = selected(node, "watch key001"), selected(node)
    client.protocol.dataReceived(b"keys\n")
    turn(node)
    other.protocol.dataReceived(b"remove key001\n")
    node.settle()
    assert client.received() == PLAIN + "ok \nremoved key001\n"


def test_events_are_not_put_into_a_frame_being_written(node: MemoryNode) -> None:
    client, other = node.ws(), selected(node)
    client.ask("use-db d t")
    client.ask("watch key001")
    client.send("keys")
    assert client.received() == [PLAIN, "ok \n"]
    client.protocol.dataReceived(b"\x81\x84\0\0\0\0keys")
    for _ in range(150):
        other.protocol.dataReceived(b"set key001 a\n")
        turn(node)
    node.settle()
    texts = client.received()
    assert texts.count(PLAIN) == 1
    assert texts.count("changed key001 a\n") == 150
    assert set(texts[0::1]) - {PLAIN, "ok \n", "changed key001 a\n"} == {
        f"changed-version key001 {number} a\n" for number in range(1, 151)
    }


def test_a_client_that_closes_midway(node: MemoryNode) -> None:
    database = node.node.catalogue.by_name[b"d"]
    client = selected(node)
    client.protocol.dataReceived(b"keys\nset never 1\n")
    for _ in range(10):
        turn(node)
    assert len(database.scans) == 1
    client.close()
    assert database.scans == []
    client = selected(node)
    listing_begun(node, client)
    client.close()
    node.settle()
    assert node.clock.getDelayedCalls() == []
    assert selected(node).ask("get never") == "value <Empty>\nok \n"


def test_a_framed_client_that_closes_midway(node: MemoryNode) -> None:
    client = node.ws()
    client.ask("use-db d t")
    client.protocol.dataReceived(b"\x81\x84\0\0\0\0keys")
    for _ in range(10):
        turn(node)
    client.close()
    node.settle()
    assert node.node.catalogue.by_name[b"d"].scans == []
    assert node.timers() == []


def test_a_slow_transport_stops_the_slices(node: MemoryNode) -> None:
    client = selected(node)
    producer = client.transport.producer
    sent = listing_begun(node, client)
    producer.pauseProducing()
    node.settle()
    assert len(client.taken()) < 200
    assert node.clock.getDelayedCalls() == []
    producer.resumeProducing()
    turn(node)
    producer.pauseProducing()
    node.settle()
    some = client.taken()
    producer.resumeProducing()
    node.settle()
    assert len(sent + some) < len(PLAIN)
    client.taken()
    assert client.ask("ping") == "pong\nok \n"


def test_a_slow_transport_loses_nothing(node: MemoryNode) -> None:
    client, other = selected(node, "watch key001"), selected(node)
    producer = client.transport.producer
    client.protocol.dataReceived(b"keys\nping\n")
    received, number = b"", 0
    while b"pong" not in received:
        number += 1
        producer.pauseProducing()
        node.settle()
        received += client.taken()
        if number == 60:
            other.ask("set key001 a")
        producer.resumeProducing()
        turn(node)
        assert number < 1_000
    assert received.count(b"changed key001 a\n") == 1
    assert PLAIN.encode() in received
    assert len(received) == len(
        PLAIN + "ok \npong\nok \n" + "changed key001 a\nchanged-version key001 1 a\n"
    )


def test_the_head_of_a_long_frame_has_the_exact_length() -> None:
    node = filled(MemoryNode(limits=Limits(keys_at_once=50)))
    long = selected(node)
    long.send("\n".join(f"set {'é' * 50}{number} 1" for number in range(700)))
    client = node.ws()
    client.ask("use-db d t")
    client.deliver(b"\x81\x84\0\0\0\0keys")
    (opcode, payload), closing = client.received_frames()
    assert opcode == 1
    assert closing == (1, b"ok \n")
    assert len(payload) > 65_536
    assert payload.decode().count(",") == COUNT + 701
    assert client._buffer == b""


def test_a_database_that_is_dropped_midway(node: MemoryNode) -> None:
    client, admin = selected(node), node.admin()
    sent = listing_begun(node, client)
    admin.send("drop-db d")
    assert admin.received() == "drop-db success\nok \n"
    assert (sent + client.taken()).decode() == PLAIN + "ok \n"
    assert client.ask("get key001").startswith("error no-db-selected\n")


def test_a_dropped_database_with_a_stalled_listing_keeps_nobody_busy(node: MemoryNode) -> None:
    client, admin = selected(node), node.admin()
    client.protocol.dataReceived(b"keys\n")
    turn(node)
    client.transport.producer.pauseProducing()
    for _ in range(5):
        turn(node)
    admin.protocol.dataReceived(b"drop-db d\n")
    turns = 0
    while turn(node) and turns < 1_000:
        turns += 1
    client.close()
    node.settle()
    assert turns < 1_000


class LateOplog(MemoryOplog):
    """A log that is durable when told, once ``late`` is a list."""

    late: list[Deferred[None]] | None = None

    def append(self, epoch: Epoch, ops: Sequence[Op]) -> Deferred[None] | None:
        super().append(epoch, ops)
        if self.late is None:
            return None
        self.late.append(Deferred())
        return self.late[-1]


def test_a_listing_waits_until_what_it_tells_of_is_durable() -> None:
    oplog = LateOplog()
    node = filled(MemoryNode(oplog, limits=Limits(keys_at_once=50)))
    client, other = selected(node), selected(node)
    oplog.late = []
    other.send("set new 1")
    client.send("keys\nping")
    assert client.received() == other.received() == ""
    oplog.late.pop().callback(None)
    node.settle()
    assert other.received() == "ok \n"
    assert client.received() == PLAIN.replace("\n", ",new\nok \npong\nok \n")


def test_a_listing_of_what_the_log_lost_is_an_error() -> None:
    oplog = LateOplog()
    node = filled(MemoryNode(oplog, limits=Limits(keys_at_once=50)))
    client, other = selected(node), selected(node)
    oplog.late = []
    other.send("set new 1")
    client.send("keys\nping")
    oplog.late.pop().errback(StorageUnavailable("disk full"))
    node.settle()
    assert other.received() == "error storage unavailable: disk full \n"
    assert client.received() == "error storage unavailable: disk full \npong\nok \n"
    assert client.ask("keys") == PLAIN + "ok \n"


def test_a_database_dropped_before_its_listing_began(node: MemoryNode) -> None:
    client, admin = selected(node), node.admin()
    client.transport.producer.pauseProducing()
    client.protocol.dataReceived(b"keys\nping\n")
    client.transport.producer.resumeProducing()
    client.protocol.dataReceived(b"ping\n")
    client.transport.producer.pauseProducing()
    node.settle()
    admin.send("drop-db d")
    client.transport.producer.resumeProducing()
    node.settle()
    assert client.received() == NO_DATABASE + "pong\nok \npong\nok \n"


def test_a_framed_client_gets_one_frame(node: MemoryNode) -> None:
    client = node.ws()
    assert isinstance(client, FrameConnection)
    client.ask("use-db d t")
    client.send("keys;ping")
    assert client.received() == [PLAIN, "ok \n", "pong\n", "ok \n"]
