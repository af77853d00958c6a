"""The conversations of published clients, in the bytes that they send, with a real node.

None of them is installed here: each class below sends what one client sends, waits no more than
it does, and makes of the answers what it makes of them (how it splits a message, and how it finds
the request that the message belongs to).  Their weak points are part of it: a client that
takes the next answer for its own shows at once if a node sends one too many.
"""

from __future__ import annotations

import json
import re
import socket
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from tests.integration.harness import CLOSE, LIMIT, PASSWORD, TEXT, USER, Frames, Process, frame

T = TypeVar("T")
EMPTY = "<Empty>"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with Process(tmp_path_factory.mktemp("clients")) as node:
        yield node


class OverWebSocket:
    """What they have in common: a text frame a command, and a handler of what comes in."""

    def __init__(self, node: Process) -> None:
        self.node = node
        self.frames: Frames = node.ws()
        self.log: list[str] = []

    def send(self, command: str) -> None:
        self.frames.send(command)

    def handle(self, message: str) -> None:
        raise NotImplementedError

    def until(self, look: Callable[[], T | None]) -> T:
        """Handle messages until there is something; the socket has a time limit."""
        while (found := look()) is None:
            message = self.frames.text().decode()
            self.log.append(message)
            self.handle(message)
        return found


# -- JavaScript ------------------------------------------------------------------------------


class Promise:
    """A request of the JavaScript client that waits for its answer."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.result: object = None
        self.settled = False
        self.refused = ""


class JavaScript(OverWebSocket):
    """The client `nun-db`: a queue of promises, settled from its head, whatever the key.

    ``ok`` settles the head only where that waits for one, so a message or an ``ok`` too many or
    too few moves every later answer to the wrong promise.
    """

    WAIT_FOR_OK = ("set", "use-db", "get-safe-sent", "keys-sent", "watch-sent")
    REFUSALS = ("permission denied", "error no-db-selected", "Invalid token")

    def __init__(self, node: Process, database: str, *credentials: str) -> None:
        super().__init__(node)
        self.queue: deque[Promise] = deque()
        self.watchers: dict[str, list[tuple[str, object]]] = {}
        self.conflicts: list[tuple[str, str, int, str, list[str]]] = []
        self.ids = 0
        self.database, self.credentials = database, credentials
        self.ready = self.ask(f"use-db {database} {' '.join(credentials)}", "use-db")

    def ask(self, command: str, *kinds: str) -> Promise:
        self.send(command)
        promises = [Promise(kind) for kind in kinds]
        self.queue.extend(promises)
        return promises[0]

    def wait(self, promise: Promise) -> object:
        self.until(lambda: True if promise.settled else None)
        assert not promise.refused, promise.refused
        return promise.result

    def settle(self, result: object = None, refused: str = "") -> None:
        promise = self.queue.popleft()
        promise.result, promise.settled, promise.refused = result, True, refused

    @staticmethod
    def parsed(value: str) -> object:
        """An object of the client's own, with the spaces put back, or the text as it is."""
        try:
            found = None if value == EMPTY else json.loads(value.replace("^", " "))
        except ValueError:
            return value
        return found["value"] if isinstance(found, dict) and found.get("value") else found

    def handle(self, message: str) -> None:
        parts = re.split(r"\s(.+)|\n", message, maxsplit=1)
        word, rest = parts[0].strip(), parts[1] or ""
        if word == "value":
            self.settle(self.parsed(rest))
        elif word == "value-version":
            version, _, value = rest.partition(" ")
            self.settle((int(version), self.parsed(value)))
        elif word == "keys":
            self.settle([key for key in rest.split(",") if key])
        elif word == "ok":
            if self.queue and self.queue[0].kind in self.WAIT_FOR_OK:
                self.settle()
        elif word == "error" and rest.strip() in self.REFUSALS:
            self.settle(refused=rest.strip())
        elif word == "changed-version":
            key, version, value = rest.split(" ", 2)
            if key in self.watchers:
                self.watchers[key].append((version, self.parsed(value)))
        elif word == "resolve":
            operation, database, shown, key, *values = rest.split(" ")
            self.conflicts.append((operation, database, int(shown), key, values))

    def value(self, value: object) -> str:
        self.ids += 1
        text = json.dumps({"_id": 1795457080165 + self.ids, "value": value}, separators=(",", ":"))
        return re.sub(r"\s", "^", text)

    def set(self, key: str, value: object, version: int = -1) -> Promise:
        return self.ask(f"set-safe {key} {version} {self.value(value)}", "set")

    def get(self, key: str) -> object:
        return self.wait(self.ask(f"get {key}", "get"))

    def both(self, promise: Promise) -> object:
        """Wait for a message and for the ``ok`` behind it, which has a promise of its own."""
        sent = self.queue[-1]
        self.wait(promise)
        self.wait(sent)
        return promise.result

    def get_safe(self, key: str) -> object:
        return self.both(self.ask(f"get-safe {key}", "get-safe", "get-safe-sent"))

    def keys(self, pattern: str = "") -> object:
        return self.both(self.ask(f"keys {pattern}", "keys", "keys-sent"))

    def watch(self, key: str) -> Promise:
        self.watchers.setdefault(key, [])
        return self.ask(f"watch {key}", "watch-sent")

    def connect_again(self) -> None:
        """As after a lost connection: the watches again, without waiting for their answers."""
        self.frames = self.node.ws()
        self.ready = self.ask(f"use-db {self.database} {' '.join(self.credentials)}", "use-db")
        self.wait(self.ready)
        for key in self.watchers:
            self.send(f"watch {key}")


