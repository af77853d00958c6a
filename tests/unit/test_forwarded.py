"""The primary's side of forwarded writes: each request is run once, and known for good."""

from __future__ import annotations

import binascii

import pytest

from nuntwist.archive.format import Reader
from nuntwist.cluster.forwards import Behind, Outcome
from nuntwist.core.forwarded import Executor
from nuntwist.core.forwards import Item
from nuntwist.core.limits import Limits
from nuntwist.files import MemoryFiles
from nuntwist.testing import MemoryNode
from nuntwist.values import KEY
from tests.unit.forwarding_set import answers, at, formed, forwarder
from tests.unit.lost import LateNode, Threads
from tests.unit.memory_set import MemorySet
from tests.unit.test_recovery import killed, snapshot, start, state


@pytest.fixture
def three() -> MemorySet:
    """A set whose primary is the first, with the database ``d``."""
    return formed()


# -- markers ---------------------------------------------------------------------------------------


def test_markers_are_the_servers_own(three: MemorySet) -> None:
    client, admin = at(three, 2), three.nodes[2].admin("use-db $admin nun-pwd")
    answers(three, client, "set k 1")
    key = "$$forwarded_0000000000000002_0"
    marker = three.nodes[3].node.catalogue.admin.value(key.encode())
    assert marker is not None
    assert marker.endswith(b" .")
    assert "forwarded" not in admin.ask("keys")
    kept = "error the server alone writes keys that begin with $$forwarded_ \n"
    for command in (f"set {key} 1", f"remove {key}", f"increment {key}", f"set-safe {key} 1 x"):
        assert answers(three, admin, command) == kept
    assert answers(three, admin, f"rp 1 replicate $admin {key} -1 x") == kept
    # Elsewhere it is a key like any other.
    assert answers(three, three.nodes[2].admin("use-db d t"), f"set {key} 1") == "ok \n"


def test_markers_of_nodes_that_left_are_removed(three: MemorySet) -> None:
    answers(three, at(three, 2), "set k 1")
    answers(three, three.nodes[2].admin(), "create-db e t")
    answers(three, at(three, 3), "set k 1")
    forwards = three.forwards[1]
    forwards.forget([2, 77])
    three.run(0.1)
    for me in three.ids:
        keys = [key for key in state(three.nodes[me])[b"$admin"] if b"forwarded" in key]
        assert keys == [b"$$forwarded_0000000000000003_0"]


def test_a_clock_that_was_set_back_does_not_lose_requests(three: MemorySet) -> None:
    client = three.nodes[2].admin("use-db d t")
    assert answers(three, client, "increment n\ncreate-user ann t") == "ok \nok \n"
    forwarder(three, 2)._request = 5
    assert answers(three, client, "increment n\ncreate-user ann t\nget n") == (
        "ok \nok \nvalue 2\nok \n"
    )
    assert forwarder(three, 2)._request > 1 << 20


class Restarted:
    """A primary and what it answers to requests.

    :param on: where its log and snapshots are, or itself.
    """

    def __init__(self, on: MemoryFiles | MemoryNode) -> None:
        self.node = on if isinstance(on, MemoryNode) else start(on)
        self.executor = Executor(self.node.node, self.node.clock.callLater)

    def run(self, request: int, *texts: bytes, lane: int = 0) -> object:
        database = self.node.node.catalogue.by_name.get(b"d")
        number = None if database is None else database.number
        items = [Item(number, None, True, text) for text in texts]
        answered: list[object] = []
        behind = self.executor.run(
            7, lane, request, items, lambda index, replies: answered.append((index, replies))
        )
        self.node.settle()
        return answered[0] if answered else behind


