"""What a node knows after it was ended at any moment and started again."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from nuntwist.cluster.alone import AloneElection
from nuntwist.cluster.identity import Identity
from nuntwist.core.counters import NodeInfo
from nuntwist.core.node import Node
from nuntwist.errors import StartError, StorageUnavailable
from nuntwist.files import MemoryFiles, Stopped
from nuntwist.oplog.segment import segment_name
from nuntwist.oplog.segments import FileOplog
from nuntwist.secrets import ScryptSecrets
from nuntwist.storage.disk import DiskStorage
from nuntwist.storage.disk_names import manifest_name
from nuntwist.testing import LineConnection, MemoryNode
from nuntwist.values import SET, VALUE, VERSION

pytestmark = pytest.mark.many_cases

LOG = segment_name(1)
State = dict[bytes, dict[bytes, tuple[bytes | None, int]]]


def start(files: MemoryFiles, log_limit: int = 1 << 30) -> MemoryNode:
    """A node on what the files hold."""
    return MemoryNode(FileOplog(files, 1, limit=log_limit), DiskStorage(files, maybeDeferred))


def killed(files: MemoryFiles, log_bytes: int | None = None) -> MemoryFiles:
    """What a kill leaves, perhaps with a shorter log."""
    left = MemoryFiles()
    left.contents = {name: bytearray(data) for name, data in files.contents.items()}
    if log_bytes is not None:
        del left.contents[LOG][log_bytes:]
    return left


def recover(files: MemoryFiles) -> list[int | Failure]:
    """Recover and nothing else; how many operations were replayed, or what went wrong."""
    oplog, storage = FileOplog(files, 1), DiskStorage(files, maybeDeferred)
    oplog.open()
    storage.open()
    chance = random.Random(1)
    node = Node(
        info=NodeInfo("127.0.0.1:3014", b"nun", b"nun-pwd", 0),
        oplog=oplog,
        storage=storage,
        secrets=ScryptSecrets(maybeDeferred, chance.randbytes, log_n=1),
        election=AloneElection(Identity(MemoryFiles(), chance)),
        wall=lambda: 1.8e9,
        call_later=lambda *_: None,
        seconds=lambda: 0.0,
    )
    outcome: list[int | Failure] = []
    node.recover().addBoth(outcome.append)
    return outcome


def state(node: MemoryNode) -> State:
    """All keys of all databases, with value and version; ``$connections`` left out."""
    return {
        database.name: {
            op[6]: (op[VALUE], op[VERSION])
            for shard in database.shards
            for op in shard.values()
            if op[VALUE] is not None and op[6] != b"$connections"
        }
        for database in node.node.catalogue.by_id.values()
    }


def snapshot(node: MemoryNode) -> None:
    """What the timer does."""
    outcome: list[object] = []
    node.node.snapshots.take_changed().addBoth(outcome.append)
    node.settle()
    assert outcome == [None]


def using(node: MemoryNode, name: str = "d") -> LineConnection:
    client = node.tcp()
    assert client.ask(f"use-db {name} t") == "ok \n"
    return client


# -- what was dropped ------------------------------------------------------------------------------


def snapshot_of(files: MemoryFiles, number: int) -> dict[str, bytes]:
    """The files of the snapshot of a database."""
    begins = (f"database-{number}.", f"database-{number}-")
    return {name: bytes(files.contents[name]) for name in files.names() if name.startswith(begins)}


def put_back(files: MemoryFiles, kept: dict[str, bytes]) -> None:
    """Make files hold again what they held."""
    files.contents.update({name: bytearray(content) for name, content in kept.items()})


@pytest.mark.parametrize("admin_first", [False, True])
def test_a_dropped_database_stays_dropped(admin_first: bool) -> None:
    files = MemoryFiles()
    node = start(files)
    admin = node.admin("create-db d t", "create-db e t")
    using(node).ask("set k v")
    if admin_first:
        snapshot(node)
    else:
        admin.ask("snapshot true d")
    left = snapshot_of(files, 1)
    assert admin.ask("drop-db d") == "drop-db success\nok \n"
    assert manifest_name(1) not in files.contents
    # Killed before the file was removed, started, snapshotted, killed again.
    files = killed(files)
    put_back(files, left)
    node = start(files)
    assert b"d" not in state(node)
    assert manifest_name(1) not in files.contents
    snapshot(node)
    files = killed(files)
    put_back(files, left)
    again = start(files)
    assert set(state(again)) == {b"$admin", b"e"}
    assert again.admin("use-db $admin nun-pwd").ask("get d") == "value <Empty>\nok \n"
    assert manifest_name(1) not in files.contents


def test_a_name_used_again_is_the_new_database() -> None:
    files = MemoryFiles()
    node = start(files)
    admin = node.admin("create-db d t")
    using(node).ask("set k old")
    snapshot(node)
    left = snapshot_of(files, 1)
    admin.send("drop-db d")
    admin.send("create-db d t newer")
    using(node).ask("set new v")
    for snapshotted in (False, True):
        if snapshotted:
            snapshot(node)
        files = killed(files)
        put_back(files, left)
        again = start(files)
        assert again.node.catalogue.by_name[b"d"].strategy == b"newer"
        client = using(again)
        assert client.ask("get k") == "value <Empty>\nok \n"
        assert client.ask("get new") == "value v\nok \n"
        assert manifest_name(1) not in files.contents
        node = again


def test_a_database_made_after_the_snapshot_of_all_and_snapshotted_itself() -> None:
    files = MemoryFiles()
    node = start(files)
    admin = node.admin("create-db d t")
    snapshot(node)
    admin.send("create-db e t")
    using(node, "e").ask("set k v")
    admin.send("snapshot true e")
    again = start(killed(files))
    assert state(again) == state(node)
    assert using(again, "e").ask("get k") == "value v\nok \n"


def test_a_snapshot_of_admin_alone_takes_all_that_changed() -> None:
    files = MemoryFiles()
    node = start(files)
    admin = node.admin("create-db d t")
    using(node).ask("set k v")
    assert admin.ask("snapshot true $admin") == "ok \n"
    assert manifest_name(1) in files.contents
    assert state(start(killed(files))) == state(node)


# -- a log that is too short -----------------------------------------------------------------------


def test_a_log_that_ends_before_a_snapshot_stops_the_start() -> None:
    files = MemoryFiles()
    node = start(files)
    node.admin("create-db d t")
    client = using(node)
    for number in range(5):
        client.send(f"set early{number} v")
    cut = node.oplog.size
    for number in range(5):
        client.send(f"set late{number} v")
    snapshot(node)
    (outcome,) = recover(killed(files, cut))
    assert isinstance(outcome, Failure)
    assert outcome.check(StartError)
    assert "log ends at operation 6" in str(outcome.value)
    assert "operation 11" in str(outcome.value)
    assert recover(killed(files)) == [0]


def test_an_entry_beyond_the_log_stops_the_start_too() -> None:
    """The entries of a snapshot may be later than its header's index."""
    files = MemoryFiles()
    node = start(files)
    admin = node.admin("create-db d t", "create-db e t")
    client = using(node)
    admin.protocol.dataReceived(b"snapshot true d\n")
    cut = node.oplog.size
    client.protocol.dataReceived(b"set k v\n")
    node.settle()
    assert admin.received() == "ok \n"
    (outcome,) = recover(killed(files, cut))
    assert isinstance(outcome, Failure)
    assert outcome.check(StartError)
    assert state(start(killed(files)))[b"d"] == state(node)[b"d"]


