"""A whole node in memory, for tests: yours too.

:class:`MemoryNode` is a real node on a clock that only moves when told, with its log and
snapshots in memory, and clients that speak real bytes on all three transports without a
socket::

    node = MemoryNode()
    line = node.tcp()
    line.send("auth nun nun-pwd")
    assert line.received() == "valid auth\\nok \\n"

Nothing waits and nothing sleeps: ``send`` runs the reactor's turns until nothing is due.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.error import AlreadyCalled, AlreadyCancelled, ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from nuntwist.cluster.alone import AloneElection
from nuntwist.cluster.identity import Identity
from nuntwist.core.counters import NodeInfo
from nuntwist.core.installing import begin_afresh
from nuntwist.core.limits import Limits
from nuntwist.core.node import Node, Winning
from nuntwist.files import Files, MemoryFiles
from nuntwist.interfaces import IOplog, IStorage
from nuntwist.language.replies import frame
from nuntwist.net.frames import frame_size
from nuntwist.net.guard import Rules, make_guard
from nuntwist.net.http import NqlResource, NqlSite
from nuntwist.net.tcp_port import LineFactory
from nuntwist.net.websocket_port import FrameFactory
from nuntwist.oplog.memory import MemoryOplog
from nuntwist.secrets import ScryptSecrets
from nuntwist.storage.memory import MemoryStorage

USER = "nun"
PASSWORD = "nun-pwd"
EPOCH_2026 = 1_767_225_600.0


@implementer(IDelayedCall)
class _Call:
    """One call of a :class:`HeapClock`."""

    __slots__ = ("_clock", "args", "called", "function", "kwargs", "number", "pending", "time")

    def __init__(
        self, clock: HeapClock, time: float, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> None:
        self._clock = clock
        self.time = time
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.number = 0
        self.pending = True
        self.called = False

    def getTime(self) -> float:
        """When it is due."""
        return self.time

    def cancel(self) -> None:
        """Forget it."""
        self._check()
        self.pending = False

    def delay(self, secondsLater: float) -> None:
        """Move it."""
        self._check()
        self._clock._move(self, self.time + secondsLater)

    def reset(self, secondsFromNow: float) -> None:
        """Move it."""
        self._check()
        self._clock._move(self, self._clock.seconds() + secondsFromNow)

    def active(self) -> bool:
        """Whether it is still to come."""
        return self.pending

    def _check(self) -> None:
        if self.called:
            raise AlreadyCalled()
        if not self.pending:
            raise AlreadyCancelled()


@implementer(IReactorTime)
class HeapClock:
    """Time that moves when told; like ``task.Clock``, but fast with thousands of timers."""

    def __init__(self) -> None:
        self._now = 0.0
        self._heap: list[tuple[float, int, _Call]] = []
        self._count = 0

    def seconds(self) -> float:
        """Now."""
        return self._now

    def callLater(
        self, delay: float, callable: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> _Call:
        """Call in ``delay`` seconds."""
        call = _Call(self, self._now + delay, callable, args, kwargs)
        self._push(call)
        return call

    def getDelayedCalls(self) -> list[_Call]:
        """The calls to come."""
        return [call for _, number, call in self._heap if call.pending and call.number == number]

    def advance(self, amount: float) -> None:
        """Move time on, making the calls that become due, in order."""
        until = self._now + amount
        while self._heap and self._heap[0][0] <= until:
            time, number, call = heapq.heappop(self._heap)
            if call.pending and call.number == number:
                self._now = max(self._now, time)
                call.pending, call.called = False, True
                call.function(*call.args, **call.kwargs)
        self._now = until

    def due_now(self) -> bool:
        """Whether a call is due without time moving on."""
        return any(call.time <= self._now for call in self.getDelayedCalls())

    def _push(self, call: _Call) -> None:
        # A call that is moved is pushed again; the entry with its last number is the one.
        self._count += 1
        call.number = self._count
        heapq.heappush(self._heap, (call.time, self._count, call))

    def _move(self, call: _Call, time: float) -> None:
        call.time = time
        self._push(call)


class MemoryTransport(StringTransport):
    """A transport that keeps what is written, with an address and the TCP options.

    :ivar aborted: whether the connection was cut off.
    """

    TLS = False

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False
        self.lose: Callable[[], None] = lambda: None

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Nothing to tune."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Nothing to tune."""

    def unregisterProducer(self) -> None:
        """Forget the producer; may be said where there is none."""
        self.producer = None

    def pauseProducing(self) -> None:
        """Stop delivering input; may be said twice."""
        self.producerState = "paused"

    def resumeProducing(self) -> None:
        """Deliver input again; may be said twice."""
        if self.producerState != "stopped":
            self.producerState = "producing"

    def loseConnection(self) -> None:
        """Close, in order."""
        super().loseConnection()
        self.lose()

    def abortConnection(self) -> None:
        """Close at once."""
        self.aborted = True
        super().abortConnection()
        self.lose()


