"""A log that is flushed: who waits for what, and what a failed flush leaves."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nuntwist.errors import OutcomeUnknown, StorageUnavailable
from nuntwist.files import MemoryFiles
from nuntwist.interfaces import IOplog
from nuntwist.oplog.flushed import FlushedOplog
from nuntwist.oplog.segments import FileOplog
from nuntwist.testing import MemoryNode
from nuntwist.values import Position
from tests.unit.conformance_oplog import EPOCH, all_of, run
from tests.unit.conformance_records import RecordsConformance, received


class _Flushed(RecordsConformance):
    before_answers: bool

    def make(self) -> IOplog:
        self.files = MemoryFiles()
        return FlushedOplog(FileOplog(self.files, 1), self.before_answers)

    def again(self, log: IOplog) -> IOplog:
        log = FlushedOplog(FileOplog(self.files, 1), self.before_answers)
        log.open()
        return log


class TestBeforeAnswers(_Flushed):
    before_answers = True


class TestEverySecond(_Flushed):
    before_answers = False


class Threads:
    """Runs what is given to it when told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def __call__(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.calls.append((lambda: function(*args), done))
        return done

    def run(self) -> None:
        """Run one call."""
        function, done = self.calls.pop(0)
        try:
            result = function()
        except OSError:
            done.errback(Failure())
        else:
            done.callback(result)

    def run_all(self) -> None:
        while self.calls:
            self.run()


class Log:
    """A flushed log on files in memory, with threads under control."""

    def __init__(self, before_answers: bool = True, **arguments: int) -> None:
        self.files, self.threads = MemoryFiles(), Threads()
        self.log = FlushedOplog(FileOplog(self.files, 1, self.threads), before_answers, **arguments)
        self.log.open()
        self.outcomes: dict[int, Any] = {}

    def append(self, first: int, count: int = 1) -> bool:
        """Append; whether it was answered at once."""
        durable = self.log.append(EPOCH, run(first, count))
        if durable is None:
            return True
        durable.addBoth(lambda outcome: self.outcomes.__setitem__(first, outcome))
        return False

    def on_the_disk(self) -> list[Any]:
        """What a loss of power leaves."""
        left = MemoryFiles()
        for name, data in self.files.contents.items():
            left.contents[name] = data[: self.files._synced.get(id(data), 0)]
        log = FileOplog(left, 1)
        log.open()
        return all_of(log)


def test_an_answer_waits_for_the_disk() -> None:
    log = Log()
    assert not log.append(1)
    assert all_of(log.log) == run(1, 1)
    assert log.outcomes == {}
    log.threads.run()
    assert log.outcomes == {1: None}
    assert log.on_the_disk() == run(1, 1)


def test_what_comes_while_a_flush_runs_waits_in_memory_and_shares_the_next() -> None:
    log = Log()
    log.append(1)
    size = log.log.size
    for index in (2, 3, 4):
        assert not log.append(index)
    assert log.log.size == size
    assert (log.log.last, log.log.count) == (Position(EPOCH, 4), 4)
    assert len(log.threads.calls) == 1
    log.threads.run()
    assert log.outcomes == {1: None}
    assert all_of(log.log) == run(1, 4)
    assert len(log.threads.calls) == 1
    log.threads.run()
    assert log.outcomes == dict.fromkeys((1, 2, 3, 4))
    assert log.on_the_disk() == run(1, 4)
    assert log.threads.calls == []


def test_records_of_another_node_wait_as_others_do() -> None:
    log = Log()
    told: list[tuple[int, int]] = []
    log.log.written = lambda first, last, data: told.append((first, last))
    log.append(1)
    waiting = log.log.append_records([received(2, 2), received(4, 1)])
    assert waiting is not None
    waiting.addBoth(lambda outcome: log.outcomes.__setitem__(2, outcome))
    assert log.log.last == Position(EPOCH, 4)
    with pytest.raises(ValueError, match="index 4 was to be logged after 4"):
        log.log.append_records([received(4, 1)])
    log.append(5)
    # What waits is not written, and cannot be asked for.
    assert told == [(1, 1)]
    assert (log.log.records(1, 1_000), log.log.epoch_at(2)) == (b"", None)
    log.threads.run_all()
    assert log.outcomes == dict.fromkeys((1, 2, 5))
    assert told == [(1, 1), (2, 4), (5, 5)]
    assert log.on_the_disk() == run(1, 5)


def test_records_that_would_wait_with_too_much_are_refused() -> None:
    log = Log(waiting_limit=300)
    log.append(1)
    with pytest.raises(StorageUnavailable, match="wait for the disk"):
        log.log.append_records([received(2, 9)])
    assert log.log.last == Position(EPOCH, 1)


def test_every_second_an_answer_waits_only_while_a_flush_runs() -> None:
    log = Log(before_answers=False)
    assert log.append(1)
    log.log.flush_now()
    assert not log.append(2)
    log.threads.run()
    assert log.outcomes == {2: None}
    assert log.append(3)
    assert log.on_the_disk() == run(1, 1)
    log.log.flush_now()
    log.threads.run()
    assert log.on_the_disk() == run(1, 3)
    log.log.flush_now()
    assert log.threads.calls == []


def test_who_appends_from_a_callback_stands_behind() -> None:
    log = Log()
    done = log.log.append(EPOCH, run(1, 1))
    assert done is not None
    done.addCallback(lambda _: log.append(3))
    log.append(2)
    log.threads.run_all()
    assert all_of(log.log) == run(1, 3)
    assert log.outcomes == {2: None, 3: None}


def test_a_failed_flush_acknowledges_nothing_and_ends_writing() -> None:
    log = Log()
    log.append(1)
    log.append(2)
    log.files.failing["sync"] = errno.EIO
    log.threads.run()
    for index in (1, 2):
        assert log.outcomes[index].check(OutcomeUnknown)
    log.files.failing.clear()
    with pytest.raises(StorageUnavailable, match="Input/output error"):
        log.append(2)
    outcome: list[Failure] = []
    log.log.sync().addErrback(outcome.append)
    assert outcome[0].check(StorageUnavailable)
    assert log.threads.calls == []
    log.log.flush_now()
    log.log.close()
    log.log.open()
    assert not log.append(2)
    log.threads.run()
    assert log.on_the_disk() == run(1, 2)


def test_a_full_disk_takes_back_what_waited() -> None:
    log = Log()
    log.append(1)
    log.append(2)
    log.append(3, 50)
    log.append(53)
    log.files.room = 200
    log.threads.run()
    assert log.outcomes[1] is None
    assert 2 not in log.outcomes
    for index in (3, 53):
        assert log.outcomes[index].check(StorageUnavailable)
    assert log.log.last.index == 2
    log.files.room = None
    log.append(3)
    log.threads.run_all()
    assert log.outcomes[3] is None
    assert log.on_the_disk() == run(1, 3)


def test_what_may_wait_is_limited() -> None:
    log = Log(waiting_limit=600)
    log.append(1)
    log.append(2, 5)
    with pytest.raises(StorageUnavailable, match="over 600 bytes wait for the disk"):
        log.append(7, 10)
    with pytest.raises(ValueError, match="index 9 was to be logged after 6"):
        log.append(9)
    log.threads.run_all()
    assert not log.append(7, 10)


def test_a_sync_covers_what_was_appended_before_it() -> None:
    for before_answers in (True, False):
        log = Log(before_answers)
        log.append(1)
        outcome: list[None] = []
        log.log.sync().addCallback(outcome.append)
        log.append(2)
        log.threads.run()
        if before_answers:
            # The flush under way may have begun before the sync was asked for.
            assert outcome == []
            log.threads.run()
        assert outcome == [None]
        assert log.on_the_disk()[:1] == run(1, 1)


@settings(max_examples=100)
@given(
    before_answers=st.booleans(),
    steps=st.lists(st.sampled_from(["append", "append", "run", "full", "room", "flush"])),
)
def test_nothing_answered_is_lost(before_answers: bool, steps: list[str]) -> None:
    log = Log(before_answers)
    log.log._oplog._segment_bytes = 300  # type: ignore[attr-defined]
    answered = 0

    def note(index: int) -> Callable[[Any], None]:
        def noted(outcome: Any) -> None:
            nonlocal answered
            if outcome is None:
                assert answered < index
                answered = index

        return noted

    for step in steps:
        if step == "append":
            index = log.log.last.index + 1
            try:
                durable = log.log.append(EPOCH, run(index, 1))
            except StorageUnavailable:
                continue
            if durable is None:
                answered = index
            else:
                durable.addBoth(note(index))
        elif step == "run" and log.threads.calls:
            log.threads.run()
        elif step == "flush":
            log.log.flush_now()
        elif step in ("full", "room"):
            log.files.room = 0 if step == "full" else None
        held = log.on_the_disk() if before_answers else all_of(log.log)
        assert len(held) >= answered
        assert held == run(1, len(held))


# -- a whole node on it ----------------------------------------------------------------------------


def test_no_answer_and_no_event_leaves_before_the_disk_has_it() -> None:
    log = Log()
    node = MemoryNode(log.log)
    admin = node.admin()
    admin.send("create-db d t")
    assert admin.received() == ""
    log.threads.run_all()
    node.settle()
    assert admin.received() == "create-db success\nok \n"
    writer, watcher = node.tcp(), node.tcp()
    for client in (writer, watcher):
        assert client.ask("use-db d t") == "ok \n"
    watcher.ask("watch k")
    writer.send("set k 1")
    writer.send("set k 2\nget k")
    admin.send("create-db e t")
    writer.send("set other 1")
    assert writer.received() == watcher.received() == admin.received() == ""
    log.threads.run()
    node.settle()
    assert writer.received() == "ok \n"
    assert watcher.received() == "changed k 1\nchanged-version k 0 1\n"
    log.threads.run_all()
    node.settle()
    assert writer.received() == "ok \nvalue 2\nok \nok \n"
    assert admin.received() == "create-db success\nok \n"


def test_a_disk_that_fails_makes_the_node_read_only() -> None:
    log = Log()
    node = MemoryNode(log.log)
    admin = node.admin()
    admin.send("create-db d t")
    log.threads.run_all()
    client = node.tcp()
    client.ask("use-db d t")
    client.send("set k 1")
    log.threads.run_all()
    node.settle()
    assert client.received() == "ok \n"
    client.send("set k 2")
    log.files.failing["sync"] = errno.EIO
    log.threads.run_all()
    node.settle()
    assert client.received().startswith("error outcome unknown: ")
    assert client.ask("get k") == "value 1\nok \n"
    assert client.ask("set k 3").startswith("error storage unavailable: ")
    assert "writes: refused" in admin.ask("oplog-state")


def test_a_full_disk_refuses_all_that_waited_and_then_goes_on() -> None:
    log = Log()
    node = MemoryNode(log.log)
    admin = node.admin()
    admin.send("create-db d t")
    log.threads.run_all()
    one, other = node.tcp(), node.tcp()
    for client in (one, other):
        client.ask("use-db d t")
    one.send("set k 1")
    other.send("set k 2")
    admin.send("create-db e t")
    one.send("increment n")
    log.files.room = 0
    log.threads.run_all()
    node.settle()
    assert one.received().startswith("ok \nerror storage unavailable: ")
    assert other.received().startswith("error storage unavailable: ")
    assert admin.received().startswith("create-db success\nok \nerror storage unavailable: ")
    assert one.ask("get k") == "value 1\nok \n"
    log.files.room = None
    one.send("set k 3\nincrement n")
    admin.send("create-db e t")
    log.threads.run_all()
    node.settle()
    assert one.received() == "ok \nok \n"
    assert admin.received() == "create-db success\nok \n"
    assert one.ask("get n") == "value 1\nok \n"
