"""A copy is put in place: what clients notice, and what a crash leaves."""

from __future__ import annotations

import contextlib
import errno
import random

import pytest

from nuntwist.cluster.afresh import take_log_away
from nuntwist.cluster.copy_receiver import AGAIN, Stage
from nuntwist.cluster.identity import Identity
from nuntwist.core.installing import MARKER, RETRY
from nuntwist.files import MemoryFiles, Stopped
from nuntwist.interfaces import IOplog
from nuntwist.oplog.flushed import FlushedOplog
from nuntwist.oplog.segment import SEGMENT_HEAD
from nuntwist.oplog.segments import FileOplog
from nuntwist.testing import LineConnection
from nuntwist.values import Epoch
from tests.unit.copy_pair import CopyPair, own_writes, trim, whole
from tests.unit.lost import Threads

OWN = "divergent-3-1.op"
"""What the secondary had alone, all of it."""


@pytest.fixture
def pair() -> CopyPair:
    """The secondary has something of its own."""
    pair = CopyPair()
    pair.fill(30, 10)
    own_writes(pair)
    return pair


def client(pair: CopyPair, name: str = "d") -> LineConnection:
    found = pair.secondary.tcp()
    assert found.ask(f"use-db {name} t") == "ok \n"
    return found


# -- clients ---------------------------------------------------------------------------------------


def shared(keys: int = 0, kind: type[CopyPair] = CopyPair) -> CopyPair:
    """Both have followed the same log for a while, with the database ``s``; then the secondary was
    away for long."""
    pair = kind()
    pair.connect()
    pair.admin.send("create-db s t")
    pair.admin.send("use-db s t")
    for number in range(keys):
        pair.admin.send(f"set own{number} 1")
    for key in "abcd":
        pair.admin.send(f"set {key} 1")
    pair.admin.send("create-user ann pwd")
    pair.admin.send("set-permissions ann r a")
    pair.run(1.0)
    assert pair.same()
    assert pair.placed == 0
    pair.disconnect()
    pair.admin.send("set a 2")
    pair.admin.send("remove b")
    pair.admin.send("set e 1")
    pair.fill(5, 5)
    pair.admin.send("use-db s t")
    return pair


def test_who_watches_is_told_of_what_changed_and_stays() -> None:
    pair = shared()
    watcher = client(pair, "s")
    for key in "abcdef":
        assert watcher.ask(f"watch {key}") == "ok \n"
    pair.connect()
    pair.run(1.0)
    assert pair.placed == 1
    assert sorted(watcher.received().split("\n")[:-1]) == [
        "changed a 2",
        "changed e 1",
        "changed-version a 1 2",
        "changed-version e 0 1",
        "removed b",
    ]
    assert pair.secondary.node.counters.told_by_copies == 3
    assert watcher.ask("get a") == "value 2\nok \n"
    pair.admin.send("set c 7")
    pair.run(1.0)
    assert watcher.received() == "changed c 7\nchanged-version c 1 7\n"


def test_sessions_rights_and_counts_of_connections_stay() -> None:
    pair = shared()
    user = pair.secondary.tcp()
    assert user.ask("use-db s ann pwd") == "ok \n"
    pair.admin.send("set-permissions ann r d")
    other = client(pair, "s")
    counted = other.ask("get-safe $connections")
    pair.connect()
    pair.run(1.0)
    assert pair.placed == 1
    assert other.ask("get-safe $connections") == counted
    assert user.ask("get d") == "value 1\nok \n"
    assert "permission denied" in user.ask("get a")
    user.close()
    assert "value-version" in other.ask("get-safe $connections") != counted
    database = pair.secondary.node.catalogue.by_name[b"s"]
    assert len(database.selected) == 1


def test_of_a_database_that_is_gone_nothing_is_left() -> None:
    pair = shared()
    there = pair.secondary.admin("use-db $admin nun-pwd", "watch s", "watch d")
    watcher = client(pair, "s")
    watcher.ask("watch a")
    pair.admin.send("drop-db s")
    trim(pair.primary)
    pair.connect()
    pair.run(1.0)
    assert pair.same()
    assert watcher.received() == ""
    assert "no-db-selected" in watcher.ask("get a")
    assert there.received() == "removed s\nchanged d {}\nchanged-version d 0 {}\n"


