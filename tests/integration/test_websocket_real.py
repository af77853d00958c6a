"""Real WebSocket connections: published clients' habits, a fan-out, a slow reader, TLS, unix."""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import threading
from pathlib import Path

import pytest

from nuntwist.core.client import Client
from nuntwist.core.counters import Counters
from nuntwist.core.delivery import Delivery
from nuntwist.core.limits import Limits
from nuntwist.language.replies import LINES
from tests.integration.conftest import Start
from tests.integration.harness import (
    CLOSE,
    LIMIT,
    OK,
    PASSWORD,
    PING,
    PONG,
    TEXT,
    USER,
    Frames,
    Process,
    barely_reading,
    close_code,
    frame,
    frames_in,
    no_trace_of_trouble,
    wait_until,
)

WATCHERS = 300
CHANGES = 200


def selected(node: Process, database: str) -> Frames:
    client = node.ws()
    assert client.ask(f"use-db {database} tok") == [OK]
    return client


# -- what published clients do ---------------------------------------------------------------------


def test_the_habits_of_the_javascript_client(shared: Process) -> None:
    """It sends without waiting, ends `increment` with a space, and reads frame by frame."""
    shared.create("js")
    with shared.ws() as client, selected(shared, "js") as other:
        for text in (f"auth {USER} {PASSWORD}", "use-db js tok", "watch k", "increment n ", "keys"):
            client.send(text)
        assert client.answer() == [b"valid auth\n", OK]
        assert client.answer() == [OK]
        assert client.answer() == [OK]
        assert client.answer() == [OK]
        listed, closing = client.answer()
        assert listed.startswith(b"keys ,")
        assert {b"n", b"$connections"} <= set(listed[6:-1].split(b","))
        assert closing == OK
        client.send("get n")
        assert client.answer() == [b"value 1\n", OK]
        assert other.ask("set k hello there ") == [OK]
        assert client.text() == b"changed k hello there \n"
        assert client.text() == b"changed-version k 0 hello there \n"
        assert client.ask("get-safe k") == [b"value-version 0 hello there \n", OK]
        assert client.ask('set-safe k 0 {"a": 1}') == [
            b'changed k {"a": 1}\n',
            b'changed-version k 1 {"a": 1}\n',
            OK,
        ]
        assert client.ask("set-safe k 0 late") == [b"error Invalid version! \n"]
        assert client.ask("remove k") == [b"removed k\n", OK]
        assert client.ask("get k") == [b"value <Empty>\n", OK]
        assert client.ask("unwatch k") == [OK]
        assert other.ask("set k quiet") == [OK]
        assert client.ask("get k") == [b"value quiet\n", OK]


def test_several_commands_in_one_frame(shared: Process) -> None:
    shared.create("several")
    with shared.ws() as client:
        client.send("use-db several tok; set a 1 ;get a;;  get b ;")
        assert [client.answer() for _ in range(4)] == [
            [OK],
            [OK],
            [b"value 1 \n", OK],
            [b"value <Empty>\n", OK],
        ]
        assert client.ask("ping") == [b"pong\n", OK]


def test_large_fragmented_and_control_frames(shared: Process) -> None:
    shared.create("large")
    value = b"x" * 1_000_000
    with selected(shared, "large") as client:
        assert client.ask("set big " + value.decode()) == [OK]
        assert client.ask("get big") == [b"value " + value + b"\n", OK]
        parts = frame(b"set sp", TEXT, final=False) + frame(b"are?", PING)
        client.socket.sendall(parts + frame(b"lit 7", 0))
        assert client.next() == (PONG, b"are?")
        assert client.answer() == [OK]
        assert client.ask("get split") == [b"value 7\n", OK]
        # Byte by byte, as a bad network gives it.
        for byte in frame(b"get split"):
            client.socket.sendall(bytes([byte]))
        assert client.answer() == [b"value 7\n", OK]


def test_a_close_is_answered_and_cleans_up(shared: Process) -> None:
    shared.create("closing")
    with selected(shared, "closing") as stays:
        with selected(shared, "closing") as goes:
            assert stays.ask("get $connections") == [b"value 2\n", OK]
            assert stays.ask("watch $connections") == [OK]
            goes.socket.sendall(frame((1000).to_bytes(2, "big"), CLOSE))
            (answer,) = goes.rest()
            assert (answer[0], close_code(answer[1])) == (CLOSE, 1000)
        assert stays.text() == b"changed $connections 1\n"
        # One that goes without a word counts as gone as well.
        selected(shared, "closing").close()
        seen = [stays.text() for _ in range(5)]
        assert [text for text in seen if text.startswith(b"changed ")] == [
            b"changed $connections 2\n",
            b"changed $connections 1\n",
        ]


