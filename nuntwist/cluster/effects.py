"""What an election is told once, and what it wants done."""

from __future__ import annotations

from dataclasses import dataclass

from nuntwist.cluster.ballots import Ballot
from nuntwist.cluster.states import Event, State


@dataclass(frozen=True, slots=True)
class Timing:
    """All in seconds.

    :ivar beat: between two heartbeats.
    :ivar suspicion: of silence after which nobody is loyal to a primary; each waits for 1 to 2
        times that.
    :ivar lease: for which a majority's answers let a primary serve; below ``suspicion``.
    :ivar round: at most, for one round of questions or votes.
    :ivar compare: for which a winner waits for the positions of those it reaches.
    """

    beat: float = 0.1
    suspicion: float = 0.5
    lease: float = 0.4
    round: float = 1.0
    compare: float = 0.2


@dataclass(frozen=True, slots=True)
class Keep:
    """To be on the disk before what comes next is done: the highest number promised, and to
    whom (0: to nobody)."""

    number: int
    node: int


@dataclass(frozen=True, slots=True)
class Send:
    """To be sent; it may be lost."""

    to: int
    message: Ballot


@dataclass(frozen=True, slots=True)
class Turned:
    """Something has changed: for the log, and for who has to act as a primary or a secondary.

    :ivar number: of the epoch that is served, followed or stood for.
    :ivar primary: whom it follows, itself included; None for nobody.
    """

    before: State
    after: State
    event: Event
    number: int
    primary: int | None


Effect = Keep | Send | Turned
