"""What clients asked, what they were answered, and in which order that happened.

A client that asks gets an :class:`Operation`, and says what has become of it::

    history = History()
    write = history.call(client=1, kind=SET, key=b"k", value=b"1")
    connection.send(write.command())
    history.close(write, connection.received())

An operation whose answer never comes, or says that the outcome is unknown, may have happened at
any time since it was called, may happen later, or never. One that was refused for certain has not
happened and is no part of what is checked.

The order is that of the calls of ``call`` and ``close``, so that two things at the same time of a
simulated clock have one. Where several processes record, each gives times of one monotonic clock
(``order``) and the histories are put together with :func:`merge`; there an answer and a call at
the same time count as overlapping.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import count
from typing import Any, Final, NamedTuple

SET: Final = "set"
SET_SAFE: Final = "set-safe"
GET: Final = "get"
GET_SAFE: Final = "get-safe"
INCREMENT: Final = "increment"
REMOVE: Final = "remove"

KINDS: Final = (SET, SET_SAFE, GET, GET_SAFE, INCREMENT, REMOVE)
READS: Final = (GET, GET_SAFE)

REFUSALS: Final = (
    "no primary",
    "not primary",
    "storage unavailable",
    "not enough replicas",
    "permission denied",
    "no db selected",
)
"""What errors begin with that say for certain that nothing has changed."""

_EMPTY: Final = "<Empty>"


class Answer(NamedTuple):
    """What an operation was answered.

    :ivar word: ``ok``, ``value``, ``value-version``, ``conflict`` or ``not numeric``.
    :ivar value: what was read; None for nothing.
    :ivar version: the version that was read.
    """

    word: str
    value: bytes | None = None
    version: int = 0


DONE: Final = Answer("ok")
CONFLICT: Final = Answer("conflict")
NOT_NUMERIC: Final = Answer("not numeric")


class Fate(Enum):
    """What has become of an operation."""

    OPEN = "not answered"
    ANSWERED = "answered"
    UNKNOWN = "outcome unknown"
    REFUSED = "refused"


@dataclass(slots=True, eq=False)
class Operation:
    """One call of one client.

    :ivar number: its place among the calls of its history.
    :ivar kind: one of :data:`KINDS`.
    :ivar value: what is to be set.
    :ivar amount: the version that set-safe carries; what increment adds.
    :ivar called: when, by the order of the history.
    :ivar closed: when its fate was known; None while it is open.
    :ivar answer: what it was answered, where it was.
    """

    number: int
    client: int
    kind: str
    key: bytes
    value: bytes
    amount: int
    called: float
    closed: float | None = None
    fate: Fate = Fate.OPEN
    answer: Answer | None = None

    def command(self) -> str:
        """The command that a client sends for it."""
        key = self.key.decode()
        if self.kind == SET:
            return f"set {key} {self.value.decode()}"
        if self.kind == SET_SAFE:
            return f"set-safe {key} {self.amount} {self.value.decode()}"
        if self.kind == INCREMENT:
            return f"increment {key} {self.amount}"
        return f"{self.kind} {key}"

    def __str__(self) -> str:
        if self.answer is None:
            said = self.fate.value
        else:
            said = self.answer.word
            if said in ("value", "value-version"):
                value = self.answer.value
                said = _EMPTY if value is None else value.decode("utf-8", "replace")
                if self.answer.word == "value-version":
                    said += f" at version {self.answer.version}"
        end = "" if self.closed is None else f"{self.closed:g}"
        return f"client {self.client}, {self.called:g} to {end}: {self.command()} -> {said}"


class History:
    """The operations of some clients.

    :param order: gives numbers that never fall; without it one more each time.
    :ivar operations: all, in the order they were called.
    """

    def __init__(self, order: Callable[[], float] | None = None) -> None:
        self._order: Callable[[], float] = order or count(1).__next__
        self.operations: list[Operation] = []

    def call(
        self, client: int, kind: str, key: bytes, value: bytes = b"", amount: int = 0
    ) -> Operation:
        """A client asks; to be said before it is sent.

        :raise ValueError: there is no such kind.
        """
        if kind not in KINDS:
            raise ValueError(f"{kind} is no kind of operation")
        number = len(self.operations)
        operation = Operation(number, client, kind, key, value, amount, self._order())
        self.operations.append(operation)
        return operation

    def close(self, operation: Operation, text: str) -> None:
        """An answer has come: the whole of it, as TCP clients get it.

        :raise ValueError: it says what no answer to this kind says.
        """
        answer = read_answer(operation.kind, text)
        if isinstance(answer, Fate):
            self.close_without(operation, answer)
        else:
            self.close_with(operation, answer)

    def close_with(self, operation: Operation, answer: Answer) -> None:
        """An operation is answered."""
        operation.answer = answer
        self.close_without(operation, Fate.ANSWERED)

    def close_without(self, operation: Operation, fate: Fate) -> None:
        """What has become of an operation is known, or that it never will be."""
        if operation.closed is not None:
            raise ValueError(f"answered twice: {operation}")
        operation.fate, operation.closed = fate, self._order()

    def by_key(self) -> dict[bytes, list[Operation]]:
        """What is to be checked, a list a key, in the order it was called.

        Reads that were not answered and what was refused say nothing.
        """
        keys: dict[bytes, list[Operation]] = {}
        for operation in self.operations:
            if operation.fate is Fate.REFUSED:
                continue
            if operation.fate is not Fate.ANSWERED and operation.kind in READS:
                continue
            keys.setdefault(operation.key, []).append(operation)
        return keys

    # -- to keep it --------------------------------------------------------------------------

    def to_lines(self) -> str:
        """The history as text, a JSON object a line."""
        return "".join(json.dumps(_fields(operation)) + "\n" for operation in self.operations)


def from_lines(text: str) -> History:
    """Read what :meth:`History.to_lines` has written.

    :raise ValueError: it is something else.
    """
    history = History()
    for line in text.splitlines():
        try:
            history.operations.append(_operation(json.loads(line)))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no operation: {line[:80]}") from error
    return history


def merge(histories: Iterable[History]) -> History:
    """Put together what was recorded by the same clock at several places."""
    merged = History()
    found = [operation for history in histories for operation in history.operations]
    merged.operations = sorted(found, key=lambda operation: operation.called)
    for number, operation in enumerate(merged.operations):
        operation.number = number
    return merged


def read_answer(kind: str, text: str) -> Answer | Fate:
    """What an answer means: all that a TCP client got for one command.

    :raise ValueError: no answer to this kind says that.
    """
    message, _, closing = text.rpartition("\n")[0].rpartition("\n")
    if closing == "ok ":
        answer = _answer(message)
        if answer is not None:
            return answer
    elif closing.startswith("error "):
        said = closing.removeprefix("error ").strip()
        if said == "Invalid version!":
            return CONFLICT
        if said == "Key is not numeric":
            return NOT_NUMERIC
        if said.startswith("outcome unknown"):
            return Fate.UNKNOWN
        if said.startswith(REFUSALS):
            return Fate.REFUSED
    raise ValueError(f"{kind} was answered {text!r}")


def _answer(message: str) -> Answer | None:
    if not message:
        return DONE
    word, _, rest = message.partition(" ")
    if word == "value":
        return Answer("value", None if rest == _EMPTY else rest.encode())
    if word == "value-version":
        number, _, rest = rest.partition(" ")
        return Answer("value-version", None if rest == _EMPTY else rest.encode(), int(number))
    return None


def _fields(operation: Operation) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "client": operation.client,
        "kind": operation.kind,
        "key": operation.key.decode(),
        "value": operation.value.decode(),
        "amount": operation.amount,
        "called": operation.called,
        "closed": operation.closed,
        "fate": operation.fate.value,
        "number": operation.number,
    }
    if operation.answer is not None:
        word, value, version = operation.answer
        fields["answer"] = [word, None if value is None else value.decode(), version]
    return fields


def _operation(fields: dict[str, Any]) -> Operation:
    answer = fields.get("answer")
    if answer is not None:
        word, value, version = answer
        answer = Answer(word, None if value is None else value.encode(), version)
    return Operation(
        fields["number"],
        fields["client"],
        fields["kind"],
        fields["key"].encode(),
        fields["value"].encode(),
        fields["amount"],
        fields["called"],
        fields["closed"],
        Fate(fields["fate"]),
        answer,
    )
