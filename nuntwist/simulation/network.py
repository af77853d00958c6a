"""Connections between processes in memory, with what can happen to them.

Bytes of one direction of a connection arrive in the order they were sent, each after a delay of
its own. Where a direction is cut, they wait, as TCP sends again what was not acknowledged: after
the cut they arrive late, if the connection is still there. Its end travels the same way, so a side
may not notice for long that the other one has gone. Who sends to a side that has closed is told
that the connection is lost.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from nuntwist.simulation.process import Process
from nuntwist.testing import HeapClock, MemoryTransport

CONNECT_SECONDS: Final = 2.0
"""After which a connection attempt that nobody answers fails."""
USUAL: Final = (0.0002, 0.002)
"""Seconds that bytes are under way, at least and at most."""
BROKEN: Final = (0.0, 0.02)
"""Seconds that a connection lasts where none is of any use."""

_END: Final = None
"""Stands for the end of a connection, among what is under way."""


class End(MemoryTransport):
    """One side of a connection: the transport of its protocol.

    :ivar place: of the process it belongs to.
    """

    def __init__(self, network: Network, process: Process, place: int) -> None:
        super().__init__()
        self.protocol: Any = None
        self.process = process
        self.place = place
        self.other: End = self
        self.under_way: deque[tuple[float, bytes | None]] = deque()
        self.open = True
        self._network = network
        self._input: list[bytes] = []
        self.lose = self.finish

    # -- what the protocol does --------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send."""
        if self.open and not self.disconnecting:
            self._network.send(self, data)

    def writeSequence(self, iovec: Any) -> None:
        """Send."""
        self.write(b"".join(iovec))

    def resumeProducing(self) -> None:
        """Take input again."""
        super().resumeProducing()
        if self._input:
            self.process.callLater(0.0, self._deliver)

    def finish(self) -> None:
        """Close this side; it hears of that soon, and the other when that arrives there."""
        self.disconnecting = True
        self.process.callLater(0.0, self.lost, ConnectionDone())
        self._network.send(self, _END)

    # -- what comes --------------------------------------------------------------------------

    def made(self, protocol: Any) -> None:
        """A protocol takes it."""
        self.protocol = protocol
        protocol.makeConnection(self)
        self._deliver()

    def arrive(self, data: bytes | None) -> None:
        """Bytes have come, or the end."""
        if data is _END:
            self.lost(ConnectionLost())
        elif not self.open:
            # It was closed here, and the other side did not know.
            self._network.send(self, _END)
        elif data:
            self._input.append(data)
            self._deliver()

    def _deliver(self) -> None:
        while self._input and self.open and self.protocol is not None:
            if self.producerState != "producing":
                return
            data = b"".join(self._input)
            self._input.clear()
            self.protocol.dataReceived(data)

    def lost(self, why: Exception) -> None:
        """It is over for this side."""
        if self.open:
            self.open = False
            self._network.ended(self)
            if self.protocol is not None:
                self.protocol.connectionLost(Failure(why))