class Connection:
    """One client of a :class:`MemoryNode`.

    :ivar transport: what the server writes to.
    """

    def __init__(self, node: MemoryNode, factory: Any) -> None:
        self.node = node
        self.protocol = factory.buildProtocol(None)
        self.transport = MemoryTransport()
        self.transport.lose = self._schedule_loss
        self._waiting = b""
        self._lost = False
        self.protocol.makeConnection(self.transport)

    def deliver(self, data: bytes) -> None:
        """Let bytes arrive, as far as the server reads."""
        self._waiting += data
        self.node.settle()
        while self._waiting and self.transport.producerState == "producing" and not self._lost:
            data, self._waiting = self._waiting, b""
            self.protocol.dataReceived(data)
            self.node.settle()

    def close(self) -> None:
        """The client goes away."""
        if not self._lost:
            self._lost = True
            self.protocol.connectionLost(Failure(ConnectionDone()))
            self.node.settle()

    def taken(self) -> bytes:
        """The bytes sent to this client since the last time."""
        data: bytes = self.transport.value()
        self.transport.clear()
        return data

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return self._lost

    def _schedule_loss(self) -> None:
        self.node.clock.callLater(0, self.close)


class LineConnection(Connection):
    """A TCP client."""

    def __init__(self, node: MemoryNode) -> None:
        super().__init__(node, node.lines)
        self.taken()

    def send(self, text: str) -> None:
        """Send a command (or several, a line each)."""
        self.deliver(text.encode() + b"\n")

    def received(self) -> str:
        """The text sent to this client since the last time."""
        return self.taken().decode()

    def ask(self, text: str) -> str:
        """Send, and give what comes back."""
        self.received()
        self.send(text)
        return self.received()


