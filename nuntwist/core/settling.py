"""What becomes of conflicts that nobody decides, and of those that were decided.

The primary looks every second. A key whose newest conflict has waited for longer than a time is
settled as the strategy ``newer`` would have done: the change made last has it, and all its
conflicts are resolved by that. (Later decisions of an arbiter count as later changes.) Decided
conflicts go after another time; until then they tell what was decided.

Both are ordinary writes, a thousand a look at most, so that they hold up nobody.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from nuntwist.core.conflicts import version_of
from nuntwist.core.database import CONFLICT_PREFIX, RESOLVED, TOMBSTONE_VERSION, Database
from nuntwist.errors import CommandError
from nuntwist.values import IN_RESOLUTION, REMOVE, SET, STAMP, VALUE, stamp_milliseconds

if TYPE_CHECKING:
    from nuntwist.core.node import Node

LOOK_SECONDS: Final = 1.0
AT_ONCE: Final = 1_000
"""Operations made in one look, and then some: a key is settled whole."""


class Settling:
    """Settles the conflicts of a node.

    :param clock: an IReactorTime.
    :param timeout: seconds after which a conflict that nobody decides is settled; 0 for never.
    :param kept: seconds after which a decided conflict goes; 0 for never.
    """

    _log = Logger()

    def __init__(self, node: Node, clock: Any, timeout: float, kept: float) -> None:
        self._node = node
        self._timeout, self._kept = timeout, kept
        self._looking = LoopingCall(self.look)
        self._looking.clock = clock

    def start(self) -> None:
        """Begin to look."""
        if self._timeout or self._kept:
            self._looking.start(LOOK_SECONDS, now=False)

    def stop(self) -> None:
        """Look no more."""
        if self._looking.running:
            self._looking.stop()

    def look(self) -> None:
        """Settle what is due, where this node is primary."""
        pipeline = self._node.pipeline
        if pipeline.journal.refusal is not None:
            return
        left = AT_ONCE
        try:
            for database in tuple(self._node.catalogue.by_id.values()):
                if left <= 0:
                    break
                if database.conflicts or database.resolved:
                    left -= self._settle_all(database, left) + self._clean(database, left)
        except CommandError as error:
            # The log takes nothing just now, and says so itself.
            self._log.debug("conflicts are not settled now: {error}", error=str(error))
        pipeline.commit()

    def _settle_all(self, database: Database, most: int) -> int:
        if not self._timeout:
            return 0
        made = settled = 0
        for key, pending in tuple(database.conflicts.items()):
            if made >= most:
                break
            if self._is_older(database, pending[-1], self._timeout):
                made += self._settle(database, key, pending)
                settled += 1
        if settled:
            self._node.counters.conflicts_settled += settled
            self._log.warn(
                "keys of the database {database} that were in conflict for over {seconds:g} s:"
                " {count}; the change made last has them now (NUN_CONFLICT_TIMEOUT); see why no"
                " arbiter decides",
                count=settled,
                database=database.name.decode(),
                seconds=self._timeout,
            )
        return made

    def _settle(self, database: Database, key: bytes, pending: list[bytes]) -> int:
        """Let the newest change have a key.

        :return: how many operations that took.
        """
        change, entry = self._node.pipeline.change, database.find(key)
        value = newest_value(database, key)
        conflicts, version = tuple(pending), 0
        for conflict in conflicts:
            # One above that of the key before all of them.
            version = version_of(database.find(conflict))
            change(database, SET, conflict, RESOLVED + value, version + 1)
        if entry is not None and entry[VALUE] is not None and version_of(entry) == IN_RESOLUTION:
            change(database, SET, key, value, version)
        return len(conflicts) + 1

    def _clean(self, database: Database, most: int) -> int:
        if not self._kept:
            return 0
        old = [key for key in database.resolved if self._is_older(database, key, self._kept)]
        for key in islice(old, max(0, most)):
            self._node.pipeline.change(database, REMOVE, key, None, TOMBSTONE_VERSION)
        return min(len(old), max(0, most))

    def _is_older(self, database: Database, key: bytes, seconds: float) -> bool:
        entry = database.find(key)
        if entry is None:
            return False
        return self._node.wall() * 1000.0 - stamp_milliseconds(entry[STAMP]) > seconds * 1000.0


def newest_value(database: Database, key: bytes) -> bytes:
    """What the newest open conflict of a key wants it to be, or what was decided later.

    Its message is ``resolve NUMBER DATABASE VERSION KEY OLD NEW``, and OLD may hold spaces: it is
    the conflict before it or, of the first one, what the key held. Where that is not what the key
    holds now, a later conflict was decided first, and that is the newest change.
    """
    entry = database.find(key)
    current = b"" if entry is None else entry[VALUE] or b""
    pending = database.conflicts[key]
    words = (database.value(pending[-1]) or b"").split(b" ", 5)
    values = words[5] if len(words) == 6 else b""
    first, _, rest = values.partition(b" ")
    prefix = CONFLICT_PREFIX + key + b"_"
    is_chained = first.startswith(prefix) and first[len(prefix) :].isdigit()
    if is_chained and not (len(pending) == 1 and values.startswith(current + b" ")):
        return rest
    if values.startswith(current + b" "):
        return values[len(current) + 1 :]
    return current
