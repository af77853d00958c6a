"""The names of the files that snapshots consist of, on a disk.

::

    database-ID.manifest                   of what the snapshot consists
    database-ID-GENERATION-PARTITION.part  a partition
    database-ID.snapshot                   a whole database; of releases before partitions
    database-ID.manifest.new               not finished, as is .snapshot.new

What else is there is nobody's business here: it is never read and never removed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from nuntwist.storage.manifest import Manifest

_NUMBER: Final = "(0|[1-9][0-9]{0,19})"
MANIFEST: Final = re.compile(rf"database-{_NUMBER}\.manifest")
PART: Final = re.compile(rf"database-{_NUMBER}-([0-9]{{1,20}})-[0-9]{{2,5}}\.part")
WHOLE: Final = re.compile(rf"database-{_NUMBER}\.snapshot")
"""What releases before partitions wrote: a whole database in one file."""
UNFINISHED: Final = re.compile(rf"database-{_NUMBER}\.(manifest|snapshot)\.new")


def manifest_name(database_id: int) -> str:
    """The file that says of what the snapshot of a database consists."""
    return f"database-{database_id}.manifest"


def part_name(database_id: int, generation: int, partition: int) -> str:
    """The file of one partition of a snapshot."""
    return f"database-{database_id}-{generation}-{partition:02d}.part"


def whole_name(database_id: int) -> str:
    """The file of a whole database, as earlier releases wrote it."""
    return f"database-{database_id}.snapshot"


def ids(pattern: re.Pattern[str], names: Iterable[str]) -> list[int]:
    """The databases that have files of a kind, rising."""
    return sorted(int(match[1]) for name in names if (match := pattern.fullmatch(name)))


def generations(names: Iterable[str], manifests: Mapping[int, Manifest]) -> dict[int, int]:
    """The highest generation there is of each database, those that were not finished included:
    their files are removed while new ones are written."""
    found = {number: one.generation for number, one in manifests.items()}
    for name in names:
        match = PART.fullmatch(name)
        if match is not None:
            number = int(match[1])
            found[number] = max(found.get(number, 0), int(match[2]))
    return found


def is_left(name: str, kept: Collection[str], manifests: Collection[int]) -> bool:
    """Whether a file is left of a snapshot that was not finished, or of the one before."""
    if UNFINISHED.fullmatch(name):
        return True
    if PART.fullmatch(name):
        return name not in kept
    whole = WHOLE.fullmatch(name)
    return whole is not None and int(whole[1]) in manifests
