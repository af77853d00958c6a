"""Wall clocks that are set on running nodes: libfaketime steps them, and nobody is elected."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from nuntwist.files_on_disk import DiskFiles
from nuntwist.oplog.inspect import operations
from nuntwist.values import STAMP
from tests.integration.harness import no_trace_of_trouble
from tests.integration.replica_set import Nodes
from tests.integration.steady import steadily

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
SUSPICION = 800
"""Milliseconds: more than usual, so that a busy machine elects nobody meanwhile."""
AFTER = 1.7
"""Seconds after a step: timers that have stopped would be noticed by then, as silence."""


def afresh(nodes: Nodes) -> None:
    """Nodes that know nothing, and whose clocks are right."""
    nodes.forget()
    for process in nodes.processes:
        (process.directory / "clock").write_text("+0\n")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    if LIBRARY is None:
        pytest.skip("there is no libfaketime here (Debian: faketime)")
    settings = {"NUN_SUSPICION_TIMEOUT": str(SUSPICION)}
    with Nodes(tmp_path, NUN_HTTP_ADDR="off", NUN_WS_ADDR="off", **settings) as nodes:
        for process in nodes.processes:
            clock = process.directory / "clock"
            process.variables |= {
                "LD_PRELOAD": str(LIBRARY),
                "FAKETIME_TIMESTAMP_FILE": str(clock),
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "FAKETIME_NO_CACHE": "1",
            }
        afresh(nodes)
        yield nodes


def set_clock(nodes: Nodes, place: int, seconds: int) -> None:
    """Let a node's wall clock be so far off, and see that it is."""
    (nodes.processes[place].directory / "clock").write_text(f"{seconds:+d}\n")
    with nodes.admin(place, "use-db d t") as client:
        told = client.ask("debug list-dbs json")[0].partition(b" ")[2]
    (selected,) = [one["last_selected"] for one in json.loads(told) if one["name"] == "d"]
    off = datetime.fromisoformat(selected).timestamp() - time.time()
    assert abs(off - seconds) < 10.0


def elections(nodes: Nodes) -> list[tuple[int, list[bytes]]]:
    """In which epoch each node is, and what transitions it has had."""
    found = []
    for place in range(3):
        with nodes.admin(place) as client:
            found.append((nodes.state(place)["epoch"], client.ask("debug elections")))
    return found


def stamps(nodes: Nodes, place: int) -> list[int]:
    """Those of all operations in a node's log."""
    files = DiskFiles(str(nodes.processes[place].data))
    return [logged.op[STAMP] for logged in operations(files)]


@steadily(afresh)
def test_steps_of_the_clock_elect_nobody(nodes: Nodes) -> None:
    """A minute forwards and backwards, on the primary and on a secondary, under writes."""
    nodes.admin(nodes.form(), "create-db d t").close()
    nodes.wait_until_equal()
    primary = nodes.primary()
    secondary = (primary + 1) % 3
    concern = "write-concern majority 1000"
    clients = [nodes.admin(place, "use-db d t", concern) for place in range(3)]
    before, numbers = elections(nodes), itertools.count()
    for place, seconds in itertools.product((primary, secondary), (60, 0)):
        set_clock(nodes, place, seconds)
        end = time.monotonic() + AFTER
        while time.monotonic() < end:
            for client in clients:
                number = next(numbers)
                assert client.ask(f"set k{number % 7} {number}") == [b"ok \n"]
            time.sleep(0.02)
        assert elections(nodes) == before
    nodes.wait_until_equal()
    # From when the primary's clock was ahead.
    for place in range(3):
        counted = nodes.state(place)["counters"]["stamps_ahead"]
        assert (counted > 0) == (place != primary)
    for process in nodes.processes:
        no_trace_of_trouble(process.log)
        # Not in order: a primary that is stopped hands over.
        process.kill()
    found = [stamps(nodes, place) for place in range(3)]
    assert found[0] == found[1] == found[2] == sorted(set(found[0]))
    assert len(found[0]) > next(numbers)
