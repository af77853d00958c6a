"""Nodes whose snapshots are in a real S3 server, which the tests start, slow down and cut off."""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.integration.conftest import Start
from tests.integration.harness import (
    LIMIT,
    PASSWORD,
    Process,
    no_trace_of_trouble,
    run_to_end,
    wait_until,
)
from tests.integration.s3_server import (
    BUCKET,
    Proxy,
    Seaweed,
    entries_of,
    manifests,
    objects_under,
    put_many,
    snapshot_settings,
)
from tests.ports import free_ports

PREFIXES = (f"node-{number}" for number in count(1))
CUTS, KILLS = 30, int(os.environ.get("S3_KILLS", "1"))
"""How often connections are cut, and the server killed, which takes 4 s and more to come back."""
HELD_UP = 0.6
"""Which part of the time writes may be held up."""
NEVER = "100000"
"""Seconds between snapshots where a test asks for them itself."""


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with Seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def proxy(s3: Seaweed) -> Iterator[Proxy]:
    with Proxy(s3.address) as one:
        yield one


@pytest.fixture
def prefix() -> str:
    return next(PREFIXES)


class Writing:
    """A client that writes on and on, in a thread, and notes how long each write took.

    A machine that is busy may hold up a write or two; who waits for S3 does so all the time.
    """

    def __init__(self, node: Process, database: str, keys: int = 500) -> None:
        self.seconds: list[float] = []
        self.values: dict[str, str] = {}
        self._client = node.select(database)
        self._keys = keys
        self._over = threading.Event()
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for number in count():
            if self._over.is_set():
                return
            key, value = f"w-{number % self._keys}", f"{number}-" + "x" * 100
            before = time.monotonic()
            assert self._client.ask(f"set {key} {value}") == [b"ok \n"]
            self.seconds.append(time.monotonic() - before)
            self.values[key] = value
            time.sleep(0.002)

    def end(self) -> float:
        """Stop; gives which part of the time went into writes that took long."""
        wait_until(lambda: len(self.seconds) > 100, "some writes")
        self._over.set()
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()
        self._client.close()
        return sum(one for one in self.seconds if one > 0.1) / (time.monotonic() - self._began)


def take(node: Process, what: str = "$admin", whole: bool = False) -> str:
    """Take a snapshot; gives the answer."""
    return node.admin(f"snapshot {str(whole).lower()} {what}")


def databases(node: Process) -> list[str]:
    """The names of all databases, as clients see them in ``$admin``."""
    with node.tcp() as client:
        assert client.ask(f"use-db $admin {PASSWORD}") == [b"ok \n"]
        listed = client.ask("keys")[0].decode()
    return listed.removeprefix("keys ").strip().split(",")


# -- starts that fail ----------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["secret", "id", "bucket", "down"])
def test_what_is_in_the_way_is_one_sentence(
    s3: Seaweed, tmp_path: Path, prefix: str, wrong: str
) -> None:
    (port,) = free_ports(1)
    settings, reason = {
        "secret": ({"NUN_S3_SECRET_KEY": "hush-hush"}, "the secret key does not fit"),
        "id": ({"NUN_S3_KEY_ID": "nobody"}, "the access key id is not known there"),
        "bucket": ({"NUN_S3_BUCKET": "no-such-bucket"}, "the bucket does not exist"),
        "down": ({"NUN_S3_API_URL": f"http://127.0.0.1:{port}"}, "there is no connection"),
    }[wrong]
    url = f"http://127.0.0.1:{s3.address[1]}"
    status, out, error = run_to_end(
        "--tcp-address", "off", "--ws-address", "off", "--http-address", "off", cwd=tmp_path,
        **{**snapshot_settings(url, prefix), **settings},
    )  # fmt: skip
    assert status == 1
    (line,) = [line for line in (out + error).splitlines() if "s3://" in line]
    bucket = settings.get("NUN_S3_BUCKET", BUCKET)
    assert f"The snapshots in s3://{bucket}/{prefix} cannot be read: {reason}" in line
    assert line.endswith(".")
    assert "Traceback" not in out + error
    assert "hush-hush" not in out + error


