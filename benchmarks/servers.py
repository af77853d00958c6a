"""The node and Redis as child processes, pinned to one core, and connections to them.

Each has its own directory under a temporary one, and its own ports, chosen free.  Both keep a
log: the node with its default settings, Redis with ``appendonly yes`` and ``appendfsync
everysec``; Redis writes no snapshots and does not rewrite its log during a run.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.wire import Dialect, NunTcp, NunWebSocket, Redis, frame, resp

HOST = "127.0.0.1"
USER, PASSWORD = "bench", "bench-password"
DATABASE, TOKEN = b"bench", b"bench-token"
PATIENCE = 120.0
"""Seconds a server may take to start or to stop."""

_TICKS = os.sysconf("SC_CLK_TCK")


class ServerError(Exception):
    """A server did not start, died or said something unexpected."""


def free_port() -> int:
    """Give a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def allow_files(wanted: int) -> int:
    """Raise the limit of open files, also for children; give what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
        wanted = hard
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft


class Process:
    """A server's process: start, stop, what it uses.

    :param directory: its own; made if it is not there.
    :param core: the core it is pinned to, or None.
    :ivar cores: those that it may use; None for those of its parent.
    """

    name: str

    def __init__(self, directory: Path, core: int | None) -> None:
        self.directory = directory
        self.cores = None if core is None else {core}
        self._child: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    def command(self) -> Sequence[str]:
        """Give the command line."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Give the variables to add to the environment."""
        return {}

    def answers(self) -> bool:
        """Say whether it serves commands; raise OSError where it does not listen yet."""
        raise NotImplementedError

    def start(self, ready: Callable[[], bool] | None = None) -> float:
        """Start it and wait until it answers a command; give the seconds that took.

        :param ready: to wait for something else; it may raise OSError for "not yet".
        :raise ServerError: it ended, or did not answer in time.
        """
        ready = ready or self.answers
        cores = self.cores
        with open(self.directory / "output", "ab") as output:
            begin = time.monotonic()
            self._child = subprocess.Popen(
                self.command(),
                cwd=self.directory,
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # The parent has one thread, so this is safe; threads of the child inherit it.
                preexec_fn=None if cores is None else lambda: os.sched_setaffinity(0, cores),
            )
        while time.monotonic() - begin < PATIENCE:
            if self._child.poll() is not None:
                raise ServerError(f"{self.name} ended at its start: {self._last_words()}")
            with contextlib.suppress(OSError):
                if ready():
                    return time.monotonic() - begin
            time.sleep(0.005)
        raise ServerError(f"{self.name} does not answer: {self._last_words()}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> float:
        """End it with a signal (SIGKILL where that does not help); give the seconds it took."""
        child, self._child = self._child, None
        if child is None:
            return 0.0
        begin = time.monotonic()
        child.send_signal(number)
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        return time.monotonic() - begin

    def remove(self) -> None:
        """End it at once and delete its directory."""
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)

    def cpu(self) -> float:
        """Give the seconds of processor time it has used, all threads."""
        fields = self._proc("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory(self) -> int:
        """Give the bytes of memory it has resident."""
        match = re.search(r"VmRSS:\s+(\d+) kB", self._proc("status"))
        if match is None:
            raise ServerError(f"{self.name} is gone: {self._last_words()}")
        return int(match[1]) * 1024

    def _proc(self, file: str) -> str:
        if self._child is None:
            raise ServerError(f"{self.name} is not running")
        return Path(f"/proc/{self._child.pid}/{file}").read_text()

    def _last_words(self) -> str:
        lines = (self.directory / "output").read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:]) or "it wrote nothing"


