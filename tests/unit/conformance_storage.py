"""What every IStorage does. An implementation's tests are a class with this one as its base."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import pytest
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from nuntwist.interfaces import ISnapshotWriter, IStorage, SnapshotHeader
from nuntwist.values import SET, Epoch, Op

Found = dict[int, tuple[SnapshotHeader, list[Op]]]


def header(number: int = 7, index: int = 5, name: bytes = b"d") -> SnapshotHeader:
    """The header of a snapshot in one partition."""
    return SnapshotHeader(number, name, b"newer", index)


def split(count: int, number: int = 7, index: int = 5) -> SnapshotHeader:
    """The header of a snapshot in several partitions."""
    return replace(header(number, index), partitions=count)


def entry(number: int, key: bytes, value: bytes = b"v", version: int = 0, index: int = 1) -> Op:
    """An entry of a database."""
    return (value, version, index, 1_000 + index, SET, number, key)


def entries(number: int, count: int, value: bytes = b"v") -> list[Op]:
    """Some entries of a database."""
    return [entry(number, b"key-%d" % i, value, i - 2, i + 1) for i in range(count)]


def done(deferred: Deferred[None]) -> None:
    """A Deferred that fired; its failure is raised."""
    outcome: list[object] = []
    deferred.addCallback(outcome.append)
    failures: list[BaseException | None] = []
    deferred.addErrback(lambda reason: failures.append(reason.value))
    for failure in failures:
        assert failure is not None
        raise failure
    assert outcome == [None]


def save(storage: IStorage, head: SnapshotHeader, *pieces: Sequence[Op]) -> None:
    """Take a snapshot, the entries in the first partition."""
    writer = storage.begin(head, None)
    for piece in pieces:
        writer.write(0, piece)
    done(writer.commit())


def save_parts(
    storage: IStorage,
    head: SnapshotHeader,
    changed: Collection[int] | None,
    parts: Mapping[int, Sequence[Op]],
) -> None:
    """Take a snapshot, or as much of it as has changed."""
    writer = storage.begin(head, changed)
    for partition, piece in parts.items():
        writer.write(partition, piece)
    done(writer.commit())


def load(storage: IStorage) -> Found:
    """All snapshots, in the order they are given."""
    found: Found = {}
    current: list[int] = []

    def database(head: SnapshotHeader) -> None:
        assert head.database_id not in found
        found[head.database_id] = (head, [])
        current[:] = [head.database_id]

    def take(piece: Sequence[Op]) -> None:
        found[current[0]][1].extend(piece)

    done(storage.load(database, take))
    return found


class StorageConformance:
    """Tests of any storage; ``make`` gives a fresh one, not open yet."""

    def make(self) -> IStorage:
        raise NotImplementedError

    def again(self, storage: IStorage) -> IStorage:
        """What a restart finds of a closed storage, open."""
        raise NotImplementedError

    def opened(self) -> IStorage:
        """A fresh storage, open."""
        storage = self.make()
        storage.open()
        return storage

    def test_it_provides_the_interfaces(self) -> None:
        storage = self.opened()
        assert verifyObject(IStorage, storage)
        assert verifyObject(ISnapshotWriter, storage.begin(header(), None))

    def test_a_fresh_storage_is_empty(self) -> None:
        assert load(self.opened()) == {}

    def test_it_gives_back_what_it_was_given(self) -> None:
        storage = self.opened()
        head = SnapshotHeader(2**64 - 1, "données ;,|/".encode(), b"arbiter", 2**63)
        odd: list[Op] = [
            (b"", -(2**63), 0, 0, SET, 2**64 - 1, b""),
            (b"a\nb\0\xff", 2**63 - 1, 2**64 - 1, 2**64 - 1, SET, 2**64 - 1, b"$$token"),
        ]
        save(storage, head, odd, entries(2**64 - 1, 2_500))
        assert load(storage) == {2**64 - 1: (head, odd + entries(2**64 - 1, 2_500))}

    def test_an_empty_database_has_a_snapshot(self) -> None:
        storage = self.opened()
        save(storage, header())
        save(storage, header(8), [])
        assert load(storage) == {7: (header(), []), 8: (header(8), [])}

    def test_databases_come_by_rising_id(self) -> None:
        storage = self.opened()
        for number in (10, 0, 9, 100, 1):
            save(storage, header(number), entries(number, 1))
        assert list(load(storage)) == [0, 1, 9, 10, 100]

    def test_the_later_snapshot_takes_the_place_of_the_earlier(self) -> None:
        storage = self.opened()
        save(storage, header(index=5), entries(7, 9))
        save(storage, header(index=6), entries(7, 3, b"new"))
        assert load(storage) == {7: (header(index=6), entries(7, 3, b"new"))}

    def test_what_is_not_committed_counts_for_nothing(self) -> None:
        storage = self.opened()
        save(storage, header(), entries(7, 1))
        writer = storage.begin(header(index=9), None)
        writer.write(0, entries(7, 3))
        storage.begin(header(8), None).write(0, entries(8, 1))
        assert load(storage) == {7: (header(), entries(7, 1))}
        writer.abort()
        writer.abort()
        assert load(storage) == {7: (header(), entries(7, 1))}

    def test_what_is_written_later_does_not_change_what_was_given(self) -> None:
        storage = self.opened()
        piece = entries(7, 2)
        writer = storage.begin(header(), None)
        writer.write(0, piece)
        piece.clear()
        done(writer.commit())
        assert load(storage)[7][1] == entries(7, 2)

    def test_partitions_that_did_not_change_are_taken_over(self) -> None:
        storage = self.opened()
        old = {0: entries(7, 2, b"a"), 1: entries(7, 3, b"b"), 3: entries(7, 1, b"d")}
        save_parts(storage, split(4), None, old)
        assert load(storage) == {7: (split(4), [*old[0], *old[1], *old[3]])}
        new = {1: entries(7, 1, b"B"), 2: entries(7, 2, b"C")}
        save_parts(storage, split(4, index=8), {1, 2}, new)
        assert load(storage) == {7: (split(4, index=8), [*old[0], *new[1], *new[2], *old[3]])}
        # One that is announced and not written is empty from then on.
        save_parts(storage, split(4, index=9), [0], {})
        assert load(storage)[7][1] == [*new[1], *new[2], *old[3]]
        save_parts(storage, split(4, index=11), [], {})
        assert load(storage) == {7: (split(4, index=11), [*new[1], *new[2], *old[3]])}
        save_parts(storage, split(2, index=12), None, {1: entries(7, 1)})
        assert load(storage) == {7: (split(2, index=12), entries(7, 1))}
        storage = self.again(storage)
        assert load(storage) == {7: (split(2, index=12), entries(7, 1))}

    def test_partitions_are_taken_over_only_from_as_many(self) -> None:
        storage = self.opened()
        save_parts(storage, split(4), None, {})
        with pytest.raises(ValueError, match="as many"):
            storage.begin(split(3), [0])
        with pytest.raises(KeyError):
            storage.begin(header(8), [0])

    def test_it_tells_what_it_holds(self) -> None:
        storage = self.opened()
        assert dict(storage.held) == {}
        head = replace(split(3, index=9), epoch=Epoch(2**40, 7))
        admin = replace(header(0), databases=((7, b"d"), (8, "é".encode())))
        save_parts(storage, head, None, {2: entries(7, 1)})
        save(storage, admin)
        save(storage, header(8))
        done(storage.drop(8))
        save(storage, replace(header(9), databases=()))
        expected = {0: admin, 7: head, 9: replace(header(9), databases=())}
        assert dict(storage.held) == expected
        assert storage.at_once >= 1
        assert dict(self.again(storage).held) == expected
        assert {number: one for number, (one, _) in load(storage).items()} == expected

    def test_one_that_is_given_up_leaves_the_last_and_the_next_works(self) -> None:
        storage = self.opened()
        save_parts(storage, split(2), None, {0: entries(7, 1), 1: entries(7, 2)})
        for _ in range(2):
            writer = storage.begin(split(2, index=6), [1])
            writer.write(1, entries(7, 3, b"new"))
            writer.abort()
            assert load(storage)[7] == (split(2), [*entries(7, 1), *entries(7, 2)])
        save_parts(storage, split(2, index=7), [0], {0: entries(7, 1, b"new")})
        assert load(storage)[7][1] == [*entries(7, 1, b"new"), *entries(7, 2)]

    def test_drop_removes_one(self) -> None:
        storage = self.opened()
        save(storage, header(7), entries(7, 1))
        save(storage, header(8), entries(8, 1))
        done(storage.drop(7))
        done(storage.drop(7))
        done(storage.drop(99))
        assert list(load(storage)) == [8]

    def test_a_restart_finds_the_same(self) -> None:
        storage = self.opened()
        save(storage, header(7), entries(7, 2))
        save(storage, header(8), entries(8, 2))
        done(storage.drop(8))
        before = load(storage)
        storage.close()
        assert load(self.again(storage)) == before