def test_javascript_sets_gets_watches_and_lists(node: Process) -> None:
    node.create("chat", "chat-token")
    writer, watcher = (JavaScript(node, "chat", "chat-token") for _ in range(2))
    # It may ask before it has been let in; nothing waits for an answer here.
    watched, read = watcher.watch("topic"), watcher.ask("get topic", "get")
    assert watcher.wait(read) is None
    assert watched.settled
    first, second = writer.set("topic", "with two spaces"), writer.set("topic", {"a": [1, 2]})
    writer.wait(second)
    assert first.settled
    assert watcher.get("topic") == {"a": [1, 2]}
    assert watcher.watchers["topic"] == [("0", "with two spaces"), ("1", {"a": [1, 2]})]
    assert watcher.get_safe("topic") == (1, {"a": [1, 2]})
    # It sends the space of an argument that it does not have.
    writer.send("increment visits ")
    writer.send("increment visits 4")
    assert writer.keys() == ["$connections", "topic", "visits"]
    assert writer.keys("vis*") == ["visits"]
    assert writer.keys("nothing*") == []
    assert writer.get("visits") == 5
    assert writer.get("$connections") == 2
    writer.send("remove topic")
    assert writer.get_safe("topic") == (1, None)
    assert watcher.get("topic") is None
    assert len(watcher.watchers["topic"]) == 2, "it takes no part in a removal"
    assert not writer.queue
    assert not watcher.queue


def test_javascript_goes_on_after_a_lost_connection(node: Process) -> None:
    node.create("again", "t")
    writer, watcher = (JavaScript(node, "again", "t") for _ in range(2))
    watcher.wait(watcher.watch("k"))
    watcher.frames.close()
    writer.wait(writer.set("k", "unseen"))
    watcher.connect_again()
    assert watcher.get("k") == "unseen"
    writer.wait(writer.set("k", "seen"))
    assert watcher.get("k") == "seen"
    assert watcher.watchers["k"] == [("1", "seen")]


def test_javascript_is_refused(node: Process) -> None:
    node.create("closed", "t")
    stranger = JavaScript(node, "closed", "wrong")
    with pytest.raises(AssertionError, match="Invalid token"):
        stranger.wait(stranger.ready)
    # As its own script makes users, one request for all.
    commands = (
        "use closed t",
        "create-user client client-pwd",
        "set-permissions client r *|rwx client-*",
    )
    assert node.admin(*commands) == "valid auth\n;empty;empty;empty"
    client = JavaScript(node, "closed", "client", "client-pwd")
    client.wait(client.set("client-1", 1))
    with pytest.raises(AssertionError, match="permission denied"):
        client.wait(client.set("other", 1))
    assert client.get("client-1") == 1, "the answers are in step after a refusal"
    assert not client.queue


