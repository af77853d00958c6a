"""What every IElection does. An implementation's tests are a class with one of these as its base.

``One`` is for all of them, ``Several`` for those that elect one of several nodes. The nodes of a
``Room`` speak over links that delay, cut and lose; it looks after everything that happens whether
what must always hold does.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from zope.interface.verify import verifyObject

from nuntwist.cluster.ballots import Obeyed, Stale, Vote
from nuntwist.cluster.effects import Keep, Means, Send, Timing, Turned
from nuntwist.cluster.states import State
from nuntwist.interfaces import IElection, IElectionKind
from nuntwist.testing import HeapClock
from nuntwist.values import NO_EPOCH, Epoch, Position
from tests.cases import one_measured

MOST_CALLS = 400
"""How often a node may want to be called in a second."""


def at(index: int) -> Position:
    """The end of a log."""
    return Position(Epoch(1, 9), index)


class Room:
    """Some nodes, each with an election, on one clock.

    :param kind: makes the elections.
    :param named: the node that an operator has named.
    :ivar elections: of those that run, by id.
    :ivar kept: what each has on its disk.
    :ivar cut: pairs of nodes between which nothing arrives in that direction.
    :ivar won: which node won each epoch.
    :ivar seen: the epoch that each has served or followed last.
    """

    def __init__(self, kind: Any, size: int, named: int = 0, seed: int = 1) -> None:
        self.kind, self.named = kind, named
        self.clock = HeapClock()
        self.timing = Timing()
        self.chance = random.Random(seed)
        self.ids = list(range(1, size + 1))
        self.elections: dict[int, Any] = {}
        self.kept: dict[int, Epoch] = dict.fromkeys(self.ids, NO_EPOCH)
        self.ends: dict[int, Position] = dict.fromkeys(self.ids, at(5))
        self.cut: set[tuple[int, int]] = set()
        self.won: dict[int, int] = {}
        self.seen: dict[int, int] = dict.fromkeys(self.ids, 0)
        self._timers: dict[int, Any] = {}
        self._calls: dict[int, int] = {}
        for me in self.ids:
            self.start(me)

    def address_of(self, node: int) -> str:
        """Where a node is."""
        return f"node-{node}:3014"

    def start(self, me: int) -> Any:
        """Begin a node, with what its disk has."""
        election = self.elections[me] = self.kind.make(
            Means(
                me,
                self.ids,
                self.ends[me],
                int(1000 * self.clock.seconds()) + me,
                self.timing,
                self.chance,
                self.clock,
                self.kept[me],
                survives=False,
                at_once=len(self.ids) == 1,
                named=self.address_of(self.named) if self.named else "",
                address_of=self.address_of,
                wake=lambda: self.do(me),
            )
        )
        for other, theirs in self.elections.items():
            if other != me:
                election.link(other, True, self.now)
                theirs.link(me, True, self.now)
        self.do(me)
        return election

    def kill(self, me: int) -> None:
        """End a node."""
        self.elections.pop(me).stop()
        timer = self._timers.pop(me)
        if timer.active():
            timer.cancel()
        for other, theirs in list(self.elections.items()):
            theirs.link(me, False, self.now)
            self.do(other)

    def restart(self, me: int) -> None:
        """End a node and begin it again."""
        self.kill(me)
        self.start(me)

    @property
    def now(self) -> float:
        """By the clock."""
        return self.clock.seconds()

    def run(self, seconds: float) -> None:
        """Let time go by."""
        self._calls = {}
        self.clock.advance(seconds)
        assert all(count < MOST_CALLS * (seconds + 1) for count in self._calls.values())

    def call(self, me: int, what: Callable[[Any], object]) -> None:
        """Tell a node something, and do what it wants."""
        what(self.elections[me])
        self.do(me)

    def do(self, me: int) -> None:
        """Do what a node wants done."""
        election = self.elections.get(me)
        if election is None:
            return
        for effect in election.effects():
            if isinstance(effect, Keep):
                self.kept[me] = max(self.kept[me], Epoch(effect.number, effect.node))
            elif isinstance(effect, Send):
                self._send(me, effect)
            else:
                self._turn(me, effect)
        assert list(election.effects()) == [], "what is to be done is given once"
        self._look()
        timer = self._timers.get(me)
        if timer is not None and timer.active():
            timer.cancel()
        wait = min(60.0, max(0.0, election.due - self.now))
        self._timers[me] = self.clock.callLater(wait, self._tick, me, self.now + wait)

    def _tick(self, me: int, due: float) -> None:
        self._calls[me] = self._calls.get(me, 0) + 1
        self.call(me, lambda election: election.tick(max(due, self.now)))

    def _send(self, me: int, effect: Send) -> None:
        if (me, effect.to) not in self.cut:
            self.clock.callLater(0.001, self._arrive, me, effect.to, effect.message)

    def _arrive(self, sender: int, to: int, message: object) -> None:
        if to in self.elections and (sender, to) not in self.cut:
            self.call(to, lambda election: election.receive(sender, message, self.now))

    def _turn(self, me: int, turned: Turned) -> None:
        if turned.after is State.FOLLOWING or turned.after is State.PRIMARY:
            assert turned.number >= self.seen[me], "an earlier epoch is served or followed"
            self.seen[me] = turned.number
        if turned.after in (State.ELECTED, State.PRIMARY):
            assert self.won.setdefault(turned.number, me) == me, "an epoch has one primary"
            assert self.kept[me].number >= turned.number, "it is kept before it is used"
            assert turned.primary == me

    def _look(self) -> None:
        serving = [me for me, one in self.elections.items() if one.serves(self.now)]
        assert len(serving) <= 1, "two serve"
        for me, one in self.elections.items():
            assert not one.serves(self.now) or (one.state is State.PRIMARY and one.primary == me)

    @property
    def primary(self) -> int | None:
        """The node that serves; None for nobody."""
        serving = [me for me, one in self.elections.items() if one.serves(self.now)]
        return serving[0] if serving else None

    def isolate(self, me: int) -> None:
        """Nothing comes to a node, nor from it."""
        for other in self.ids:
            self.cut |= {(me, other), (other, me)}


class One:
    """Of a node that is the only member."""

    named: ClassVar[int] = 1

    def make_kind(self) -> Any:
        """An IElectionKind."""
        raise NotImplementedError

    @pytest.fixture
    def room(self) -> Room:
        """One node that was just started."""
        return Room(self.make_kind(), 1, self.named)

    def test_it_provides_what_it_says(self, room: Room) -> None:
        assert verifyObject(IElection, room.elections[1])
        assert verifyObject(IElectionKind, self.make_kind())

    def test_the_only_member_wins_at_once_and_keeps_the_epoch_first(self, room: Room) -> None:
        room.run(room.timing.round)
        assert room.primary == 1
        assert room.kept[1] == Epoch(room.elections[1].number, 1)
        assert room.elections[1].confirmed() >= room.now

    def test_a_start_never_goes_on_in_an_epoch_that_was_promised(self, room: Room) -> None:
        room.kept[1] = Epoch(41, 7)
        room.restart(1)
        room.run(2 * room.timing.round)
        assert (room.primary, room.elections[1].number) == (1, 42)
        room.restart(1)
        room.run(2 * room.timing.round)
        assert (room.primary, room.elections[1].number) == (1, 43)

    def test_nothing_is_done_before_it_is_called(self, room: Room) -> None:
        assert room.elections[1].primary is None
        assert not room.elections[1].serves(room.now)

    def test_it_has_an_end(self, room: Room) -> None:
        room.run(room.timing.round)
        room.elections[1].appended(at(9))
        assert room.elections[1].rank.position == at(9)

    def test_forced_it_wins_a_later_epoch(self, room: Room) -> None:
        room.run(room.timing.round)
        before = room.elections[1].number
        room.call(1, lambda election: election.force(room.now))
        room.run(2 * room.timing.round)
        assert room.primary == 1
        assert room.elections[1].number > before

    def test_a_node_that_retires_is_not_primary_again(self, room: Room) -> None:
        room.run(room.timing.round)
        room.elections[1].retire()
        assert not room.elections[1].may_stand(1)
        room.call(1, lambda election: election.release(0, room.now))
        room.run(5.0)
        assert room.primary is None

    def test_answers_of_who_is_no_member_do_not_count(self, room: Room) -> None:
        room.run(room.timing.round)
        number = room.elections[1].number
        far = Position(Epoch(number, 8), 99)
        for answer in (Vote(number), Obeyed(number, room.now, far), Stale(99)):
            room.call(1, lambda election, said=answer: election.receive(8, said, room.now))
        room.run(1.0)
        assert (room.primary, room.elections[1].number) == (1, number)

    def test_it_is_not_called_without_end(self, room: Room) -> None:
        room.run(30.0)
        assert room.primary == 1

    def test_a_stop_may_be_followed_by_what_is_still_under_way(self, room: Room) -> None:
        election = room.elections[1]
        election.stop()
        election.link(2, False, room.now)
        election.stop()


class Several(One):
    """Of three nodes. Any of ``leaders`` can be the primary."""

    leaders: ClassVar[frozenset[int]] = frozenset((1, 2, 3))

    @pytest.fixture
    def three(self) -> Room:
        """Three nodes, one of which is primary."""
        room = Room(self.make_kind(), 3, self.named)
        room.run(5.0)
        assert room.primary in self.leaders
        return room

    def test_one_is_primary_and_the_others_follow_it(self, three: Room) -> None:
        primary = three.primary
        number = three.elections[primary].number
        for me in three.ids:
            one = three.elections[me]
            assert (one.primary, one.number) == (primary, number)
            assert one.state is (State.PRIMARY if me == primary else State.FOLLOWING)

    def test_who_can_be_it_is_known(self, three: Room) -> None:
        for election in three.elections.values():
            assert {me for me in three.ids if election.may_stand(me)} == self.leaders

    def test_it_stays(self, three: Room) -> None:
        primary, number = three.primary, max(three.won)
        three.run(60.0)
        assert (three.primary, max(three.won)) == (primary, number)

    def test_forced_by_any_node_a_later_epoch_is_won(self, three: Room) -> None:
        for me in three.ids:
            before = max(three.won)
            three.call(me, lambda election: election.force(three.now))
            three.run(5.0)
            assert three.primary in self.leaders
            assert max(three.won) > before

    def test_a_primary_that_is_cut_off_serves_no_more(self, three: Room) -> None:
        old = three.primary
        three.isolate(old)
        three.run(three.timing.suspicion)
        assert not three.elections[old].serves(three.now)
        three.run(10.0)
        assert three.primary in (self.leaders - {old} or {None})
        three.cut.clear()
        three.run(10.0)
        assert three.primary in self.leaders
        assert all(one.primary == three.primary for one in three.elections.values())

    def test_a_primary_that_dies_is_followed_by_a_later_epoch(self, three: Room) -> None:
        old, before = three.primary, max(three.won)
        three.kill(old)
        three.run(10.0)
        assert three.primary in (self.leaders - {old} or {None})
        three.start(old)
        three.run(10.0)
        assert three.primary in self.leaders
        assert max(three.won) > before

    def test_a_secondary_that_was_cut_off_deposes_nobody(self, three: Room) -> None:
        primary = three.primary
        (one, *_) = set(three.ids) - {primary}
        number = max(three.won)
        three.isolate(one)
        three.run(20.0)
        three.cut.clear()
        three.run(5.0)
        assert (three.primary, max(three.won)) == (primary, number)

    def test_what_was_asked_is_confirmed_when_it_is_answered(self, three: Room) -> None:
        primary = three.primary
        asked = three.now
        three.call(primary, lambda election: election.beat_now(asked))
        assert three.elections[primary].confirmed() < asked
        three.run(0.01)
        assert three.elections[primary].confirmed() >= asked
        three.isolate(primary)
        cut = three.now
        three.call(primary, lambda election: election.beat_now(cut))
        three.run(0.3)
        assert three.elections[primary].confirmed() < cut

    def test_a_log_that_comes_is_as_good_as_a_heartbeat(self, three: Room) -> None:
        """Behind megabytes of it heartbeats come late."""
        primary, number = three.primary, max(three.won)
        followers = set(three.ids) - {primary}
        for _ in range(30):
            three.cut = {(a, b) for a in three.ids for b in three.ids if primary in (a, b)}
            sent = three.now
            three.run(0.1)
            for node in followers:
                three.call(node, lambda election: election.heard_of(primary, number, three.now))
                assert three.elections[node].primary == primary
                three.elections[primary].answered(node, number, sent)
            assert three.elections[primary].serves(three.now)
        three.run(3.0)
        assert not three.elections[primary].serves(three.now)
        assert max(three.won) > number or len(self.leaders) == 1

    def test_only_the_log_of_the_primary_that_is_followed_counts(self, three: Room) -> None:
        primary, number = three.primary, max(three.won)
        one, other = sorted(set(three.ids) - {primary})
        assert three.elections[one].heard_of(primary, number, three.now)
        for sender, of in ((other, number), (primary, number - 1), (primary, number + 1)):
            assert not three.elections[one].heard_of(sender, of, three.now)
        assert not three.elections[primary].heard_of(one, number, three.now)
        three.isolate(primary)
        three.run(0.3)
        before = three.elections[primary].confirmed()
        three.call(primary, lambda election: election.answered(one, number - 1, three.now))
        assert three.elections[primary].confirmed() == before

    def test_laying_it_down_lets_a_later_epoch_be_won(self, three: Room) -> None:
        old, before = three.primary, max(three.won)
        others = sorted(self.leaders - {old}) or [old]
        three.call(old, lambda election: election.release(others[0], three.now))
        assert not three.elections[old].serves(three.now)
        three.run(10.0)
        assert three.primary == others[0]
        assert max(three.won) > before

    def test_a_primary_that_retires_is_followed_by_another_if_one_can(self, three: Room) -> None:
        old = three.primary
        three.elections[old].retire()
        three.call(old, lambda election: election.release(0, three.now))
        three.run(10.0)
        assert three.primary in (self.leaders - {old} or {None})

    def test_no_majority_no_primary(self, three: Room) -> None:
        for me in three.ids:
            three.isolate(me)
        three.run(20.0)
        assert three.primary is None
        three.cut.clear()
        three.run(10.0)
        assert three.primary in self.leaders

    def test_who_has_less_is_not_elected(self, three: Room) -> None:
        behind = min(self.leaders)
        for me in three.ids:
            three.kill(me)
        for me in three.ids:
            three.ends[me] = at(9) if me != behind else at(5)
        for me in three.ids:
            three.start(me)
        three.run(20.0)
        assert three.primary in (self.leaders - {behind} or {None})

    def test_members_may_change(self, three: Room) -> None:
        primary = three.primary
        (gone, *_) = set(three.ids) - {primary}
        left = [me for me in three.ids if me != gone]
        for me in three.ids:
            three.call(me, lambda election: election.reconfigure(left, three.now))
        three.run(5.0)
        assert three.primary == primary
        three.isolate(gone)
        three.run(5.0)
        assert three.primary == primary
        (other,) = set(left) - {primary}
        three.isolate(other)
        three.run(5.0)
        assert three.primary is None

    def test_a_learner_follows_and_does_not_count(self, three: Room) -> None:
        primary = three.primary
        (learner, other) = set(three.ids) - {primary}
        left = [primary, other]
        for me in left:
            three.call(me, lambda election: election.reconfigure(left, three.now))
        three.elections[primary].learners.add(learner)
        three.restart(learner)
        three.call(learner, lambda election: election.reconfigure(left, three.now))
        three.run(5.0)
        assert three.elections[learner].primary == primary
        three.isolate(other)
        three.run(5.0)
        assert three.primary is None

    @pytest.mark.parametrize("seed", one_measured(range(20)))
    def test_at_most_one_serves_whatever_happens(self, seed: int) -> None:
        room = Room(self.make_kind(), 3, self.named, seed)
        chance = random.Random(seed)
        for _ in range(60):
            one, other = chance.sample(room.ids, 2)
            what = chance.choice(("cut", "heal", "restart", "force", "isolate", "heal"))
            if what == "cut":
                room.cut.add((one, other))
            elif what == "isolate":
                room.isolate(one)
            elif what == "heal":
                room.cut.clear()
            elif what == "restart":
                room.restart(one)
            else:
                room.call(one, lambda election: election.force(room.now))
            room.run(chance.uniform(0.0, 1.5))
        room.cut.clear()
        room.run(20.0)
        assert room.primary in self.leaders
