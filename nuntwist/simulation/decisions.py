"""What must come of conflicts and of what arbiters decide, as the log of a run tells it.

While a key is in conflict each new conflict comes behind the last one, nothing but the conflicts
change it, and it holds no version. Each of them is decided once, for a value that an arbiter has
answered for that very conflict; when all are, the key has what was decided last, with a version
that is later than the one it had before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nuntwist.core.database import CONFLICT_PREFIX, RESOLVED
from nuntwist.simulation.promises import Violation
from nuntwist.values import CREATE_DATABASE, IN_RESOLUTION, KEY, KIND, VALUE, VERSION, Op
from nuntwist.values import DATABASE as DATABASE_ID

if TYPE_CHECKING:
    from nuntwist.simulation.node import SimulatedNode


@dataclass
class _Key:
    """A key as the log has it so far.

    :ivar before: the version it had before its open conflicts.
    :ivar decided: what was decided last.
    """

    value: bytes = b""
    version: int = -1
    before: int = -1
    pending: list[bytes] = field(default_factory=list)
    decided: bytes | None = None


class Decisions:
    """Goes through a log from its beginning.

    :param given: of which conflict each value was an answer, by number.
    :ivar keys: as the log has them.
    :ivar conflicts: how many there were.
    """

    def __init__(self, given: Mapping[bytes, bytes]) -> None:
        self._given = given
        self.keys: dict[bytes, _Key] = {}
        self.conflicts = 0

    def take(self, op: Op) -> None:
        """An operation on the database.

        :raise Violation: it must not come of conflicts and their decisions.
        """
        if op[KEY].startswith(CONFLICT_PREFIX):
            self._take_conflict(op)
        elif not op[KEY].startswith(b"$"):
            self._take_write(op, self.keys.setdefault(op[KEY], _Key()))

    def _take_conflict(self, op: Op) -> None:
        name, value = op[KEY], op[VALUE]
        about, _, number = name[len(CONFLICT_PREFIX) :].rpartition(b"_")
        key = self.keys.setdefault(about, _Key())
        if value is None:
            if name in key.pending:
                raise Violation(f"{name!r} was removed, and was not decided")
        elif value.startswith(RESOLVED):
            decided = value[len(RESOLVED) :]
            if name not in key.pending:
                raise Violation(f"{name!r} was decided, and was not open")
            if self._given.get(decided) != number:
                raise Violation(f"{name!r} was decided for {decided!r}, which nobody answered")
            key.pending.remove(name)
            key.decided = decided
        else:
            old = value.split(b" ")[5]
            if old != (key.pending[-1] if key.pending else key.value):
                raise Violation(f"{name!r} comes after {old!r}, and {key} is what it was")
            if not key.pending:
                key.before, key.decided = key.version, key.value
            key.pending.append(name)
            self.conflicts += 1

    def _take_write(self, op: Op, key: _Key) -> None:
        version, value = op[VERSION], op[VALUE]
        if (version == IN_RESOLUTION) != bool(key.pending):
            raise Violation(f"{op} while {key} is what it was")
        was_decided = IN_RESOLUTION in (version, key.version)
        if was_decided and value != key.decided:
            raise Violation(f"{op} where {key.decided!r} was decided")
        before = key.before if key.version == IN_RESOLUTION else key.version
        if version != IN_RESOLUTION and value is not None and version <= before:
            raise Violation(f"{op} takes the place of a later one: {key}")
        key.version, key.value = (-1, b"") if value is None else (version, value)

    def end(self) -> None:
        """That was all.

        :raise Violation: something is open.
        """
        for name, key in self.keys.items():
            if key.pending or key.version == IN_RESOLUTION:
                raise Violation(f"{name!r} is in conflict in the end: {key}")


def count_decided(node: SimulatedNode, name: str, given: Mapping[bytes, bytes]) -> int:
    """Go through the log of a node that has all of it, and see that its state is what came of that.

    :param name: of the database.
    :param given: as of :class:`Decisions`.
    :return: how many conflicts there were.
    :raise Violation: it must not come of conflicts and their decisions.
    """
    database = node.node.catalogue.by_name[name.encode()]
    decisions = Decisions(given)
    for ops in node.oplog.read(0):
        for op in ops:
            if op[DATABASE_ID] == database.number and op[KIND] != CREATE_DATABASE:
                decisions.take(op)
    decisions.end()
    for key, told in decisions.keys.items():
        entry = database.find(key)
        held = (b"", -1) if entry is None else (entry[VALUE] or b"", entry[VERSION])
        if held != (told.value, told.version):
            raise Violation(f"{key!r} is {held}, and {told} in the log")
    return decisions.conflicts
