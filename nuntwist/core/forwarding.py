"""Writes on a secondary: sent to the primary, and answered when this node has their outcome.

A connection that sends a write is taken over (``Client.forwards``; it *waits*, as for a hash)
until all it has sent to the primary is answered. Meanwhile its further writes go behind that, and
anything else waits in its backlog. So the hot road knows nothing of all this.

Requests go by lanes (:mod:`nuntwist.core.forwards`), one a lane at a time, each with all that has
come meanwhile, up to a limit::

    waiting ──a lane is free──▶ under way ──Outcome──▶ answered there ──revealed here──▶ answered
                                    ▲                        │
                                    └── another primary ─────┘   (the same request once more)

Only when the operations that the outcome names are revealed *here* are the clients answered, so
who reads on this node sees what it has written. Until then the request is not over: the next
primary may not have those operations, and is sent it again; if it has them it has the marker.

While there is no primary everything waits, each command up to a limit of time from when it came or
from when the primary was lost, whichever is later. Then what was never sent has failed, and of
what was sent nobody knows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from nuntwist.core.client import Client
from nuntwist.core.concern import PRIMARY
from nuntwist.core.forwards import (
    ALONE_LANES,
    PLAIN,
    REQUEST_BYTES,
    REQUEST_ITEMS,
    Item,
    item_of,
    kind_of,
)
from nuntwist.core.lanes import Entry, Forwards, Lane
from nuntwist.core.outcomes import read_replies
from nuntwist.language.commands import Command
from nuntwist.language.parser import Request
from nuntwist.language.replies import Reply, failure

if TYPE_CHECKING:
    from nuntwist.core.pipeline import Pipeline

NO_PRIMARY: Final = b"no primary"
NOT_PRIMARY: Final = b"not primary"
NEVER_ANSWERED: Final = b"outcome unknown: no primary answered"
NOT_READ: Final = b"outcome unknown: the primary's answer cannot be read"
RESTORE_THERE: Final = b"restore on the primary: "

OVERHEAD: Final = 200
"""Bytes a command takes here beside its text, about."""

Send = Callable[[int, int, Sequence[Item]], None]
"""Sends a request to the primary: its lane, its number, its commands."""
Reached = Callable[[int, int, int], Deferred[None]]
"""Asks the primary about an index, a number of replicas and milliseconds: fires when so many have
all up to there; may be cancelled."""


class Forwarder:
    """Forwards the writes of a node's clients.

    :param pipeline: of the node; the forwarder is put into it.
    :param call_later: IReactorTime.callLater.
    :param seconds: monotonic time, in seconds.
    :param wait: for how long a command waits without a primary, in seconds.
    :ivar reached: asks the primary for concerns of a number of replicas.
    :param first_request: numbers of requests begin above it. They must rise from one start of
        the node to the next: the time of the start in milliseconds, times 2**20. Where the
        clock was set back meanwhile, the primary tells.
    """

    _log = Logger()

    def __init__(
        self,
        pipeline: Pipeline,
        call_later: Callable[..., Any],
        seconds: Callable[[], float],
        wait: float,
        first_request: int,
    ) -> None:
        self._pipeline = pipeline
        self._call_later = call_later
        self._seconds = seconds
        self._wait = wait
        self._request = first_request
        self._send: Send | None = None
        self.reached: Reached = _nobody_counts
        self._address = b""
        self._lost_at = seconds()
        self._timer: IDelayedCall | None = None
        self._plain: deque[Entry] = deque()
        self._alone: deque[Entry] = deque()
        self._lanes = [Lane(PLAIN, self._plain)]
        self._lanes += [Lane(number, self._alone) for number in ALONE_LANES]
        self._count = self._size = 0
        self._without_room: dict[Client, None] = {}
        pipeline.forwarder = self

    @property
    def pending(self) -> int:
        """How many commands are forwarded and not answered."""
        return self._count

    # -- commands come in --------------------------------------------------------------------

    def takes(self, client: Client, request: Request) -> bool:
        """Whether a command is to be forwarded; then :meth:`take_over` its connection."""
        return self._kind(client, request) is not None

    def _kind(self, client: Client, request: Request) -> bool | None:
        if self._pipeline.journal.refusal not in (NO_PRIMARY, NOT_PRIMARY):
            return None
        return kind_of(client, request)

    def refusal(self, command: Command, reason: bytes) -> bytes:
        """The text that refuses a write here that is not forwarded."""
        if command.word.startswith("restore-") and self._address and reason == NOT_PRIMARY:
            return RESTORE_THERE + self._address
        return reason

    def take_over(self, client: Client) -> None:
        """A connection's next command, at the head of its backlog, is to be forwarded."""
        client.forwards = Forwards()
        client.waiting = True

    def pull(self, client: Client) -> None:
        """Forward what stands first in the backlog of a connection that was taken over, as far
        as that may be forwarded now."""
        forwards, backlog = client.forwards, client.backlog
        if forwards is None or client.closed or forwards.drains:
            return
        if not forwards.count and not self._is_answered(client, forwards):
            client.outlet.pause_reading()
            return
        while backlog and not client.paused:
            lines, at, plain = backlog.popleft()
            at = self._take(client, forwards, lines, at)
            if at < len(lines):
                backlog.appendleft((lines, at, plain))
                break
        if backlog:
            client.outlet.pause_reading()
        if not forwards.count and not client.paused and client not in self._without_room:
            self._release(client)
        elif not (backlog or client.paused or client.stalled):
            client.outlet.resume_reading()
        # What others send in this turn goes with it.
        self._pipeline.turns.open()

    def _is_answered(self, client: Client, forwards: Forwards) -> bool:
        """Whether all before the first command is answered: what is not may be run once more,
        and would mean something else after it (:mod:`nuntwist.core.alone`)."""
        self._pipeline.commit()
        if not client.held:
            return True
        forwards.drains = True

        def drained(_: object) -> None:
            forwards.drains = False
            self.pull(client)

        self._pipeline.delivery.drained(client).addCallback(drained)
        return False

    def _take(self, client: Client, forwards: Forwards, lines: list[bytes], at: int) -> int:
        """Take commands of a piece of input.

        :return: the place of the first that is not taken.
        """
        now, parse = self._seconds(), self._pipeline.deciding.parse
        while at < len(lines):
            request = parse(lines[at])
            alone = None if isinstance(request, Reply) else self._kind(client, request)
            if alone is None or (forwards.count and (alone or forwards.alone)):
                break
            entry = Entry(client, item_of(client, lines[at]), len(lines[at]) + OVERHEAD, now)
            if not self._has_room(entry, forwards):
                break
            audit = self._pipeline.deciding.audit
            if audit is not None and isinstance(request, Request):
                audit.forwarded(client, request)
            forwards.alone = alone
            forwards.count += 1
            forwards.size += entry.size
            self._count += 1
            self._size += entry.size
            (self._alone if alone else self._plain).append(entry)
            at += 1
        return at

    def _has_room(self, entry: Entry, forwards: Forwards) -> bool:
        limits, size = self._pipeline.limits, entry.size
        if forwards.count and (
            forwards.count >= limits.forwards or forwards.size + size > limits.forward_bytes
        ):
            return False
        if self._count and (
            self._count >= limits.all_forwards or self._size + size > limits.all_forward_bytes
        ):
            self._without_room[entry.client] = None
            return False
        return True

    def _release(self, client: Client) -> None:
        """All it has forwarded is answered: it goes on by itself."""
        client.forwards = None
        client.waiting = False
        self._pipeline.turns.enqueue(client)

    # -- the primary -------------------------------------------------------------------------

    def found(self, address: str, send: Send) -> None:
        """There is a primary, whose log this node follows, or this node itself.

        :param address: where clients find it.
        """
        self._send, self._address = send, address.encode()
        self._clear_timer()
        for lane in self._lanes:
            if lane.under_way:
                lane.drop_outcome()
                self._send_request(lane)
        self.start()

    def lost(self) -> None:
        """There is none any more: what it has answered and is not revealed here may be lost."""
        if self._send is not None:
            self._lost_at = self._seconds()
        self._send = None
        self._address = b""
        for lane in self._lanes:
            lane.drop_outcome()
        self._set_timer()

    def stop(self) -> None:
        """The node stops: what waits for a primary is answered with what is known of it."""
        self._send = None
        for lane in self._lanes:
            lane.drop_outcome()
        self._clear_timer()
        self._wait = 0.0
        self._give_up()

    def start(self) -> None:
        """Send what waits, where a lane is free; at the end of each turn."""
        if not (self._plain or self._alone):
            return
        if self._send is None:
            self._set_timer()
            return
        for lane in self._lanes:
            if lane.queue and not lane.under_way:
                lane.under_way = _first_of(lane.queue, REQUEST_ITEMS if lane.number == PLAIN else 1)
                self._request += 1
                lane.request = self._request
                self._send_request(lane)

    def _send_request(self, lane: Lane) -> None:
        if self._send is not None:
            self._send(lane.number, lane.request, [entry.item for entry in lane.under_way])

    # -- outcomes ----------------------------------------------------------------------------

    def outcome(self, lane_number: int, request: int, index: int, replies: bytes) -> None:
        """The primary has answered a request.

        :param index: of the last operation that must be revealed here first.
        :param replies: of all its commands, encoded.
        """
        lane = self._waiting_for(lane_number, request)
        if lane is None:
            return
        try:
            found = read_replies(replies)
        except ValueError:
            found = []
        if len(found) != len(lane.under_way):
            self._log.error("what the primary answered to forwarded commands cannot be read")
            found = [failure(NOT_READ)] * len(lane.under_way)
        lane.outcome = (index, found)
        concerns = self._pipeline.concerns
        milliseconds = min(concerns.time_of(entry.client) for entry in lane.under_way)
        lane.timer = self._call_later(milliseconds / 1000.0, self._expire, lane, milliseconds)
        self._count_replicas(lane, index, found, milliseconds)
        self.revealed()

    def _count_replicas(
        self, lane: Lane, index: int, replies: Sequence[Reply], milliseconds: int
    ) -> None:
        """Ask the primary, which alone knows how many replicas have an operation."""
        entries = zip(lane.under_way, replies, strict=True)
        asked = [self._asks(entry) for entry, reply in entries if reply.error is None]
        most = max(asked, default=PRIMARY)
        if most <= PRIMARY:
            return
        counting = lane.counting = self.reached(index, most, milliseconds)

        def counted(_: object) -> None:
            if lane.counting is counting:
                lane.counting = None
                # Not from within the outcome itself, nor from within what has told.
                self._call_later(0.0, self.revealed)

        counting.addCallbacks(counted, lambda reason: reason.trap(CancelledError) and None)

    def _asks(self, entry: Entry) -> int:
        """Who is to have a write: PRIMARY, MAJORITY, or a number of replicas."""
        client = entry.client
        return self._pipeline.concerns.of(client).replicas if client.careful else PRIMARY

    def behind(self, lane_number: int, request: int, seen: int) -> None:
        """The primary knows a later request of a lane: the clock was set back between two starts.
        So this one was never run, and gets a later number."""
        lane = self._waiting_for(lane_number, request)
        if lane is None or seen < request:
            return
        self._log.warn("the clock of this node is behind what it was before it was restarted")
        self._request = max(self._request, seen) + 1
        lane.request = self._request
        self._send_request(lane)

    def _waiting_for(self, lane_number: int, request: int) -> Lane | None:
        if self._send is None or lane_number >= len(self._lanes):
            return None
        lane = self._lanes[lane_number]
        waits = lane.under_way and lane.request == request and lane.outcome is None
        return lane if waits else None

    def revealed(self) -> None:
        """More of the log is revealed here, and applied."""
        journal = self._pipeline.journal
        for lane in self._lanes:
            if lane.outcome is None:
                continue
            index, replies = lane.outcome
            if index <= journal.revealed and self._are_met(lane, index):
                self._done(lane, replies)

    def _done(self, lane: Lane, replies: list[Reply]) -> None:
        entries, lane.under_way = lane.under_way, []
        lane.drop_outcome()
        self._answer(entries, replies)

    def _are_met(self, lane: Lane, index: int) -> bool:
        """Whether the write concerns of those who wait are met, as far as that is seen here."""
        return all(self._is_met(entry, lane, index) for entry in lane.under_way)

    def _is_met(self, entry: Entry, lane: Lane, index: int) -> bool:
        asks, undo = self._asks(entry), self._pipeline.journal.undo
        if asks > 0:
            return lane.counting is None
        return asks == PRIMARY or undo is None or index <= undo.settled

    def _expire(self, lane: Lane, milliseconds: int) -> None:
        """What the primary has answered is not revealed here in time, or a concern not met: that
        is told those whom it concerns."""
        lane.timer = None
        if lane.outcome is None:
            return
        index, replies = lane.outcome
        shown = index <= self._pipeline.journal.revealed
        unmet = failure(b"outcome unknown: write concern not met in %d ms" % milliseconds)
        told = [
            reply
            if reply.error is not None or (shown and self._is_met(entry, lane, index))
            else unmet
            for entry, reply in zip(lane.under_way, replies, strict=True)
        ]
        self._done(lane, told)

    # -- answers -----------------------------------------------------------------------------

    def _answer(self, entries: Sequence[Entry], replies: Sequence[Reply]) -> None:
        """Answer clients, and take what they have sent meanwhile."""
        pipeline = self._pipeline
        clients: dict[Client, None] = {}
        for (client, _, size, _), reply in zip(entries, replies, strict=True):
            self._count -= 1
            self._size -= size
            forwards = client.forwards
            if forwards is None:
                continue
            forwards.count -= 1
            forwards.size -= size
            clients[client] = None
            if not client.closed:
                pipeline.answer(client, reply)
                pipeline.keep(client, client.out[-1])
        pipeline.commit()
        waiting, self._without_room = self._without_room, {}
        for client in clients:
            if client.forwards is not None and not client.forwards.count:
                waiting.pop(client, None)
                if not client.closed:
                    self._release(client)
        for client in dict.fromkeys([*waiting, *clients]):
            if client.backlog:
                self.pull(client)
        self.start()

    # -- without a primary -------------------------------------------------------------------

    def _due(self, entry: Entry) -> float:
        return max(entry.came, self._lost_at) + self._wait

    def _give_up(self) -> None:
        """Answer what has waited for a primary long enough."""
        self._timer = None
        now = self._seconds()
        failed: list[Entry] = []
        replies: list[Reply] = []
        for lane in self._lanes:
            if lane.under_way and now >= self._due(lane.under_way[-1]):
                failed += lane.under_way
                replies += [failure(NEVER_ANSWERED)] * len(lane.under_way)
                lane.under_way = []
        for queue in (self._plain, self._alone):
            while queue and now >= self._due(queue[0]):
                failed.append(queue.popleft())
                replies.append(failure(NO_PRIMARY))
        self._answer(failed, replies)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None or self._send is not None:
            return
        under_way = [lane.under_way[-1] for lane in self._lanes if lane.under_way]
        first = [*under_way, *list(self._plain)[:1], *list(self._alone)[:1]]
        if first:
            delay = max(0.0, min(map(self._due, first)) - self._seconds())
            self._timer = self._call_later(delay, self._give_up)

    def _clear_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


def _first_of(queue: deque[Entry], limit: int) -> list[Entry]:
    """Take the commands of one request from a queue: at least one."""
    entries = [queue.popleft()]
    size = entries[0].size
    while queue and len(entries) < limit and size + queue[0].size <= REQUEST_BYTES:
        entry = queue.popleft()
        entries.append(entry)
        size += entry.size
    return entries


def _nobody_counts(index: int, replicas: int, milliseconds: int) -> Deferred[None]:
    """Nobody is asked: it is not known in time."""
    return Deferred()