def test_an_object_that_is_lost_stops_a_start(s3: Seaweed, start: Start, prefix: str) -> None:
    url = f"http://127.0.0.1:{s3.address[1]}"
    node = start(variables=snapshot_settings(url, prefix))
    node.create("d")
    assert take(node) == "valid auth\n;empty"
    node.kill()
    (name,) = manifests(objects_under(s3.client, prefix))[1].names
    key = f"{prefix}/databases/1/{name}"
    s3.client.delete_object(Bucket=BUCKET, Key=key)
    with pytest.raises(AssertionError):
        node.start()
    assert (
        f"s3://{BUCKET}/{key} is damaged at byte 0: the manifest names it, but there is no such"
        " object; nothing was changed: restore an earlier version of the object, or read from a"
        " good copy with NUN_S3_READ_PREFIX." in node.log
    )
    assert "Traceback" not in node.log


# -- moving and coming back ------------------------------------------------------------------------


def test_a_node_comes_back_from_s3_alone(s3: Seaweed, start: Start, prefix: str) -> None:
    url = f"http://127.0.0.1:{s3.address[1]}"
    settings = snapshot_settings(url, prefix, NUN_DECLUTTER_INTERVAL=NEVER)
    first = start(variables=settings)
    for name in ("one", "two", "gone"):
        first.create(name)
    first.admin("use-db one tok", "create-user ann ann-pwd", "set-permissions ann rwix *")
    with first.select("one") as client:
        for number in range(3_000):
            client.send(b"set k-%d v-%d\n" % (number, number))
        for _ in range(3_000):
            client.answer()
    first.admin("use-db two tok", "set a 1")
    first.admin("drop-db gone")
    assert take(first) == "valid auth\n;empty"
    # Written, but in no snapshot: what a machine that is lost takes with it.
    first.admin("use-db two tok", "set late 1")
    first.kill()
    assert len(manifests(objects_under(s3.client, prefix))[1].names) == 10

    second = start(variables=settings)
    check_restored(second)
    assert "late" not in second.admin("use-db two tok", "keys")
    second.create("three")
    second.admin("use-db one tok", "set k-1 new")
    for again in range(3):
        second.kill()
        second.start()
        check_restored(second)
        assert "value new" in second.admin("use-db one tok", "get k-1"), again
        assert "three" in databases(second)
    assert take(second) == "valid auth\n;empty"
    assert second.stop() == 0
    no_trace_of_trouble(second.log)

    # A third from what the second has written: ids and epochs have gone on.
    third = start(variables=settings)
    assert "value new" in third.admin("use-db one tok", "get k-1")
    assert "three" in databases(third)
    # Killed before it has written anything, and right after.
    third.kill()
    third.start()
    check_restored(third)
    third.create("four")
    third.kill()
    third.start()
    assert "four" in databases(third)
    assert take(third, whole=True) == "valid auth\n;empty"
    found = manifests(objects_under(s3.client, prefix))
    assert {one.header.name for one in found.values()} == {
        *(b"$admin", b"one", b"two", b"three", b"four"),
    }
    assert len({one.header.database_id for one in found.values()}) == 5


def check_restored(node: Process) -> None:
    """What the first node had is there: data, users, permissions, the list."""
    listed = databases(node)
    assert "one" in listed
    assert "gone" not in listed
    with node.tcp() as client:
        assert client.ask("use-db one ann ann-pwd") == [b"ok \n"]
        assert client.ask("get k-2999")[0] == b"value v-2999\n"
        assert client.ask("set k-0 v-0") == [b"ok \n"]
        assert client.ask("use-db one ann wrong")[-1].startswith(b"error ")
    assert "value 1" in node.admin("use-db two tok", "get a")


