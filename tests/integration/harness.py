"""Real nodes and plain blocking clients for the integration tests.

A :class:`Process` is one ``twistd nundb`` in a child process; its log goes to a file, so no full
pipe can hold it up, and its listeners take free ports (``tcp:0``), read from the log.  The
clients know nothing of nuntwist: sockets, lines, and WebSocket frames made by hand, so a fault
in a library that the node uses too is not mirrored here.  Whatever waits has a time limit.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.integration.forkserver import ROOT, Forked, fork_node

TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")
USER, PASSWORD = "admin", "s3cr3t-pwd"
LIMIT = 60.0
"""Seconds after which a wait has failed; nothing waits that long on a healthy machine, and one with
a disk that takes a second for each thing is to fail nothing."""
LOOK = 0.01
"""Seconds between two looks at a condition that cannot be waited for."""
OK = b"ok \n"
ANY_PORT = "tcp:0:interface=127.0.0.1"

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def wait_until(condition: Callable[[], object], what: str, limit: float = LIMIT) -> None:
    """Return when a condition holds.

    :raise AssertionError: it did not hold within ``limit`` seconds.
    """
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {limit:g} s in vain for {what}")
        time.sleep(LOOK)


def clean_environment(**variables: str) -> dict[str, str]:
    """The environment without settings of a node, then ``variables``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NUN_")}
    # Where this is set, each process would compile all modules anew.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**kept, "PYTHONPATH": str(ROOT), **variables}


