"""Seeds by the thousand, on all cores.

The seeds go to processes in small pieces, and what they have come to comes back in the order of
the seeds: what is told is the same whatever the number of processes. These begin afresh, as a fork
of a process with threads may stand still.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from twisted.logger import globalLogBeginner

from nuntwist.simulation.plan import Plan
from nuntwist.simulation.running import simulate

PIECE: Final = 4
"""Seeds that a process takes at once."""


def log_nothing() -> None:
    """Print nothing of what nodes log: it is of no interest where they are troubled on purpose."""
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)


class Told(NamedTuple):
    """What a seed has come to."""

    seed: int
    plan: str
    operations: int
    failure: str | None


@dataclass
class Total:
    """What many seeds have come to.

    :ivar seeds: how many were run, by the name of their plan.
    :ivar failed: the seeds that failed, likewise.
    """

    seeds: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    operations: int = 0

    def add(self, told: Told) -> None:
        """Count one more."""
        self.seeds[told.plan] += 1
        self.failed[told.plan] += told.failure is not None
        self.operations += told.operations

    def lines(self) -> Iterator[str]:
        """A line a plan."""
        for plan, seeds in sorted(self.seeds.items()):
            yield f"  {plan}: {seeds} seeds, {self.failed[plan]} failed"


class Runner:
    """Runs seeds.

    :param plan_of: gives the plan of a seed, with its name.
    :param jobs: how many processes.
    """

    def __init__(self, plan_of: Callable[[int], tuple[str, Plan]], jobs: int) -> None:
        self._plan_of = plan_of
        self._jobs = jobs

    def run(self, seeds: Sequence[int]) -> Iterator[Told]:
        """Run them all; what they have come to, in their order, each as soon as it is known."""
        pieces = [seeds[at : at + PIECE] for at in range(0, len(seeds), PIECE)]
        if self._jobs <= 1 or len(pieces) <= 1:
            for piece in pieces:
                yield from self._piece(piece)
            return
        jobs = min(self._jobs, len(pieces))
        with multiprocessing.get_context("spawn").Pool(jobs, log_nothing) as pool:
            for told in pool.imap(self._piece, pieces):
                yield from told

    def _piece(self, seeds: Iterable[int]) -> list[Told]:
        return [self._one(seed) for seed in seeds]

    def _one(self, seed: int) -> Told:
        name, plan = self._plan_of(seed)
        outcome = simulate(seed, plan)
        return Told(seed, name, outcome.operations, outcome.failure)
