"""``python -m nuntwist.simulation``: run seeds, print those that fail, replay one.

A failure prints its seed; ``--seed N --trace`` runs it again, step by step the same.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nuntwist.config import NodeConfig
from nuntwist.simulation.adversary import FAULTS
from nuntwist.simulation.cluster import USUAL_FAULTS, Outcome, Plan, simulate


def main(arguments: Sequence[str]) -> int:
    """Run.

    :return: 0 where no seed has failed, else 1.
    """
    options = _parser().parse_args(arguments)
    plan = _plan(options)
    if options.seed is not None:
        outcome = simulate(options.seed, plan, options.trace)
        for line in outcome.trace:
            print(line)
        if options.history and outcome.history is not None:
            Path(options.history).write_text(outcome.history.to_lines())
        _tell(outcome)
        return int(outcome.failure is not None)
    failed, began = 0, time.monotonic()
    operations = 0
    for seed in range(options.start, options.start + options.seeds):
        outcome = simulate(seed, plan)
        operations += outcome.operations
        if outcome.failure is not None:
            failed += 1
            _tell(outcome)
    took = time.monotonic() - began
    print(f"{options.seeds} seeds, {failed} failed, {operations} operations, {took:.1f} s")
    return int(failed > 0)


def _tell(outcome: Outcome) -> None:
    if outcome.failure is None:
        print(f"seed {outcome.seed}: {outcome.operations} operations, {outcome.events} events")
    else:
        print(f"seed {outcome.seed} FAILED: {outcome.failure}", flush=True)


def _plan(options: argparse.Namespace) -> Plan:
    plan = Plan(
        nodes=options.nodes,
        seconds=options.seconds,
        config=NodeConfig(write_concern="majority", durability=options.durability),
        reads=not options.no_reads,
    )
    return replace(plan, faults=tuple(options.faults.split(",")) if options.faults else ())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m nuntwist.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many (100)")
    parser.add_argument("--start", type=int, default=1, help="the first of them (1)")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--trace", action="store_true", help="print what happens in it")
    parser.add_argument("--history", help="write the history of the clients of it to a file")
    parser.add_argument("--nodes", type=int, default=3, help="of the set (3)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of faults (20)")
    parser.add_argument("--durability", choices=["os", "disk"], default="os")
    parser.add_argument("--no-reads", action="store_true", help="no reads while there are faults")
    parser.add_argument(
        "--faults",
        default=",".join(USUAL_FAULTS),
        help=f"of {', '.join(FAULTS)}; nothing for none ({','.join(USUAL_FAULTS)})",
    )
    return parser


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of texts are gone through in another order in each process otherwise.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "nuntwist.simulation", *sys.argv[1:]])
    sys.exit(main(sys.argv[1:]))
