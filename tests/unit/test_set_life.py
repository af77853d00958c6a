"""What a set does without an adversary: slow links, wrong clocks, starts, forced elections."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.logger import LogEvent, globalLogPublisher

from nuntwist.simulation.node import SimulatedNode
from nuntwist.values import STAMP
from tests.cases import one_measured
from tests.unit.copy_pair import small_pieces
from tests.unit.quiet_set import QuietSet

SLOW = {"heartbeat_ms": 200, "suspicion_ms": 2000, "election_timeout_ms": 4000}
"""What docs/configuration.md tells to set for links with a delay of 400 ms, a round trip of 800."""
ROUND = 1.0
"""Seconds: the election time-out, where nothing else is set."""


@pytest.fixture
def events() -> Iterator[list[LogEvent]]:
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


def said(events: list[LogEvent], words: str, level: str) -> int:
    """How often the log has a line with these words."""
    return sum(
        words in str(event.get("log_format")) and event["log_level"].name == level
        for event in events
    )


def unchanged(set_: QuietSet) -> tuple[list[int], list[int], list[list[str]]]:
    """What an election would change."""
    return set_.primaries(), set_.epochs(), set_.turns()


# -- slow links ------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [(0.4, 0.4), (0.3, 0.5)])
@pytest.mark.parametrize("seed", one_measured(range(1, 4)))
def test_slow_links_make_no_elections_where_the_time_outs_are_set_for_them(
    seed: int, delay: tuple[float, float]
) -> None:
    set_ = QuietSet(seed=seed, **SLOW)
    set_.network.usual = delay
    primary = set_.form()
    set_.ask(primary, "create-db d t")
    set_.until(set_.is_formed)
    before = unchanged(set_)
    use = ("use-db d t", "write-concern majority 4000", "read-concern linearizable")
    for number in range(20):
        answers = set_.ask(primary, *use, f"set k {number}", "get k")
        assert answers[-2:] == ["ok \n", f"value {number}\nok \n"]
    set_.run(60.0)
    assert unchanged(set_) == before
    # A primary that dies is replaced, once.
    set_.nodes[primary].crash()
    set_.until(set_.primaries, 15.0)
    after = unchanged(set_)
    set_.run(60.0)
    assert unchanged(set_) == after


# -- wrong clocks ----------------------------------------------------------------------------------


def stamps(node: SimulatedNode) -> list[int]:
    """Of all operations in its log, in order."""
    return [op[STAMP] for ops in node.oplog.read(0) for op in ops]


@pytest.mark.parametrize("step", [60.0, -60.0])
def test_a_clock_that_is_set_elects_nobody_and_stamps_rise(step: float) -> None:
    set_ = QuietSet()
    primary = set_.form()
    set_.ask(primary, "create-db d t")
    set_.until(set_.is_formed)
    before = unchanged(set_)
    for place in set_.places:
        set_.nodes[place].wall_offset = step
        for through in set_.places:
            assert set_.ask(through, "use-db d t", f"set k {place}{through}")[-1] == "ok \n"
        set_.run(5.0)
        set_.nodes[place].wall_offset = 0.0
        assert set_.ask(primary, "use-db d t", "increment n 1")[-1] == "ok \n"
        set_.run(5.0)
    assert unchanged(set_) == before
    set_.until(set_.is_formed)
    for node in set_.running():
        found = stamps(node)
        assert found == sorted(set(found))


def test_a_primary_whose_clock_is_ahead_is_followed_and_counted(events: list[LogEvent]) -> None:
    """What it has logged cannot be left out by anybody; the one after it goes on from there."""
    set_ = QuietSet()
    primary = set_.form()
    set_.ask(primary, "create-db d t newer")
    set_.nodes[primary].wall_offset = 100.0
    for number in range(10):
        set_.ask(primary, "use-db d t", f"set k {number}")
    set_.until(set_.is_formed)
    secondary = next(node for node in set_.running() if node.place != primary)
    assert secondary.node.counters.stamps_ahead == 10
    assert set_.nodes[primary].node.counters.stamps_ahead == 0
    assert said(events, "bears a time", "warn") == 2
    (told,) = set_.ask(secondary.place, "cluster-state json")
    assert '"stamps_ahead": 10' in told
    highest = stamps(secondary)[-1]
    set_.nodes[primary].crash()
    set_.until(set_.primaries)
    (after,) = set_.primaries()
    assert set_.ask(after, "use-db d t", "set k after")[-1] == "ok \n"
    found = stamps(set_.nodes[after])
    assert found[-1] > highest
    assert found == sorted(set(found))
    # That is more than a minute after the clock of any that runs.
    set_.nodes[primary].wall_offset = 0.0
    set_.run(100.0)
    set_.start(primary)
    set_.until(set_.is_formed)
    assert set_.ask(after, "use-db d t", "set k right")[-1] == "ok \n"
    set_.until(set_.is_formed)
    assert said(events, "bears the right time", "info") == 1


# -- starts ----------------------------------------------------------------------------------------


def test_a_first_node_serves_after_one_round_whoever_is_missing() -> None:
    set_ = QuietSet()
    set_.start(1)
    assert set_.until(set_.primaries) <= ROUND + 0.05
    assert set_.ask(1, "create-db d t", "use-db d t", "set k 1")[-1] == "ok \n"


@pytest.mark.parametrize("seed", range(1, 6))
def test_nodes_started_a_second_apart_lose_nothing_of_the_first(seed: int) -> None:
    set_ = QuietSet(seed=seed)
    set_.start(1)
    set_.run(ROUND + 0.01)
    set_.ask(1, "create-db d t")
    for place in (2, 3):
        for number in range(10):
            key = f"k{place}{number}"
            assert set_.ask(1, "use-db d t", f"set {key} {key}")[-1] == "ok \n"
            if number == 5:
                set_.start(place)
        set_.run(1.0)
    set_.until(set_.is_formed)
    assert (set_.primaries(), set_.epochs()) == ([1], [1, 1, 1])
    for place in set_.places:
        (keys,) = set_.ask(place, "use-db d t", "keys k")[1:]
        assert keys.count(",k") == 20


@pytest.mark.parametrize("seed", range(1, 6))
def test_nodes_started_at_once_are_one_set(seed: int) -> None:
    set_ = QuietSet(seed=seed)
    set_.start()
    assert set_.until(set_.primaries) <= ROUND + 0.1
    set_.until(set_.is_formed, 5.0)
    assert len(set_.primaries()) == 1


def test_a_majority_is_waited_for_where_that_is_asked_for() -> None:
    set_ = QuietSet(election_quorum="majority")
    set_.start(1)
    set_.run(60.0)
    assert set_.primaries() == []
    assert set_.ask(1, "create-db d t")[-1].startswith("error no primary")
    set_.start(2)
    set_.until(set_.primaries, 3 * ROUND)
    assert set_.ask(2, "create-db d t")[-1].startswith("create-db success")


def test_a_lone_survivor_that_takes_over_says_so_loudly(events: list[LogEvent]) -> None:
    set_ = QuietSet(election_quorum="none")
    primary = set_.form()
    assert said(events, "without a majority", "critical") == 0
    survivor, *dead = [place for place in set_.places if place != primary] + [primary]
    for place in dead:
        set_.nodes[place].crash()
    set_.until(lambda: set_.primaries() == [survivor], 10.0)
    (told,) = [e for e in events if "without a majority" in str(e.get("log_format"))]
    assert (told["log_level"].name, told["reached"], told["members"]) == ("critical", 1, 3)


def test_nobody_but_the_fixed_primary_wins() -> None:
    set_ = QuietSet(election="fixed", fixed_primary="node-2:3014")
    set_.start(1, 3)
    set_.run(20.0)
    assert set_.primaries() == []
    set_.start(2)
    set_.until(set_.is_formed)
    assert set_.primaries() == [2]
    set_.nodes[2].crash()
    set_.run(20.0)
    assert set_.primaries() == []
    set_.start(2)
    set_.until(set_.is_formed)
    assert set_.primaries() == [2]


# -- forced elections ------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["primary", "secondary"])
def test_an_election_is_held_where_it_is_asked_for(where: str) -> None:
    set_ = QuietSet()
    primary = set_.form()
    set_.ask(primary, "create-db d t", "use-db d t", "set k 1")
    (epoch,) = set(set_.epochs())
    place = primary if where == "primary" else next(p for p in set_.places if p != primary)
    assert set_.ask(place, "debug force-election") == ["ok \n"]
    set_.until(lambda: set_.primaries() and min(set_.epochs()) > epoch, 3.0)
    set_.until(set_.is_formed)
    # Two may stand at once, and the votes of the first round part.
    (reached,) = set(set_.epochs())
    assert epoch < reached <= epoch + 2
    (now,) = set_.primaries()
    assert set_.ask(now, "use-db d t", "get k")[-1] == "value 1\nok \n"
    assert any("an operator asks" in line for line in set_.turns()[primary - 1])


def test_an_election_of_a_lone_node_is_won_at_once() -> None:
    set_ = QuietSet()
    set_.start(1)
    set_.until(set_.primaries)
    set_.ask(1, "create-db d t", "use-db d t", "set k 1")
    assert set_.ask(1, "debug force-election") == ["ok \n"]
    set_.until(lambda: set_.epochs() == [2] and set_.primaries(), 0.5)
    assert set_.ask(1, "use-db d t", "set k 2", "get k")[-1] == "value 2\nok \n"


def test_an_election_of_who_sees_no_majority_changes_nothing() -> None:
    set_ = QuietSet()
    primary = set_.form()
    survivor, *dead = [place for place in set_.places if place != primary] + [primary]
    for place in dead:
        set_.nodes[place].crash()
    set_.run(5.0)
    assert set_.ask(survivor, "debug force-election") == ["ok \n"]
    set_.run(5.0)
    assert set_.primaries() == []
    set_.start(*dead)
    set_.until(set_.is_formed)


@pytest.mark.parametrize("where", ["primary", "secondary", "receiver"])
def test_an_election_is_held_during_a_copy_of_all(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy comes to its end from whoever is primary then, and nothing is lost."""
    small_pieces(monkeypatch)
    set_ = QuietSet(max_oplog_bytes=200 << 10)
    set_.start(1, 2)
    set_.until(lambda: len(set_.primaries()) == 1)
    set_.run(5.0)
    (primary,) = set_.primaries()
    values = [f"set k{number} {'x' * 200}" for number in range(400)]
    assert set_.ask(primary, "create-db d t", "use-db d t", *values)[-1] == "ok \n"
    for place in (1, 2):
        node = set_.nodes[place].node
        node.snapshots.take_changed()
        set_.run(1.0)
        node.pipeline.journal.forget(node.snapshots.covered(), 0)
        set_.run(1.0)
        assert node.oplog.first > 100
    for place in (1, 2):
        # Each piece takes a while, so that the copy is under way for seconds.
        set_.network.delays[place, 3] = (0.1, 0.2)
    set_.start(3)
    copier = set_.nodes[primary].member.copier
    assert copier is not None
    set_.until(lambda: copier.count == 1)
    place = {"primary": primary, "secondary": 3 - primary, "receiver": 3}[where]
    assert set_.ask(place, "debug force-election") == ["ok \n"]
    assert set_.nodes[3].node.counters.copies_taken == 0
    set_.until(lambda: set_.primaries() and set_.nodes[1].member.election.number > 1, 5.0)
    set_.until(set_.is_formed)
    assert set_.nodes[3].node.counters.copies_taken == 1
    assert set_.ask(3, "use-db d t", "get k399")[-1] == f"value {'x' * 200}\nok \n"
