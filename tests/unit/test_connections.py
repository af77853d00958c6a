"""The life of a connection: when it ends, and what comes first."""

from __future__ import annotations

import pytest

from nuntwist.core.client import GONE, SIGNED_OUT, Client
from nuntwist.core.connections import LEAVE, Connections
from nuntwist.language.replies import LINES
from nuntwist.testing import MemoryNode


class Outlet:
    """Notes what it is told to do."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def write(self, data: bytes) -> None:
        self.told.append(data.decode())

    def pause_reading(self) -> None:
        self.told.append("pause")

    def resume_reading(self) -> None:
        self.told.append("resume")

    def end(self) -> None:
        self.told.append("end")

    def abort(self, reason: str) -> None:
        self.told.append(f"abort: {reason}")


class One:
    """A client of a node, and the transport's side of it."""

    def __init__(self) -> None:
        self.node = MemoryNode()
        self.node.admin("create-db d t", "use-db d t", "set k v").close()
        self.pipeline = self.node.node.pipeline
        self.connections: Connections = self.pipeline.connections
        self.outlet = Outlet()
        self.client = Client(self.outlet, LINES, "somewhere")
        self.connections.connect(self.client)

    def send(self, *lines: bytes) -> None:
        self.pipeline.receive(self.client, (list(lines), False))

    @property
    def connected(self) -> int:
        return self.node.node.counters.connections


@pytest.fixture
def one() -> One:
    return One()


def test_what_has_come_is_answered_before_the_end(one: One) -> None:
    one.send(b"use-db d t", b"get k")
    one.connections.finish(one.client)
    one.node.settle()
    text, _, after = "".join(one.outlet.told).partition("end")
    assert text == "ok \nvalue v\nok \n"
    one.send(b"get k")
    one.node.settle()
    assert "value" not in after + one.outlet.told[-1]


def test_what_waits_holds_up_the_end(one: One) -> None:
    one.client.waiting = True
    one.send(b"ping")
    one.connections.finish(one.client)
    one.node.settle()
    assert "end" not in one.outlet.told
    one.client.waiting = False
    one.pipeline.resume(one.client)
    one.node.settle()
    assert one.outlet.told[-2:] == ["pong\nok \n", "end"]


def test_what_has_not_been_run_holds_up_the_end(one: One) -> None:
    one.connections.set_paused(one.client, True)
    one.send(b"ping")
    one.connections.finish(one.client)
    one.node.settle()
    assert "end" not in one.outlet.told
    one.connections.set_paused(one.client, False)
    one.node.settle()
    assert one.outlet.told[-2:] == ["pong\nok \n", "end"]


def test_the_first_reason_is_the_one_that_is_told(one: One) -> None:
    one.connections.finish(one.client, b"first")
    one.connections.finish(one.client, b"second")
    one.connections.finish(one.client)
    assert one.client.farewell == b"first"


def test_who_has_no_right_to_be_here_is_told_no_more(one: One) -> None:
    one.send(b"use-db d t", b"watch k")
    one.node.settle()
    one.client.waiting = True
    one.send(b"get k")
    one.connections.dismiss(one.client)
    assert one.client.watching == {}
    assert [lines for lines, _, _ in one.client.backlog] == [[LEAVE]]
    one.client.waiting = False
    one.pipeline.resume(one.client)
    one.node.settle()
    assert one.client.database is None
    assert one.client.farewell == SIGNED_OUT
    assert one.outlet.told[-1] == "end"
    assert "value" not in "".join(one.outlet.told)


def test_who_takes_nothing_is_not_waited_for(one: One) -> None:
    one.connections.set_paused(one.client, True)
    one.connections.dismiss(one.client)
    assert one.outlet.told == ["abort: signed out"]


def test_who_stops_taking_while_it_goes_is_not_either(one: One) -> None:
    one.connections.dismiss(one.client)
    one.connections.set_paused(one.client, True)
    assert one.outlet.told[-1] == "abort: signed out"


def test_who_is_gone_leaves_nothing_and_goes_once(one: One) -> None:
    one.send(b"use-db d t", b"watch k")
    one.node.settle()
    database = one.node.node.catalogue.by_name[b"d"]
    assert (one.connected, len(database.selected)) == (1, 1)
    for _ in range(2):
        one.connections.disconnect(one.client)
        assert (one.connected, len(database.selected)) == (0, 0)
    assert database.watchers == {}
    assert one.client.outlet is GONE