def test_javascript_is_the_arbiter(node: Process) -> None:
    """Two conflicts of a key: the second shows the key of the first, which the client watches."""
    node.admin("create-db board board-token arbiter")
    arbiter, writer, other = (JavaScript(node, "board", "board-token") for _ in range(3))
    arbiter.wait(arbiter.ready)
    arbiter.send("arbiter")
    assert arbiter.get("note") is None
    writer.wait(writer.set("note", "one", 5))
    other.send(f"set-safe note 2 {other.value('two')}")
    other.send(f"set-safe note 3 {other.value('three')}")
    arbiter.until(lambda: arbiter.conflicts[1:] or None)
    (operation, *shown, values), (second, *shown_second, later) = arbiter.conflicts
    assert shown == ["board", 6, "note"]
    assert [arbiter.parsed(value) for value in values] == ["one", "two"]
    assert shown_second == ["board", 4, "note"]
    assert later[0] == f"$conflicts_note_{operation}"
    arbiter.wait(arbiter.watch(later[0]))
    arbiter.send(f"resolve {operation} board note 6 {arbiter.value('one+two')}")
    seen = arbiter.until(lambda: arbiter.watchers[later[0]] or None)
    text = seen[0][1]
    assert isinstance(text, str)
    word, _, resolved = text.partition(" ")
    assert (word, arbiter.parsed(resolved)) == ("resolved", "one+two")
    assert arbiter.get_safe("note") == (-2, "one+two")
    arbiter.send(f"resolve {second} board note 4 {arbiter.value('all')}")
    assert arbiter.get_safe("note") == (7, "all")
    writer.wait(writer.set("note", "on"))
    assert writer.get_safe("note") == (8, "on")


# -- Python ----------------------------------------------------------------------------------


class Python(OverWebSocket):
    """The client `nun-db-py`: it waits for no ``ok``, and one answer settles all of a kind.

    Its listener ends for good at a message with one of ``DEADLY`` in it.
    """

    DEADLY = ("no-db-selected", "Not a valid database name", "invalid auth")

    def __init__(self, node: Process) -> None:
        super().__init__(node)
        self.answers: dict[str, object] = {}
        self.watchers: dict[str, list[str]] = {}
        self.send(f"auth {USER} {PASSWORD}")
        self.send("create-db pydb pytok")
        self.send("use-db pydb pytok")

    def handle(self, message: str) -> None:
        parts = [part for part in re.split(r"[ \n]+", message) if part and ":" not in part]
        assert not any(text in message for text in self.DEADLY), message
        if parts[0] == "dbs-list":
            self.answers["dbs-list"] = parts[1:]
        elif parts[0] == "keys":
            listed = parts[1] if parts[1:] else ""
            self.answers["keys"] = [key for key in listed.split(",") if key]
        elif parts[0] == "value-version":
            int(parts[1])
            self.answers["value-version"] = parts[2]
        elif parts[0] == "changed" and parts[1] in self.watchers:
            self.watchers[parts[1]].append(parts[-1])

    def ask(self, command: str, word: str) -> object:
        self.answers.pop(word, None)
        self.send(command)
        return self.until(lambda: self.answers.get(word))


def test_python(node: Process) -> None:
    writer, watcher = Python(node), Python(node)
    watcher.watchers["km"] = []
    watcher.send("watch km")
    assert watcher.ask("get-safe km", "value-version") == EMPTY
    for number in range(2, 6):
        writer.send(f"set-safe km -1 {number}")
    writer.send("increment age 17")
    assert writer.ask("get-safe age", "value-version") == "17"
    assert watcher.ask("get-safe km", "value-version") == "5"
    assert watcher.watchers["km"] == ["2", "3", "4", "5"]
    watcher.send("unwatch km")
    assert watcher.ask("get-safe km", "value-version") == "5"
    writer.send("remove km")
    assert writer.ask("get-safe km", "value-version") == EMPTY
    assert watcher.ask("keys ", "keys") == ["$$token", "$connections", "age"]
    assert watcher.ask("keys a*", "keys") == ["age"]
    assert watcher.ask("keys *e", "keys") == ["age"]
    assert watcher.ask("keys g", "keys") == ["age"]
    databases = watcher.ask("debug list-dbs", "dbs-list")
    assert isinstance(databases, list)
    assert {"$admin", "pydb"} <= set(databases)
    assert watcher.watchers["km"] == ["2", "3", "4", "5"], "an event after unwatch"


# -- Go --------------------------------------------------------------------------------------