@pytest.mark.parametrize("with_snapshot", [False, True])
def test_a_request_is_known_after_a_restart(with_snapshot: bool) -> None:
    files = MemoryFiles()
    first = Restarted(files)
    created = first.run(3, b"create-db d t", lane=1)
    assert created == (2, b"+18:create-db success\n.")
    texts = (b"increment n", b"increment n x", b"set-safe n 9 1", b"set-safe n 1 1")
    run = first.run(4, *texts)
    assert run == (5, b".-17:invalid number: x.-16:Invalid version!")
    if with_snapshot:
        snapshot(first.node)
    again = Restarted(killed(files))
    last = again.node.oplog.last.index
    assert again.run(3, b"create-db d t", lane=1) == created
    assert again.run(4, *texts) == run
    assert again.run(3, b"increment n") == 4
    assert again.node.oplog.last.index == last
    assert again.run(5, b"increment n") == (7, b".")
    assert state(again.node)[b"d"][b"n"][0] == b"2"


def test_a_backup_has_no_markers_and_a_restore_leaves_them() -> None:
    files = MemoryFiles()
    primary = Restarted(files)
    primary.run(3, b"create-db d t", lane=1)
    admin = primary.node.admin("use-db $admin nun-pwd", "set note x")
    data = b""
    number = admin.ask("backup-begin $admin|d").split()[1]
    while (piece := admin.ask(f"backup-read {number}")).startswith("backup-data"):
        data += binascii.a2b_base64(piece.split()[1])
    entries = state(primary.node)[b"$admin"]
    assert sum(b"forwarded" in key for key in entries) == 1
    assert b"forwarded" not in b"".join(
        op[KEY] for block in Reader("backup").feed(data) if isinstance(block, list) for op in block
    )
    number = admin.ask("restore-begin force $admin|d").split()[1]
    admin.send(f"restore-write {number} {binascii.b2a_base64(data, newline=False).decode()}")
    admin.send(f"restore-commit {number}")
    assert "ok" in admin.received()
    assert primary.run(3, b"create-db d t", lane=1) == (2, b"+18:create-db success\n.")


def test_a_request_that_comes_again_while_it_is_under_way_runs_once() -> None:
    primary, threads = Restarted(MemoryFiles()), Threads()
    primary.run(1, b"create-db d t", lane=1)
    primary.node.node.secrets._in_thread = threads
    threads.hold = True
    assert primary.run(2, b"create-db e t", lane=1) is None
    assert primary.run(2, b"create-db e t", lane=1) is None
    assert primary.run(1, b"create-db x t", lane=1) == 2
    # It was given up; the one after it comes in its turn, and the last one counts.
    assert primary.run(3, b"create-db f t", lane=1) is None
    assert primary.run(4, b"create-db g t", lane=1) is None
    assert primary.run(3, b"create-db f t", lane=1) == 4
    assert len(threads._kept) == 1
    threads.run_one()
    primary.node.settle()
    threads.run_one()
    assert not threads.busy
    assert state(primary.node).keys() == {b"$admin", b"d", b"e", b"g"}


def test_an_answer_that_is_not_durable_yet_is_not_given_again() -> None:
    node = LateNode()
    primary = Restarted(node)
    node.threads.hold = True
    assert primary.run(2, b"increment n") is None
    # It is primary anew, and is asked anew.
    primary.executor.stop()
    assert primary.run(2, b"increment n") is None
    answered: list[tuple[int, bytes]] = []
    primary.executor._jobs[7, 0].answer = lambda index, replies: answered.append((index, replies))
    node.threads.fail_one()
    node.settle()
    lost = b"storage unavailable: the log failed, the node must be restarted"
    assert answered == [(0, b"-%d:%b" % (len(lost), lost))]
    assert b"n" not in state(node)[b"d"]


def test_answers_that_are_more_than_may_be_kept_are_given_up() -> None:
    nodes = MemorySet(durability="disk", limits=Limits(output_limit=1024))
    formed(nodes)
    client = at(nodes, 2)
    nodes.threads[1].hold = True
    client.send("set k 1\n" + "\n".join(["set-safe k -2 x"] * 100))
    nodes.run(0.1)
    while nodes.threads[1].busy:
        nodes.threads[1].run_one()
    nodes.run(0.1)
    lost = "error outcome unknown: the primary has lost the answer \n"
    assert client.received() == lost * 101


