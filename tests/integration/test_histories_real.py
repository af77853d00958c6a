"""What clients of a real set see is linearizable, whatever happens to its nodes and links.

Concern ``majority``, linearizable reads; how long is set by ``NUN_HISTORY_SECONDS``, and
``NUN_HISTORY_SEED`` repeats the choices of a run (docs/testing.md).
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from nuntwist.simulation.history import GET, GET_SAFE, Fate, History, merge
from nuntwist.simulation.linearizability import check
from nuntwist.simulation.verdict import Verdict
from tests.integration.harness import LIMIT, Lines, no_trace_of_trouble, wait_until
from tests.integration.replica_set import Nodes
from tests.integration.set_clients import KINDS, TOKEN, Historian

SECONDS = float(os.environ.get("NUN_HISTORY_SECONDS", "12"))
SEED = int(os.environ.get("NUN_HISTORY_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
CLIENTS = 9
"""Of which each third is at one node, and the last three only read."""
KEYS = 3
ENOUGH = 20 * SECONDS
"""Answers without which a run would say little."""
USED = 4.0
"""Seconds for which the same keys are used: a search takes some hundred operations a key."""


class Faults:
    """What happens to the nodes of a set, one thing after the other.

    :ivar made: how often each.
    """

    def __init__(self, nodes: Nodes, chance: random.Random) -> None:
        self._nodes = nodes
        self._chance = chance
        self.made = Counter[str]()
        self._kinds: dict[str, Callable[[int], None]] = {
            "kill": self._kill,
            "isolate": self._isolate,
            "pause": self._pause,
            "stop": self._stop,
            "deaf": self._deaf,
            "mute": self._mute,
            "bridge": self._bridge,
        }
        self._left: list[str] = []

    def one(self) -> None:
        """Let something happen, mostly to the primary, and the set be whole again."""
        if not self._left:
            self._left = list(self._kinds)
            self._chance.shuffle(self._left)
        kind = self._left.pop()
        place = self._nodes.primary()
        if self._chance.random() < 0.2:
            place = self._another(place)
        self._kinds[kind](place)
        self._nodes.switch.heal()
        self.made[kind] += 1
        self._nodes.wait_until_formed()

    def _another(self, place: int) -> int:
        return self._chance.choice([other for other in range(3) if other != place])

    def _wait(self) -> None:
        time.sleep(self._chance.uniform(0.7, 2.0))

    def _kill(self, place: int) -> None:
        self._nodes.kill(place)
        self._wait()
        self._nodes.start(place)

    def _stop(self, place: int) -> None:
        assert self._nodes.processes[place].stop() == 0
        self._nodes.start(place)

    def _pause(self, place: int) -> None:
        self._nodes.pause(place)
        self._wait()
        self._nodes.go_on(place)

    def _isolate(self, place: int) -> None:
        self._nodes.switch.isolate(place)
        self._wait()

    def _deaf(self, place: int) -> None:
        self._nodes.switch.cut |= {(other, place) for other in range(3)}
        self._wait()

    def _mute(self, place: int) -> None:
        self._nodes.switch.cut |= {(place, other) for other in range(3)}
        self._wait()

    def _bridge(self, place: int) -> None:
        other = self._another(place)
        self._nodes.switch.cut |= {(place, other), (other, place)}
        self._wait()


def record(nodes: Nodes, chance: random.Random) -> tuple[list[Historian], Counter[str]]:
    """Let clients work on all nodes while things happen.

    :return: the clients, which have stopped, and what happened how often.
    """
    began = time.monotonic()

    def keys() -> list[str]:
        group = int((time.monotonic() - began) / USED)
        return [f"{group}.{number}" for number in range(KEYS)]

    clients = [
        Historian(nodes, number % 3, "d", number, random.Random(chance.random()), keys, kinds)
        for number, kinds in enumerate([KINDS] * (CLIENTS - 3) + [(GET,)] * 3)
    ]
    for client in clients:
        client.start()
    faults = Faults(nodes, chance)
    try:
        while time.monotonic() < began + SECONDS or answered(clients) < ENOUGH:
            assert time.monotonic() < began + SECONDS + LIMIT, "too few are answered"
            time.sleep(chance.uniform(0.2, 0.8))
            faults.one()
    finally:
        for client in clients:
            client.stop()
    return clients, faults.made


def answered(clients: list[Historian]) -> int:
    """How many operations were."""
    histories = [tuple(client.history.operations) for client in clients]
    return sum(one.fate is Fate.ANSWERED for history in histories for one in history)


def last_reads(nodes: Nodes, keys: set[bytes]) -> History:
    """Read all keys once more, at one node after the other."""
    history = History(order=time.monotonic)
    readers = [nodes.processes[place].select("d") for place in range(3)]
    for reader in readers:
        reader.ask("read-concern linearizable")
    for number, key in enumerate(sorted(keys)):
        reader = readers[number % 3]
        # On a busy machine there may be one more election, and reads that are refused meanwhile.
        wait_until(lambda: _is_answered(history, key, reader), "a read of every key")  # noqa: B023
    return history


def _is_answered(history: History, key: bytes, reader: Lines) -> bool:
    operation = history.call(CLIENTS, GET_SAFE, key)
    lines = reader.ask(operation.command())
    history.close(operation, b"".join(lines).decode())
    return operation.fate is Fate.ANSWERED


def test_what_clients_see_while_nodes_and_links_fail_is_linearizable(tmp_path: Path) -> None:
    print(f"\nNUN_HISTORY_SEED={SEED}; history and data directories: {tmp_path}")
    with Nodes(tmp_path, NUN_WRITE_CONCERN="majority") as nodes:
        nodes.start_at_once()
        nodes.wait_until_formed()
        nodes.admin(nodes.primary(), f"create-db d {TOKEN}")
        nodes.wait_until_equal()
        clients, made = record(nodes, random.Random(SEED))
        seen = merge(client.history for client in clients)
        (tmp_path / "history.jsonl").write_text(seen.to_lines())
        end = last_reads(nodes, set(seen.by_key()))
        nodes.wait_until_equal()
        whole = merge([seen, end])
        (tmp_path / "history.jsonl").write_text(whole.to_lines())
        fates = Counter(operation.fate.value for operation in whole.operations)
        print(f"{dict(made)}; {dict(fates)}")
        report = check(whole)
        told = f"NUN_HISTORY_SEED={SEED}, {tmp_path}/history.jsonl: {report}"
        assert report.verdict is Verdict.LINEARIZABLE, told
        for process in nodes.processes:
            no_trace_of_trouble(process.log, allowed=["cannot be reached"])
