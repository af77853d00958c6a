"""Taking off the end of what a node follows: whatever state it is in, and whatever fails."""

from __future__ import annotations

import contextlib
import errno
import random
from collections.abc import Callable, Collection, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuntwist.core.following import Following
from nuntwist.core.undo import Batch, Undo
from nuntwist.errors import CorruptData, NeedsCopy, OutcomeUnknown, StorageUnavailable, TakenBack
from nuntwist.files import MemoryFiles, Stopped
from nuntwist.interfaces import ISnapshotWriter, SnapshotHeader
from nuntwist.oplog.record import encode, split
from nuntwist.oplog.segments import FileOplog
from nuntwist.storage.memory import MemoryStorage
from nuntwist.testing import MemoryNode
from nuntwist.values import INDEX, KIND, SET, VALUE, Epoch, Op
from tests.unit.lost import Threads
from tests.unit.test_following import COMMANDS, LatePair, Pair
from tests.unit.test_recovery import state

# -- what is kept ----------------------------------------------------------------------------------


def op(index: int) -> Op:
    return (b"v", 0, index, index, SET, 1, b"k")


def batch(first: int, last: int) -> Batch:
    return Batch([op(index) for index in range(first, last + 1)], [None] * (last - first + 1))


def test_what_is_committed_is_not_kept() -> None:
    undo = Undo(0, 100)
    undo.keep(batch(1, 3))
    undo.keep(batch(4, 5))
    undo.commit(3)
    assert undo.count == 2
    undo.check(3)
    with pytest.raises(NeedsCopy, match="all up to operation 3 is known to be committed"):
        undo.check(2)
    undo.commit(9)
    undo.keep(batch(6, 9))
    assert undo.count == 0


def test_it_is_given_back_newest_first_and_parts_a_batch() -> None:
    undo = Undo(0, 100)
    undo.keep(batch(1, 3))
    undo.keep(batch(4, 5))
    assert [one[INDEX] for one, _ in undo.after(2)] == [5, 4, 3]
    assert undo.count == 2
    assert [one[INDEX] for one, _ in undo.after(0)] == [2, 1]
    assert undo.count == 0


def test_no_more_is_kept_than_the_limit() -> None:
    undo = Undo(0, 4)
    for first in (1, 3, 5):
        undo.keep(batch(first, first + 1))
    assert undo.count == 4
    undo.check(2)
    with pytest.raises(NeedsCopy, match="from 2 to 2 cannot be taken back: no more than 4"):
        undo.check(1)


def test_in_another_set_nothing_is_committed_that_was() -> None:
    undo = Undo(0, 100)
    undo.keep(batch(1, 3))
    undo.commit(2)
    undo.begin_anew()
    assert undo.committed == 0
    with pytest.raises(NeedsCopy, match="they were committed in another set"):
        undo.check(1)
    undo.check(2)
    undo.commit(1)
    undo.begin_anew()
    undo.check(2)


def test_a_copy_is_nothing_to_be_taken_back() -> None:
    undo = Undo(0, 100)
    undo.keep(batch(1, 3))
    undo.start_over(50, "it came with a copy")
    assert (undo.count, undo.durable, undo.visible) == (0, 50, 50)
    undo.keep(batch(51, 52))
    undo.check(50)
    with pytest.raises(NeedsCopy, match="it came with a copy"):
        undo.check(49)


# -- on a node -------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    for command in ("create-db d t", "use-db d t", "set a 1", "set b 1"):
        pair.admin.send(command)
    pair.admin.received()
    return pair


def test_what_was_revealed_is_told_anew(pair: Pair) -> None:
    watcher = pair.on_the_secondary()
    for key in ("a", "b", "c"):
        watcher.send(f"watch {key}")
    index = pair.following.last.index
    for command in ("set a 2", "remove b", "set c 3"):
        pair.admin.send(command)
    pair.secondary.settle()
    watcher.received()
    pair.following.cut(index)
    pair.secondary.settle()
    assert watcher.received().splitlines() == [
        *("removed c", "changed b 1", "changed-version b 0 1"),
        *("changed a 1", "changed-version a 0 1"),
    ]
    assert pair.following.last.index == index
    assert list(pair.secondary.oplog.kept) == [f"divergent-1-{index + 1}.op"]  # type: ignore[attr-defined]
    # The indexes are given anew.
    assert pair.secondary.node.pipeline.journal.index == index


def test_nothing_after_it_is_nothing_to_do(pair: Pair) -> None:
    pair.following.cut(pair.following.last.index)
    assert pair.secondary.node.counters.tails_cut == 0


def test_what_is_known_to_be_committed_is_not_taken_off(pair: Pair) -> None:
    last = pair.following.last.index
    pair.following.commit(last)
    with pytest.raises(NeedsCopy):
        pair.following.cut(last - 1)


