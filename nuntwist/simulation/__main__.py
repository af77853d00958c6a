"""``python -m nuntwist.simulation``: run seeds, print those that fail, replay one.

Seeds are run on all cores, each with the plan that is its turn, or with the one that is asked for.
A failure prints its seed and the command that runs it again, step by step the same.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from nuntwist.simulation.adversary import FAULTS
from nuntwist.simulation.choice import PROGRAM, Choice
from nuntwist.simulation.plan import PLANS
from nuntwist.simulation.runner import Runner, Told, Total, log_nothing
from nuntwist.simulation.running import Outcome, simulate


def main(arguments: Sequence[str]) -> int:
    """Run.

    :return: 0 where no seed has failed, else 1.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    choice = Choice(options.plan, options.nodes, options.seconds, options.faults, options.share)
    if unknown := set(filter(None, (options.faults or "").split(","))) - set(FAULTS):
        parser.error(f"these are no faults: {', '.join(sorted(unknown))}")
    if options.seed is not None:
        return _replay(options.seed, choice, options.trace, options.history)
    runner, total, began = Runner(choice.plan_of, options.jobs), Total(), time.monotonic()
    for told in runner.run(range(options.start, options.start + options.seeds)):
        total.add(told)
        if told.failure is not None:
            _tell(told, choice)
    for line in total.lines():
        print(line)
    failed = total.failed.total()
    took = time.monotonic() - began
    print(f"{options.seeds} seeds, {failed} failed, {total.operations} operations, {took:.1f} s")
    return int(failed > 0)


def _tell(told: Told, choice: Choice) -> None:
    print(f"seed {told.seed} of plan {told.plan} FAILED: {told.failure}")
    print(f"  again: {choice.command(told.seed)}", flush=True)


def _replay(seed: int, choice: Choice, traced: bool, history: str | None) -> int:
    name, plan = choice.plan_of(seed)
    outcome: Outcome = simulate(seed, plan, traced)
    for line in outcome.trace:
        print(line)
    if history and outcome.history is not None:
        Path(history).write_text(outcome.history.to_lines())
    if outcome.failure is not None:
        _tell(Told(seed, name, outcome.operations, outcome.failure), choice)
        return 1
    print(
        f"seed {seed} of plan {name}: {outcome.operations} operations, {outcome.events} events,"
        f" {outcome.lost} answered and cut off"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(PROGRAM, description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many (100)")
    parser.add_argument("--start", type=int, default=1, help="the first of them (1)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (cores)")
    parser.add_argument("--plan", choices=sorted(PLANS), help="of all seeds (each in its turn)")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--trace", action="store_true", help="print what happens in it")
    parser.add_argument("--history", help="write the history of the clients of it to a file")
    parser.add_argument("--nodes", type=int, help="of the set, other than the plan has it")
    parser.add_argument("--seconds", type=float, help="of faults, likewise")
    parser.add_argument("--share", type=float, help="of what the plan says of that, such as 0.5")
    parser.add_argument("--faults", help=f"of {', '.join(FAULTS)}; likewise; '' for none")
    return parser


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of texts are gone through in another order in each process otherwise.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "nuntwist.simulation", *sys.argv[1:]])
    log_nothing()
    sys.exit(main(sys.argv[1:]))
