"""Nodes that start in a tenth of a second: forked from a process that has imported all they need.

Most of the processor time of a node's start is Python importing modules, and the integration
tests start some hundreds of nodes.  So the first of them starts one process that imports the
modules, and no reactor, and forks whenever a node is wanted.  From then on such a node is a process
like any other: ``twistd`` with its arguments, environment, directory and log, and signals that
nobody catches for it.  Where more than NUN_ settings are in its environment (a path for modules,
a library to load first), or another command is in front of it, it is started the long way.

The requests and answers are lines of JSON over a socket pair, one at a time; the file for its
output travels with a request.  The server is the parent of the nodes, so it is asked how they
ended; a dead one keeps its number until somebody asked.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
PRELOADED = (
    "twisted.scripts.twistd",
    "twisted.application.app",
    "twisted.scripts._twistd_unix",
    "nuntwist.tap",
    "nuntwist.service",
    "boto3",
    "botocore.session",
)
_LONGEST = 1 << 20


class Forked:
    """A node as :class:`subprocess.Popen` would show it.

    :param pid: of the process.
    """

    def __init__(self, server: _Server, pid: int) -> None:
        self.pid = pid
        self._server = server
        self._ended = os.pidfd_open(pid)
        self._status: int | None = None

    def poll(self) -> int | None:
        """Its exit status (negative: the signal that ended it), None while it runs."""
        if self._status is None:
            self._status = self._server.ask({"poll": self.pid})
            if self._status is not None:
                os.close(self._ended)
        return self._status

    def wait(self, timeout: float) -> int:
        """Its exit status when it has ended.

        :raise subprocess.TimeoutExpired: it runs after ``timeout`` seconds.
        """
        end = time.monotonic() + timeout
        while (status := self.poll()) is None:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._ended], [], [], left)[0]:
                raise subprocess.TimeoutExpired(["twistd"], timeout)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing where it has ended and was asked about."""
        if self.poll() is None:
            os.kill(self.pid, number)


class _Server:
    """The process that forks, seen from the tests."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-u", "-m", "tests.integration.forkserver", str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def ask(self, request: Mapping[str, Any], *files: int) -> Any:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], files)
            answer = self._socket.recv(_LONGEST)
        assert answer, "the process that forks nodes is gone"
        return json.loads(answer)


_server: _Server | None = None
_making = threading.Lock()


def fork_node(
    arguments: Sequence[str], environment: Mapping[str, str], directory: Path, log: IO[bytes]
) -> Forked:
    """Start ``twistd`` with arguments, in a directory; what it prints goes to a file."""
    global _server
    with _making:
        if _server is None:
            _server = _Server()
    request = {
        "arguments": ["twistd", *arguments],
        "environment": dict(environment),
        "directory": str(directory),
    }
    return Forked(_server, _server.ask(request, log.fileno()))


# -- the process itself ------------------------------------------------------------------------


def _serve(control: socket.socket) -> None:
    """Fork and answer until nobody asks any more; in a node, return as soon as it is one."""
    while True:
        data, files, _, _ = socket.recv_fds(control, _LONGEST, 1)
        if not data:
            sys.exit()
        request = json.loads(data)
        answer: int | None
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                control.close()
                _become(request, files[0])
                return
            os.close(files[0])
        control.send(json.dumps(answer).encode())


def _become(request: Mapping[str, Any], log: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    os.chdir(request["directory"])
    sys.path[0] = ""
    sys.argv = request["arguments"]


def main() -> None:
    """Be the server on the socket whose number is the argument, and whatever it becomes."""
    for name in PRELOADED:
        __import__(name)
    assert "twisted.internet.reactor" not in sys.modules, "each node needs a reactor of its own"
    assert "twisted.plugins" not in sys.modules, "each node looks for plugins itself"
    assert threading.active_count() == 1, "no thread survives a fork"
    # Ctrl-C is for the tests; they end this process by leaving.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _serve(socket.socket(fileno=int(sys.argv[1])))
    from twisted.scripts.twistd import run

    run()


if __name__ == "__main__":
    main()
