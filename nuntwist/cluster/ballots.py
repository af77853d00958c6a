"""What the nodes of a set say to each other to find their primary.

Each message carries the *number* of the epoch it is about; the epoch itself is that number and
the id of the node that won it. NunDB's words for some of them are in brackets.

===========  =====================================================================================
``Ask``      would you elect me? It binds nobody
``Would``    the answer to that
``Stand``    elect me (``election candidate``)
``Vote``     I have promised this epoch to you, durably, and to nobody else
``Alive``    my rank is higher and I stand myself (``election alive``)
``Stale``    what you speak of is over: the highest number I know is this
``Victory``  I have won (``election win``, ``set-primary``)
``Beat``     I am still the primary
``Obeyed``   the answer to these two: I follow you, and my log ends here
``Release``  I lay down this epoch, and that node shall stand next
===========  =====================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

from nuntwist.values import Position


@dataclass(frozen=True, slots=True, order=True)
class Rank:
    """How good a primary a node would be, compared field by field.

    :ivar position: where its log ends: whoever has more comes first.
    :ivar seniority: of equally complete ones the longest running: when it was started, in
        milliseconds before the year 1970 (so less than zero). It is a preference and no more,
        so a wrong clock does no harm.
    :ivar node: its id.
    """

    position: Position
    seniority: int
    node: int


@dataclass(frozen=True, slots=True)
class Ask:
    """:ivar number: of the epoch that the asker would stand for.
    :ivar rank: of the asker.
    :ivar insists: it has yielded to a more senior node, which then did not win: seniority does
        not count this time.
    :ivar released: the highest number that a primary has laid down; who follows that one need
        not be loyal to it.
    """

    number: int
    rank: Rank
    insists: bool
    released: int


@dataclass(frozen=True, slots=True)
class Would:
    """:ivar yes: False: I have a primary, or may not vote yet."""

    number: int
    yes: bool


@dataclass(frozen=True, slots=True)
class Stand:
    """Fields as of :class:`Ask`."""

    number: int
    rank: Rank
    released: int


@dataclass(frozen=True, slots=True)
class Vote:
    """It is on the disk."""

    number: int


@dataclass(frozen=True, slots=True)
class Alive:
    """:ivar rank: of the sender."""

    number: int
    rank: Rank


@dataclass(frozen=True, slots=True)
class Stale:
    """:ivar number: the highest the sender has promised."""

    number: int


@dataclass(frozen=True, slots=True)
class Victory:
    """:ivar sent: when, in seconds of the sender's monotonic clock; given back in the answer."""

    number: int
    sent: float


@dataclass(frozen=True, slots=True)
class Beat:
    """Fields as of :class:`Victory`."""

    number: int
    sent: float


@dataclass(frozen=True, slots=True)
class Obeyed:
    """:ivar sent: of the message that is answered.
    :ivar position: where the sender's log ends.
    """

    number: int
    sent: float
    position: Position


@dataclass(frozen=True, slots=True)
class Release:
    """:ivar successor: the node that is asked to stand; 0 for any."""

    number: int
    successor: int


Ballot = Ask | Would | Stand | Vote | Alive | Stale | Victory | Beat | Obeyed | Release