def test_a_snapshot_is_made_final_after_the_log_is_on_the_disk() -> None:
    files = MemoryFiles()
    node = start(files)
    admin = node.admin("create-db d t")
    done: Deferred[None] = Deferred()
    asked: list[int] = []

    def sync() -> Deferred[Any]:
        asked.append(node.oplog.last.index)
        return done

    node.oplog.sync = sync  # type: ignore[method-assign]
    admin.send("snapshot true d")
    node.settle()
    assert asked == [1]
    assert manifest_name(1) not in files.contents
    done.callback(None)
    node.settle()
    assert admin.received() == "ok \n"
    assert manifest_name(1) in files.contents


def test_no_snapshot_of_what_the_disk_may_not_have() -> None:
    files = MemoryFiles()
    node = start(files)
    admin = node.admin("create-db d t")
    failed: Deferred[None] = Deferred()
    node.oplog.sync = lambda: failed  # type: ignore[method-assign]
    admin.send("snapshot true d")
    failed.errback(StorageUnavailable("no medium"))
    node.settle()
    assert admin.received() == "error storage unavailable: no medium \n"
    assert not any(name.startswith("database-") for name in files.contents)


# -- a snapshot that is not there --------------------------------------------------------------


def test_a_database_without_its_snapshot_stops_the_start() -> None:
    files = MemoryFiles()
    node = start(files)
    node.admin("create-db d t", "use-db $admin nun-pwd", "set like-a-database {}")
    using(node).ask("set k v")
    snapshot(node)
    before = state(node)
    left = killed(files)
    del left.contents[manifest_name(1)]
    names = left.names()
    (outcome,) = recover(left)
    assert isinstance(outcome, Failure)
    assert outcome.check(StartError)
    assert "snapshot of the database d, number 1, is missing" in str(outcome.value)
    assert left.names() == names
    # As the sentence says: without any snapshot, all is in the log.
    for name in snapshot_of(left, 0) | snapshot_of(left, 1):
        del left.contents[name]
    assert state(start(left)) == before


