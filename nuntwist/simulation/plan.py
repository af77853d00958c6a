"""What kinds of runs there are.

A seed alone is not a run: the plan says how many nodes there are, what their settings are, how
they are started, and what may happen to them. The plans that have a name are run in turn by
``python -m nuntwist.simulation``, so that a seed together with the name of a plan is a run again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from nuntwist.config import NodeConfig

NETWORK_FAULTS: Final = ("one-way", "isolate", "bridge", "slow", "drop", "no-links")
USUAL_FAULTS: Final = (*NETWORK_FAULTS, "pause", "crash", "stop", "clock", "disk-full")
"""What may happen to nodes at any time."""
CHANGES: Final = ("join", "leave", "replace")
"""Changes of who is in the set."""
START_FAULTS: Final = (*NETWORK_FAULTS, "pause", "crash")


@dataclass(frozen=True)
class Plan:
    """What kind of run it is.

    :ivar nodes: of the set at first.
    :ivar spare: how many more may join in a run.
    :ivar keys: of each kind (see :class:`nuntwist.simulation.clients.Writer`).
    :ivar apart: seconds between the starts of two nodes, at least and at most.
    :ivar shuffled: whether they are started in any order.
    :ivar start_faults: what may happen while they find each other, for ``start_seconds``.
    :ivar seconds: of faults, once clients are there.
    :ivar rest: seconds at most until all are alike again after that.
    :ivar config: of the nodes, but for their addresses.
    :ivar disputers: clients of a database of their own that bring keys into conflict, which
        ``arbiters`` decide.
    :ivar reads: whether clients read, too, and ask for linearizable reads.
    """

    nodes: int = 3
    spare: int = 0
    writers: int = 4
    watchers: int = 2
    disputers: int = 0
    arbiters: int = 0
    keys: int = 4
    apart: tuple[float, float] = (0.01, 0.01)
    shuffled: bool = False
    start_faults: tuple[str, ...] = ()
    start_seconds: float = 5.0
    seconds: float = 10.0
    rest: float = 30.0
    config: NodeConfig = field(default_factory=lambda: NodeConfig(write_concern="majority"))
    reads: bool = True
    faults: tuple[str, ...] = USUAL_FAULTS

    @property
    def keeps_all(self) -> bool:
        """Whether nothing that was answered may be lost."""
        return self.config.write_concern == "majority"


def _settings(**settings: str | int) -> NodeConfig:
    return NodeConfig(**{"write_concern": "majority", **settings})  # type: ignore[arg-type]  # by name


PLANS: Final[Mapping[str, Plan]] = MappingProxyType(
    {
        "usual": Plan(),
        # What was not flushed is lost with the power.
        "disk": Plan(config=_settings(durability="disk"), faults=(*USUAL_FAULTS, "disk-fails")),
        "five": Plan(nodes=5, seconds=8.0),
        # The usual concern: what was answered may be cut off, but is never lost from sight.
        "primary": Plan(config=_settings(write_concern="primary"), reads=False),
        "primary-disk": Plan(
            config=_settings(write_concern="primary", durability="disk"),
            reads=False,
            faults=(*USUAL_FAULTS, "disk-fails"),
        ),
        # Many full disks, and little else.
        "full": Plan(faults=("disk-full", "disk-fails", "drop", "isolate", "stop")),
        # A first start in any order, while connections fail.
        "starts": Plan(apart=(0.0, 1.5), shuffled=True, start_faults=START_FAULTS, seconds=3.0),
        # The same with more nodes: they must not end as two sets, so a majority begins.
        "starts-five": Plan(
            nodes=5,
            apart=(0.0, 1.0),
            shuffled=True,
            start_faults=START_FAULTS,
            seconds=3.0,
            config=_settings(election_quorum="majority"),
        ),
        "members": Plan(spare=2, faults=(*USUAL_FAULTS, *CHANGES, *CHANGES)),
        # Memory fails: the nodes compare their states, and mend one that differs.
        "corrupt": Plan(
            faults=("corrupt", "corrupt", "crash", "pause", "drop", "isolate", "one-way"),
            # One that differs again and again has to wait.
            rest=200.0,
        ),
        # Arbiters at any node, some of them silent, and writers of what they have to decide.
        "arbiters": Plan(
            *(3, 0, 1, 0),
            disputers=3,
            arbiters=3,
            seconds=8.0,
            # Few at once, so that some wait.
            config=_settings(arbiter_seconds=2, arbiter_window=2),
        ),
        # Logs are cut at their beginning, so that nodes need copies of all.
        "copies": Plan(spare=1, faults=(*USUAL_FAULTS, *CHANGES, "snapshot", "snapshot")),
    }
)
"""The plans that have a name."""

MIX: Final[Sequence[str]] = (
    *("usual", "disk", "members", "primary", "starts"),
    *("full", "usual", "copies", "disk", "primary-disk", "corrupt"),
    *("members", "starts", "usual", "five", "starts-five", "arbiters"),
)
"""The plan of each seed in turn, where none is asked for."""


def plan_of(seed: int) -> str:
    """The name of the plan of a seed of the mix."""
    return MIX[seed % len(MIX)]
