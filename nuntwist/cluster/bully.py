"""The election of a primary, as a machine that does nothing itself.

It is told of time, of messages and of the end of its own log; what is to be done comes out as
values, in order (:class:`Keep` before the messages that rely on it)::

    STARTING ──due──▶ CHECKING ──agreed──▶ STANDING ──won──▶ ELECTED ──compared──▶ PRIMARY
       ▲                 │ outranked          │ outranked        │ outdone            │ cut off
       │                 ▼                    ▼                  ▼                    ▼
       └─────due───── YIELDING ◀──────────────┘               STARTING             STARTING
                         │ heard
                         ▼
                     FOLLOWING ──due (silence)──▶ CHECKING

It is Bully (Garcia-Molina, 1982: the highest that is alive wins, and says so to those below)
with what Raft adds to be safe where messages are lost (Ongaro and Ousterhout, 2014): an epoch is
promised durably, to one node each; a majority of the configured members elects; nobody elects a
node whose log is shorter than its own; and nobody who has heard of its primary lately elects
another. So a round is held twice: ``Ask`` changes nothing anywhere, and only who would win
raises the epoch with ``Stand``: a node that was cut off for a while does not depose a healthy
primary. Among logs of the same length seniority decides, as in Bully; as a senior node may be
alive and yet unable to win (it sees too few of the others), who has yielded in vain *insists*
the next time, and then only the log counts.

The winner compares its log with that of every member it reaches before it serves
(:mod:`nuntwist.cluster.positions`). Where one has more it gives way to that once.

A primary serves while a majority has answered what it sent within the *lease*. That is shorter
than the time for which those who answered are loyal, and both are measured from the sending, on
monotonic clocks, so there is never another primary meanwhile.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import Any, Final

from zope.interface import implementer

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
from nuntwist.cluster.effects import Effect, Keep, Send, Timing, Turned
from nuntwist.cluster.lease import Lease
from nuntwist.cluster.positions import Positions
from nuntwist.cluster.states import TRANSITIONS, Event, State
from nuntwist.cluster.tally import Tally
from nuntwist.interfaces import IElection
from nuntwist.values import Position

LEAST_SENIOR: Final = -(1 << 62)
"""The seniority of a node that could not lead if it won."""


def _anybody(node: int) -> bool:
    return True


@implementer(IElection)
class Bully:
    """The election as one node sees it.

    :param me: the id of the node.
    :param members: the ids of all that elect, this one included where it may.
    :param position: where its log ends.
    :param started: when it was started, in milliseconds since 1970.
    :param promised: the highest number it has promised, as kept, and ``promised_to`` whom.
    :param survives: whether who hears of nobody takes over, a majority or not
        (quorum ``none``, see docs/election.md).
    :param at_once: whether it need not wait for others to be heard of first.
    :param chance: spreads those that would stand at the same time.
    :param now: monotonic, in seconds, as in all calls.
    :ivar state: what it is doing.
    :ivar number: of the epoch that it serves or follows; 0 for none so far.
    :ivar primary: whom it follows, itself included; None for nobody.
    :ivar due: when it wants to be called next.
    :ivar linked: the members it has a connection with.
    :ivar learners: who is told of the primary, and counts for nothing yet.
    :ivar doubtful: the members whose log may have lost its end: their votes count where all
        members give theirs, and not in a majority.
    :ivar may_stand: who may be the primary at all, by id.
    :ivar broken: how often another claimed an epoch that it has itself; never, if all is right.
    """

    def __init__(
        self,
        me: int,
        members: Collection[int],
        position: Position,
        started: int,
        timing: Timing,
        chance: random.Random,
        now: float,
        promised: int = 0,
        promised_to: int = 0,
        survives: bool = False,
        at_once: bool = False,
    ) -> None:
        self.me = me
        self.members = frozenset(members)
        self.linked: set[int] = set()
        self.learners: set[int] = set()
        self.doubtful: set[int] = set()
        self.may_stand: Callable[[int], bool] = _anybody
        self.state = State.STARTING
        self.number = 0
        self.primary: int | None = None
        self.promised = promised
        self.broken = 0
        self._promised_to = promised_to
        self._position = position
        self._seniority = -started
        self._stands_back = False
        self._timing = timing
        self._chance = chance
        self._effects: list[Effect] = []
        # What it has answered before it was started is forgotten, so it is loyal to whoever it
        # may have been.
        self._loyal_until = now + timing.suspicion
        self._known = promised
        self._released = 0
        self._insists = False
        self._tally = Tally(me)
        self._won = now
        self._positions = Positions()
        self._lease = Lease(timing.lease)
        self._survives = survives
        self.due = now if at_once else now + timing.round

    # -- what others may ask -----------------------------------------------------------------

    @property
    def rank(self) -> Rank:
        """How good a primary it would be."""
        seniority = LEAST_SENIOR if self._stands_back else self._seniority
        return Rank(self._position, seniority, self.me)

    @property
    def majority(self) -> int:
        """How many members elect."""
        return len(self.members) // 2 + 1

    def lease(self) -> float:
        """Until when it may serve, if it is the primary."""
        if self._survives:
            return float("inf")
        return self._lease.until(self._others(), self.majority - (self.me in self.members))

    def serves(self, now: float) -> bool:
        """Whether it is the primary and nobody else can be."""
        return self.state is State.PRIMARY and now < self.lease()

    def confirmed(self) -> float:
        """When that was sent, of what this primary has sent, which a majority has answered: then
        nobody else was primary."""
        needed = self.majority - (self.me in self.members)
        return self._lease.until(self._others(), needed) - self._timing.lease

    def beat_now(self, now: float) -> None:
        """Send a heartbeat at once."""
        if self.state is State.PRIMARY:
            self._beat(now)

    def effects(self) -> list[Effect]:
        """What is to be done since the last time, in order."""
        effects, self._effects = self._effects, []
        return effects

    # -- what happens ------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Time has moved on."""
        if now < self.due:
            return
        if self.state in (State.ELECTED, State.PRIMARY) and self._is_cut_off(now):
            self._fire(Event.CUT_OFF, now)
        elif self.state is State.PRIMARY:
            self._beat(now)
        elif not self._may_win() and self.state is not State.FOLLOWING:
            self.due = float("inf")
        elif self._survives and self.state in _ALONE and not self._tally.is_opposed:
            self._fire(_ALONE[self.state], now)
        else:
            self._insists = self._insists or self.state is State.YIELDING
            self._fire(Event.DUE, now)

    def _may_win(self) -> bool:
        return self.me in self.members and self.may_stand(self.me)

    def appended(self, position: Position) -> None:
        """Its log ends somewhere else."""
        self._position = position

    def reconfigure(self, members: Collection[int], now: float, at_once: bool = False) -> None:
        """Others elect from now on.

        :param at_once: whether this node need not wait before it stands, where it may.
        """
        self.members = frozenset(members)
        if self.due == float("inf") or at_once:
            self.due = now if at_once else now + self._timing.round

    def link(self, node: int, up: bool, now: float) -> None:
        """A connection is there, or gone."""
        if up:
            self.linked.add(node)
            return
        self.linked.discard(node)
        if self.state is State.ELECTED:
            self._compare(now)

    def force(self, now: float) -> None:
        """Hold an election: where it is not the primary, its primary is asked to make room."""
        if self.state is State.PRIMARY:
            self._release(0, now, Event.FORCED)
        elif self.state is State.FOLLOWING and self.primary is not None:
            self._send(self.primary, Release(self.number, 0))
        elif now >= self._loyal_until:
            self._fire(Event.FORCED, now)

    def retire(self) -> None:
        """Never stand again; it still elects."""
        others, me = self.may_stand, self.me
        self.may_stand = lambda node: node != me and others(node)

    def stand_back(self, back: bool) -> None:
        """Stand as the least senior of all, or as what it is again."""
        self._stands_back = back

    def release(self, successor: int, now: float) -> None:
        """Be the primary no more: a member that has all is asked to stand."""
        if self.state is State.PRIMARY:
            self._release(successor, now, Event.FORCED)

    def stop(self) -> None:
        """Nothing is open."""

    def receive(self, sender: int, message: object, now: float) -> None:
        """A node of the set has sent something; answers count only from members and learners.

        Who asks, or says that it is the primary, may be a member by what this node lacks yet: it
        would get that from nobody else, if it heeded nobody it does not know.
        """
        known = sender in self.members or sender in self.learners
        if known or type(message) in _FROM_ANY:
            _HANDLERS[type(message)](self, sender, message, now)

    # -- being asked -------------------------------------------------------------------------

    def _asked(self, sender: int, ask: Ask, now: float) -> None:
        if ask.number <= self.promised:
            self._send(sender, Stale(self.promised))
        elif self._is_loyal(ask.released, now) or not self.may_stand(sender):
            self._send(sender, Would(ask.number, False))
        elif self._outranks(ask.rank, ask.insists):
            self._send(sender, Alive(ask.number, self.rank))
            self._call(ask.released, now, ask.rank)
        else:
            self._send(sender, Would(ask.number, True))

    def _stood(self, sender: int, stand: Stand, now: float) -> None:
        # The sender at least has promised it.
        self._known = max(self._known, stand.number)
        again = stand.number == self.promised and self._promised_to == sender
        if stand.number <= self.promised and not again:
            self._send(sender, Stale(self.promised))
        elif again:
            self._send(sender, Vote(stand.number))
        elif self._is_loyal(stand.released, now) or not self.may_stand(sender):
            self._send(sender, Would(stand.number, False))
        elif self._outranks(stand.rank, True):
            self._send(sender, Alive(stand.number, self.rank))
            self._call(stand.released, now, stand.rank)
        else:
            self._promise(stand.number, sender)
            self._send(sender, Vote(stand.number))
            self._fire(Event.VOTED, now, stand.rank)

    def _is_loyal(self, released: int, now: float) -> bool:
        """Whether it has a primary, or may have one it has forgotten."""
        if self.me not in self.members:
            return True
        if self.state is State.PRIMARY:
            return now < self.lease()
        if self.state is State.ELECTED:
            return True
        free = self.number and released >= self.number
        return now < self._loyal_until and not free

    def _outranks(self, rank: Rank, by_log_alone: bool) -> bool:
        if not self.may_stand(self.me):
            # Who has less than this one must not win, even where nobody else may.
            return False if self._survives else self._position > rank.position
        if by_log_alone:
            return self._position > rank.position
        return self.rank > rank

    def _call(self, released: int, now: float, asker: Rank | None = None) -> None:
        self._released = max(self._released, released)
        self._fire(Event.CALLED, now, asker)

    # -- asking ------------------------------------------------------------------------------

    def _would(self, sender: int, would: Would, now: float) -> None:
        asking = self.state is State.CHECKING and would.number == self._next
        standing = self.state is State.STANDING and would.number == self.promised
        if asking and would.yes:
            self._count(sender, Event.AGREED, now)
        elif asking or standing:
            self._refused_by(sender, now)

    def _voted(self, sender: int, vote: Vote, now: float) -> None:
        if self.state is State.STANDING and vote.number == self.promised:
            self._count(sender, Event.WON, now)

    def _count(self, sender: int, enough: Event, now: float) -> None:
        self._tally.agrees(sender)
        if self._is_elected():
            self._fire(enough, now)

    def _is_elected(self) -> bool:
        return self._tally.is_won(self.members, self.majority, self.doubtful)

    def _refused_by(self, sender: int, now: float) -> None:
        self._tally.refuses(sender)
        if self._tally.is_lost(self.members, self.majority):
            self._fire(Event.REFUSED, now)

    def _outranked(self, sender: int, alive: Alive, now: float) -> None:
        current = self._next if self.state is State.CHECKING else self.promised
        if alive.number == current and not self._insists:
            self._fire(Event.OUTRANKED, now, alive.rank)

    def _overtaken(self, sender: int, stale: Stale, now: float) -> None:
        self._known = max(self._known, stale.number)
        if stale.number > self.promised:
            self._fire(Event.OVERTAKEN, now)
        elif self.state is State.STANDING and stale.number == self.promised:
            # It has promised the same number to another.
            self._refused_by(sender, now)

    # -- having a primary --------------------------------------------------------------------

    def _heard(self, sender: int, message: Victory | Beat, now: float) -> None:
        number = message.number
        if number < self.promised:
            self._send(sender, Stale(self.promised))
            return
        if self.state in (State.ELECTED, State.PRIMARY) and number == self.number:
            self.broken += 1
            return
        if number > self.promised:
            self._promise(number, sender)
        if self.primary != sender or self.number != number:
            self.number, self.primary = number, sender
            self._fire(Event.HEARD, now)
        elif self.state is not State.FOLLOWING:
            self._fire(Event.HEARD, now)
        self._be_loyal(now)
        self._send(sender, Obeyed(number, message.sent, self._position))

    def _be_loyal(self, now: float) -> None:
        self._loyal_until = now + self._timing.suspicion
        self.due = now + self._timing.suspicion * self._chance.uniform(1.0, 2.0)

    def heard_of(self, sender: int, number: int, now: float) -> bool:
        """The log of the primary has come, behind which a heartbeat may have to wait."""
        if sender != self.primary or number != self.number or number < self.promised:
            return False
        if self.state in (State.ELECTED, State.PRIMARY):
            return False
        if self.state is not State.FOLLOWING:
            self._fire(Event.HEARD, now)
            self._be_loyal(now)
            return True
        # Each time, as the primary counts on it when it is acknowledged.
        self._loyal_until = now + self._timing.suspicion
        if self.due < self._loyal_until:
            self._be_loyal(now)
        return True

    def answered(self, sender: int, number: int, sent: float) -> None:
        """A secondary has the log up to what was sent at a time."""
        if self.state is State.PRIMARY and number == self.number:
            self._lease.note(sender, sent)

    def _obeyed(self, sender: int, obeyed: Obeyed, now: float) -> None:
        if self.state not in (State.ELECTED, State.PRIMARY) or obeyed.number != self.number:
            return
        self._lease.note(sender, obeyed.sent)
        if self.state is State.ELECTED:
            if self._positions.hear(sender, obeyed.position, self._position):
                self._release(sender, now, Event.OUTDONE)
            else:
                self._compare(now)

    def _released_by(self, sender: int, release: Release, now: float) -> None:
        if self.state is State.PRIMARY and release.number == self.number:
            # A secondary asks for an election.
            self._release(0, now, Event.FORCED)
        elif sender == self.primary and release.number == self.number:
            self._released = max(self._released, release.number)
            self.primary = None
            if release.successor == self.me:
                # Whoever is senior to it was not asked.
                self._insists = True
                self._call(release.number, now)
            elif release.successor:
                self.due = now + self._timing.round
            else:
                self.due = now + self._timing.beat * self._chance.uniform(0.0, 2.0)

    # -- being the primary -------------------------------------------------------------------

    def _compare(self, now: float) -> None:
        if self._positions.has(node for node in self._others() if node in self.linked):
            self._fire(Event.COMPARED, now)

    def _beat(self, now: float) -> None:
        self._tell_all(Beat(self.number, now))
        self.due = now + self._timing.beat

    def _is_cut_off(self, now: float) -> bool:
        return now >= max(self.lease(), self._won) + self._timing.suspicion

    def _release(self, successor: int, now: float, event: Event) -> None:
        self._released = self.number
        self._tell_all(Release(self.number, successor))
        self._fire(event, now)

    # -- moving ------------------------------------------------------------------------------

    @property
    def _next(self) -> int:
        """The number of the epoch to stand for."""
        return max(self.promised, self._known) + 1

    def _others(self) -> list[int]:
        return sorted(self.members - {self.me})

    def _send(self, to: int, message: Ballot) -> None:
        self._effects.append(Send(to, message))

    def _send_all(self, message: Ballot) -> None:
        self._effects += [Send(node, message) for node in self._others()]

    def _tell_all(self, message: Ballot) -> None:
        """Send to those that learn, too."""
        self._send_all(message)
        self._effects += [Send(node, message) for node in sorted(self.learners - self.members)]

    def _promise(self, number: int, node: int) -> None:
        self.promised, self._promised_to = number, node
        self._known = max(self._known, number)
        self._effects.append(Keep(number, node))

    def _fire(self, event: Event, now: float, other: Rank | None = None) -> None:
        before = self.state
        after = TRANSITIONS.get((before, event))
        if after is None:
            return
        self.state = after
        if after not in (State.FOLLOWING, State.ELECTED, State.PRIMARY):
            self.primary = None
        place = len(self._effects)
        follow_on = _ENTER[after](self, now, event)
        number = self.promised if after is State.STANDING else self.number
        self._effects.insert(place, Turned(before, after, event, number, self.primary, other))
        if follow_on is not None:
            self._fire(follow_on, now)

    def _enter_starting(self, now: float, event: Event) -> Event | None:
        shortest, longest = _WAITS.get(event, (0.1, 1.0))
        wait = self._timing.round * self._chance.uniform(shortest, longest)
        # Nobody else could stand at the same time.
        self.due = now if self.members == {self.me} else now + wait
        return None

    def _enter_following(self, now: float, event: Event) -> Event | None:
        self._insists = False
        return None

    def _enter_checking(self, now: float, event: Event) -> Event | None:
        self.due = now + self._timing.round
        if not self._may_win():
            return Event.REFUSED
        self._tally = Tally(self.me)
        self._send_all(Ask(self._next, self.rank, self._insists, self._released))
        return Event.AGREED if self._is_elected() else None

    def _enter_yielding(self, now: float, event: Event) -> Event | None:
        self.due = now + self._timing.round
        return None

    def _enter_standing(self, now: float, event: Event) -> Event | None:
        self.due = now + self._timing.round
        self._promise(self._next, self.me)
        self._tally = Tally(self.me)
        self._send_all(Stand(self.promised, self.rank, self._released))
        return Event.WON if self._is_elected() else None

    def _enter_elected(self, now: float, event: Event) -> Event | None:
        self.number, self.primary = self.promised, self.me
        self._insists = False
        self._positions.begin()
        self._lease, self._won = Lease(self._timing.lease), now
        self.due = now + self._timing.compare
        self._tell_all(Victory(self.number, now))
        return Event.COMPARED if not self.linked & self.members else None

    def _enter_primary(self, now: float, event: Event) -> Event | None:
        self.due = now
        return None