class FrameConnection(Connection):
    """A WebSocket client."""

    def __init__(self, node: MemoryNode) -> None:
        super().__init__(node, node.frames)
        self._buffer = b""
        self.deliver(
            b"GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        head, _, self._buffer = self.taken().partition(b"\r\n\r\n")
        self.handshake = head

    def send(self, text: str) -> None:
        """Send a text frame."""
        self.deliver(client_frame(text.encode()))

    def received(self) -> list[str]:
        """The text frames sent to this client since the last time."""
        texts = []
        for opcode, payload in self.received_frames():
            texts.append(payload.decode() if opcode == 1 else f"<opcode {opcode}>")
        return texts

    def received_frames(self) -> list[tuple[int, bytes]]:
        """The frames (opcode, payload) sent to this client since the last time."""
        self._buffer += self.taken()
        frames = []
        while (size := frame_size(self._buffer)) is not None and size <= len(self._buffer):
            whole, self._buffer = self._buffer[:size], self._buffer[size:]
            payload = whole[2:] if whole[1] < 126 else whole[4 if whole[1] == 126 else 10 :]
            frames.append((whole[0] & 15, payload))
        return frames

    def ask(self, text: str) -> list[str]:
        """Send, and give what comes back."""
        self.received()
        self.send(text)
        return self.received()


def client_frame(payload: bytes, opcode: int = 1, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    """A final frame as a client sends it, masked."""
    head = frame(payload)[: len(frame(payload)) - len(payload)]
    covered = bytes(byte ^ mask[i & 3] for i, byte in enumerate(payload))
    return bytes((0x80 | opcode, head[1] | 0x80)) + head[2:] + mask + covered


class MemoryNode:
    """A node in memory; see the module's header.

    :param oplog: another log than one in memory.
    :param storage: other storage than one in memory.
    :param limits: other limits than the defaults.
    :param clock: shared with other nodes; without one it has its own.
    :param election: another one than that of a node alone.
    :param in_set: as for the node.
    :param afresh: the data directory, where the process before has left a copy of all half in
        place: as :func:`nuntwist.core.installing.begin_afresh` does.
    :param rules: for clients, other than the defaults.
    :ivar guard: watches over its clients.
    """

    def __init__(
        self,
        oplog: IOplog | None = None,
        storage: IStorage | None = None,
        limits: Limits | None = None,
        user: str = USER,
        password: str = PASSWORD,
        clock: HeapClock | None = None,
        election: Winning | None = None,
        in_set: bool = False,
        afresh: Files | None = None,
        rules: Rules | None = None,
    ) -> None:
        self.clock = clock or HeapClock()
        self.oplog = oplog or MemoryOplog()
        self.storage = storage or MemoryStorage()
        self.oplog.open()
        self.storage.open()
        chance = random.Random(1)

        def at_once(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
            return execute(function, *args)

        self.node = Node(
            info=NodeInfo("127.0.0.1:3014", user.encode(), password.encode(), 1_767_225_600_000),
            oplog=self.oplog,
            storage=self.storage,
            secrets=ScryptSecrets(at_once, chance.randbytes, log_n=1, sealing=password.encode()),
            election=election or AloneElection(Identity(MemoryFiles(), chance)),
            wall=lambda: EPOCH_2026 + self.clock.seconds(),
            call_later=self.clock.callLater,
            seconds=self.clock.seconds,
            limits=limits,
            in_set=in_set,
        )
        failed: list[Failure] = []
        if afresh is None:
            self.node.recover().addErrback(failed.append)
        else:
            begin_afresh(self.node, afresh).addErrback(failed.append)
        if failed:
            failed[0].raiseException()
        self.node.start()
        pipeline = self.node.pipeline
        clock = self.clock
        guard = make_guard(self.node.counters, clock.callLater, clock.seconds, rules)
        self.guard = guard
        self.lines = LineFactory(pipeline, guard)
        self.frames = FrameFactory(pipeline, guard, clock, clock.callLater)
        self.site = NqlSite(NqlResource(pipeline, None), guard, clock, 8 << 20)

    def settle(self) -> None:
        """Run the reactor's turns until nothing is due now."""
        self.clock.advance(0)

    def timers(self) -> list[_Call]:
        """The calls to come, but for the looks of the guard: these end by themselves."""
        guard = self.guard
        looks = (guard.handshakes, guard.commands, guard.partings, guard.idle)
        calls = self.clock.getDelayedCalls()
        return [one for one in calls if getattr(one.function, "__self__", None) not in looks]

    def tcp(self) -> LineConnection:
        """Connect over TCP (the greeting is taken)."""
        return LineConnection(self)

    def ws(self) -> FrameConnection:
        """Connect over WebSocket (the handshake is done)."""
        return FrameConnection(self)

    def post(self, body: str | bytes) -> str:
        """POST commands; give the body of the answer."""
        return self.request(b"POST", body)[1].decode()

    def request(
        self, method: bytes, body: str | bytes = b"", path: bytes = b"/"
    ) -> tuple[bytes, bytes]:
        """Make an HTTP request.

        :return: the head of the answer and its body.
        """
        if isinstance(body, str):
            body = body.encode()
        connection = Connection(self, self.site)
        connection.deliver(
            b"%b %b HTTP/1.1\r\nHost: localhost:3013\r\nContent-Length: %d\r\n\r\n%b"
            % (method, path, len(body), body)
        )
        head, _, answer = connection.taken().partition(b"\r\n\r\n")
        connection.close()
        return head, answer

    def admin(self, *commands: str) -> LineConnection:
        """Connect over TCP as admin, run some commands, forget their answers."""
        connection = self.tcp()
        for command in (f"auth {USER} {PASSWORD}", *commands):
            connection.send(command)
        connection.received()
        return connection
