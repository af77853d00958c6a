"""The conversations of published clients, in the bytes that they send, with a real node.

What each client makes of the answers is done here as it does it: matching answers by order, by
the word a message begins with, and by the closing line.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.harness import PASSWORD, USER, Frames, Lines, Process

STORED = '{"_id":1795457080165,"value":"first^try"}'


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with Process(tmp_path_factory.mktemp("clients")) as node:
        node.create("chat", "chat-token")
        node.admin("create-db board board-token arbiter")
        yield node


class JavaScript:
    """The JavaScript client: a frame a command, answers by the order of its promises.

    It does not read the word of a closing line of its own commands with a message: ``value`` and
    ``keys`` settle the first promise, ``ok`` the next one of those that wait for it.
    """

    def __init__(self, node: Process, database: str, token: str) -> None:
        self.frames: Frames = node.ws()
        self.promises: deque[str] = deque()
        self.events: list[str] = []
        self.asked: list[str] = []
        self.conflicts: list[list[str]] = []
        self.send(f"use-db {database} {token}", "use-db")
        assert self.settle("use-db") == ""

    def send(self, command: str, *promises: str) -> None:
        self.frames.send(command)
        self.promises.extend(promises)

    def settle(self, kind: str) -> str:
        """Read until a promise of this kind is settled; gives what it is settled with."""
        while True:
            text = self.frames.next()[1].decode()
            word, _, rest = text.rstrip("\n").partition(" ")
            if word in ("value", "value-version", "keys"):
                settled = self.promises.popleft()
                self.asked.append(settled)
            elif word == "ok":
                waits = self.promises and self.promises[0].endswith(("-sent", "set", "use-db"))
                settled = self.promises.popleft() if waits else ""
            else:
                settled = ""
                if word == "changed-version":
                    self.events.append(rest)
                elif word == "resolve":
                    self.conflicts.append(rest.split(" "))
            if settled == kind:
                return rest


def test_the_javascript_client(node: Process) -> None:
    writer, watcher = (JavaScript(node, "chat", "chat-token") for _ in range(2))
    watcher.send("watch topic", "watch-sent")
    watcher.settle("watch-sent")
    watcher.send("get-safe topic", "get-safe", "get-safe-sent")
    assert watcher.settle("get-safe") == "1 <Empty>"
    watcher.settle("get-safe-sent")
    writer.send(f"set-safe topic -1 {STORED}", "set")
    writer.settle("set")
    watcher.send("get topic", "get")
    assert watcher.settle("get") == STORED
    assert watcher.events == [f"topic 0 {STORED}"]
    # It sends the space of an argument it does not have.
    writer.send("increment visits ")
    writer.send("increment visits 4")
    writer.send("keys ", "keys", "keys-sent")
    assert writer.settle("keys") == ",$connections,topic,visits"
    writer.settle("keys-sent")
    writer.send("keys vis*", "keys", "keys-sent")
    assert writer.settle("keys") == ",visits"
    writer.settle("keys-sent")
    writer.send("remove topic")
    writer.send("get-safe topic", "get-safe", "get-safe-sent")
    assert writer.settle("get-safe") == "1 <Empty>"


def test_the_javascript_client_as_an_arbiter(node: Process) -> None:
    arbiter, writer = (JavaScript(node, "board", "board-token") for _ in range(2))
    arbiter.send("arbiter")
    arbiter.send("get-safe note", "get-safe", "get-safe-sent")
    arbiter.settle("get-safe-sent")
    writer.send("set-safe note 5 one", "set")
    writer.settle("set")
    writer.send("set-safe note 2 two", "set")
    arbiter.send("get note", "get")
    arbiter.settle("get")
    while not arbiter.conflicts:
        arbiter.send("get note", "get")
        arbiter.settle("get")
    operation, database, version, key, *values = arbiter.conflicts[0]
    assert (database, version, key, values) == ("board", "6", "note", ["one", "two"])
    arbiter.send(f"resolve {operation} {database} {key} {version} merged")
    arbiter.send("get-safe note", "get-safe", "get-safe-sent")
    assert arbiter.settle("get-safe") == "7 merged"


class LineClient:
    """The clients over TCP: a command a line, then everything up to the closing line.

    :param greeted: whether the client reads the greeting before it sends.
    """

    def __init__(self, lines: Lines, ending: str = "\n") -> None:
        self.lines = lines
        self.ending = ending

    def command(self, text: str) -> list[str]:
        self.lines.send((text + self.ending).encode())
        return [line.decode() for line in self.lines.answer()]


@pytest.mark.parametrize("ending", ["\n", ";\n", "\r\n"], ids=["lf", "semicolon", "crlf"])
def test_clients_over_tcp(node: Process, ending: str) -> None:
    admin = LineClient(node.tcp(), ending)
    assert admin.command(f"auth {USER} {PASSWORD}") == ["valid auth\n", "ok \n"]
    name = "tcp" + {"\n": "1", ";\n": "2", "\r\n": "3"}[ending]
    assert admin.command(f"create-db {name} secret newer") == ["create-db success\n", "ok \n"]
    client, watcher = (LineClient(node.tcp(), ending) for _ in range(2))
    for one in (client, watcher):
        assert one.command(f"use {name} wrong") == ["error Invalid token \n"]
        assert one.command(f"use {name} secret") == ["ok \n"]
    assert watcher.command("watch some") == ["ok \n"]
    assert client.command("set some a value of words") == ["ok \n"]
    assert client.command("get some") == ["value a value of words\n", "ok \n"]
    assert client.command("get none") == ["value <Empty>\n", "ok \n"]
    assert client.command("set-safe some 0 safe") == ["ok \n"]
    assert client.command("increment count") == ["ok \n"]
    assert client.command("ls co*") == ["keys ,count\n", "ok \n"]
    assert client.command("remove some") == ["ok \n"]
    events = [watcher.lines.line().decode() for _ in range(5)]
    assert events == [
        "changed some a value of words\n",
        "changed-version some 0 a value of words\n",
        "changed some safe\n",
        "changed-version some 1 safe\n",
        "removed some\n",
    ]


def test_a_client_that_sends_before_it_has_read_anything(node: Process) -> None:
    lines = node.tcp()
    lines.send(b"use-db chat chat-token\nset early 1\nwatch early\nset early 2\nget early\n")
    got = [line for _ in range(5) for line in lines.answer()]
    assert got == [
        b"ok \n",
        b"ok \n",
        b"ok \n",
        b"changed early 2\n",
        b"changed-version early 1 2\n",
        b"ok \n",
        b"value 2\n",
        b"ok \n",
    ]


def test_commands_joined_in_one_frame(node: Process) -> None:
    frames = node.ws()
    frames.send("use-db chat chat-token;set joined 1; get joined;")
    assert [frames.next()[1].decode() for _ in range(4)] == ["ok \n", "ok \n", "value 1\n", "ok \n"]


def test_the_exporter(node: Process) -> None:
    text = node.admin("metrics-state")
    assert text.startswith("valid auth\n;metrics-state ")
    found = dict(re.findall(r"(\w+): ([\d.]+)", text))
    assert set(found) == {
        "pending_ops",
        "op_log_file_size",
        "op_log_count",
        "replication_time_moving_avg",
        "get_query_time_moving_avg",
    }
    assert int(found["op_log_count"]) > 0


def test_a_session_over_http_lives_for_one_request(node: Process, tmp_path: Path) -> None:
    assert node.post("use-db chat chat-token; set web 1; get web") == "empty;empty;value 1\n"
    assert "no-db-selected" in node.post("get web")
