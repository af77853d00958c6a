"""Every node of a real set takes writes, and each is done once whatever happens to the primary."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nuntwist.cluster.offers import first_of
from nuntwist.files_on_disk import DiskFiles
from nuntwist.oplog.inspect import Logged, operations_in
from nuntwist.values import KEY
from tests.integration.harness import LIMIT, Lines, no_trace_of_trouble, wait_until
from tests.integration.replica_set import Nodes

UNKNOWN = b"outcome unknown"
MORE = 30
"""Increments of a writer before a primary dies, and after another has taken over."""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with Nodes(tmp_path) as nodes:
        yield nodes


class Writer:
    """Counts with a key of its own at one node, three increments at a time.

    :ivar done: those that went well.
    :ivar unknown: those that may have been done.
    :ivar longest: the longest wait for an answer, in seconds.
    """

    def __init__(self, nodes: Nodes, place: int) -> None:
        self.place, self.key = place, f"n{place}"
        self.done = self.unknown = 0
        self.longest = 0.0
        self.refused: set[bytes] = set()
        self.hung = False
        self._nodes = nodes
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped = True
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()
        assert not self.hung, "a request was never answered"

    def _run(self) -> None:
        while not self._stopped:
            with suppress(OSError, AssertionError):
                client = self._nodes.processes[self.place].tcp()
                assert client.ask("use-db d t") == [b"ok \n"]
                self._count(client)
            time.sleep(0.05)

    def _count(self, client: Lines) -> None:
        while not self._stopped:
            left = 3
            began = time.monotonic()
            try:
                client.send(b"increment %b\n" % self.key.encode() * left)
                while left:
                    answer = client.answer()[-1]
                    left -= 1
                    if answer == b"ok \n":
                        self.done += 1
                    elif UNKNOWN in answer:
                        self.unknown += 1
                    else:
                        self.refused.add(answer)
            except TimeoutError:
                self.hung = True
                raise
            finally:
                self.unknown += left
            self.longest = max(self.longest, time.monotonic() - began)


def wait_for_more(writers: list[Writer]) -> None:
    """Return when each has counted on."""
    before = [writer.done for writer in writers]
    pairs = list(zip(writers, before, strict=True))
    wait_until(lambda: all(one.done > number + MORE for one, number in pairs), "more increments")


def cut_off(nodes: Nodes, key: str) -> int:
    """How many operations on a key are in divergent files, as nobody else has them."""
    disks = [DiskFiles(str(process.data), as_it_is=True) for process in nodes.processes]
    return sum(
        isinstance(found, Logged) and found.op[KEY] == key.encode()
        for files in disks
        for name in files.names()
        if first_of(name) is not None
        for found in operations_in(files, name)
    )


def test_any_node_takes_what_changes_the_set(nodes: Nodes) -> None:
    primary = nodes.form()
    others = [place for place in range(3) if place != primary]
    for place in others:
        admin = nodes.admin(place, f"create-db d{place} t", f"use-db d{place} t")
        for command in ("set k 1", "increment k 2", "create-user ann pwd", "set $$x y"):
            assert admin.ask(command) == [b"ok \n"]
        assert admin.ask("set-permissions ann rw k") == [b"ok \n"]
        assert admin.ask("get k") == [b"value 3\n", b"ok \n"]
        ann = nodes.processes[place].tcp()
        assert ann.ask(f"use-db d{place} ann pwd") == [b"ok \n"]
        assert ann.ask("set k 5") == [b"ok \n"]
        ann.send(b"set j 5\n")
        assert ann.line() == b"permission denied\n"
        ann.close()
        where = nodes.addresses[primary].encode()
        assert admin.ask("restore-begin new") == [b"error restore on the primary: %b \n" % where]
    nodes.wait_until_equal()
    for place in range(3):
        for name in others:
            client = nodes.admin(place, f"use-db d{name} t")
            assert client.ask("get k") == [b"value 5\n", b"ok \n"]
    assert nodes.admin(others[0]).ask(f"drop-db d{others[1]}")[-1] == b"ok \n"
    for process in nodes.processes:
        no_trace_of_trouble(process.log, allowed=["cannot be reached"])


def test_increments_at_every_node_while_primaries_die(nodes: Nodes) -> None:
    nodes.admin(nodes.form(), "create-db d t")
    nodes.wait_until_equal()
    writers = [Writer(nodes, place) for place in range(3)]
    for _ in range(4):
        wait_for_more(writers)
        primary = nodes.primary()
        nodes.kill(primary)
        # Another has taken over.
        wait_for_more([writer for writer in writers if writer.place != primary])
        nodes.start(primary)
        nodes.wait_until_formed()
    wait_for_more(writers)
    for writer in writers:
        writer.stop()
    nodes.wait_until_equal()
    client = nodes.admin(nodes.primary(), "use-db d t")
    for writer in writers:
        value = int(client.ask(f"get {writer.key}")[0].split()[1])
        print(writer.place, value, writer.done, writer.unknown, writer.longest, writer.refused)
        assert value <= writer.done + writer.unknown
        # Lost are at most those that only a primary had that died; here it has answered for
        # itself alone.
        assert value >= writer.done - cut_off(nodes, writer.key)
        assert writer.refused <= {b"error no primary \n", b"error not primary \n"}
