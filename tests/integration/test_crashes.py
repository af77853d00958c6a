"""Killed at random moments, again and again, a node knows all that it acknowledged.

How, and how to repeat or prolong it: ``docs/testing.md``.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable
from copy import deepcopy
from itertools import islice
from pathlib import Path

import pytest

from nuntwist.files_on_disk import DiskFiles
from nuntwist.oplog.reader import records
from nuntwist.oplog.segment import SEGMENT_HEAD, segments_in
from tests.integration.crashes import DURABILITIES, KINDS, Campaign, Plan, schedule
from tests.integration.writers import Author, Churner, Record, State, Step, apply, check

ROOT = os.environ.get("NUN_CRASH_ROOT", "")


def test_killed_at_random_moments_it_loses_nothing_it_acknowledged() -> None:
    seed = int(os.environ.get("NUN_CRASH_SEED") or random.SystemRandom().randrange(1_000_000))
    kills = int(os.environ.get("NUN_CRASH_KILLS", "50"))
    print(f"NUN_CRASH_SEED={seed} repeats the schedule")
    with Campaign(seed, ROOT) as campaign:
        told = campaign.run(kills, float(os.environ.get("NUN_CRASH_SECONDS", "0")))
    print(told)
    assert told.kills.total() >= kills
    # It was where it was to be.
    if kills >= 50:
        assert {*KINDS, "start-up"} <= set(told.kills), told
        assert told.acknowledged > 50 * kills, told
        assert told.snapshots >= told.kills["taken"] > kills / 12, told
        assert told.dropped > kills / 5, told
        assert len(told.segments) > 3, told


def test_a_seed_repeats_schedule_and_commands() -> None:
    plans = list(islice(schedule(7), 30))
    assert plans == list(islice(schedule(7), 30))
    assert plans != list(islice(schedule(8), 30))
    assert {plan.kind for plan in plans} == set(KINDS)
    assert {plan.durability for plan in plans} == set(DURABILITIES)
    for make in (Author, Churner):
        one, same, other = (make("n", seed, ["d", "e"]) for seed in (7, 7, 8))
        steps = [one.next_step() for _ in range(300)]
        assert steps == [same.next_step() for _ in range(300)]
        assert steps != [other.next_step() for _ in range(300)]


# -- it can go red ---------------------------------------------------------------------------------


def _left_by(record: Record, number: int) -> State:
    state = dict(record.known)
    for step in record.sent[:number]:
        apply(state, step)
    return state


@pytest.mark.parametrize("make", [Author, Churner])
def test_the_check_of_one_writer_goes_red(make: type[Author]) -> None:
    author = make("n", 3, ["d", "e"])
    for _ in range(200):
        author.next_step()
    record = author.record
    record.acknowledged = 150
    for number in range(150, 201):
        low, high = check(record, _left_by(record, number))
        assert 150 <= low <= number <= high
    # What the last command that changes anything did is lost.
    whole = _left_by(record, 150)
    possible = [_left_by(record, number) for number in range(150, 201)]
    last = next(one for one in range(149, 0, -1) if _left_by(record, one) != whole)
    with pytest.raises(AssertionError, match="is not what 150 to 200 of its commands leave"):
        check(record, _left_by(record, last))
    # One of those before is missing, has come twice, or is of another moment.
    for spoil in (_without_one, _with_one_twice, _with_two_exchanged):
        spoiled = deepcopy(record)
        while _left_by(spoiled, 150) in possible:
            spoil(spoiled.sent)
        with pytest.raises(AssertionError, match="is not what"):
            check(record, _left_by(spoiled, 150))
    record.wrong.append("error")
    with pytest.raises(AssertionError, match="was answered"):
        check(record, whole)


def _without_one(steps: list[Step]) -> None:
    del steps[random.Random(len(steps)).randrange(100)]


def _with_one_twice(steps: list[Step]) -> None:
    at = random.Random(len(steps)).randrange(100)
    steps.insert(at, steps[at])


def _with_two_exchanged(steps: list[Step]) -> None:
    at = random.randrange(148)
    steps[at], steps[at + 1] = steps[at + 1], steps[at]


def _quiet_plan() -> Plan:
    return Plan("time", 0.3, False, "os", ())


def _cut_last_record(data: Path, earlier: Path) -> None:
    """What a log would be that was not handed to the system before the answer."""
    segment = segments_in(DiskFiles(str(data)))[-1]
    path, start = data / segment.name, len(SEGMENT_HEAD)
    with path.open("rb") as file:
        file.seek(start)
        size = path.stat().st_size
        *_, (_, _, last) = records(file, segment.name, start, size)
    os.truncate(path, last)


def _put_back_earlier(data: Path, earlier: Path) -> None:
    """A directory as it was before some of it was acknowledged."""
    shutil.rmtree(data)
    shutil.copytree(earlier, data)


@pytest.mark.parametrize("tamper", [_cut_last_record, _put_back_earlier])
def test_the_check_of_a_node_goes_red(tamper: Callable[[Path, Path], None]) -> None:
    with Campaign(5, ROOT) as campaign:
        campaign.begin()
        campaign.round(_quiet_plan())
        node = campaign.node
        earlier = campaign.directory / "earlier"
        shutil.copytree(node.data, earlier)
        # No more than one command, acknowledged, so that no other may be lost.
        (author, _) = campaign.authors[0]
        author.record.sent.append(Step("red", "set tcp-1 last"))
        with node.select("red") as client:
            assert client.ask("set tcp-1 last") == [b"ok \n"]
        author.record.acknowledged = 1
        node.kill()
        tamper(node.data, earlier)
        with pytest.raises(AssertionError) as caught:
            campaign.judged(campaign.start_and_check)
        told = str(caught.value)
        assert "tcp: what was found is not what 1 to 1 of its commands leave" in told
        assert "red/tcp-1: ('last', " in told
        assert "NUN_CRASH_SEED=5 repeats the schedule" in told
        place = re.search(r"are in (\S+)$", told)
        assert place is not None
        for kept in ("history.json", "left", "node/dbs", "node/log-3"):
            assert (Path(place[1]) / kept).exists()
    assert not campaign.directory.exists()