def test_what_was_sent_before_a_close_is_done_and_answered(node: Process) -> None:
    """Also what waits for a hash, and what waits behind that."""
    node.create("d")
    with node.ws() as client:
        texts = [b"use-db d wrong", b"use-db d tok", *(b"set k%d 1" % n for n in range(300))]
        close = frame((1000).to_bytes(2, "big"), CLOSE)
        client.socket.sendall(b"".join(map(frame, texts)) + close)
        got = client.rest()
    assert got[0] == (TEXT, b"error Invalid token \n")
    assert got[1:-1] == [(TEXT, OK)] * 301
    assert (got[-1][0], close_code(got[-1][1])) == (CLOSE, 1000)
    with node.select("d") as reader:
        assert reader.ask("get k299") == [b"value 1\n", OK]
    no_trace_of_trouble(node.log)


# -- one to many -----------------------------------------------------------------------------------


class Audience(threading.Thread):
    """Reads many connections until each has a number of bytes, or is closed.

    :ivar got: what each received.
    """

    def __init__(self, clients: list[Frames], enough: int) -> None:
        super().__init__(daemon=True)
        self.enough = enough
        self.clients = clients
        self.got = {client: bytearray() for client in clients}
        self.error: BaseException | None = None

    def run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for client in self.clients:
                selector.register(client.socket, selectors.EVENT_READ, client)
            waiting = set(self.clients)
            while waiting:
                ready = selector.select(LIMIT)
                if not ready:
                    return
                for key, _ in ready:
                    data = key.data.socket.recv(1 << 16)
                    self.got[key.data] += data
                    if not data or len(self.got[key.data]) >= self.enough:
                        selector.unregister(key.fileobj)
                        waiting.discard(key.data)


def events_of(values: list[bytes]) -> bytes:
    """The frames of the changes of the key ``k``, in order."""
    out = []
    for version, value in enumerate(values):
        for text in (b"changed k %b\n" % value, b"changed-version k %d %b\n" % (version, value)):
            size = len(text)
            head = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
            out += [b"\x81", head, text]
    return b"".join(out)


