"""TCP clients: the greeting, lines, half-close, and transports that are full."""

from __future__ import annotations

import pytest
from twisted.internet.interfaces import IHalfCloseableProtocol
from zope.interface.verify import verifyObject

from nuntwist.core.limits import Limits
from nuntwist.testing import Connection, LineConnection, MemoryNode

LIMIT = 1_000


@pytest.fixture
def node() -> MemoryNode:
    node = MemoryNode(limits=Limits(line=LIMIT, keys_at_once=50))
    node.admin("create-db d t").close()
    return node


@pytest.fixture
def client(node: MemoryNode) -> LineConnection:
    return selected(node)


def selected(node: MemoryNode) -> LineConnection:
    client = node.tcp()
    assert client.ask("use-db d t") == "ok \n"
    return client


def test_the_greeting(node: MemoryNode) -> None:
    assert Connection(node, node.lines).taken() == b"ok \n"


def test_lines_may_end_in_crlf_and_semicolons(client: LineConnection) -> None:
    client.deliver(b"set k v\r\nget k;\r\nget k;;\n\r\nget k\r\n")
    assert client.received() == (
        "ok \n" + "value v\nok \n" * 2 + "error empty command \n" + "value v\nok \n"
    )


def test_a_semicolon_inside_a_line_is_part_of_the_value(client: LineConnection) -> None:
    client.send("set k a;get k")
    client.send("get k")
    assert client.received() == "ok \nvalue a;get k\nok \n"


def test_byte_by_byte(client: LineConnection) -> None:
    for byte in "set é ü\r\nget é\nnope\n".encode():
        client.deliver(bytes((byte,)))
    assert client.received() == "ok \nvalue ü\nok \nerror unknown command: nope \n"


def test_a_line_over_the_limit_is_one_error_in_its_place(client: LineConnection) -> None:
    long = b"set k " + b"x" * LIMIT
    client.deliver(b"ping\n" + long + b"\nget k\n")
    expected = f"pong\nok \nerror command too long: the limit is {LIMIT} bytes \n" + (
        "value <Empty>\nok \n"
    )
    assert client.received() == expected
    client.deliver(b"ping\n")
    for at in range(0, len(long), 100):
        client.deliver(long[at : at + 100])
        assert client.protocol._framer.pending <= LIMIT
    client.deliver(b"\nget k\n")
    assert client.received() == expected
    assert client.ask("set k " + "x" * (LIMIT - 6)) == "ok \n"


def test_invalid_utf_8_is_one_error(client: LineConnection) -> None:
    client.deliver(b"set k \xff\nset \xc3\xa9 1\nget \xc3\xa9\n")
    assert client.received() == "error command is not valid UTF-8 \nok \nvalue 1\nok \n"


# -- half-close --


def test_the_protocol_takes_half_close(client: LineConnection) -> None:
    assert verifyObject(IHalfCloseableProtocol, client.protocol)


def test_half_close_answers_what_is_in_flight(node: MemoryNode, client: LineConnection) -> None:
    client.protocol.dataReceived(b"set k 1\nget k\nuse-db d wrong\nget k\nget unfinished")
    client.protocol.readConnectionLost()
    node.settle()
    assert client.received() == "ok \nvalue 1\nok \nerror Invalid token \nvalue 1\nok \n"
    assert client.closed
    assert selected(node).ask("get $connections") == "value 1\nok \n"


def test_half_close_with_nothing_in_flight(client: LineConnection) -> None:
    client.protocol.readConnectionLost()
    client.node.settle()
    assert client.closed


def test_half_close_while_the_transport_is_full(node: MemoryNode, client: LineConnection) -> None:
    producer = client.transport.producer
    producer.pauseProducing()
    client.protocol.dataReceived(b"set k 1\nget k\n")
    client.protocol.readConnectionLost()
    node.settle()
    assert not client.closed
    producer.resumeProducing()
    node.settle()
    assert client.received() == "ok \nvalue 1\nok \n"
    assert client.closed


def test_half_close_in_a_long_listing(node: MemoryNode, client: LineConnection) -> None:
    client.send("\n".join(f"set k{number:03} 1" for number in range(300)))
    client.received()
    client.protocol.dataReceived(b"keys k\nping\n")
    client.protocol.readConnectionLost()
    node.settle()
    keys = "".join(f",k{number:03}" for number in range(300))
    assert client.received() == f"keys {keys}\nok \npong\nok \n"
    assert client.closed


def test_the_node_stops_in_order(node: MemoryNode, client: LineConnection) -> None:
    client.protocol.dataReceived(b"set k 1\nget k\n")
    node.lines.finish_all()
    node.settle()
    assert client.received() == "ok \nvalue 1\nok \n"
    assert client.closed
    assert not node.lines.clients


# -- back-pressure --


def test_a_full_transport_is_not_read(node: MemoryNode, client: LineConnection) -> None:
    other = selected(node)
    producer = client.transport.producer
    producer.pauseProducing()
    assert client.transport.producerState == "paused"
    client.protocol.dataReceived(b"set k 1\nget k\n")
    node.settle()
    assert client.received() == ""
    assert other.ask("get k") == "value <Empty>\nok \n"
    producer.pauseProducing()
    producer.resumeProducing()
    node.settle()
    assert client.received() == "ok \nvalue 1\nok \n"
    assert client.transport.producerState == "producing"
    assert client.ask("ping") == "pong\nok \n"


def test_a_transport_that_fills_in_the_middle_stops_the_rest(
    node: MemoryNode, client: LineConnection
) -> None:
    """As a real one: what was written over its buffer's size makes it speak to its producer."""
    client.send("set k " + "x" * 900)
    client.received()
    write, producer = client.transport.write, client.transport.producer

    def write_and_fill(data: bytes) -> None:
        write(data)
        if len(client.transport.value()) > 64 << 10:
            producer.pauseProducing()

    client.protocol.client.write = write_and_fill
    client.protocol.dataReceived(b"get k\n" * 2_000)
    node.settle()
    total = 0
    for _ in range(20):
        received = len(client.taken())
        assert received <= 280 << 10
        total += received
        producer.resumeProducing()
        node.settle()
    assert total == 2_000 * (900 + len("value \nok \n"))


def test_a_lost_connection_leaves_nothing(node: MemoryNode, client: LineConnection) -> None:
    client.send("watch k")
    client.protocol.dataReceived(b"set k 1\nkeys\n")
    client.close()
    database = node.node.catalogue.by_name[b"d"]
    assert not database.watchers
    assert not database.selected
    assert not database.scans
    assert not node.lines.clients
    assert node.node.counters.connections == 0
    assert selected(node).ask("get k") == "value 1\nok \n"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "OPTIONS"])
def test_a_browser_cannot_be_made_to_send_commands(node: MemoryNode, method: str) -> None:
    client = node.tcp()
    body = "auth nun nun-pwd\ncreate-db stolen t"
    client.send(f"{method} / HTTP/1.1\r\nHost: 127.0.0.1:3014\r\n\r\n{body}")
    assert client.received() == "error this port takes commands, not HTTP: use the HTTP port \n"
    client.deliver(b"auth nun nun-pwd\ncreate-db stolen t\n")
    node.settle()
    assert client.closed
    assert b"stolen" not in node.node.catalogue.by_name


def test_an_unknown_word_in_capitals_is_just_that(node: MemoryNode) -> None:
    client = node.tcp()
    assert client.ask("GET key").startswith("error unknown command")
    assert client.ask("get key").startswith("error no-db-selected")
