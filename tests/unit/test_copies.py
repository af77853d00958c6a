"""A copy of all, from a primary to a node whose log parts where the primary's does not reach."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import pytest

from nuntwist.cluster.copies import (
    CopyBegins,
    CopyEnds,
    CopyLost,
    CopyPiece,
    CopyTaken,
    CopyWanted,
    entries_of,
    pieces_of,
)
from nuntwist.cluster.copy_receiver import AGAIN, Stage
from nuntwist.cluster.copy_sender import AT_ONCE, CopySender
from nuntwist.cluster.one_copy import HELD, PATIENCE
from nuntwist.core.copying import Aside, Originals, Outline
from nuntwist.core.installing import MARKER
from nuntwist.errors import CorruptData
from nuntwist.testing import MemoryNode
from nuntwist.values import ADMIN_ID, CREATE_DATABASE, SET, Epoch, Op, Position
from tests.cases import one_measured
from tests.unit.copy_pair import NUMBER, CopyPair, own_writes, small_pieces, trim, whole

SMALL = 8 << 10
"""A window that a few pieces fill."""


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> CopyPair:
    """A copy of it comes in dozens of pieces."""
    small_pieces(monkeypatch)
    pair = CopyPair(SMALL)
    pair.fill()
    return pair


def pieces(pair: CopyPair) -> list[int]:
    """The numbers of the pieces that have arrived."""
    return [message.piece for message in pair.seen if isinstance(message, CopyPiece)]


def until(pair: CopyPair, true: Callable[[], bool]) -> None:
    """Let time go by until something is true."""
    for _ in range(10_000):
        if true():
            return
        pair.run(0.001)
    raise AssertionError("that does not come")


# -- the whole way ---------------------------------------------------------------------------------


def test_a_new_node_gets_all_and_follows_from_there(pair: CopyPair) -> None:
    pair.connect()
    pair.run()
    assert (pair.placed, pair.kept) == (1, 1)
    assert len(pieces(pair)) > 20
    assert pair.same()
    assert pair.secondary.oplog.last == pair.primary.oplog.last
    pair.admin.send("set after 1")
    pair.admin.send("create-db f t")
    pair.run()
    assert pair.same()
    assert pair.secondary.oplog.last == pair.primary.oplog.last
    assert pair.secondary.node.stamps.last >= pair.primary.node.stamps.last


def test_a_node_with_a_log_of_its_own_becomes_the_same(pair: CopyPair) -> None:
    own_writes(pair)
    before = whole(pair.secondary)
    pair.connect()
    until(pair, lambda: pair.receiver.stage is Stage.TAKES)
    assert whole(pair.secondary) == before
    pair.run()
    assert pair.same()
    assert pair.secondary.node.counters.copies_taken == 1


@pytest.mark.parametrize("seed", one_measured(range(30)))
def test_clients_go_on_at_both_ends_and_the_link_is_cut(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch)
    chance = random.Random(seed)
    pair = CopyPair(chance.choice([4 << 10, SMALL, 1 << 20]))
    pair.fill(chance.choice([50, 300]), chance.choice([10, 300]))
    if seed % 3 == 0:
        own_writes(pair)
    reader = pair.secondary.tcp()
    pair.connect()
    names = ["d", "e"]
    for step in range(120):
        what = chance.choice(["set", "set", "set", "remove", "create", "drop", "run", "run", "cut"])
        if what in ("set", "remove") and names:
            pair.admin.send(f"use-db {chance.choice(names)} t")
            value = f" v{step}" if what == "set" else ""
            pair.admin.send(f"{what} k{chance.randrange(60)}{value}")
        elif what == "create":
            names.append(f"n{step}")
            pair.admin.send(f"create-db n{step} t")
        elif what == "drop" and len(names) > 1:
            name = names.pop(chance.randrange(len(names)))
            pair.admin.send(f"drop-db {name}")
        elif what == "run":
            pair.run(chance.choice([0.001, 0.003, 0.01]))
        elif what == "cut" and pair.linked:
            pair.cut_at = pair.messages + chance.randrange(1, 12)
        if not pair.linked:
            pair.run(chance.choice([0.0, 0.01]))
            pair.connect()
        reader.send("use-db d t")
    pair.cut_at = None
    for _ in range(3):
        pair.run()
        if not pair.linked:
            pair.connect()
    assert pair.secondary.oplog.last == pair.primary.oplog.last
    assert pair.placed >= 1
    assert pair.same()
    assert MARKER not in pair.files.contents


def test_a_restore_that_is_under_way_is_copied(pair: CopyPair) -> None:
    journal, node = pair.primary.node.pipeline.journal, pair.primary.node
    op = journal.make(CREATE_DATABASE, None, b"$restoring r", b"newer t")
    journal.append_alone(op, lambda: node.catalogue.create(op))
    trim(pair.primary)
    pair.connect()
    pair.run()
    assert pair.same()
    assert [one.name for one in pair.secondary.node.catalogue.staged()] == [b"$restoring r"]


# -- the connection ------------------------------------------------------------------------------


def test_after_a_cut_only_what_was_not_acknowledged_is_sent_again(pair: CopyPair) -> None:
    pair.connect()
    until(pair, lambda: len(pieces(pair)) == 12)
    pair.disconnect()
    pair.run(1.0)
    before = list(pieces(pair))
    pair.connect()
    pair.run()
    again = pieces(pair)[len(before) :]
    assert again == list(range(again[0], again[-1] + 1))
    assert again[0] == before[-1] + 1
    assert len([m for m in pair.seen if isinstance(m, CopyBegins)]) == 1
    assert pair.same()


@pytest.mark.parametrize("at", one_measured(range(1, 50, 3)))
def test_it_may_be_cut_at_any_message(at: int, pair: CopyPair) -> None:
    pair.cut_at = at
    pair.connect()
    for _ in range(3):
        pair.run()
        if not pair.linked:
            pair.connect()
    assert pair.same()
    assert pair.secondary.oplog.last == pair.primary.oplog.last


def test_no_more_is_on_its_way_than_the_window(pair: CopyPair) -> None:
    pair.connect()
    until(pair, lambda: pair.receiver.stage is Stage.TAKES)
    pair._take = lambda message: None  # type: ignore[method-assign]  # it takes nothing any more
    pair.run()
    seen = [m for m in pair.seen if isinstance(m, CopyPiece)]
    assert SMALL // 2 < sum(len(message.data) for message in seen) <= SMALL


def test_what_nobody_asks_for_is_given_up(pair: CopyPair) -> None:
    pair.connect()
    until(pair, lambda: len(pieces(pair)) == 5)
    pair.disconnect()
    held = pair.sender.hold_back()
    assert held == pair.primary.oplog.last.index
    pair.run(PATIENCE - 1)
    assert pair.sender.hold_back() == held
    pair.run(2)
    assert pair.sender.hold_back() is None
    assert all(not one.scans for one in pair.primary.node.catalogue.by_id.values())
    # It comes back, and begins again with nothing.
    pair.connect()
    pair.run()
    assert pair.same()
    assert len([m for m in pair.seen if isinstance(m, CopyBegins)]) == 2


def test_the_log_is_kept_until_the_secondary_follows(pair: CopyPair) -> None:
    pair.connect()
    until(pair, lambda: pair.receiver.stage is Stage.TAKES)
    for number in range(50):
        pair.admin.send(f"set later{number} 1")
    trim(pair.primary)
    pair.run()
    assert pair.placed == 1
    assert pair.same()
    pair.run(HELD)
    trim(pair.primary)
    assert pair.sender.hold_back() is None
    assert pair.primary.oplog.first > pair.secondary.oplog.base + 1
    assert pair.clock.seconds() < 1_000


def test_a_primary_that_ends_leaves_the_secondary_as_it_was(pair: CopyPair) -> None:
    own_writes(pair)
    before = whole(pair.secondary)
    pair.connect()
    until(pair, lambda: len(pieces(pair)) == 12)
    pair.sender.end()
    pair.run()
    pair.disconnect()
    pair.receiver.end()
    pair.run()
    assert whole(pair.secondary) == before
    assert MARKER not in pair.files.contents
    assert all(not one.scans for one in pair.primary.node.catalogue.by_id.values())
    assert pair.sender.hold_back() is None


def test_only_so_many_are_made_at_once() -> None:
    node = MemoryNode()
    node.admin("create-db d t")
    sent: list[tuple[int, object]] = []
    sender = CopySender(
        NUMBER,
        Originals(node.node),
        lambda to, message: sent.append((to, message)),
        node.clock.callLater,
    )
    for one in range(1, AT_ONCE + 3):
        sender.received(one, CopyWanted(NUMBER, 0, 0))
    node.clock.advance(1.0)
    begun = [to for to, message in sent if isinstance(message, CopyBegins)]
    assert begun == list(range(1, AT_ONCE + 1))
    ends = next(message for _, message in sent if isinstance(message, CopyEnds))
    sender.unlinked(AT_ONCE + 1)
    sender.received(1, CopyTaken(NUMBER, ends.copy_id, ends.pieces))
    node.clock.advance(1.0)
    begun = [to for to, message in sent if isinstance(message, CopyBegins)]
    assert begun == [*range(1, AT_ONCE + 1), AT_ONCE + 2]
    sender.end()
    sent.clear()
    sender.received(1, CopyWanted(NUMBER, 0, 0))
    sender.offer(1)
    node.clock.advance(200.0)
    assert sent == []


def test_messages_of_another_epoch_mean_nothing(pair: CopyPair) -> None:
    pair.sender.received(2, CopyWanted(NUMBER - 1, 0, 0))
    pair.receiver.received(CopyLost(NUMBER - 1, 0))
    pair.run()
    assert pair.receiver.stage is Stage.IDLE
    assert pair.sender.count == 0


# -- damage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["checksum", "entries", "piece", "number", "index"])
def test_a_damaged_copy_is_not_put_in_place(what: str, pair: CopyPair) -> None:
    own_writes(pair)
    before = whole(pair.secondary)
    real = pair.receiver.received
    damaged: list[object] = []

    def received(message: CopyBegins | CopyPiece | CopyEnds | CopyLost) -> None:
        if isinstance(message, CopyPiece) and message.piece == 3 and not damaged:
            data, index = bytearray(message.data), 20 + 8
            if what == "piece":
                data[len(data) // 2 :] = b""
            elif what == "number":
                data[0] = 250
            elif what == "index":
                data[index + 6] = 1
            elif what == "checksum":
                data[-1] ^= 1
            message = CopyPiece(message.number, message.copy_id, 3, bytes(data))
        if isinstance(message, CopyEnds) and what == "entries":
            message = CopyEnds(message.number, message.copy_id, message.pieces, 7, message.checksum)
        try:
            real(message)
        except CorruptData as error:
            damaged.append(error)
            assert whole(pair.secondary) == before
            pair.disconnect()

    pair.receiver.received = received  # type: ignore[method-assign]  # damage on the way
    pair.connect()
    pair.run()
    assert len(damaged) == 1
    assert whole(pair.secondary) == before
    pair.receiver.received = real  # type: ignore[method-assign]  # no more
    pair.connect()
    pair.run()
    assert pair.same()


def test_what_is_no_copy_is_refused() -> None:
    with pytest.raises(CorruptData):
        Aside(Position(Epoch(1, 1), 5), 0, [Outline(3, b"d", b"none", 4)])
    with pytest.raises(CorruptData):
        Aside(Position(Epoch(1, 1), 0), 0, [Outline(ADMIN_ID, b"$admin", b"newer", 4)])


def test_entries_are_the_same_after_the_way() -> None:
    ops: list[Op] = [
        (b"v" * size, size - 2, size + 1, 99 + size, SET, size % 3, b"k%d" % size)
        for size in range(60)
    ]
    runs = [(number, [op for op in ops if op[5] == number]) for number in range(3)]
    for size in (1, 100, 1_000, 1 << 20):
        found: list[Op] = []
        count = 0
        for data, entries in pieces_of([*runs, (5, [])], size):
            count += entries
            for _, some in entries_of(data):
                found += some
        assert sorted(found) == sorted(ops)
        assert count == len(ops)


@pytest.mark.parametrize("size", [1, 11, 12, 13, 40, 44, 46])
def test_a_piece_that_is_cut_short_is_damaged(size: int) -> None:
    ((data, _),) = pieces_of([(7, [(b"v", 0, 1, 2, SET, 7, b"k")])])
    assert len(data) == 46
    if size == 46:
        assert len(list(entries_of(data))) == 1
        return
    with pytest.raises(CorruptData):
        list(entries_of(data[:size]))
    wrong = data[:8] + bytes([size % 34]) + data[9:]
    with pytest.raises(CorruptData):
        list(entries_of(wrong))


# -- a log that cannot take it ---------------------------------------------------------------------


def test_where_it_cannot_be_put_in_place_it_is_tried_again(pair: CopyPair) -> None:
    own_writes(pair)
    before = whole(pair.secondary)

    def doubt() -> None:
        raise OSError(28, "No space left on device")

    pair.installing.doubt = doubt
    pair.connect()
    pair.run(AGAIN - 1)
    assert pair.receiver.stage is Stage.IDLE
    assert whole(pair.secondary) == before
    assert MARKER not in pair.files.contents
    pair.installing.doubt = lambda: None
    pair.run(AGAIN + 2)
    assert pair.same()


def test_a_secondary_for_which_the_log_could_not_wait_gets_a_copy() -> None:
    pair = CopyPair()
    pair.connect()
    pair.admin.send("create-db d t")
    pair.admin.send("use-db d t")
    pair.admin.send("set k 1")
    pair.run(1.0)
    assert pair.outgoing is not None
    pair.outgoing._window = 0
    for number in range(20):
        pair.admin.send(f"set k{number} 1")
    trim(pair.primary)
    pair.outgoing._window = 1 << 20
    pair.outgoing.flow()
    pair.run(1.0)
    assert pair.placed == 1
    assert pair.same()


def test_the_log_does_not_wait_for_copies_for_ever(pair: CopyPair) -> None:
    pair.primary.node.limits = dataclasses.replace(pair.primary.node.limits, replay=1 << 10)
    pair.connect()
    until(pair, lambda: len(pieces(pair)) == 12)
    pair.disconnect()
    for number in range(50):
        pair.admin.send(f"set k{number} {'y' * 1_000}")
    first = pair.primary.oplog.first
    trim(pair.primary)
    assert pair.primary.oplog.first > first
    assert pair.sender.hold_back() is None
    pair.connect()
    pair.run()
    assert pair.same()
    assert len([m for m in pair.seen if isinstance(m, CopyBegins)]) == 2
