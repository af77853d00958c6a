"""Elections are found by name; all of them do what an election does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from zope.interface import implementer

import twisted.plugins
from nuntwist.cluster.alone import Alone
from nuntwist.cluster.ballots import Rank
from nuntwist.cluster.bully import Bully
from nuntwist.cluster.diary import Diary
from nuntwist.cluster.effects import Turned
from nuntwist.cluster.elections import BULLY, FIXED, find_election, make_bully
from nuntwist.cluster.states import Event, State
from nuntwist.config import make_config
from nuntwist.errors import ConfigError, StartError
from nuntwist.interfaces import IElectionKind
from nuntwist.values import START, Epoch, Position
from tests.unit.conformance_election import One, Room, Several
from tests.unit.memory_set import MemorySet


class TestBully(Several):
    def make_kind(self) -> Any:
        return BULLY


class TestFixed(Several):
    named = 2
    leaders = frozenset((2,))

    @pytest.fixture
    def room(self) -> Room:
        return Room(self.make_kind(), 1, 1)

    def make_kind(self) -> Any:
        return FIXED


@implementer(IElectionKind)
class AloneKind:
    name = "alone"

    def make(self, means: Any) -> Any:
        return Alone(means.me, means.promised.number, means.clock.seconds())


class TestAlone(One):
    def make_kind(self) -> Any:
        return AloneKind()

    def test_with_others_it_serves_no_more(self, room: Room) -> None:
        room.run(1.0)
        room.call(1, lambda election: election.reconfigure((1, 2), room.now))
        assert room.primary is None
        room.run(5.0)
        assert room.primary is None
        room.call(1, lambda election: election.reconfigure((1,), room.now))
        room.run(1.0)
        assert room.primary == 1


# -- by name ---------------------------------------------------------------------------------------

PLUGIN = """
from twisted.plugin import IPlugin
from zope.interface import implementer
from nuntwist.cluster.elections import make_bully
from nuntwist.interfaces import IElectionKind
from nuntwist.values import START, Epoch, Position

@implementer(IPlugin, IElectionKind)
class Patient:
    name = "patient"

    def make(self, means):
        return make_bully(means)

