"""Which runs are asked for on the command line.

It is not in ``__main__``, which the processes that run seeds do not have.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace

from nuntwist.simulation.plan import PLANS, Plan, plan_of

PROGRAM = "python -m nuntwist.simulation"


@dataclass(frozen=True)
class Choice:
    """What was asked for on the command line.

    :ivar plan: the name of the plan of all seeds; None for those of the mix.
    :ivar share: how long the faults last, as a share of what the plan says.
    """

    plan: str | None = None
    nodes: int | None = None
    seconds: float | None = None
    faults: str | None = None
    share: float | None = None

    def plan_of(self, seed: int) -> tuple[str, Plan]:
        """The plan of a seed, with its name."""
        name = self.plan or plan_of(seed)
        plan = PLANS[name]
        if self.nodes is not None:
            plan = replace(plan, nodes=self.nodes)
        if self.seconds is not None:
            plan = replace(plan, seconds=self.seconds)
        if self.share is not None:
            plan = replace(plan, seconds=plan.seconds * self.share)
        if self.faults is not None:
            plan = replace(plan, faults=tuple(filter(None, self.faults.split(","))))
        return name, plan

    def command(self, seed: int) -> str:
        """The command that runs one seed again."""
        words = [PROGRAM, "--seed", str(seed), "--plan", self.plan_of(seed)[0]]
        for name in ("nodes", "seconds", "share", "faults"):
            value = getattr(self, name)
            if value is not None:
                words += [f"--{name}", shlex.quote(str(value))]
        return " ".join([*words, "--trace"])
