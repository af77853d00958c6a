"""An S3 server of moto's in this process, and storages on it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any, Self
from zlib import crc32

from botocore.exceptions import ConnectionClosedError, EndpointConnectionError
from moto.server import ThreadedMotoServer
from twisted.internet.defer import maybeDeferred

from nuntwist.files import MemoryFiles
from nuntwist.interfaces import IStorage, SnapshotHeader
from nuntwist.storage.s3 import S3Storage
from nuntwist.storage.s3_keys import Keys
from nuntwist.storage.s3_objects import Access, Objects, connect
from nuntwist.values import Op
from tests.unit.conformance_storage import entries, load, save_parts, split

BUCKET = "snapshots"
NUMBERS = count(1)


def serve() -> Iterator[Any]:
    """Run a server; gives a client of it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    made = connect(Access(f"http://{host}:{port}", "key-id", "secret", inflight=4, retries=1))
    made.create_bucket(Bucket=BUCKET)
    yield made
    made.close()
    server.stop()


class Place:
    """A prefix of its own, and the nodes on it."""

    def __init__(self, client: Any, page: int = 1_000) -> None:
        self.client = client
        self.prefix = f"place-{next(NUMBERS)}"
        self.objects = Objects(client, BUCKET, retries=1, page=page, sleep=lambda _: None)
        self.files = MemoryFiles()

    def storage(self, writer: int = 1, **options: Any) -> S3Storage:
        """A storage that is not open."""
        return S3Storage(
            self.objects,
            self.prefix,
            self.files,
            maybeDeferred,
            maybeDeferred,
            writer,
            inflight=4,
            chance=random.Random(writer),
            **options,
        )

    def opened(self, writer: int = 1, **options: Any) -> S3Storage:
        """An open one."""
        storage = self.storage(writer, **options)
        storage.open()
        return storage

    def keys(self) -> list[str]:
        """What is there, without the prefix."""
        start = len(f"{self.prefix}/databases/")
        return [key[start:] for key, _ in self.objects.list(self.prefix + "/")]

    def has(self, key: str) -> bool:
        """Whether an object is there."""
        return key in {*self.keys()}

    def names(self) -> frozenset[str]:
        """The partitions that the manifest of database 7 names."""
        read = Keys(self.objects, self.prefix).read(7)
        assert read is not None
        return read[0].names

    def put(self, key: str, data: bytes = b"") -> None:
        """Put an object, by its key without the prefix."""
        self.objects.put(f"{self.prefix}/databases/{key}", data, crc32(data))


class Requests:
    """Counts requests by their names, and spoils some; a context manager.

    :ivar lost: names of requests to the number of answers that get lost on their way.
    :ivar refused: the same for requests that never reach the server.
    """

    def __init__(self, client: Any) -> None:
        self.counts: Counter[str] = Counter()
        self.sent: list[str] = []
        self.lost: dict[str, int] = {}
        self.refused: dict[str, int] = {}
        self._client = client

    def __enter__(self) -> Self:
        self._client.meta.events.register("before-send.s3", self._before_send)
        self._client.meta.events.register("before-call.s3", self._before_call)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.meta.events.unregister("before-send.s3", self._before_send)
        self._client.meta.events.unregister("before-call.s3", self._before_call)

    def _before_call(self, model: Any, params: dict[str, Any], **_: object) -> None:
        self.counts[model.name] += 1
        self.sent.append(f"{model.name} {params['url_path'].rpartition('/')[2]}")

    def _before_send(self, request: Any, **_: object) -> None:
        path, _, query = request.url.partition("?")
        kind = "manifest" if path.endswith("manifest.json") else "part"
        name = f"{request.method} {'list' if 'list-type' in query else query or kind}"
        if self.refused.get(name, 0):
            self.refused[name] -= 1
            raise EndpointConnectionError(endpoint_url=request.url)
        if self.lost.get(name, 0):
            self.lost[name] -= 1
            self._client._endpoint.http_session.send(request)
            raise ConnectionClosedError(endpoint_url=request.url)


def two(index: int, value: bytes = b"v") -> tuple[SnapshotHeader, dict[int, list[Op]]]:
    """A snapshot in four partitions, two of which hold something."""
    return split(4, index=index), {0: entries(7, 2, value), 2: entries(7, 3, value)}


def save_two(storage: IStorage, index: int, value: bytes = b"v") -> None:
    head, parts = two(index, value)
    save_parts(storage, head, None, parts)


def held(place: Place) -> tuple[SnapshotHeader, list[Op]]:
    """What a node that starts finds of the database."""
    return load(place.opened())[7]


def all_of(index: int, value: bytes = b"v") -> tuple[SnapshotHeader, list[Op]]:
    """What that must be."""
    head, parts = two(index, value)
    return head, [*parts[0], *parts[2]]