def test_another_database_of_the_same_id_and_name_is_another_one() -> None:
    pair = CopyPair()
    pair.admin.send("create-db d t")
    trim(pair.primary)
    pair.following.lead(Epoch(3, 2))
    admin = pair.secondary.admin()
    pair.secondary.oplog.replace(pair.primary.oplog.last)
    number = pair.primary.node.catalogue.by_name[b"d"].number
    pair.secondary.node.pipeline.journal.start_over(number - 1)
    pair.secondary.oplog.replace(pair.secondary.oplog.last.__class__(Epoch(2, 2), number - 1))
    pair.run(0.5)
    admin.send("create-db d other")
    assert pair.secondary.node.catalogue.by_name[b"d"].number == number
    pair.following.stand_by("there")
    mine = pair.secondary.tcp()
    assert mine.ask("use-db d other") == "ok \n"
    framed = pair.secondary.ws()
    assert framed.ask("use-db d other") == ["ok \n"]
    pair.primary.admin("use-db d t", "set k 1")
    trim(pair.primary)
    pair.connect()
    pair.run(1.0)
    assert pair.placed == 1
    assert pair.same()
    # Nobody has got into it with the token of the other.
    assert mine.closed
    assert framed.received_frames()[-1] == (8, b"\x03\xe9the database was replaced")
    assert "Invalid token" in pair.secondary.tcp().ask("use-db d other")
    assert client(pair).ask("get k") == "value 1\nok \n"


def test_a_long_listing_is_of_what_was_there_when_it_began() -> None:
    pair = shared(keys=3_000)
    pair.admin.send("remove own1")
    reader = client(pair, "s")
    pair.on_placed = lambda: reader.protocol.dataReceived(b"keys\n")
    reader.protocol.dataReceived(b"keys\n")
    pair.delay = 0.0
    pair.connect()
    pair.run(1.0)
    assert pair.placed == 1
    answers = [line for line in reader.received().split("\n") if line.startswith("keys")]
    before, after = (answer.removeprefix("keys ,").split(",") for answer in answers)
    assert {"own0", "own1", "own2", "b"} <= set(before)
    assert set(before) - set(after) == {"own1", "b"}
    assert set(after) - set(before) == {"e"}
    assert pair.same()


# -- the log ---------------------------------------------------------------------------------------


def test_what_only_this_node_has_is_kept_in_a_file(pair: CopyPair) -> None:
    whole_log = pair.secondary.oplog.records(0, 1 << 20)
    pair.connect()
    pair.run()
    assert pair.files.contents[OWN] == SEGMENT_HEAD + whole_log
    assert pair.same()


def test_what_a_snapshot_of_the_set_holds_is_not(pair: CopyPair) -> None:
    pair.following.commit(20)
    tail = pair.secondary.oplog.records(20, 1 << 20)
    pair.connect()
    pair.run()
    assert pair.files.contents["divergent-3-21.op"] == SEGMENT_HEAD + tail


def test_where_the_logs_part_is_known_what_comes_after_is(pair: CopyPair) -> None:
    tail = pair.secondary.oplog.records(30, 1 << 20)
    pair.connect()
    pair.receiver.wanted(30)
    pair.run()
    assert pair.files.contents["divergent-3-31.op"] == SEGMENT_HEAD + tail
    assert OWN not in pair.files.contents
    assert pair.same()


def test_nothing_is_kept_of_what_is_committed() -> None:
    pair = shared()
    pair.following.commit(pair.secondary.oplog.last.index)
    pair.connect()
    pair.run()
    assert pair.same()
    assert not [name for name in pair.files.contents if name.startswith("divergent")]


def test_nothing_that_a_copy_has_brought_is_taken_off(pair: CopyPair) -> None:
    pair.connect()
    pair.run()
    last = pair.secondary.oplog.last.index
    assert pair.following.committed <= last
    pair.admin.send("set k1 later")
    pair.run()
    pair.following.cut(last)
    with pytest.raises(Exception, match="a copy of all has brought it"):
        pair.following.cut(last - 1)


class Late(CopyPair):
    """The log of the secondary is durable when its threads say so."""

    def make_log(self) -> IOplog:
        self.threads = Threads()
        return FlushedOplog(FileOplog(self.files, 2, self.threads), before_answers=True)