def test_a_log_that_begins_too_late_stops_the_start() -> None:
    files = MemoryFiles()
    node = start(files)
    node.admin("create-db d t")
    client = using(node)
    for number in range(20):
        client.send(f"set k{number} v")
    snapshot(node)
    left = killed(files)
    log = FileOplog(left, 1, limit=node.oplog.size)
    log.open()
    log.append(log.last.epoch, [(b"v", 0, 22, log.last_stamp + 1, SET, 1, b"late")])
    log.append(log.last.epoch, [(b"v", 0, 23, log.last_stamp + 1, SET, 1, b"later")])
    log.forget(21, keep=0)
    log.close()
    assert recover(killed(left)) == [2]
    del left.contents[manifest_name(0)]
    (outcome,) = recover(left)
    assert isinstance(outcome, Failure)
    assert outcome.check(StartError)
    assert "log begins with operation 22, but the snapshots cover no more than operation 0" in str(
        outcome.value
    )


def test_the_snapshot_of_a_dropped_database_is_removed_behind_the_log() -> None:
    files = MemoryFiles()
    node = start(files)
    admin = node.admin("create-db d t")
    snapshot(node)
    done: Deferred[None] = Deferred()
    node.oplog.sync = lambda: done  # type: ignore[method-assign]
    admin.send("drop-db d")
    node.settle()
    assert admin.received() == ""
    assert manifest_name(1) in files.contents
    done.callback(None)
    node.settle()
    assert admin.received() == "drop-db success\nok \n"
    assert manifest_name(1) not in files.contents


def test_a_snapshot_that_cannot_be_removed_yet_goes_at_the_next_start() -> None:
    files = MemoryFiles()
    node = start(files)
    admin = node.admin("create-db d t")
    snapshot(node)
    failed: Deferred[None] = Deferred()
    failed.errback(StorageUnavailable("no medium"))
    node.oplog.sync = lambda: failed  # type: ignore[method-assign]
    assert admin.ask("drop-db d") == "drop-db success\nok \n"
    assert manifest_name(1) in files.contents
    left = killed(files)
    assert b"d" not in state(start(left))
    assert manifest_name(1) not in left.contents


