"""What a primary has decided, on a node that follows it: the same state, the same events, and
nothing is seen before it is durable there."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.python.failure import Failure

from nuntwist.core.following import Following
from nuntwist.errors import OutcomeUnknown, StorageUnavailable
from nuntwist.files import MemoryFiles
from nuntwist.oplog.flushed import FlushedOplog
from nuntwist.oplog.record import split
from nuntwist.oplog.segments import FileOplog
from nuntwist.testing import LineConnection, MemoryNode
from tests.unit.lost import Threads
from tests.unit.test_recovery import state


class Pair:
    """A primary, and a secondary that is given its records as they are written.

    :ivar lost: with what the secondary's log has failed.
    """

    def __init__(self, secondary: MemoryNode | None = None) -> None:
        self.primary = MemoryNode()
        self.secondary = secondary or MemoryNode()
        self.following = Following(self.secondary.node)
        self.lost: list[BaseException | None] = []
        self.primary.oplog.written = self._written
        self.admin = self.primary.admin()

    def _written(self, first: int, last: int, data: bytes) -> None:
        try:
            durable = self.following.follow(split(data, "the primary"))
        except (StorageUnavailable, OutcomeUnknown) as error:
            self.lost.append(error)
            return
        if durable is not None:
            durable.addErrback(self._lost)

    def _lost(self, reason: Failure) -> None:
        self.lost.append(reason.value)

    def on_the_secondary(self, database: str = "d", token: str = "t") -> LineConnection:
        """A client there."""
        client = self.secondary.tcp()
        assert client.ask(f"use-db {database} {token}") == "ok \n"
        return client


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    pair.admin.send("create-db d t")
    pair.admin.send("use-db d t")
    pair.admin.received()
    return pair


def test_what_is_set_there_is_read_here(pair: Pair) -> None:
    reader = pair.on_the_secondary()
    pair.admin.send("set k 1")
    assert reader.ask("get-safe k") == "value-version 0 1\nok \n"
    pair.admin.send("increment k 4")
    assert reader.ask("get-safe k") == "value-version 1 5\nok \n"
    pair.admin.send("remove k")
    assert reader.ask("get k") == "value <Empty>\nok \n"
    assert reader.ask("keys") == "keys ,$connections\nok \n"
    assert pair.secondary.node.catalogue.by_name[b"d"].find(b"k") is None


def test_a_watcher_here_is_told_at_once(pair: Pair) -> None:
    watcher = pair.on_the_secondary()
    assert watcher.ask("watch k") == "ok \n"
    pair.admin.send("set k 1")
    pair.admin.send("remove k")
    pair.secondary.settle()
    assert watcher.received() == "changed k 1\nchanged-version k 0 1\nremoved k\n"


def test_databases_come_and_go_for_those_who_are_here(pair: Pair) -> None:
    admin = pair.secondary.admin("use-db $admin nun-pwd", "watch e")
    pair.admin.send("create-db e t newer")
    pair.secondary.settle()
    assert admin.received() == "changed e {}\nchanged-version e 0 {}\n"
    client = pair.on_the_secondary("e")
    client.send("watch k")
    client.received()
    pair.admin.send("drop-db e")
    pair.secondary.settle()
    assert admin.received() == "removed e\n"
    assert client.ask("get k") == "error no-db-selected\nerror error no-db-selected\n \n"
    assert state(pair.secondary) == state(pair.primary)


def test_users_and_their_rights_are_those_of_the_primary(pair: Pair) -> None:
    pair.admin.send("create-user ann pwd")
    pair.admin.send("set-permissions ann r a*")
    pair.admin.send("set a1 x")
    client = pair.secondary.tcp()
    assert client.ask("use-db d ann pwd") == "ok \n"
    assert client.ask("get a1") == "value x\nok \n"
    assert "permission denied" in client.ask("get b")
    pair.admin.send("set-permissions ann r b*")
    assert "permission denied" in client.ask("get a1")
    pair.admin.send("create-user ann other")
    assert "Invalid token" in pair.secondary.tcp().ask("use-db d ann pwd")


def test_it_makes_later_stamps_than_those_it_has_seen(pair: Pair) -> None:
    pair.admin.send("set k 1")
    assert pair.secondary.node.stamps.next() > pair.primary.oplog.last_stamp


# -- a log that is durable later -------------------------------------------------------------------


class LatePair(Pair):
    """The flushes of the secondary wait to be told; the database ``d`` is on both, with ``a``."""

    def __init__(self) -> None:
        self.files, self.threads = MemoryFiles(), Threads()
        log = FlushedOplog(FileOplog(self.files, 1, self.threads), before_answers=True)
        super().__init__(MemoryNode(log))
        for command in ("create-db d t", "use-db d t", "set a 1"):
            self.admin.send(command)
        self.watcher = self.on_the_secondary()
        self.watcher.send("watch a")
        self.watcher.send("watch b")
        self.watcher.received()
        self.threads.hold = True

    def flush(self) -> None:
        while self.threads.busy:
            self.threads.run_one()
        self.secondary.settle()

    def seen(self) -> str:
        self.secondary.settle()
        return self.watcher.received()


def test_nothing_is_seen_here_before_it_is_durable_here() -> None:
    pair = LatePair()
    pair.admin.send("set a 7")
    assert pair.seen() == ""
    pair.watcher.send("get a")
    assert pair.seen() == ""
    other = pair.on_the_secondary()
    assert other.ask("get b") == "value <Empty>\nok \n"
    pair.flush()
    assert pair.seen() == "changed a 7\nchanged-version a 1 7\nvalue 7\nok \n"


def test_what_comes_after_a_database_waits_until_that_is_durable() -> None:
    pair = LatePair()
    for command in ("set b 1", "create-db e t", "use-db e t", "set k 5", "use-db d t", "set b 2"):
        pair.admin.send(command)
    client = pair.secondary.tcp()
    assert client.ask("use-db e t") == "error Not a valid database name \n"
    assert pair.seen() == ""
    pair.flush()
    assert pair.seen() == "".join(
        f"changed b {value}\nchanged-version b {value - 1} {value}\n" for value in (1, 2)
    )
    assert client.ask("use-db e t") == "ok \n"
    assert client.ask("get k") == "value 5\nok \n"
    assert state(pair.secondary) == state(pair.primary)


def test_a_removal_is_forgotten_when_it_is_durable() -> None:
    pair = LatePair()
    pair.admin.send("remove a")
    database = pair.secondary.node.catalogue.by_name[b"d"]
    assert database.find(b"a") is not None
    pair.flush()
    assert database.find(b"a") is None
    assert pair.seen() == "removed a\n"


def test_what_is_lost_here_was_never_seen_here() -> None:
    pair = LatePair()
    for command in ("set a 7", "set b 8", "create-db e t", "use-db e t", "set k 5"):
        pair.admin.send(command)
    pair.watcher.send("get a")
    pair.threads.fail_one()
    assert pair.seen() == "value 1\nok \n"
    assert [type(error) for error in pair.lost] == [OutcomeUnknown] * 4
    assert b"e" not in pair.secondary.node.catalogue.by_name
    assert pair.secondary.node.pipeline.journal.index == 2
    # And it takes nothing more.
    pair.admin.send("set k 6")
    assert isinstance(pair.lost[-1], StorageUnavailable)
    assert pair.watcher.ask("get a") == "value 1\nok \n"


def test_what_cannot_be_written_here_changes_nothing_here() -> None:
    pair = LatePair()
    pair.files.failing["write"] = errno.EIO
    pair.admin.send("set a 7")
    assert [type(error) for error in pair.lost] == [StorageUnavailable]
    assert pair.seen() == ""
    assert pair.watcher.ask("get a") == "value 1\nok \n"
    assert pair.following.last.index == 2


# -- whatever is done ------------------------------------------------------------------------------


COMMANDS = st.one_of(
    st.builds("set k{} {}".format, st.integers(0, 3), st.integers(0, 99)),
    st.builds(
        "set-safe k{} {} {}".format, st.integers(0, 3), st.integers(-1, 5), st.integers(0, 9)
    ),
    st.builds("increment n{}".format, st.integers(0, 1)),
    st.builds("remove k{}".format, st.integers(0, 3)),
    st.sampled_from(
        [
            "create-db e t",
            "create-db e t arbiter",
            "drop-db e",
            "use-db e t",
            "use-db d t",
            "create-user ann x",
            "set-permissions ann rw k*",
            "remove $$user_ann",
            "snapshot false",
        ]
    ),
)


@settings(max_examples=60)
@given(st.lists(COMMANDS, max_size=40))
def test_whatever_is_done_there_the_state_is_the_same_here(commands: list[str]) -> None:
    pair = Pair()
    pair.admin.send("create-db d t")
    pair.admin.send("use-db d t")
    there, here = pair.primary.tcp(), pair.on_the_secondary()
    there.send("use-db d t")
    for client in (there, here):
        for key in ("k0", "k1", "n0"):
            client.send(f"watch {key}")
        client.received()
    for command in commands:
        pair.admin.send(command)
        pair.primary.settle()
        pair.secondary.settle()
        assert here.received() == there.received()
    assert state(pair.secondary) == state(pair.primary)
    assert pair.following.last == pair.primary.oplog.last