def test_what_waits_for_the_disk_is_told_that_it_is_gone() -> None:
    pair = shared(kind=Late)
    assert isinstance(pair, Late)
    pair.following.lead(Epoch(3, 2))
    writer, reader, watcher = client(pair, "s"), client(pair, "s"), client(pair, "s")
    for key in "abx":
        watcher.ask(f"watch {key}")
    pair.threads.hold = True
    writer.send("set x never")
    reader.send("get x")
    reader.send("get a")
    assert (writer.received(), watcher.received()) == ("", "")
    pair.following.stand_by("there")
    assert "outcome unknown" in writer.received()
    pair.connect()
    pair.run(1.0)
    # The end of the log is kept while the flush is still under way.
    pair.threads.run_one(-1)
    pair.run(1.0)
    assert pair.placed == 1
    assert reader.received() == "value <Empty>\nok \nvalue 2\nok \n"
    told = watcher.received()
    assert "never" not in told
    assert {"changed a 2", "removed b"} <= set(told.split("\n"))
    while pair.threads.busy:
        pair.threads.run_one()
        pair.run(0.1)
    pair.threads.hold = False
    pair.run(1.0)
    assert pair.kept == 1
    assert pair.same()
    pair.admin.send("set x now")
    pair.run(1.0)
    assert pair.same()
    assert watcher.received() == "changed x now\nchanged-version x 0 now\n"


def test_by_commit_nothing_is_told_before_a_majority_has_it() -> None:
    pair = shared()
    pair.secondary.node.pipeline.journal.by_commit = True
    pair.following.commit(pair.secondary.oplog.last.index)
    watcher = client(pair, "s")
    watcher.ask("watch a")
    pair.connect()
    pair.run(1.0)
    assert pair.placed == 1
    last = pair.primary.oplog.last.index
    assert pair.secondary.node.pipeline.journal.revealed < last
    assert watcher.received() == ""
    pair.following.commit(last)
    pair.run(0.1)
    assert watcher.received() == "changed a 2\nchanged-version a 1 2\n"


# -- crashes ---------------------------------------------------------------------------------------


def restarted(pair: CopyPair, power_lost: bool) -> bool:
    """A new process on what the files hold.

    :return: whether it begins afresh.
    """
    pair.disconnect()
    pair.files.restart(power_lost=power_lost)
    identity = Identity(MemoryFiles(), random.Random(1))
    afresh = take_log_away(pair.files, identity)
    assert identity.standing.doubtful == afresh
    pair.start(afresh)
    return afresh


@pytest.mark.many_cases
@pytest.mark.parametrize("power_lost", [False, True])
def test_whatever_step_it_ends_in_it_is_all_or_nothing(power_lost: bool) -> None:
    outcomes: list[str] = []
    for stop_at in range(200):
        pair = CopyPair()
        pair.fill(30, 10)
        own_writes(pair)
        with contextlib.suppress(Stopped):
            pair.secondary.oplog.sync()
        before = whole(pair.secondary)
        pair.files.stop_at = pair.files.steps + stop_at
        with contextlib.suppress(Stopped):
            pair.connect()
            pair.run(1.0)
        ended = pair.files.steps > pair.files.stop_at
        afresh = restarted(pair, power_lost)
        now = whole(pair.secondary)
        if afresh:
            outcomes.append("nothing")
            assert set(now) == {0}
            assert pair.secondary.oplog.last.index == 0
            pair.run(0.1)
            assert MARKER not in pair.files.contents
        elif now == before:
            outcomes.append("old")
        else:
            outcomes.append("new")
            assert pair.same_after_a_restart()
        if outcomes[-1] != "old":
            # What only this node had was kept before anything went.
            assert OWN in pair.files.contents
        pair.connect()
        pair.run(1.0)
        assert pair.same_after_a_restart(), stop_at
        assert pair.secondary.oplog.last == pair.primary.oplog.last
        pair.run(RETRY)
        assert not restarted(pair, power_lost)
        assert pair.same_after_a_restart()
        if not ended:
            break
    assert not ended
    assert outcomes == sorted(outcomes, key=["old", "nothing", "new"].index)
    assert set(outcomes) == {"old", "nothing", "new"}


