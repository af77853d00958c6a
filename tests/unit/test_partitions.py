"""How a snapshot splits a database, and how entries come into its partitions."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from nuntwist.core.database import Database, partition_of
from nuntwist.core.limits import Limits
from nuntwist.core.partitions import Blocks, partitions_for
from nuntwist.interfaces import SnapshotHeader
from nuntwist.values import KEY, SET, Epoch, Op

LIMITS = Limits(partitions=8, one_partition=10)


def entry(number: int) -> Op:
    return (b"v", 0, number + 1, 1, SET, 7, b"k%d" % number)


class Writer:
    """Keeps what is written.

    :ivar written: the blocks, each with its partition.
    """

    def __init__(self) -> None:
        self.written: list[tuple[int, list[Op]]] = []

    def write(self, partition: int, entries: Sequence[Op]) -> None:
        assert entries
        self.written.append((partition, list(entries)))


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("changed", [None, {0}, {0, 5}])
def test_each_entry_comes_into_its_partition_if_that_is_written(
    count: int, changed: set[int] | None
) -> None:
    writer, chance, entries = Writer(), random.Random(1), [entry(number) for number in range(300)]
    blocks, at = Blocks(writer, count, 20, changed), 0
    while at < len(entries):
        some = chance.randrange(40)
        blocks.add(entries[at : at + some])
        at += some
    blocks.finish()
    written = [(number, op) for number, block in writer.written for op in block]
    wanted = [(partition_of(op[KEY], count), op) for op in entries]
    assert sorted(written) == sorted(
        (number, op) for number, op in wanted if changed is None or number in changed
    )


def test_only_the_last_block_of_a_partition_is_small() -> None:
    writer = Writer()
    blocks = Blocks(writer, 4, 20)
    for number in range(500):
        blocks.add([entry(number)])
    before = len(writer.written)
    assert {len(block) for _, block in writer.written} == {20}
    blocks.finish()
    assert sorted(number for number, _ in writer.written[before:]) == [0, 1, 2, 3]
    blocks = Blocks(writer, 4, 20)
    blocks.finish()
    assert len(writer.written) == before + 4


def held(partitions: int) -> SnapshotHeader:
    return SnapshotHeader(
        7, b"d", b"none", index=5, epoch=Epoch(1, 1), partitions=partitions, stamp=0
    )


@pytest.mark.parametrize(
    ("keys", "before", "partitions"),
    [
        (9, None, 1),
        (10, None, 8),
        (9, 1, 1),
        (10, 1, 8),
        (0, 4, 4),
        (10, 4, 4),
        (0, 8, 8),
        (0, 16, 1),
    ],
)
def test_a_database_that_is_split_stays_so(keys: int, before: int | None, partitions: int) -> None:
    database = Database(7, b"d", b"none")
    for number in range(keys):
        database.store(entry(number))
    last = None if before is None else held(before)
    assert partitions_for(database, last, LIMITS) == partitions
