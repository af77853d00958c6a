"""Snapshots in S3, on moto's server: what every storage does, requests, failures, races."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import capturedLogs, formatEvent

from nuntwist.errors import StartError, StorageUnavailable
from nuntwist.interfaces import IStorage
from nuntwist.storage.s3 import S3Storage
from nuntwist.storage.s3_objects import Conflict
from nuntwist.values import Epoch
from tests.unit.conformance_storage import (
    StorageConformance,
    done,
    entries,
    header,
    load,
    save,
    save_parts,
    split,
)
from tests.unit.moto_s3 import BUCKET, Place, Requests, all_of, held, save_two, serve, two


@pytest.fixture(autouse=True)
def _no_real_network() -> None:
    """In place of the rule for other unit tests: these have a server of their own."""


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    yield from serve()


@pytest.fixture
def place(client: Any) -> Place:
    return Place(client)


class TestS3Storage(StorageConformance):
    @pytest.fixture(autouse=True)
    def _place(self, place: Place) -> None:
        self.place = place

    def make(self) -> IStorage:
        return self.place.storage()

    def again(self, storage: IStorage) -> IStorage:
        return self.place.opened()


@pytest.fixture
def requests(client: Any) -> Iterator[Requests]:
    with Requests(client) as one:
        yield one


# -- what it costs ---------------------------------------------------------------------------------


def test_only_what_changed_is_put(place: Place, requests: Requests) -> None:
    """The numbers of docs/s3.md."""
    storage = place.opened()
    assert requests.counts == {"GetObject": 1, "ListObjectsV2": 1}
    requests.counts.clear()
    save_two(storage, 5)
    assert requests.counts == {"PutObject": 3, "ListObjectsV2": 1}
    requests.counts.clear()
    requests.sent.clear()
    save_parts(storage, split(4, index=6), [2], {2: entries(7, 1, b"new")})
    assert requests.counts == {"PutObject": 2, "DeleteObject": 1}
    assert [one.partition(" ")[0] for one in requests.sent] == [
        *("PutObject", "PutObject", "DeleteObject"),
    ]
    assert requests.sent[0].endswith("-02.part")
    assert requests.sent[1].endswith(" manifest.json")
    requests.counts.clear()
    save_parts(storage, split(4, index=7), [], {})
    assert requests.counts == {"PutObject": 1}
    requests.counts.clear()
    save_two(storage, 8)
    assert requests.counts == {"PutObject": 3, "ListObjectsV2": 1, "DeleteObjects": 1}
    requests.counts.clear()
    load(place.opened())
    assert requests.counts == {"GetObject": 1 + 1 + 2, "ListObjectsV2": 1}
    requests.counts.clear()
    done(storage.drop(7))
    done(storage.drop(8))
    assert requests.counts == {
        **{"GetObject": 1, "ListObjectsV2": 1, "DeleteObject": 1, "DeleteObjects": 1}
    }
    assert place.keys() == []


def test_nothing_stays_in_the_data_directory(place: Place) -> None:
    storage = place.opened()
    save_two(storage, 5)
    writer = storage.begin(header(8), None)
    writer.write(0, entries(8, 1))
    (name,) = place.files.names()
    assert name.startswith("upload-8-1-")
    writer.abort()
    assert place.files.names() == []


def test_names_of_two_processes_are_never_the_same(place: Place) -> None:
    storage = S3Storage(place.objects, place.prefix, place.files, maybeDeferred, maybeDeferred, 9)
    storage.open()
    save(storage, header())
    save(storage, header(), entries(7, 1))
    names = place.keys()
    again = S3Storage(place.objects, place.prefix, place.files, maybeDeferred, maybeDeferred, 9)
    again.open()
    save(again, header(), entries(7, 1))
    assert len(names) == len(place.keys()) == 2
    assert not set(names) & set(place.keys()) - {"7/manifest.json"}


# -- requests that fail ----------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["PUT part", "PUT manifest"])
def test_a_failed_upload_leaves_the_last_good_one(
    place: Place, requests: Requests, what: str
) -> None:
    storage = place.opened()
    save_two(storage, 5)
    requests.refused[what] = 2
    with pytest.raises(StorageUnavailable) as caught:
        save_two(storage, 6, b"new")
    sentence = str(caught.value)
    assert sentence.startswith(f"s3://{BUCKET}/{place.prefix}/databases/7/")
    assert sentence.endswith(" cannot be written: there is no connection to the server")
    assert place.files.names() == []
    assert held(place) == all_of(5)
    # One that fails once is tried again.
    requests.refused[what] = 1
    save_parts(storage, split(4, index=7), [2], {2: entries(7, 1, b"new")})
    assert held(place) == (split(4, index=7), [*entries(7, 2), *entries(7, 1, b"new")])
    assert len(place.keys()) == 3, "what the failed one has left is gone"


def test_the_lost_answer_of_a_put_is_no_conflict(place: Place, requests: Requests) -> None:
    storage = place.opened()
    for index in (5, 6, 7):
        requests.lost["PUT manifest"] = 1
        save_two(storage, index)
        assert held(place) == all_of(index)


@pytest.mark.parametrize(("lost", "refused"), [(2, 0), (1, 2)])
def test_a_put_of_which_nothing_is_known_is_found_out_later(
    place: Place, requests: Requests, lost: int, refused: int
) -> None:
    storage = place.opened()
    for index in (5, 7):
        requests.lost["PUT manifest"] = lost
        requests.refused["GET manifest"] = refused
        with pytest.raises(StorageUnavailable, match="cannot be written"):
            save_two(storage, index)
        # It was put in fact, and is whole.
        assert held(place) == all_of(index)
        save_two(storage, index + 1, b"new")
        assert held(place) == all_of(index + 1, b"new")
        assert len(place.keys()) == 3


def test_partitions_are_not_tried_after_one_has_failed(place: Place, requests: Requests) -> None:
    storage = place.opened()
    requests.refused["PUT part"] = 2
    with pytest.raises(StorageUnavailable):
        save_two(storage, 5)
    assert requests.counts["PutObject"] == 1


def test_a_data_directory_that_is_full(place: Place) -> None:
    storage = place.opened()
    save_two(storage, 5)
    place.files.room = 40
    writer = storage.begin(split(4, index=6), None)
    with pytest.raises(StorageUnavailable, match=r"^No space left on device$"):
        writer.write(0, entries(7, 5))
    with pytest.raises(StorageUnavailable, match=r"^No space left on device$"):
        done(writer.commit())
    assert place.files.names() == []
    place.files.room = None
    assert held(place) == all_of(5)


def test_a_manifest_that_somebody_removed(place: Place) -> None:
    storage = place.opened()
    save_two(storage, 5)
    place.objects.delete([f"{place.prefix}/databases/7/manifest.json"])
    with pytest.raises(StorageUnavailable, match="was removed; the next snapshot"):
        save_parts(storage, split(4, index=6), [], {})
    assert 7 not in storage.held
    save_two(storage, 7)
    assert held(place) == all_of(7)


def test_what_cannot_be_removed_goes_with_the_next(place: Place, requests: Requests) -> None:
    storage = place.opened()
    save_two(storage, 5)
    for what, again in (("DELETE part", [2]), ("GET list", None), ("POST delete", None)):
        requests.refused[what] = 2
        with capturedLogs() as logged:
            save_parts(storage, split(4, index=6), again, {2: entries(7, 1, b"new")})
        (event,) = logged
        assert "could not be removed yet: there is no connection" in formatEvent(event)
        assert len(place.keys()) > len(place.names()) + 1
    save_two(storage, 7)
    assert len(place.keys()) == 3


@pytest.mark.parametrize("times", [1, 4, 5])
def test_requests_at_the_same_time_that_are_all_refused(
    place: Place, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = place.opened()
    replace_object, left = place.objects.replace, [times]

    def replaced(key: str, data: bytes, tag: str | None) -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise Conflict
        return replace_object(key, data, tag)

    monkeypatch.setattr(place.objects, "replace", replaced)
    if times == 5:
        with pytest.raises(StorageUnavailable, match=r"the service does not decide$"):
            save_two(storage, 5)
    save_two(storage, 6)
    left[0] = times
    if times < 5:
        save_two(storage, 7)
    assert held(place)[0].index in (6, 7)


# -- two writers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [False, True])
def test_of_two_writers_one_is_told(place: Place, first: bool) -> None:
    if not first:
        save_two(place.opened(), 4)
    ours, theirs = place.opened(1), place.opened(2)
    mine, other = ours.begin(two(5)[0], None), theirs.begin(two(6)[0], None)
    for writer, value in ((mine, b"mine"), (other, b"other")):
        for partition, piece in two(0, value)[1].items():
            writer.write(partition, piece)
    done(mine.commit())
    with pytest.raises(StorageUnavailable) as caught:
        done(other.commit())
    assert str(caught.value) == (
        "another node, 0000000000000001 in epoch 0, writes to"
        f" s3://{BUCKET}/{place.prefix}; stop one of the two, or give this one a NUN_S3_PREFIX of"
        " its own, and restart it"
    )
    assert held(place) == all_of(5, b"mine")
    with pytest.raises(StorageUnavailable, match="another node"):
        theirs.begin(header(9), None)
    done(theirs.drop(7))
    assert held(place) == all_of(5, b"mine")
    # What it has put already goes with the next snapshot of the other.
    save_two(ours, 8)
    assert len(place.keys()) == 3


def test_a_higher_epoch_is_left_alone(place: Place) -> None:
    newer = replace(header(index=9), epoch=Epoch(5, 2))
    save(place.opened(2), newer, entries(7, 1))
    storage = place.opened(1)
    with pytest.raises(StorageUnavailable, match="another node, 0000000000000002 in epoch 5"):
        storage.begin(replace(header(index=10), epoch=Epoch(4, 1)), None)
    save(place.opened(1), replace(header(index=10), epoch=Epoch(6, 1)), entries(7, 2))


def test_a_prefix_of_another_node_has_to_be_read(place: Place) -> None:
    save_two(place.opened(1), 5)
    with pytest.raises(StartError) as caught:
        place.opened(2, ours=True)
    assert str(caught.value) == (
        f"In s3://{BUCKET}/{place.prefix} are snapshots of another node, 0000000000000001:"
        " choose another NUN_S3_PREFIX to write to, or read from that one."
    )
    place.opened(1, ours=True)
    place.opened(2)


# -- dropping --------------------------------------------------------------------------------------


def test_one_that_is_dropped_while_it_is_put_does_not_come_back(place: Place) -> None:
    for dropped_at in range(3):
        storage = place.opened()
        save_two(storage, 5)
        writer = storage.begin(split(4, index=6), None)
        writer.write(0, entries(7, 1))
        if dropped_at == 0:
            done(storage.drop(7))
        steps = Steps(storage)
        committed = writer.commit()
        if dropped_at == 1:
            done(storage.drop(7))
        steps.run()
        if dropped_at == 2:
            done(storage.drop(7))
        done(committed)
        steps.run()
        assert dict(storage.held) == {}
        assert place.keys() == []


class Steps:
    """Threads of a storage that run when a test says so."""

    def __init__(self, storage: S3Storage) -> None:
        self._due: list[tuple[Deferred[Any], Callable[[], Any]]] = []
        storage._in_upload_thread = self._later
        for writer in storage._writing.values():
            writer._in_upload_thread = self._later

    def _later(self, function: Callable[..., Any], *arguments: object) -> Deferred[Any]:
        due: Deferred[Any] = Deferred()
        self._due.append((due, partial(function, *arguments)))
        return due

    def run(self) -> None:
        while self._due:
            due, function = self._due.pop(0)
            maybeDeferred(function).chainDeferred(due)


def test_one_of_another_node_is_not_dropped(place: Place) -> None:
    storage = place.opened(1)
    save_two(storage, 5)
    save_two(place.opened(2), 6)
    done(storage.drop(7))
    assert held(place) == all_of(6)