def test_what_comes_after_a_request_is_dropped_with_the_reign() -> None:
    primary, threads = Restarted(MemoryFiles()), Threads()
    primary.node.node.secrets._in_thread = threads
    threads.hold = True
    for stop in (False, True):
        first = 10 if stop else 2
        assert primary.run(first, b"create-db e%d t" % first, lane=1) is None
        assert primary.run(first + 1, b"create-db f%d t" % first, lane=1) is None
        threads.run_one()
        if stop:
            primary.executor.stop()
        # Whether writes are refused does not matter to that: it is answered so.
        primary.node.node.pipeline.journal.refusal = b"too few replicas"
        primary.node.settle()
        primary.node.node.pipeline.journal.refusal = None
        assert threads.busy is False
    assert state(primary.node).keys() == {b"$admin", b"e2", b"e10"}


def test_what_a_primary_has_not_logged_when_it_steps_down_it_does_not_log_later() -> None:
    primary, threads = Restarted(MemoryFiles()), Threads()
    primary.node.node.secrets._in_thread = threads
    threads.hold = True
    assert primary.run(2, b"create-db e t", lane=1) is None
    primary.executor.stop()
    # It is elected again at once, and is sent it again.
    assert primary.run(2, b"create-db e t", lane=1) is None
    answered: list[tuple[int, bytes]] = []
    threads.run_one()
    assert b"e" not in state(primary.node)
    job = primary.executor._jobs[7, 1]
    job.answer = lambda index, replies: answered.append((index, replies))
    threads.run_one()
    assert answered == [(2, b"+18:create-db success\n.")]


def test_who_is_primary_no_more_forgets_what_it_was_running(three: MemorySet) -> None:
    threads = Threads()
    threads.hold = True
    three.nodes[1].node.secrets._in_thread = threads
    admin = three.nodes[2].admin()
    forwarder(three, 2)._wait = 60.0
    admin.send("create-db e t")
    three.run(0.01)
    assert len(three.forwards[1]._executor._jobs) == 1
    three.isolate(1)
    three.run(3.0)
    assert not three.forwards[1]._executor._jobs
    # The next one has done it.
    assert admin.received() == "create-db success\nok \n"
    threads.run_one()
    assert b"e" not in state(three.nodes[1])
    three.heal()
    three.run(3.0)
    assert state(three.nodes[1]) == state(three.nodes[2])


def test_an_answer_of_another_epoch_or_of_another_node_does_not_count(three: MemorySet) -> None:
    client = at(three, 2)
    client.send("increment n")
    number = three.members[2].election.number
    (lane,) = [lane for lane in forwarder(three, 2)._lanes if lane.under_way]
    forwards = three.forwards[2]
    forwards.answered(1, Outcome(number - 1, 0, lane.request, 0, b"."))
    forwards.answered(3, Outcome(number, 0, lane.request, 0, b"."))
    forwards.answered(1, Outcome(number, 0, lane.request - 1, 0, b"."))
    forwards.answered(1, Outcome(number, 1, lane.request, 0, b"."))
    forwards.answered(1, Outcome(number, 77, lane.request, 0, b"."))
    forwards.answered(1, Behind(number, 0, lane.request, lane.request - 1))
    three.run(0.0)
    assert client.received() == ""
    assert answers(three, client, "get n") == "ok \nvalue 1\nok \n"


@pytest.mark.parametrize("replies", [b"", b"..", b"-3:no", b"x", b"+2:ab", b"-:a", b".:"])
def test_an_answer_that_cannot_be_read_is_not_guessed_at(three: MemorySet, replies: bytes) -> None:
    client = at(three, 2)
    client.send("increment n")
    lane = forwarder(three, 2)._lanes[0]
    number = three.members[2].election.number
    three.forwards[2].answered(1, Outcome(number, 0, lane.request, 0, replies))
    assert client.received() == "error outcome unknown: the primary's answer cannot be read \n"
    assert forwarder(three, 2).pending == 0
