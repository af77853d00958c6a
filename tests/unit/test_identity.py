"""Who a node is, the epochs it has seen, and the election of a node alone."""

from __future__ import annotations

import errno
import json
import random
from contextlib import suppress

import pytest

from nuntwist.cluster.alone import AloneElection
from nuntwist.cluster.identity import FILE_NAME, Identity, _check
from nuntwist.errors import StartError
from nuntwist.files import MemoryFiles, Stopped
from nuntwist.values import NO_EPOCH, Epoch


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles()


def identity(files: MemoryFiles, seed: int = 1) -> Identity:
    return Identity(files, random.Random(seed))


def test_an_id_is_made_once(files: MemoryFiles) -> None:
    first = identity(files, 1)
    assert first.node_id == random.Random(1).getrandbits(64)
    assert first.epoch == NO_EPOCH
    files.restart(power_lost=True)
    assert identity(files, 2).node_id == first.node_id
    assert identity(MemoryFiles(), 2).node_id != first.node_id


def test_an_id_is_never_zero(files: MemoryFiles) -> None:
    class Zero(random.Random):
        def getrandbits(self, count: int) -> int:
            return 0

    assert Identity(files, Zero()).node_id == 1


def test_a_higher_epoch_is_kept_and_a_lower_one_is_not(files: MemoryFiles) -> None:
    one = identity(files)
    for given, kept in [
        (Epoch(3, 9), Epoch(3, 9)),
        (Epoch(2, 2**64 - 1), Epoch(3, 9)),
        (Epoch(3, 8), Epoch(3, 9)),
        (Epoch(3, 10), Epoch(3, 10)),
        (Epoch(2**64 - 1, 2**64 - 1), Epoch(2**64 - 1, 2**64 - 1)),
    ]:
        one.raise_epoch(given)
        assert one.epoch == kept
        files.restart(power_lost=True)
        assert identity(files, 5).epoch == kept


def test_an_epoch_that_is_not_higher_costs_no_write(files: MemoryFiles) -> None:
    one = identity(files)
    one.raise_epoch(Epoch(3, 9))
    steps = files.steps
    one.raise_epoch(Epoch(3, 9))
    assert files.steps == steps


@pytest.mark.parametrize("operation", ["open", "write", "sync", "rename"])
def test_an_epoch_that_cannot_be_kept_is_not_taken(files: MemoryFiles, operation: str) -> None:
    one = identity(files)
    one.raise_epoch(Epoch(1, 1))
    files.failing[operation] = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        one.raise_epoch(Epoch(2, 1))
    assert one.epoch == Epoch(1, 1)
    files.failing.clear()
    assert identity(files).epoch == Epoch(1, 1)


def test_every_flipped_bit_of_the_file_is_found(files: MemoryFiles) -> None:
    identity(files).raise_epoch(Epoch(12, 0xABC))
    whole = bytes(files.contents[FILE_NAME])
    before = identity(files)
    for at in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            files.contents[FILE_NAME] = damaged
            if whole[at : at + 1].isspace() and damaged[at : at + 1] in b" \t\r\n":
                # White space that became other white space.
                found = identity(files, 99)
                assert (found.node_id, found.epoch) == (before.node_id, before.epoch)
                continue
            with pytest.raises(StartError, match="is damaged: restore it from a backup"):
                identity(files, 99)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"7", b"null", b'"x"', b"\xff", b"{", b"[" * 100_000]
)
def test_another_file_is_told(files: MemoryFiles, content: bytes) -> None:
    files.contents[FILE_NAME] = bytearray(content)
    with pytest.raises(StartError, match=r"node\.json of the data directory is damaged"):
        identity(files)
    assert files.contents[FILE_NAME] == content


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("node_id", value) for value in ("0", "-1", "1_0", " 1", "", "0x1", "1" * 17, 1, None)),
        *(("epoch", value) for value in (-1, 1.5, float("inf"), "1", True, 1 << 64, None)),
        *(("reached", value) for value in (-1, float("nan"), "1", 1 << 64)),
        *(("formed", value) for value in ("-1", "x", 1)),
    ],
)
def test_a_field_that_is_something_else_is_told(
    files: MemoryFiles, field: str, value: object
) -> None:
    identity(files)
    kept = json.loads(files.contents[FILE_NAME]) | {field: value}
    del kept["check"]
    kept["check"] = _check(kept)
    files.contents[FILE_NAME] = bytearray(json.dumps(kept).encode())
    with pytest.raises(StartError, match=r"node\.json of the data directory is damaged"):
        identity(files)


def test_a_directory_that_cannot_be_written_is_told(files: MemoryFiles) -> None:
    files.failing["write"] = errno.ENOSPC
    with pytest.raises(StartError, match=r"cannot be used: No space left on device\.$"):
        identity(files)


# -- alone ---------------------------------------------------------------------------------------


def test_alone_every_start_wins_a_new_epoch(files: MemoryFiles) -> None:
    won: list[Epoch] = []
    node_id = identity(files).node_id
    for _ in range(3):
        election = AloneElection(identity(files))
        election.start(won.append)
        election.start(won.append)
        files.restart(power_lost=True)
    assert won == [Epoch(number, node_id) for number in range(1, 7)]


def test_an_epoch_is_durable_before_it_is_used(files: MemoryFiles) -> None:
    used: list[Epoch] = []
    for stop_at in range(8):
        one = identity(files)
        files.stop_at = files.steps + stop_at
        with suppress(Stopped):
            AloneElection(one).start(used.append)
        files.restart(power_lost=True)
        assert identity(files).epoch >= max(used, default=NO_EPOCH)
    assert used
    assert len(set(used)) == len(used)


def test_an_election_that_cannot_be_kept_is_not_won(files: MemoryFiles) -> None:
    election = AloneElection(identity(files))
    files.failing["sync"] = errno.EIO
    won: list[Epoch] = []
    with pytest.raises(StartError, match=r"^The epoch cannot be kept: Input/output error\.$"):
        election.start(won.append)
    assert won == []


def test_an_epoch_seen_elsewhere_is_gone_beyond(files: MemoryFiles) -> None:
    one = identity(files)
    one.raise_epoch(Epoch(41, 2**64 - 1))
    won: list[Epoch] = []
    AloneElection(one).start(won.append)
    assert won == [Epoch(42, one.node_id)]
