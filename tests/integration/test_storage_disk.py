"""The log, the snapshots and the file layer on a real disk."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from twisted.internet.defer import maybeDeferred

from nuntwist.cluster.identity import Identity
from nuntwist.errors import StartError
from nuntwist.files import replace_durably, write_all
from nuntwist.files_on_disk import DiskFiles
from nuntwist.interfaces import IOplog, IStorage
from nuntwist.oplog.segment import segment_name
from nuntwist.oplog.segments import FileOplog
from nuntwist.storage.disk import DiskStorage
from nuntwist.values import Epoch
from tests.unit.conformance_oplog import EPOCH, OplogConformance, all_of, run
from tests.unit.conformance_storage import StorageConformance, entries, header, load


class TestFileOplogOnDisk(OplogConformance):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.files = DiskFiles(str(tmp_path / "dbs"))

    def make(self) -> IOplog:
        return FileOplog(self.files, 1)

    def again(self, log: IOplog) -> IOplog:
        log = self.make()
        log.open()
        return log


class TestDiskStorageOnDisk(StorageConformance):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.files = DiskFiles(str(tmp_path / "dbs"))

    def make(self) -> IStorage:
        return DiskStorage(self.files, maybeDeferred)

    def again(self, storage: IStorage) -> IStorage:
        storage = self.make()
        storage.open()
        return storage


# -- the directory -------------------------------------------------------------------------------


def test_the_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    files = DiskFiles(str(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    files.append_to("x").close()
    assert (tmp_path / "a" / "b" / "x").stat().st_mode & 0o777 == 0o600
    assert DiskFiles(str(tmp_path / "a" / "b")).names() == ["x"]


def test_a_file_in_the_place_of_the_directory_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StartError, match=r"^The data directory \S+ cannot be used: .*\.$"):
            DiskFiles(str(path))
    assert (tmp_path / "file").read_bytes() == b"x"


def test_files_do_what_those_in_memory_do(tmp_path: Path) -> None:
    files = DiskFiles(str(tmp_path))
    handle = files.append_to("b")
    write_all(handle, b"hello")
    handle.truncate(4)
    handle.write(b"!")
    handle.sync()
    assert (handle.size, files.size("b")) == (5, 5)
    handle.close()
    # The number of the descriptor may be another file's now: that one must stay open.
    with (tmp_path / "other").open("wb") as other:
        handle.close()
        other.write(b"x")
    (tmp_path / "other").unlink()
    (tmp_path / "a directory").mkdir()
    files.append_to("a").close()
    assert files.names() == ["a", "b"]
    files.rename("b", "a")
    with files.open_read("a") as file:
        assert file.read() == b"hell!"
    replace_durably(files, "a", b"new")
    assert (files.names(), files.size("a")) == (["a"], 3)
    files.remove("a")
    assert files.names() == []
    for missing in (files.open_read, files.size, files.remove):
        with pytest.raises(FileNotFoundError):
            missing("a")


HOLD = """
import sys
from nuntwist.files_on_disk import DiskFiles
DiskFiles(sys.argv[1]).lock()
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_kept_out_until_the_first_is_gone(tmp_path: Path) -> None:
    files = DiskFiles(str(tmp_path))
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"locked\n"
        with pytest.raises(StartError) as caught:
            files.lock()
        assert str(caught.value).startswith(
            f"The data directory {tmp_path} is used by another process;"
        )
        child.send_signal(signal.SIGKILL)
        child.wait(30)
    files.lock()
    assert files.names() == []
    with pytest.raises(StartError, match="used by another process"):
        DiskFiles(str(tmp_path)).lock()
    files.unlock()
    files.unlock()
    after = DiskFiles(str(tmp_path))
    after.lock()
    after.unlock()


def test_a_lock_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(StartError, match=r"^The data directory \S+ cannot be locked: .*\.$"):
        DiskFiles(str(tmp_path)).lock()


def test_an_identity_stays(tmp_path: Path) -> None:
    one = Identity(DiskFiles(str(tmp_path)), random.Random(1))
    one.raise_epoch(Epoch(5, one.node_id))
    again = Identity(DiskFiles(str(tmp_path)), random.Random(2))
    assert (again.node_id, again.epoch) == (one.node_id, Epoch(5, one.node_id))


# -- faults --------------------------------------------------------------------------------------


SIZE_LIMIT = 20_000

_LIMITED = f"""
import resource, signal, sys
from twisted.internet.defer import maybeDeferred
from nuntwist.errors import StorageUnavailable
from nuntwist.files_on_disk import DiskFiles
from nuntwist.oplog.segments import FileOplog
from nuntwist.storage.disk import DiskStorage
from tests.unit.conformance_oplog import EPOCH, run
from tests.unit.conformance_storage import entries, header, save
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({SIZE_LIMIT}, {SIZE_LIMIT}))
files = DiskFiles(sys.argv[1])
"""


def limited(directory: Path, program: str) -> str:
    """Run a program in a process no file of which grows beyond ``SIZE_LIMIT`` bytes: a write
    over it is short, then fails. In a child, because the limit holds for all its files.

    :return: what it prints.
    """
    command = [sys.executable, "-c", _LIMITED + program, str(directory)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=60, check=True
    )
    return done.stdout


def test_a_real_short_write_is_cut_back(tmp_path: Path) -> None:
    program = f"""
log = FileOplog(files, 1)
log.open()
while log.size < {SIZE_LIMIT} - 1_200:
    log.append(EPOCH, run(log.count + 1, 20))
try:
    log.append(EPOCH, run(log.count + 1, 20))
except StorageUnavailable as error:
    print(log.count, log.size, error)
"""
    last, size, *error = limited(tmp_path, program).split(maxsplit=2)
    assert os.strerror(errno.EFBIG) in error[0]
    assert int(last) > 100
    path = tmp_path / segment_name(1)
    assert path.stat().st_size == int(size) < SIZE_LIMIT
    again = FileOplog(DiskFiles(str(tmp_path)), 1)
    again.open()
    assert all_of(again) == run(1, int(last))
    again.append(EPOCH, run(int(last) + 1, 1))


def test_a_real_snapshot_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    program = f"""
storage = DiskStorage(files, maybeDeferred)
storage.open()
save(storage, header(), entries(7, 10))
writer = storage.begin(header(index=9), None)
try:
    writer.write(0, entries(7, 10, b"x" * {SIZE_LIMIT}))
except StorageUnavailable as error:
    print(error)
writer.abort()
"""
    assert os.strerror(errno.EFBIG) in limited(tmp_path, program)
    storage = DiskStorage(DiskFiles(str(tmp_path)), maybeDeferred)
    storage.open()
    assert load(storage) == {7: (header(), entries(7, 10))}
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["database-7-1-00.part", "database-7.manifest"]


def test_a_log_of_a_killed_process_holds_what_it_returned_from(tmp_path: Path) -> None:
    program = """
import sys
from nuntwist.files_on_disk import DiskFiles
from nuntwist.oplog.segments import FileOplog
from tests.unit.conformance_oplog import EPOCH, run
log = FileOplog(DiskFiles(sys.argv[1]), 1)
log.open()
first = 1
while True:
    log.append(EPOCH, run(first, 7))
    first += 7
    print(first - 1, flush=True)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        told = [int(child.stdout.readline()) for _ in range(200)]
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().splitlines(keepends=True)
    told += [int(line) for line in rest if line.endswith(b"\n")]
    log = FileOplog(DiskFiles(str(tmp_path)), 1)
    log.open()
    assert log.count >= told[-1]
    assert log.count % 7 == 0
    assert all_of(log) == run(1, log.count)
