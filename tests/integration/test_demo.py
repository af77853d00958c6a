"""``python -m nuntwist.demo``: starts, prints an address that works, leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nuntwist.demo import HOST, NodeDidNotStart, ThrowAwayNode, find_ports
from tests.integration.harness import LIMIT


@pytest.mark.usefixtures("default_ports")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_runs_until_it_is_interrupted(tmp_path: Path, number: signal.Signals) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "nuntwist.demo"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        assert demo.stdout is not None
        said = ""
        while "http" not in said:
            line = demo.stdout.readline()
            assert line, "the demo ended before it told an address"
            said += line
        found = re.search(rf"http://{HOST}:(\d+)/#db=demo&token=\S+&key=board", said)
        assert found is not None
        socket.create_connection((HOST, int(found[1])), LIMIT).close()
        assert len(list(tmp_path.iterdir())) == 1
        demo.send_signal(number)
        demo.communicate(timeout=LIMIT)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 0
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, int(found[1])), LIMIT)


def test_a_node_that_ends_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ends = (sys.executable, "-c", "raise SystemExit(3)")
    with pytest.raises(NodeDidNotStart, match="status 3"), ThrowAwayNode(node=ends):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_gives_way_to_another() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = find_ports([port, 0])
    assert port not in found
    assert len(set(found)) == 2