class Go(OverWebSocket):
    """The client `nun-db-go`: one queue for all reads, values cut at their first space."""

    def __init__(self, node: Process, database: str) -> None:
        super().__init__(node)
        self.pending: deque[list[object]] = deque()
        self.watchers: dict[str, list[str]] = {}
        self.send(f"auth {USER} {PASSWORD}")
        self.send(f"create-db {database} pass")
        self.send(f"use-db {database} pass")

    def handle(self, message: str) -> None:
        word, *arguments = message.strip().strip("[]").split()
        if word == "value":
            self.pending.popleft().append(arguments[0])
        elif word == "keys":
            keys = arguments[0].split(",")
            hidden = ("$$token", "$connections")
            self.pending.popleft().append([key for key in keys if key not in hidden][1:])
        elif word == "changed" and arguments[0] in self.watchers:
            self.watchers[arguments[0]].append(arguments[1])

    def ask(self, command: str) -> object:
        answer: list[object] = []
        self.pending.append(answer)
        self.send(command)
        return self.until(lambda: answer or None)[0]


def test_go(node: Process) -> None:
    writer, watcher = Go(node, "godb"), Go(node, "godb")
    watcher.watchers["foo"] = []
    watcher.send("watch foo")
    assert watcher.ask("get foo") == EMPTY
    writer.send("set foo bar")
    writer.send("set user:1 x")
    writer.send("increment counter 1")
    writer.send("increment counter -3")
    assert writer.ask("get counter") == "-2"
    assert watcher.ask("get foo") == "bar"
    assert watcher.watchers["foo"] == ["bar"]
    assert writer.ask("keys") == ["counter", "foo", "user:1"]
    assert writer.ask("keys user:") == ["user:1"]
    assert writer.ask("keys *o") == ["foo"]
    writer.send("remove foo")
    assert writer.ask("get foo") == EMPTY
    watcher.send("unwatch-all")
    assert watcher.ask("get foo") == EMPTY
    writer.send("set foo again")
    assert writer.ask("get foo") == "again"
    assert watcher.ask("get foo") == "again"
    assert watcher.watchers["foo"] == ["bar"]


# -- Java ------------------------------------------------------------------------------------


class Java(OverWebSocket):
    """The client `nundbjava`: it cuts a message at its first white space, and only there."""

    def __init__(self, node: Process) -> None:
        super().__init__(node)
        self.answers: dict[str, object] = {}
        self.events: list[str] = []
        self.send(f"auth {USER} {PASSWORD}")

    def handle(self, message: str) -> None:
        assert "invalid auth" not in message
        word, rest = re.split(r"\s+", message, maxsplit=1)
        if word == "dbs-list":
            self.answers[word] = [line.split(" : ")[0] for line in rest.split("\n")]
        elif word == "keys":
            self.answers[word] = [key for key in rest.split(",") if key]
        elif word == "value-version":
            version, value = re.split(r"\s+", rest, maxsplit=1)
            self.answers[word] = (int(version), value)
        elif word == "changed":
            self.events.append(rest.split()[-1])

    def ask(self, command: str, word: str) -> object:
        self.answers.pop(word, None)
        self.send(command)
        return self.until(lambda: self.answers.get(word))


def test_java(node: Process) -> None:
    client = Java(node)
    databases = client.ask("debug list-dbs", "dbs-list")
    assert isinstance(databases, list)
    assert "$admin" in databases
    client.send("create-db javadb token")
    client.send("use-db javadb token")
    client.send("watch test")
    client.send("set-safe test -1 123")
    client.send("set-safe test -1 with space")
    assert client.ask("get-safe test", "value-version") == (1, "with space\n")
    assert client.events == ["123", "space"], "with both words in one event, and none twice"
    client.send("increment n 2")
    assert client.ask("get-safe n", "value-version") == (0, "2\n")
    # The newline stays with the last key: whatever follows a key is taken for a part of it.
    assert client.ask("keys ", "keys") == ["$$token", "$connections", "n", "test\n"]
    assert client.ask("keys te*", "keys") == ["test\n"]
    client.send("snapshot false javadb")
    client.send("remove test")
    assert client.ask("get-safe test", "value-version") == (1, f"{EMPTY}\n")
    client.send("unwatch-all")
    client.send("set-safe test -1 last")
    assert client.ask("get-safe test", "value-version") == (0, "last\n")
    assert client.events == ["123", "space"]
    assert not [line for line in client.log if line.startswith("error")]


