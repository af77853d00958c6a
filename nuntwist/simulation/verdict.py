"""What is told of a history: whether it is linearizable, and where it is not, why.

An explanation names the answer that cannot have been given, an order of operations that explains
all that was answered before it, and what else was under way and does not help.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from nuntwist.simulation.history import Operation
from nuntwist.simulation.one_key import State

SHOWN: Final = 8
"""Operations of each sort that an explanation shows."""


class Verdict(Enum):
    """What the search has found."""

    LINEARIZABLE = "linearizable"
    NOT_LINEARIZABLE = "not linearizable"
    UNKNOWN = "unknown: the search was given up"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why the operations of one key do not fit.

    :ivar stuck: what was answered and cannot have been.
    :ivar prefix: an order of operations that explains as many answers before that as can be.
    :ivar state: value and version after these.
    :ivar around: what else was under way, and could have come in between.
    """

    key: bytes
    stuck: Operation
    prefix: tuple[Operation, ...]
    state: State
    around: tuple[Operation, ...]

    def __str__(self) -> str:
        value, version = self.state
        held = "nothing" if value is None else f"{value.decode()!r} at version {version}"
        before = self.prefix[-SHOWN:]
        left_out = len(self.prefix) - len(before)
        lines = [f"key {self.key.decode()}: this cannot have been answered:", f"    {self.stuck}"]
        lines.append("what explains all that was answered before it:")
        lines += [f"    ({left_out} before)"] if left_out else []
        lines += [f"    {operation}" for operation in before]
        lines.append(f"which leaves {held}")
        if self.around:
            lines.append("what was under way, and does not help:")
            lines += [f"    {operation}" for operation in self.around[:SHOWN]]
        return "\n".join(lines)


@dataclass(slots=True)
class Report:
    """What was found of a history.

    :ivar failures: an explanation for each key that does not fit.
    :ivar given_up: the keys whose search was given up.
    :ivar steps: operations tried, in all.
    """

    failures: list[Explanation] = field(default_factory=list)
    given_up: list[bytes] = field(default_factory=list)
    steps: int = 0

    @property
    def verdict(self) -> Verdict:
        """Of the whole."""
        if self.failures:
            return Verdict.NOT_LINEARIZABLE
        return Verdict.UNKNOWN if self.given_up else Verdict.LINEARIZABLE

    def __str__(self) -> str:
        lines = [self.verdict.value, *map(str, self.failures)]
        lines += [f"key {key.decode()}: {Verdict.UNKNOWN.value}" for key in self.given_up]
        return "\n".join(lines)
