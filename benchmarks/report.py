"""How a run is shown and kept: a table for people, JSON for later."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Reach, Row, Side, Target


def number(value: float) -> str:
    """Write a number with three digits that count, or with its thousands set apart."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def figure(side: Side | None, unit: str) -> str:
    """Write what a server did, with its unit."""
    if side is None:
        return "-"
    return f"{number(side.figure)}{'' if unit.startswith('/') else ' '}{unit}"


def goal(target: Target | None, unit: str) -> str:
    """Write a figure to reach."""
    if target is None:
        return ""
    if target.reach is Reach.RATIO:
        return f">= {target.value:.2f}"
    if target.reach is Reach.TIMES:
        return f"<= {target.value:.2f}"
    return f"<= {number(target.value)} {unit}"


def shares(side: Side | None) -> str:
    """Write the shares of a core used by server and generator."""
    if side is None or side.cpu is None or side.generator is None:
        return ""
    return f"{side.cpu * 100:.0f}/{side.generator * 100:.0f}"


def cells(row: Row, targets: bool) -> list[str]:
    """Give a row as texts."""
    texts = [
        row.title,
        figure(row.ours, row.unit),
        figure(row.redis, row.unit),
        "" if row.ratio is None else f"{row.ratio:.2f}",
    ]
    if targets:
        reached = {True: "yes", False: "NO", None: ""}[row.reached]
        texts += [goal(row.target, row.unit), reached]
    return [*texts, shares(row.ours), shares(row.redis)]


def table(
    rows: Sequence[Row], names: tuple[str, str] = ("nuntwist", "Redis"), targets: bool = True
) -> str:
    """Give the rows as a table in Markdown, its columns aligned.

    :param names: of the two servers.
    :param targets: whether to show the figures to reach.
    """
    head = ["measure", *names, "ratio"]
    head += ["to reach", "reached"] if targets else []
    head += [f"cpu % {name}/load" for name in names]
    lines = [head, *(cells(row, targets) for row in rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines.insert(1, rule)
    return "\n".join(
        "| "
        + " | ".join(
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    )


def side_as_data(side: Side | None) -> dict[str, object] | None:
    if side is None:
        return None
    return {
        "figure": side.figure,
        "rounds": list(side.rounds),
        "server_cpu": side.cpu,
        "generator_cpu": side.generator,
        "notes": side.notes,
    }


def row_as_data(row: Row) -> dict[str, object]:
    """Give a row for the JSON file."""
    target = row.target
    return {
        "name": row.name,
        "title": row.title.strip(),
        "unit": row.unit,
        "ours": side_as_data(row.ours),
        "redis": side_as_data(row.redis),
        "ratio": row.ratio,
        "target": None
        if target is None
        else {"reach": target.reach.name.lower(), "value": target.value},
        "reached": row.reached,
    }


def _output(command: Sequence[str], directory: Path | None = None) -> str:
    """Give what a program prints; empty where it fails or is not there."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, cwd=directory, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return ran.stdout.strip()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    match = re.search(r"model name\s*:\s*(.*)", text)
    return match[1] if match else platform.processor()


def facts(tree: Path) -> dict[str, object]:
    """Give what one must know to read the figures: machine, versions, revision, date."""
    redis = re.search(r"v=(\S+)", _output(["redis-server", "--version"]))
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "revision": _output(["git", "rev-parse", "HEAD"], tree),
        "changed since": bool(_output(["git", "status", "--porcelain"], tree)),
        "machine": {
            "processor": _cpu_model(),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "load before": os.getloadavg()[0],
        },
        "versions": {
            "python": sys.version.split()[0],
            "twisted": _version("twisted"),
            "autobahn": _version("autobahn"),
            "redis": redis[1] if redis else "",
        },
    }


def heading(known: dict[str, object]) -> str:
    """Give the line above the table."""
    machine, versions = known["machine"], known["versions"]
    if not isinstance(machine, dict) or not isinstance(versions, dict):
        raise TypeError("facts of an unknown shape")
    texts = [f"{name.capitalize()} {version}" for name, version in versions.items() if version]
    revision = str(known["revision"])[:10] or "no revision"
    changed = " with changes" if known["changed since"] else ""
    cores = f"{machine['cores']} x {machine['processor']}"
    return f"{known['date']}, {revision}{changed}; {cores}; {', '.join(texts)}"