def test_what_a_snapshot_holds_is_not_taken_off(pair: Pair) -> None:
    pair.following.commit(pair.following.last.index)
    outcome: list[object] = []
    pair.secondary.node.snapshots.take_changed().addBoth(outcome.append)
    pair.secondary.settle()
    assert outcome == [None]
    journal = pair.secondary.node.pipeline.journal
    assert journal.undo is not None
    journal.undo.committed = 0
    with pytest.raises(NeedsCopy, match="a snapshot of this node holds operations up to 3"):
        pair.following.cut(2)


def test_where_no_record_ends_nothing_is_taken_off(pair: Pair) -> None:
    before = state(pair.secondary)
    for command in ("create-db e t arbiter", "use-db e t", "arbiter", "set-safe k 5 a"):
        pair.admin.send(command)
    # A conflict and its key are one record.
    pair.admin.send("set-safe k 1 b")
    last = pair.following.last.index
    after = state(pair.secondary)
    with pytest.raises(ValueError, match=f"no record ends with index {last - 1}"):
        pair.following.cut(last - 1)
    assert state(pair.secondary) == after
    pair.following.cut(last - 2)
    assert state(pair.secondary)[b"e"][b"k"] == (b"a", 6)
    assert pair.secondary.node.catalogue.by_name[b"e"].conflicts == {}
    assert state(pair.secondary)[b"d"] == before[b"d"]


def test_a_conflict_that_was_resolved_is_open_again() -> None:
    node = MemoryNode()
    following = Following(node.node)
    admin = node.admin("create-db d t arbiter", "use-db d t", "set k 1", "set k 2", "arbiter")
    admin.send("set-safe k 0 x")
    database = node.node.catalogue.by_name[b"d"]
    ((_, (conflict,)),) = database.conflicts.items()
    before = (database.find(b"k"), database.find(conflict))
    last = node.oplog.last.index
    # It is cleaned away when the next arbiter comes.
    admin.send(f"resolve {conflict.rpartition(b'_')[2].decode()} d k 1 x")
    admin.send("arbiter")
    assert (database.conflicts, database.find(conflict)) == ({}, None)
    following.cut(last)
    assert database.conflicts == {b"k": [conflict]}
    assert database.resolved == {}
    assert (database.find(b"k"), database.find(conflict)) == before
    assert admin.ask(f"resolve {conflict.rpartition(b'_')[2].decode()} d k 0 y") == "ok \n"
    assert admin.ask("get-safe k") == "value-version 2 y\nok \n"


def test_what_a_snapshot_has_taken_later_than_it_says_is_not_taken_off() -> None:
    """Its entries are copied while writes go on."""
    plain = MemoryNode()
    plain.admin("create-db d t", "use-db d t", *(f"set a {number}" for number in range(4)))
    last = plain.oplog.last.index
    storage = MemoryStorage()
    storage.open()
    for number, name, names in ((1, b"d", None), (0, b"$admin", ((1, b"d"),))):
        writer = storage.begin(
            SnapshotHeader(number, name, b"none", last - 3, databases=names), None
        )
        if number:
            writer.write(0, [(b"2", 2, last - 1, 1, SET, 1, b"a")])
        writer.commit()
    node = MemoryNode(plain.oplog, storage, in_set=True)
    following = Following(node.node)
    with pytest.raises(NeedsCopy, match="a snapshot of this node holds it"):
        following.cut(last - 2)
    following.cut(last - 1)
    assert state(node)[b"d"][b"a"] == (b"2", 2)


class Interrupted(MemoryStorage):
    """Something happens while a snapshot is written.

    :ivar once: what.
    """

    once: Callable[[], None] | None = None

    def begin(self, header: SnapshotHeader, changed: Collection[int] | None) -> ISnapshotWriter:
        """A writer that lets it happen."""
        writer = super().begin(header, changed)
        write = writer.write

        def interrupted(partition: int, entries: Sequence[Op]) -> None:
            write(partition, entries)
            once, self.once = self.once, None
            if once is not None:
                once()

        writer.write = interrupted
        return writer


def test_a_snapshot_that_has_copied_what_is_taken_off_is_given_up() -> None:
    storage = Interrupted()
    pair = Pair(MemoryNode(storage=storage))
    for command in ("create-db d t", "use-db d t", *(f"set k{n} 1" for n in range(900))):
        pair.admin.send(command)
    last = pair.following.last.index
    for number in range(900):
        pair.admin.send(f"set k{number} 2")
    pair.primary.oplog.written = None

    def cut() -> None:
        # And what others have made comes in its place, and is committed.
        pair.following.cut(last)
        pair.primary.admin()
        epoch, stamps = Epoch(2, 2), pair.secondary.node.stamps
        for number in range(950):
            op: Op = (b"3", 1, last + 1 + number, stamps.next(), SET, 1, b"other%d" % number)
            data = encode(epoch, 2, [op])
            pair.following.follow(split(data, "another primary"))
        pair.following.commit(last + 950)

    storage.once = cut
    outcome: list[object] = []
    pair.secondary.node.snapshots.take_changed().addBoth(outcome.append)
    pair.secondary.settle()
    assert storage.once is None
    assert outcome != [None]
    assert 1 not in storage.held


