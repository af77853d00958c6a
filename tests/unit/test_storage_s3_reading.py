"""Snapshots in S3, on moto's server: what is found, damaged, gone, left over."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    NoCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
    UnknownEndpointError,
)

from nuntwist.errors import CorruptData, StartError
from nuntwist.files import MemoryFiles
from nuntwist.storage import s3_load
from nuntwist.storage.manifest import Manifest, Part
from nuntwist.storage.s3 import ABANDONED_SECONDS
from nuntwist.storage.s3_objects import Access, Listed, Objects, RequestFailed, connect
from tests.unit.conformance_storage import (
    done,
    entries,
    header,
    load,
    save,
    save_parts,
    split,
)
from tests.unit.moto_s3 import BUCKET, Place, Requests, all_of, held, save_two, serve


@pytest.fixture(autouse=True)
def _no_real_network() -> None:
    """In place of the rule for other unit tests: these have a server of their own."""


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    yield from serve()


@pytest.fixture
def place(client: Any) -> Place:
    return Place(client)


# -- what is left over -----------------------------------------------------------------------------


def test_what_no_manifest_names_goes_with_the_next_snapshot(place: Place) -> None:
    save_two(place.opened(), 5)
    left = f"7/1-{1:016x}-{1:08x}-00.part"
    strangers = ["7/notes.part", "7/readme.txt", "07/manifest.json", "x/1.part", "7/a/b.part"]
    for name in (left, *strangers):
        place.put(name)
    storage = place.opened()
    done(storage.tidy())
    assert place.has(left)
    save_parts(storage, split(4, index=6), [], {})
    assert not place.has(left)
    # One that came since then is found by a whole one.
    place.put(left)
    save_two(storage, 7)
    assert not place.has(left)
    assert set(strangers) < set(place.keys())
    assert held(place) == all_of(7)


def test_files_and_partitions_of_long_ago_are_tidied(place: Place) -> None:
    left = [f"{number}/1-{1:016x}-{1:08x}-00.part" for number in (8, 9)]
    for name in left:
        place.put(name)
    for name in ("upload-7-x.part", "download-7-x.part", "database-7.manifest"):
        place.files.append_to(name).close()
    save_two(place.opened(), 5)
    storage = place.opened()
    done(storage.tidy())
    assert place.files.names() == ["database-7.manifest"]
    assert set(left) < set(place.keys()), "they may belong to a snapshot under way"
    done(place.opened(wall=lambda: time.time() + ABANDONED_SECONDS + 60).tidy())
    assert not set(left) & set(place.keys())
    assert held(place) == all_of(5)


# -- many objects ----------------------------------------------------------------------------------


def test_listings_of_many_pages(client: Any) -> None:
    place = Place(client, page=3)
    storage = place.opened()
    for number in range(1, 8):
        save(storage, header(number), entries(number, number))
    save_parts(storage, split(9, number=8), None, {at: entries(8, 1) for at in range(9)})
    assert len(place.keys()) == 2 * 7 + 10
    with Requests(client) as requests:
        found = load(place.opened())
    assert requests.counts["ListObjectsV2"] == 8
    assert {number: len(held) for number, (_, held) in found.items()} == {
        **{number: number for number in range(1, 8)},
        8: 9,
    }
    done(storage.drop(8))
    assert list(load(place.opened())) == list(range(1, 8))


def test_more_objects_than_one_request_deletes(client: Any) -> None:
    place = Place(client)
    keys = [f"{place.prefix}/{number}" for number in range(1_005)]
    for key in keys[-3:]:
        place.objects.put(key, b"", 0)
    with Requests(client) as requests:
        place.objects.delete(keys)
    assert requests.counts == {"DeleteObjects": 2}
    assert list(place.objects.list(place.prefix)) == []


# -- damage ----------------------------------------------------------------------------------------


def manifest_of(place: Place, number: int = 7) -> dict[str, Any]:
    found = place.objects.get(f"{place.prefix}/databases/{number}/manifest.json")
    assert found is not None
    fields: dict[str, Any] = json.loads(found.data)
    return fields


def test_a_manifest_that_is_none(place: Place) -> None:
    save_two(place.opened(), 5)
    fields = manifest_of(place)
    place.put("8/manifest.json", json.dumps(fields).encode())
    uri = f"s3://{BUCKET}/{place.prefix}/databases/8/manifest.json"
    with pytest.raises(CorruptData, match=rf"^{uri} is damaged at byte 0: it is of database 7$"):
        place.opened()
    place.put("8/manifest.json", b"{}")
    with pytest.raises(CorruptData, match=r"8/manifest\.json is damaged .*format None"):
        place.opened()


@pytest.mark.parametrize("name", ["../8/x.part", "x", "1-1-1-1.part", "database-7-1-00.part"])
def test_a_manifest_that_names_what_is_no_partition(place: Place, name: str) -> None:
    head = header()
    part = Part(name, 5, 0, 10, 1)
    place.put("7/manifest.json", Manifest(head, 1, 1, (part,)).encode())
    with pytest.raises(CorruptData, match="it names something that is no partition"):
        place.opened()


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("damage", ["flip", "cut", "more", "swap"])
def test_a_damaged_partition(
    place: Place, damage: str, in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not in_memory:
        monkeypatch.setattr(s3_load, "IN_MEMORY", 0)
    save_two(place.opened(), 5)
    name = manifest_of(place)["parts"][2]["name"]
    key = f"{place.prefix}/databases/7/{name}"
    found = place.objects.get(key)
    assert found is not None
    data = found.data
    other = manifest_of(place)["parts"][0]["name"]
    swapped = place.objects.get(f"{place.prefix}/databases/7/{other}")
    assert swapped is not None
    place.put(
        f"7/{name}",
        {
            "flip": data[:90] + bytes((data[90] ^ 1,)) + data[91:],
            "cut": data[:-1],
            "more": data + b"x",
            "swap": swapped.data,
        }[damage],
    )
    with pytest.raises(CorruptData) as caught:
        load(place.opened())
    assert caught.value.path == f"s3://{BUCKET}/{key}"
    assert place.files.names() == []


def test_a_partition_that_is_lost(place: Place) -> None:
    save_two(place.opened(), 5)
    name = manifest_of(place)["parts"][2]["name"]
    key = f"{place.prefix}/databases/7/{name}"
    place.objects.delete([key])
    with pytest.raises(CorruptData) as caught:
        load(place.opened())
    assert str(caught.value) == (
        f"s3://{BUCKET}/{key} is damaged at byte 0: the manifest names it, but there is no such"
        " object"
    )


# -- a prefix that another node writes to ----------------------------------------------------------


@pytest.mark.parametrize("in_memory", [s3_load.IN_MEMORY, 150, 0])
def test_what_is_replaced_while_it_is_loaded_is_never_mixed(
    place: Place, in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_load, "IN_MEMORY", in_memory)
    writer = place.opened(1)
    for number in (3, 9):
        save(writer, header(number), entries(number, 3))
    save_two(writer, 5)
    reader = place.opened(2)
    save_parts(writer, split(4, index=8), [0], {0: entries(7, 1, b"new")})
    assert reader.held[7].index == 5
    assert load(reader) == {
        3: (header(3), entries(3, 3)),
        7: (split(4, index=8), [*entries(7, 1, b"new"), *entries(7, 3)]),
        9: (header(9), entries(9, 3)),
    }
    assert reader.held[7].index == 8
    assert place.files.names() == []
    # It goes on from what it has read.
    save_two(reader, 10)
    assert held(place) == all_of(10)


def test_what_is_dropped_while_it_is_loaded_is_not_there(place: Place) -> None:
    writer = place.opened(1)
    save(writer, header(3), entries(3, 3))
    save_two(writer, 5)
    reader = place.opened(2)
    done(writer.drop(3))
    assert load(reader) == {7: all_of(5)}
    assert list(reader.held) == [7]


def test_one_that_is_dropped_between_listing_and_reading(client: Any) -> None:
    place = Place(client)
    writer = place.opened(1)
    save_two(writer, 5)
    save(writer, header(3))
    reader = place.storage(2)
    listed = place.objects.list

    def dropping(prefix: str) -> Iterator[Listed]:
        found = list(listed(prefix))
        done(writer.drop(3))
        return iter(found)

    place.objects.list = dropping  # type: ignore[method-assign]
    reader.open()
    assert list(reader.held) == [7]


def test_a_reader_that_fails_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_load, "IN_MEMORY", 0)
    storage = place.opened()
    save_two(storage, 5)

    def refuse(_: object) -> None:
        assert any(name.startswith("download-7-") for name in place.files.names())
        raise StartError("no.")

    with pytest.raises(StartError, match=r"^no\.$"):
        done(storage.load(refuse, refuse))
    assert place.files.names() == []
    place.files.room = 10
    with pytest.raises(StartError, match=r"^The data directory cannot take .*No space left"):
        load(place.opened())


# -- failures of reading ---------------------------------------------------------------------------


def test_a_server_that_cannot_be_read_is_one_sentence(place: Place) -> None:
    save_two(place.opened(), 5)
    storage = place.opened()

    def start() -> None:
        storage.open()
        load(storage)

    for what in ("GET manifest", "GET part"):
        with Requests(place.client) as requests:
            requests.refused[what] = 10
            with pytest.raises(StartError) as caught:
                start()
        sentence = str(caught.value)
        assert f"s3://{BUCKET}/{place.prefix}" in sentence
        assert sentence.endswith(" cannot be read: there is no connection to the server.")


class Broken:
    """An answer that breaks off."""

    def __init__(self, times: int, data: bytes) -> None:
        self.times = times
        self.data = data

    def get_object(self, **_: str) -> dict[str, Any]:
        return {"Body": self, "ETag": "tag"}

    def read(self) -> bytes:
        if self.times:
            self.times -= 1
            raise ResponseStreamingError(error="reset")
        return self.data

    def iter_chunks(self, size: int) -> Iterator[bytes]:
        yield self.data[:1]
        yield self.read()[1:]


def test_an_answer_that_breaks_off_is_asked_for_again() -> None:
    slept: list[float] = []
    files = MemoryFiles()
    for times in (1, 3):
        objects = Objects(Broken(times, b"data"), "b", 3, sleep=slept.append)
        assert objects.get("k") == (b"data", "tag")
        objects = Objects(Broken(times, b"data"), "b", 3, sleep=slept.append)
        assert objects.download("k", files, "f")
        assert files.contents["f"] == b"data"
    assert len(slept) == 8
    objects = Objects(Broken(4, b"data"), "b", 3, sleep=slept.append)
    with pytest.raises(RequestFailed, match=r"^the connection broke off within the answer$"):
        objects.get("k")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (("SignatureDoesNotMatch", "x"), "the secret key does not fit the access key id"),
        (("AccessDenied", "x"), "access is denied to these credentials"),
        (("Odd", "Something.\nMore"), "Odd: Something"),
        (("", ""), "the server gave no reason"),
        (NoCredentialsError(), "no credentials were found"),
        (ReadTimeoutError(endpoint_url="x"), "the server did not answer in time"),
        (UnknownEndpointError(service_name="s", region_name="r"), "UnknownEndpointError: Unable"),
    ],
)
def test_reasons_are_in_plain_words(error: Any, text: str) -> None:
    if isinstance(error, tuple):
        code, message = error
        error = ClientError({"Error": {"Code": code, "Message": message}}, "PutObject")
    with pytest.raises(RequestFailed) as caught:
        Objects(Failing(error), "b").put("k", b"", 0)
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


class Failing:
    """A client whose every request fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def put_object(self, **_: object) -> None:
        raise self._error


def test_without_boto3_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(StartError) as caught:
        connect(Access())
    assert str(caught.value) == (
        "Snapshots in S3 need boto3, which is not installed: install it with: pip install"
        " 'nuntwist[s3]'."
    )


def test_a_url_that_is_none() -> None:
    with pytest.raises(StartError, match=r"^S3 cannot be used: .*\.$"):
        connect(Access("nonsense"))
    assert "hush" not in repr(Access(secret_key="hush"))
