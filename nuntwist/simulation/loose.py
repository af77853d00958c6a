"""Operations without an answer, as the search of one key takes them.

Each may be taken anywhere after its call, or be left, so a dozen of them would make thousands of
ways. Most of these are the same way:

- operations of the same effect (two increments by 1, two writes whose values nobody has read)
  can change places, as nothing has to come before an answer of theirs: they are a *class*, of
  which the one that was called first is taken first;
- a write whose value somebody has read, and that nobody else writes, stands right before such a
  read, or before what failed because of it: it is taken only where one of these can come next;
- a write whose value nobody has read matters to versions and to increments alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from nuntwist.simulation.history import (
    CONFLICT,
    GET_SAFE,
    INCREMENT,
    NOT_NUMERIC,
    READS,
    REMOVE,
    SET,
    SET_SAFE,
    Fate,
    Operation,
)

_UNSEEN = b"?"
"""Stands for all values that nobody has read; it is no number."""


@dataclass(slots=True)
class Class:
    """Operations of the same effect, in the order they were called.

    :ivar effect: what each of them does, as one operation.
    :ivar seen: whether it is taken only where somebody sees it.
    :ivar calls: the places of their calls in the list of events.
    :ivar bits: of each, in the set of those that are taken.
    :ivar taken: how many are taken.
    """

    effect: Operation
    seen: bool
    calls: list[int] = field(default_factory=list)
    bits: list[int] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    taken: int = 0

    def is_next(self, before: int, candidates: Iterable[Operation]) -> bool:
        """Whether one of them can be taken now.

        :param before: the place of the answer that must not come before it.
        :param candidates: the answered operations that could come next.
        """
        if self.taken >= len(self.calls) or self.calls[self.taken] >= before:
            return False
        return not self.seen or any(map(self._is_seen_by, candidates))

    def _is_seen_by(self, operation: Operation) -> bool:
        answer = operation.answer
        if answer is None:
            return False
        return answer in (CONFLICT, NOT_NUMERIC) or answer.value == self.effect.value


def classes(operations: Sequence[Operation], places: Sequence[int]) -> list[Class]:
    """Sort the operations of a key that have no answer into classes.

    :param operations: all of the key; the bit of each is its place among these.
    :param places: for each, the place of its call in the list of events.
    """
    rules = _Rules(operations)
    found: dict[tuple[object, ...], Class] = {}
    for number, operation in enumerate(operations):
        if operation.fate is Fate.ANSWERED or rules.has_no_effect(operation):
            continue
        name = rules.class_of(operation)
        if name not in found:
            effect = operation
            if _UNSEEN in name:
                effect = replace(operation, value=_UNSEEN)
            found[name] = Class(effect, rules.must_be_seen(operation))
        found[name].calls.append(places[number])
        found[name].bits.append(1 << number)
        found[name].operations.append(operation)
    return list(found.values())


class _Rules:
    """What is known of a key as a whole."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._read = {o.answer.value for o in operations if o.answer is not None}
        self._written = Counter(o.value for o in operations if o.kind in (SET, SET_SAFE))
        kinds = {operation.kind for operation in operations}
        self._adds = INCREMENT in kinds
        self._counts_versions = bool(kinds & {GET_SAFE, SET_SAFE})

    def has_no_effect(self, operation: Operation) -> bool:
        """Whether it changes nothing that anybody could see."""
        if operation.kind in (SET, SET_SAFE):
            return not (self._is_read(operation) or self._adds or self._counts_versions)
        return operation.kind in READS

    def _is_read(self, operation: Operation) -> bool:
        return operation.value in self._read

    def class_of(self, operation: Operation) -> tuple[object, ...]:
        """What operations of the same effect have in common."""
        if operation.kind == REMOVE:
            return (REMOVE,)
        if operation.kind == INCREMENT:
            return INCREMENT, operation.amount
        amount = operation.amount if operation.kind == SET_SAFE else 0
        if self._is_read(operation) or self._adds:
            return operation.kind, amount, operation.value, "as it is"
        return operation.kind, amount, _UNSEEN

    def must_be_seen(self, operation: Operation) -> bool:
        """Whether it makes no difference but to those that see its value."""
        if operation.kind not in (SET, SET_SAFE) or self._adds:
            return False
        return self._is_read(operation) and self._written[operation.value] == 1
