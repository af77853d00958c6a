"""A real node does what the protocol says: conversations, pipelines, half-close, secrets."""

from __future__ import annotations

import importlib.util
import json
import signal
import socket
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.integration.conftest import Start
from tests.integration.harness import (
    LIMIT,
    OK,
    PASSWORD,
    ROOT,
    USER,
    Process,
    frame,
    json_lines,
    no_trace_of_trouble,
    wait_until,
)

GOLDEN = sorted((ROOT / "tests" / "golden").glob("*.jsonl"))


# -- recorded conversations ------------------------------------------------------------------------


def _transcript() -> ModuleType:
    """The recorder and player of conversations, a script and no package."""
    path = ROOT / "tests" / "golden" / "transcript.py"
    spec = importlib.util.spec_from_file_location("transcript", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Player:
    """Replays a conversation step by step.

    The script waits until the line is quiet; this waits until what should come has come, which
    is quicker and no guess.  What comes beyond it is found in the next step, or at the end.
    """

    def __init__(self, node: Process, transcript: ModuleType) -> None:
        self._transcript = transcript
        self._ports = {
            kind: node.address(what)[1]
            for kind, what in (("ws", "WebSocket"), ("http", "HTTP"), ("tcp", "TCP"))
        }
        self._connections: dict[str, Any] = {}
        self._ids: list[str] = []

    def step(self, row: dict[str, Any], limit: float = LIMIT) -> None:
        """Do one step, and compare."""
        name, kind = row["conn"], row["by"]
        got: dict[str, list[str]] = {}
        text = row["send"]
        for number, one in enumerate(self._ids, 1):
            text = text.replace(f"@{number}", one)
        if kind == "close":
            self._connections.pop(name).s.close()
        elif kind == "http":
            got[name] = [self._transcript.post(self._ports, text)]
        else:
            self._connection(name, kind).send(text)
        wanted = [row["got"], *row.get("or", [])]
        try:
            wait_until(lambda: self._fits(got, wanted), "the answer", limit)
        except AssertionError:
            raise AssertionError(f"{name} {kind} {text!r}\ngot  {got}\nwant {wanted}") from None
        for found in self._transcript.re.findall(r"\d{12,}", json.dumps(got)):
            if found not in self._ids:
                self._ids.append(found)

    def _fits(self, got: dict[str, list[str]], wanted: list[dict[str, list[str]]]) -> bool:
        for name, connection in self._connections.items():
            connection.poll()
            # A TCP line may have come in part.
            if connection.kind == "ws" or connection.buf.endswith(b"\n"):
                messages = connection.take()
                if messages:
                    got.setdefault(name, []).extend(messages)
        return any(self._transcript.same(got, one) for one in wanted)

    def _connection(self, name: str, kind: str) -> Any:
        if name not in self._connections:
            connection = self._transcript.Conn(kind, self._ports)
            self._connections[name] = connection
            if kind == "tcp":
                wait_until(lambda: connection.poll() and connection.buf == OK, "the greeting")
                connection.buf = b""
        return self._connections[name]

    def end(self) -> None:
        """Nothing may have come that was not asked for."""
        assert self._transcript.settle(self._connections) == {}
        for connection in self._connections.values():
            connection.s.close()


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_recorded_conversations(node: Process, path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    player = Player(node, _transcript())
    for row in rows:
        player.step(row)
    player.end()
    no_trace_of_trouble(node.log)


def test_there_are_recorded_conversations() -> None:
    assert len(GOLDEN) >= 3


def test_a_wrong_answer_is_noticed(node: Process) -> None:
    """The player itself can fail."""
    player = Player(node, _transcript())
    row = {"conn": "a", "by": "tcp", "send": "ping", "got": {"a": ["pong\n", "ok \n"]}}
    player.step(row)
    with pytest.raises(AssertionError, match="want"):
        player.step({**row, "got": {"a": ["pong\n", "ok \n", "ok \n"]}}, 0.3)


# -- pipelines and half-close ----------------------------------------------------------------------


@pytest.mark.parametrize("by", ["tcp", "ws"])
def test_twenty_thousand_commands_without_waiting(shared: Process, by: str) -> None:
    """Answers come in order, and every read sees the write before it."""
    database = f"pipe-{by}"
    shared.create(database)
    client = shared.select(database) if by == "tcp" else shared.ws()
    if by == "ws":
        assert client.ask(f"use-db {database} tok") == [OK]
    commands, expected = [], b""
    for number in range(5_000):
        commands += [
            b"set k%d v%d" % (number % 50, number),
            b"get k%d" % (number % 50),
            b"increment total",
            b"nonsense",
        ]
        expected += b"ok \nvalue v%d\nok \nok \nerror unknown command: nonsense \n" % number
    data = b"".join(frame(c) if by == "ws" else c + b"\n" for c in commands)
    # A thread sends, so that neither side can hold the other up.
    sender = threading.Thread(target=client.socket.sendall, args=(data,))
    sender.start()
    got = b"".join(b"".join(client.answer()) for _ in commands)
    sender.join(LIMIT)
    assert got == expected
    assert client.ask("get total") == [b"value 5000\n", OK]
    client.close()


def test_a_writer_that_watches_sees_its_events_before_its_ok(shared: Process) -> None:
    shared.create("own")
    with shared.select("own") as client:
        client.send(b"watch k\nset k 1\nset k 2\nremove k\nget k\n")
        got = b"".join(client.line() for _ in range(11))
    assert got == (
        b"ok \n"
        b"changed k 1\nchanged-version k 0 1\nok \n"
        b"changed k 2\nchanged-version k 1 2\nok \n"
        b"removed k\nok \n"
        b"value <Empty>\nok \n"
    )


def test_half_close_gets_every_answer(shared: Process) -> None:
    """As ``printf … | nc`` does: commands that wait for a hash included."""
    shared.create("half")
    with shared.tcp() as client:
        client.send(b"use-db half wrong\nuse-db half tok\n")
        client.send(
            b"".join(b"set k%d %d\n" % (n, n) for n in range(3_000)) + b"get k2999\nkeys k299\n"
        )
        client.socket.shutdown(socket.SHUT_WR)
        got = client.rest()
    keys = b",".join(sorted([b"k299"] + [b"k%d" % n for n in range(2990, 3000)]))
    assert got == (
        b"error Invalid token \nok \n" + OK * 3_000 + b"value 2999\nok \nkeys ," + keys + b"\nok \n"
    )


def test_half_close_without_a_last_newline(shared: Process) -> None:
    """A last line without an end was not finished: it is not run, and nothing hangs."""
    with shared.tcp() as client:
        client.send(b"ping\npin")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest() == b"pong\nok \n"


# -- what the log may say --------------------------------------------------------------------------

SECRETS = {
    "admin password": "SECRET-admin-7f3a",
    "database token": "SECRET-token-91bc",
    "user token": "SECRET-user-55de",
    "new token": "SECRET-new-0a1b",
    "set user": "SECRET-setuser-c2c2",
    "wrong password": "SECRET-wrong-e4f8",
    "wrong token": "SECRET-wrongtoken-aa00",
    "broken": "SECRET-broken-1234",
}


def _talk_of_secrets(node: Process) -> None:
    s = SECRETS
    with node.tcp() as admin:
        assert admin.ask(f"auth {USER} {s['wrong password']}")[0] == b"invalid auth\n"
        assert admin.ask(f"auth {USER} {s['admin password']}")[0] == b"valid auth\n"
        for command in (
            f"create-db d {s['database token']}",
            f"create-db e {s['database token']} nonsense",
            f"use-db d {s['wrong token']}",
            f"use-db nope {s['wrong token']}",
            f"use-db d {s['database token']}",
            f"create-user ann {s['user token']}",
            "set-permissions ann rwix *",
            f"set $$user_bob {s['set user']}",
            f"set $$token {s['new token']}",
            f"set-safe $$token 9 {s['new token']}",
            f"increment $$token {s['broken']}",
            f"auht {s['broken']}",
            f"auth {s['broken']}",
            f"rp 1 use-db d {s['broken']}",
            f"replicate d $$token {s['new token']} 1",
            "debug pending-ops",
            "get $$token",
            "snapshot true d",
        ):
            admin.ask(command)
    with node.ws() as user:
        assert user.ask(f"use-db d ann {s['user token']}") == [OK]
        user.socket.sendall(frame(b"auth x " + s["broken"].encode(), opcode=2))
        user.rest()
    node.post(f"auth {USER} {s['wrong password']}; use-db d {s['new token']}; get a")
    with node.tcp() as flood:
        flood.send(f"auth {USER} {s['broken']}".encode() + b"x" * 2_000_000 + b"\nping\n")
        assert b"error " in flood.line()
    node.admin()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_secret_is_logged_or_stored(start: Start, log_format: str) -> None:
    variables = {
        "NUN_PWD": SECRETS["admin password"],
        "NUN_LOG_LEVEL": "debug",
        "NUN_LOG_FORMAT": log_format,
    }
    node = start(variables=variables)
    try:
        _talk_of_secrets(node)
        running = _bytes_of(node.data)
    finally:
        status = node.stop()
    assert status == 0
    stored = running | _bytes_of(node.data)
    assert len(stored) >= 3
    assert any(b"$$user_ann" in content for content in stored.values())
    for what, secret in SECRETS.items():
        assert secret not in node.log, what
        for name, content in stored.items():
            assert secret.encode() not in content, (what, name)
    assert "Traceback" not in node.log
    if log_format == "json":
        records = list(json_lines(node.log))
        assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, records))


