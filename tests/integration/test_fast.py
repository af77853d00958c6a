"""Transports that send at once, on real sockets: order, full sockets, ends."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from nuntwist.core.client import takes_nothing
from nuntwist.net.fast import SendingReactor, SendingServer

LARGE = 8 << 20
"""More than any socket buffer takes."""


class Sender:
    send: Any = takes_nothing


class Recorder(Protocol):
    transport: Any

    def __init__(self) -> None:
        self.made: Deferred[None] = Deferred()
        self.lost: Deferred[None] = Deferred()
        self.received = b""

    def connectionMade(self) -> None:
        self.made.callback(None)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: object = None) -> None:
        self.lost.callback(None)


class Pair:
    """A connection: a protocol on a :class:`SendingServer`, and a plain socket."""

    def __init__(self) -> None:
        self.protocol = Recorder()

    @pytest_twisted.inlineCallbacks
    def open(self) -> Generator[Deferred[Any], Any, None]:
        factory: Any = Factory.forProtocol(Recorder)
        factory.buildProtocol = lambda _: self.protocol
        endpoint = TCP4ServerEndpoint(SendingReactor(reactor), 0, interface="127.0.0.1")
        self.port = yield endpoint.listen(factory)
        address = ("127.0.0.1", self.port.getHost().port)
        self.socket = yield deferToThread(socket.create_connection, address, 30)
        yield self.protocol.made
        self.transport = self.protocol.transport
        assert isinstance(self.transport, SendingServer)

    @pytest_twisted.inlineCallbacks
    def close(self) -> Generator[Deferred[Any], Any, None]:
        self.socket.close()
        yield self.protocol.lost
        yield self.port.stopListening()

    def read(self, size: int) -> bytes:
        parts = []
        while size > 0:
            part = self.socket.recv(min(size, 1 << 20))
            assert part, "the connection ended early"
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


@pytest_twisted.inlineCallbacks
def test_what_is_written_comes_in_order_past_a_full_socket() -> Generator[Any, Any, None]:
    pair, sender = Pair(), Sender()
    yield pair.open()
    pair.transport.lend_to(sender)
    assert sender.send(b"first ") == 6
    pair.transport.write(b"x" * LARGE)
    # The socket is full, so nothing may pass what is queued.
    assert sender.send is takes_nothing
    pair.transport.write(b" last")
    got = yield deferToThread(pair.read, 6 + LARGE + 5)
    assert got == b"first " + b"x" * LARGE + b" last"
    while sender.send is takes_nothing:
        yield deferLater(reactor, 0.001, int)
    assert sender.send(b"again") == 5
    got = yield deferToThread(pair.read, 5)
    assert got == b"again"
    yield pair.close()
    assert sender.send is takes_nothing


@pytest_twisted.inlineCallbacks
def test_what_is_taken_back_is_not_lent_again() -> Generator[Any, Any, None]:
    pair, sender = Pair(), Sender()
    yield pair.open()
    pair.transport.lend_to(sender)
    pair.transport.take_back()
    assert sender.send is takes_nothing
    pair.transport.write(b"x" * LARGE)
    yield deferToThread(pair.read, LARGE)
    yield deferLater(reactor, 0.05, int)
    assert sender.send is takes_nothing
    pair.transport.take_back()
    yield pair.close()


@pytest_twisted.inlineCallbacks
def test_a_close_comes_after_what_was_written() -> Generator[Any, Any, None]:
    pair = Pair()
    yield pair.open()
    pair.transport.write(b"y" * LARGE)
    pair.transport.loseConnection()
    pair.transport.write(b"more")
    got = yield deferToThread(pair.read, LARGE + 4)
    assert got[-5:] == b"ymore"
    rest = yield deferToThread(pair.socket.recv, 1)
    assert rest == b""
    yield pair.close()


@pytest_twisted.inlineCallbacks
def test_writing_to_who_is_gone_is_nothing() -> Generator[Any, Any, None]:
    pair, sender = Pair(), Sender()
    yield pair.open()
    pair.transport.lend_to(sender)
    send = sender.send
    pair.transport.abortConnection()
    yield pair.protocol.lost
    pair.transport.write(b"nobody")
    assert sender.send is takes_nothing
    with pytest.raises(OSError, match="file descriptor"):
        send(b"nobody")
    pair.socket.close()
    yield pair.port.stopListening()


@pytest_twisted.inlineCallbacks
def test_after_a_half_close_nothing_is_sent() -> Generator[Any, Any, None]:
    pair = Pair()
    yield pair.open()
    pair.transport.write(b"bye")
    pair.transport.loseWriteConnection()
    got = yield deferToThread(pair.read, 3)
    rest = yield deferToThread(pair.socket.recv, 100)
    assert (got, rest) == (b"bye", b"")
    pair.transport.write(b"too late")
    pair.socket.sendall(b"still read")
    while pair.protocol.received != b"still read":
        yield deferLater(reactor, 0.001, int)
    yield pair.close()


@pytest_twisted.inlineCallbacks
def test_a_producer_is_told_of_a_full_socket() -> Generator[Any, Any, None]:
    told: list[str] = []

    class Producer:
        def pauseProducing(self) -> None:
            told.append("full")

        def resumeProducing(self) -> None:
            told.append("empty")

        def stopProducing(self) -> None:
            told.append("gone")

    pair = Pair()
    yield pair.open()
    pair.transport.registerProducer(Producer(), True)
    pair.transport.write(b"small")
    assert told == []
    pair.transport.write(b"z" * LARGE)
    assert told == ["full"]
    reader = threading.Thread(target=pair.read, args=(5 + LARGE,))
    reader.start()
    while told == ["full"]:
        yield deferLater(reactor, 0.001, int)
    assert told == ["full", "empty"]
    reader.join()
    yield pair.close()
    assert told == ["full", "empty", "gone"]


@pytest_twisted.inlineCallbacks
def test_many_may_wait_to_be_accepted() -> Generator[Any, Any, None]:
    """While the node is busy; whoever finds the line full tries again only a second later."""
    factory: Any = Factory.forProtocol(Recorder)
    factory.buildProtocol = lambda _: Recorder()
    endpoint = TCP4ServerEndpoint(SendingReactor(reactor), 0, interface="127.0.0.1")
    port = yield endpoint.listen(factory)
    address = ("127.0.0.1", port.getHost().port)
    # The reactor accepts nobody while this thread is here.
    waiting = [socket.create_connection(address, 0.9) for _ in range(200)]
    for one in waiting:
        one.close()
    yield port.stopListening()
