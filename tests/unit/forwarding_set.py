"""A set in memory with clients of its nodes, for tests of forwarded writes."""

from __future__ import annotations

from nuntwist.core.forwarding import Forwarder
from nuntwist.testing import LineConnection
from tests.unit.memory_set import MemorySet

NO_DATABASE = "error no-db-selected\nerror error no-db-selected\n \n"


def formed(nodes: MemorySet | None = None) -> MemorySet:
    """A set whose primary is the first, with the database ``d``."""
    nodes = nodes or MemorySet()
    nodes.run(2.0)
    nodes.nodes[1].admin("create-db d t")
    nodes.run(0.1)
    assert (nodes.primary(), nodes.secondaries()) == (1, [2, 3])
    return nodes


def at(nodes: MemorySet, me: int, use: str = "use-db d t") -> LineConnection:
    """A client of a node."""
    client = nodes.nodes[me].tcp()
    assert client.ask(use) == "ok \n"
    return client


def forwarder(nodes: MemorySet, me: int) -> Forwarder:
    """What sends the writes of a node's clients."""
    return nodes.forwards[me].forwarder


def answers(nodes: MemorySet, client: LineConnection, text: str, seconds: float = 0.1) -> str:
    """Send, and give what comes within a time."""
    client.received()
    client.send(text)
    nodes.run(seconds)
    return client.received()


def rest(nodes: MemorySet, client: LineConnection) -> str:
    """What comes until nothing more does, where the node did not read all that was sent."""
    heard = ""
    for _ in range(100):
        client.deliver(b"")
        nodes.run(0.1)
        heard += client.received()
    return heard


class LateSet(MemorySet):
    """The flushes of each node's log wait while its ``threads`` hold."""

    def __init__(self) -> None:
        super().__init__(durability="disk")

    def flush(self, me: int) -> None:
        while self.threads[me].busy:
            self.threads[me].run_one()
        self.run(0.02)
