"""What a real node acknowledged is there after it was killed; damage and full disks are told.

Writers on all transports note what was answered.  After ``kill -9`` and a restart, the keys of
each writer must be what some run of its first N commands leaves, N not below the number of
answers: nothing acknowledged is lost, nothing is applied out of order, twice or in part.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from tests.integration.conftest import Start
from tests.integration.harness import (
    LIMIT,
    OK,
    PASSWORD,
    USER,
    Process,
    frame,
    no_trace_of_trouble,
    run_to_end,
    wait_until,
)

State = dict[str, str]
KEYS = 20
"""Keys of one writer: few, so that they are written over and removed often."""


def commands_of(name: str, seed: int) -> Iterator[str]:
    """What a writer sends, for ever; the same for the same name and seed."""
    chance = random.Random(f"{name} {seed}")
    for number in range(1_000_000):
        key = f"{name}-{chance.randrange(KEYS)}"
        kind = chance.randrange(10)
        if kind == 0:
            yield f"remove {key}"
        elif kind == 1:
            yield f"increment {name}-total {chance.randrange(-5, 100)}"
        else:
            yield f"set {key} {number}{'.' * chance.randrange(60)}"


def apply(state: State, command: str) -> None:
    """What a command does, as the protocol says."""
    word, key, *rest = command.split(" ", 2)
    if word == "remove":
        state.pop(key, None)
    elif word == "increment":
        state[key] = str(int(state.get(key, "0")) + int(rest[0]))
    else:
        state[key] = rest[0]


class Writer(threading.Thread):
    """Writes without a pause until the node is gone.

    :ivar sent: commands sent, whole or in part.
    :ivar acknowledged: commands answered.
    :ivar rest: seconds between two batches.
    """

    batch: ClassVar[int] = 40
    rest = 0.0

    def __init__(self, node: Process, name: str, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self.node, self.seed = node, seed
        self.sent = self.acknowledged = 0
        self.wrong: list[object] = []
        self._commands = commands_of(name, seed)

    def run(self) -> None:
        try:
            self.connect()
            while True:
                texts = [next(self._commands) for _ in range(self.batch)]
                self.sent += len(texts)
                self.write(texts)
                time.sleep(self.rest)
        except (OSError, AssertionError) as error:
            # A connection that was cut; a wrong answer is in `wrong`.
            self.ended = error

    def connect(self) -> None:
        raise NotImplementedError

    def write(self, texts: list[str]) -> None:
        raise NotImplementedError

    def take(self, answer: object) -> None:
        """Note the answer to one command."""
        if answer != [OK]:
            self.wrong.append(answer)
        self.acknowledged += 1

    def check(self, found: State) -> None:
        """Compare with what the node holds after its restart."""
        assert self.wrong == []
        state: State = {}
        commands = commands_of(self.name, self.seed)
        for number in range(self.sent + 1):
            if number >= self.acknowledged and state == found:
                return
            apply(state, next(commands))
        raise AssertionError(
            f"{self.name}: {found} is not what {self.acknowledged} to {self.sent} commands leave"
        )


class LineWriter(Writer):
    """Over TCP: keeps two batches under way."""

    def connect(self) -> None:
        self._client = self.node.select("d")

    def write(self, texts: list[str]) -> None:
        self._client.send("".join(f"{text}\n" for text in texts).encode())
        while self.acknowledged < self.sent - self.batch:
            self.take(self._client.answer())


class FrameWriter(Writer):
    """Over WebSocket: the same."""

    def connect(self) -> None:
        self._client = self.node.ws()
        assert self._client.ask("use-db d tok") == [OK]

    def write(self, texts: list[str]) -> None:
        self._client.socket.sendall(b"".join(frame(text.encode()) for text in texts))
        while self.acknowledged < self.sent - self.batch:
            self.take(self._client.answer())


class RequestWriter(Writer):
    """Over HTTP: a request a batch, each answered with its parts."""

    batch = 10

    def connect(self) -> None:
        """Each request is a connection of its own."""

    def write(self, texts: list[str]) -> None:
        parts = self.node.post("; ".join(["use-db d tok", *texts])).split(";")
        assert parts[0] == "empty"
        for part in parts[1:]:
            self.take([OK] if part == "empty" else part)


class SnapshotTaker(threading.Thread):
    """Takes snapshots without a pause, so that the kill comes in the middle of one."""

    def __init__(self, node: Process) -> None:
        super().__init__(daemon=True)
        self.node = node
        self.taken = 0

    def run(self) -> None:
        try:
            with self.node.tcp() as admin:
                admin.ask(f"auth {USER} {PASSWORD}")
                while admin.ask("snapshot false d")[-1:] == [OK]:
                    self.taken += 1
        except (OSError, AssertionError) as error:
            self.ended = error


def contents(node: Process) -> State:
    """Every key and value of the database."""
    with node.select("d") as client:
        (listed, closing) = client.ask("keys")
        assert closing == OK
        names = [key for key in listed.decode().strip("\n").removeprefix("keys ").split(",") if key]
        names.remove("$connections")
        client.send("".join(f"get {name}\n" for name in names).encode())
        values = {}
        for name in names:
            value, closing = client.answer()
            values[name] = value.decode().removeprefix("value ").removesuffix("\n")
        return values


def _has_done(writers: Sequence[Writer], enough: int) -> bool:
    done = [one.acknowledged for one in writers]
    return sum(done) >= enough and all(done)


@pytest.mark.parametrize(
    ("durability", "snapshots"),
    [("os", False), ("os", True), ("disk", True), ("interval", True)],
    ids=["log", "log-and-snapshots", "disk", "interval"],
)
def test_killed_under_writers_it_loses_nothing_it_acknowledged(
    start: Start, durability: str, snapshots: bool
) -> None:
    # So small that the log turns over, and so large that a slow disk keeps up.
    size = "1MiB" if durability == "disk" else "5MiB"
    node = start(variables={"NUN_DURABILITY": durability, "NUN_MAX_OP_LOG_SIZE": size})
    node.create("d")
    earlier: State = {}
    for seed in range(4 if durability == "os" else 2):
        chance = random.Random(f"{seed} {snapshots}")
        writers = [
            LineWriter(node, f"tcp-a{seed}", seed),
            LineWriter(node, f"tcp-b{seed}", seed),
            FrameWriter(node, f"ws{seed}", seed),
            RequestWriter(node, f"http{seed}", seed),
        ]
        taker = SnapshotTaker(node)
        threads: list[threading.Thread] = [*writers, *([taker] if snapshots else [])]
        for thread in threads:
            thread.start()
        enough = chance.randrange(1_000, 8_000)
        wait_until(partial(_has_done, writers, enough), f"{enough} acknowledgements")
        if snapshots:
            # However long they take, the log must not reach twice its limit meanwhile.
            for writer in writers:
                writer.rest = 0.1
            wait_until(lambda one=taker: one.taken >= 2, "two snapshots")  # type: ignore[misc]
        node.kill()
        for thread in threads:
            thread.join(LIMIT)
            assert not thread.is_alive()
        node.start()
        found = contents(node)
        for writer in writers:
            own = {k: v for k, v in found.items() if k.startswith(f"{writer.name}-")}
            writer.check(own)
        assert {k: v for k, v in found.items() if k in earlier} == earlier
        earlier = found
        no_trace_of_trouble(node.log)
    if "segments: 1," not in node.admin("oplog-state"):
        node.admin("snapshot true $admin", "oplog-clean")
        assert "first: 1," not in node.admin("oplog-state")
    assert node.stop() == 0
    node.start()
    assert contents(node) == earlier


def test_the_check_of_writers_can_fail() -> None:
    writer = LineWriter.__new__(LineWriter)
    threading.Thread.__init__(writer, name="w")
    writer.seed, writer.sent, writer.acknowledged, writer.wrong = 1, 60, 50, []
    state: State = {}
    commands = commands_of("w", 1)
    for _ in range(49):
        apply(state, next(commands))
    with pytest.raises(AssertionError, match="is not what"):
        writer.check(state)
    apply(state, next(commands))
    writer.check(state)


# -- damage ----------------------------------------------------------------------------------------


def _filled(start: Start) -> tuple[Process, Path]:
    """A killed node with five writes in its log; the log's path."""
    node = start()
    node.create("d")
    with node.select("d") as client:
        for number in range(5):
            assert client.ask(f"set k{number} value-{number}") == [OK]
    node.kill()
    (log,) = node.data.glob("*.seg")
    return node, log


