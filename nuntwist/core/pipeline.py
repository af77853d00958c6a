"""The road of a change, from commands to bytes for the transports.

    commands → authorise → decide → append → apply → watchers → reply

Each command runs at once against memory: its operation goes on the batch of this turn (see
:mod:`nuntwist.core.journal`), its reply and the events it causes go on the ``out`` lists of
clients. At the end of the turn ``commit`` writes the whole batch to the log with one write,
and only then does anything leave, with one write a client. So a reply or an event never tells
of what the log does not hold, and a busy node pays for one log write and one send where it
would pay for thousands.

Where the log cannot be written, the batch never happened (:mod:`nuntwist.core.takeback`): its
commands run once more with every write refused. That is right because a batch holds only
reads, writes of single keys, and watches: a command that changes what a connection is, or has
to wait (``Command.waits``), commits what came before it and stands alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.core import hotroad, watches
from nuntwist.core.alone import Alone, stands_alone
from nuntwist.core.catalogue import Catalogue
from nuntwist.core.client import Client, Pending, Run
from nuntwist.core.concerns import Concerns
from nuntwist.core.connections import LEAVE, Connections
from nuntwist.core.counters import Counters
from nuntwist.core.database import Database
from nuntwist.core.deciding import Deciding
from nuntwist.core.delivery import Delivery
from nuntwist.core.forwarding import Forwarder
from nuntwist.core.journal import Journal, failed
from nuntwist.core.limits import Limits
from nuntwist.core.streaming import Streams
from nuntwist.core.takeback import TakeBack
from nuntwist.core.turns import Turns
from nuntwist.core.watched import Watched
from nuntwist.errors import OutcomeUnknown, StorageUnavailable
from nuntwist.interfaces import IOplog
from nuntwist.language import parser
from nuntwist.language.framing import Chunk
from nuntwist.language.replies import OK, Reply
from nuntwist.values import INDEX, Op, StampClock

_SAMPLED = 128
"""One run in so many is timed for the moving average."""


class Pipeline:
    """The state machine of a node, and the road through it.

    :param oplog: the log, open and replayed into ``catalogue``.
    :param call_later: schedules a call (IReactorTime.callLater).
    :param call_at_end: makes a call at the end of the reactor's round; None for a call in 0
        seconds.
    :param seconds: monotonic time, in seconds.
    :ivar deciding: what each command does.
    :ivar dirty: the clients that the batch under way writes to.
    :ivar connections: lets clients come and go.
    :ivar concerns: for how many nodes a write waits, where that is not the node's own concern.
    :ivar watched: how much all connections watch.
    :ivar forwarder: sends writes to the primary of the set; None on a node alone.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        oplog: IOplog,
        stamps: StampClock,
        call_later: Callable[..., Any],
        seconds: Callable[[], float],
        limits: Limits,
        counters: Counters,
        call_at_end: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self.limits = limits
        self.counters = counters
        self.journal = Journal(oplog, catalogue, stamps, counters)
        self.turns = Turns(
            call_at_end or partial(call_later, 0.0),
            seconds,
            limits.turn_seconds,
            self._end_turn,
            self.resume,
        )
        self.delivery = Delivery(limits, counters, self.turns.enqueue)
        self.streams = Streams(call_later, self.delivery, self.journal)
        self.deciding = Deciding(self)
        self.forwarder: Forwarder | None = None
        self.watched = Watched(limits.watch_total, counters)
        self.concerns = Concerns(self, call_later)
        self.alone = Alone(self)
        self.connections = Connections(self)
        self._take_back = TakeBack(self, self._run_lines)
        self.journal.lost = self._take_back.lost
        self.journal.let_go = self._let_go
        self._seconds = seconds
        self.dirty: list[Client] = []
        self._until_timed = 1

    # -- commands come in --------------------------------------------------------------------

    def receive(self, client: Client, chunk: Chunk) -> None:
        """Run the commands of a chunk, now or when those before them are done."""
        if client.closed or client.ending:
            return
        lines, plain = chunk
        if (
            plain
            and len(lines) == 1
            and not (client.waiting or client.paused or client.backlog)
            and self._until_timed > 1
            and hotroad.single(self, client, lines)
        ):
            # So short that a turn which has run out may take it: to put it in line costs more.
            self._until_timed -= 1
            if len(self.dirty) >= self.limits.early_commit and not self.journal.in_flight:
                self.commit()
            elif self.dirty:
                self.turns.open()
            return
        if client.waiting or client.paused or client.backlog or self.turns.has_run_out():
            client.backlog.append((lines, 0, plain))
            if client.forwards is not None and self.forwarder is not None:
                self.forwarder.pull(client)
                return
            client.outlet.pause_reading()
            if not client.waiting and not client.paused:
                self.turns.enqueue(client)
            return
        self._until_timed -= 1
        started = self._seconds() if self._until_timed <= 0 else None
        if len(lines) > 1:
            self.turns.open()
        self._run(client, lines, 0, plain)
        if started is not None:
            self._until_timed = _SAMPLED
            self.counters.note_time((self._seconds() - started) / len(lines))
        journal = self.journal
        early = len(self.dirty) >= self.limits.early_commit and not journal.in_flight
        if early or not journal.ops:
            self.commit()
        else:
            self.turns.open()

    def resume(self, client: Client) -> None:
        """Go on with a client's backlog; when that is done, with reading or with its end."""
        if client.forwards is not None and self.forwarder is not None:
            self.forwarder.pull(client)
            return
        while client.backlog:
            if client.waiting or client.paused or client.closed:
                return
            if self.turns.has_run_out():
                self.turns.enqueue(client)
                return
            lines, at, plain = client.backlog.popleft()
            if not self._run(client, lines, at, plain):
                return
        if client.waiting or client.paused or client.closed:
            return
        if client.ending:
            self.connections.end_if_answered(client)
        elif not client.stalled:
            client.outlet.resume_reading()

    def _run(self, client: Client, lines: list[bytes], at: int, plain: bool) -> bool:
        """Run lines until they are done, or the turn or the client's share of it is over.

        :return: whether all were run and the client does not wait.
        """
        client.room = self.limits.output_high_water
        size = len(lines)
        while True:
            stop = min(size, at + self.limits.slice_commands)
            if plain:
                start, at = at, hotroad.run(self, client, lines, at, stop)
                if start < at:
                    self.keep(client, (lines, start, at))
            if at < stop and client.room >= 0:
                at = self._run_slice(client, lines, at, stop, plain)
            if at == size:
                return not client.waiting
            if client.waiting or client.closed or client.room < 0 or self.turns.has_run_out():
                break
        if client.closed:
            return False
        client.backlog.appendleft((lines, at, plain))
        if client.forwards is not None and self.forwarder is not None:
            self.forwarder.pull(client)
            return False
        client.outlet.pause_reading()
        if not client.waiting:
            self.turns.enqueue(client)
        return False

    def _run_slice(
        self, client: Client, lines: list[bytes], at: int, stop: int, plain: bool
    ) -> int:
        """Run some lines, the first of which the hot road does not take."""
        start, deciding = at, self.deciding
        while at < stop and client.room >= 0:
            if lines[at] is LEAVE:
                self.commit()
                self.alone.when_answered(client, lambda: self.connections.leave_now(client))
                return at + 1
            request = deciding.parse(lines[at])
            at += 1
            if isinstance(request, Reply):
                self.answer(client, request)
            elif self.forwarder is not None and self.forwarder.takes(client, request):
                at -= 1
                self.forwarder.take_over(client)
                break
            elif not stands_alone(request) and not (
                client.careful and self._waits(client, request)
            ):
                self.answer(client, deciding.reply(client, request))
            else:
                if start < at - 1:
                    self.keep(client, (lines, start, at - 1))
                start = at
                self.commit()
                self.alone.run(client, request)
                if client.waiting or client.closed:
                    break
            if plain and at < stop:
                at = hotroad.run(self, client, lines, at, stop)
        if start < at:
            self.keep(client, (lines, start, at))
        return at

    def _waits(self, client: Client, request: parser.Request) -> bool:
        """Whether a command of a careful client is answered by itself."""
        command = request.command
        return bool(command.right) and self.concerns.holds(client, command.writes)

    @staticmethod
    def keep(client: Client, run: Run) -> None:
        """Keep what was run: until its answers have left it may have to be run again."""
        client.chunks.append(run)

    # -- answers -----------------------------------------------------------------------------

    def _run_lines(self, client: Client, lines: list[bytes]) -> None:
        """Run commands none of which stands alone."""
        deciding = self.deciding
        for line in lines:
            request = deciding.parse(line)
            if isinstance(request, Reply):
                self.answer(client, request)
            else:
                self.answer(client, deciding.reply(client, request))

    def answer(self, client: Client, reply: Reply) -> None:
        """Put a reply on what the batch sends to a client."""
        data = client.encoding.ok if reply is OK else client.encoding.reply(reply)
        client.out.append(data)
        client.room -= len(data)
        if not client.dirty:
            self.touch(client)

    def answer_message(self, client: Client, message: bytes, index: int | None = None) -> None:
        """Put a message that answers no command on what the batch sends to a client.

        :param index: of the operation that it tells of; the last one if not given.
        """
        index = self.journal.index if index is None else index
        data = client.encoding.message_head(len(message)) + message
        client.out.append(data)
        client.needed = max(client.needed, index)
        # It may tell of an older operation: then it goes also where the batch cannot be logged.
        self.keep(client, Pending(index, data, False))
        if not client.dirty:
            self.touch(client)

    def tell(self, client: Client, message: bytes) -> None:
        """Put a message that answers no command, and tells of no operation, on what the batch sends
        to a client: it goes also where the batch cannot be logged."""
        data = client.encoding.message_head(len(message)) + message
        client.out.append(data)
        self.keep(client, data)
        if not client.dirty:
            self.touch(client)

    def touch(self, client: Client) -> None:
        """Put a client on the list of those the batch writes to."""
        client.dirty = True
        self.dirty.append(client)
        self.turns.open()

    # -- changes -----------------------------------------------------------------------------

    def change(
        self, database: Database, kind: int, key: bytes, value: bytes | None, version: int
    ) -> Op:
        """Make one operation on one key, apply it, and tell its watchers, in this batch.

        :raise CommandError: writes are refused.
        """
        op = self.journal.change(database, kind, key, value, version)
        self.notify(database, op)
        return op

    def notify(self, database: Database, op: Op) -> None:
        """Tell watchers of an operation, in this batch."""
        journal = self.journal
        watches.notify(database, op, self.dirty, journal.revealed, journal.undo is not None)
        self.turns.open()

    # -- the end of a batch ------------------------------------------------------------------

    def _end_turn(self) -> bool:
        self.commit()
        if self.forwarder is not None:
            self.forwarder.start()
        self.delivery.pump()
        return self.delivery.busy

    def commit(self) -> None:
        """Write the batch to the log, then let go what it sends."""
        journal = self.journal
        if journal.ops:
            self._write()
        dirty = self.dirty
        if not dirty:
            return
        self.dirty = []
        self.delivery.let_go(dirty, journal.revealed, journal.index)
        if self.delivery.busy:
            self.turns.open()

    def _write(self) -> None:
        journal = self.journal
        try:
            durable = journal.write()
        except (StorageUnavailable, OutcomeUnknown) as error:
            self._take_back.not_written(error)
            return
        if durable is not None:
            ops = journal.in_flight[-1].ops
            first, last = ops[0][INDEX], ops[-1][INDEX]
            durable.addCallbacks(self._durable, self._lost, (last,), {}, (first,))
        elif journal.undo is not None:
            journal.tell_grown()

    def _durable(self, _: object, last: int) -> None:
        self.journal.reveal(last)
        self._let_go()
        self.journal.tell_grown()

    def _lost(self, reason: Failure, first: int) -> None:
        self._take_back.lost(failed(reason), first)

    def give_up(self) -> None:
        """This node is no longer primary: its writers who wait are told so, at once. Their
        operations stay, and are revealed or taken back when it is known which."""
        self.commit()
        self._take_back.give_up()

    def take_off(self, index: int) -> int:
        """What comes after an index is not of the set's log, and is cut off the log here: take
        it back.

        :return: how many keys are not what watchers were told.
        """
        return self._take_back.take_off(index)

    def start_over(self, replace: Callable[[], Callable[[], int]]) -> int:
        """The state becomes another one, and what is still to be sent follows from that.

        :param replace: makes it so; gives what tells watchers, last, of what is not as they were
            told, and says how many keys that are.
        :return: what that says.
        """
        self.commit()
        return self._take_back.start_over(replace)

    def _let_go(self) -> None:
        self.delivery.release(self.journal.revealed)
        if self.delivery.busy:
            self.turns.open()
        self.concerns.advance()
        if self.forwarder is not None:
            self.forwarder.revealed()