# -- any moment ------------------------------------------------------------------------------------


def test_a_kill_at_every_byte_leaves_what_was_acknowledged() -> None:
    files = MemoryFiles()
    node = start(files)
    admin = node.admin()
    moments: list[tuple[int, State]] = [(0, state(node))]

    def note() -> None:
        moments.append((node.oplog.size, state(node)))

    for command in ("create-db d t", "create-db e t arbiter"):
        admin.send(command)
        note()
    client = using(node)
    for command in (
        "set a 1\nset b 2\nset a 3",
        "increment n 5",
        "remove a",
        "set-safe b 7 x",
        "set a again",
    ):
        client.send(command)
        note()
    admin.send("drop-db d")
    note()
    assert node.oplog.size == len(files.contents[LOG])
    for size in range(node.oplog.size + 1):
        expected = [known for end, known in moments if end <= size][-1]
        assert state(start(killed(files, size))) == expected, size


def test_everything_that_matters_comes_back() -> None:
    files = MemoryFiles()
    node = start(files)
    node.admin(
        "create-db c t arbiter",
        "use-db c t",
        "create-user ana secret",
        "set-permissions ana r a*",
    )
    arbiter = using(node, "c")
    arbiter.send("arbiter")
    arbiter.send("set-safe k 5 v")
    assert "unresolved" in arbiter.ask("set-safe k 1 w")
    for snapshotted in (False, True):
        if snapshotted:
            snapshot(node)
        again = start(killed(files))
        database = again.node.catalogue.by_name[b"c"]
        before = node.node.catalogue.by_name[b"c"]
        assert database.strategy == b"arbiter"
        assert database.conflicts == before.conflicts != {}
        ana = again.tcp()
        assert ana.ask("use-db c ana wrong") == "error Invalid token \n"
        assert ana.ask("use-db c ana secret") == "ok \n"
        assert ana.ask("get abc") == "value <Empty>\nok \n"
        assert ana.ask("get b").startswith("permission denied\n")
        waiting = using(again, "c")
        number = next(iter(database.conflicts[b"k"])).rpartition(b"_")[2].decode()
        assert f"resolve {number} c " in waiting.ask("arbiter")
        assert waiting.ask(f"resolve {number} c k 6 settled") == "ok \n"
        assert waiting.ask("get-safe k") == "value-version 7 settled\nok \n"


def test_open_conflicts_keep_their_order_and_what_was_before_them() -> None:
    """Neither is in a snapshot; both can be told from the conflict keys."""
    files = MemoryFiles()
    node = start(files)
    node.admin("create-db c t arbiter")
    arbiter = using(node, "c")
    arbiter.send("arbiter")
    for key, version in (("one", 8), ("two", 3)):
        arbiter.send(f"set-safe {key} {version} first")
    for number in range(9):
        arbiter.send(f"set-safe {'one' if number % 3 else 'two'} 1 value-{number}")
    before = node.node.catalogue.by_name[b"c"]
    asked = [
        (key, number.decode().rpartition("_")[2])
        for key, pending in before.conflicts.items()
        for number in pending
    ]
    for snapshotted in (False, True):
        if snapshotted:
            snapshot(node)
        again = start(killed(files))
        after = again.node.catalogue.by_name[b"c"]
        assert list(after.conflicts.items()) == list(before.conflicts.items())
        client = using(again, "c")
        client.send("arbiter")
        for key, number in asked:
            assert client.ask(f"resolve {number} c {key.decode()} 0 settled") == "ok \n"
        assert client.ask("get-safe one") == "value-version 10 settled\nok \n"
        assert client.ask("get-safe two") == "value-version 5 settled\nok \n"


