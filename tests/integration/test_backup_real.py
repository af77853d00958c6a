"""Backups, restores, exports and imports between real nodes, as a user does them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nuntwist.archive.entries import archive_of, entry
from nuntwist.archive.format import Member
from tests.integration.conftest import Start
from tests.integration.harness import (
    LIMIT,
    PASSWORD,
    USER,
    Process,
    clean_environment,
    no_trace_of_trouble,
    post,
    wait_until,
)
from tests.integration.test_cli_real import CREDENTIALS, NUN_DB, Ended, is_refused, nun_db, url

MADE = "2026-01-02T03:04:05+00:00"
HASH = b"$scrypt$ln=14,r=8,p=1$c2FsdA$aGFzaA"
KEYS = 40_000
FILL = 20_000
TRIES = 4
"""How often something is interrupted that may have been done before."""


def run(node: Process, *words: str) -> Ended:
    """Run the command line as the admin of a node."""
    return nun_db(*CREDENTIALS, "-h", url(node), *words)


def done(ended: Ended) -> str:
    """Assert that it went well; gives what was printed."""
    assert (ended.returncode, ended.stderr) == (0, ""), ended
    return ended.stdout


def lines_of(node: Process, name: str) -> dict[str, tuple[str, int]]:
    """What a database holds, by an export."""
    ended = run(node, "export", "--db", name, "-")
    assert ended.returncode == 0, ended
    entries = map(json.loads, ended.stdout.splitlines())
    return {entry["key"]: (entry["value"], entry["version"]) for entry in entries}


def databases(node: Process) -> list[str]:
    """The names of all databases."""
    answer = post(node.address("HTTP"), f"auth {USER} {PASSWORD}; debug list-dbs")
    return [line.split(" : ")[0] for line in answer.splitlines()[2:] if " : " in line]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A backup of 40 MB, of which a restore takes a while."""
    entries = [entry(b"$$token", HASH, 0)]
    entries += [entry(b"key-%d" % n, b"%d " % n + b"x" * 1_000, n) for n in range(KEYS)]
    path = tmp_path / "large.nun"
    with path.open("wb") as file:
        for piece in archive_of([(Member(b"large", b"none"), entries)], MADE, "test"):
            file.write(piece)
    return path


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[str]]]:
    """Command lines under way, which are gone after the test."""
    found: list[subprocess.Popen[str]] = []
    yield found
    for child in found:
        child.kill()
        child.wait()
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        child.stderr.close()