def test_a_torn_last_record_is_cut_off_and_told(start: Start) -> None:
    node, log = _filled(start)
    os.truncate(log, log.stat().st_size - 3)
    node.start()
    assert re.search(r" warn .*torn last record", node.log)
    with node.select("d") as client:
        assert client.ask("get k3") == [b"value value-3\n", OK]
        assert client.ask("get k4") == [b"value <Empty>\n", OK]
        assert client.ask("set k4 again") == [OK]
    assert node.stop() == 0
    node.start()
    assert contents(node)["k4"] == "again"


def test_a_damaged_log_is_refused_in_one_sentence_and_left_as_it_is(start: Start) -> None:
    node, log = _filled(start)
    content = bytearray(log.read_bytes())
    content[content.index(b"value-1")] ^= 1
    log.write_bytes(content)
    before = {one.name: one.read_bytes() for one in node.data.iterdir()}
    for _ in range(2):
        status, output, errors = run_to_end(cwd=node.directory, **node.variables)
        assert (status, output) == (1, "")
        assert "Traceback" not in errors
        (sentence,) = [line for line in errors.splitlines() if " critical " in line]
        assert re.search(r"oplog-\d+\.seg is damaged at byte \d+: ", sentence)
        assert "value-1" not in errors
        assert {one.name: one.read_bytes() for one in node.data.iterdir()} == before