def test_a_running_node_moves_from_the_disk_to_s3_and_back(
    s3: Seaweed, start: Start, prefix: str
) -> None:
    url = f"http://127.0.0.1:{s3.address[1]}"
    node = start(variables={"NUN_DECLUTTER_INTERVAL": NEVER})
    node.create("d")
    node.admin("use-db d tok", "set k 1")
    assert node.stop() == 0

    def restarted(read: str, write: str, **more: str) -> None:
        settings = snapshot_settings(url, prefix, NUN_DECLUTTER_INTERVAL=NEVER, **more)
        node.variables |= settings
        node.variables |= {
            "NUN_STORAGE_READ_STRATEGY": read, "NUN_STORAGE_WRITE_STRATEGY": write
        }  # fmt: skip
        node.start()
        assert "value 1" in node.admin("use-db d tok", "get k")

    restarted("disk", "s3")
    # The two had nothing to write since, but S3 has nothing: all go there.
    assert take(node) == "valid auth\n;empty"
    assert set(manifests(objects_under(s3.client, prefix))) == {0, 1}
    node.kill()
    restarted("disk", "s3")
    node.kill()
    for path in node.data.glob("database-*"):
        path.unlink()
    restarted("s3", "s3")
    node.admin("use-db d tok", "set more 2")
    assert node.stop() == 0
    assert manifests(objects_under(s3.client, prefix))[1].header.index > 2
    restarted("s3", "disk")
    assert node.stop() == 0
    restarted("disk", "disk")
    assert "value 2" in node.admin("use-db d tok", "get more")

    # Another node is not let in where it does not read.
    other = start()
    other.kill()
    other.variables |= snapshot_settings(url, prefix, NUN_STORAGE_READ_STRATEGY="disk")
    with pytest.raises(AssertionError):
        other.start()
    assert "are snapshots of another node" in other.log
    assert "Traceback" not in other.log


# -- trouble while it runs -------------------------------------------------------------------------


def test_slow_answers_hold_up_no_client(start: Start, proxy: Proxy, prefix: str) -> None:
    node = start(variables=snapshot_settings(proxy.url, prefix, NUN_DECLUTTER_INTERVAL=NEVER))
    for number in range(5):
        node.create(f"d{number}")
    proxy.delay = 0.3
    writing = Writing(node, "d0")
    began = time.monotonic()
    assert take(node) == "valid auth\n;empty"
    took = time.monotonic() - began
    held_up = writing.end()
    print(f"slow: a snapshot took {took:.2f} s, writes were held up for {held_up:.0%} of it")
    assert took > 0.9
    assert held_up < HELD_UP