def _bytes_of(directory: Path) -> dict[str, bytes]:
    return {f"{one}@{one.stat().st_mtime_ns}": one.read_bytes() for one in directory.iterdir()}


def test_tokens_changed_by_set_are_the_tokens_from_then_on(shared: Process) -> None:
    shared.create("changing")
    with shared.tcp() as admin:
        admin.ask(f"auth {USER} {PASSWORD}")
        admin.ask("use-db changing tok")
        assert admin.ask("watch $$token") == [OK]
        assert admin.ask("set $$token other") == [
            b"changed $$token <hidden>\n",
            b"changed-version $$token 1 <hidden>\n",
            OK,
        ]
        assert admin.ask("get $$token") == [b"value <hidden>\n", OK]
    with shared.tcp() as client:
        assert client.ask("use-db changing tok") == [b"error Invalid token \n"]
        assert client.ask("use-db changing other") == [OK]


# -- where it listens without configuration --------------------------------------------------------


def _listening(node: Process) -> set[tuple[str, int]]:
    """Address (hexadecimal) and port of each listening socket of a process."""
    links = (one.readlink() for one in Path(f"/proc/{node.pid}/fd").iterdir())
    own = {str(link)[8:-1] for link in links if str(link).startswith("socket:")}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in own:
                address, port = words[1].split(":")
                found.add((address, int(port, 16)))
    return found


def test_without_configuration_it_listens_on_loopback_only_and_warns(
    tmp_path: Path, default_ports: tuple[int, ...]
) -> None:
    ports = default_ports
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                pytest.skip(f"port {port} is in use")
    node = Process(tmp_path)
    node.variables = {}
    with node:
        assert _listening(node) == {("0100007F", port) for port in ports}
        assert (tmp_path / "dbs").is_dir()
        (warning,) = [line for line in node.log.splitlines() if " warn " in line]
        assert "No credentials are configured" in warning
        assert node.post("auth nun nun-pwd") == "valid auth\n"
        assert "nun-pwd" not in node.log
        assert node.stop(signal.SIGINT) == 0