def run_to_end(
    *options: str, cwd: Path, before: Sequence[str] = (), **variables: str
) -> tuple[int, str, str]:
    """Run a node that is expected to end by itself: status, standard output, standard error."""
    done = subprocess.run(
        [*before, *TWISTD, "-n", "--pidfile=", "nundb", *options],
        cwd=cwd,
        env=clean_environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    return done.returncode, done.stdout, done.stderr


class Process:
    """A node in a child process; a context manager that kills it in the end.

    :param directory: where it runs and logs; its data are in ``directory/dbs``.
    :param options: of ``twistd nundb``.
    :param variables: its environment; ``NUN_…`` not named here have the defaults below.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        variables: dict[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.data = directory / "dbs"
        self.options = options
        self.variables = {
            "NUN_USER": USER,
            "NUN_PWD": PASSWORD,
            "NUN_WS_ADDR": ANY_PORT,
            "NUN_HTTP_ADDR": ANY_PORT,
            "NUN_TCP_ADDR": ANY_PORT,
            "NUN_DBS_DIR": str(self.data),
            **(variables or {}),
        }
        self._before = tuple(before)
        self.child: subprocess.Popen[bytes] | Forked | None = None
        self.starts = 0
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def log_path(self) -> Path:
        """The log of the last start."""
        return self.directory / f"log-{self.starts}"

    @property
    def log(self) -> str:
        """What it has logged since its last start."""
        return self.log_path.read_text(errors="surrogateescape")

    @property
    def pid(self) -> int:
        assert self.child is not None
        return self.child.pid

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.child is not None:
            self.kill()
        if error is not None:
            print(f"--- the log of the node:\n{self.log[-4000:]}")

    def start(self) -> Self:
        """Start it, and return when it says that it is ready."""
        self.launch()
        return self.wait_until_ready()

    def launch(self) -> None:
        """Start it."""
        self.starts += 1
        given = {k: v for k, v in self.variables.items() if v is not None}
        environment = clean_environment(**given)
        arguments = ["-n", "--pidfile=", "nundb", *self.options]
        with self.log_path.open("wb") as log:
            if not self._before and all(name.startswith("NUN_") for name in given):
                self.child = fork_node(arguments, environment, self.directory, log)
                return
            self.child = subprocess.Popen(
                [*self._before, *TWISTD, *arguments],
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_until_ready(self) -> Self:
        """Return when it says that it is ready."""
        wait_until(self._ready_or_ended, "the node to be ready")
        assert self.child.poll() is None, self.log
        return self

    def _ready_or_ended(self) -> bool:
        assert self.child is not None
        return "is ready" in self.log or self.child.poll() is not None

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        assert self.child is not None
        self.child.send_signal(number)

    def wait(self, limit: float = LIMIT) -> int:
        """Give its exit status when it has ended."""
        assert self.child is not None
        try:
            status = self.child.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the node did not end in {limit:g} s:\n{self.log}") from None
        self.child = None
        return status

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it in order; gives the exit status."""
        self.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """End it without a warning."""
        self.send_signal(signal.SIGKILL)
        self.wait()

    def address(self, what: str) -> tuple[str, int]:
        """Where it listens, from its log.

        :param what: TCP, WebSocket or HTTP.
        """
        pattern = rf"listening for {what} on (?:\[([0-9a-f:]+)\]|([0-9.]+)):(\d+)\b"
        found = re.search(pattern, self.log)
        assert found is not None, self.log
        return found[1] or found[2], int(found[3])

    def memory(self) -> int:
        """Its resident memory, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) << 10

    # -- clients -----------------------------------------------------------------------------

    def tcp(self) -> Lines:
        """Connect over TCP; the greeting is taken."""
        return Lines(socket.create_connection(self.address("TCP"), LIMIT))

    def ws(self) -> Frames:
        """Connect over WebSocket."""
        return Frames(socket.create_connection(self.address("WebSocket"), LIMIT))

    def post(self, body: bytes | str) -> str:
        """Run commands over HTTP."""
        return post(self.address("HTTP"), body)

    def admin(self, *commands: str) -> str:
        """Run commands over HTTP as admin."""
        return self.post("; ".join([f"auth {USER} {PASSWORD}", *commands]))

    def create(self, name: str, token: str = "tok") -> None:
        """Make a database."""
        answer = self.admin(f"create-db {name} {token}")
        assert answer == "valid auth\n;create-db success\n", answer

    def select(self, name: str, token: str = "tok") -> Lines:
        """Connect over TCP and select a database."""
        client = self.tcp()
        assert client.ask(f"use-db {name} {token}") == [b"ok \n"]
        return client


def barely_reading(client: Lines | Frames) -> None:
    """Let the system keep little of what comes for a client that does not read.

    On some machines it would keep tens of megabytes.
    """
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)


def post(address: tuple[str, int], body: bytes | str) -> str:
    """POST commands; gives the body of the answer, which must be a 200."""
    connection = http.client.HTTPConnection(*address, timeout=LIMIT)
    try:
        connection.request("POST", "/", body.encode() if isinstance(body, str) else body)
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status == 200, (answer.status, text)
        return text
    finally:
        connection.close()


def is_closing(line: bytes) -> bool:
    """Whether a line is the last of an answer."""
    return line == OK or (line.startswith(b"error ") and line.endswith(b" \n"))


class Lines:
    """A client over TCP (or a unix socket, or TLS).

    :param connection: fresh; the greeting is read from it.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.settimeout(LIMIT)
        self._buffer = b""
        assert self.line() == OK

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def line(self) -> bytes:
        """Wait for a line; an empty one at the end of the connection."""
        while True:
            line, end, rest = self._buffer.partition(b"\n")
            if end:
                self._buffer = rest
                return line + end
            data = self.socket.recv(1 << 16)
            if not data:
                rest, self._buffer = self._buffer, b""
                return rest
            self._buffer += data

    def answer(self) -> list[bytes]:
        """Wait for the messages of one answer, its closing line the last."""
        lines = [self.line()]
        while not is_closing(lines[-1]):
            assert lines[-1], f"the connection ended after {lines[:-1]}"
            lines.append(self.line())
        return lines

    def ask(self, command: str) -> list[bytes]:
        """Send a command and give its answer."""
        self.send(command.encode() + b"\n")
        return self.answer()

    def rest(self) -> bytes:
        """Read to the end of the connection."""
        data, self._buffer = self._buffer, b""
        return data + read_to_end(self.socket)


def read_to_end(connection: socket.socket) -> bytes:
    """Read until the other side closes."""
    parts = []
    while True:
        data = connection.recv(1 << 16)
        if not data:
            return b"".join(parts)
        parts.append(data)


def frame(payload: bytes, opcode: int = TEXT, final: bool = True) -> bytes:
    """Encode a masked WebSocket frame."""
    size = len(payload)
    head = bytes([(0x80 if final else 0) | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 1 << 16:
        head += b"\xfe" + struct.pack(">H", size)
    else:
        head += b"\xff" + struct.pack(">Q", size)
    mask = os.urandom(4)
    key = (mask * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")
    return head + mask + masked.to_bytes(size, "little")


def frames_in(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Decode what a server sent: (opcode, payload) of each whole frame, and what is left."""
    found = []
    at = 0
    while len(data) - at >= 2:
        size, start = data[at + 1], at + 2
        assert size < 128, "a server does not mask its frames"
        if size >= 126:
            width = 2 if size == 126 else 8
            start += width
            if len(data) < start:
                break
            size = int.from_bytes(data[start - width : start], "big")
        if len(data) < start + size:
            break
        assert data[at] & 0x80, "this server does not fragment"
        found.append((data[at] & 0x0F, data[start : start + size]))
        at = start + size
    return found, data[at:]


class Frames:
    """A client over WebSocket, made by hand."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.settimeout(LIMIT)
        self._buffer = b""
        self._ready: list[tuple[int, bytes]] = []
        self._closing = False
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            (
                "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
                "Sec-WebSocket-Version: 13\r\n\r\n"
            ).encode()
        )
        while b"\r\n\r\n" not in self._buffer:
            data = self.socket.recv(4096)
            assert data, f"no handshake: {self._buffer!r}"
            self._buffer += data
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 101 "), head

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up without a close frame."""
        self.socket.close()

    def send(self, text: str | bytes) -> None:
        """Send a text frame."""
        self.socket.sendall(frame(text.encode() if isinstance(text, str) else text))

    def next(self) -> tuple[int, bytes]:
        """Wait for a frame: opcode and payload; (0, b"") at the end of the connection.

        After the close frames a server may end the connection as roughly as it likes.
        """
        while not self._ready:
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionResetError:
                if not self._closing:
                    raise
                data = b""
            if not data:
                return 0, b""
            self._ready, self._buffer = frames_in(self._buffer + data)
        opcode, payload = self._ready.pop(0)
        if opcode == CLOSE and not self._closing:
            # As every client does; without it the node waits for it for a while.
            self._closing = True
            with contextlib.suppress(OSError):
                self.socket.sendall(frame(payload, CLOSE))
        return opcode, payload

    def text(self) -> bytes:
        """Wait for a text frame, and nothing else."""
        opcode, payload = self.next()
        assert opcode == TEXT, (opcode, payload)
        return payload

    def answer(self) -> list[bytes]:
        """Wait for the messages of one answer, its closing line the last."""
        messages = [self.text()]
        while not is_closing(messages[-1]):
            messages.append(self.text())
        return messages

    def ask(self, command: str) -> list[bytes]:
        """Send one command and give its answer."""
        self.send(command)
        return self.answer()

    def rest(self) -> list[tuple[int, bytes]]:
        """Read frames to the end of the connection."""
        found = []
        while True:
            one = self.next()
            if one == (0, b""):
                return found
            found.append(one)


def close_code(payload: bytes) -> int:
    """The status code in a close frame."""
    return int.from_bytes(payload[:2], "big")


def over_tls(connection: socket.socket) -> ssl.SSLSocket:
    """Speak TLS, without a look at whose certificate it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(connection)


def json_lines(log: str) -> Iterator[dict[str, object]]:
    """Each line of a log as the JSON object that it must be."""
    for line in log.splitlines():
        record = json.loads(line)
        assert isinstance(record, dict)
        yield record


def no_trace_of_trouble(log: str, allowed: Iterable[str] = ()) -> None:
    """Assert that a log holds no traceback, and no error but those ``allowed`` (by a part)."""
    assert "Traceback" not in log, log
    bad = [
        line
        for line in log.splitlines()
        if re.match(r"\S+ (error|critical) ", line) and not any(a in line for a in allowed)
    ]
    assert not bad, bad
