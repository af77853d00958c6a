"""A replica set of real nodes, whose links all go through a switch that can cut and delay them.

Each node is told that it is reached at a port of the switch, so whoever connects to it as a node
comes that way; its first line tells the switch who it is. What is sent on a way that is cut is
thrown away, and so is all that follows on that connection, as behind a firewall that drops
everything: neither end is told.
"""

from __future__ import annotations

import json
import re
import selectors
import shutil
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.integration.harness import LIMIT, PASSWORD, USER, Lines, Process, wait_until
from tests.ports import free_ports

_FIRST = re.compile(rb"peer \d+ ([0-9a-f]{16})")
PIECE = 1 << 16


class _End:
    """One end of a connection through the switch."""

    def __init__(self, own: socket.socket, other: socket.socket, way: list[int | str]) -> None:
        self.own, self.other = own, other
        self.way = way
        """From where to where: places, or what a node has said that it is."""
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.deaf = False


class Switch:
    """Passes on what the nodes send each other.

    :param targets: the port of each node.
    :ivar cut: the ways, (from, to), on which nothing arrives.
    :ivar delay: of all that is passed on, in seconds.
    """

    def __init__(self, targets: list[int]) -> None:
        self.cut: set[tuple[int, int]] = set()
        self.delay = 0.0
        self.places: dict[str, int] = {}
        self._targets = targets
        self._selector = selectors.DefaultSelector()
        self._listeners = [socket.create_server(("127.0.0.1", 0), backlog=64) for _ in targets]
        self.ports: list[int] = [one.getsockname()[1] for one in self._listeners]
        for place, listener in enumerate(self._listeners):
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, place)
        self._ends: dict[socket.socket, _End] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def isolate(self, place: int) -> None:
        """Nothing comes to a node, nor from it."""
        for other in range(len(self._targets)):
            self.cut |= {(place, other), (other, place)}

    def heal(self) -> None:
        """All arrives again that is sent on new connections, and on those that were not cut."""
        for end in tuple(self._ends.values()):
            # What was sent meanwhile may not have been read yet.
            end.deaf = end.deaf or self._is_cut(end)
        self.cut.clear()

    def close(self) -> None:
        """End it."""
        self._closed = True
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._closed:
            wait = 0.002 if any(end.waiting for end in self._ends.values()) else 0.02
            for key, _ in self._selector.select(wait):
                if isinstance(key.data, int):
                    self._accept(key.fileobj, key.data)
                else:
                    self._read(key.data)
            self._deliver()
        for one in [*self._ends, *self._listeners]:
            one.close()

    def _accept(self, listener: Any, place: int) -> None:
        with suppress(OSError):
            caller, _ = listener.accept()
            try:
                called = socket.create_connection(("127.0.0.1", self._targets[place]), 1.0)
            except OSError:
                caller.close()
                return
            for own, other, way in (
                (caller, called, ["", place]),
                (called, caller, [place, ""]),
            ):
                own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                end = self._ends[own] = _End(own, other, way)
                self._selector.register(own, selectors.EVENT_READ, end)

    def _read(self, end: _End) -> None:
        try:
            data = end.own.recv(PIECE)
        except OSError:
            data = b""
        if data and end.way[0] == "":
            first = _FIRST.match(data)
            if first is not None:
                end.way[0] = self._ends[end.other].way[1] = first[1].decode()
        end.deaf = end.deaf or self._is_cut(end)
        if data and end.deaf:
            return
        end.waiting.append((time.monotonic() + self.delay, data))
        if not data:
            self._selector.unregister(end.own)

    def _is_cut(self, end: _End) -> bool:
        return tuple(map(self._place, end.way)) in self.cut

    def _place(self, node: int | str) -> int:
        return node if isinstance(node, int) else self.places.get(node, -1)

    def _deliver(self) -> None:
        now = time.monotonic()
        for end in tuple(self._ends.values()):
            while end.waiting and end.waiting[0][0] <= now:
                _, data = end.waiting.popleft()
                try:
                    end.other.sendall(data)
                except OSError:
                    data = b""
                if not data:
                    self._end(end)
                    break

    def _end(self, end: _End) -> None:
        for one in (end.own, end.other):
            self._ends.pop(one, None)
            with suppress(KeyError, ValueError):
                self._selector.unregister(one)
            one.close()


