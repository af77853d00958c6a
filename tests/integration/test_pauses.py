"""Nodes that stand still for longer than their lease, and go on as if nothing had been."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.integration.harness import LIMIT, Lines, no_trace_of_trouble, wait_until
from tests.integration.replica_set import Nodes
from tests.integration.steady import steadily

ROUNDS = 3
UNKNOWN = (b"error outcome unknown", b"error no primary")
"""What a writer or a reader is told whose node was primary and is not any more."""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    where = tmp_path_factory.mktemp("nodes")
    with Nodes(
        where, NUN_WRITE_CONCERN="majority", NUN_HTTP_ADDR="off", NUN_WS_ADDR="off"
    ) as nodes:
        nodes.admin(nodes.form(), "create-db d t").close()
        nodes.wait_until_equal()
        yield nodes
        for process in nodes.processes:
            no_trace_of_trouble(process.log)


class Counting(threading.Thread):
    """Counts up a key of its own, all the time.

    :ivar sure: how many increments were answered ``ok``, and ``unknown``: may have been done.
    :ivar others: any other answers.
    """

    def __init__(self, client: Lines, key: str) -> None:
        super().__init__(daemon=True)
        self.key = key
        self.sure, self.unknown, self.others = 0, 0, list[bytes]()
        self._client = client
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            answer = self._client.ask(f"increment {self.key} 1")[-1]
            if answer == b"ok \n":
                self.sure += 1
            elif answer.startswith(b"error outcome unknown"):
                self.unknown += 1
            elif not answer.startswith(UNKNOWN):
                self.others.append(answer)

    def end(self) -> None:
        self._ended.set()
        self.join(LIMIT)
        assert not self.is_alive()


@steadily(Nodes.mend)
def test_a_primary_that_stood_still_shows_nothing_that_is_over(nodes: Nodes) -> None:
    """What clients have sent it meanwhile waits in its sockets: when it goes on, it reads them
    before it knows that it is no primary any more."""
    use = ("use-db d t", "read-concern linearizable")
    for number in range(ROUNDS):
        before = nodes.primary()
        rest = [place for place in range(3) if place != before]
        reader, *writers = [nodes.admin(before, *use) for _ in range(4)]
        load = [Counting(nodes.admin(place, *use), f"n{number}{place}") for place in range(3)]
        assert writers[0].ask("set k old") == [b"ok \n"]
        assert reader.ask("get k") == [b"value old\n", b"ok \n"]
        for one in load:
            one.start()
        time.sleep(0.2)
        nodes.pause(before)
        reader.send(b"get k\n")
        for writer in writers:
            writer.send(b"increment n 1\n")
        wait_until(lambda: any(nodes.role(p) == "Primary" for p in rest), "another", 8.0)  # noqa: B023
        after = nodes.admin(next(p for p in rest if nodes.role(p) == "Primary"), *use)
        began = time.monotonic()
        assert after.ask(f"set k new{number}") == [b"ok \n"]
        assert time.monotonic() - began < 1.0
        time.sleep(0.5 * number)
        nodes.go_on(before)
        began = time.monotonic()
        *_, said, closing = [b"", *reader.answer()]
        assert (said == b"value new%d\n" % number) or closing.startswith(UNKNOWN)
        for writer in writers:
            (answer,) = writer.answer()
            assert answer == b"ok \n" or answer.startswith(UNKNOWN)
        print(f"answered {time.monotonic() - began:.2f} s after it went on: {said!r} {closing!r}")
        assert time.monotonic() - began < 6.0
        for one in load:
            one.end()
        nodes.wait_until_formed()
        nodes.wait_until_equal()
        for one in load:
            assert one.others == []
            assert one.sure > 0
            counted = int(after.ask(f"get {one.key}")[0].split()[1])
            assert one.sure <= counted <= one.sure + one.unknown
        for client in (reader, *writers, after):
            client.close()


@steadily(Nodes.mend)
def test_a_secondary_that_stood_still_catches_up(nodes: Nodes) -> None:
    """No election; its watchers hear of everything, in order."""
    primary = nodes.primary()
    epoch = nodes.state(primary)["epoch"]
    place = (primary + 1) % 3
    watcher = nodes.admin(place, "use-db d t", "watch w")
    client = nodes.admin(primary, "use-db d t")
    nodes.pause(place)
    end, number = time.monotonic() + 2.0, 0
    while time.monotonic() < end:
        number += 1
        assert client.ask(f"set w {number}") == [b"ok \n"]
        time.sleep(0.02)
    nodes.go_on(place)
    heard = [watcher.line() for _ in range(2 * number)][::2]
    assert heard == [b"changed w %d\n" % n for n in range(1, number + 1)]
    nodes.wait_until_formed()
    nodes.wait_until_equal()
    assert (nodes.primaries(), nodes.state(primary)["epoch"]) == ([primary], epoch)
    watcher.close()
    client.close()
