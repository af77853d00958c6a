"""What an election is told once, and what it wants done."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from nuntwist.cluster.ballots import Ballot, Rank
from nuntwist.cluster.states import Event, State
from nuntwist.values import Epoch, Position


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
class Means:
    """What a node gives the election that it makes.

    :ivar me: the id of the node.
    :ivar members: the ids of all that elect, by now.
    :ivar position: where its log ends.
    :ivar started: when it was started, in milliseconds since 1970.
    :ivar timing: see there.
    :ivar chance: for waits.
    :ivar clock: IReactorTime, in a node the reactor: for an engine that has connections of its
        own. Its seconds are what every call calls ``now``.
    :ivar promised: the highest epoch that is kept: what it hands out is above that.
    :ivar survives: whether who hears of nobody takes over (quorum ``none``).
    :ivar at_once: whether it need not wait for others to be heard of first.
    :ivar named: the address that NUN_FIXED_PRIMARY names; empty for none.
    :ivar address_of: gives the address of a node, as far as it is known.
    :ivar wake: to be called when there is something to do, or ``due`` has changed, though nobody
        has called; not from within a call.
    """

    me: int
    members: Collection[int]
    position: Position
    started: int
    timing: Timing
    chance: random.Random
    clock: Any
    promised: Epoch
    survives: bool
    at_once: bool
    named: str
    address_of: Callable[[int], str | None]
    wake: Callable[[], None]


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
    :ivar other: the rank of the node that has led to it, where there is one and it has said it.
    """

    before: State
    after: State
    event: Event
    number: int
    primary: int | None
    other: Rank | None = None


Effect = Keep | Send | Turned