class Network:
    """All connections.

    :param chance: draws the delays.
    :param note: is told what happens, a line each; None for nobody.
    :ivar cut: pairs of places; nothing gets from the first to the second.
    :ivar delays: for some such pairs, seconds at least and at most; for all others the usual.
    :ivar unsteady: pairs of places between which no new connection is of any use.
    """

    def __init__(
        self, clock: HeapClock, chance: random.Random, note: Callable[[str], None] | None = None
    ) -> None:
        self.clock = clock
        self.cut: set[tuple[int, int]] = set()
        self.delays: dict[tuple[int, int], tuple[float, float]] = {}
        self.unsteady: set[frozenset[int]] = set()
        self.usual = USUAL
        self._chance = chance
        self._note = note
        self._ends: dict[End, None] = {}
        self._listening: dict[str, tuple[int, Process, Callable[[], Any]]] = {}

    # -- connecting --------------------------------------------------------------------------

    def listen(self, address: str, place: int, process: Process, make: Callable[[], Any]) -> None:
        """Take connections at an address.

        :param make: makes the protocol of one.
        """
        self._listening[address] = (place, process, make)

    def hang_up(self, place: int) -> None:
        """A process is gone: its machine closes its connections, and refuses others."""
        for address in [a for a, held in self._listening.items() if held[0] == place]:
            del self._listening[address]
        for end in [end for end in self._ends if end.place == place]:
            end.open = False
            self.ended(end)
            self.send(end, _END)

    def connect(self, place: int, process: Process, address: str, factory: Any) -> Deferred[Any]:
        """Connect a process to an address.

        :return: fires with the protocol; fails as a connection of Twisted does.
        """
        connected: Deferred[Any] = Deferred()
        listener = self._listening.get(address)
        if listener is None:
            delay = self._delay(place, place) * 2
            process.callLater(delay, _fail, connected, ConnectionRefusedError())
            return connected
        there = listener[0]
        if frozenset((place, there)) in self.unsteady and self._chance.random() < 0.5:
            process.callLater(self._delay(place, there), _fail, connected, ConnectionRefusedError())
            return connected
        if {(place, there), (there, place)} & self.cut:
            process.callLater(CONNECT_SECONDS, _fail, connected, ConnectTimeout())
            return connected

        def arrived() -> None:
            if self._listening.get(address) is not listener:
                process.callLater(0.0, _fail, connected, ConnectionRefusedError())
                return
            _, other, make = listener
            ends = End(self, process, place), End(self, other, there)
            for end, opposite in (ends, ends[::-1]):
                end.other = opposite
                self._ends[end] = None
            other.run(lambda: ends[1].made(make()))
            if frozenset((place, there)) in self.unsteady:
                self.clock.callLater(self._chance.uniform(*BROKEN), self._break, ends[0])
            process.callLater(self._delay(there, place), answered, ends[0])

        def answered(end: End) -> None:
            if connected.called:
                end.finish()
                return
            if not end.open:
                _fail(connected, ConnectionLost())
                return
            protocol = factory.buildProtocol(None)
            end.made(protocol)
            connected.callback(protocol)

        self.clock.callLater(self._delay(place, there), arrived)
        return connected

    # -- bytes -------------------------------------------------------------------------------

    def send(self, end: End, data: bytes | None) -> None:
        """Put something on its way to the other side."""
        due = self.clock.seconds() + self._delay(end.place, end.other.place)
        if end.under_way:
            due = max(due, end.under_way[-1][0])
        end.under_way.append((due, data))
        self.clock.callLater(due - self.clock.seconds(), self._flow, end)

    def _flow(self, end: End) -> None:
        other = end.other
        if (end.place, other.place) in self.cut:
            return
        while end.under_way and end.under_way[0][0] <= self.clock.seconds():
            _, data = end.under_way.popleft()
            if self._note is not None:
                self._note(f"{end.place}>{other.place} {'end' if data is None else len(data)}")
            other.process.run(lambda data=data: other.arrive(data))  # type: ignore[misc]  # bound

    def _delay(self, sender: int, receiver: int) -> float:
        return self._chance.uniform(*self.delays.get((sender, receiver), self.usual))

    def ended(self, end: End) -> None:
        """One side has gone."""
        self._ends.pop(end, None)

    # -- faults ------------------------------------------------------------------------------

    def heal(self) -> None:
        """Nothing is cut or slow any more; what waits is on its way."""
        self.cut.clear()
        self.delays.clear()
        self.unsteady.clear()
        self.flow_again()

    def mend(self, ways: set[tuple[int, int]]) -> None:
        """Some ways are not cut any more."""
        self.cut -= ways
        self.flow_again()

    def flow_again(self) -> None:
        """Let what has waited for a cut arrive: in a while, as it is sent again."""
        for end in list(self._ends):
            for side in (end, end.other):
                if side.under_way and side.under_way[0][0] <= self.clock.seconds():
                    self.clock.callLater(self._chance.uniform(0.0, 0.3), self._flow, side)

    @property
    def open(self) -> list[tuple[int, int]]:
        """The places of both sides of each connection that is not closed at both ends."""
        return [(end.place, end.other.place) for end in self._ends]

    def _break(self, end: End) -> None:
        for side in (end, end.other):
            side.process.run(lambda side=side: side.lost(ConnectionLost()))  # type: ignore[misc]  # bound

    def drop(self, one: int, other: int) -> int:
        """Connections between two places are lost; both sides are told.

        :return: how many.
        """
        dropped = [end for end in self._ends if (end.place, end.other.place) == (one, other)]
        for end in dropped:
            self._break(end)
        return len(dropped)


@implementer(IStreamClientEndpoint)
class Way:
    """The way from a process to an address, as an endpoint."""

    def __init__(self, network: Network, place: int, process: Process, address: str) -> None:
        self._network = network
        self._place = place
        self._process = process
        self._address = address

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        """Connect; see IStreamClientEndpoint."""
        return self._network.connect(self._place, self._process, self._address, factory)


def _fail(connected: Deferred[Any], why: Exception) -> None:
    if not connected.called:
        connected.errback(why)