patient = Patient()
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of plugins, one of which cannot be imported."""
    (tmp_path / "patient_plugin.py").write_text(PLUGIN)
    (tmp_path / "broken_plugin.py").write_text("import nothing_that_there_is\n")
    monkeypatch.setattr(twisted.plugins, "__path__", [*twisted.plugins.__path__, str(tmp_path)])


@pytest.mark.usefixtures("plugin")
def test_an_election_of_a_plugin_is_found_by_its_name() -> None:
    assert isinstance(Room(find_election("patient"), 3).elections[1], Bully)
    assert find_election("bully") is BULLY
    assert find_election("fixed") is FIXED


@pytest.mark.usefixtures("plugin")
def test_an_unknown_name_stops_the_start_with_those_there_are() -> None:
    with pytest.raises(StartError, match=r"There is no election 'dice', .*: bully, fixed, patient"):
        find_election("dice")


def test_a_plugin_may_derive_from_what_is_here() -> None:
    class Mine(Bully):
        """Of another class."""

    class Kind:
        def make(self, means: Any) -> Any:
            return make_bully(means, Mine)

    assert isinstance(Room(Kind(), 1).elections[1], Mine)


def test_fixed_without_a_name_stops_the_start() -> None:
    with pytest.raises(StartError, match=r"no node is named: set NUN_FIXED_PRIMARY\.$"):
        Room(FIXED, 3)


def test_naming_a_primary_asks_for_the_election_that_heeds_it() -> None:
    assert make_config({}, {}).election == "bully"
    assert make_config({}, {"NUN_FIXED_PRIMARY": "a:1"}).election == "fixed"
    both = {"NUN_ELECTION": "My-Own", "NUN_FIXED_PRIMARY": "a:1"}
    assert make_config({}, both).election == "my-own"


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"NUN_ELECTION": "fixed"}, "NUN_ELECTION is 'fixed' but no node is named: "),
        (
            {"NUN_ELECTION": "bully", "NUN_FIXED_PRIMARY": "a:1"},
            "NUN_FIXED_PRIMARY is 'a:1', but NUN_ELECTION is 'bully'",
        ),
        ({"NUN_ELECTION": "a b"}, "NUN_ELECTION is 'a b': it must be bully, fixed, or the name"),
    ],
)
def test_what_contradicts_itself_is_refused(environment: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config({}, environment)
    assert str(caught.value).startswith(sentence)


# -- in a set --------------------------------------------------------------------------------------


def test_the_named_node_is_the_primary_and_the_others_join_it() -> None:
    nodes = MemorySet(kind=FIXED, fixed=2)
    nodes.run(5.0)
    assert (nodes.primary(), nodes.secondaries()) == (2, [1, 3])
    nodes.kill(2)
    nodes.run(10.0)
    assert not any(nodes.members[me].election.serves(nodes.clock.seconds()) for me in (1, 3))
    nodes.restart(2)
    nodes.run(5.0)
    assert (nodes.primary(), nodes.secondaries()) == (2, [1, 3])


def test_who_is_not_named_makes_no_set_and_gives_up_one_that_it_had() -> None:
    """It was alone once, and took writes, before an operator named another."""
    nodes = MemorySet(2)
    nodes.isolate(1)
    nodes.run(3.0)
    assert nodes.nodes[1].node.info.role == nodes.nodes[2].node.info.role == "Primary"
    nodes.nodes[1].admin("create-db d t", "use-db d t", "set k 1")
    nodes.kind, nodes.fixed = FIXED, "node-2:3014"
    for me in nodes.ids:
        nodes.kill(me)
    nodes.cut.clear()
    for me in nodes.ids:
        nodes.restart(me)
    nodes.run(5.0)
    assert (nodes.primary(), nodes.secondaries()) == (2, [1])
    assert sorted(nodes.members[1].belonging.membership.members) == [1, 2]


def test_alone_who_is_not_named_waits_for_who_is() -> None:
    nodes = MemorySet(2, kind=FIXED, fixed=2)
    nodes.isolate(1)
    nodes.run(10.0)
    assert nodes.members[1].belonging.set_id == 0
    assert nodes.primary() == 2
    nodes.heal()
    nodes.run(5.0)
    assert (nodes.primary(), nodes.secondaries()) == (2, [1])


@implementer(IElectionKind)
class Distant:
    """Elections that something outside of the set moves, when it likes to."""

    name = "distant"

    def __init__(self) -> None:
        self.means: list[Any] = []
        self.made: list[Any] = []

    def make(self, means: Any) -> Any:
        self.means.append(means)
        self.made.append(make_bully(means))
        return self.made[-1]


def test_an_engine_with_connections_of_its_own_wakes_its_node() -> None:
    kind = Distant()
    nodes = MemorySet(1, kind=kind)
    nodes.run(3.0)
    assert nodes.primary() == 1
    election, means = kind.made[-1], kind.means[-1]
    before = election.number
    election.force(nodes.clock.seconds())
    assert nodes.nodes[1].node.info.role == "Primary"
    means.wake()
    nodes.run(1.0)
    assert nodes.members[1].election.number > before
    assert means.address_of(1) == "node-1:3014"
    assert means.clock is nodes.clock


def test_each_transition_is_told_with_cause_epoch_and_ranks() -> None:
    nodes = MemorySet(3)
    nodes.run(3.0)
    nodes.kill(1)
    nodes.run(5.0)
    lines = [line for member in nodes.members.values() for line in member.diary.lines]
    mine = re.compile(
        r"[\d.]+ [A-Z]+ -> [A-Z]+, as [a-z -]+; epoch \d+, log ends at \d+:\d+, runs since 1970-\S+"
        r"(, node-\d:3014 log ends at \d+:\d+, runs since 1970-\S+)?"
    )
    assert [line for line in lines if not mine.fullmatch(line)] == []
    assert any(line.count("log ends at") == 2 for line in lines)


@pytest.mark.parametrize(
    ("seniority", "since"),
    [
        (-1_767_225_600_000, "2026-01-01T00:00:00.000+00:00"),
        (7, "1970-01-01T00:00:00.000+00:00"),
        (-(2**63), "9999-12-31T23:59:59.000+00:00"),
    ],
)
def test_the_rank_of_another_is_told_whatever_it_says(seniority: int, since: str) -> None:
    diary = Diary(lambda: 12.5, {2: "two:1"}.get)
    other = Rank(Position(Epoch(3, 2), 17), seniority, 2)
    turned = Turned(State.CHECKING, State.YIELDING, Event.OUTRANKED, 4, None, other)
    diary.note(turned, Rank(START, 0, 1))
    assert list(diary.lines) == [
        "12.500 CHECKING -> YIELDING, as a node of higher rank is alive; epoch 4, log ends at 0:0,"
        " runs since 1970-01-01T00:00:00.000+00:00, two:1 log ends at 3:17, runs since " + since
    ]
