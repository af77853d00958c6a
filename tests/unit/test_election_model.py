"""Elections under a seeded adversary: what must never happen does not, and faults end."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from nuntwist.cluster import bully as module
from nuntwist.cluster.bully import Bully
from nuntwist.cluster.lease import Lease
from tests.unit.election_model import Model, adversary

pytestmark = pytest.mark.many_cases

SEEDS = int(os.environ.get("NUN_ELECTION_SEEDS", "300"))
SIZES = (3, 3, 5, 2, 1)


def one_run(seed: int) -> Model:
    """Twenty seconds of faults, and five without."""
    model = Model(seed, SIZES[seed % len(SIZES)])
    for node in model.nodes:
        model.start(node)
    adversary(model, 20.0)
    model.run(5.0)
    model.check_logs()
    assert len(model.serving()) == 1, f"{model.serving()} serve in the end"
    logs = [node.log for node in model.nodes.values()]
    assert all(log == logs[0] for log in logs), "logs differ in the end"
    place_of = {value: place for place, (_, value) in enumerate(logs[0], 1)}
    for value, (index, _) in model.acknowledged.items():
        assert place_of.get(value) == index, f"{value} is lost in the end"
    return model


def runs(first: int, after: int) -> int:
    """Run some seeds; gives how many writes a majority has acknowledged.

    :raise AssertionError: one failed; it is told which.
    """
    acknowledged = 0
    for seed in range(first, after):
        try:
            acknowledged += len(one_run(seed).acknowledged)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    return acknowledged


@pytest.mark.parametrize("tenth", range(10))
def test_whatever_happens_nothing_that_a_majority_has_is_lost(tenth: int) -> None:
    first, after = tenth * SEEDS // 10, (tenth + 1) * SEEDS // 10
    assert runs(first, after) > 10 * (after - first)


def test_a_seed_is_a_run() -> None:
    assert one_run(7).turns == one_run(7).turns
    assert one_run(7).turns != one_run(12).turns


# -- the model goes red ----------------------------------------------------------------------------


def _no_rank(self: Bully, rank: object, by_log_alone: bool) -> bool:
    return False


def _not_loyal(self: Bully, released: int, now: float) -> bool:
    return False


def _no_promise(self: Bully, number: int, node: int) -> None:
    self.promised, self._promised_to = number, node
    self._known = max(self._known, number)


def _minority(self: Bully) -> int:
    return max(1, len(self.members) // 2)


def _endless(self: Lease, others: object, needed: int) -> float:
    return float("inf") if self._answered or not needed else 0.0


def _long(self: Lease, others: Any, needed: int) -> float:
    return lease(self, others, needed) + 0.8


def _any_number(self: Bully, sender: int, stand: Any, now: float) -> None:
    self._promised_to = sender if stand.number == self.promised else self._promised_to
    stood(self, sender, stand, now)


lease = Lease.until
stood = Bully._stood


@pytest.mark.parametrize(
    ("owner", "name", "broken", "finding"),
    [
        (Bully, "_outranks", _no_rank, "lacks"),
        (Bully, "_is_loyal", _not_loyal, "serve"),
        (Bully, "_promise", _no_promise, "has primaries"),
        (Bully, "majority", property(_minority), "has primaries|serve|lacks|lost|difference"),
        (Lease, "until", _endless, "serve"),
        (Lease, "until", _long, "serve"),
        (Bully, "_stood", _any_number, "has primaries|serve"),
    ],
    ids=[
        "votes for a shorter log",
        "is loyal to nobody",
        "keeps no promise",
        "half of them elect",
        "serves for ever",
        "serves for longer than others are loyal",
        "promises an epoch twice",
    ],
)
def test_a_rule_that_is_broken_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    broken: Callable[..., Any],
    finding: str,
) -> None:
    monkeypatch.setattr(owner, name, broken)
    if name == "_stood":
        monkeypatch.setitem(module._HANDLERS, module.Stand, broken)
    with pytest.raises(AssertionError, match=finding):
        runs(0, 2_000)
