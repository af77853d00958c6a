"""An earlier revision beside this one: the same measures, in turns, in the same run."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import throughput
from benchmarks.bench import Bench
from benchmarks.figures import Row


class UnknownRevision(Exception):
    """Git does not know the revision; the text is its own sentence."""


def unpack(tree: Path, revision: str, directory: Path) -> str:
    """Put the files of a revision into a directory; give its short id.

    ``git archive`` and no worktree: it leaves nothing behind in the repository.

    :raise UnknownRevision: there is none of that name.
    """
    archive = _git(tree, "archive", "--format=tar", revision)
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(directory, filter="data")
    return _git(tree, "rev-parse", "--short", f"{revision}^{{commit}}").decode().strip()


def _git(tree: Path, *words: str) -> bytes:
    ran = subprocess.run(["git", *words], cwd=tree, capture_output=True)
    if ran.returncode:
        raise UnknownRevision(ran.stderr.decode(errors="replace").strip())
    return ran.stdout


def run(bench: Bench, earlier: Path, name: str, groups: set[str]) -> Iterator[Row]:
    """Give the throughput rows of this tree and an earlier one.

    :param earlier: where that revision was unpacked.
    :param name: what to call it.
    """
    with bench.node() as ours, bench.node(earlier, name) as theirs:
        yield from throughput.run(bench, ours, theirs, groups)
