"""What one key answers when one asks after the other, in a database with strategy ``none``.

It says again, in a few lines and without the code of the server, what the server has to do: a
written value has a version; ``set`` moves it by one; ``set-safe`` with N stores N+1, which has to
be above the one there; a key that is not there has none, so it begins at N+1, at 0 for ``set``;
``increment`` counts from 0 where nothing is, and moves the version as ``set`` does.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

from nuntwist.simulation.history import (
    CONFLICT,
    DONE,
    GET,
    GET_SAFE,
    INCREMENT,
    NOT_NUMERIC,
    REMOVE,
    SET,
    Answer,
    Operation,
)

State: TypeAlias = tuple[bytes | None, int]
"""The value and the version of a key."""

NOTHING: Final[State] = (None, -1)
"""That of a key that is not there."""

_NUMBER: Final = re.compile(rb"[+-]?[0-9]{1,40}\Z")
_LIMIT: Final = 1 << 63


def perform(state: State, operation: Operation) -> tuple[State, Answer]:
    """What an operation leads to.

    :return: the state after it, and its answer.
    """
    kind = operation.kind
    value, version = state
    if kind == GET:
        return state, Answer("value", value)
    if kind == GET_SAFE:
        return state, Answer("value-version", value, 1 if value is None else version)
    if kind == SET:
        return (operation.value, version + 1), DONE
    if kind == INCREMENT:
        return _increment(state, operation.amount)
    if kind == REMOVE:
        return NOTHING, DONE
    asked = operation.amount
    if asked == -1:
        return (operation.value, version + 1), DONE
    if asked < -1 or asked + 1 <= version:
        return state, CONFLICT
    return (operation.value, asked + 1), DONE


def _increment(state: State, amount: int) -> tuple[State, Answer]:
    value, version = state
    if value is not None and _NUMBER.match(value) is None:
        return state, NOT_NUMERIC
    total = (0 if value is None else int(value)) + amount
    if not -_LIMIT <= total < _LIMIT:
        return state, NOT_NUMERIC
    return (b"%d" % total, version + 1), DONE