class NodeSet:
    """Some nodes that are to be a set; a context manager.

    :param processes: of the nodes, not started.
    :param addresses: under which the others reach each of them.
    :ivar pauses: how often one was made to stand still, or to go on.
    """

    def __init__(self, processes: list[Process], addresses: list[str]) -> None:
        self.processes = processes
        self.pauses = 0
        self.addresses = addresses

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self.processes:
            if process.child is not None:
                with suppress(OSError):
                    process.send_signal(signal.SIGCONT)
                process.kill()
            if error is not None and process.starts:
                print(f"--- {process.directory.name}:\n{process.log[-3000:]}")
        self.close_network()

    def close_network(self) -> None:
        """What is between the nodes is not needed any more."""

    def heal(self) -> None:
        """All arrives again, whatever the network was made to lose."""

    def started(self, place: int) -> None:
        """One runs."""

    # -- their lives -------------------------------------------------------------------------

    def start(self, *places: int) -> None:
        """Start some nodes one after the other, all if none is named."""
        for place in places or range(len(self.processes)):
            self.processes[place].start()
            self.started(place)

    def start_at_once(self) -> None:
        """Start all nodes at the same time."""
        for process in self.processes:
            process.launch()
        for place, process in enumerate(self.processes):
            process.wait_until_ready()
            self.started(place)

    def form(self) -> int:
        """Start all, and wait until they are one set; gives the primary."""
        self.start()
        self.wait_until_formed()
        return self.primary()

    def kill(self, place: int) -> None:
        """End one without a warning."""
        self.processes[place].kill()

    def pause(self, place: int) -> None:
        """Let one stand still."""
        self.pauses += 1
        self.processes[place].send_signal(signal.SIGSTOP)

    def go_on(self, place: int) -> None:
        """Let one go on that stood still."""
        self.processes[place].send_signal(signal.SIGCONT)
        self.pauses += 1

    def mend(self) -> None:
        """Whatever was done to them, let them be one whole set again."""
        self.heal()
        for place, process in enumerate(self.processes):
            if process.child is None:
                self.start(place)
            else:
                self.go_on(place)
        self.wait_until_formed()

    def forget(self) -> None:
        """Whatever they have been, let none be started, and none have any data."""
        self.heal()
        for process in self.processes:
            if process.child is not None:
                process.kill()
            shutil.rmtree(process.data, ignore_errors=True)

    @property
    def running(self) -> list[int]:
        """Those that run."""
        return [place for place, one in enumerate(self.processes) if one.child is not None]

    # -- what they say -----------------------------------------------------------------------

    def admin(self, place: int, *commands: str) -> Lines:
        """Connect to one as admin, run some commands, and check that none failed."""
        client = self.processes[place].tcp()
        for command in (f"auth {USER} {PASSWORD}", *commands):
            answer = client.ask(command)
            assert answer[-1] == b"ok \n", (command, answer)
        return client

    def state(self, place: int) -> dict[str, Any]:
        """What one says of the set."""
        client = self.processes[place].tcp()
        try:
            client.ask(f"auth {USER} {PASSWORD}")
            told = client.ask("cluster-state json")[0]
        finally:
            client.close()
        state: dict[str, Any] = json.loads(told.partition(b" ")[2])
        return state

    def role(self, place: int) -> str:
        """What one is, as it says itself."""
        return str(next(r["role"] for r in self.state(place)["replicas"] if r["is_self"]))

    def primaries(self) -> list[int]:
        """Those that say that they are the primary."""
        return [place for place in self.running if self.role(place) == "Primary"]

    def primary(self, limit: float = LIMIT) -> int:
        """The one that is, when there is one."""
        found: list[int] = []

        def there_is_one() -> bool:
            found[:] = self.primaries()
            return len(found) == 1

        wait_until(there_is_one, "a primary", limit)
        return found[0]

    def wait_until_formed(self, limit: float = LIMIT) -> None:
        """Return when all that run are members, connected, and follow the same primary."""
        wait_until(self._is_formed, "the nodes to be one set", limit)

    def _is_formed(self) -> bool:
        states = [self.state(place) for place in self.running]
        return (
            len({(state["set_id"], state["epoch"], state["primary"]) for state in states}) == 1
            and all(state["formed"] and state["primary"] for state in states)
            and all(self._sees_all(state) for state in states)
        )

    def _sees_all(self, state: dict[str, Any]) -> bool:
        there = {self.addresses[place] for place in self.running}
        return all(
            replica["member"] and replica["connected"]
            for replica in state["replicas"]
            if replica["address"] in there
        )

    def wait_until_equal(self, limit: float = LIMIT) -> None:
        """Return when all that run have the same log to its end."""

        def ends() -> bool:
            states = [self.state(place) for place in self.running]
            return len({(s["set_id"], s["epoch"], s["last"]) for s in states}) == 1

        wait_until(ends, "the logs to be the same", limit)

    def everywhere(self, ask: Callable[[Lines], object]) -> Iterator[object]:
        """What each one that runs answers."""
        for place in self.running:
            client = self.admin(place)
            yield ask(client)
            client.close()


class Nodes(NodeSet):
    """Nodes on this machine, with a switch between them.

    :param settings: of all nodes, beside those of the harness.
    """

    def __init__(self, where: Path, size: int = 3, **settings: str) -> None:
        ports = free_ports(size)
        self.switch = Switch(ports)
        addresses = [f"127.0.0.1:{port}" for port in self.switch.ports]
        processes = [
            Process(
                where / f"node-{place}",
                variables={
                    "NUN_TCP_ADDR": f"tcp:{port}:interface=127.0.0.1",
                    "NUN_EXTERNAL_ADDR": address,
                    "NUN_REPLICATE_ADDR": ",".join(addresses),
                    **settings,
                },
            )
            for place, (port, address) in enumerate(zip(ports, addresses, strict=True))
        ]
        super().__init__(processes, addresses)

    def started(self, place: int) -> None:
        """Tell the switch who is where."""
        kept = json.loads((self.processes[place].data / "node.json").read_text())
        self.switch.places[kept["node_id"]] = place

    def heal(self) -> None:
        """All arrives again, at once."""
        self.switch.heal()
        self.switch.delay = 0.0

    def close_network(self) -> None:
        """End the switch."""
        self.switch.close()
