"""Real nodes in network namespaces, and firewalls between them that drop everything."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.harness import OK, Lines, no_trace_of_trouble, wait_until
from tests.integration.namespaces import FarNodes, why_not
from tests.integration.steady import steadily

REACHED_AGAIN = 2.5
"""Seconds from the end of a partition until all are linked, at most; see ``nuntwist.net.peering``.
On a quiet machine it is some 0.5 s on average, and little more than 1 s at worst."""
PARTED = 1.6
"""Seconds of a partition: connections have been given up, and attempted in vain."""


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarNodes]:
    """Three nodes, each in a namespace; they outlive what each test does to them."""
    if (why := why_not()) is not None:
        pytest.skip(why)
    with FarNodes(tmp_path_factory.mktemp("machines")) as nodes:
        primary = nodes.form()
        nodes.admin(primary, "create-db d t newer", "create-db n t none").close()
        yield nodes
        for process in nodes.processes:
            no_trace_of_trouble(process.log)


@pytest.fixture
def nodes(machines: FarNodes) -> Iterator[FarNodes]:
    yield machines
    machines.mend()


def others(primary: int) -> list[int]:
    return [place for place in range(3) if place != primary]


def another(nodes: FarNodes, before: int) -> int:
    """The one that has taken over."""
    rest = others(before)
    wait_until(lambda: any(nodes.role(place) == "Primary" for place in rest), "another", 8.0)
    (primary,) = [place for place in rest if nodes.role(place) == "Primary"]
    return primary


def written(client: Lines, key: str, value: str) -> bool:
    return client.ask(f"set {key} {value}") == [b"ok \n"]


def heal(nodes: FarNodes) -> None:
    """End the partition, and see that all find each other soon and are alike then."""

    def linked() -> bool:
        states = [nodes.state(place) for place in range(3)]
        return all(replica["connected"] for state in states for replica in state["replicas"])

    nodes.network.heal()
    began = time.monotonic()
    wait_until(linked, "connections between all", 10.0)
    took = time.monotonic() - began
    print(f"all were linked {took:.2f} s after the end of the partition")
    assert took < REACHED_AGAIN
    nodes.wait_until_formed()
    nodes.wait_until_equal()
    assert len(nodes.primaries()) == 1


def values(nodes: FarNodes, database: str, key: str) -> list[bytes]:
    found = []
    for place in range(3):
        with nodes.admin(place, f"use-db {database} t") as client:
            found.append(client.ask(f"get {key}")[0])
    return found


def tails(nodes: FarNodes, place: int) -> set[Path]:
    return set(nodes.processes[place].data.glob("divergent-*.op"))


@steadily(FarNodes.mend)
def test_the_primary_is_cut_off(nodes: FarNodes) -> None:
    """What only it took in the last moment is in the file, every operation of it."""
    before = nodes.primary()
    kept = tails(nodes, before)
    epoch = nodes.state(before)["epoch"]
    with nodes.admin(before, "use-db n t") as client:
        assert written(client, "both", "1")
        nodes.wait_until_equal()
        nodes.network.isolate(before)
        client.send(b"".join(b"set lone%d lone%d\n" % (n, n) for n in range(50)))
        answers = [client.answer() for _ in range(50)]
        # All of them, or less where the cut took so long that it was no primary any more.
        lone = [f"lone{number}" for number, answer in enumerate(answers) if answer == [OK]]
        assert lone
    after = another(nodes, before)
    with nodes.admin(after, "use-db n t") as client:
        assert written(client, "both", "2")
    with nodes.admin(others_of(before, after), "use-db n t") as client:
        # Through a secondary, and where a majority is.
        assert written(client, "through", "3")
    wait_until(lambda: before not in nodes.primaries(), "the old primary to notice")
    with nodes.admin(before, "use-db n t") as client:
        assert client.ask("set both 4")[-1].startswith(b"error no primary")
    time.sleep(PARTED)
    heal(nodes)
    assert nodes.primaries() == [after]
    assert nodes.state(after)["epoch"] > epoch
    assert values(nodes, "n", "both") == [b"value 2\n"] * 3
    assert values(nodes, "n", "through") == [b"value 3\n"] * 3
    assert values(nodes, "n", "lone0") == [b"value <Empty>\n"] * 3
    (tail,) = tails(nodes, before) - kept
    held = tail.read_bytes()
    assert [key for key in lone if key.encode() not in held] == []
    assert f"{len(lone)} operations after" in nodes.processes[before].log


def others_of(*places: int) -> int:
    (rest,) = set(range(3)) - set(places)
    return rest


@steadily(FarNodes.mend)
def test_the_primary_hears_nobody(nodes: FarNodes) -> None:
    """It is heard, so the others believe in it, and it has to step down by itself."""
    before = nodes.primary()
    with nodes.admin(before, "use-db d t", "write-concern majority 1000") as client:
        assert written(client, "k", "1")
        nodes.wait_until_equal()
        for other in others(before):
            nodes.network.cut(other, before)
        answer = client.ask("set k 2")[-1]
        assert answer.startswith((b"error outcome unknown", b"error no primary"))
    after = another(nodes, before)
    with nodes.admin(after, "use-db d t") as client:
        assert written(client, "k", "3")
    time.sleep(PARTED)
    assert nodes.role(before) != "Primary"
    heal(nodes)
    assert nodes.primaries() == [after]
    assert values(nodes, "d", "k") == [b"value 3\n"] * 3


@steadily(FarNodes.mend)
def test_nobody_hears_the_primary(nodes: FarNodes) -> None:
    before = nodes.primary()
    for other in others(before):
        nodes.network.cut(before, other)
    after = another(nodes, before)
    with nodes.admin(after, "use-db d t") as client:
        assert written(client, "k", "4")
    wait_until(lambda: nodes.role(before) != "Primary", "the old one to step down", 5.0)
    heal(nodes)
    assert nodes.primaries() == [after]
    assert values(nodes, "d", "k") == [b"value 4\n"] * 3


@pytest.mark.parametrize("way", ["hears nobody", "is heard by nobody", "both"])
@steadily(FarNodes.mend)
def test_a_secondary_that_was_cut_off_deposes_nobody(nodes: FarNodes, way: str) -> None:
    primary = nodes.primary()
    cut_off, other = others(primary)
    epoch = nodes.state(primary)["epoch"]
    for place in (primary, other):
        if way != "is heard by nobody":
            nodes.network.cut(place, cut_off)
        if way != "hears nobody":
            nodes.network.cut(cut_off, place)
    with nodes.admin(primary, "use-db d t", "write-concern majority 2000") as client:
        for number in range(int(PARTED / 0.1)):
            assert written(client, "k", f"{way} {number}")
            time.sleep(0.1)
    heal(nodes)
    state = nodes.state(primary)
    assert (state["epoch"], nodes.primaries()) == (epoch, [primary])
    assert values(nodes, "d", "k") == [b"value %b %d\n" % (way.encode(), PARTED / 0.1 - 1)] * 3


@steadily(FarNodes.mend)
def test_a_bridge_keeps_the_primary_that_both_ends_or_one_can_reach(nodes: FarNodes) -> None:
    """One node sees both others, and they do not see each other: first the primary is the middle,
    then one of the ends. Neither time there is another primary, and nobody loses anything."""
    primary = nodes.primary()
    epoch = nodes.state(primary)["epoch"]
    nodes.network.part(*others(primary))
    with nodes.admin(primary, "use-db d t", "write-concern 2 2000") as client:
        time.sleep(PARTED)
        assert written(client, "k", "middle")
    heal(nodes)
    lost, middle = others(primary)
    nodes.network.part(primary, lost)
    with nodes.admin(middle, "use-db d t", "write-concern majority 2000") as client:
        time.sleep(PARTED)
        assert written(client, "k", "end")
    with nodes.admin(lost, "use-db d t") as client:
        assert client.ask("get k")[0] == b"value middle\n"
        assert client.ask("set k lost")[-1].startswith(b"error no primary")
    heal(nodes)
    assert (nodes.state(primary)["epoch"], nodes.primaries()) == (epoch, [primary])
    assert values(nodes, "d", "k") == [b"value end\n"] * 3
