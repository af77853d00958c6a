"""What nodes keep of operations that were cut off their logs."""

from __future__ import annotations

from collections.abc import Iterable

from nuntwist.cluster.offers import first_of
from nuntwist.files import Files
from nuntwist.oplog.inspect import Logged, operations_in
from nuntwist.values import VALUE


def values_in_tails(disks: Iterable[Files]) -> set[bytes]:
    """All values in the files ``divergent-EPOCH-INDEX.op`` of some nodes."""
    values: set[bytes] = set()
    for files in disks:
        for name in files.names():
            if first_of(name) is None:
                continue
            for found in operations_in(files, name):
                value = found.op[VALUE] if isinstance(found, Logged) else None
                if value is not None:
                    values.add(value)
    return values
