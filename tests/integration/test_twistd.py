"""``twistd nundb`` and the .tac file as real processes: their log, their words, their status."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")
LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (debug|info |warn |error|critical) [\w.\-]+: \S.*"
)
LISTENERS = {"NUN_WS_ADDR": "off", "NUN_HTTP_ADDR": "off", "NUN_TCP_ADDR": "127.0.0.1:0"}


def environment(**variables: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("NUN_")}
    return {**clean, **LISTENERS, "PYTHONPATH": str(ROOT), **variables}


def started(*words: str, cwd: Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TWISTD, *words],
        cwd=cwd,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(*words: str, cwd: Path, **variables: str) -> tuple[int, str, str]:
    """Run to the end: status, standard output, standard error."""
    process = started(*words, cwd=cwd, **variables)
    try:
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, output, errors


@contextmanager
def stopped_once_ready(
    *words: str, cwd: Path, ready: str = "is ready", **variables: str
) -> Iterator[tuple[int, str, list[str]]]:
    """Start, wait for a line that says ``ready``, stop: status, output, lines of the log."""
    process = started(*words, cwd=cwd, **variables)
    lines: list[str] = []
    assert process.stderr is not None
    try:
        for line in process.stderr:
            lines.append(line)
            if ready in line:
                process.send_signal(signal.SIGTERM)
                break
        output, rest = process.communicate(timeout=60)
    finally:
        process.kill()
    yield process.returncode, output, lines + rest.splitlines(keepends=True)


def test_the_installed_plugin_is_found(tmp_path: Path) -> None:
    """Also after an install in place (pip install -e), which `make` uses."""
    if not list(Path(sysconfig.get_path("purelib")).glob("nuntwist-*.dist-info")):
        pytest.skip("nuntwist is not installed in this environment")
    variables = {k: v for k, v in environment().items() if k != "PYTHONPATH"}
    listed = subprocess.run(
        [*TWISTD, "--help"],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert any(line.split()[:1] == ["nundb"] for line in listed.stdout.splitlines())


def test_every_line_has_the_one_format(tmp_path: Path) -> None:
    with stopped_once_ready("-n", "nundb", cwd=tmp_path) as (status, output, lines):
        assert status == 0, "".join(lines)
        assert output == ""
        assert all(LINE.fullmatch(line.rstrip("\n")) for line in lines), lines
        assert sum("starting up" in line for line in lines) == 1
        assert any("listening for TCP" in line for line in lines)
        assert any("warn" in line and "No credentials" in line for line in lines)
        assert "nun-pwd" not in "".join(lines)
    assert not (tmp_path / "twistd.pid").exists()


def test_json_is_json_from_the_first_line_to_the_last(tmp_path: Path) -> None:
    command = ("-n", "--pidfile=", "nundb", "--log-format", "json")
    with stopped_once_ready(*command, cwd=tmp_path) as (status, output, lines):
        assert status == 0, "".join(lines)
        assert output == ""
        messages = [json.loads(line)["message"] for line in lines]
        assert "starting up" in messages[0]
        assert messages[-1] == "Server Shut Down."


def test_the_level_leaves_lines_out(tmp_path: Path) -> None:
    command = ("-n", "--pidfile=", "nundb", "--log-level", "warn")
    with stopped_once_ready(*command, cwd=tmp_path, ready="No credentials") as (status, _, lines):
        assert status in (0, -signal.SIGTERM)
        assert not any(" info " in line for line in lines)


def test_the_tac_file_runs_the_same_node(tmp_path: Path) -> None:
    command = ("-n", "--pidfile=", "-y", str(ROOT / "tac" / "nundb.tac"))
    with stopped_once_ready(*command, cwd=tmp_path, NUN_LOG_FORMAT="json", NUN_DBS_DIR="d") as (
        status,
        _,
        lines,
    ):
        assert status == 0, "".join(lines)
        assert all(json.loads(line)["logger"] for line in lines)
    assert (tmp_path / "d").is_dir()


def test_the_tac_file_refuses_in_one_sentence(tmp_path: Path) -> None:
    tac = str(ROOT / "tac" / "nundb.tac")
    status, output, errors = ended("-ny", tac, cwd=tmp_path, NUN_TCP_ADDR="0.0.0.0:0")
    assert (status, output) == (1, "")
    assert errors.startswith("NUN_TCP_ADDR asks to listen on")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "beginning"),
    [
        (("--nope",), "nundb: option --nope not recognized"),
        (("--max-line", "many"), "--max-line is 'many': "),
        (("--tcp-address", ":3014"), "--tcp-address asks to listen on"),
        (("--user", "ada"), "--user is set but no password"),
    ],
)
def test_a_wrong_setting_is_one_sentence(
    tmp_path: Path, words: tuple[str, ...], beginning: str
) -> None:
    status, output, errors = ended("-n", "nundb", *words, cwd=tmp_path)
    assert (status, output) == (1, "")
    assert errors.startswith(beginning)
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        status, output, errors = ended("-n", "nundb", "--tcp-address", address, cwd=tmp_path)
    assert (status, output) == (1, "")
    assert "Traceback" not in errors
    (sentence,) = [line for line in errors.splitlines() if " critical " in line]
    assert "Cannot listen on" in sentence
    assert not (tmp_path / "twistd.pid").exists()


def test_a_daemon_logs_to_a_file_in_our_format(tmp_path: Path) -> None:
    status, _, errors = ended("-l", "node.log", "nundb", cwd=tmp_path)
    assert (status, errors) == (0, "")
    pid = int((tmp_path / "twistd.pid").read_text())
    try:
        log = tmp_path / "node.log"
        until = time.monotonic() + 30
        while "is ready" not in log.read_text() and time.monotonic() < until:
            time.sleep(0.05)
        lines = log.read_text().splitlines()
        assert all(LINE.fullmatch(line) for line in lines), lines
        assert any("is ready" in line for line in lines)
    finally:
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + 30
    while (tmp_path / "twistd.pid").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not (tmp_path / "twistd.pid").exists()
