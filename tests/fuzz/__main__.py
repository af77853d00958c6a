"""``python -m tests.fuzz``: fuzz, try an input once more, or write the seeds anew.

::

    python -m tests.fuzz list                       the targets
    python -m tests.fuzz run [NAME...] --seconds 60 fuzz them, one after the other
    python -m tests.fuzz try NAME FILE...           try inputs, with a traceback where one fails
    python -m tests.fuzz keep NAME FILE             make an input a seed
    python -m tests.fuzz seeds                      write the valid-… seeds anew
    python -m tests.fuzz times [NAME...]            how the time grows with the input
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

from tests.fuzz.seeds import FOLDER


def _list() -> int:
    from tests.fuzz.table import TARGETS

    for target in TARGETS.values():
        print(f"{target.name:14} {target.about}")
    return 0


def _names(chosen: list[str]) -> list[str]:
    from tests.fuzz.table import TARGETS

    unknown = [name for name in chosen if name not in TARGETS]
    if unknown:
        sys.exit(f"There is no target {unknown[0]}: `python -m tests.fuzz list` names them.")
    return chosen or list(TARGETS)


def _try(name: str, files: list[str]) -> int:
    from tests.fuzz.table import TARGETS

    (name,) = _names([name])
    for file in files:
        TARGETS[name].run(Path(file).read_bytes())
        print(f"{file}: nothing is wrong")
    return 0


def _keep(name: str, file: str) -> int:
    (name,) = _names([name])
    data = Path(file).read_bytes()
    path = FOLDER / name / f"found-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    print(f"kept as {path}: every run of the tests tries it from now on")
    return 0


def _seeds() -> int:
    from tests.fuzz.valid import valid

    for name, inputs in valid().items():
        folder = FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("valid-*"):
            old.unlink()
        for number, data in enumerate(inputs):
            (folder / f"valid-{number:02d}").write_bytes(data)
    return 0


def _times(names: list[str]) -> int:
    from tests.fuzz.growth import report

    for name in _names(names):
        report(name)
    return 0


def main(arguments: list[str]) -> int:
    """Do what is asked for; gives the exit status."""
    parser = argparse.ArgumentParser("python -m tests.fuzz")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name the targets")
    run = commands.add_parser("run", help="fuzz")
    run.add_argument("names", nargs="*", metavar="NAME", help="targets; all without one")
    run.add_argument("--seconds", type=float, default=60.0, help="for each target (60)")
    run.add_argument("--seed", type=int, default=0, help="for the same run again; 0 for any")
    one = commands.add_parser("try", help="try inputs")
    one.add_argument("name")
    one.add_argument("files", nargs="+")
    keep = commands.add_parser("keep", help="make an input a seed")
    keep.add_argument("name")
    keep.add_argument("file")
    commands.add_parser("seeds", help="write the seeds anew that the code itself makes")
    times = commands.add_parser("times", help="measure how the time grows with the input")
    times.add_argument("names", nargs="*", metavar="NAME")
    given = parser.parse_args(arguments)
    if given.command == "run":
        from tests.fuzz.running import run_all

        return run_all(given.names, given.seconds, given.seed)
    if given.command == "try":
        return _try(given.name, given.files)
    if given.command == "keep":
        return _keep(given.name, given.file)
    if given.command == "times":
        return _times(given.names)
    return _seeds() if given.command == "seeds" else _list()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
