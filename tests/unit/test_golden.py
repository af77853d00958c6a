"""Every recorded conversation replays in memory with the answers it names."""

from __future__ import annotations

import json
import pathlib
import re

import pytest

from nuntwist.testing import Connection, FrameConnection, LineConnection, MemoryNode

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
MASKS = (
    (r"\d{12,}", "OPID"),
    (r"process_id: \d+", "process_id: N"),
    (r"127\.0\.0\.1:\d+", "ADDR"),
    (r"op_log_file_size: \d+", "op_log_file_size: N"),
    (r"moving_avg: [\d.]+", "moving_avg: F"),
    (r"commands-list ,[a-z,-]+", "commands-list"),
)


def mask(answers: object) -> str:
    """What may differ from server to server (ids, sizes, times, ports) left out."""
    text = json.dumps(answers)
    for pattern, name in MASKS:
        text = re.sub(pattern, name, text)
    return text


def collect(connections: dict[str, Connection]) -> dict[str, list[str]]:
    got = {}
    for name, connection in connections.items():
        if isinstance(connection, LineConnection):
            texts = connection.received().splitlines(keepends=True)
        else:
            assert isinstance(connection, FrameConnection)
            texts = connection.received()
        if texts:
            got[name] = texts
    return got


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.glob("*.jsonl")))
def test_conversation(name: str) -> None:
    node = MemoryNode(user="admin", password="s3cr3t-pwd")
    connections: dict[str, Connection] = {}
    steps = [json.loads(line) for line in (GOLDEN / name).read_text().splitlines()]
    assert len(steps) > 10
    for step in steps:
        who, how, text = step["conn"], step["by"], step["send"]
        if how == "close":
            connections.pop(who).close()
            got = collect(connections)
        elif how == "http":
            answer = node.post(text)
            got = {**collect(connections), who: [answer]}
        else:
            if who not in connections:
                connections[who] = node.tcp() if how == "tcp" else node.ws()
            connection = connections[who]
            assert isinstance(connection, (LineConnection, FrameConnection))
            connection.send(text)
            got = collect(connections)
        assert mask(got) == mask(step["got"]), f"{who} by {how}: {text!r}"
