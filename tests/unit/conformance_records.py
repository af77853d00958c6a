"""What every IOplog does for the nodes that follow it; a base beside ``OplogConformance``."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from nuntwist.errors import StorageUnavailable
from nuntwist.files import MemoryFiles
from nuntwist.interfaces import IOplog, Received
from nuntwist.oplog.memory import MemoryOplog
from nuntwist.oplog.record import encode, split
from nuntwist.oplog.segment import SEGMENT_HEAD
from nuntwist.values import NO_EPOCH, Epoch, Position
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


def got(done: Deferred[int]) -> object:
    """What a Deferred has fired or failed with."""
    fired: list[object] = []
    done.addCallbacks(fired.append, lambda reason: fired.append(reason.value))
    return fired[0]


class RecordsConformance(OplogConformance):
    """Tests of any log, as ``OplogConformance``.

    :ivar files: of a log that has some.
    """

    files: MemoryFiles

    def kept(self, log: IOplog, name: str) -> bytes | None:
        """What a file holds that a log has kept its cut end in."""
        if isinstance(log, MemoryOplog):
            return log.kept.get(name)
        content = self.files.contents.get(name)
        return None if content is None else bytes(content)

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

    def test_their_epochs_never_fall(self) -> None:
        log = self.filled(run(1, 2))
        settled(log.append(LATER, run(3, 1)))
        for records in (
            [received(4, 1, EPOCH)],
            [received(4, 1, LATER), received(5, 1, EPOCH)],
            [received(4, 1, Epoch(LATER.number, LATER.node - 1))],
        ):
            with pytest.raises(ValueError, match=r"of epoch [34] was to be logged after epoch 4"):
                log.append_records(records)
        assert log.last == Position(LATER, 3)
        settled(log.append_records([received(4, 1, LATER)]))

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

    def test_it_knows_that_after_a_restart_too(self) -> None:
        log = self.opened()
        log.begin_after(Position(EPOCH, 7))
        log.close()
        log = self.again(log)
        assert (log.base, log.last) == (7, Position(EPOCH, 7))
        assert (log.epoch_at(6), log.epoch_at(7)) == (None, EPOCH)
        assert log.reigns(5) == ((EPOCH, 7),)
        settled(log.append(LATER, run(8, 1)))
        log.close()
        assert self.again(log).reigns(5) == ((EPOCH, 7), (LATER, 8))

    def test_no_epoch_is_none(self) -> None:
        """So that two logs that do not know it are not taken for the same."""
        log = self.opened()
        log.begin_after(Position(NO_EPOCH, 7))
        for _ in range(2):
            assert (log.last, log.epoch_at(7), log.reigns(5)) == (Position(NO_EPOCH, 7), None, ())
            log.close()
            log = self.again(log)

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

    # -- cutting -----------------------------------------------------------------------------

    @pytest.mark.parametrize("index", [0, 3, 4, 9, 10])
    def test_what_is_cut_off_is_kept(self, index: int) -> None:
        for again in (False, True):
            log = self.filled(run(1, 3), run(4, 1), run(5, 5))
            settled(log.append(LATER, run(10, 1)))
            settled(log.append_records([received(11, 2, LATER)]))
            if again:
                log.close()
                log = self.again(log)
            whole = log.records(0, 1 << 20)
            tail = log.records(index, 1 << 20)
            assert log.cut(index, "divergent") == 12 - index
            assert self.kept(log, "divergent") == SEGMENT_HEAD + tail
            for _ in range(2):
                self.is_cut(log, index)
                assert log.records(0, 1 << 20) + tail == whole
                log.close()
                log = self.again(log)
            third = Epoch(9, 1)
            settled(log.append_records([received(index + 1, 4, third)]))
            assert all_of(log) == run(1, index + 4)
            assert log.epoch_at(index + 1) == third

    def is_cut(self, log: IOplog, index: int) -> None:
        """It is as if it had never held more."""
        epoch = (NO_EPOCH, EPOCH, LATER)[(index > 0) + (index > 9)]
        assert all_of(log) == run(1, index)
        assert (log.last, log.first, log.count) == (Position(epoch, index), 1, index)
        assert log.last_stamp == (run(index, 1)[0][3] if index else 0)
        assert [log.epoch_at(one) for one in (index, index + 1)] == [
            epoch if index else None,
            None,
        ]
        reigns = ((EPOCH, 1), (LATER, 10))[: (index > 0) + (index > 9)]
        assert log.reigns(5) == reigns

    def test_its_size_is_as_of_one_that_never_held_more(self) -> None:
        log, other = self.filled(run(1, 3), run(4, 10)), self.filled(run(1, 3))
        log.cut(3, "divergent")
        assert log.size == other.size

    @pytest.mark.parametrize("index", [-1, 1, 2, 5, 8])
    def test_only_whole_records_are_cut_off(self, index: int) -> None:
        log = self.filled(run(1, 3), run(4, 1), run(5, 2))
        with pytest.raises(ValueError, match=f"no record ends with index {index}"):
            log.cut(index, "divergent")
        assert self.kept(log, "divergent") is None
        assert all_of(log) == run(1, 6)

    def test_where_there_is_nothing_to_cut_nothing_is_done(self) -> None:
        log = self.filled(run(1, 3))
        assert log.cut(3, "divergent") == 0
        assert self.kept(log, "divergent") is None

    def test_what_was_kept_is_never_overwritten(self) -> None:
        log = self.filled(run(1, 3), run(4, 1))
        log.cut(3, "divergent")
        kept = self.kept(log, "divergent")
        settled(log.append(LATER, run(4, 1)))
        with pytest.raises(ValueError, match="there is a file divergent already"):
            log.cut(3, "divergent")
        assert all_of(log) == run(1, 4)
        assert log.cut(3, "another") == 1
        assert self.kept(log, "divergent") == kept != self.kept(log, "another")

    def test_a_cut_goes_no_further_back_than_the_log(self) -> None:
        log = self.opened()
        log.begin_after(Position(EPOCH, 7))
        settled(log.append(LATER, run(8, 2)))
        with pytest.raises(ValueError, match="no record ends with index 6"):
            log.cut(6, "divergent")
        assert log.cut(7, "divergent") == 2
        for _ in range(2):
            assert (log.last, log.count, log.first) == (Position(EPOCH, 7), 0, 8)
            log.close()
            log = self.again(log)

    def test_a_closed_log_is_not_cut(self) -> None:
        log = self.filled(run(1, 1), run(2, 1))
        log.close()
        with pytest.raises(StorageUnavailable, match="closed"):
            log.cut(1, "divergent")
        assert all_of(self.again(log)) == run(1, 2)

    # -- a copy of all in its place ----------------------------------------------------------

    @pytest.mark.parametrize("index", [0, 3, 4, 9])
    def test_the_end_is_kept_and_stays(self, index: int) -> None:
        log = self.filled(run(1, 3), run(4, 1), run(5, 5), run(10, 2))
        tail = log.records(index, 1 << 20)
        assert got(log.keep(index, "divergent")) == 11 - index
        assert self.kept(log, "divergent") == SEGMENT_HEAD + tail
        # The same once more is no other file.
        assert got(log.keep(index, "divergent")) == 11 - index
        assert all_of(log) == run(1, 11)
        settled(log.append(LATER, run(12, 1)))
        assert isinstance(got(log.keep(index, "divergent")), ValueError)
        assert self.kept(log, "divergent") == SEGMENT_HEAD + tail

    def test_only_whole_records_are_kept(self) -> None:
        log = self.filled(run(1, 3), run(4, 1))
        assert isinstance(got(log.keep(2, "divergent")), ValueError)
        assert got(log.keep(4, "divergent")) == 0
        assert self.kept(log, "divergent") is None
        log.close()
        assert isinstance(got(log.keep(3, "divergent")), StorageUnavailable)

    @pytest.mark.parametrize("index", [2, 5, 6, 7, 40])
    def test_a_log_that_was_replaced_goes_on_elsewhere(self, index: int) -> None:
        log = self.filled(run(1, 3), run(4, 2), run(6, 1))
        settled(log.append(LATER, run(7, 1)))
        position = Position(Epoch(9, 9), index)
        log.replace(position)
        assert log.last_stamp == 0
        for _ in range(2):
            assert (log.last, log.count, log.first) == (position, 0, index + 1)
            assert log.base == index
            assert all_of(log) == []
            assert log.records(index, 1 << 20) == b""
            assert log.reigns(5) == ((position.epoch, index),)
            assert [log.epoch_at(one) for one in (index - 1, index, index + 1)] == [
                None,
                position.epoch,
                None,
            ]
            log.close()
            log = self.again(log)
        settled(log.append_records([received(index + 1, 3, Epoch(9, 9))]))
        settled(log.append(Epoch(10, 1), run(index + 4, 1)))
        log.close()
        log = self.again(log)
        assert all_of(log) == run(index + 1, 4)
        assert log.reigns(5) == ((Epoch(9, 9), index), (Epoch(10, 1), index + 4))

    def test_its_size_is_as_of_a_new_one(self) -> None:
        log, other = self.filled(run(1, 3)), self.opened()
        log.replace(Position(LATER, 9))
        assert log.size == other.size

    def test_a_closed_log_is_not_replaced(self) -> None:
        log = self.filled(run(1, 1))
        log.close()
        with pytest.raises(StorageUnavailable, match="closed"):
            log.replace(Position(LATER, 9))
        assert all_of(self.again(log)) == run(1, 1)
