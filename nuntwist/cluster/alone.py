"""The election of a node that is a set of its own: it wins, in a new epoch each time.

``Alone`` is that as every election is; ``AloneElection`` runs it for a node that has no links and
no part in a set, so that nothing but a start and a wish of an operator ever moves it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

from zope.interface import implementer

from nuntwist.cluster.ballots import Rank
from nuntwist.cluster.effects import Effect, Keep, Turned
from nuntwist.cluster.identity import Identity
from nuntwist.cluster.states import Event, State
from nuntwist.errors import StartError
from nuntwist.interfaces import IElection
from nuntwist.values import START, Epoch, Position

_NEVER: Final = float("inf")


@implementer(IElection)
class Alone:
    """Won as soon as it is called, where its node is the only member; else never.

    :param me: the id of the node.
    :param promised: the highest number of an epoch that is kept.
    :param now: monotonic, in seconds, as in all calls.
    """

    def __init__(self, me: int, promised: int, now: float) -> None:
        self.state = State.STARTING
        self.number = 0
        self.primary: int | None = None
        self.due = now
        self.linked: set[int] = set()
        self.learners: set[int] = set()
        self.doubtful: set[int] = set()
        self._me = me
        self._promised = promised
        self._position = START
        self._only = True
        self._retired = False
        self._effects: list[Effect] = []

    @property
    def rank(self) -> Rank:
        """Nobody compares it."""
        return Rank(self._position, 0, self._me)

    def effects(self) -> Sequence[Effect]:
        """What is to be done since the last time."""
        effects, self._effects = self._effects, []
        return effects

    def tick(self, now: float) -> None:
        """Win, if it is time to."""
        if now < self.due:
            return
        self.due = _NEVER
        if self._only and not self._retired:
            self._win(Event.DUE)

    def _win(self, event: Event) -> None:
        self._promised += 1
        self.number, self.primary = self._promised, self._me
        self._effects.append(Keep(self.number, self._me))
        before, self.state = self.state, State.PRIMARY
        self._effects.append(Turned(before, self.state, event, self.number, self._me))

    def _lose(self, event: Event) -> None:
        if self.state is State.PRIMARY:
            self.primary, self.state = None, State.STARTING
            self._effects.append(
                Turned(State.PRIMARY, State.STARTING, event, self.number, self.primary)
            )

    def receive(self, sender: int, message: object, now: float) -> None:
        """Nobody is asked, so nobody is heard."""

    def heard_of(self, sender: int, number: int, now: float) -> bool:
        """It follows nobody."""
        return False

    def answered(self, sender: int, number: int, sent: float) -> None:
        """Nobody's answer is needed."""

    def link(self, node: int, up: bool, now: float) -> None:
        """Who is connected does not count."""
        (self.linked.add if up else self.linked.discard)(node)

    def appended(self, position: Position) -> None:
        """Its log ends somewhere else."""
        self._position = position

    def reconfigure(self, members: Collection[int], now: float, at_once: bool = False) -> None:
        """Where there are others this is not an election for it, and it serves no more."""
        self._only = set(members) == {self._me}
        if not self._only:
            self._lose(Event.CUT_OFF)
        elif self.state is State.STARTING:
            self.due = now

    def may_stand(self, node: int) -> bool:
        """Only the node itself can be the primary."""
        return node == self._me and not self._retired

    def force(self, now: float) -> None:
        """Win a new epoch."""
        self.release(0, now)
        self.tick(now)

    def release(self, successor: int, now: float) -> None:
        """Be the primary no more, until it is called."""
        self._lose(Event.FORCED)
        self.due = now

    def stand_back(self, back: bool) -> None:
        """There is nobody else."""

    def retire(self) -> None:
        """Never win again."""
        self._retired = True

    def serves(self, now: float) -> bool:
        """Nobody else can."""
        return self.state is State.PRIMARY

    def beat_now(self, now: float) -> None:
        """Nobody has to be asked."""

    def confirmed(self) -> float:
        """Nobody else ever was."""
        return _NEVER

    def stop(self) -> None:
        """Nothing is open."""


class AloneElection:
    """Runs one for a node that has no part in a set.

    :param identity: keeps the epochs.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def start(self, elected: Callable[[Epoch], None]) -> None:
        """Win a new epoch.

        :param elected: is called with it.
        :raise StartError: it could not be kept.
        """
        election = Alone(self._identity.node_id, self._identity.epoch.number, 0.0)
        election.tick(0.0)
        for effect in election.effects():
            if isinstance(effect, Keep):
                self._keep(Epoch(effect.number, effect.node))
            elif isinstance(effect, Turned) and effect.after is State.PRIMARY:
                elected(Epoch(effect.number, self._identity.node_id))

    def _keep(self, epoch: Epoch) -> None:
        try:
            self._identity.raise_epoch(epoch)
        except OSError as error:
            raise StartError(f"The epoch cannot be kept: {error.strerror}.") from None