class Node(Process):
    """A node, started from a source tree.

    :param tree: the directory that holds the package ``nuntwist`` to run.
    :param variables: further settings.
    """

    def __init__(
        self,
        directory: Path,
        core: int | None,
        tree: Path,
        name: str = "nuntwist",
        variables: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(directory, core)
        self._variables = dict(variables or {})
        self.name = name
        self.dialect: Dialect = NunTcp()
        self.web_dialect: Dialect = NunWebSocket(random.Random(1))
        self._tree = tree
        self._tcp, self._web, self._http = free_port(), free_port(), free_port()

    @property
    def address(self) -> str:
        """Where it listens for TCP."""
        return f"{HOST}:{self._tcp}"

    def set_variables(self, variables: Mapping[str, str]) -> None:
        """Change further settings, as of the next start."""
        self._variables.update(variables)

    def command(self) -> Sequence[str]:
        run = "from twisted.scripts.twistd import run; run()"
        return [sys.executable, "-c", run, "--nodaemon", "--pidfile=", "nundb"]

    def environment(self) -> dict[str, str]:
        # Settings by the environment alone: its names are part of the contract, so that
        # earlier revisions understand them too.
        paths = [str(self._tree), os.environ.get("PYTHONPATH", "")]
        inherited = {name: "" for name in os.environ if name.startswith("NUN_")}
        return {
            **inherited,
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "NUN_USER": USER,
            "NUN_PWD": PASSWORD,
            "NUN_DBS_DIR": str(self.directory / "dbs"),
            "NUN_TCP_ADDR": f"{HOST}:{self._tcp}",
            "NUN_WS_ADDR": f"{HOST}:{self._web}",
            "NUN_HTTP_ADDR": f"{HOST}:{self._http}",
            **self._variables,
        }

    def answers(self) -> bool:
        """Make the database if it is not there, and read a key of it."""
        with socket.create_connection((HOST, self._tcp), PATIENCE) as connection:
            receive_lines(connection, 1)
            admin = f"auth {USER} {PASSWORD}\n".encode()
            if b"valid auth" not in ask(connection, admin, 2):
                raise ServerError(f"{self.name} refuses the user of the benchmark")
            use = b"use-db %b %b\n" % (DATABASE, TOKEN)
            answer = ask(connection, use, 1)
            if b"ok" not in answer:
                answer = ask(connection, b"create-db %b %b\n" % (DATABASE, TOKEN), 2)
                answer = ask(connection, use, 1)
            if not answer.startswith(b"ok"):
                # Not yet primary: it is asked again.
                return False
            return b"value" in ask(connection, b"get key:000000000000\n", 2)

    def admin(self, command: bytes, answer: bytes = b"ok") -> None:
        """Run a command as admin.

        :param answer: what its answer begins with.

        :raise ServerError: it is answered by something else.
        """
        with _connect(self._tcp) as connection:
            receive_lines(connection, 1)
            ask(connection, f"auth {USER} {PASSWORD}\n".encode(), 2)
            _expect(ask(connection, command + b"\n", 1), answer)

    @contextlib.contextmanager
    def admin_session(self) -> Iterator[Callable[[bytes], None]]:
        """Give what runs commands one after the other as admin, each answered by ``ok``."""
        with _connect(self._tcp) as connection:
            receive_lines(connection, 1)
            ask(connection, f"auth {USER} {PASSWORD}\n".encode(), 2)
            yield lambda command: _expect(ask(connection, command + b"\n", 1), b"ok")

    def state(self) -> dict[str, Any]:
        """What it says of its replica set (``cluster-state json``)."""
        with _connect(self._tcp) as connection:
            receive_lines(connection, 1)
            ask(connection, f"auth {USER} {PASSWORD}\n".encode(), 2)
            answer = ask(connection, b"cluster-state json\n", 2)
        state: dict[str, Any] = json.loads(answer.partition(b"\n")[0].partition(b" ")[2])
        return state

    def listens(self) -> bool:
        """Whether it takes connections; raise OSError where it does not yet."""
        with _connect(self._tcp) as connection:
            return receive_lines(connection, 1) == b"ok \n"

    def command_line(self, *words: str) -> float:
        """Run ``nun-db`` against it; give the seconds it took.

        :raise ServerError: it failed.
        """
        run = "import sys; from nuntwist.cli import main; sys.exit(main())"
        host = f"http://{HOST}:{self._http}"
        command = [sys.executable, "-c", run, "-h", host, "--timeout", "600", *words]
        begin = time.monotonic()
        done = subprocess.run(
            command, env={**os.environ, **self.environment()}, capture_output=True, text=True
        )
        if done.returncode:
            raise ServerError(f"nun-db {words[0]}: {done.stderr.strip()}")
        return time.monotonic() - begin

    @property
    def web_address(self) -> tuple[str, int]:
        """Where its WebSocket listens, for a socket."""
        return HOST, self._web

    @property
    def web_url(self) -> str:
        """Where its WebSocket listens."""
        return f"ws://{HOST}:{self._web}/"

    def connect(self, count: int) -> list[socket.socket]:
        """Give TCP connections that have selected the database."""
        connections = [_connect(self._tcp) for _ in range(count)]
        for connection in connections:
            receive_lines(connection, 1)
            _expect(ask(connection, b"use-db %b %b\n" % (DATABASE, TOKEN), 1), b"ok \n")
        return connections

    def open_web(self) -> socket.socket:
        """Give a connection to the port of the WebSocket, without a handshake."""
        return _connect(self._web)

    def connect_web(self, count: int, *commands: bytes) -> list[socket.socket]:
        """Give WebSocket connections that have selected the database and sent some commands,
        each of which is answered by a mere ``ok``."""
        connections: list[socket.socket] = []
        texts = [b"use-db %b %b" % (DATABASE, TOKEN), *commands]
        frames = b"".join(frame(text, b"\x5a\xa5\x0f\xf0") for text in texts)
        for wave in _waves(count):
            opened = [_connect(self._web) for _ in range(wave)]
            for connection in opened:
                connection.sendall(_upgrade(self._web))
            for connection in opened:
                _expect(_receive_until(connection, b"\r\n\r\n"), b"HTTP/1.1 101")
                connection.sendall(frames)
            for connection in opened:
                _expect(receive_lines(connection, len(texts)), b"\x81\x04ok \n" * len(texts))
            connections += opened
        return connections


class RedisServer(Process):
    """Redis with its append-only log.

    :param flush: its ``appendfsync``; ``off`` for no log: then :meth:`save` keeps what it has.
    :ivar primary: the one that it is a replica of, or None.
    """

    name = "Redis"

    def __init__(self, directory: Path, core: int | None, flush: str = "everysec") -> None:
        super().__init__(directory, core)
        self._flush = flush
        self.dialect: Dialect = Redis()
        self.primary: RedisServer | None = None
        self._port = free_port()

    @staticmethod
    def installed() -> bool:
        return shutil.which("redis-server") is not None

    def command(self) -> Sequence[str]:
        settings = {
            "port": str(self._port),
            "bind": HOST,
            "dir": str(self.directory),
            "appendonly": "no" if self._flush == "off" else "yes",
            "appendfsync": "no" if self._flush == "off" else self._flush,
            "save": "",
            "auto-aof-rewrite-percentage": "0",
            "maxclients": "10100",
            "tcp-backlog": "1024",
            "loglevel": "warning",
            "repl-diskless-sync-delay": "0",
        }
        if self.primary is not None:
            settings["replicaof"] = f"{HOST} {self.primary._port}"
        options = [
            word for name, value in settings.items() for word in (f"--{name}", *value.split(" "))
        ]
        return ["redis-server", *options]

    def answers(self) -> bool:
        with socket.create_connection((HOST, self._port), PATIENCE) as connection:
            answer = ask(connection, resp(b"GET", b"key:000000000000"), 1)
            return not answer.startswith(b"-")

    def connect(self, count: int) -> list[socket.socket]:
        return [_connect(self._port) for _ in range(count)]

    def save(self) -> None:
        """Write all of it to its RDB file."""
        with _connect(self._port) as connection:
            _expect(ask(connection, resp(b"SAVE"), 1), b"+OK")

    def replicas(self) -> int:
        """How many replicas have all it has."""
        with _connect(self._port) as connection:
            return int(ask(connection, resp(b"WAIT", b"0", b"1000"), 1)[1:])

    def subscribe(self, count: int, topic: bytes) -> list[socket.socket]:
        """Give connections that have subscribed to a topic."""
        connections: list[socket.socket] = []
        for wave in _waves(count):
            opened = [_connect(self._port) for _ in range(wave)]
            for connection in opened:
                connection.sendall(resp(b"SUBSCRIBE", topic))
            for connection in opened:
                receive_lines(connection, 6)
            connections += opened
        return connections


@contextlib.contextmanager
def closing_all(connections: list[socket.socket]) -> Iterator[list[socket.socket]]:
    """Close connections at the end of a block."""
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


def _waves(count: int) -> Iterator[int]:
    """Cut a number of connections into waves that fit a server's backlog."""
    while count > 0:
        yield min(count, 50)
        count -= 50


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection((HOST, port), PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _upgrade(port: int) -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET / HTTP/1.1\r\nHost: {HOST}:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def ask(connection: socket.socket, command: bytes, lines: int) -> bytes:
    """Send a command and give its answer, at most ``lines`` lines; an error ends it early."""
    connection.sendall(command)
    return receive_lines(connection, lines)


def receive_lines(connection: socket.socket, lines: int) -> bytes:
    """Receive until some newlines have come, or a line that begins with ``error``."""
    return _receive(
        connection, lambda data: data.count(b"\n") >= lines or data.startswith(b"error ")
    )


def _receive_until(connection: socket.socket, end: bytes) -> bytes:
    return _receive(connection, lambda data: data.endswith(end))


def _receive(connection: socket.socket, complete: Callable[[bytes], bool]) -> bytes:
    data = b""
    while not complete(data):
        more = connection.recv(65536)
        if not more:
            raise ServerError(f"the server closed a connection after {data[-100:]!r}")
        data += more
    return data


def _expect(answer: bytes, start: bytes) -> None:
    if not answer.startswith(start):
        raise ServerError(f"{start!r} was expected, {answer[:100]!r} came")