@pytest.mark.parametrize("step", ["open", "write", "sync", "rename", "remove", "truncate"])
def test_a_disk_that_fails_leaves_the_old_state_or_a_log_that_says_so(
    step: str, pair: CopyPair
) -> None:
    before = whole(pair.secondary)
    pair.connect()
    pair.files.failing[step] = errno.EIO
    pair.run(2.0)
    journal = pair.secondary.node.pipeline.journal
    if pair.placed == 0:
        assert whole(pair.secondary) == before
    if journal.oplog.failed is not None or pair.placed > pair.kept:
        assert MARKER in pair.files.contents
    pair.files.failing.clear()
    pair.run(AGAIN + RETRY)
    if journal.oplog.failed is None:
        assert pair.same()
        assert (pair.placed, pair.kept) == (1, 1)
    else:
        assert restarted(pair, False)
        pair.connect()
        pair.run()
        assert pair.same()


def test_snapshots_that_fail_are_tried_again_while_it_follows(pair: CopyPair) -> None:
    pair.on_placed = lambda: pair.files.failing.update(rename=errno.ENOSPC)
    pair.connect()
    pair.run(1.0)
    assert (pair.placed, pair.kept) == (1, 0)
    assert not pair.installing.is_kept
    pair.admin.send("use-db d t")
    pair.admin.send("set k1 later")
    pair.run(1.0)
    assert pair.same()
    pair.files.failing.clear()
    pair.run(RETRY)
    assert pair.kept == 1
    assert pair.installing.is_kept
    assert not restarted(pair, True)
    assert pair.same_after_a_restart()


def test_a_database_dropped_meanwhile_has_no_snapshot(pair: CopyPair) -> None:
    held = Threads()
    pair.secondary.storage._in_thread = held  # type: ignore[attr-defined]  # to be between
    pair.connect()
    held.hold = True
    pair.run(1.0)
    assert (pair.placed, pair.kept) == (1, 0)
    number = pair.primary.node.catalogue.by_name[b"e"].number
    pair.admin.send("drop-db e")
    pair.run(1.0)
    held.hold = False
    while held.busy:
        held.run_one()
        pair.run(0.1)
    pair.run(1.0)
    assert pair.kept == 1
    assert number not in pair.secondary.storage.held
    assert pair.same()
    assert not restarted(pair, False)
    assert pair.same_after_a_restart()


def test_the_files_of_what_was_before_are_gone(pair: CopyPair) -> None:
    done: list[object] = []
    pair.following.commit(pair.secondary.oplog.last.index)
    pair.secondary.node.snapshots.take_changed().addBoth(done.append)
    pair.run(0.1)
    assert done == [None]
    assert len(pair.secondary.storage.held) == 3
    pair.connect()
    pair.run()
    assert set(pair.secondary.storage.held) == set(pair.primary.node.catalogue.by_id)
    assert not restarted(pair, True)
    assert pair.same_after_a_restart()


def test_snapshots_under_way_end_first(pair: CopyPair) -> None:
    held = Threads()
    pair.secondary.storage._in_thread = held  # type: ignore[attr-defined]  # to be between
    pair.following.commit(pair.secondary.oplog.last.index)
    held.hold = True
    pair.secondary.node.snapshots.take_changed()
    pair.run(0.1)
    pair.connect()
    pair.run(1.0)
    assert pair.receiver.stage is Stage.INSTALLS
    assert MARKER not in pair.files.contents
    held.hold = False
    while held.busy:
        held.run_one()
        pair.run(0.1)
    pair.run(1.0)
    assert (pair.placed, pair.kept) == (1, 1)
    assert pair.same()


def test_snapshots_that_wait_for_a_majority_are_given_up(pair: CopyPair) -> None:
    done: list[object] = []
    pair.secondary.node.snapshots.take_changed().addErrback(done.append)
    pair.run(1.0)
    assert done == []
    pair.connect()
    pair.run(1.0)
    assert len(done) == 1
    assert (pair.placed, pair.kept) == (1, 1)
    assert pair.same()


def test_a_copy_that_is_not_wanted_any_more_is_not_put_in_place(pair: CopyPair) -> None:
    before = whole(pair.secondary)
    held = Threads()
    pair.secondary.storage._in_thread = held  # type: ignore[attr-defined]  # to be between
    pair.following.commit(pair.secondary.oplog.last.index)
    held.hold = True
    pair.secondary.node.snapshots.take_changed()
    pair.connect()
    pair.run(1.0)
    assert pair.receiver.stage is Stage.INSTALLS
    pair.receiver.end()
    held.hold = False
    while held.busy:
        held.run_one()
        pair.run(0.1)
    pair.run(1.0)
    assert pair.placed == 0
    assert whole(pair.secondary) == before
