"""Conflicts that nobody decides, and those that were decided long ago."""

from __future__ import annotations

import pytest

from nuntwist.core.settling import AT_ONCE, Settling
from nuntwist.testing import FrameConnection, LineConnection, MemoryNode
from tests.unit.memory_set import MemorySet

PENDING = "debug pending-conflicts"


class Case:
    """A node with a database of the strategy ``arbiter``, and one who writes into it."""

    def __init__(self, timeout: float = 60.0, kept: float = 600.0) -> None:
        self.node = MemoryNode()
        self.node.admin("create-db d t arbiter").close()
        self.settling = Settling(self.node.node, self.node.clock, timeout, kept)
        self.settling.start()
        self.arbiter: FrameConnection = self.node.ws()
        self.arbiter.ask("use-db d t; arbiter")
        self.writer: LineConnection = self.node.tcp()
        self.writer.ask("use-db d t")

    def pass_time(self, seconds: float) -> None:
        self.node.clock.advance(seconds)
        self.node.settle()

    def conflict(self, key: str, value: str) -> None:
        answer = self.writer.ask(f"set-safe {key} -5 {value}")
        assert answer.startswith("error $$conflitct unresolved"), answer

    def resolve(self, message: str, value: str) -> None:
        _, number, database, version, key = message.split(" ")[:5]
        assert self.arbiter.ask(f"resolve {number} {database} {key} {version} {value}") == ["ok \n"]

    def pending(self) -> str:
        admin = self.node.admin("use-db d t")
        answer = str(admin.ask(PENDING))
        admin.close()
        return answer


NONE = "conflitcts-list \nok \n"


def test_the_change_made_last_has_the_key_in_the_end() -> None:
    case = Case()
    case.writer.ask("set k what it was")
    watcher = case.node.ws()
    watcher.ask("use-db d t; watch k")
    case.conflict("k", "the first one")
    case.conflict("k", "the second one")
    watcher.received()
    case.pass_time(59.0)
    assert watcher.received() == []
    assert case.pending() != NONE
    case.pass_time(3.0)
    assert watcher.received() == [
        "changed k the second one\n",
        "changed-version k 1 the second one\n",
    ]
    assert case.writer.ask("get-safe k") == "value-version 1 the second one\nok \n"
    assert case.pending() == NONE
    assert case.node.node.counters.conflicts_settled == 1
    assert case.writer.ask("set k more") == "ok \n"
    # An arbiter that comes too late is told so, and changes nothing.
    first = case.arbiter.received()[0]
    _, number, database, version, key = first.split(" ")[:5]
    late = case.arbiter.ask(f"resolve {number} {database} {key} {version} late")
    assert late[-1].startswith("error no such conflict")
    assert case.writer.ask("get k") == "value more\nok \n"


def test_each_new_conflict_of_a_key_gives_it_time() -> None:
    case = Case()
    case.writer.ask("set k 1")
    case.conflict("k", "a")
    case.pass_time(50.0)
    case.conflict("k", "b")
    case.pass_time(50.0)
    assert case.pending() != NONE
    case.pass_time(12.0)
    assert case.pending() == NONE


@pytest.mark.parametrize(
    ("first", "values", "decided", "expected"),
    [
        ("old", ["new"], {}, "new"),
        ("old with spaces", ["new with spaces"], {}, "new with spaces"),
        ("", ["new"], {}, "new"),
        ("old", [""], {}, ""),
        ("a", ["a a"], {}, "a a"),
        ("old", ["x", "y", "z z"], {}, "z z"),
        ("old", ["x", "y"], {0: "mine"}, "y"),
        # What an arbiter has decided of a later change is the later one.
        ("old one", ["x x", "y y"], {1: "mine own"}, "mine own"),
        ("old", ["x", "y", "z"], {0: "a", 1: "b"}, "z"),
        ("$conflicts_k_17 is what it was", ["new one"], {}, "new one"),
    ],
)
def test_whatever_the_values_are(
    first: str, values: list[str], decided: dict[int, str], expected: str
) -> None:
    case = Case()
    case.writer.ask(f"set k {first}")
    for value in values:
        case.conflict("k", value)
    messages = case.arbiter.received()
    for number, value in decided.items():
        case.resolve(messages[number], value)
    case.pass_time(62.0)
    assert case.writer.ask("get-safe k") == f"value-version 1 {expected}\nok \n"
    assert case.pending() == NONE


def test_decided_ones_are_removed_after_a_time() -> None:
    case = Case()
    case.writer.ask("set k 1")
    case.conflict("k", "a")
    (message,) = case.arbiter.received()
    case.resolve(message, "decided")
    assert "$conflicts_k_" in case.writer.ask("keys")
    case.pass_time(590.0)
    assert "$conflicts_k_" in case.writer.ask("keys")
    case.pass_time(20.0)
    assert case.writer.ask("keys") == "keys ,$connections,k\nok \n"
    assert case.writer.ask("get-safe k") == "value-version 1 decided\nok \n"


def test_without_a_time_nothing_happens() -> None:
    case = Case(0.0, 0.0)
    case.writer.ask("set k 1")
    case.conflict("k", "a")
    case.pass_time(1e6)
    assert case.pending() != NONE
    assert case.node.node.counters.conflicts_settled == 0


def test_many_are_settled_in_turns() -> None:
    case = Case(kept=0.0)
    for number in range(AT_ONCE):
        case.writer.ask(f"set k{number} 1")
        case.conflict(f"k{number}", "a")
    case.pass_time(60.0)
    seen = []
    for _ in range(4):
        case.pass_time(1.0)
        seen.append(case.node.node.counters.conflicts_settled)
    # A conflict and its key are two operations.
    assert seen[0] < AT_ONCE
    assert seen[-1] == AT_ONCE
    assert case.pending() == NONE


def test_in_a_set_the_primary_does_it() -> None:
    nodes = MemorySet()
    nodes.run(2.0)
    nodes.nodes[1].admin("create-db d t arbiter", "use-db d t", "set k 1").close()
    settling = [Settling(node.node, nodes.clock, 5.0, 20.0) for node in nodes.nodes.values()]
    for one in settling:
        one.start()
    nodes.run(0.5)
    arbiter = nodes.nodes[3].ws()
    arbiter.ask("use-db d t; arbiter")
    nodes.run(0.1)
    writer = nodes.nodes[2].tcp()
    writer.ask("use-db d t")
    writer.send("set-safe k -5 mine")
    nodes.run(0.1)
    assert writer.received().startswith("error $$conflitct unresolved")
    nodes.kill(1)
    nodes.run(10.0)
    settled = [nodes.nodes[me].node.counters.conflicts_settled for me in (2, 3)]
    assert sorted(settled) == [0, 1]
    for me in (2, 3):
        client = nodes.nodes[me].tcp()
        client.ask("use-db d t")
        assert client.ask("get-safe k") == "value-version 1 mine\nok \n"
    nodes.run(30.0)
    client = nodes.nodes[2].tcp()
    client.ask("use-db d t")
    assert "$conflicts" not in client.ask("keys")
    for one in settling:
        one.stop()
