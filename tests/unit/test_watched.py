"""How much all connections watch: those that watch most make room, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from nuntwist.core.limits import Limits
from nuntwist.core.watched import EACH, USUAL
from nuntwist.testing import LineConnection, MemoryNode

LIMIT = 4 * USUAL
LONG = 4_000
OK = "ok \n"
REFUSED = f"error too many watches of all connections together: they may take {LIMIT} bytes \n"


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What is logged of who was closed."""
    lines: list[str] = []

    def note(event: LogEvent) -> None:
        if "NUN_WATCH_TOTAL" in (event.get("log_format") or ""):
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(note)
    yield lines
    globalLogPublisher.removeObserver(note)


def node_with(limit: int = LIMIT) -> MemoryNode:
    node = MemoryNode(limits=Limits(watch_total=limit))
    node.admin("create-db d t", "use-db d t", "set-permissions all r *").close()
    return node


def using(node: MemoryNode) -> LineConnection:
    client = node.tcp()
    assert client.ask("use-db d t") == OK
    return client


def watch(client: LineConnection, name: str, size: int) -> str:
    """Watch long keys that take so many bytes; what is answered."""
    count = size // (EACH + LONG)
    return client.ask("\n".join(f"watch {f'{name}{n:05}':x<{LONG}}" for n in range(count)))


def test_who_watches_most_makes_room(told: list[str]) -> None:
    node = node_with()
    usual, much, most = using(node), using(node), using(node)
    usual.ask("watch a\nwatch b")
    assert watch(much, "much", LIMIT // 3) == OK * (LIMIT // 3 // (EACH + LONG))
    watch(most, "most", LIMIT // 2)
    assert told == []
    # However little makes it too much, and whoever comes with it.
    watch(using(node), "new", LIMIT // 5)
    (line,) = told
    assert line.startswith(f"closed {most.protocol.client.peer}: its ")
    assert node.node.counters.watches_closed == 1
    assert most.closed
    assert not much.closed
    using(node).ask("set a 1")
    assert node.admin("use-db d t").ask("set a 1") == OK
    assert usual.received() == "changed a 1\nchanged-version a 0 1\n"


def test_who_is_closed_watches_nothing_more(told: list[str]) -> None:
    node = node_with()
    client = using(node)
    # In one chunk, of which much is still to be run when it is closed.
    watch(client, "k", 3 * LIMIT)
    assert client.closed
    assert len(told) == 1
    assert node.node.pipeline.watched.total == 0
    assert not node.node.catalogue.by_name[b"d"].watchers


def test_where_nobody_watches_much_a_new_one_is_refused() -> None:
    node = node_with()
    clients = [using(node) for _ in range(8)]
    answers = [watch(client, f"{n}-", USUAL - EACH - LONG) for n, client in enumerate(clients)]
    assert not any(client.closed for client in clients)
    assert answers[0].count(OK) > 50
    assert answers[-1].count(REFUSED) > 50
    # What one has is kept, and what one lets go is room for others.
    assert clients[0].ask("unwatch-all") == OK
    assert clients[-1].ask("watch a") == OK
    assert node.node.counters.watches_closed == 0


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(
            ["watch", "watch", "watch", "unwatch", "unwatch-all", "close", "drop", "use"]
        ),
        st.sampled_from(["a", "b", "c" * 100, "d" * 4_000]),
    ),
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(STEPS, st.sampled_from([2_000, 10_000, LIMIT]))
def test_the_sum_is_what_is_watched(steps: list[tuple[int, str, str]], limit: int) -> None:
    node = node_with(limit)
    admin = node.admin("create-db e t")
    clients = [using(node) for _ in range(3)]
    for number, word, key in steps:
        if word == "close":
            clients[number].close()
            clients[number] = using(node)
        elif word == "drop":
            admin.ask("drop-db e")
            admin.ask("create-db e t")
        elif word == "use":
            clients[number].ask("use-db e t" if len(key) > 1 else "use-db d t")
        else:
            clients[number].ask(f"{word} {key}" if word != "unwatch-all" else word)
        watched = [
            len(key) + EACH
            for client in clients
            for keys in client.protocol.client.watching.values()
            for key in keys
        ]
        assert node.node.pipeline.watched.total == sum(watched) <= limit