# -- a log that is durable later -------------------------------------------------------------------


def test_what_is_in_flight_or_waits_is_taken_off_too() -> None:
    pair = LatePair()
    last = pair.following.last.index
    before = state(pair.secondary)
    for command in ("set a 7", "set b 8", "create-db e t", "use-db e t", "set k 5", "use-db d t"):
        pair.admin.send(command)
    pair.admin.send("set b 9")
    pair.watcher.send("get a")
    lister = pair.on_the_secondary()
    assert lister.ask("keys") == ""
    assert pair.seen() == ""
    pair.following.cut(last)
    assert lister.received() == "error outcome unknown: this node is no longer primary \n"
    # It was in the file before it was taken off.
    assert f"divergent-1-{last + 1}.op" in pair.files.names()
    assert pair.seen() == "value 1\nok \n"
    pair.flush()
    assert pair.seen() == ""
    assert [type(error) for error in pair.lost] == [TakenBack] * 5
    assert state(pair.secondary) == before
    # It takes what comes then.
    journal = pair.secondary.node.pipeline.journal
    assert (journal.index, journal.revealed, journal.in_trouble) == (last, last, False)
    assert pair.secondary.node.counters.failed_batches == 0
    pair.primary.oplog.written = None
    records = pair.primary.oplog.records(last, 1)
    pair.following.follow(split(records, "the primary"))
    pair.flush()
    assert pair.seen() == "changed a 7\nchanged-version a 1 7\n"


def test_a_removal_that_stays_leaves_nothing_behind() -> None:
    pair = LatePair()
    pair.admin.send("remove a")
    last = pair.following.last.index
    # It takes the place of a removal that is not forgotten yet.
    pair.admin.send("set a 9")
    pair.flush()
    pair.following.cut(last)
    database = pair.secondary.node.catalogue.by_name[b"d"]
    assert database.find(b"a") is None
    assert database.key_count() == 2


def test_a_part_of_what_is_in_flight_stays() -> None:
    pair = LatePair()
    pair.primary.oplog.written = None
    last = pair.following.last.index
    for command in ("set a 7", "set $$u 1", "set b 8", "set a 9"):
        pair.admin.send(command)
    done = pair.following.follow(split(pair.primary.oplog.records(last, 1 << 20), "the primary"))
    assert done is not None
    failures: list[type] = []
    done.addErrback(lambda reason: failures.append(type(reason.value)))
    pair.following.cut(last + 3)
    assert failures == [TakenBack]
    # What is left is on the disk with the cut.
    assert pair.seen() == "changed a 7\nchanged-version a 1 7\nchanged b 8\nchanged-version b 0 8\n"
    assert pair.following.durable == last + 3
    pair.flush()
    assert pair.watcher.ask("get a") == "value 7\nok \n"


@pytest.mark.parametrize("operation", ["write", "truncate", "sync"])
def test_a_disk_that_fails_leaves_memory_and_log_as_one(operation: str) -> None:
    files = MemoryFiles()
    pair = Pair(MemoryNode(FileOplog(files, 1, Threads())))
    for command in ("create-db d t", "use-db d t", "set a 1", "set a 2"):
        pair.admin.send(command)
    files.failing[operation] = errno.EIO
    with pytest.raises(StorageUnavailable):
        pair.following.cut(2)
    files.failing.clear()
    if pair.secondary.oplog.failed is None:
        assert pair.on_the_secondary().ask("get a") == "value 2\nok \n"
        pair.following.cut(2)
        assert pair.on_the_secondary().ask("get a") == "value 1\nok \n"
    files.restart()
    again = MemoryNode(FileOplog(files, 1, Threads()), in_set=True)
    following = Following(again.node)
    following.cut(2)
    assert state(again)[b"d"][b"a"] == (b"1", 0)


def test_a_damaged_log_is_left_as_it_is() -> None:
    files = MemoryFiles()
    pair = Pair(MemoryNode(FileOplog(files, 1, Threads())))
    for command in ("create-db d t", "use-db d t", "set a 1", "set a 2"):
        pair.admin.send(command)
    (name,) = files.names()
    files.contents[name][40] ^= 1
    before = state(pair.secondary)
    with pytest.raises(CorruptData):
        pair.following.cut(2)
    assert state(pair.secondary) == before