_ALONE: Final = {State.CHECKING: Event.AGREED, State.STANDING: Event.WON}
"""What silence means where a lone survivor takes over."""

_WAITS: Final = {
    Event.REFUSED: (0.05, 0.3),
    Event.OVERTAKEN: (0.05, 0.3),
    Event.OUTDONE: (1.0, 1.0),
}
"""How long to wait before the next round, in rounds; apart, as others may do the same."""

_ENTER: Final[dict[State, Callable[[Bully, float, Event], Event | None]]] = {
    State.STARTING: Bully._enter_starting,
    State.FOLLOWING: Bully._enter_following,
    State.CHECKING: Bully._enter_checking,
    State.YIELDING: Bully._enter_yielding,
    State.STANDING: Bully._enter_standing,
    State.ELECTED: Bully._enter_elected,
    State.PRIMARY: Bully._enter_primary,
}

_FROM_ANY: Final = frozenset((Ask, Stand, Victory, Beat, Release))
"""What is taken from nodes of the set that this one does not know as members."""

_HANDLERS: Final[dict[type, Callable[[Bully, int, Any, float], None]]] = {
    Ask: Bully._asked,
    Would: Bully._would,
    Stand: Bully._stood,
    Vote: Bully._voted,
    Alive: Bully._outranked,
    Stale: Bully._overtaken,
    Victory: Bully._heard,
    Beat: Bully._heard,
    Obeyed: Bully._obeyed,
    Release: Bully._released_by,
}
