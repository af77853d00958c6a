"""An arbiter on any node of a set serves the set."""

from __future__ import annotations

import pytest

from nuntwist.cluster.arbiters import WAIT_SECONDS
from nuntwist.testing import FrameConnection
from tests.unit.forwarding_set import answers, at
from tests.unit.memory_set import MemorySet
from tests.unit.test_recovery import state

NO_ARBITER = "error An conflitct happend and there is no arbiter client not connected \n"
UNRESOLVED = "error $$conflitct unresolved $conflicts_k_"


@pytest.fixture
def three() -> MemorySet:
    """A set whose primary is the first and has been so for a while."""
    nodes = MemorySet()
    nodes.run(2.0)
    admin = nodes.nodes[1].admin("create-db d t arbiter", "use-db d t", "create-user ana secret")
    admin.ask("set k first")
    admin.close()
    nodes.run(2 * WAIT_SECONDS)
    return nodes


def arbiter(nodes: MemorySet, me: int, use: str = "use-db d t") -> FrameConnection:
    """One that is connected to a node."""
    client = nodes.nodes[me].ws()
    assert client.ask(use) == ["ok \n"]
    assert client.ask("arbiter")[-1] == "ok \n"
    nodes.run(0.1)
    return client


def conflict(nodes: MemorySet, me: int, value: str = "mine", key: str = "k") -> str:
    """What the writer of a conflict at a node is answered."""
    return answers(nodes, at(nodes, me), f"set-safe {key} -5 {value}")


def decided(nodes: MemorySet, client: FrameConnection, value: str) -> list[str]:
    """An arbiter's answers to all that it was sent."""
    said = []
    for message in client.received():
        _, number, database, version, key = message.split(" ")[:5]
        client.send(f"resolve {number} {database} {key} {version} {value}")
        nodes.run(0.1)
        said += [text for text in client.received() if not text.startswith("resolve ")]
    return said


@pytest.mark.parametrize("where", [1, 2, 3])
@pytest.mark.parametrize("writer", [1, 2, 3])
def test_conflicts_of_any_node_reach_it_and_its_answers_count(
    three: MemorySet, where: int, writer: int
) -> None:
    client = arbiter(three, where)
    assert conflict(three, writer).startswith(UNRESOLVED)
    assert decided(three, client, "decided") == ["ok \n"]
    assert at(three, writer).ask("get-safe k") == "value-version 1 decided\nok \n"
    three.run(0.2)
    assert state(three.nodes[2]) == state(three.nodes[3]) == state(three.nodes[1])


def test_without_one_on_any_node_it_is_said(three: MemorySet) -> None:
    assert conflict(three, 2) == NO_ARBITER
    client = arbiter(three, 3)
    assert conflict(three, 2).startswith(UNRESOLVED)
    decided(three, client, "decided")
    client.close()
    three.run(0.1)
    assert conflict(three, 2) == NO_ARBITER
    # One who selects another database is none of this one any more.
    client = arbiter(three, 3)
    assert client.ask("use-db $admin nun-pwd") == ["ok \n"]
    three.run(0.1)
    assert conflict(three, 2) == NO_ARBITER


def test_one_at_a_node_that_is_cut_off_counts_for_nothing(three: MemorySet) -> None:
    arbiter(three, 3)
    three.isolate(3)
    three.run(3.0)
    assert conflict(three, 2) == NO_ARBITER
    three.heal()
    three.run(3.0)
    assert conflict(three, 2).startswith(UNRESOLVED)


def test_a_new_primary_learns_of_it(three: MemorySet) -> None:
    client = arbiter(three, 3)
    three.kill(1)
    three.run(2 + 2 * WAIT_SECONDS)
    assert three.primary() != 1
    assert conflict(three, 2).startswith(UNRESOLVED)
    assert decided(three, client, "decided") == ["ok \n"]


def test_a_new_primary_does_not_say_at_once_that_there_is_none(three: MemorySet) -> None:
    """Until it knows its members' lists a conflict is kept, for whoever is arbiter next."""
    three.kill(1)
    primary = 1
    while primary == 1:
        three.run(0.01)
        now = three.clock.seconds()
        serving = [me for me in (2, 3) if three.members[me].election.serves(now)]
        primary = next(iter(serving), 1)
    writer = at(three, primary)
    writer.send("set-safe k -5 mine")
    three.run(0.005)
    assert writer.received().startswith(UNRESOLVED)
    three.run(2 * WAIT_SECONDS)
    three.nodes[primary].admin("use-db d t", "set other 1").close()
    assert conflict(three, primary, key="other") == NO_ARBITER
    client = three.nodes[primary].ws()
    client.ask("use-db d t")
    assert [text.split(" ")[0] for text in client.ask("arbiter")] == ["resolve", "ok"]


def test_only_what_it_has_a_right_to_reaches_it(three: MemorySet) -> None:
    admin = three.nodes[2].admin("use-db d t")
    answers(three, admin, "set-permissions ana a k*")
    answers(three, admin, "set other 1")
    client = arbiter(three, 3, "use-db d ana secret")
    everybody = arbiter(three, 1)
    assert conflict(three, 2, key="other").startswith("error $$conflitct unresolved")
    assert client.received() == []
    assert conflict(three, 2).startswith(UNRESOLVED)
    assert len(client.received()) == 1
    assert len(everybody.received()) == 2
    # Without the right it is none any more, and its node says so.
    everybody.close()
    answers(three, admin, "set-permissions ana r k*")
    answers(three, admin, "set third 1")
    assert conflict(three, 2, key="third") == NO_ARBITER
