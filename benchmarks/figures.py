"""Numbers of a run: percentiles, rows of the table, and the figures to reach."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum


class Reach(Enum):
    """What a figure to reach is compared with."""

    RATIO = "of Redis"
    AT_MOST = "at most"
    TIMES = "times Redis"


@dataclass(frozen=True)
class Target:
    """A figure to reach.

    :ivar reach: RATIO: ours through Redis' is ``value`` or more; TIMES: it is ``value`` or less;
        AT_MOST: ours is ``value`` or less, in the unit of the row.
    """

    reach: Reach
    value: float


TARGETS = {
    "set-1": Target(Reach.RATIO, 0.45),
    "set-16": Target(Reach.RATIO, 0.43),
    "set-100": Target(Reach.RATIO, 0.45),
    "get-1": Target(Reach.RATIO, 0.55),
    "get-16": Target(Reach.RATIO, 0.42),
    "get-100": Target(Reach.RATIO, 0.45),
    "ws-1": Target(Reach.RATIO, 0.30),
    "ws-16": Target(Reach.RATIO, 0.30),
    "fanout-100": Target(Reach.RATIO, 0.8),
    "fanout-1000": Target(Reach.RATIO, 0.8),
    "fanout-5000": Target(Reach.RATIO, 0.8),
    "idle-connection": Target(Reach.AT_MOST, 12.0),
    "keys-wait": Target(Reach.AT_MOST, 20.0),
    "keys-prefix-wait": Target(Reach.AT_MOST, 20.0),
    "pause-load": Target(Reach.AT_MOST, 10.0),
    "durability-os-everysec-1": Target(Reach.RATIO, 0.3),
    "durability-os-everysec-50": Target(Reach.RATIO, 0.3),
    "durability-os-everysec-500": Target(Reach.RATIO, 0.3),
    "durability-disk-50": Target(Reach.RATIO, 0.5),
    "durability-disk-500": Target(Reach.RATIO, 0.5),
    "snapshot-wait": Target(Reach.AT_MOST, 20.0),
    "snapshot-memory": Target(Reach.AT_MOST, 30.0),
    "snapshot-load": Target(Reach.TIMES, 5.0),
    "position-worst": Target(Reach.AT_MOST, 5.0),
    "lag-1000-p99": Target(Reach.AT_MOST, 10.0),
    "failover-median": Target(Reach.AT_MOST, 1.0),
    "failover-worst": Target(Reach.AT_MOST, 2.0),
    "sync-full": Target(Reach.AT_MOST, 15.0),
    "sync-memory-sender": Target(Reach.AT_MOST, 100.0),
    "sync-memory-receiver": Target(Reach.AT_MOST, 100.0),
    "hostile-memory": Target(Reach.AT_MOST, 500.0),
    "reconnect": Target(Reach.AT_MOST, 10.0),
    "reconnect-signed": Target(Reach.AT_MOST, 10.0),
    "hostile-p99": Target(Reach.AT_MOST, 50.0),
}
"""The figures to reach, by the name of the row; a row without one is for information."""


@dataclass(frozen=True)
class Side:
    """What one server did in one measure.

    :ivar rounds: the figure of each round.
    :ivar cpu: the share of a core the server used, 1.0 for all of it; None if not measured.
    :ivar generator: the share of a core the load generator used.
    :ivar notes: further figures, for the JSON file.
    """

    rounds: Sequence[float]
    cpu: float | None = None
    generator: float | None = None
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def figure(self) -> float:
        return statistics.median(self.rounds)


@dataclass(frozen=True)
class Row:
    """A line of the table.

    :ivar name: a short name, unique.
    :ivar title: what is measured, for people.
    :ivar unit: of both figures.
    :ivar redis: None where there is no such figure, or no Redis.
    """

    name: str
    title: str
    unit: str
    ours: Side
    redis: Side | None = None

    @property
    def ratio(self) -> float | None:
        """Ours through Redis', each the median of its rounds."""
        if self.redis is None or self.redis.figure == 0:
            return None
        return self.ours.figure / self.redis.figure

    @property
    def target(self) -> Target | None:
        return TARGETS.get(self.name)

    @property
    def reached(self) -> bool | None:
        """Whether the figure to reach is reached; None where there is nothing to compare."""
        target = self.target
        if target is None:
            return None
        if target.reach is Reach.AT_MOST:
            return self.ours.figure <= target.value
        if self.ratio is None:
            return None
        if target.reach is Reach.TIMES:
            return self.ratio <= target.value
        return self.ratio >= target.value


def percentile(values: Sequence[float], share: float) -> float:
    """Give the smallest value that a share of all values does not exceed (nearest rank).

    :param share: from 0.0 to 1.0; 1.0 gives the greatest.
    :raise ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values")
    rank = math.ceil(share * len(values))
    return sorted(values)[max(0, rank - 1)]