# -- whatever was done -----------------------------------------------------------------------------


@settings(max_examples=150)
@given(st.lists(COMMANDS, max_size=30), st.lists(COMMANDS, max_size=30), st.booleans())
def test_whatever_was_done_after_it_is_undone(
    before: list[str], after: list[str], restarted: bool
) -> None:
    files = MemoryFiles()
    pair = Pair(MemoryNode(FileOplog(files, 1, Threads()), in_set=True))
    for command in ("create-db d t", "use-db d t", *before):
        pair.admin.send(command)
    pair.secondary.settle()
    index = pair.following.last.index
    wanted = state(pair.secondary)
    entries = {
        (number, key): shard[key]
        for number, database in pair.secondary.node.catalogue.by_id.items()
        for shard in database.shards
        for key in shard
        if shard[key][INDEX]
    }
    for command in after:
        pair.admin.send(command)
    pair.secondary.settle()
    node = pair.secondary
    following = pair.following
    if restarted:
        files.restart()
        node = MemoryNode(FileOplog(files, 1, Threads()), in_set=True)
        following = Following(node.node)
    try:
        following.cut(index)
    except NeedsCopy:
        kinds = {one[4] for ops in node.oplog.read(index) for one in ops}
        assert kinds & {3, 4}
        return
    assert state(node) == wanted
    assert {
        (number, key): shard[key]
        for number, database in node.node.catalogue.by_id.items()
        for shard in database.shards
        for key in shard
        if shard[key][INDEX]
    } == entries
    # And so does a restart find it.
    files.restart()
    assert state(MemoryNode(FileOplog(files, 1, Threads()))) == wanted


@settings(max_examples=150)
@given(
    st.lists(st.tuples(COMMANDS, st.integers(0, 2)), max_size=30),
    st.lists(st.tuples(COMMANDS, st.integers(0, 2)), max_size=30),
    st.booleans(),
)
def test_however_much_of_it_is_on_the_disk(
    before: list[tuple[str, int]], after: list[tuple[str, int]], by_commit: bool
) -> None:
    pair = LatePair()
    journal = pair.secondary.node.pipeline.journal
    journal.by_commit = by_commit
    for command, flushes in before:
        pair.admin.send(command)
        for _ in range(min(flushes, pair.threads.busy)):
            pair.threads.run_one()
    index, wanted = pair.primary.oplog.last.index, state(pair.primary)
    pair.following.commit(index - 3)
    for command, flushes in [*after, ("use-db d t", 0), ("set k0 the-last", 0)]:
        pair.admin.send(command)
        for _ in range(min(flushes, pair.threads.busy)):
            pair.threads.run_one()
    pair.secondary.settle()
    try:
        pair.following.cut(index)
    except NeedsCopy:
        assert any(one[KIND] in (3, 4) for ops in pair.secondary.oplog.read(index) for one in ops)
        return
    pair.secondary.settle()
    assert state(pair.secondary) == wanted
    assert (journal.index, pair.following.durable) == (index, index)
    assert journal.revealed == (max(2, index - 3) if by_commit else index)
    pair.following.commit(index)
    pair.flush()
    assert journal.revealed == index
    assert not any(type(error) is OutcomeUnknown for error in pair.lost)
    # Nothing is left of what was removed.
    databases = pair.secondary.node.catalogue.by_id.values()
    assert all(one[VALUE] is not None for d in databases for s in d.shards for one in s.values())


@settings(max_examples=100)
@given(st.integers(0, 60), st.integers(1, 1_000))
def test_whatever_ends_the_process_a_restart_sets_it_right(stop: int, seed: int) -> None:
    files, chance = MemoryFiles(), random.Random(seed)
    pair = Pair(MemoryNode(FileOplog(files, 1, Threads(), limit=3_000), in_set=True))
    for command in ("create-db d t", "use-db d t", "set k0 x"):
        pair.admin.send(command)
    index, wanted = pair.following.last.index, state(pair.secondary)
    for number in range(12):
        key = f"k{chance.randrange(3)}"
        pair.admin.send(f"remove {key}" if chance.random() < 0.3 else f"set {key} {number}")
    files.stop_at = files.steps + stop
    with contextlib.suppress(Stopped):
        pair.following.cut(index)
    files.restart()
    node = MemoryNode(FileOplog(files, 1, Threads(), limit=3_000), in_set=True)
    # The log is the truth: the state is what it tells.
    plain = MemoryNode()
    for ops in node.oplog.read(0):
        plain.oplog.append(Epoch(1, 1), ops)
    assert state(MemoryNode(plain.oplog)) == state(node)
    Following(node.node).cut(index)
    assert state(node) == wanted
