"""The seeds of a target: files, each of them an input that every run tries.

Those called ``valid-…`` are what the code itself writes, or what a client sends (``python -m
tests.fuzz seeds`` writes them anew); ``found-…`` are failures of the past, and stay.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "seeds"
CORPUS = Path(__file__).parents[2] / "build" / "fuzz"
"""What a fuzzer has found worth keeping, and failures; not part of the sources."""


@cache
def seeds_of(name: str) -> list[bytes]:
    """The seeds of a target; those called ``valid-…`` first."""
    paths = sorted((FOLDER / name).iterdir(), key=lambda path: (path.name[0] != "v", path.name))
    return [path.read_bytes() for path in paths]