@pytest.mark.parametrize("snapshotted", [False, True])
def test_what_was_before_conflicts_outlives_a_restart_when_the_first_is_decided(
    snapshotted: bool,
) -> None:
    files = MemoryFiles()
    node = start(files)
    node.admin("create-db c t arbiter")
    arbiter = using(node, "c")
    arbiter.send("arbiter\nset-safe k 8 first\nset-safe k 1 second\nset-safe k 1 third")
    database = node.node.catalogue.by_name[b"c"]
    first, second = (key.decode().rpartition("_")[2] for key in database.conflicts[b"k"])
    assert arbiter.ask(f"resolve {first} c k 0 one").endswith("ok \n")
    if snapshotted:
        snapshot(node)
    client = using(start(killed(files)), "c")
    assert client.ask(f"resolve {second} c k 0 two") == "ok \n"
    assert client.ask("get-safe k") == "value-version 10 two\nok \n"


def test_what_a_key_had_before_it_was_removed_does_not_count() -> None:
    node = start(MemoryFiles())
    node.admin("create-db c t arbiter")
    client = using(node, "c")
    client.send("arbiter\nset-safe k 8 first\nset-safe k 1 second")
    for expected in (10, 3):
        database = node.node.catalogue.by_name[b"c"]
        (conflict,) = database.conflicts[b"k"]
        number = conflict.decode().rpartition("_")[2]
        assert client.ask(f"resolve {number} c k 2 settled").endswith("ok \n")
        assert client.ask("get-safe k") == f"value-version {expected} settled\nok \n"
        client.send("remove k\nset-safe k -5 again")


class Scenario:
    """A row of steps on one set of files, which may end in any of them.

    :ivar states: what the node held after each step that was done.
    :ivar safe: how many states there were after the last snapshot: no loss of power takes
        those back.
    """

    def __init__(self, files: MemoryFiles, log_limit: int) -> None:
        self.files = files
        self.log_limit = log_limit
        self.states: list[State] = []
        self.safe = 0

    def run(self) -> None:
        """Do all steps, or those before the files end.

        :raise Stopped: in the next one.
        """
        node = start(self.files, self.log_limit)
        self.note(node)
        admin = node.admin()
        for step in STEPS_TO_END_IN:
            if step == "snapshot":
                self.snapshot(node)
            elif ": " in step:
                name, _, command = step.partition(": ")
                client = node.tcp()
                client.send(f"use-db {name} t")
                client.send(command)
            else:
                admin.send(step)
            node.settle()
            self.note(node)
            if step == "snapshot":
                self.safe = len(self.states)

    def snapshot(self, node: MemoryNode) -> None:
        node.node.snapshots.take_changed().addErrback(lambda _: None)

    def note(self, node: MemoryNode) -> None:
        stop_at = self.files.stop_at
        if stop_at is not None and self.files.steps > stop_at:
            raise Stopped
        self.states.append(state(node))


STEPS_TO_END_IN = (
    "create-db d t",
    "create-db e t newer",
    "d: set a 1",
    "e: set b 1",
    "snapshot true d",
    "d: set a 2",
    "drop-db e",
    "snapshot",
    "create-db e t",
    "e: increment n 4",
    "d: remove a",
    "snapshot true e",
    "drop-db d",
    "create-db d t arbiter",
    "d: set z 1",
    "snapshot",
    "e: set b 2",
    "drop-db d",
    "drop-db e",
    "create-db d t",
    "snapshot",
    "d: set last 1",
)


