"""Lets go what a batch sends: at once, a share a turn, or when the log is durable.

A change that goes to 5,000 watchers is 5,000 writes; so that nobody else waits for them all,
a turn writes to a limited number of clients and the rest follow in the next turns, in order.
Whoever has asked something is answered first.
Whoever does not take what is sent is cut off at a limit: the bytes that wait for one
connection (held, ready, or given to a full transport) never exceed ``Limits.output_limit``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from nuntwist.core.client import Client, Pending, Run
from nuntwist.core.counters import Counters
from nuntwist.core.limits import Limits


class Delivery:
    """The way out for all clients of a node.

    :param resume: called with a client that was not read for a while and may be again.
    """

    _log = Logger()

    def __init__(
        self, limits: Limits, counters: Counters, resume: Callable[[Client], None]
    ) -> None:
        self._limits = limits
        self._resume = resume
        self._counters = counters
        self._queue: deque[Client] = deque()
        self._held: dict[Client, None] = {}
        self._drained: dict[Client, Deferred[None]] = {}
        self._behind: dict[Client, None] = {}
        self._grown = 0

    @property
    def busy(self) -> bool:
        """Whether somebody's bytes wait for the next turn."""
        return bool(self._queue)

    def let_go(self, clients: list[Client], revealed: int, last: int) -> None:
        """Take what a batch sends from the clients' ``out`` lists, and send what may go.

        This is the loop of a fan-out, so the common cases stand in it without a call.

        :param revealed: the index up to which the log is durable.
        :param last: the index of the last operation made.
        """
        sent, share, limit = 0, self._limits.sends, self._limits.output_limit
        queue = self._queue.append
        for client in clients:
            client.dirty = False
            out = client.out
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            if client.needed > revealed or client.held:
                # What it was to wait for may have been taken back.
                client.needed = min(client.needed, last)
                if client.needed > revealed or client.held:
                    self.hold(client, data)
                    continue
            may_go = sent < share
            if client.chunks:
                # An answer does not wait behind what goes to thousands.
                may_go = may_go or type(client.chunks[0]) is tuple
                client.chunks.clear()
            if client.direct:
                if may_go:
                    sent += 1
                    try:
                        taken = client.send(data)
                    except OSError:
                        taken = 0
                    if taken < len(data):
                        client.write(data[taken:])
                elif client.unsent + len(data) <= limit:
                    client.ready.append(data)
                    client.unsent += len(data)
                    client.direct = False
                    queue(client)
                else:
                    self._wait_for_a_turn(client, data)
            elif may_go:
                self.send(client, data)
            else:
                self._wait_for_a_turn(client, data)

    def send(self, client: Client, data: bytes) -> None:
        """Let bytes go to a client, behind what it was sent before."""
        if client.ready or client.streaming:
            self._keep(client, data)
        elif not client.paused or self._fits(client, len(data)):
            client.write(data)

    def _wait_for_a_turn(self, client: Client, data: bytes) -> None:
        if not client.ready and not client.streaming:
            self._queue.append(client)
        self._keep(client, data)

    def pump(self) -> None:
        """A new turn: write to those that waited for one."""
        queue, waited_for = self._queue.popleft, self._drained
        for _ in range(min(len(self._queue), self._limits.sends)):
            client = queue()
            if (
                client.streaming
                or client.held
                or client.paused
                or client.closed
                or (waited_for and client in waited_for)
            ):
                self._flush(client)
                continue
            # As _flush does it, without a call: here, too, go all the bytes of a fan-out.
            ready = client.ready
            data = ready[0] if len(ready) == 1 else b"".join(ready)
            ready.clear()
            client.unsent -= len(data)
            client.direct = True
            try:
                taken = client.send(data)
            except OSError:
                taken = 0
            if taken < len(data):
                client.write(data[taken:])

    def note_state(self, client: Client) -> None:
        """Something that may stand in the way of writing at once has come or gone."""
        client.direct = not (
            client.held or client.ready or client.streaming or client.paused or client.closed
        )

    def hold(self, client: Client, data: bytes) -> None:
        """Keep bytes until the log is durable up to ``client.needed``, and with them the
        commands they answer; whoever sends more of these than may be kept is not read on."""
        runs, client.chunks = client.chunks, []
        if not self._fits(client, len(data)):
            return
        size = _size(runs[0]) if len(runs) == 1 else sum(map(_size, runs))
        client.held.append((client.needed, data, runs, size))
        client.kept += size
        client.direct = False
        self._held[client] = None
        if client.kept > self._limits.output_high_water and not client.stalled:
            client.stalled = True
            client.outlet.pause_reading()

    def release(self, revealed: int) -> None:
        """The log is durable up to an index: let go what waited for that."""
        sent, share, drained = 0, self._limits.sends, self._drained
        waiting, self._held = self._held, {}
        for client in waiting:
            held, parts = client.held, []
            while held and held[0][0] <= revealed:
                _, data, _, size = held.popleft()
                client.unsent -= len(data)
                client.kept -= size
                parts.append(data)
            if held:
                self._held[client] = None
            if not parts:
                continue
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            if sent >= share:
                self._wait_for_a_turn(client, data)
            elif (
                held
                or client.ready
                or client.streaming
                or client.paused
                or client.stalled
                or (drained and client in drained)
            ):
                sent += 1
                self.send(client, data)
            else:
                # With durability ``disk`` all answers of a busy node go this way.
                sent += 1
                client.direct = True
                try:
                    taken = client.send(data)
                except OSError:
                    taken = 0
                if taken < len(data):
                    client.write(data[taken:])
                continue
            if not held:
                self.wake(client)

    def forget_held(self, first: int) -> list[tuple[Client, list[Run]]]:
        """What was held and needs operations from an index on is not sent.

        :return: the commands that it answered, by client, in order.
        """
        forgotten = []
        for client in tuple(self._held):
            held, runs = client.held, list[Run]()
            while held and held[-1][0] >= first:
                _, data, answered, size = held.pop()
                client.unsent -= len(data)
                client.kept -= size
                runs[:0] = answered
            forgotten.append((client, runs))
            if not held:
                del self._held[client]
                self.note_state(client)
        return forgotten

    def end_stream(self, client: Client) -> None:
        """A long answer is written: what came meanwhile may follow."""
        client.streaming = False
        if not client.closed:
            self._flush(client)

    def drained(self, client: Client) -> Deferred[None]:
        """Fires with None when nothing stands before what comes next, or the client is gone."""
        return self._drained.setdefault(client, Deferred())

    def note_drained(self, client: Client) -> None:
        """The transport has sent all it was given."""
        client.unsent = sum(len(data) for _, data, _, _ in client.held)
        client.unsent += sum(map(len, client.ready))
        self.wake(client)

    def forget(self, client: Client) -> None:
        """The client is gone."""
        client.held.clear()
        client.chunks = []
        client.ready.clear()
        client.out.clear()
        self._held.pop(client, None)
        self._behind.pop(client, None)
        waiting = self._drained.pop(client, None)
        if waiting is not None:
            waiting.callback(None)

    def _flush(self, client: Client) -> None:
        if client.streaming:
            return
        if client.ready:
            data = b"".join(client.ready)
            client.ready.clear()
            if not client.paused:
                client.unsent -= len(data)
            client.write(data)
        self.wake(client)

    def wake(self, client: Client) -> None:
        """Something that stood before what comes next is gone."""
        self.note_state(client)
        if client.stalled and not client.held and not client.closed:
            client.stalled = False
            self._resume(client)
        # A long answer being written waits for the transport alone: what is held or ready
        # follows it.
        behind = (client.held or client.ready) and not client.streaming
        if behind or client.paused:
            return
        waiting = self._drained.pop(client, None)
        if waiting is not None:
            waiting.callback(None)

    def _keep(self, client: Client, data: bytes) -> None:
        if self._fits(client, len(data)):
            client.ready.append(data)
            client.direct = False

    def _fits(self, client: Client, size: int) -> bool:
        if client.closed:
            return False
        limit, before = self._limits.output_limit, client.unsent
        client.unsent += size
        if client.unsent <= limit:
            self._behind[client] = None
            self._grown += size
            if self._grown > self._limits.output_total >> 7:
                self._look_at_all()
            return not client.closed and client.unsent <= limit
        if before > limit:
            # It was cut off already; its transport has not told of the end yet.
            return False
        self._cut_off(client, limit)
        return False

    def _look_at_all(self) -> None:
        """Where too much waits for all together, close those for whom most does.

        The sum is made anew when a small part of the limit has been added to it since, so it costs
        nothing of what goes to those who read, and not many are closed at once.
        """
        self._grown = 0
        self._behind = {client: None for client in self._behind if client.unsent}
        limit, waits = self._limits.output_total, sum(client.unsent for client in self._behind)
        if waits <= limit:
            return
        for client in sorted(self._behind, key=lambda one: one.unsent, reverse=True):
            waits -= client.unsent
            del self._behind[client]
            self._cut_off(client, limit, "NUN_OUTPUT_TOTAL")
            # Nothing more is kept for it until its transport tells of the end.
            client.unsent = max(client.unsent, self._limits.output_limit + 1)
            if waits <= limit - (limit >> 6):
                break

    def _cut_off(self, client: Client, limit: int, setting: str = "NUN_OUTPUT_LIMIT") -> None:
        self._counters.watchers_closed += 1
        self._log.warn(
            "closed {peer}: {unsent} bytes wait for it, the limit is {limit}{of_all}; it reads too"
            " slowly for what it watches (raise {setting} or make the client faster)",
            peer=client.peer,
            unsent=client.unsent,
            limit=limit,
            of_all="" if setting == "NUN_OUTPUT_LIMIT" else " for all together",
            setting=setting,
        )
        client.outlet.abort("output limit")


def _size(run: Run) -> int:
    """The bytes of kept commands."""
    if isinstance(run, bytes):
        return len(run)
    if isinstance(run, Pending):
        return len(run.data)
    lines, start, stop = run
    return len(lines[start]) if stop == start + 1 else sum(map(len, lines[start:stop]))
