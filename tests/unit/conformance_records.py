"""What every IOplog does for the nodes that follow it; a base beside ``OplogConformance``."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from nuntwist.errors import StorageUnavailable
from nuntwist.interfaces import Received
from nuntwist.oplog.record import encode, split
from nuntwist.values import Epoch, Position
from tests.unit.conformance_oplog import EPOCH, LATER, OplogConformance, all_of, run

OTHER_NODE = 0x77


def received(first: int, count: int, epoch: Epoch = EPOCH) -> Received:
    """A record of another node."""
    ops = run(first, count)
    return Received(epoch, ops, encode(epoch, OTHER_NODE, ops))


def settled(durable: Deferred[None] | None) -> None:
    """It is durable by now."""
    fired: list[object] = []
    if durable is not None:
        durable.addBoth(fired.append)
        assert fired == [None]


class RecordsConformance(OplogConformance):
    """Tests of any log, as ``OplogConformance``."""

    def test_records_are_given_as_they_were_appended(self) -> None:
        log = self.filled(run(1, 3), run(4, 1), run(5, 20))
        whole = log.records(0, 1 << 20)
        assert [list(one.ops) for one in split(whole, "x")] == [run(1, 3), run(4, 1), run(5, 20)]
        for after, following in ((0, 3), (3, 2), (4, 1), (24, 0)):
            data = log.records(after, 1 << 20)
            assert whole.endswith(data)
            assert len(split(data, "x")) == following
        assert self.again(log).records(0, 1 << 20) == whole

    def test_they_are_given_in_pieces(self) -> None:
        log = self.filled(*[run(first, 2) for first in range(1, 40, 2)])
        whole = log.records(0, 1 << 20)
        one = len(whole) // 20
        for limit in (1, one - 30, 3 * one, 7 * one):
            found, after = b"", 0
            while piece := log.records(after, limit):
                records = split(piece, "x")
                assert len(piece) <= max(limit, one + 100)
                assert len(records) == 1 or len(piece) <= limit
                found += piece
                after = records[-1].ops[-1][2]
            assert found == whole

    @pytest.mark.parametrize("after", [1, 2, 4, 9])
    def test_no_piece_begins_within_a_record_or_beyond_the_end(self, after: int) -> None:
        log = self.filled(run(1, 3), run(4, 2))
        with pytest.raises(ValueError, match=f"no record begins with index {after + 1}"):
            log.records(after, 1_000)

    def test_records_of_another_node_are_kept_byte_for_byte(self) -> None:
        log = self.filled(run(1, 2))
        mine = log.records(0, 1 << 20)
        records = [received(3, 4), received(7, 1), received(8, 3, LATER)]
        settled(log.append_records(records))
        theirs = b"".join(one.data for one in records)
        assert log.records(2, 1 << 20) == theirs
        assert log.records(0, 1 << 20) in (mine + theirs, mine)
        assert log.last == Position(LATER, 10)
        assert log.last_stamp == run(10, 1)[0][3]
        assert all_of(log) == run(1, 10)
        before = log.size, log.count, log.appended
        log = self.again(log)
        assert all_of(log) == run(1, 10)
        assert (log.last, log.size, log.count) == (Position(LATER, 10), *before[:2])
        settled(log.append(LATER, run(11, 1)))

    def test_they_must_follow_on_the_last_one_and_on_each_other(self) -> None:
        log = self.filled(run(1, 2))
        with pytest.raises(ValueError, match="index 4 was to be logged after 2"):
            log.append_records([received(4, 1)])
        with pytest.raises(ValueError, match="index 5 was to be logged after 3"):
            log.append_records([received(3, 1), received(5, 1)])
        assert log.last == Position(EPOCH, 2)
        settled(log.append_records([received(3, 1)]))

    def test_a_closed_log_takes_no_records(self) -> None:
        log = self.filled(run(1, 1))
        log.close()
        with pytest.raises(StorageUnavailable, match="closed"):
            log.append_records([received(2, 1)])

    def test_it_knows_the_epoch_of_each_operation(self) -> None:
        log = self.filled(run(1, 2), run(3, 1))
        settled(log.append(LATER, run(4, 2)))
        for one in (log, self.again(log)):
            epochs = [one.epoch_at(index) for index in range(7)]
            assert epochs == [None, EPOCH, EPOCH, EPOCH, LATER, LATER, None]
            assert one.reigns(9) == ((EPOCH, 1), (LATER, 4))
            assert one.reigns(1) == ((LATER, 4),)

    def test_epochs_come_with_records(self) -> None:
        log = self.opened()
        third = Epoch(9, 1)
        settled(log.append_records([received(1, 2), received(3, 2, LATER), received(5, 1, LATER)]))
        settled(log.append_records([received(6, 1, third)]))
        for one in (log, self.again(log)):
            assert one.reigns(9) == ((EPOCH, 1), (LATER, 3), (third, 6))
            assert [one.epoch_at(index) for index in (2, 3, 5, 6)] == [EPOCH, LATER, LATER, third]

    def test_of_what_is_forgotten_the_last_epoch_is_known(self) -> None:
        log = self.filled(*[run(first, 5) for first in range(1, 30, 5)])
        for first in range(31, 50, 5):
            settled(log.append(LATER, run(first, 5)))
        log.forget(40, keep=0)
        first = log.first
        if first > 1:
            assert log.epoch_at(first - 1) is not None
            assert log.epoch_at(first) == (LATER if first > 30 else EPOCH)
        assert log.reigns(1) == ((LATER, 31),)

    def test_a_log_that_begins_later_knows_what_it_follows_on(self) -> None:
        log = self.opened()
        log.begin_after(Position(EPOCH, 7))
        assert (log.epoch_at(6), log.epoch_at(7)) == (None, EPOCH)
        assert log.records(7, 1_000) == b""
        settled(log.append_records([received(8, 1, LATER)]))
        assert (log.epoch_at(7), log.epoch_at(8)) == (EPOCH, LATER)
        assert log.records(7, 1_000) == received(8, 1, LATER).data

    def test_who_wants_to_know_is_told_what_is_written(self) -> None:
        log = self.opened()
        assert log.written is None
        told: list[tuple[int, int, bytes]] = []
        log.written = lambda *what: told.append(what)
        settled(log.append(EPOCH, run(1, 3)))
        settled(log.append_records([received(4, 1), received(5, 2)]))
        assert [what[:2] for what in told] == [(1, 3), (4, 6)]
        assert [what[2] for what in told] == [
            log.records(0, 1),
            received(4, 1).data + received(5, 2).data,
        ]
