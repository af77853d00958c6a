"""Nothing that a client sends brings a real node down, changes data it may not, or grows it."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
from collections.abc import Callable, Sequence

import pytest

from tests.integration.conftest import Start
from tests.integration.harness import (
    BINARY,
    CLOSE,
    LIMIT,
    OK,
    PASSWORD,
    TEXT,
    USER,
    Process,
    close_code,
    frame,
    no_trace_of_trouble,
    read_to_end,
)

STRINGS = 10_000
"""Random byte strings given to each transport."""
WARMING = 4
"""A node is given a part of that before, so that it has all it needs: one of so many."""
GROWTH = 24 << 20
"""Bytes that the node may grow by while it is given all of that."""

ROLES = (
    b"set-primary set-secoundary election leave debug replicate-snapshot replicate-increment"
).split()
WORDS = (
    b"get set set-safe increment remove keys ls watch unwatch unwatch-all arbiter resolve use"
    b" use-db auth create-db create-user set-permissions snapshot cluster-state metrics-state debug"
    b" list-commands ping help election join leave replicate rp ack replicate-since"
).split()


def rubbish(chance: random.Random, words: Sequence[bytes] = WORDS) -> bytes:
    """A random byte string, half of the time with a word of the language in front."""
    size = chance.choice((0, 1, 2, 5, 20, 100, 300))
    data = chance.randbytes(size)
    kind = chance.randrange(4)
    if kind == 0:
        return data
    if kind == 1:
        return bytes(byte % 95 + 32 for byte in data)
    word = chance.choice(words)
    numbers = (b"-1", b"0", b"9" * 30, b"-9223372036854775809", b"1.5", b"\xff", b"", b"k" * 200)
    return b" ".join([word, *(chance.choice((*numbers, data)) for _ in range(chance.randrange(5)))])


def state_of(node: Process) -> list[bytes]:
    """What must not change: the databases, and the keys and values of one."""
    with node.tcp() as admin:
        admin.ask(f"auth {USER} {PASSWORD}")
        answers = admin.ask("debug list-dbs") + admin.ask("use-db precious tok")
        answers += admin.ask("keys") + admin.ask("get-safe a") + admin.ask("get-safe b")
    return answers


def line_of(data: bytes) -> bytes:
    return data.replace(b"\n", b" ") + b"\n"


def over_tcp(node: Process, chance: random.Random, share: int = 1) -> None:
    """On every second connection with all rights, and the words that only those have."""
    powerful = [*WORDS, *ROLES]
    powerful.remove(b"create-db")
    for number in range(20 // share):
        with node.select("scratch") as client:
            if number % 2:
                assert client.ask(f"auth {USER} {PASSWORD}")[0] == b"valid auth\n"
            words = powerful if number % 2 else WORDS
            strings = [rubbish(chance, words) for _ in range(STRINGS // 20)]
            # Line by line, so that every string is a command of its own, then as it comes.
            half = len(strings) // 2
            client.send(b"".join(map(line_of, strings[:half])) + b"\n".join(strings[half:]) + b"\n")
            client.send(b"use-db scratch tok\nunwatch-all\nping\n")
            client.socket.shutdown(socket.SHUT_WR)
            assert client.rest().endswith(b"pong\nok \n")


def over_ws(node: Process, chance: random.Random, share: int = 1) -> None:
    """Most as text that is valid; some as they are, which ends a connection each."""
    for _ in range(20 // share):
        with node.ws() as client:
            client.ask("use-db scratch tok")
            some = [rubbish(chance) for _ in range(STRINGS // 20 - 20)]
            texts = [one.decode("latin-1").encode() for one in some]
            client.socket.sendall(b"".join(map(frame, texts)) + frame(b"ping") + frame(b"", CLOSE))
            got = client.rest()
            assert got[-3:-1] == [(TEXT, b"pong\n"), (TEXT, OK)]
            assert got[-1][0] == CLOSE
    for number in range(400 // share):
        with node.ws() as client:
            data = rubbish(chance)
            client.socket.sendall(frame(data) if number % 2 else data)
            client.socket.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                read_to_end(client.socket)


def over_http(node: Process, chance: random.Random, share: int = 1) -> None:
    """Most as bodies, several to a connection; some in place of a request."""
    for _ in range(97 // share):
        connection = http.client.HTTPConnection(*node.address("HTTP"), timeout=LIMIT)
        for _ in range(100):
            connection.request("POST", "/", b"use-db scratch tok;" + rubbish(chance))
            answer = connection.getresponse()
            assert answer.status == 200
            answer.read()
        connection.close()
    for _ in range(300 // share):
        with (
            socket.create_connection(node.address("HTTP"), LIMIT) as raw,
            contextlib.suppress(ConnectionError),
        ):
            raw.sendall(rubbish(chance) + b"\r\n\r\n")
            raw.shutdown(socket.SHUT_WR)
            read_to_end(raw)


@pytest.mark.parametrize("give", [over_tcp, over_ws, over_http], ids=lambda one: one.__name__)
def test_ten_thousand_random_strings(start: Start, give: Callable[..., None]) -> None:
    # Many of them are failed logins, which would have to wait in the end.
    node = start(variables={"NUN_FAILED_LOGINS": "0"})
    node.create("precious")
    node.create("scratch")
    with node.select("precious") as client:
        assert client.ask("set a 1") == [OK]
        assert client.ask("set b 2") == [OK]
    before = state_of(node)
    seed = 20_261_123
    give(node, random.Random(seed), WARMING)
    memory = node.memory()
    give(node, random.Random(seed + 1))
    assert node.memory() - memory < GROWTH
    assert state_of(node) == before
    no_trace_of_trouble(node.log)
    assert node.stop() == 0
    node.start()
    assert state_of(node) == before


# -- single cases ----------------------------------------------------------------------------------


def test_tcp_bytes_that_are_no_utf8_are_refused_and_the_connection_lives(shared: Process) -> None:
    shared.create("utf8")
    with shared.select("utf8") as client:
        client.send(b"set k \xff\xfe\nget k\n")
        assert client.line().startswith(b"error ")
        assert client.answer() == [b"value <Empty>\n", OK]


def test_tcp_a_line_over_the_limit_is_refused_and_the_connection_lives(shared: Process) -> None:
    shared.create("lines")
    with shared.select("lines") as client:
        client.send(b"set k " + b"x" * (3 << 20) + b"\nget k\nset k 1\n")
        assert client.line().startswith(b"error ")
        assert client.answer() == [b"value <Empty>\n", OK]
        assert client.answer() == [OK]


def test_tcp_a_line_without_an_end_does_not_grow_the_node(node: Process) -> None:
    with node.tcp() as client:
        before = node.memory()
        for _ in range(64):
            client.send(b"x" * (1 << 20))
        assert node.memory() - before < GROWTH
        client.send(b"\nping\n")
        assert client.line().startswith(b"error ")
        assert client.answer() == [b"pong\n", OK]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(b"get k", BINARY), 1003),
        (frame(b"get \xff"), 1007),
        (frame(b"x" * 200 + b"\xff"), 1007),
        (frame(b"x" * ((1 << 20) + 1)), 1009),
        (b"\x81\x05get k", 1002),
        (frame(b"x", 3), 1002),
        (frame(b"x", 11), 1002),
        (frame(b"x", 0), 1002),
        (b"\xc1" + frame(b"x")[1:], 1002),
        (frame(b"x" * 126, 9), 1002),
        (frame(b"\x00", CLOSE), 1002),
    ],
    ids=[
        "binary", "utf8", "long-utf8", "too-long", "unmasked", "opcode-3", "opcode-11",
        "continuation", "reserved-bit", "long-ping", "short-close",
    ],
)  # fmt: skip
def test_ws_a_wrong_frame_ends_with_its_reason(shared: Process, sent: bytes, code: int) -> None:
    with shared.ws() as client:
        client.socket.sendall(frame(b"ping") + sent)
        assert client.answer() == [b"pong\n", OK]
        opcode, payload = client.next()
        assert (opcode, close_code(payload)) == (CLOSE, code)
        assert client.rest() == []
    assert shared.admin("ping") == "valid auth\n;pong\n"


def test_ws_fragments_over_the_limit_end_with_their_reason(shared: Process) -> None:
    with shared.ws() as client:
        client.socket.sendall(frame(b"x" * 600_000, TEXT, final=False))
        client.socket.sendall(frame(b"x" * 600_000, 0))
        opcode, payload = client.next()
        assert (opcode, close_code(payload)) == (CLOSE, 1009)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_http_a_body_over_the_limit_is_refused(start: Start, chunked: bool) -> None:
    node = start("--max-body", "64KiB")
    node.create("d")
    body = b"use-db d tok; set k " + b"x" * 100_000
    with socket.create_connection(node.address("HTTP"), LIMIT) as raw:
        if chunked:
            head = b"Transfer-Encoding: chunked\r\n\r\n"
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            head = b"Content-Length: %d\r\n\r\n" % len(body)
        with contextlib.suppress(ConnectionError):
            raw.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n" + head + body)
        assert raw.recv(1 << 16).startswith(b"HTTP/1.1 413 ")
    assert node.post("use-db d tok; get k") == "empty;value <Empty>\n"
    no_trace_of_trouble(node.log)


def test_http_other_methods_and_paths_are_answers(shared: Process) -> None:
    for method, path, status in (
        ("POST", "/any/path?x=y", 200),
        ("GET", "/nope", 404),
        ("PUT", "/", 405),
        ("DELETE", "/", 405),
        ("BREW", "/", 405),
    ):
        connection = http.client.HTTPConnection(*shared.address("HTTP"), timeout=LIMIT)
        connection.request(method, path, b"ping")
        assert connection.getresponse().status == status, method
        connection.close()


def test_http_a_request_that_is_never_finished_changes_nothing(shared: Process) -> None:
    shared.create("half-body")
    with socket.create_connection(shared.address("HTTP"), LIMIT) as raw:
        raw.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        raw.sendall(b"use-db half-body tok; set k 1;")
    assert shared.post("use-db half-body tok; get k") == "empty;value <Empty>\n"


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("set-safe k 99999999999999999999999 v", "invalid number: 99999999999999999999999"),
        ("set-safe k 1.5 v", "invalid number: 1.5"),
        ("increment k one", "invalid number: one"),
        ("get", "get must contain a key"),
        ("GET k", "unknown command: GET"),
        ("use-db", "use-db must be followed by a database name and a token"),
        ("", "empty command"),
    ],
)
def test_wrong_arguments_are_clear_errors(shared: Process, command: str, error: str) -> None:
    with shared.tcp() as client:
        assert client.ask(command) == [f"error {error} \n".encode()]
        assert client.ask("ping") == [b"pong\n", OK]


def test_a_number_at_its_end_is_refused_and_changes_nothing(shared: Process) -> None:
    shared.create("ends")
    with shared.select("ends") as client:
        client.ask(f"set n {2**63 - 1}")
        assert client.ask("increment n") == [b"error Key is not numeric \n"]
        assert client.ask("get-safe n") == [f"value-version 0 {2**63 - 1}\n".encode(), OK]


def test_keys_with_odd_characters_come_back_as_they_were(shared: Process) -> None:
    shared.create("odd")
    keys = ["ключ", "🦉", "a;b", "a=b", "tab\there", '"quoted"', "\x01", "a\rb"]
    with shared.select("odd") as client:
        for key in keys:
            answer = client.ask(f"set {key} v{key}")
            assert answer == [OK] or answer[0].startswith(b"error "), key
            if answer == [OK]:
                got = client.ask(f"get {key}")
                assert got[0].startswith(b"value v"), key
