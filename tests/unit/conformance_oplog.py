"""What every IOplog does. An implementation's tests are a class with this one as its base."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from zope.interface.verify import verifyObject

from nuntwist.errors import StorageUnavailable
from nuntwist.interfaces import IOplog
from nuntwist.values import (
    CREATE_DATABASE,
    DROP_DATABASE,
    INDEX,
    REMOVE,
    SET,
    STAMP,
    START,
    Epoch,
    Op,
    Position,
)

EPOCH = Epoch(3, 0xABCDEF)
LATER = Epoch(4, 0x123456)


def op(index: int, key: bytes = b"k", value: bytes | None = b"v", version: int = 0) -> Op:
    """A SET, or a REMOVE where the value is None, whose stamp follows from its index."""
    kind = REMOVE if value is None else SET
    return (value, version, index, 1_000 + index, kind, 7, key)


def run(first: int, count: int) -> list[Op]:
    """Operations in a row."""
    return [
        op(index, b"key-%d" % index, b"x" * (index % 50)) for index in range(first, first + count)
    ]


def all_of(log: IOplog, after: int = 0) -> list[Op]:
    """Every operation after an index."""
    return [one for batch in log.read(after) for one in batch]


class OplogConformance:
    """Tests of any log; ``make`` gives a fresh one, not open yet."""

    def make(self) -> IOplog:
        raise NotImplementedError

    def again(self, log: IOplog) -> IOplog:
        """What a restart finds of a closed log, open."""
        raise NotImplementedError

    def opened(self) -> IOplog:
        """A fresh log, open."""
        log = self.make()
        log.open()
        return log

    def filled(self, *batches: Sequence[Op]) -> IOplog:
        """An open log with some batches."""
        log = self.opened()
        for ops in batches:
            durable = log.append(EPOCH, ops)
            fired: list[None] = [None] if durable is None else []
            if durable is not None:
                durable.addCallback(fired.append)
            assert fired == [None]
        return log

    def test_it_provides_the_interface(self) -> None:
        assert verifyObject(IOplog, self.opened())

    def test_a_fresh_log_is_empty(self) -> None:
        log = self.opened()
        assert (log.last, log.last_stamp, log.count) == (START, 0, 0)
        assert list(log.read(0)) == []

    def test_it_gives_back_what_it_was_given(self) -> None:
        ops: list[Op] = [
            (b"none hash", 0, 1, 5, CREATE_DATABASE, 1, b"d"),
            (b"", -2, 2, 6, SET, 1, b"empty"),
            ("värde".encode(), 2**63 - 1, 3, 7, SET, 0, "clé".encode()),
            (b"a\nb\0;\xff", -(2**63), 4, 2**63, SET, 2**64 - 1, b""),
            (None, -1, 5, 2**64 - 2, REMOVE, 1, b"empty"),
            (None, 0, 6, 2**64 - 1, DROP_DATABASE, 1, b"d"),
        ]
        log = self.filled(ops[:2], ops[2:])
        found = all_of(log)
        # A dropped database has no value; a log may give that back as an empty one.
        assert found[:5] == ops[:5]
        assert found[5][1:] == ops[5][1:]
        assert not found[5][0]

    def test_batches_stay_batches(self) -> None:
        batches = [run(1, 1), run(2, 3), run(5, 300), run(305, 1)]
        log = self.filled(*batches)
        assert [list(batch) for batch in log.read(0)] == batches

    def test_read_begins_after_any_index(self) -> None:
        ops = run(1, 12)
        log = self.filled(ops[:1], ops[1:6], ops[6:7], ops[7:])
        for after in range(14):
            assert all_of(log, after) == ops[after:], after
            assert all(log.read(after)), "an empty batch"

    def test_it_says_what_it_holds(self) -> None:
        log = self.filled(run(1, 3))
        assert log.last == Position(EPOCH, 3)
        size = log.size
        log.append(LATER, run(4, 2))
        assert log.last == Position(LATER, 5)
        assert (log.count, log.last_stamp) == (5, run(4, 2)[-1][STAMP])
        assert log.size > size

    def test_a_restart_finds_the_same(self) -> None:
        log = self.filled(run(1, 3), run(4, 1))
        log.append(LATER, run(5, 7))
        before = log.last, log.last_stamp, log.count, log.size
        log.close()
        log = self.again(log)
        assert (log.last, log.last_stamp, log.count, log.size) == before
        assert all_of(log) == run(1, 11)
        log.append(LATER, run(12, 1))
        assert all_of(log, 10) == run(11, 2)

    def test_a_read_under_way_sees_what_was_there(self) -> None:
        log = self.filled(run(1, 2), run(3, 2))
        reading = log.read(0)
        found = list(next(reading))
        log.append(EPOCH, run(5, 2))
        for batch in reading:
            found += batch
        assert found[:4] == run(1, 4)
        assert found in (run(1, 4), run(1, 6))

    @pytest.mark.parametrize("first", [1, 2, 4, 5])
    def test_a_gap_or_a_repetition_is_refused(self, first: int) -> None:
        log = self.filled(run(1, 2))
        with pytest.raises(ValueError, match=f"index {first} was to be logged after 2"):
            log.append(EPOCH, run(first, 2))
        log.append(EPOCH, run(3, 1))
        assert [one[INDEX] for one in all_of(log)] == [1, 2, 3]

    def test_a_closed_log_takes_nothing(self) -> None:
        log = self.filled(run(1, 1))
        log.close()
        log.close()
        with pytest.raises(StorageUnavailable, match="closed"):
            log.append(EPOCH, run(2, 1))
        assert self.again(log).count == 1

    def test_a_sync_waits_for_all_that_was_appended(self) -> None:
        log = self.filled(run(1, 3))
        outcome: list[object] = []
        log.sync().addBoth(outcome.append)
        assert outcome == [None]
        log.append(EPOCH, run(4, 1))
        assert self.again(log).count == 4

    def test_what_is_forgotten_is_the_beginning(self) -> None:
        log = self.filled(*[run(first, 5) for first in range(1, 50, 5)])
        freed: list[int] = []
        before = log.size
        log.forget(23, keep=0).addCallback(freed.append)
        assert freed == [before - log.size]
        assert log.first <= 24
        assert log.count == 50 - log.first + 1
        assert all_of(log, 23) == run(24, 27)
        log.append(EPOCH, run(51, 1))
        assert log.last == Position(EPOCH, 51)
        assert all_of(log, log.first - 1) == run(log.first, 52 - log.first)