@pytest.mark.parametrize("power_lost", [False, True], ids=["killed", "power lost"])
@pytest.mark.parametrize("log_limit", [1 << 30, 1_500], ids=["whole log", "cut log"])
def test_an_end_at_every_step_of_the_disk(power_lost: bool, log_limit: int) -> None:
    whole = Scenario(MemoryFiles(), log_limit)
    whole.run()
    assert whole.files.steps > 60
    assert (LOG in whole.files.contents) == (log_limit > 1_500)
    for stop_at in range(whole.files.steps + 1):
        files = MemoryFiles()
        files.stop_at = stop_at
        cut = Scenario(files, log_limit)
        with contextlib.suppress(Stopped):
            cut.run()
        done = len(cut.states)
        assert cut.states == whole.states[:done]
        files.restart(power_lost=power_lost)
        earliest = cut.safe - 1 if power_lost else done - 1
        possible = whole.states[max(0, earliest) : done + 1]
        node = start(files, log_limit)
        found = state(node)
        assert found in possible, stop_at
        # Whatever a start mends stays mended, and what a snapshot says agrees with it.
        assert state(start(killed(files), log_limit)) == found, stop_at
        snapshot(node)
        assert state(start(killed(files), log_limit)) == found, stop_at
        left = {name for name in files.names() if name.startswith("database-")}
        by_id = node.node.catalogue.by_id
        assert left == {name for number in by_id for name in snapshot_of(files, number)}, stop_at


COMMANDS = st.one_of(
    st.builds(
        "{} {}".format,
        st.sampled_from(["set", "set", "set"]),
        st.builds("k{} {}".format, st.integers(0, 5), st.integers(0, 99)),
    ),
    st.builds("remove k{}".format, st.integers(0, 5)),
    st.builds("increment n{}".format, st.integers(0, 2)),
    st.builds("set-safe k{} {} v".format, st.integers(0, 5), st.integers(-1, 9)),
    st.builds("set-permissions u{} r a{}".format, st.integers(0, 1), st.integers(0, 9)),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("run"), st.sampled_from("de"), st.lists(COMMANDS, max_size=5)),
        st.tuples(st.sampled_from(["create", "drop", "snapshot"]), st.sampled_from("de")),
        st.tuples(st.sampled_from(["all", "restart", "stop"])),
    ),
    max_size=25,
)


Model = dict[str, dict[str, str]]


def follow(model: Model, name: str, command: str) -> None:
    """What a command that was not refused does, as the protocol says."""
    word, key, *rest = command.split(" ", 2)
    values = model[name]
    if word == "set":
        values[key] = rest[0]
    elif word == "set-safe":
        values[key] = rest[0].partition(" ")[2]
    elif word == "remove":
        values.pop(key, None)
    elif word == "increment":
        values[key] = str(int(values.get(key, "0")) + 1)


def plain_values(node: MemoryNode) -> Model:
    """All values of keys that clients chose, by database."""
    return {
        name.decode(): {
            key.decode(): (value or b"").decode()
            for key, (value, _) in values.items()
            if not key.startswith(b"$")
        }
        for name, values in state(node).items()
        if name != b"$admin"
    }


@settings(max_examples=80)
@given(STEPS)
def test_no_order_of_things_changes_what_is_there(steps: list[tuple[Any, ...]]) -> None:
    files = MemoryFiles()
    node = start(files)
    admin = node.admin()
    model: Model = {}
    for step in steps:
        if step[0] == "run":
            client = node.tcp()
            client.send("auth nun nun-pwd")
            client.ask(f"use-db {step[1]} t")
            for command in step[2]:
                if client.ask(command).endswith("ok \n"):
                    follow(model, step[1], command)
        elif step[0] == "create":
            if admin.ask(f"create-db {step[1]} t").endswith("ok \n"):
                model[step[1]] = {}
        elif step[0] == "drop":
            if admin.ask(f"drop-db {step[1]}").endswith("ok \n"):
                del model[step[1]]
        elif step[0] == "snapshot":
            admin.send(f"snapshot true {step[1]}")
        elif step[0] == "all":
            snapshot(node)
        else:
            if step[0] == "stop":
                snapshot(node)
            before = state(node)
            files = killed(files)
            node = start(files)
            admin = node.admin()
            assert state(node) == before
        assert plain_values(node) == model
    before = state(node)
    files = killed(files)
    again = start(files)
    assert state(again) == before
    # And it goes on from there: no index is given twice.
    again.admin("create-db last t")
    using(again, "last").ask("set after v")
    assert state(start(killed(files)))[b"last"] == state(again)[b"last"]
