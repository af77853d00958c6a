"""Reading the log from a place in the middle looks through little of it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import pytest

from benchmarks.oplog_position import measure
from nuntwist.files import MemoryFiles
from nuntwist.oplog import segment
from nuntwist.oplog.reader import FIRST_WINDOW
from nuntwist.oplog.segment import NOTE_EVERY, segment_name
from nuntwist.oplog.segments import FileOplog
from tests.unit.conformance_oplog import EPOCH, all_of, op


class Counted(io.BytesIO):
    """A file that counts what is read of it."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        Counted.taken += len(data)
        return data


class CountingFiles(MemoryFiles):
    def open_read(self, name: str) -> BinaryIO:
        return Counted(super().open_read(name).read())


OPS = [op(index, b"key", b"value") for index in range(1, 6001)]


@pytest.fixture
def files() -> CountingFiles:
    """A log of six thousand small records, nine times as long as places are apart."""
    files = CountingFiles()
    log = FileOplog(files, 1)
    log.open()
    for one in OPS:
        log.append(EPOCH, [one])
    log.close()
    assert len(files.contents[segment_name(1)]) > 8 * NOTE_EVERY
    return files


def test_little_is_read_before_the_first_operation(files: CountingFiles) -> None:
    log = FileOplog(files, 1)
    log.open()
    for after in range(0, 6000, 97):
        Counted.taken = 0
        assert list(next(log.read(after))) == [OPS[after]]
        # The place is at most so far before it; each window but the first is twice the last.
        assert Counted.taken <= NOTE_EVERY + 2 * FIRST_WINDOW, after
    for after in range(0, 6000, 1499):
        assert all_of(log, after) == OPS[after:]


def test_what_is_appended_is_indexed_as_what_is_found_at_the_start(
    files: CountingFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[list[int]] = []
    for again in (False, True):
        fresh = files if again else CountingFiles()
        log = FileOplog(fresh, 1)
        log.open()
        for one in () if again else OPS:
            log.append(EPOCH, [one])
        read: list[int] = []
        for after in range(0, 6000, 307):
            Counted.taken = 0
            next(log.read(after))
            read.append(Counted.taken)
        noted.append(read)
    assert noted[0] == noted[1]
    monkeypatch.setattr(segment, "NOTE_EVERY", 1 << 30)
    log = FileOplog(files, 1)
    log.open()
    Counted.taken = 0
    next(log.read(5900))
    assert Counted.taken > 6 * NOTE_EVERY


def test_the_benchmark_finds_what_it_looks_for(tmp_path: Path) -> None:
    times = measure(str(tmp_path), 300_000, 20)
    assert len(times) == 20
    assert all(0 < taken < 10_000 for taken in times)
