"""A throw-away node to look at: ``python -m nuntwist.demo`` (``make demo``).

Starts the node as it really is (``twistd nundb``) in a child process, on loopback, with a
data directory, a user, a password and a token made for this run alone; makes a database
``demo`` and prints the address of the node's page with everything filled in.  On Ctrl-C the
node is stopped and its directory removed.

``ThrowAwayNode`` is also what the tests in a real browser start.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from urllib.parse import urlencode

TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")
NODE = (*TWISTD, "--nodaemon", "--pidfile=", "nundb")
DEFAULT_PORTS = (3012, 3013, 3014)
HOST = "127.0.0.1"
START_SECONDS = 60.0
STOP_SECONDS = 15.0
_LOOK_SECONDS = 0.05
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NodeDidNotStart(Exception):
    """The node ended, or did not answer in time; the text is one sentence."""


def find_ports(wanted: Sequence[int]) -> list[int]:
    """Give a free port for each one wanted: that one, or another where it is in use.

    :param wanted: port numbers; 0 asks for any.
    """
    held: list[socket.socket] = []
    try:
        for port in wanted:
            held.append(_bound(port) or _any_port())
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def _any_port() -> socket.socket:
    found = _bound(0)
    if found is None:
        raise NodeDidNotStart("There is no free port on this machine.")
    return found


def _bound(port: int) -> socket.socket | None:
    one = socket.socket()
    # A port whose last connections have just ended is free for a server.
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind((HOST, port))
    except OSError:
        one.close()
        return None
    return one


class ThrowAwayNode:
    """A node in a child process, with a database; ``with`` starts it and takes it away.

    :param ports: those of WebSocket, HTTP and TCP, as :func:`find_ports` takes them.
    :param node: the command that starts a node, without its options.
    :param values: what the database holds at first.
    """

    def __init__(
        self,
        ports: Sequence[int] = (0, 0, 0),
        node: Sequence[str] = NODE,
        values: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.ws_port, self.http_port, self.tcp_port = find_ports(ports)
        self.database = "demo"
        self.token = secrets.token_urlsafe(12)
        self._user = "demo-" + secrets.token_hex(4)
        self._password = secrets.token_urlsafe(18)
        self._node = tuple(node)
        self._values = tuple(values)
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """The HTTP address, without a slash at the end."""
        return f"http://{HOST}:{self.http_port}"

    def page(self, key: str) -> str:
        """The address of the page, filled in to watch a key."""
        fields = {"db": self.database, "token": self.token, "key": key}
        return f"{self.address}/#{urlencode(fields)}"

    def __enter__(self) -> ThrowAwayNode:
        self._directory = tempfile.TemporaryDirectory(prefix="nuntwist-")
        try:
            self.start()
            answer = self.run([f"create-db {self.database} {self.token}"])
            if "success" not in answer:
                raise NodeDidNotStart(f"The node did not make a database: {answer.strip()}.")
            if self._values:
                self.run([f"set {key} {value}" for key, value in self._values])
        except BaseException:
            self._take_away()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._take_away()

    def start(self) -> None:
        """Start the process and wait until it answers.

        :raise NodeDidNotStart: it ended instead, or did not answer within START_SECONDS.
        """
        if self._directory is None:
            raise RuntimeError("a node is started by `with`")
        options = [
            f"--dbs-dir={Path(self._directory.name) / 'dbs'}",
            f"--ws-address={HOST}:{self.ws_port}",
            f"--http-address={HOST}:{self.http_port}",
            f"--tcp-address={HOST}:{self.tcp_port}",
        ]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("NUN_")}
        kept.update(NUN_USER=self._user, NUN_PWD=self._password, NUN_LOG_LEVEL="warn")
        # A session of its own: Ctrl-C in the terminal reaches the demo, which stops the node.
        self._child = subprocess.Popen(
            [*self._node, *options], env=kept, stdin=subprocess.DEVNULL, start_new_session=True
        )
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            status = self._child.poll()
            if status is not None:
                raise NodeDidNotStart(f"The node ended with status {status} before it answered.")
            if time.monotonic() > end:
                raise NodeDidNotStart(f"The node did not answer within {START_SECONDS:g} s.")
            time.sleep(_LOOK_SECONDS)

    def stop(self) -> None:
        """Stop the process (SIGTERM, and SIGKILL after STOP_SECONDS); its data stays."""
        child, self._child = self._child, None
        if child is None:
            return
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def run(self, commands: Sequence[str]) -> str:
        """Run commands as admin, with the database selected where there is one by then.

        :return: the node's answer to them.
        """
        first = [f"auth {self._user} {self._password}", f"use-db {self.database} {self.token}"]
        body = ";".join([*first, *commands]).encode()
        with _DIRECT.open(self.address, body, timeout=START_SECONDS) as answer:
            return str(answer.read().decode().split(";", len(first))[-1])

    def _answers(self) -> bool:
        try:
            with _DIRECT.open(self.address, b"ping", timeout=2.0):
                return True
        except OSError:
            return False

    def _take_away(self) -> None:
        self.stop()
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None


_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _interrupt(number: int, frame: object) -> None:
    # Once is enough: a second Ctrl-C would leave the node and its directory behind.
    for end in _ENDS:
        signal.signal(end, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Run the demo until Ctrl-C (or SIGTERM, or the terminal is closed)."""
    for number in _ENDS:
        signal.signal(number, _interrupt)
    try:
        with ThrowAwayNode(DEFAULT_PORTS, values=[("board", "hello")]) as node:
            print(
                "A node with a database is running. Open this in two windows, side by side:",
                "",
                f"    {node.page('board')}",
                "",
                "Type in one of them and watch the other. Ctrl-C stops it and removes its data.",
                sep="\n",
                flush=True,
            )
            while True:
                signal.pause()
    except KeyboardInterrupt:
        print("\nThe node is stopped and its data removed.")
        return 0
    except NodeDidNotStart as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
