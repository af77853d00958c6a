"""The states of an election and what leads from one to the next: all of it, as a table."""

from __future__ import annotations

from enum import Enum
from typing import Final


class State(Enum):
    """What a node is doing about its primary."""

    STARTING = "knows no primary"
    FOLLOWING = "has a primary"
    CHECKING = "asks whether it would be elected"
    YIELDING = "waits for another to win"
    STANDING = "asks to be elected"
    ELECTED = "has won, and compares logs"
    PRIMARY = "is the primary"


class Event(Enum):
    """Why that changes."""

    DUE = "time has run out"
    CALLED = "a node of lower rank asks, or the primary has given way"
    AGREED = "a majority would elect it"
    OUTRANKED = "a node of higher rank is alive"
    REFUSED = "too many refuse"
    VOTED = "it has promised the epoch to another"
    WON = "a majority has elected it"
    COMPARED = "nobody that it reaches has more"
    OUTDONE = "another has more"
    HEARD = "there is a primary"
    OVERTAKEN = "there was a later epoch"
    CUT_OFF = "it has not heard from a majority for too long"
    FORCED = "an operator asks for an election"


S, E = State, Event

TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (S.STARTING, E.DUE): S.CHECKING,
    (S.STARTING, E.CALLED): S.CHECKING,
    (S.STARTING, E.FORCED): S.CHECKING,
    (S.FOLLOWING, E.DUE): S.CHECKING,
    (S.FOLLOWING, E.CALLED): S.CHECKING,
    (S.CHECKING, E.DUE): S.STARTING,
    (S.CHECKING, E.AGREED): S.STANDING,
    (S.CHECKING, E.OUTRANKED): S.YIELDING,
    (S.CHECKING, E.REFUSED): S.STARTING,
    (S.CHECKING, E.OVERTAKEN): S.STARTING,
    (S.YIELDING, E.DUE): S.CHECKING,
    (S.STANDING, E.DUE): S.STARTING,
    (S.STANDING, E.WON): S.ELECTED,
    (S.STANDING, E.OUTRANKED): S.YIELDING,
    (S.STANDING, E.REFUSED): S.STARTING,
    (S.STANDING, E.OVERTAKEN): S.STARTING,
    (S.ELECTED, E.DUE): S.PRIMARY,
    (S.ELECTED, E.COMPARED): S.PRIMARY,
    (S.ELECTED, E.OUTDONE): S.STARTING,
    (S.ELECTED, E.OVERTAKEN): S.STARTING,
    (S.ELECTED, E.CUT_OFF): S.STARTING,
    (S.PRIMARY, E.OVERTAKEN): S.STARTING,
    (S.PRIMARY, E.CUT_OFF): S.STARTING,
    (S.PRIMARY, E.FORCED): S.STARTING,
    **{(state, E.HEARD): S.FOLLOWING for state in S},
    **{(state, E.VOTED): S.YIELDING for state in S},
}
"""All there is; an event that has no row for a state changes nothing in it."""