def begun(
    children: list[subprocess.Popen[str]], node: Process, *words: str
) -> subprocess.Popen[str]:
    """Begin to run the command line."""
    child = subprocess.Popen(
        [*NUN_DB, *CREDENTIALS, "-h", url(node), *words],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    children.append(child)
    return child


class Writer(threading.Thread):
    """Sets a number in two databases, first in one, then in the other, and counts on.

    :ivar answered: the last number that both have acknowledged.
    """

    def __init__(self, node: Process, key: str) -> None:
        super().__init__()
        self._clients = [node.select("one"), node.select("two")]
        self._key = key
        self.stop = threading.Event()
        self.answered = 0

    def run(self) -> None:
        """Write until told to stop."""
        while not self.stop.is_set():
            number = self.answered + 1
            for client in self._clients:
                assert client.ask(f"set {self._key} {number}") == [b"ok \n"]
            self.answered = number
        for client in self._clients:
            client.close()


def test_a_backup_under_writers_is_of_one_moment(start: Start, tmp_path: Path) -> None:
    node, other = start(), start()
    for name in ("one", "two"):
        node.create(name)
    with node.select("one") as client:
        for at in range(0, FILL, 1_000):
            client.send(b"".join(b"set fill-%d x\n" % n for n in range(at, at + 1_000)))
            for _ in range(1_000):
                client.line()
    writers = [Writer(node, f"w-{number}") for number in range(4)]
    for writer in writers:
        writer.start()
    try:
        for turn in range(3):
            file = str(tmp_path / f"{turn}.nun")
            before = [writer.answered for writer in writers]
            done(run(node, "backup", file))
            after = [writer.answered for writer in writers]
            done(run(other, "restore", "--force", file))
            one, two = lines_of(other, "one"), lines_of(other, "two")
            assert len(one) == FILL + len(writers)
            for number in range(len(writers)):
                first, second = (int(found[f"w-{number}"][0]) for found in (one, two))
                assert second <= first <= second + 1
                assert before[number] <= second <= after[number] + 1
            assert sum(after) > sum(before)
    finally:
        for writer in writers:
            writer.stop.set()
            writer.join(LIMIT)
    no_trace_of_trouble(node.log)


def test_everything_comes_back_on_a_fresh_node(start: Start, tmp_path: Path) -> None:
    node, fresh, file = start(), start(), str(tmp_path / "all.nun")
    node.create("shop")
    node.admin("create-db safe tok newer")
    node.admin("use-db shop tok", "create-user ann s3cret", "set-permissions ann r *")
    node.admin(f"use-db $admin {PASSWORD}", "set own value")
    with node.select("shop") as client:
        client.ask("set-safe k 6 é; |,x")
        client.ask("set gone v")
        client.ask("remove gone")
    done(run(node, "backup", file))
    assert done(run(fresh, "restore", file)).startswith("restored 3 databases, 6 entries in ")
    fresh.kill()
    fresh.start()
    asked = "use-db shop ann s3cret; get-safe k; get gone; use-db shop tok; keys"
    assert post(fresh.address("HTTP"), asked) == (
        "empty;value-version 7 é; |,x\n;value <Empty>\n;empty;keys ,$connections,k\n"
    )
    own = f"auth {USER} {PASSWORD}; use-db $admin {PASSWORD}; get own; debug list-dbs"
    answer = post(fresh.address("HTTP"), own)
    assert answer.startswith("valid auth\n;empty;value value\n;")
    assert "safe : newer\nshop : none\n" in answer
    refused = run(fresh, "restore", file)
    is_refused(refused, "The databases safe, shop are there already: --force replaces them.")
    no_trace_of_trouble(fresh.log)


def test_force_and_merge(start: Start, tmp_path: Path) -> None:
    node, file = start(), str(tmp_path / "x.nun")
    node.create("shop")
    with node.select("shop") as client:
        client.ask("set a 1")
        done(run(node, "backup", "--db", "shop", file))
        client.ask("set a 2")
        client.ask("set b 2")
        done(run(node, "restore", "--merge", file))
        assert client.ask("get-safe a") == [b"value-version 2 1\n", b"ok \n"]
        assert client.ask("get b") == [b"value 2\n", b"ok \n"]
        assert done(run(node, "restore", "--force", file)).endswith("; replaced shop\n")
        # Its connections end: they had selected a database that is no more.
        assert client.rest() == b""
    assert lines_of(node, "shop") == {"a": ("1", 0)}


def test_a_node_killed_in_a_restore_has_nothing_of_it(
    start: Start, large: Path, children: list[subprocess.Popen[str]]
) -> None:
    node = start()
    for _ in range(TRIES):
        node.create("large")
        with node.select("large") as client:
            client.ask("set k v")
        before = size_of(node.data)
        child = begun(children, node, "restore", "--force", str(large))
        wait_until(lambda: size_of(node.data) > before + 5_000_000, "some of it to be in the log")  # noqa: B023
        node.kill()
        output, said = child.communicate(timeout=LIMIT)
        if child.returncode:
            break
        # All of it was done before this process had a look.
        node.start()
        node.admin("drop-db large")
    assert (child.returncode, output) == (1, "")
    assert said.count("\n") == 1
    assert url(node) in said
    node.start()
    assert databases(node) == ["$admin", "large"]
    assert lines_of(node, "large") == {"k": ("v", 0)}
    assert done(run(node, "restore", "--force", str(large))).endswith("; replaced large\n")
    node.kill()
    node.start()
    found = lines_of(node, "large")
    assert len(found) == KEYS
    assert found["key-9"] == ("9 " + "x" * 1_000, 9)


def size_of(directory: Path, names: str = "*") -> int:
    """The bytes of files, which may go meanwhile."""
    size = 0
    for path in directory.rglob(names):
        with suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    return size


def test_ctrl_c_leaves_no_part_of_a_backup(
    start: Start, large: Path, tmp_path: Path, children: list[subprocess.Popen[str]]
) -> None:
    node, file = start(), tmp_path / "x.nun"
    done(run(node, "restore", str(large)))
    part = Path(f"{file}.part")
    for _ in range(TRIES):
        child = begun(children, node, "backup", str(file))
        wait_until(lambda: file.exists() or size_of(tmp_path, part.name), "a first part")
        child.send_signal(signal.SIGINT)
        output, said = child.communicate(timeout=LIMIT)
        if not file.exists():
            break
        # All of it was done before this process had a look.
        file.unlink()
    else:
        raise AssertionError("no backup was ever interrupted")
    assert (child.returncode, output) == (1, "")
    assert said == "Interrupted; nothing was changed.\n"
    assert not part.exists()
    assert not file.exists()
    # Four may be under way at once; the one that was given up is none of them.
    for _ in range(4):
        answer = post(node.address("HTTP"), f"auth {USER} {PASSWORD}; backup-begin")
        word, _, _ = answer.removeprefix("valid auth\n;").split()
        assert word == "backup"
    no_trace_of_trouble(node.log)


def test_lines_go_out_and_come_in(start: Start, tmp_path: Path) -> None:
    node, file = start(), str(tmp_path / "x.jsonl")
    node.create("shop")
    with node.select("shop") as client:
        for number in range(100):
            client.ask(f'set k{number} {number}; "ü\\')
        client.ask("set-safe k1 8 v")
    done(run(node, "export", "--db", "shop", file))
    done(run(node, "import", "--db", "copy", "--token", "tok", "-s", "newer", file))
    assert lines_of(node, "copy") == lines_of(node, "shop")
    assert len(lines_of(node, "copy")) == 100
    with open(file, "ab") as lines:
        lines.write(b"[]\n")
    refused = run(node, "import", "--db", "bad", "--token", "tok", file)
    is_refused(refused, "line 101: it is not a JSON object; nothing was changed")
    assert "bad" not in databases(node)


def test_a_database_is_copied_live_from_another_node(start: Start) -> None:
    node, other = start(), start()
    node.create("shop")
    node.admin("use-db shop tok", "set-permissions all rw *")
    with node.select("shop") as client:
        client.send(b"".join(b"set key-%d v;%d\n" % (n, n) for n in range(3_000)))
        for _ in range(3_000):
            client.line()
        for key in ("a,b", "a", "b", "x,y,z"):
            client.ask(f"set {key} {key}!")
        client.ask("set large " + "x" * 900_000)
        client.ask("set larger " + "y" * 900_000)
    words = ("--db", "shop", "--token", "tok", "--source-user", USER, "--source-pwd", PASSWORD)
    copied = run(other, "import", "--host", url(node), *words)
    assert done(copied).startswith("restored 1 database, 3,008 entries in ")
    assert lines_of(other, "shop") == lines_of(node, "shop")
    asked = post(other.address("HTTP"), "use-db shop tok; set k v; get x,y,z; remove k")
    assert asked == "empty;empty;value x,y,z!\n;permission denied\n"


# -- S3 --------------------------------------------------------------------------------------------


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A server that speaks S3, with a bucket; gives the settings for it."""
    server = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    moto = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    settings = {
        "NUN_S3_API_URL": f"http://{host}:{port}",
        "NUN_S3_KEY_ID": "id",
        "NUN_S3_SECRET_KEY": "s3-secret",
        "NUN_USER": USER,
        "NUN_PWD": PASSWORD,
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }
    client = boto3.client(
        "s3",
        endpoint_url=settings["NUN_S3_API_URL"],
        aws_access_key_id="id",
        aws_secret_access_key="s3-secret",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="bucket")
    try:
        yield settings
    finally:
        moto.stop()


def test_backups_in_s3(start: Start, s3: dict[str, str]) -> None:
    node, fresh = start(), start()
    node.create("shop")
    with node.select("shop") as client:
        client.ask("set k v")
    name = "s3://bucket/some/where.nun"
    to, back = ("-h", url(node), "backup"), ("-h", url(fresh), "restore")
    done(nun_db(*to, name, **s3))
    is_refused(nun_db(*to, name, **s3), f"{name} is there already: --force replaces it.")
    done(nun_db(*to, "--force", name, **s3))
    done(nun_db(*back, name, **s3))
    assert lines_of(fresh, "shop") == {"k": ("v", 0)}
    is_refused(nun_db(*back, "s3://bucket/no", **s3), "s3://bucket/no cannot be read or written")
    is_refused(nun_db(*to, "s3://none/x", **s3), "s3://none/x cannot be read or written: ")
    nowhere = {**s3, "NUN_S3_API_URL": "http://127.0.0.1:1"}
    refused = nun_db(*back, name, **nowhere)
    is_refused(refused, "Could not connect to the endpoint")
    assert "s3-secret" not in refused.stderr
    assert os.listdir(node.directory).count("where.nun") == 0
