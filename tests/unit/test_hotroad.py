"""The hot road and the general road are one: every byte, every operation, on any input."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuntwist.core import hotroad
from nuntwist.testing import MemoryNode, client_frame

KEYS = st.sampled_from(["a", "b", "name", "é", "$connections", "$$token", "", "x" * 200])
VALUES = st.one_of(
    st.sampled_from(["", "1", "v", " v ", "a b  c", "$x", "a;b", "é", "x" * 200, "y" * 70_000]),
    st.text(max_size=20).filter(lambda t: "\n" not in t),
)
COMMANDS = st.one_of(
    st.builds("get {}".format, KEYS),
    st.builds("set {} {}".format, KEYS, VALUES),
    st.builds("set {} {}".format, KEYS, VALUES),
    st.builds("remove {}".format, KEYS),
    st.builds("increment {}".format, KEYS),
    st.builds("watch {}".format, KEYS),
    st.builds("unwatch {}".format, KEYS),
    st.builds("get-safe {}".format, KEYS),
    st.builds("set-safe {} 3 {}".format, KEYS, VALUES),
    st.sampled_from(
        ["keys", "get", "set", "nope", "", " get a", "get a;", "use-db d t", "get a b"]
    ),
)
CHUNKS = st.lists(st.lists(COMMANDS, min_size=1, max_size=8), min_size=1, max_size=6)


def play(
    chunks: list[list[str]], framed: bool, one_turn: bool = False, refused: int = 99
) -> tuple[list[bytes], list[object]]:
    """What the writer, a reader beside it and a watcher receive, and the log, for a
    conversation whose chunks come in one turn, or a turn each.

    :param refused: the chunk from which on writes are refused.
    """
    node = MemoryNode()
    node.admin("create-db d t").close()
    writer = node.ws() if framed else node.tcp()
    watcher, reader = node.tcp(), node.tcp()
    writer.send("use-db d t")
    reader.send("use-db d t")
    for text in ("use-db d t", "watch a", "watch b"):
        watcher.send(text)
    writer.taken()
    watcher.taken()
    for number, chunk in enumerate(chunks):
        if number == refused:
            node.node.pipeline.commit()
            node.node.pipeline.journal.refusal = b"not now"
        if framed:
            data = b"".join(client_frame(text.encode()) for text in chunk)
        else:
            data = "".join(text + "\n" for text in chunk).encode()
        writer.protocol.dataReceived(data)
        reader.protocol.dataReceived(b"get a\n")
        if not one_turn:
            node.settle()
    node.settle()
    ops = [op[:2] + op[4:] for batch in node.oplog.read(1) for op in batch]
    return [writer.taken(), reader.taken(), watcher.taken()], ops


@settings(max_examples=150, deadline=None)
@given(
    framed=st.booleans(), one_turn=st.booleans(), chunks=CHUNKS, refused=st.sampled_from([0, 2, 99])
)
def test_same_as_the_general_road(
    framed: bool, one_turn: bool, chunks: list[list[str]], refused: int
) -> None:
    hot = play(chunks, framed, one_turn, refused)
    run, hotroad.run = hotroad.run, lambda pipeline, client, lines, at, stop: at
    single, hotroad.single = hotroad.single, lambda pipeline, client, lines: False
    try:
        general = play(chunks, framed, one_turn, refused)
    finally:
        hotroad.run, hotroad.single = run, single
    assert hot == general


@pytest.mark.parametrize("framed", [False, True])
def test_a_chunk_of_one_line_has_a_lane_of_its_own(framed: bool) -> None:
    node = MemoryNode()
    node.admin("create-db d t").close()
    client = node.ws() if framed else node.tcp()
    client.send("use-db d t")
    client.send("ping")
    client.taken()
    taken = []
    single = hotroad.single

    def counted(pipeline, client, lines):  # type: ignore[no-untyped-def]
        taken.append(single(pipeline, client, lines))
        return taken[-1]

    hotroad.single = counted
    try:
        for text in ("set a 1", "get a", "get none", "watch a", "set a 2", "get a", "get $x"):
            client.send(text)
    finally:
        hotroad.single = single
    assert taken == [True, True, True, False, False, True]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many lines the hot road has taken, each time it was asked to."""
    counts: list[int] = []
    run = hotroad.run

    def counted(pipeline, client, lines, at, stop):  # type: ignore[no-untyped-def]
        end = run(pipeline, client, lines, at, stop)
        counts.append(end - at)
        return end

    monkeypatch.setattr(hotroad, "run", counted)
    return counts


def test_the_hot_road_is_taken(taken: list[int]) -> None:
    node = MemoryNode()
    node.admin("create-db d t").close()
    client = node.tcp()
    client.send("use-db d t")
    taken.clear()
    client.send("set a 1\nget a\nget missing\nset b x y")
    assert taken == [4]
    assert client.received() == "ok \nok \nvalue 1\nok \nvalue <Empty>\nok \nok \n"


def test_reads_are_on_it_where_writes_are_refused(taken: list[int]) -> None:
    """On a node whose disk is full, or that follows another one."""
    node = MemoryNode()
    node.admin("create-db d t", "use-db d t", "set a 1").close()
    client = node.tcp()
    client.send("use-db d t")
    client.received()
    node.node.pipeline.journal.refusal = b"not now"
    taken.clear()
    client.send("get a\nget b\nset a 2\nget a")
    assert taken == [2, 1]
    assert client.received() == ("value 1\nok \nvalue <Empty>\nok \nerror not now \nvalue 1\nok \n")
