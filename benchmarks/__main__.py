"""``python -m benchmarks``: run the suite, compare with a revision, or run the k6 script."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks import (
    compare,
    durability,
    failover,
    fanout,
    hostile,
    lag,
    memory,
    million,
    oplog_position,
    plot,
    reconnect,
    replication,
    report,
    run_k6,
    snapshots,
    sync,
    throughput,
)
from benchmarks.bench import QUICK, Bench, Settings, choose_cores
from benchmarks.figures import Row
from benchmarks.load import Engine, LoadError, NativeEngine, PythonEngine, compile_native
from benchmarks.servers import Node, RedisServer, ServerError, allow_files

TREE = Path(__file__).resolve().parent.parent
HISTORY = TREE / "benchmarks" / "history"
GROUPS = (
    *("set", "get", "ws", "fanout", "idle", "memory", "pause", "keys", "restart"),
    *("durability", "snapshot", "position", "replication", "lag", "failover", "sync"),
    "hostile",
    "reconnect",
)
SETS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "replication": replication.run,
    "lag": lag.run,
    "failover": failover.run,
    "sync": sync.run,
}
"""The groups that start replica sets of their own."""
OPEN_FILES = 12_000
FAILURES = (ServerError, LoadError, OSError)
"""What can go wrong with a server while it is measured."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "action", nargs="?", default="run", choices=("run", "compare", "k6"), help="default: run"
    )
    parser.add_argument("revision", nargs="?", help="what to compare with: a git revision")
    parser.add_argument(
        "--only",
        type=_groups,
        default=set(GROUPS),
        metavar="GROUP,GROUP",
        help=f"run these groups only: {','.join(GROUPS)}",
    )
    parser.add_argument("--quick", action="store_true", help="short and small: rough figures")
    parser.add_argument("--rounds", type=int, help="turns of each server")
    parser.add_argument("--seconds", type=float, help="length of a turn")
    parser.add_argument("--engine", choices=("c", "python"), help="the load generator's loops")
    parser.add_argument("--no-redis", action="store_true", help="leave Redis out")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the ratios (PNG)")
    parser.add_argument(
        "--keep", metavar="VERSION", help="keep the figures in benchmarks/history/VERSION.json"
    )
    options = parser.parse_args(arguments)
    if options.action == "compare" and not options.revision:
        parser.error("compare needs a git revision: make bench-compare REV=v0.1.0")
    return options


def _groups(text: str) -> set[str]:
    groups = set(text.split(","))
    if unknown := groups - set(GROUPS):
        raise argparse.ArgumentTypeError(f"there is no group {', '.join(sorted(unknown))}")
    return groups


def say(text: str) -> None:
    """Tell how far the run is, on stderr: the table alone is the output."""
    print(f"... {text}", file=sys.stderr, flush=True)


def settings_of(options: argparse.Namespace) -> Settings:
    base = QUICK if options.quick else Settings()
    changes = {"rounds": options.rounds, "seconds": options.seconds}
    known = {name: value for name, value in changes.items() if value is not None}
    return Settings(**{**base.facts(), **known})


def engine_of(options: argparse.Namespace, directory: Path) -> Engine:
    """Give the C loops where they can be compiled, else the Python ones."""
    library = None if options.engine == "python" else compile_native(directory)
    if library is not None:
        return NativeEngine(library)
    if options.engine == "c":
        raise LoadError("load.c cannot be compiled here")
    if options.engine is None:
        say("no C compiler: the Python generator is slower than Redis at depth 1")
    return PythonEngine()


def stages(bench: Bench, groups: set[str]) -> Iterator[Iterator[Row]]:
    """Give the parts of a run, each with servers of its own, as far as they are asked for."""
    if groups & set(throughput.TITLES):
        yield _together(bench, lambda node, redis: throughput.run(bench, node, redis, groups))
    if "fanout" in groups:
        yield _together(bench, lambda node, redis: fanout.run(bench, node, redis))
    if "idle" in groups:
        yield memory.run(bench)
    if groups & million.GROUPS:
        yield million.run(bench, groups)
    if "durability" in groups:
        yield durability.run(bench)
    if "snapshot" in groups:
        yield snapshots.run(bench)
    if "position" in groups:
        yield oplog_position.run(bench)
    if "hostile" in groups:
        yield hostile.run(bench)
    if "reconnect" in groups:
        yield reconnect.run(bench)
    for name, group in SETS.items():
        if name in groups:
            yield group(bench)


def _together(
    bench: Bench, measure: Callable[[Node, RedisServer | None], Iterator[Row]]
) -> Iterator[Row]:
    with bench.node() as node, bench.redis() as redis:
        yield from measure(node, redis)


def collect(parts: Iterable[Iterator[Row]]) -> tuple[list[Row], list[str]]:
    """Give the rows of all parts and what went wrong; one that fails does not stop the next."""
    rows: list[Row] = []
    failures: list[str] = []
    for part in parts:
        try:
            for row in part:
                rows.append(row)
        except FAILURES as problem:
            say(f"failed: {problem}")
            failures.append(str(problem))
    return rows, failures


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="nuntwist-bench-") as name:
        try:
            return _main(options, Path(name))
        except (*FAILURES, compare.UnknownRevision) as problem:
            print(f"benchmarks: {problem}", file=sys.stderr)
            return 1


def _main(options: argparse.Namespace, directory: Path) -> int:
    cores = choose_cores()
    if cores is None:
        say("one core only: servers and generator share it, so figures are low")
    else:
        os.sched_setaffinity(0, {cores[1]})
    if allow_files(OPEN_FILES) < OPEN_FILES:
        say("the limit of open files is low (ulimit -n): 5,000 watchers may not fit")
    with_redis = RedisServer.installed() and not options.no_redis
    if not with_redis and not options.no_redis and options.action == "run":
        say("redis-server is not installed (Debian: apt install redis-server): no ratios")
    settings = settings_of(options)
    known = report.facts(TREE)
    bench = Bench(directory, TREE, engine_of(options, directory), settings, cores, with_redis, say)
    if options.action == "k6":
        return run_k6.run(bench)
    names = ("nuntwist", "Redis")
    if options.action == "compare":
        earlier = directory / "earlier"
        short = compare.unpack(TREE, options.revision, earlier)
        names = ("this tree", short)
        parts = iter([compare.run(bench, earlier, short, options.only)])
    else:
        parts = stages(bench, options.only)
    rows, failures = collect(parts)
    text = report.table(rows, names, targets=options.action == "run")
    text = f"{report.heading(known)}\n\n{text}\n"
    print(text, end="")
    data = {
        **known,
        "servers": names,
        "engine": bench.engine.name,
        "settings": settings.facts(),
        "rows": [report.row_as_data(row) for row in rows],
        "failures": failures,
    }
    _write(options, text, data, rows)
    for failure in failures:
        print(f"benchmarks: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _write(
    options: argparse.Namespace, text: str, data: dict[str, object], rows: Sequence[Row]
) -> None:
    """Write the files asked for."""
    if options.out:
        options.out.write_text(text)
    encoded = json.dumps(data, indent=1) + "\n"
    if options.json:
        options.json.write_text(encoded)
    if options.keep:
        HISTORY.mkdir(exist_ok=True)
        (HISTORY / f"{options.keep}.json").write_text(encoded)
    if options.plot:
        say(plot.draw(rows, options.plot))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