def test_a_damaged_snapshot_is_refused_in_one_sentence(start: Start) -> None:
    node, _ = _filled(start)
    node.start()
    assert node.stop() == 0
    held = [one for one in node.data.iterdir() if b"value-1" in one.read_bytes()]
    (snapshot,) = [one for one in held if one.suffix != ".seg"]
    content = bytearray(snapshot.read_bytes())
    content[content.index(b"value-1")] ^= 1
    snapshot.write_bytes(content)
    status, output, errors = run_to_end(cwd=node.directory, **node.variables)
    assert (status, output) == (1, "")
    assert "Traceback" not in errors
    (sentence,) = [line for line in errors.splitlines() if " critical " in line]
    assert f"{snapshot.name} is damaged at byte" in sentence


# -- a full disk -----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system takes root")
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill_up(path: Path) -> None:
    """Write a file until its disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(path.parent).free == 0


FULL = f"error storage unavailable: {os.strerror(errno.ENOSPC)} \n".encode()


def test_a_full_disk_stops_writes_and_nothing_else(small_disk: Path, tmp_path: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(400 << 10))
    node = Process(tmp_path / "node", variables={"NUN_DBS_DIR": str(small_disk / "dbs")})
    with node:
        node.create("d")
        client, watcher, frames = node.select("d"), node.select("d"), node.ws()
        assert frames.ask("use-db d tok") == [OK]
        assert watcher.ask("watch k") == [OK]
        assert watcher.ask("watch $connections") == [OK]
        assert client.ask("set k before") == [OK]
        assert watcher.line() + watcher.line() == b"changed k before\nchanged-version k 0 before\n"
        written = 0
        while (answer := client.ask(f"set filler{written} {'x' * 20_000}")) == [OK]:
            written += 1
            assert written < 100, "the disk does not get full"
        assert answer == [FULL]
        # Small writes fill what is left, then fail as well, on every transport.
        for small in ("set small " + "y" * 100, "set s"):
            while client.ask(small) == [OK]:
                pass
        assert client.ask("set k lost") == [FULL]
        assert client.ask("increment n") == [FULL]
        assert client.ask("remove k") == [FULL]
        assert frames.ask("set k lost") == [FULL]
        assert node.post("use-db d tok; set k lost; get k") == (
            "empty;storage unavailable: No space left on device;value before\n"
        )
        assert node.admin("create-db other tok").startswith(
            "valid auth\n;storage unavailable: No space left on device"
        )
        assert node.admin("snapshot true d").startswith("valid auth\n;storage unavailable: ")
        # In one run of commands the reads are right, and only the writes are refused.
        client.send(b"get k\nset k lost\nget k\nwatch k\nunwatch k\n")
        assert [client.answer() for _ in range(5)] == [
            [b"value before\n", OK],
            [FULL],
            [b"value before\n", OK],
            [OK],
            [OK],
        ]
        # Watches go on: that of a local key has events, that of `k` has none.
        with node.select("d"):
            lines = []
            while not lines or not lines[-1].startswith(b"changed-version $connections 5 "):
                lines.append(watcher.line())
                assert len(lines) < 100
            assert not any(b"changed k" in line or b"removed" in line for line in lines)
        ballast.unlink()
        assert client.ask("set k after") == [OK]
        got = b""
        while not got.endswith(b"changed-version k 1 after\n"):
            line = watcher.line()
            got += b"" if b"$connections" in line else line
        assert got == b"changed k after\nchanged-version k 1 after\n"
        assert "No space left on device" in node.log
        assert "Traceback" not in node.log
        held = contents(node)
        assert node.stop() == 0
        node.start()
        assert contents(node) == held
        assert len(held) >= written
        no_trace_of_trouble(node.log)


def test_a_node_stops_and_starts_in_order_on_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    ballast = small_disk / "ballast"
    node = Process(tmp_path / "node", variables={"NUN_DBS_DIR": str(small_disk / "dbs")})
    with node:
        node.create("d")
        with node.select("d") as client:
            assert client.ask("set k kept") == [OK]
            fill_up(ballast)
            while client.ask("set filler " + "x" * 1_000) == [OK]:
                pass
        assert node.stop() == 0
        assert "a snapshot could not be written, the one before stays" in node.log
        assert "Traceback" not in node.log
        status, output, errors = run_to_end(cwd=node.directory, **node.variables)
        if status:
            assert (status, output) == (1, "")
            assert "Traceback" not in errors
            assert "No space left on device" in errors
        ballast.unlink()
        node.start()
        assert contents(node)["k"] == "kept"
        assert node.stop() == 0


# -- one node a directory --------------------------------------------------------------------------


def test_a_second_node_on_the_same_directory_is_refused(node: Process) -> None:
    node.create("d")
    status, output, errors = run_to_end(cwd=node.directory, **node.variables)
    assert (status, output) == (1, "")
    assert "Traceback" not in errors
    (sentence,) = [line for line in errors.splitlines() if " critical " in line]
    assert "is used by another process" in sentence
    with node.select("d") as client:
        assert client.ask("set k 1") == [OK]
    with socket.create_connection(node.address("TCP"), LIMIT):
        pass
    node.kill()
    node.start()
    assert contents(node) == {"k": "1"}
