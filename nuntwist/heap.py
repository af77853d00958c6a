"""Keeps the cyclic garbage collector away from the data.

CPython's collector visits every entry of every dictionary it tracks. A million keys cost it
100 ms, in which the node does nothing else, and it comes again whenever enough has changed.
There are no cycles in the data, so it need not come at all:

- entries are exact tuples of bytes and numbers, which the collector drops after one look;
- the dictionaries that hold them are moved, once and while they are empty, to the generation
  that is never collected (``gc.freeze``). A dictionary is tracked from its first tracked
  value on, so each is given one for a moment, to be there when the generation is frozen: an
  untracked one would turn up in the youngest generation with its first entry, however large
  it had grown;
- collections of the young are rarer, because every write makes a tuple.

What is frozen is still freed when nothing refers to it; only cycles among it stay, so a
connection that ends must not leave one (see ``Client.detach``).
"""

from __future__ import annotations

import gc
from typing import Any

THRESHOLDS = (20_000, 20, 50)
"""New containers before a collection; young collections before an older one, twice."""


def permanent_dicts(count: int) -> list[dict[Any, Any]]:
    """Make empty dictionaries that the collector will never visit."""
    dicts: list[dict[Any, Any]] = [{} for _ in range(count)]
    for one in dicts:
        one[None] = [one]
    freeze()
    for one in dicts:
        one.clear()
    return dicts


def freeze() -> None:
    """Let the collector forget all that lives now, after a look for garbage among the young."""
    gc.collect(1)
    gc.freeze()


def tune() -> None:
    """Set the collector up for a process that is a node."""
    gc.set_threshold(*THRESHOLDS)
