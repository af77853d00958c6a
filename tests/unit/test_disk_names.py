"""The names of files of snapshots, and what a next snapshot takes over."""

from __future__ import annotations

import pytest

from nuntwist.interfaces import SnapshotHeader
from nuntwist.storage.disk_names import (
    MANIFEST,
    WHOLE,
    generations,
    ids,
    is_left,
    manifest_name,
    part_name,
    whole_name,
)
from nuntwist.storage.manifest import Manifest, Part
from nuntwist.values import Epoch

OTHERS = ["database-1.manifest.bak", "database-01.manifest", "database-x-1-00.part", "nodes.op"]


def part(name: str) -> Part:
    return Part(name, index=5, entries=1, size=10, checksum=0)


def manifest(number: int, generation: int, *parts: Part | None) -> Manifest:
    header = SnapshotHeader(
        number, b"d", b"none", index=5, epoch=Epoch(1, 1), partitions=len(parts), stamp=0
    )
    return Manifest(header, generation, 1, parts)


def test_databases_are_known_by_their_files() -> None:
    names = [*OTHERS, *(manifest_name(number) for number in (12, 3)), whole_name(9)]
    assert ids(MANIFEST, names) == [3, 12]
    assert ids(WHOLE, names) == [9]


def test_a_generation_that_was_not_finished_counts() -> None:
    names = [part_name(3, 7, 0), part_name(3, 5, 11), part_name(4, 2, 0), *OTHERS]
    assert generations(names, {3: manifest(3, 6), 8: manifest(8, 4)}) == {3: 7, 4: 2, 8: 4}


@pytest.mark.parametrize(
    ("name", "left"),
    [
        (part_name(3, 6, 0), False),
        (part_name(3, 5, 0), True),
        (part_name(4, 1, 0), True),
        (manifest_name(3), False),
        (manifest_name(3) + ".new", True),
        (whole_name(3), True),
        (whole_name(4), False),
        (whole_name(4) + ".new", True),
        *((name, False) for name in OTHERS),
    ],
)
def test_only_what_no_manifest_names_is_left(name: str, left: bool) -> None:
    assert is_left(name, {part_name(3, 6, 0)}, {3}) is left


def test_the_next_snapshot_takes_over_what_has_not_changed() -> None:
    one, other = part("one"), part("other")
    before = manifest(3, 6, one, None, other)
    assert before.kept(3, {0}) == (None, None, other)
    assert before.kept(3, ()) == before.parts
    with pytest.raises(ValueError, match="as many"):
        before.kept(2, ())
