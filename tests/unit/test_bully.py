"""The election machine: its table, and each rule that keeps it safe or alive."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterable
from pathlib import Path

import pytest

from nuntwist.cluster.ballots import (
    Alive,
    Ask,
    Ballot,
    Beat,
    Obeyed,
    Rank,
    Release,
    Stale,
    Stand,
    Victory,
    Vote,
    Would,
)
from nuntwist.cluster.bully import Bully
from nuntwist.cluster.effects import Effect, Keep, Send, Timing, Turned
from nuntwist.cluster.states import TRANSITIONS, Event, State
from nuntwist.values import START, Epoch, Position

PAGE = Path(__file__).parents[2] / "docs" / "election.md"
TIMING = Timing()
QUIET = TIMING.suspicion
ROUND = TIMING.round


def position(number: int, index: int) -> Position:
    return Position(Epoch(number, 9), index)


def node(
    me: int = 1,
    members: Collection[int] = (1, 2, 3),
    at: Position = START,
    promised: tuple[int, int] = (0, 0),
    started: int = 1_000,
) -> Bully:
    """A node that was just started, at the time 0."""
    return Bully(me, members, at, started, TIMING, random.Random(1), 0.0, *promised)


def rank(of: int, at: Position = START, started: int = 2_000) -> Rank:
    return Rank(at, -started, of)


def sent(effects: Iterable[Effect]) -> list[tuple[int, Ballot]]:
    return [(one.to, one.message) for one in effects if isinstance(one, Send)]


def answer(bully: Bully, sender: int, message: Ballot, now: float) -> list[Ballot]:
    """What it sends back."""
    bully.effects()
    bully.receive(sender, message, now)
    return [message for to, message in sent(bully.effects()) if to == sender]


def following(bully: Bully, primary: int = 2, number: int = 5, now: float = 1.0) -> Bully:
    bully.receive(primary, Victory(number, 0.0), now)
    bully.effects()
    assert (bully.state, bully.primary, bully.number) == (State.FOLLOWING, primary, number)
    return bully


def standing(bully: Bully, now: float = ROUND) -> Bully:
    bully.tick(now)
    bully.receive(2, Would(bully.promised + 1, True), now)
    bully.effects()
    assert bully.state is State.STANDING
    return bully


def elected(bully: Bully, now: float = ROUND, linked: Collection[int] = (2, 3)) -> Bully:
    for other in linked:
        bully.link(other, True, now)
    standing(bully, now)
    bully.receive(2, Vote(bully.promised), now)
    bully.effects()
    return bully


def serving(bully: Bully, now: float = ROUND) -> Bully:
    elected(bully, now)
    for other in (2, 3):
        bully.receive(other, Obeyed(bully.number, now, START), now)
    assert bully.state is State.PRIMARY
    bully.effects()
    return bully


# -- the table -------------------------------------------------------------------------------------


def test_every_state_is_reached_and_left() -> None:
    assert set(TRANSITIONS.values()) == set(State)
    assert {before for before, _ in TRANSITIONS} == set(State)
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_the_table_is_drawn_as_it_is() -> None:
    drawn = re.findall(r"^    (\w+) --> (\w+): (\w+)$", PAGE.read_text(), re.MULTILINE)
    everywhere = {Event.HEARD, Event.VOTED}
    rows = {
        (before.name, after.name, event.name)
        for (before, event), after in TRANSITIONS.items()
        if event not in everywhere
    }
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == rows
    for event in everywhere:
        assert len({TRANSITIONS[state, event] for state in State}) == 1


def test_an_event_without_a_row_changes_nothing() -> None:
    bully = following(node())
    assert answer(bully, 2, Vote(9), 1.0) == []
    assert answer(bully, 2, Would(9, True), 1.0) == []
    assert answer(bully, 2, Alive(9, rank(2)), 1.0) == []
    assert answer(bully, 2, Obeyed(9, 0.0, START), 1.0) == []
    assert bully.state is State.FOLLOWING


def test_answers_of_no_member_are_passed_over() -> None:
    bully = node()
    bully.tick(ROUND)
    bully.effects()
    for said in (Would(1, True), Vote(1), Alive(1, rank(9)), Stale(9), Obeyed(1, 0.0, START)):
        bully.receive(7, said, ROUND)
        assert (bully.state, bully.effects()) == (State.CHECKING, [])


# -- a whole election ------------------------------------------------------------------------------


def test_a_node_alone_wins_in_one_go() -> None:
    bully = node(members=[1])
    bully.tick(ROUND - 0.001)
    assert bully.effects() == []
    bully.tick(ROUND)
    effects = bully.effects()
    assert [one.after for one in effects if isinstance(one, Turned)] == [
        State.CHECKING,
        State.STANDING,
        State.ELECTED,
        State.PRIMARY,
    ]
    assert Keep(1, 1) in effects
    assert bully.serves(1e9)


def test_from_silence_to_primary() -> None:
    bully = following(node(promised=(5, 2)))
    silence = bully.due
    assert 1.0 + QUIET <= silence <= 1.0 + 2 * QUIET
    bully.tick(silence)
    asked = sent(bully.effects())
    assert asked == [(to, Ask(6, bully.rank, False, 0)) for to in (2, 3)]
    bully.receive(3, Would(6, True), silence)
    first, second, *rest = bully.effects()
    assert isinstance(first, Turned)
    # The promise is kept before anybody hears of it.
    assert second == Keep(6, 1)
    assert sent(rest) == [(to, Stand(6, bully.rank, 0)) for to in (2, 3)]
    bully.link(3, True, silence)
    bully.receive(3, Vote(6), silence)
    assert sent(bully.effects()) == [(to, Victory(6, silence)) for to in (2, 3)]
    assert (bully.state, bully.primary, bully.serves(silence)) == (State.ELECTED, 1, False)
    bully.receive(3, Obeyed(6, silence, START), silence)
    assert bully.serves(silence)
    bully.tick(bully.due)
    assert sent(bully.effects())[-2:] == [(to, Beat(6, silence)) for to in (2, 3)]


def test_a_primary_of_silent_members_goes_on_after_a_while() -> None:
    bully = elected(node())
    assert bully.state is State.ELECTED
    bully.tick(bully.due)
    assert bully.state is State.PRIMARY
    assert not bully.serves(bully.due)


# -- votes -----------------------------------------------------------------------------------------


def test_a_vote_is_kept_before_it_is_given_and_binds() -> None:
    bully = node()
    bully.receive(2, Stand(3, rank(2), 0), QUIET)
    keep, vote, turned = bully.effects()
    assert (keep, vote) == (Keep(3, 2), Send(2, Vote(3)))
    assert isinstance(turned, Turned)
    assert turned.after is State.YIELDING
    assert answer(bully, 3, Stand(3, rank(3, position(2, 9)), 0), QUIET) == [Stale(3)]
    assert answer(bully, 2, Stand(3, rank(2), 0), QUIET) == [Vote(3)]
    assert answer(bully, 3, Stand(4, rank(3), 0), QUIET) == [Vote(4)]


def test_a_promise_of_an_earlier_process_binds() -> None:
    bully = node(promised=(3, 2))
    assert answer(bully, 3, Stand(3, rank(3), 0), 9.0) == [Stale(3)]
    assert answer(bully, 3, Ask(3, rank(3), False, 0), 9.0) == [Stale(3)]
    assert answer(bully, 2, Stand(3, rank(2), 0), 9.0) == [Vote(3)]


@pytest.mark.parametrize("more", [position(2, 1), position(1, 8)])
def test_nobody_is_elected_by_who_has_more(more: Position) -> None:
    bully = node(at=more)
    less = rank(2, position(1, 7))
    alive, ask = answer(bully, 2, Stand(3, less, 0), QUIET)
    assert alive == Alive(3, bully.rank)
    # It stands itself, beyond what it has heard of.
    assert ask == Ask(4, bully.rank, False, 0)
    assert bully.state is State.CHECKING
    assert answer(bully, 2, Ask(3, less, True, 0), QUIET) == [Alive(3, bully.rank)]


def test_of_equal_logs_the_senior_stands_unless_the_other_insists() -> None:
    bully = node(started=1_000)
    assert answer(bully, 2, Ask(1, rank(2), False, 0), QUIET)[0] == Alive(1, bully.rank)
    assert answer(bully, 2, Ask(1, rank(2), True, 0), QUIET) == [Would(1, True)]
    assert answer(bully, 2, Ask(1, rank(2, started=900), False, 0), QUIET) == [Would(1, True)]
    # What has come to a vote is about the log alone.
    assert answer(bully, 2, Stand(1, rank(2), 0), QUIET) == [Vote(1)]


def test_who_has_yielded_in_vain_insists() -> None:
    bully = node()
    bully.tick(ROUND)
    bully.receive(2, Alive(1, rank(2)), ROUND)
    assert bully.state is State.YIELDING
    bully.effects()
    bully.tick(bully.due)
    assert sent(bully.effects())[0] == (2, Ask(1, bully.rank, True, 0))
    bully.receive(2, Alive(1, rank(2)), bully.due)
    assert bully.state is State.CHECKING
    bully.receive(3, Would(1, True), bully.due)
    assert bully.state is State.STANDING


@pytest.mark.parametrize("refusal", [Would(1, False), Stale(1)])
def test_too_many_who_refuse_end_a_round_soon(refusal: Ballot) -> None:
    bully = standing(node())
    bully.receive(2, refusal, ROUND)
    assert bully.state is State.STANDING
    bully.receive(3, refusal, ROUND)
    assert bully.state is State.STARTING
    assert bully.due < 1.5 * ROUND


def test_a_round_without_answers_ends() -> None:
    bully = standing(node())
    bully.tick(2 * ROUND)
    assert bully.state is State.STARTING
    assert bully.due > 2 * ROUND


# -- loyalty ---------------------------------------------------------------------------------------


def test_who_has_a_primary_elects_no_other() -> None:
    bully = following(node())
    for message in (Ask(6, rank(3, position(7, 7)), True, 0), Stand(6, rank(3, position(7, 7)), 0)):
        assert answer(bully, 3, message, 1.0 + QUIET - 0.001) == [Would(6, False)]
    assert bully.state is State.FOLLOWING
    assert answer(bully, 3, Ask(6, rank(3, position(7, 7)), True, 0), 1.0 + QUIET) == [
        Would(6, True)
    ]


def test_who_was_just_started_may_have_a_primary_it_has_forgotten() -> None:
    bully = node()
    assert answer(bully, 2, Stand(1, rank(2), 0), QUIET - 0.001) == [Would(1, False)]
    bully.force(QUIET - 0.001)
    assert bully.state is State.STARTING
    bully.force(QUIET)
    assert bully.state is State.CHECKING


def test_a_primary_that_has_laid_down_its_epoch_frees_its_followers() -> None:
    bully = following(node())
    assert answer(bully, 3, Ask(6, rank(3, position(7, 7)), False, 4), 1.1) == [Would(6, False)]
    assert answer(bully, 3, Ask(6, rank(3, position(7, 7)), False, 5), 1.1) == [Would(6, True)]
    assert answer(bully, 3, Stand(6, rank(3, position(7, 7)), 5), 1.1) == [Vote(6)]


def test_who_may_not_elect_does_not() -> None:
    bully = node(members=[2, 3])
    assert answer(bully, 2, Stand(1, rank(2), 0), 9.0) == [Would(1, False)]
    bully.tick(ROUND)
    assert sent(bully.effects()) == []
    # But it follows.
    following(bully)


# -- epochs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [Victory(4, 0.0), Beat(4, 0.0)])
def test_of_an_earlier_epoch_the_answer_is_the_later_one(message: Ballot) -> None:
    bully = following(node(), number=5)
    assert answer(bully, 3, message, 1.0) == [Stale(5)]
    assert bully.primary == 2


def test_a_later_epoch_is_kept_before_it_is_followed() -> None:
    bully = following(node(), number=5)
    bully.receive(3, Beat(6, 7.5), 1.0)
    keep, turned, obeyed = bully.effects()
    assert keep == Keep(6, 3)
    assert isinstance(turned, Turned)
    assert turned.primary == 3
    assert obeyed == Send(3, Obeyed(6, 7.5, START))


@pytest.mark.parametrize(
    "message", [Stale(2), Victory(2, 0.0), Beat(2, 0.0)], ids=["stale", "victory", "beat"]
)
def test_a_primary_steps_down_for_a_later_epoch(message: Ballot) -> None:
    bully = serving(node())
    bully.receive(2, message, ROUND)
    assert bully.state is not State.PRIMARY
    assert not bully.serves(ROUND)


def test_two_primaries_of_an_epoch_would_be_counted() -> None:
    bully = serving(node())
    assert answer(bully, 2, Beat(1, 0.0), ROUND) == []
    assert (bully.broken, bully.state) == (1, State.PRIMARY)


# -- the lease -------------------------------------------------------------------------------------


def test_the_lease_is_from_the_sending_of_what_a_majority_answered() -> None:
    bully = serving(node())
    assert bully.lease() == ROUND + TIMING.lease
    assert bully.serves(bully.lease() - 0.001)
    assert not bully.serves(bully.lease())
    bully.receive(3, Obeyed(1, ROUND + 0.2, START), ROUND + 0.39)
    assert bully.lease() == ROUND + 0.2 + TIMING.lease
    # Late news of what was sent before is no news.
    bully.receive(3, Obeyed(1, ROUND + 0.1, START), ROUND + 0.39)
    assert bully.lease() == ROUND + 0.2 + TIMING.lease


def test_a_primary_beats_until_it_is_cut_off() -> None:
    bully = serving(node())
    beats = []
    while bully.state is State.PRIMARY and bully.due < 9.0:
        now = bully.due
        bully.tick(now)
        beats += [now for _, message in sent(bully.effects()) if isinstance(message, Beat)]
    assert bully.state is State.STARTING
    assert ROUND + TIMING.lease + TIMING.suspicion <= now <= ROUND + 1.05
    assert len(beats) == 2 * 9


def test_a_primary_whose_lease_is_over_elects_another() -> None:
    bully = serving(node())
    assert answer(bully, 2, Stand(2, rank(2), 0), ROUND + 0.399) == [Would(2, False)]
    assert answer(bully, 2, Stand(2, rank(2), 0), ROUND + 0.4) == [Vote(2)]
    assert bully.state is State.YIELDING


def test_a_winner_that_was_stopped_for_long_has_won_nothing() -> None:
    bully = elected(node())
    bully.tick(ROUND + TIMING.suspicion)
    assert bully.state is State.STARTING


# -- giving way ------------------------------------------------------------------------------------


def test_a_winner_gives_way_once_to_who_has_more() -> None:
    bully = elected(node())
    more = Obeyed(1, ROUND, position(1, 4))
    bully.receive(3, more, ROUND)
    turned, *_ = bully.effects()
    assert isinstance(turned, Send)
    assert bully.state is State.STARTING
    assert bully.due == 2 * ROUND
    # It did not win, perhaps because it reaches nobody else: then this one serves.
    bully.tick(bully.due)
    bully.receive(2, Would(2, True), bully.due)
    bully.receive(2, Vote(2), bully.due)
    bully.receive(3, Obeyed(2, 2.0, position(1, 4)), bully.due)
    bully.receive(2, Obeyed(2, 2.0, START), bully.due)
    assert bully.state is State.PRIMARY


def test_who_is_given_way_to_stands_at_once() -> None:
    bully = following(node(at=position(4, 2)))
    assert answer(bully, 2, Release(5, 1), 1.1) == [Ask(6, bully.rank, True, 5)]
    assert bully.state is State.CHECKING


def test_the_others_wait_for_it() -> None:
    bully = following(node())
    bully.receive(2, Release(5, 3), 1.1)
    assert bully.due == 1.1 + ROUND
    bully.receive(2, Release(4, 1), 1.1)
    bully.receive(3, Release(5, 1), 1.1)
    assert bully.state is State.FOLLOWING


def test_a_link_that_is_gone_is_not_waited_for() -> None:
    bully = elected(node())
    bully.receive(2, Obeyed(1, ROUND, START), ROUND)
    assert bully.state is State.ELECTED
    bully.link(3, False, ROUND)
    assert bully.state is State.PRIMARY


# -- elections by hand -----------------------------------------------------------------------------


def test_a_forced_election_on_a_primary() -> None:
    bully = serving(node())
    bully.force(ROUND)
    assert [message for _, message in sent(bully.effects())] == [Release(1, 0)] * 2
    assert not bully.serves(ROUND)


def test_a_forced_election_on_a_secondary_is_asked_of_the_primary() -> None:
    bully = following(node())
    bully.force(1.1)
    assert sent(bully.effects()) == [(2, Release(5, 0))]
    primary = serving(node())
    primary.receive(3, Release(1, 0), ROUND)
    assert primary.state is State.STARTING
    # Those who follow hold it soon.
    bully.receive(2, Release(5, 0), 1.2)
    assert bully.due <= 1.2 + 2 * TIMING.beat


def test_other_members_from_now_on() -> None:
    bully = serving(node())
    bully.reconfigure([1, 2, 3, 4, 5], ROUND)
    assert bully.majority == 3
    assert bully.serves(ROUND)
    bully.reconfigure([1, 4, 5], ROUND)
    assert not bully.serves(ROUND)


def test_a_primary_that_is_a_member_by_what_a_node_lacks_yet_is_followed() -> None:
    """It came while that node was away, and nobody else would tell that node of it."""
    late = Bully(3, {1, 2, 3}, Position(Epoch(1, 1), 5), 0, Timing(), random.Random(1), 0.0)
    late.receive(4, Victory(7, 0.5), 1.0)
    assert (late.state, late.primary, late.number) == (State.FOLLOWING, 4, 7)


def test_a_candidate_that_is_a_member_by_what_a_node_lacks_yet_is_elected() -> None:
    late = Bully(3, {1, 2, 3}, Position(Epoch(1, 1), 5), 0, Timing(), random.Random(1), 0.0)
    late.receive(4, Stand(7, Rank(Position(Epoch(1, 1), 9), 0, 4), 0), 1.0)
    assert Send(4, Vote(7)) in late.effects()
