"""Primaries of a real set die, or are stopped in order, under writes at every node.

How many times is set by ``NUN_FAILOVER_KILLS`` and ``NUN_FAILOVER_ROUNDS`` (docs/testing.md).
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from nuntwist.files_on_disk import DiskFiles
from nuntwist.simulation.tails import values_in_tails
from tests.integration.harness import OK, Lines, no_trace_of_trouble, wait_until
from tests.integration.replica_set import Nodes
from tests.integration.set_clients import TOKEN, Writer, first_done, missing
from tests.integration.steady import steadily

KILLS = int(os.environ.get("NUN_FAILOVER_KILLS", "2"))
ROUNDS = int(os.environ.get("NUN_FAILOVER_ROUNDS", "4"))
ENOUGH = 20
"""Writes of each writer before a primary dies, and after another has taken over."""
LEASE = 0.4
"""Seconds for which a primary that is cut off goes on, at least."""
DATABASES = {"most": "none", "none": "none", "newer": "newer"}
"""Their strategies; ``most`` is written with concern ``majority``."""
PATIENT = {"NUN_NO_PRIMARY_WAIT": "30000", "NUN_WRITE_CONCERN_TIMEOUT": "30000"}
"""Settings where nothing but ``ok`` may be answered, however long an election takes."""
DOCUMENTED = ("error no primary", "error not primary", "error outcome unknown")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with Nodes(tmp_path, **PATIENT) as nodes:
        yield nodes


@contextmanager
def writing(writers: list[Writer]) -> Iterator[list[Writer]]:
    """Let some writers work."""
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        for writer in writers:
            writer.stop()


def fail_over(nodes: Nodes, writers: list[Writer], *, cut: bool) -> dict[str, float]:
    """Kill the primary, and start it again when another has taken over.

    :param cut: whether it is cut off for a moment before, so that it takes what nobody else gets.
    :return: for each database the seconds from when the primary was lost to the first write at a
        survivor that was sent after its death.
    """
    wait_for_more(writers)
    primary = nodes.primary()
    while cut and not has_tail(nodes, writers, primary):
        nodes.switch.heal()
        nodes.wait_until_formed()
        primary = nodes.primary()
    lost = time.monotonic()
    nodes.kill(primary)
    dead = time.monotonic()
    nodes.switch.heal()
    times = {}
    for name in DATABASES:
        left = [one for one in writers if one.place != primary and one.database == name]
        wait_until(partial(first_done, left, dead), "a write at a survivor")
        first = first_done(left, dead)
        assert first is not None
        times[name] = first - lost
    wait_for_more([one for one in writers if one.place != primary])
    nodes.start(primary)
    nodes.wait_until_formed()
    return times


def wait_for_more(writers: list[Writer]) -> None:
    """Return when each has written some more."""
    before = [len(one.done) for one in writers]
    pairs = list(zip(writers, before, strict=True))
    wait_until(lambda: all(len(one.done) >= n + ENOUGH for one, n in pairs), "more writes")


def has_tail(nodes: Nodes, writers: list[Writer], primary: int) -> bool:
    """Cut a primary off; gives whether it took something meanwhile, which nobody else gets."""
    nodes.switch.isolate(primary)
    its = [one for one in writers if one.place == primary and one.database == "none"]
    cut_off = time.monotonic()
    wait_until(lambda: first_done(its, cut_off) or time.monotonic() > cut_off + LEASE, "its lease")
    return first_done(its, cut_off) is not None


def told(what: str, times: list[float]) -> None:
    """Print how long it took."""
    print(
        f"\n{what}: {len(times)} kills, a write at a survivor after"
        f" {statistics.median(times) * 1e3:.0f} ms at the median,"
        f" {max(times) * 1e3:.0f} ms at worst; all:"
        f" {', '.join(f'{each * 1e3:.0f}' for each in sorted(times))}"
    )


def documented(writers: list[Writer]) -> None:
    """Assert that writers were answered nothing that the documents do not name."""
    for writer in writers:
        for answer in writer.others:
            assert answer == "lost" or answer.startswith(DOCUMENTED), answer


def acknowledged(writers: list[Writer], database: str) -> set[bytes]:
    """What was answered ``ok`` in a database."""
    return {write.text for one in writers if one.database == database for write in one.done}


def test_primaries_die_under_writes_at_every_node(tmp_path: Path) -> None:
    """What a majority had stays; of the rest the divergent files account for what is lost."""
    with Nodes(tmp_path) as nodes:
        nodes.start_at_once()
        nodes.wait_until_formed()
        made = [f"create-db {name} {TOKEN} {strategy}" for name, strategy in DATABASES.items()]
        nodes.admin(nodes.primary(), *made)
        nodes.wait_until_equal()
        every = [
            Writer(nodes, place, name, *(["write-concern majority"] if name == "most" else []))
            for place in range(3)
            for name in DATABASES
        ]
        with writing(every) as writers:
            times = [fail_over(nodes, writers, cut=number % 2 == 1) for number in range(KILLS)]
        for name, concern in (("most", "majority"), ("none", "primary")):
            told(concern, [each[name] for each in times])
        documented(writers)
        nodes.wait_until_equal()
        no_majority_lost(nodes, acknowledged(writers, "most"))
        accounted_for(nodes, writers)


def no_majority_lost(nodes: Nodes, done: set[bytes]) -> None:
    """Assert that every node has what was acknowledged with a majority behind it."""
    for place in range(3):
        lost = missing(nodes.processes[place].select("most"), done)
        assert not lost, (place, len(lost), sorted(lost)[:10])
    print(f"majority: {len(done)} acknowledged, none lost")


def accounted_for(nodes: Nodes, writers: list[Writer]) -> None:
    """Assert that what was lost is in the divergent files, or was made again by ``newer``.

    A write that a dead primary took for another node is made again by that one, so it may be in
    a file and yet be there; one that its own client sent is lost when it is in a file.
    """
    disks = [DiskFiles(str(process.data), as_it_is=True) for process in nodes.processes]
    kept = values_in_tails(disks)
    primary = nodes.processes[nodes.primary()]
    newer = acknowledged(writers, "newer")
    again = primary.select("newer")
    wait_until(lambda: not missing(again, newer & kept), "the tails to be offered")
    assert not missing(again, newer)
    none = acknowledged(writers, "none")
    lost = missing(primary.select("none"), none)
    print(
        f"primary: {len(none)} acknowledged, {len(lost)} lost, of which {len(lost & kept)} are in"
        f" divergent files; with newer: {len(newer)} acknowledged, {len(newer & kept)} in divergent"
        " files, all made again"
    )
    assert lost == lost & kept, sorted(lost - kept)[:10]
    if KILLS > 1:
        assert lost, "primaries that were cut off before they died have lost nothing"


def comes(client: Lines, key: str, answer: bytes) -> None:
    """Assert that a node that follows has something soon."""
    wait_until(lambda: client.ask(f"get {key}") == [answer, OK], f"{key} at a secondary", 2.0)


def one_life(nodes: Nodes, number: int) -> float:
    """Set, get, remove, get, lose the primary, write, and have it back.

    :return: how long the write took, in seconds.
    """
    primary = nodes.primary()
    others = [place for place in range(3) if place != primary]
    writer = nodes.processes[primary].select("d")
    readers = [nodes.processes[place].select("d") for place in others]
    assert writer.ask(f"set k {number}") == [OK]
    for reader in readers:
        comes(reader, "k", b"value %d\n" % number)
    assert writer.ask("remove k") == [OK]
    assert writer.ask("get k") == [b"value <Empty>\n", OK]
    for reader in readers:
        comes(reader, "k", b"value <Empty>\n")
    nodes.kill(primary)
    began = time.monotonic()
    assert readers[number % 2].ask(f"set after {number}") == [OK]
    took = time.monotonic() - began
    nodes.start(primary)
    nodes.wait_until_formed()
    back = nodes.processes[primary].select("d")
    comes(back, "after", b"value %d\n" % number)
    assert back.ask("get k") == [b"value <Empty>\n", OK]
    assert nodes.primary() != primary
    for client in (writer, back, *readers):
        client.close()
    return took


@steadily(Nodes.forget)
def test_a_primary_dies_and_comes_back_again_and_again(nodes: Nodes) -> None:
    """At the default concern, and nothing but ``ok`` is ever answered."""
    nodes.start_at_once()
    nodes.wait_until_formed()
    nodes.admin(nodes.primary(), f"create-db d {TOKEN}")
    nodes.wait_until_equal()
    told("rounds", [one_life(nodes, number) for number in range(ROUNDS)])
    nodes.wait_until_equal()


@steadily(Nodes.forget)
def test_a_rolling_restart_under_writes_loses_nothing(nodes: Nodes) -> None:
    """Whoever is connected to a node that stays is answered ``ok``, and nothing else."""
    nodes.start_at_once()
    nodes.wait_until_formed()
    first = nodes.primary()
    nodes.admin(first, f"create-db most {TOKEN}", f"create-db none {TOKEN}")
    nodes.wait_until_equal()
    done = {"most": set[bytes](), "none": set[bytes]()}
    longest = 0.0
    for number, stopped in enumerate([first, *(p for p in range(3) if p != first)]):
        for writer in restart(nodes, stopped, number):
            assert not writer.others, writer.others
            done[writer.database] |= {write.text for write in writer.done}
            longest = max(longest, writer.longest)
    nodes.wait_until_equal()
    for place in range(3):
        for name, texts in done.items():
            lost = missing(nodes.processes[place].select(name), texts)
            assert not lost, (name, place, len(lost), sorted(lost)[:10])
        no_trace_of_trouble(nodes.processes[place].log, allowed=["cannot be reached"])
    print(
        f"\nmajority: {len(done['most'])}, primary: {len(done['none'])} acknowledged,"
        f" none lost; {longest * 1e3:.0f} ms for the slowest"
    )


def restart(nodes: Nodes, stopped: int, number: int) -> list[Writer]:
    """Stop a node in order and start it again, while there are writes at the others.

    :return: the writers, which have stopped.
    """
    writers = [
        Writer(nodes, place, name, *concern, start=100_000 * number)
        for place in range(3)
        if place != stopped
        for name, concern in (("most", ["write-concern majority"]), ("none", []))
    ]
    with writing(writers):
        wait_for_more(writers)
        assert nodes.processes[stopped].stop() == 0
        nodes.start(stopped)
        nodes.wait_until_formed()
        wait_for_more(writers)
    return writers
