"""A run of the fuzzer: with atheris, which sees what code an input reaches, or without.

Each target has a process of its own, as atheris ends it. What is worth keeping goes to
``build/fuzz/NAME/corpus``, from which the next run goes on, and an input that fails to
``build/fuzz/NAME/failed-…``. Where there is no atheris for this Python, seeds are changed blindly,
by :mod:`tests.fuzz.mutation`: that finds less, and finds it later.

Nothing of nuntwist may be imported before atheris can look at it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import random
import re
import subprocess
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz.mutation import LONGEST, edited, random_edits
from tests.fuzz.seeds import CORPUS, FOLDER, seeds_of

SLOW_SECONDS = 20
"""An input that takes longer fails."""
MEMORY_MIB = 2048
"""A process that takes more fails."""
WITHOUT = (
    "There is no atheris here (it has wheels for some versions of Python, perhaps not for {}.{}):"
    " inputs are changed without a look at what they reach."
)
_CHATTER = re.compile(
    r"#[0-9]+\t(NEW|REDUCE|RELOAD|pulse)|INFO: |WARNING: Failed to find function|\n|#* (Rec|End)|\""
)
"""What libFuzzer says of each input that it keeps."""


def run_all(names: list[str], seconds: float, seed: int) -> int:
    """Fuzz targets, one after the other; gives 1 where one has failed.

    :param names: of targets; none for all.
    :param seconds: for each.
    :param seed: of chance; 0 for any.
    """
    there = sorted(path.name for path in FOLDER.iterdir())
    unknown = [name for name in names if name not in there]
    if unknown:
        sys.exit(f"There is no target {unknown[0]}: `python -m tests.fuzz list` names them.")
    if not _has_atheris():
        print(WITHOUT.format(*sys.version_info[:2]))
    failed = [name for name in names or there if not _run_one(name, seconds, seed)]
    print(f"failed: {', '.join(failed)}" if failed else "no target has failed")
    return int(bool(failed))


def _has_atheris() -> bool:
    return importlib.util.find_spec("atheris") is not None


def _run_one(name: str, seconds: float, seed: int) -> bool:
    print(f"== {name}, {seconds:g} s", flush=True)
    folder = CORPUS / name
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    before = set(folder.glob("failed-*"))
    command = [sys.executable, "-m", "tests.fuzz.running", name, str(seconds), str(seed)]
    # Another hash of texts each time would make another order of sets.
    world = {**os.environ, "PYTHONHASHSEED": "0"}
    with subprocess.Popen(
        command, env=world, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not _CHATTER.match(line):
                print(line, end="", flush=True)
    code = process.returncode
    for path in sorted(set(folder.glob("failed-*")) - before):
        print(
            f"an input fails; try it: python -m tests.fuzz try {name} {path}\n"
            f"when it is right, keep it: python -m tests.fuzz keep {name} {path}"
        )
    return code == 0


def _guided(name: str, seconds: float, seed: int) -> None:
    """Fuzz with atheris; does not return."""
    import atheris

    with atheris.instrument_imports(include=["nuntwist"]):
        from tests.fuzz.table import TARGETS
    _let_all_be_collected()
    target = TARGETS[name]
    seeds = seeds_of(name)

    def mutated(data: bytes, limit: int, number: int) -> bytes:
        chance = random.Random(number)
        if chance.random() < 0.5:
            return bytes(atheris.Mutate(data, limit))
        return edited(data, random_edits(chance), seeds)[:limit]

    folder = CORPUS / name
    options = {
        "max_total_time": max(1, int(seconds)),
        "max_len": LONGEST // 8,
        "timeout": SLOW_SECONDS,
        "rss_limit_mb": MEMORY_MIB,
        "artifact_prefix": f"{folder}/failed-",
        "seed": seed,
        "len_control": 0,
        "verbosity": 1,
    }
    arguments = [f"-{option}={value}" for option, value in options.items()]
    atheris.Setup(
        [sys.argv[0], *arguments, str(folder / "corpus"), str(FOLDER / name)],
        target.run,
        custom_mutator=mutated,
    )
    atheris.Fuzz()


def _let_all_be_collected() -> None:
    """A node that starts keeps all that lives from the collector; here thousands start."""
    from nuntwist import heap

    heap.freeze = lambda: None


def blind(name: str, seconds: float, seed: int) -> int:
    """Fuzz without atheris."""
    from tests.fuzz.table import TARGETS

    _let_all_be_collected()
    target, seeds = TARGETS[name], seeds_of(name)
    chance = random.Random(seed or None)
    until, tries = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        data = edited(chance.choice(seeds), random_edits(chance), seeds)
        began = time.monotonic()
        try:
            target.run(data)
            if time.monotonic() - began > SLOW_SECONDS:
                raise AssertionError(f"it took over {SLOW_SECONDS} seconds")
        except Exception:
            traceback.print_exc()
            path = CORPUS / name / f"failed-{hashlib.sha256(data).hexdigest()[:16]}"
            path.write_bytes(data)
            return 1
        tries += 1
    print(f"{tries} inputs, nothing failed")
    return 0


def _main(name: str, seconds: str, seed: str) -> int:
    if not _has_atheris():
        return blind(name, float(seconds), int(seed))
    _guided(name, float(seconds), int(seed))
    return 0


if __name__ == "__main__":
    sys.exit(_main(*(Path(sys.argv[1]).name, *sys.argv[2:4])))
