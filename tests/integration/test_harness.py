"""What the tests on real nodes stand on can fail itself: ports, the switch, what is done again."""

from __future__ import annotations

import socket
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tests.integration import steady
from tests.integration.harness import LIMIT, ROOT
from tests.integration.replica_set import Switch
from tests.ports import free_ports, sole_use

NODE = "00000000000000aa"
"""The id of the node that calls."""


def test_a_port_is_given_to_one_process_and_once() -> None:
    given = free_ports(200)
    assert len(set(given)) == 200
    code = f"from tests.ports import _mark; print([_mark(port) for port in {given}])"
    if sys.platform != "linux":
        pytest.skip("only Linux has names that are in no directory")
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT
    )
    assert told.stdout == f"{[None] * 200}\n", told
    with sole_use(given[0] + 100_000):
        pass
    with sole_use(given[0] + 100_000):
        pass


def test_a_connection_that_was_cut_stays_so_and_a_new_one_does_not() -> None:
    """Even where nothing was read of it meanwhile: what is under way must not come later."""
    with socket.create_server(("127.0.0.1", 0)) as target:
        target.settimeout(LIMIT)
        switch = Switch([target.getsockname()[1], 0])
        switch.places[NODE] = 1

        def call(text: bytes) -> tuple[socket.socket, socket.socket]:
            caller = socket.create_connection(("127.0.0.1", switch.ports[0]), LIMIT)
            caller.sendall(b"peer 1 %b\n" % NODE.encode() + text)
            called, _ = target.accept()
            called.settimeout(LIMIT)
            got = b""
            while not got.endswith(text):
                got += called.recv(100)
            return caller, called

        try:
            caller, called = call(b"first\n")
            switch.isolate(1)
            switch.heal()
            caller.sendall(b"late\n")
            again, there = call(b"again\n")
            called.setblocking(False)
            with pytest.raises(BlockingIOError):
                called.recv(100)
            for one in (caller, called, again, there):
                one.close()
        finally:
            switch.close()


@pytest.mark.parametrize(
    ("late", "runs", "outcome"),
    [
        # Seconds that a node was late in each run; where there is no outcome, the last goes well.
        ([0.0], 1, AssertionError),
        ([9.0, 9.0, 0.0], 3, None),
        ([9.0, 0.0], 2, AssertionError),
        ([9.0, 9.0, 9.0, 9.0], steady.TRIES, pytest.skip.Exception),
        ([0.3, 0.3, 0.3, 0.3], steady.TRIES, AssertionError),
    ],
)
def test_what_failed_is_done_again_where_a_node_was_late(
    monkeypatch: pytest.MonkeyPatch, late: list[float], runs: int, outcome: Any
) -> None:
    done: list[str] = []

    class Pulse:
        def __init__(self, *_: object) -> None:
            """For one node."""

        def start(self) -> None:
            """Nothing is asked."""

        def end(self) -> float:
            return late[done.count("run") - 1]

    monkeypatch.setattr(steady, "Pulse", Pulse)

    @steady.steadily(lambda _: done.append("again"))
    def test(nodes: object) -> None:
        done.append("run")
        assert outcome is None, "it fails"
        assert done.count("run") == runs

    nodes = SimpleNamespace(processes=[None])
    if outcome is None:
        test(nodes)
    else:
        with pytest.raises(outcome):
            test(nodes)
    assert done == (["run", "again"] * runs)[:-1]


def test_a_node_that_stands_still_is_late_and_one_that_is_made_to_is_not() -> None:
    """Its pulse is the answer of a client, here one that takes a moment."""
    clock = [0.0]
    nodes = SimpleNamespace(pauses=0)
    pulse = steady.Pulse(nodes, 0)  # type: ignore[arg-type]
    waits = iter([(0.1, 0), (0.5, 0), (9.0, 1), (0.2, 0)])

    def ask(_: str) -> list[bytes]:
        for wait, pauses in waits:
            clock[0] += wait
            nodes.pauses += pauses
            return [b"ok \n"]
        pulse.end()
        return [b"ok \n"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steady.time, "monotonic", lambda: clock[0])
        pulse._ask(SimpleNamespace(ask=ask))  # type: ignore[arg-type]
    assert pulse.longest == 0.5
