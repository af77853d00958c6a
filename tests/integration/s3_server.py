"""A real S3 server (SeaweedFS) for the tests, a proxy in front of it that spoils things, and looks
at what nodes have put there."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Self

from twisted.internet.defer import maybeDeferred

from nuntwist.files import MemoryFiles
from nuntwist.interfaces import SnapshotHeader
from nuntwist.secrets import hash_secret
from nuntwist.storage import format as snapshot
from nuntwist.storage.manifest import Manifest, decode
from nuntwist.storage.partition import PartitionFile, read_part
from nuntwist.storage.s3_keys import part_name
from nuntwist.storage.s3_objects import Access, connect
from nuntwist.values import KEY, SET, VALUE, Epoch, Op
from tests.integration.harness import wait_until
from tests.ports import free_ports

KEY_ID, SECRET = "test-key-id", "test-secret-key"
BUCKET = "snapshots"
START_LIMIT = 120.0
"""Seconds until the first object can be put; it takes about 8."""
WEED = Path(sys.executable).with_name("weed")


class Seaweed:
    """One server: its process and its data; a context manager that kills it in the end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._child: subprocess.Popen[bytes] | None = None
        names = ("master", "volume", "filer", "s3")
        self._ports = dict(zip([*names, *(f"{n}.grpc" for n in names)], free_ports(8), strict=True))
        self.address = ("127.0.0.1", self._ports["s3"])
        self.client = connect(self.access(f"http://127.0.0.1:{self._ports['s3']}"))
        (directory / "data").mkdir(parents=True)
        account = {
            "name": "test",
            "credentials": [{"accessKey": KEY_ID, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        (directory / "s3.json").write_text(json.dumps({"identities": [account]}))

    @staticmethod
    def access(url: str) -> Access:
        """How the tests themselves get at a server."""
        return Access(url, KEY_ID, SECRET, inflight=20, retries=2)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.directory / "data", ignore_errors=True)

    def start(self) -> None:
        """Start it, and return when an object can be put."""
        options = [
            f"-{name}.port={self._ports[name]}" for name in ("master", "volume", "filer", "s3")
        ]
        options += [
            f"-{name}.port.grpc={self._ports[name + '.grpc']}"
            for name in ("master", "volume", "filer", "s3")
        ]
        with (self.directory / "log").open("ab") as log:
            self._child = subprocess.Popen(
                [
                    str(WEED),
                    f"-logdir={self.directory}",
                    "server",
                    f"-dir={self.directory / 'data'}",
                    "-ip=127.0.0.1",
                    "-s3",
                    f"-s3.config={self.directory / 's3.json'}",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    "-master.telemetry=false",
                    "-master.electionTimeout=1s",
                    "-master.volumeSizeLimitMB=64",
                    "-volume.max=100",
                    *options,
                ],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._takes, "the S3 server to take an object", START_LIMIT)

    def _takes(self) -> bool:
        assert self._child is not None
        assert self._child.poll() is None, (self.directory / "log").read_text()[-2000:]
        client = self.client
        try:
            with suppress(
                client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou
            ):
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="probe", Body=b"x")
        except Exception:
            # Whatever it is: it is not ready yet.
            time.sleep(0.2)
            return False
        return True

    def kill(self) -> None:
        """End it without a warning."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None


class Proxy:
    """Passes connections on to a server, later or not at all; a context manager.

    :ivar delay: seconds that each answer is held up.
    :ivar url: its address.
    :ivar passed: how many pieces went through so far.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.delay = 0.0
        self.passed = 0
        self._target = target
        self._closed = False
        self._open = True
        self._pairs: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self.cut()
        self._listener.close()

    def cut(self) -> None:
        """End all connections at once, and refuse new ones until ``mend``."""
        with self._lock:
            self._open = False
            for one in self._pairs:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Pass on again."""
        with self._lock:
            self._open = True

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if not self._open:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(self._target, 5)
                except OSError:
                    near.close()
                    continue
                self._pairs |= {near, far}
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._pass, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if answers and self.delay:
                    time.sleep(self.delay)
                target.sendall(data)
                self.passed += 1
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        if answers:
            with self._lock:
                self._pairs -= {source, target}
            source.close()
            target.close()


def snapshot_settings(url: str, prefix: str, **more: str) -> dict[str, str]:
    """The environment of a node that keeps its snapshots in S3."""
    return {
        "NUN_STORAGE_STRATEGY": "s3",
        "NUN_S3_BUCKET": BUCKET,
        "NUN_S3_PREFIX": prefix,
        "NUN_S3_KEY_ID": KEY_ID,
        "NUN_S3_SECRET_KEY": SECRET,
        "NUN_S3_API_URL": url,
        "NUN_S3_RETRY": "1",
        **more,
    }


def objects_under(client: Any, prefix: str) -> dict[str, bytes]:
    """All objects of a prefix, by the rest of their keys."""
    found: dict[str, bytes] = {}
    for page in client.get_paginator("list_objects_v2").paginate(
        Bucket=BUCKET, Prefix=prefix + "/"
    ):
        for one in page.get("Contents", ()):
            # What is not named any more may go between the two requests.
            with suppress(client.exceptions.NoSuchKey):
                body = client.get_object(Bucket=BUCKET, Key=one["Key"])["Body"].read()
                found[one["Key"][len(prefix) + 1 :]] = body
    return found


def manifests(found: dict[str, bytes]) -> dict[int, Manifest]:
    """The manifests among objects, by database; each must be readable, with all it names."""
    read = {}
    for key, data in found.items():
        if key.endswith("manifest.json"):
            one = decode(data, key)
            number = one.header.database_id
            read[number] = one
            for at, part in enumerate(one.parts):
                if part is not None:
                    body = found[f"databases/{number}/{part.name}"]
                    reader = snapshot.Reader(BytesIO(body), part.name, len(body))
                    read_part(reader, part, number, at, lambda _: None)
    return read


def entries_of(found: dict[str, bytes], manifest: Manifest) -> set[tuple[str, str]]:
    """Keys and values of a snapshot."""
    held: set[tuple[str, str]] = set()
    for part in filter(None, manifest.parts):
        body = found[f"databases/{manifest.header.database_id}/{part.name}"]
        for ops in snapshot.Reader(BytesIO(body), part.name, len(body)):
            held |= {(op[KEY].decode(), (op[VALUE] or b"").decode()) for op in ops}
    return held


def put_many(client: Any, prefix: str, many: int) -> None:
    """Put snapshots of many databases, each with one key and one token."""
    token = hash_secret(b"tok", b"salt" * 4, 14)
    named = tuple((number, b"d%d" % number) for number in range(1, many + 1))
    heads = [SnapshotHeader(number, name, b"newer", many, Epoch(1, 1)) for number, name in named]
    admin = SnapshotHeader(0, b"$admin", b"newer", many, Epoch(1, 1), databases=named)

    def put(head: SnapshotHeader) -> None:
        files, number = MemoryFiles(), head.database_id
        entries: list[Op] = [
            (token, 0, number, 1, SET, number, b"$$token"),
            (b"of %d" % number, 0, number, 1, SET, number, b"k"),
        ]
        file = PartitionFile(files, maybeDeferred, part_name(1, 1, 1, 0), head, 0)
        if number:
            file.write(entries)
        part = file.finish()
        manifest = Manifest(head, 1, 1, (part,))
        for name, data in (
            (part.name, files.contents[part.name]),
            ("manifest.json", manifest.encode()),
        ):
            key = f"{prefix}/databases/{number}/{name}"
            client.put_object(Bucket=BUCKET, Key=key, Body=bytes(data))

    with ThreadPoolExecutor(10) as threads:
        for _ in threads.map(put, [*heads, admin]):
            pass