def test_every_watcher_gets_every_change_once_and_in_order(node: Process) -> None:
    node.create("d")
    watchers = [selected(node, "d") for _ in range(WATCHERS)]
    for one in watchers:
        assert one.ask("watch k") == [OK]
    values = [b"%d%b" % (n, b"." * (n % 150)) for n in range(CHANGES)]
    expected = events_of(values)
    audience = Audience(watchers, len(expected))
    audience.start()
    with node.select("d") as writer:
        # Half one by one, half without waiting.
        for value in values[: CHANGES // 2]:
            assert writer.ask(f"set k {value.decode()}") == [OK]
        writer.send(b"".join(b"set k %b\n" % value for value in values[CHANGES // 2 :]))
        for _ in values[CHANGES // 2 :]:
            assert writer.answer() == [OK]
    audience.join(3 * LIMIT)
    assert not audience.is_alive()
    assert len(frames_in(expected)[0]) == 2 * CHANGES
    wrong = [len(data) for data in audience.got.values() if data != expected]
    assert not wrong, f"{len(wrong)} of {WATCHERS} got something else than {len(expected)} bytes"
    for one in watchers:
        # Nothing comes after: the next thing is the answer to this.
        one._buffer, one._ready = b"", []
        assert one.ask("ping") == [b"pong\n", OK]
        one.close()
    no_trace_of_trouble(node.log)


def test_a_slow_reader_is_cut_and_others_go_on(start: Start) -> None:
    node = start(variables={"NUN_OUTPUT_LIMIT": "256KiB", "NUN_OUTPUT_HIGH_WATER": "64KiB"})
    node.create("d")
    slow, quick = selected(node, "d"), selected(node, "d")
    lazy = node.select("d")
    barely_reading(slow)
    barely_reading(lazy)
    assert lazy.ask("watch k") == [OK]
    assert slow.ask("watch k") == [OK]
    assert quick.ask("watch k") == [OK]
    values = [b"%d%b" % (n, b"." * 10_000) for n in range(1_000)]
    expected = events_of(values)
    each = len(expected) // len(values)
    audience = Audience([quick], len(expected))
    audience.start()
    with node.select("d") as writer:
        for number, value in enumerate(values):
            assert writer.ask(f"set k {value.decode()}") == [OK]
            # It is quick, even where this process is not.
            read = audience.got[quick]
            wait_until(lambda: len(read) > (number - 4) * each, "the quick one")  # noqa: B023
    audience.join(LIMIT)
    assert audience.got[quick] == expected
    cut = re.compile(r"closed (\S+): \d+ bytes wait for it, the limit is 262144")
    wait_until(lambda: len(set(cut.findall(node.log))) == 2, "the cuts")
    for one in (slow, lazy):
        # What was sent before the cut is a beginning of the whole; then the connection is gone.
        with contextlib.suppress(ConnectionResetError):
            while one.socket.recv(1 << 16):
                pass
    no_trace_of_trouble(node.log)
    assert quick.socket.fileno() > 0
    with node.select("d") as last:
        assert last.ask("get $connections") == [b"value 2\n", OK]


class Outlet:
    """A transport that takes a moment to be gone."""

    aborted = 0

    def abort(self, reason: str) -> None:
        self.aborted += 1


def test_a_slow_reader_is_cut_and_counted_once() -> None:
    """Until its transport is gone, more comes for it; that is no second cut."""
    counters = Counters()
    delivery = Delivery(Limits(output_limit=100), counters, lambda client: None)
    outlet = Outlet()
    outlet.write = lambda data: None  # type: ignore[attr-defined]
    client = Client(outlet, LINES, "peer")  # type: ignore[arg-type]
    client.paused = True
    for _ in range(3):
        delivery.send(client, b"x" * 101)
    assert (outlet.aborted, counters.watchers_closed) == (1, 1)


def test_a_reader_that_pauses_below_the_limit_loses_nothing(node: Process) -> None:
    """It sends many commands and reads nothing for a while: it is not read, and not cut."""
    node.create("d")
    with node.select("d") as writer:
        assert writer.ask("set k " + "v" * 1_000) == [OK]
    with selected(node, "d") as client:
        barely_reading(client)
        # Answers of 20 MB: over every buffer on the way.
        commands = frame(b"get k") * 20_000
        sender = threading.Thread(target=client.socket.sendall, args=(commands,))
        sender.start()
        with node.select("d") as other:
            for _ in range(20):
                assert other.ask("ping") == [b"pong\n", OK]
        expected = [b"value " + b"v" * 1_000 + b"\n", OK]
        for _ in range(20_000):
            assert client.answer() == expected
        sender.join(LIMIT)
    no_trace_of_trouble(node.log)


@pytest.fixture
def many_keys(node: Process) -> Process:
    """A node with a database whose list of keys is longer than the limit of unsent bytes."""
    node.create("d")
    with node.select("d") as client:
        count = 50_000
        client.send(b"".join(b"set key-%06d-%b 1\n" % (n, b"p" * 20) for n in range(count)))
        for _ in range(count):
            client.line()
    return node


def test_a_long_list_is_written_in_parts_while_others_go_on(many_keys: Process) -> None:
    with selected(many_keys, "d") as client, many_keys.select("d") as other:
        client.send("keys")
        client.send("ping")
        for number in range(50):
            assert other.ask(f"set other {number}") == [OK]
        listed, closing = client.answer()
        assert closing == OK
        assert listed.count(b",key-") == 50_000
        assert client.answer() == [b"pong\n", OK]
    no_trace_of_trouble(many_keys.log)


def test_a_browser_page_of_another_kind_of_request_is_refused(shared: Process) -> None:
    """Plain HTTP on the WebSocket port is an answer, not a hang."""
    with socket.create_connection(shared.address("WebSocket"), LIMIT) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 4")


def test_the_log_names_no_client_library_trouble(shared: Process, tmp_path: Path) -> None:
    """A connection that ends in the middle of a handshake leaves no trace of trouble."""
    with socket.create_connection(shared.address("WebSocket"), LIMIT) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nUpgr")
    shared.admin("ping")
    no_trace_of_trouble(shared.log)
