"""What a node that follows applies, and when."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest

from nuntwist.core import applying
from nuntwist.core.applying import Applying, is_plain
from nuntwist.core.database import FORWARDED_PREFIX, Database
from nuntwist.core.undo import Batch, Undo
from nuntwist.values import CREATE_DATABASE, DROP_DATABASE, REMOVE, SET, Op

LIMIT = 1_000


def plain(index: int, key: bytes = b"k", kind: int = SET) -> Op:
    return (None if kind == REMOVE else b"v", 0, index, index, kind, 7, key)


def lasting(index: int) -> Op:
    return (b"none t", 0, index, index, CREATE_DATABASE, index, b"new")


@pytest.mark.parametrize(
    ("op", "at_once"),
    [
        (plain(1), True),
        (plain(1, kind=REMOVE), True),
        (plain(1, b"$conflicts_k_1"), True),
        (plain(1, FORWARDED_PREFIX + b"1"), True),
        (plain(1, b"$$user_ann"), False),
        (plain(1, kind=DROP_DATABASE), False),
        (lasting(1), False),
    ],
)
def test_what_may_be_applied_at_once(op: Op, at_once: bool) -> None:
    assert is_plain(op) is at_once


class One:
    """A node that follows, with one database.

    :ivar done: the indexes that were applied, those of what is no plain key negative.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[int] = []
        self.node: Any = mock.Mock()
        self.node.catalogue.by_id = {7: Database(7, b"d", b"none")}
        self.journal = self.node.pipeline.journal
        self.journal.in_flight = []
        self.node.pipeline.notify = lambda database, op: self.done.append(op[2])
        self.undo = Undo(0, LIMIT)
        self.kept: list[Batch] = []
        monkeypatch.setattr(self.undo, "keep", self.kept.append)
        monkeypatch.setattr(self.undo, "keep_alone", lambda ops, catalogue: None)
        monkeypatch.setattr(applying, "enact", self._enact)
        self.applying = Applying(self.node, self.undo)

    def _enact(self, node: object, op: Op) -> None:
        self.done.append(-op[2])

    def apply(self, durable: int) -> list[int]:
        self.undo.durable = durable
        self.applying.apply()
        return self.done


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> One:
    return One(monkeypatch)


def test_what_has_to_wait_holds_up_all_behind_it(one: One) -> None:
    one.applying.take([plain(1), plain(2), lasting(3), plain(4)])
    assert one.apply(0) == [1, 2]
    assert (one.applying.waits, one.journal.index) == (True, 2)
    assert one.apply(2) == [1, 2]
    assert one.apply(3) == [1, 2, -3, 4]
    assert (one.applying.waits, one.journal.index) == (False, 4)


def test_a_batch_ends_where_what_is_durable_ends(one: One) -> None:
    one.applying.take([plain(index) for index in range(1, 6)])
    one.apply(3)
    assert [[op[2] for op in batch.ops] for batch in one.kept] == [[1, 2, 3]]
    assert [[op[2] for op in batch.ops] for batch in one.journal.in_flight] == [[4, 5]]


def test_what_is_cut_off_is_not_applied(one: One) -> None:
    one.applying.take([lasting(1), plain(2), plain(3)])
    one.apply(0)
    one.applying.cut(2)
    assert one.apply(3) == [-1, 2]


def test_what_the_log_has_lost_is_not_applied(one: One) -> None:
    one.applying.take([lasting(1), plain(2)])
    one.applying.give_up()
    assert (one.applying.waits, one.apply(3)) == (False, [])


def test_what_is_of_a_database_that_is_gone_is_nothing(one: One) -> None:
    one.node.catalogue.by_id.clear()
    one.applying.take([plain(1), plain(2)])
    assert one.apply(2) == []
    assert (one.applying.waits, one.journal.index, one.kept) == (False, 2, [])
