"""Whether a history is linearizable: as if each operation had happened at one moment between its
call and its answer.

Keys do not know of each other, so each is looked at by itself (Herlihy and Wing, 1990: what is
linearizable key by key is so as a whole). For one key this is the search of Wing and Gong (1993)
with the memory of Lowe (2017)::

    events    call a | call b | answer b | call c | answer a | ...      a linked list, in order

    from the beginning on, take the first call whose answer fits the state; take it and its answer
    out of the list, move the state, begin again. At an answer whose call was not taken: put back
    what was taken last, and go on behind it.

The same set of taken operations in the same state is tried once. Operations without an answer are
not in the list: where no call of it can be taken, one of these is
(:mod:`nuntwist.simulation.loose`), and what is left of them in the end does not matter. Where the
search has no way left, the answer at which it always had to stop, at the latest, is the one that
cannot be explained; all before it can. Where it takes too many steps the verdict is ``unknown``,
which is not a pass. How that is told is :mod:`nuntwist.simulation.verdict`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from nuntwist.simulation.history import GET, Fate, History, Operation
from nuntwist.simulation.loose import classes
from nuntwist.simulation.one_key import NOTHING, State, perform
from nuntwist.simulation.verdict import Explanation, Report, Verdict

STEPS: Final = 2_000_000
"""Operations that are tried for one key, at most."""
_NOBODY: Final = Operation(-1, 0, GET, b"", b"", 0, 0.0)
"""That of the head of the list."""


class _Event:
    """A call or an answer, in the list.

    :ivar place: in the order of all events, those that are not in the list too.
    :ivar bit: of the operation, in the set of those that are taken.
    :ivar answer: of a call: its answer; None for an answer.
    """

    __slots__ = ("after", "answer", "before", "bit", "operation", "place")

    def __init__(self, operation: Operation, place: int, bit: int) -> None:
        self.operation = operation
        self.place = place
        self.bit = bit
        self.answer: _Event | None = None
        self.before: _Event | None = None
        self.after: _Event | None = None


def check(history: History, steps: int = STEPS) -> Report:
    """Look at a whole history.

    :param steps: operations that are tried for one key, at most.
    """
    report = Report()
    for key, operations in history.by_key().items():
        search = _Search(key, operations, steps)
        verdict = search.run()
        report.steps += search.steps
        if verdict is Verdict.UNKNOWN:
            report.given_up.append(key)
        elif verdict is Verdict.NOT_LINEARIZABLE:
            report.failures.append(search.explanation())
    return report


def check_key(operations: Sequence[Operation], steps: int = STEPS) -> Verdict:
    """Look at the operations of one key."""
    return _Search(b"", operations, steps).run()


class _Search:
    """One key; see the module's header."""

    def __init__(self, key: bytes, operations: Sequence[Operation], limit: int) -> None:
        self._key = key
        self._limit = limit
        self._answers = 0
        self.steps = 0
        self._operations = operations
        self._head = self._listed(operations)
        # What was taken, with the state before it: a call of the list, or one of a class.
        self._stack: list[tuple[_Event | int, State]] = []
        self._stuck: _Event | None = None
        self._reached = -1
        self._prefix: tuple[Operation, ...] = ()
        self._state: State = NOTHING

    def _listed(self, operations: Sequence[Operation]) -> _Event:
        times: list[tuple[float, bool, int]] = []
        for number, operation in enumerate(operations):
            # What is called and answered at the same time overlaps: calls come first.
            times.append((operation.called, False, number))
            if operation.fate is Fate.ANSWERED and operation.closed is not None:
                times.append((operation.closed, True, number))
        times.sort()
        calls = [0] * len(operations)
        listed = dict[int, _Event]()
        head = last = _Event(_NOBODY, -1, 0)
        for place, (_, is_answer, number) in enumerate(times):
            operation = operations[number]
            if not is_answer:
                calls[number] = place
                if operation.fate is not Fate.ANSWERED:
                    continue
            event = _Event(operation, place, 1 << number)
            if is_answer:
                listed[number].answer = event
                self._answers += 1
            else:
                listed[number] = event
            last.after, event.before = event, last
            last = event
        self._loose = classes(operations, calls)
        return head

    def run(self) -> Verdict:
        """Search."""
        state, taken, left = NOTHING, 0, self._answers
        tried: set[tuple[int, State]] = set()
        event = self._head.after
        # Which class is to be tried next, where no call of the list can be taken.
        number = 0
        while left:
            if self.steps >= self._limit:
                return Verdict.UNKNOWN
            assert event is not None
            call: _Event | int | None = None
            if event.answer is not None:
                self.steps += 1
                next_state, answer = perform(state, event.operation)
                if answer == event.operation.answer:
                    call, bit = event, event.bit
            elif number < len(self._loose):
                loose = self._loose[number]
                if loose.is_next(event.place, self._candidates(event)):
                    self.steps += 1
                    next_state, answer = perform(state, loose.effect)
                    if next_state != state:
                        call, bit = number, loose.bits[loose.taken]
            if call is not None and (found := (taken | bit, next_state)) not in tried:
                tried.add(found)
                self._stack.append((call, state))
                taken, state = found
                left -= self._take(call)
                event, number = self._head.after, 0
            elif event.answer is not None:
                event = event.after
            elif number < len(self._loose):
                number += 1
            else:
                if event.place > self._reached:
                    self._note(event, state)
                if not self._stack:
                    return Verdict.NOT_LINEARIZABLE
                call, state = self._stack.pop()
                left += self._put_back(call)
                if isinstance(call, _Event):
                    taken ^= call.bit
                    event, number = call.after, 0
                else:
                    loose = self._loose[call]
                    taken ^= loose.bits[loose.taken]
                    event, number = self._first_answer(), call + 1
        return Verdict.LINEARIZABLE

    def _candidates(self, until: _Event) -> Iterator[Operation]:
        """The answered operations that could come next."""
        event = self._head.after
        while event is not None and event is not until:
            yield event.operation
            event = event.after

    def _first_answer(self) -> _Event | None:
        event = self._head.after
        while event is not None and event.answer is not None:
            event = event.after
        return event

    def _take(self, call: _Event | int) -> bool:
        """Take a call, or the next of a class.

        :return: whether it has an answer.
        """
        if isinstance(call, _Event):
            _take_out(call)
            return True
        self._loose[call].taken += 1
        return False

    def _put_back(self, call: _Event | int) -> bool:
        """The opposite."""
        if isinstance(call, _Event):
            _put_back(call)
            return True
        self._loose[call].taken -= 1
        return False

    def _note(self, stuck: _Event, state: State) -> None:
        """No order has come further than to this answer."""
        self._reached, self._stuck, self._state = stuck.place, stuck, state
        prefix, taken = [], Counter[int]()
        for call, _ in self._stack:
            if isinstance(call, _Event):
                prefix.append(call.operation)
            else:
                prefix.append(self._loose[call].operations[taken[call]])
                taken[call] += 1
        self._prefix = tuple(prefix)

    def explanation(self) -> Explanation:
        """Why there is no way."""
        assert self._stuck is not None
        stuck = self._stuck.operation
        known = {id(stuck), *map(id, self._prefix)}
        closed = stuck.closed
        around = tuple(
            operation
            for operation in self._operations
            if id(operation) not in known and (closed is None or operation.called <= closed)
        )
        return Explanation(self._key, stuck, self._prefix, self._state, around)


def _take_out(call: _Event) -> None:
    """Take a call, and its answer, out of the list."""
    for event in (call, call.answer):
        if event is not None:
            assert event.before is not None
            event.before.after = event.after
            if event.after is not None:
                event.after.before = event.before


def _put_back(call: _Event) -> None:
    """Put what was taken out last back to where it was."""
    for event in (call.answer, call):
        if event is not None:
            assert event.before is not None
            event.before.after = event
            if event.after is not None:
                event.after.before = event