def test_a_server_that_goes_away_within_snapshots(
    s3: Seaweed, start: Start, proxy: Proxy, prefix: str
) -> None:
    node = start(variables=snapshot_settings(proxy.url, prefix, NUN_DECLUTTER_INTERVAL="0.05"))
    for name in ("d", "e"):
        node.create(name)
    chance = random.Random(seed := random.randrange(1 << 32))
    print(f"seed {seed}")
    writers = [Writing(node, "d", 2_000), Writing(node, "e", 3)]
    seen = set()
    cuts = 0
    while cuts < CUTS or (len(seen) <= 3 and cuts < 5 * CUTS):
        proxy.passed = 0
        wait_until(lambda: proxy.passed, "a request")
        # Where snapshots take so long that none is ever whole, later and later.
        time.sleep(chance.random() * 0.06 * 2 ** (cuts // CUTS))
        cuts += 1
        proxy.cut()
        found = manifests(objects_under(s3.client, prefix))
        seen.add(tuple(one.generation for _, one in sorted(found.items())))
        proxy.mend()
    held_up = max(writer.end() for writer in writers)
    print(f"cut {cuts} times: writes held up for {held_up:.0%} of the time, {len(seen)} states")
    assert held_up < HELD_UP
    assert len(seen) > 3
    assert "a snapshot could not be written, the one before stays: s3://" in node.log
    assert node.stop() == 0
    no_trace_of_trouble(node.log, ["a snapshot could not be written"])
    left = objects_under(s3.client, prefix)
    read = manifests(left)
    assert {one.header.name for one in read.values()} == {b"$admin", b"d", b"e"}
    for writer, number in zip(writers, sorted(read)[1:], strict=True):
        assert entries_of(left, read[number]) >= writer.values.items()


def test_a_server_that_is_killed_within_snapshots(
    s3: Seaweed, start: Start, proxy: Proxy, prefix: str
) -> None:
    node = start(variables=snapshot_settings(proxy.url, prefix, NUN_DECLUTTER_INTERVAL="0.05"))
    node.create("d")
    writing = Writing(node, "d", 2_000)
    for number in range(KILLS):
        proxy.passed = 0
        wait_until(lambda: proxy.passed > 20, "some requests")
        s3.kill()
        if number == 0:
            wait_until(lambda: "the one before stays: s3://" in node.log, "a failure")
        proxy.cut()
        s3.start()
        manifests(objects_under(s3.client, prefix))
        proxy.mend()
    wait_until(lambda: "snapshots can be written again" in node.log, "a snapshot")
    held_up = writing.end()
    print(f"killed {KILLS} times: writes held up for {held_up:.0%} of the time")
    assert held_up < HELD_UP
    # A stop does not wait for ever; what is not in S3 is in the log.
    s3.kill()
    node.admin("use-db d tok", "set last 1")
    assert node.stop() == 0
    s3.start()
    node.start()
    assert "value 1" in node.admin("use-db d tok", "get last")
    assert node.stop() == 0
    read = manifests(objects_under(s3.client, prefix))
    assert {one.header.name for one in read.values()} == {b"$admin", b"d"}


def test_two_nodes_on_one_prefix(s3: Seaweed, start: Start, prefix: str) -> None:
    url = f"http://127.0.0.1:{s3.address[1]}"
    settings = snapshot_settings(url, prefix, NUN_DECLUTTER_INTERVAL=NEVER)
    nodes = [start(variables=settings) for _ in range(2)]
    for name, node in zip("ab", nodes, strict=True):
        node.create(name)
    answers = [""] * 2

    def race(number: int) -> None:
        answers[number] = take(nodes[number])

    threads = [threading.Thread(target=race, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    said = [take(node) for node in nodes]
    lost = [number for number in range(2) if "another node" in said[number]]
    # Each may have come first with one of the two manifests; then both stop.
    assert lost
    for number in lost:
        assert re.search(
            rf"storage unavailable: another node, [0-9a-f]{{16}} in epoch 1, writes to s3://{BUCKET}/"
            rf"{prefix}; stop one of the two, or give this one a NUN_S3_PREFIX of its own",
            said[number],
        )
        assert "empty" in nodes[number].admin(f"use-db {'ab'[number]} tok", "set k 1")
    read = manifests(objects_under(s3.client, prefix))
    assert len({read[number].writer for number in read if number}) == 1


# -- many databases --------------------------------------------------------------------------------

MANY = 500


def test_many_small_databases(
    s3: Seaweed, start: Start, proxy: Proxy, tmp_path: Path, prefix: str
) -> None:
    put_many(s3.client, prefix, MANY)
    proxy.delay = 0.02
    before = time.monotonic()
    node = start(variables=snapshot_settings(proxy.url, prefix, NUN_S3_MAX_INFLIGHT_REQUESTS="20"))
    took = time.monotonic() - before
    print(f"{MANY} databases: started in {took:.1f} s")
    listed = databases(node)
    assert f"d{MANY}" in listed
    for number in (1, MANY // 2, MANY):
        assert f"value of {number}" in node.admin(f"use-db d{number} tok", "get k")
