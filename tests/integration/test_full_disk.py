"""A disk that gets full for real: a file system of 16 MiB, and a node that goes on beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.harness import OK, Lines, Process, no_trace_of_trouble, wait_until

SIZE = 16 << 20
VALUE = "x" * 60_000
AGAIN = 0.1
"""Seconds between two tries of a client that keeps trying."""
WITHIN = 30.0
"""Seconds within which writing must go on when there is space again; it is about one."""
TROUBLE = (
    "writes were refused because the log could not take them",
    "a snapshot could not be written",
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system takes root")
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


class Persistent(threading.Thread):
    """A client that tries again for as long as it is refused.

    :ivar kept: what it was told is kept.
    :ivar refused_at: when a write was refused last; the clock is monotonic.
    :ivar taken_at: when one was taken last.
    :ivar ended: why it could not go on.
    """

    def __init__(self, node: Process, name: str) -> None:
        super().__init__(daemon=True)
        self.client = node.select("d")
        self.kept: dict[str, str] = {}
        self.refused_at = self.taken_at = 0.0
        self.answers: set[bytes] = set()
        self.stopping = False
        self.ended: BaseException | None = None
        self._key = name

    def run(self) -> None:
        """Write until told to stop."""
        try:
            number = tried = 0
            while not self.stopping:
                # Each try with a value of its own: one that was refused must never be there.
                tried += 1
                key, value = f"{self._key}-{number}", f"{tried}-{VALUE}"
                (answer,) = self.client.ask(f"set {key} {value}")
                if answer == OK:
                    self.kept[key] = value
                    self.taken_at = time.monotonic()
                    number += 1
                else:
                    self.answers.add(answer)
                    self.refused_at = time.monotonic()
                    time.sleep(AGAIN)
        except (OSError, AssertionError) as error:
            self.ended = error

    def is_refused(self) -> bool:
        """Whether it has been, and nothing was taken since, for a while."""
        return self.refused_at > self.taken_at + 3 * AGAIN


def values(client: Lines, names: list[str]) -> dict[str, str]:
    """What the node holds under some keys."""
    client.send("".join(f"get {name}\n" for name in names).encode())
    found = {}
    for name in names:
        value, closing = client.answer()
        assert closing == OK
        found[name] = value.decode().removeprefix("value ").removesuffix("\n")
    return found


def names_of(client: Lines) -> list[str]:
    (listed, _) = client.ask("keys")
    names = [name for name in listed.decode().strip("\n").removeprefix("keys ").split(",") if name]
    return [name for name in names if name != "$connections"]


@pytest.mark.parametrize("durability", ["os", "interval", "disk"])
def test_a_full_disk_refuses_writes_and_takes_them_again_by_itself(
    disk: Path, tmp_path: Path, durability: str
) -> None:
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(SIZE // 2))
    variables = {"NUN_DBS_DIR": str(disk / "dbs"), "NUN_DURABILITY": durability}
    with Process(tmp_path / "node", variables=variables) as node:
        node.create("d")
        reader, watcher = node.select("d"), node.select("d")
        assert watcher.ask("watch $connections") == [OK]
        assert reader.ask("set there before") == [OK]
        writers = [Persistent(node, f"writer{number}") for number in range(3)]
        for writer in writers:
            writer.start()
        wait_until(lambda: all(one.is_refused() for one in writers), "a full disk")
        kept = sum(len(one.kept) for one in writers)
        assert kept > SIZE // 4 // len(VALUE)
        for writer in writers:
            assert all(b"storage unavailable: " in answer for answer in writer.answers)
        # Reads and watches go on.
        assert reader.ask("get there") == [b"value before\n", OK]
        for writer in writers:
            # One that began late may have found the disk full.
            last = list(writer.kept)[-1:]
            assert values(reader, last) == {name: writer.kept[name] for name in last}
        assert reader.ask("watch there") == [OK]
        with node.select("d"):
            lines = [watcher.line()]
            while not lines[-1].startswith(b"changed $connections 6"):
                lines.append(watcher.line())
        assert "writes: failing" in node.admin("oplog-state")
        freed = time.monotonic()
        ballast.unlink()
        wait_until(lambda: all(one.taken_at > freed for one in writers), "writes to go on", WITHIN)
        wait_until(lambda: sum(len(one.kept) for one in writers) > kept + 30, "more writes")
        for writer in writers:
            writer.stopping = True
            writer.join(WITHIN)
            assert (writer.is_alive(), writer.ended) == (False, None)
        assert "writes: taken" in node.admin("oplog-state")
        expected = {"there": "before"}
        for writer in writers:
            expected |= writer.kept
        assert values(reader, names_of(reader)) == expected
        no_trace_of_trouble(node.log, allowed=TROUBLE)
        for end in (node.kill, node.stop):
            end()
            node.start()
            with node.select("d") as client:
                assert values(client, names_of(client)) == expected
        no_trace_of_trouble(node.log)