# -- Rust ------------------------------------------------------------------------------------


def rust(node: Process, database: str, command: str) -> str:
    """One operation of the Rust client: a connection, two frames at once, up to ``value``.

    It closes the connection with "going away" as soon as it has that.
    """
    with node.ws() as frames:
        frames.socket.sendall(
            frame(f"use-db {database} ann ann-pwd".encode()) + frame(command.encode())
        )
        while True:
            line = frames.text().decode().split("\n")[0].strip()
            if line != "ok":
                break
        frames.socket.sendall(frame((1001).to_bytes(2, "big"), CLOSE))
        assert frames.rest()[-1] == (CLOSE, (1001).to_bytes(2, "big"))
    word, _, value = line.partition(" ")
    assert word == "value", line
    return value


def test_rust(node: Process) -> None:
    node.create("rustdb")
    node.admin("use-db rustdb tok", "create-user ann ann-pwd", "set-permissions ann rwix *")
    assert rust(node, "rustdb", "get k") == EMPTY
    with node.ws() as watcher:
        watcher.send("use-db rustdb ann ann-pwd")
        watcher.send("watch k")
        assert watcher.answer() + watcher.answer() == [b"ok \n", b"ok \n"]
        assert rust(node, "rustdb", "set k two words;get k") == "two words"
        assert rust(node, "rustdb", "get k") == "two words"
        event = watcher.text()
        if event.startswith(b"changed "):
            event = watcher.text()
        word, key, version, value = event.decode().split("\n")[0].strip().split(" ", 3)
        assert (word, key, int(version), value) == ("changed-version", "k", 0, "two words")


# -- the exporter, over HTTP -----------------------------------------------------------------


def test_the_exporter(node: Process) -> None:
    """It takes all after the first semicolon, then the second word between each two commas."""
    text = node.post(f"auth {USER} {PASSWORD};metrics-state").split(";", 1)[1]
    word, figures = text.split(" ", 1)
    assert word == "metrics-state"
    names, numbers = zip(*(part.strip().split(" ")[:2] for part in figures.split(",")), strict=True)
    assert names == (
        "pending_ops:",
        "op_log_file_size:",
        "op_log_count:",
        "replication_time_moving_avg:",
        "get_query_time_moving_avg:",
    )
    # What stands behind the fifth is not looked at, but each must be a number as it stands.
    assert all(float(number) >= 0 for number in numbers)
    assert float(numbers[2]) > 0


# -- programs of one's own, over TCP -----------------------------------------------------------


@pytest.mark.parametrize("ending", ["\n", ";\n", "\r\n"], ids=["lf", "semicolon", "crlf"])
def test_a_command_a_line_over_tcp(node: Process, ending: str) -> None:
    name = "tcp" + str(len(ending)) + str(ord(ending[0]))
    node.create(name, "secret")
    commands = (
        f"use {name} wrong",
        f"use {name} secret",
        "watch some",
        "set some a value of words",
        "get some",
        "set-safe some 0 safe",
        "increment count",
        "ls co*",
        "remove some",
    )
    client = socket.create_connection(node.address("TCP"), LIMIT)
    # All before the greeting has been read, and no more to come: as `printf … | nc -N` does.
    client.sendall("".join(command + ending for command in commands).encode())
    client.shutdown(socket.SHUT_WR)
    with client, client.makefile("rb") as answers:
        got = answers.read().decode().splitlines(keepends=True)
    assert got == [
        "ok \n",
        "error Invalid token \n",
        "ok \n",
        "ok \n",
        "changed some a value of words\n",
        "changed-version some 0 a value of words\n",
        "ok \n",
        "value a value of words\n",
        "ok \n",
        "changed some safe\n",
        "changed-version some 1 safe\n",
        "ok \n",
        "ok \n",
        "keys ,count\n",
        "ok \n",
        "removed some\n",
        "ok \n",
    ]


def test_commands_joined_in_one_frame(node: Process) -> None:
    node.create("joined")
    with node.ws() as frames:
        frames.send("use-db joined tok;set joined 1; get joined;; keys j*;")
        expected = [b"ok \n", b"ok \n", b"value 1\n", b"ok \n", b"keys ,joined\n", b"ok \n"]
        assert [frames.next() for _ in expected] == [(TEXT, text) for text in expected]
