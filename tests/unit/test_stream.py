"""The log from a primary to a secondary: where two logs part, the window, cuts and refusals."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from nuntwist.cluster.incoming import Incoming
from nuntwist.cluster.outgoing import Outgoing, Stage, common_index, last_index
from nuntwist.cluster.stream import REIGNS, Applied, Cut, Have, Records, Refused
from nuntwist.errors import CorruptData, NeedsCopy, OutcomeUnknown, StorageUnavailable, TakenBack
from nuntwist.interfaces import Received
from nuntwist.oplog.memory import MemoryOplog
from nuntwist.oplog.record import split
from nuntwist.values import INDEX, NO_EPOCH, START, Epoch, Position
from tests.unit.conformance_oplog import all_of, op, run

NUMBER = 9


def log_of(*reigns: tuple[int, int], begins: Position | None = None) -> MemoryOplog:
    """A log: for each epoch its number, and how many operations, each a record."""
    log = MemoryOplog()
    log.open()
    if begins is not None:
        log.begin_after(begins)
    for number, count in reigns:
        for _ in range(count):
            index = log.last.index + 1
            log.append(Epoch(number, 1), [op(index, b"k", b"%d" % number)])
    return log


def have(log: MemoryOplog, reigns: int = REIGNS) -> Have:
    return Have(NUMBER, log.last, tuple(log.reigns(reigns)))


# -- where two logs part ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "common"),
    [
        ([], [], 0),
        ([(1, 3)], [], 0),
        ([(1, 3)], [(1, 2)], 2),
        ([(1, 3)], [(1, 3)], 3),
        ([(1, 3)], [(1, 5)], 3),
        ([(1, 3), (3, 2)], [(1, 3), (2, 4)], 3),
        ([(1, 3), (3, 2)], [(1, 5), (2, 4)], 3),
        ([(1, 5), (3, 2)], [(1, 3), (2, 4)], 3),
        ([(1, 2), (2, 2), (4, 3)], [(1, 2), (2, 1), (3, 9)], 3),
        ([(1, 2), (2, 9)], [(1, 2), (3, 1)], 2),
        ([(4, 2)], [(1, 2), (3, 1)], 0),
        ([], [(1, 4)], 0),
    ],
)
def test_where_two_logs_part(
    ours: list[tuple[int, int]], theirs: list[tuple[int, int]], common: int
) -> None:
    assert common_index(log_of(*ours), have(log_of(*theirs))) == common


REIGN_LISTS = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), max_size=5)


@given(REIGN_LISTS, REIGN_LISTS, REIGN_LISTS, st.integers(1, 6))
def test_they_part_after_the_last_operation_that_both_have(
    shared: list[tuple[int, int]],
    ours: list[tuple[int, int]],
    theirs: list[tuple[int, int]],
    told: int,
) -> None:
    def rising(first: int, step: int, tail: list[tuple[int, int]]) -> list[tuple[int, int]]:
        # Epochs rise, and after the logs have parted no epoch is on both sides.
        return [(first + 2 * place + step, count) for place, (_, count) in enumerate(tail)]

    head = rising(1, 0, shared)
    begin = 2 * len(head) + 1
    one, other = log_of(*head, *rising(begin, 0, ours)), log_of(*head, *rising(begin, 1, theirs))
    common = sum(count for _, count in head)
    found = common_index(one, have(other, told))
    if found is None:
        assert told < len(head) + len(theirs)
    else:
        assert found == common


def test_a_log_that_has_forgotten_its_beginning_cannot_serve_who_needs_it() -> None:
    log = log_of((1, 5), (2, 5))
    log.forget(7, keep=0)
    assert log.first == 8
    assert common_index(log, have(log_of())) is None
    assert common_index(log, have(log_of((1, 3)))) is None
    assert common_index(log, have(log_of((1, 5), (2, 1)))) is None
    assert common_index(log, have(log_of((1, 5), (2, 2)))) == 7
    assert common_index(log, have(log_of((1, 5), (2, 3), (3, 4)))) == 8


# -- one stream ------------------------------------------------------------------------------------


class Machine:
    """A secondary that is no more than a log.

    :ivar late: where set, what was appended is durable when it is fired.
    """

    def __init__(self, log: MemoryOplog) -> None:
        self.log = log
        self.late: list[Deferred[None]] | None = None
        self.failing: Exception | None = None
        self.committed: list[int] = []

    @property
    def last(self) -> Position:
        return self.log.last

    @property
    def durable(self) -> int:
        return 0 if self.late else self.log.last.index

    def reigns(self, count: int) -> Sequence[tuple[Epoch, int]]:
        return self.log.reigns(count)

    def follow(self, records: Sequence[Received]) -> Deferred[None] | None:
        if self.failing is not None:
            raise self.failing
        self.log.append_records(records)
        if self.late is None:
            return None
        self.late.append(Deferred())
        return self.late[-1]

    def cut(self, index: int) -> None:
        """What a log does that can be cut."""
        if self.failing is not None:
            raise self.failing
        whole = split(self.log.records(0, 1 << 30), "x")
        self.log = MemoryOplog()
        self.log.open()
        for record in whole:
            if record.ops[-1][INDEX] <= index:
                self.log.append_records([record])

    def commit(self, index: int) -> None:
        self.committed.append(index)


class Stream:
    """Both ends, and what is under way between them."""

    def __init__(self, ours: MemoryOplog, theirs: MemoryOplog, window: int = 1 << 20) -> None:
        self.log, self.machine = ours, Machine(theirs)
        self.down: deque[Any] = deque()
        self.up: deque[Any] = deque()
        self.outgoing = Outgoing(ours, NUMBER, self.down.append, window)
        self.incoming = Incoming(self.machine, NUMBER, self.up.append)
        self.seen: list[Any] = []
        ours.written = self.outgoing.written
        self.incoming.begin()

    def step(self) -> bool:
        """Let one message arrive."""
        if self.up:
            message = self.up.popleft()
            handlers = {
                Have: self.outgoing.have,
                Applied: self.outgoing.acknowledged,
                Refused: self.outgoing.refused,
            }
        elif self.down:
            message = self.down.popleft()
            handlers = {Records: self.incoming.records, Cut: self.incoming.cut}
        else:
            return False
        self.seen.append(message)
        handlers[type(message)](message)
        return True

    def settle(self) -> None:
        while self.step():
            pass

    def write(self, first: int, count: int = 1, number: int = NUMBER) -> None:
        self.log.append(Epoch(number, 1), run(first, count))

    def equal(self) -> bool:
        return all_of(self.log) == all_of(self.machine.log) and self.log.last == self.machine.last


def test_an_empty_secondary_is_given_all_and_then_what_comes() -> None:
    stream = Stream(log_of((1, 3), (2, 2)), log_of())
    stream.settle()
    assert stream.outgoing.stage is Stage.STREAMING
    assert stream.equal()
    assert (stream.outgoing.applied, stream.outgoing.durable, stream.outgoing.lag) == (5, 5, 0)
    stream.write(6, 3)
    # The very bytes, at once.
    (records,) = stream.down
    assert records == Records(NUMBER, Position(Epoch(2, 1), 5), 0, stream.log.records(5, 1))
    stream.settle()
    assert stream.equal()


def test_who_has_all_is_told_no_more_than_that() -> None:
    stream = Stream(log_of((1, 3)), log_of((1, 3)))
    stream.settle()
    position = Position(Epoch(1, 1), 3)
    assert [type(one) for one in stream.seen] == [Have, Records, Applied]
    assert stream.seen[1] == Records(NUMBER, position, 0, b"")
    # So that it counts before anything is written.
    assert stream.seen[2] == Applied(NUMBER, 3, 3)
    assert stream.equal()


def test_a_tail_of_its_own_is_taken_off() -> None:
    stream = Stream(log_of((1, 3), (3, 2)), log_of((1, 3), (2, 4)))
    stream.settle()
    assert Cut(NUMBER, 3) in stream.seen
    assert stream.equal()


def test_what_is_committed_is_never_taken_off() -> None:
    stream = Stream(log_of((1, 3), (3, 2)), log_of((1, 3), (2, 4)))
    stream.incoming.committed = 4
    stream.settle()
    assert stream.incoming.stopped is not None
    assert "all up to 4 are known to be committed" in stream.incoming.stopped
    assert stream.machine.last.index == 7


def test_who_needs_what_the_log_has_forgotten_needs_a_copy() -> None:
    log = log_of((1, 9))
    log.forget(5, keep=0)
    stream = Stream(log, log_of((1, 2)))
    stream.settle()
    assert stream.outgoing.stage is Stage.LACKING
    stream.write(10)
    stream.outgoing.committed(10)
    assert not stream.down


def test_who_is_too_slow_for_a_log_that_forgets_needs_a_copy() -> None:
    stream = Stream(log_of((1, 20)), log_of(), window=300)
    stream.step()
    stream.log.forget(15, keep=0)
    stream.settle()
    assert stream.outgoing.stage is Stage.LACKING
    assert 0 < stream.machine.last.index < 15


def test_no_more_is_under_way_than_the_window() -> None:
    log = log_of((1, 50))
    size = len(log.records(0, 1))
    stream = Stream(log, log_of(), window=3 * size)
    stream.step()
    under_way = sum(len(one.data) for one in stream.down)
    assert under_way == 3 * size
    # What is written meanwhile waits in the log, and costs nothing.
    stream.write(51, 2)
    assert sum(len(one.data) for one in stream.down) == under_way
    stream.settle()
    assert stream.equal()
    for message in stream.seen:
        if isinstance(message, Records):
            assert len(message.data) <= 3 * size


@pytest.mark.parametrize(
    ("delay", "takes", "least", "most"),
    [
        # A secondary near by that is slow: heartbeats come in time.
        (0.001, 2_000_000, 1 << 17, 400_000),
        # One that is quick, near or far: as much as may be.
        (0.001, 80_000_000, 1 << 20, 1 << 20),
        (0.3, 80_000_000, 1 << 20, 1 << 20),
    ],
)
def test_the_window_is_as_large_as_is_acknowledged_soon(
    delay: float, takes: float, least: int, most: int
) -> None:
    """:param delay: of the way there and back, in seconds; :param takes: bytes a second."""
    log, now = MemoryOplog(), [0.0]
    log.open()
    for first in range(1, 40_001, 100):
        log.append(Epoch(NUMBER, 1), run(first, 100))
    sent: deque[tuple[float, Any]] = deque()
    outgoing = Outgoing(
        log, NUMBER, lambda one: sent.append((now[0], one)), 1 << 20, lambda: now[0]
    )
    outgoing.have(Have(NUMBER, Position(NO_EPOCH, 0), ()))
    under_way: list[int] = []
    free = 0.0
    while sent:
        under_way.append(sum(len(one.data) for _, one in sent))
        at, message = sent.popleft()
        free = max(free, at + delay) + len(message.data) / takes
        now[0] = max(now[0], free)
        index = last_index(message.data)
        outgoing.acknowledged(Applied(NUMBER, index, index))
    assert outgoing.applied == 40_000
    steady = under_way[len(under_way) // 2 : len(under_way) * 3 // 4]
    assert least * 0.8 <= max(steady) <= most * 1.1


def test_a_record_larger_than_the_window_goes_alone() -> None:
    stream = Stream(log_of(), log_of(), window=100)
    stream.settle()
    stream.write(1, 20)
    stream.write(21, 20)
    assert len(stream.down) == 1
    stream.settle()
    assert stream.equal()


def test_the_disk_of_the_secondary_is_told_of_later() -> None:
    stream = Stream(log_of(), log_of())
    stream.machine.late = []
    stream.settle()
    stream.write(1, 2)
    stream.settle()
    assert (stream.outgoing.applied, stream.outgoing.durable) == (2, 0)
    stream.machine.late[0].callback(None)
    stream.settle()
    assert (stream.outgoing.applied, stream.outgoing.durable) == (2, 2)


@pytest.mark.parametrize("error", [StorageUnavailable("disk full"), OutcomeUnknown("disk full")])
def test_a_secondary_that_cannot_append_stops_and_says_why(error: Exception) -> None:
    stream = Stream(log_of(), log_of())
    stream.settle()
    stream.machine.failing = error
    stream.write(1)
    stream.settle()
    assert stream.incoming.stopped == "disk full"
    stream.machine.failing = None
    stream.write(2)
    stream.settle()
    assert stream.machine.last == START


def test_what_fails_later_stops_it_too() -> None:
    stream = Stream(log_of(), log_of())
    stream.machine.late = []
    stream.settle()
    stream.write(1)
    stream.settle()
    stream.machine.late[0].errback(OutcomeUnknown("flush"))
    stream.settle()
    assert (stream.incoming.stopped, stream.outgoing.durable) == ("flush", 0)


def test_what_is_cut_off_meanwhile_does_not_stop_it() -> None:
    stream = Stream(log_of(), log_of())
    stream.machine.late = []
    stream.settle()
    stream.write(1)
    stream.settle()
    stream.machine.late[0].errback(TakenBack("cut"))
    stream.settle()
    assert (stream.incoming.stopped, stream.outgoing.durable) == (None, 0)


@pytest.mark.parametrize(
    "error",
    [
        StorageUnavailable("no"),
        OutcomeUnknown("no"),
        ValueError("no"),
        CorruptData("log", 7, "no"),
        NeedsCopy("no"),
    ],
)
def test_a_tail_that_cannot_be_cut_stops_it(error: Exception) -> None:
    stream = Stream(log_of((2, 1)), log_of((1, 1)))
    stream.machine.failing = error
    stream.settle()
    assert stream.incoming.stopped == str(error)


def test_who_cannot_take_its_tail_off_asks_for_a_copy() -> None:
    stream = Stream(log_of((2, 1)), log_of((1, 1)))
    asked: list[str] = []
    stream.incoming.needs_copy = lambda index, why: asked.append(why)
    stream.machine.failing = NeedsCopy("a database was created by operation 1")
    stream.settle()
    assert asked == ["a database was created by operation 1"]
    assert stream.incoming.stopped is None


def test_what_does_not_follow_is_refused_and_begun_anew() -> None:
    stream = Stream(log_of((1, 2)), log_of())
    stream.settle()
    stream.write(3)
    lost = stream.down.popleft()
    stream.write(4)
    stream.settle()
    assert [type(one) for one in stream.seen[-5:]] == [Records, Refused, Have, Records, Applied]
    assert stream.equal()
    # What comes twice is passed over.
    stream.incoming.records(lost)
    assert stream.up.popleft() == Applied(NUMBER, 4, 4)
    stream.settle()
    assert stream.equal()


def test_a_log_is_known_to_be_the_beginning_of_the_primarys() -> None:
    stream = Stream(log_of((1, 3), (3, 2)), log_of((1, 3), (2, 4)))
    known = []
    while stream.up or stream.down:
        stream.step()
        known.append(stream.incoming.in_step)
    # Its tail is to be cut; it says what it has; records come, and are acknowledged.
    assert known == [False, False, False, True, True]
    stream.write(6)
    stream.down.popleft()
    stream.write(7)
    stream.step()
    assert not stream.incoming.in_step
    stream.settle()
    assert stream.incoming.in_step


def test_messages_of_another_epoch_are_passed_over() -> None:
    stream = Stream(log_of((1, 2)), log_of((1, 2)))
    stream.settle()
    stream.incoming.records(Records(NUMBER - 1, stream.machine.last, 2, b""))
    stream.incoming.cut(Cut(NUMBER - 1, 0))
    assert (stream.machine.committed, stream.machine.last.index) == ([], 2)


def test_damage_on_the_way_is_found() -> None:
    stream = Stream(log_of((1, 2)), log_of())
    data = bytearray(stream.log.records(0, 1))
    data[60] ^= 1
    with pytest.raises(CorruptData):
        stream.incoming.records(Records(NUMBER, START, 0, bytes(data)))
    assert stream.machine.last == START


def test_what_a_majority_has_is_told_as_far_as_it_is_here() -> None:
    stream = Stream(log_of((1, 4)), log_of((1, 4)))
    stream.settle()
    stream.outgoing.committed(3)
    stream.settle()
    assert stream.machine.committed == [3]
    stream.outgoing.committed(2)
    stream.settle()
    assert stream.machine.committed == [3]
    stream.incoming.records(Records(NUMBER, stream.machine.last, 99, b""))
    assert stream.machine.committed == [3, 4]


def test_an_acknowledgement_of_what_was_never_sent_does_not_count() -> None:
    stream = Stream(log_of((1, 2)), log_of((1, 2)))
    stream.settle()
    stream.outgoing.acknowledged(Applied(NUMBER, 7, 7))
    assert stream.outgoing.durable == 2
    stream.outgoing.acknowledged(Applied(NUMBER, 2, 9))
    assert stream.outgoing.durable == 2


def test_the_last_index_of_records() -> None:
    log = log_of((1, 2))
    log.append(Epoch(2, 1), run(3, 5))
    assert last_index(log.records(0, 1 << 20)) == 7
    assert last_index(b"") == 0


@given(st.lists(st.tuples(st.sampled_from("wsc"), st.integers(1, 6)), max_size=60), st.data())
def test_in_whatever_order_they_end_equal(
    steps: list[tuple[str, int]], data: st.DataObject
) -> None:
    stream = Stream(log_of((1, 3)), log_of((1, data.draw(st.integers(0, 3)))), window=300)
    for what, number in steps:
        if what == "w":
            stream.write(stream.log.last.index + 1, number)
        elif what == "s":
            for _ in range(number):
                stream.step()
        else:
            # The link is cut: what is under way is lost, and there is a new one.
            before = stream
            stream = Stream(before.log, before.machine.log, window=300)
    stream.settle()
    assert stream.equal()
