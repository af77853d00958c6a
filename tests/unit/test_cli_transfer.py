"""``nun-db backup``, ``restore`` and ``export`` against nodes in memory: sentences, statuses, and
what is left behind."""

from __future__ import annotations

import base64
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from twisted.internet import task

from nuntwist import cli
from nuntwist.cli import main
from nuntwist.cli_progress import Progress, counted
from nuntwist.cli_session import AT_ONCE
from nuntwist.testing import MemoryNode
from tests.unit.fake_node import Network, React, behind

FILE = "x.nun"


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def node() -> MemoryNode:
    node = MemoryNode()
    node.admin("create-db d t", "create-db e t newer").close()
    client = node.tcp()
    client.send("use-db d t")
    client.deliver(b"".join(b"set key-%d v;%d\n" % (n, n) for n in range(2_500)))
    client.send("set-safe key-7 41 é")
    client.close()
    return node


@pytest.fixture
def fresh() -> MemoryNode:
    return MemoryNode()


@pytest.fixture
def net(node: MemoryNode, fresh: MemoryNode) -> Network:
    return Network(a=behind(node), b=behind(fresh))


@pytest.fixture
def react(monkeypatch: pytest.MonkeyPatch) -> React:
    react = React()
    monkeypatch.setattr(task, "react", react)
    return react


@pytest.fixture
def run(
    net: Network,
    react: React,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> Run:
    """Run the command line in an empty directory; times are taken out of what it prints."""
    monkeypatch.setattr(cli, "make_client", net.client)
    monkeypatch.chdir(tmp_path)

    def begin(*words: str, **environment: str) -> Outcome:
        status = main(words, environment)
        out, err = (cut_times(data.decode()) for data in capfdbinary.readouterr())
        return Outcome(status, out, err)

    return begin


def cut_times(text: str) -> str:
    words = text.split(" ")
    for at in range(1, len(words) - 1):
        if words[at - 1] == "in" and words[at + 1][:1] == "s":
            words[at] = "T"
    return " ".join(words)


def is_refused(outcome: Outcome, part: str) -> None:
    assert outcome.status == 1
    assert outcome.out == ""
    assert part in outcome.err
    assert outcome.err.count("\n") == 1
    assert outcome.err.endswith(".\n")


def all_of(node: MemoryNode, name: str) -> list[str]:
    """Keys, values and versions of a database, as lines."""
    keys = node.post(f"auth nun nun-pwd; use-db {name} t; keys").split("keys ")[1].strip()
    names = [key for key in keys.split(",") if key and key[0] != "$"]
    answers = node.post(f"use-db {name} t;" + ";".join(f"get-safe {key}" for key in names))
    return [f"{key} {text}" for key, text in zip(names, answers.split("\n;"), strict=True)]


# -- backup and restore ----------------------------------------------------------------------------


def test_a_backup_and_its_restore(
    run: Run, net: Network, node: MemoryNode, fresh: MemoryNode, tmp_path: Path
) -> None:
    done = run("-h", "http://a", "backup", FILE)
    size = os.path.getsize(FILE)
    assert done == (0, f"3 databases, 2,502 entries, {size:,} bytes in T s\n", "")
    assert sorted(os.listdir(tmp_path)) == [FILE]
    assert os.stat(FILE).st_mode & 0o777 == 0o600
    restored = run("-h", "http://b", "restore", FILE)
    assert restored == (0, "restored 3 databases, 2,502 entries in T s\n", "")
    assert all_of(fresh, "d") == all_of(node, "d")
    assert "value-version 42 é" in " ".join(all_of(fresh, "d"))
    assert not node.node.backups._under_way
    assert not fresh.node.restores._under_way
    # The password goes with every request, and nowhere else.
    assert all(body.startswith("auth nun nun-pwd;") for _, body in net.bodies)


def test_pieces_are_asked_for_by_several(run: Run, net: Network, node: MemoryNode) -> None:
    client = node.tcp()
    client.send("use-db d t")
    for number in range(30):
        client.send(f"set large-{number} {'x' * 200_000}")
    assert run("-h", "http://a", "backup", "--db", "d", FILE).status == 0
    pieces = os.path.getsize(FILE) // (256 << 10) + 1
    assert net.sent("backup-read") == (pieces // AT_ONCE + 1) * AT_ONCE
    net.bodies.clear()
    assert run("-h", "http://b", "restore", FILE).status == 0
    assert net.sent("restore-write") == pieces
    assert max(len(body) for _, body in net.bodies) < 2 << 20


def test_only_what_is_named(run: Run, fresh: MemoryNode) -> None:
    assert run("-h", "http://a", "backup", "--db", "e", "-d", "d", FILE).status == 0
    assert run("-h", "http://b", "restore", "--db", "e", FILE).status == 0
    assert set(fresh.node.catalogue.by_name) == {b"$admin", b"e"}
    is_refused(run("-h", "http://b", "restore", "--db", "x", FILE), "no database x; it has e, d.")


def test_what_is_there_is_not_overwritten(run: Run, node: MemoryNode) -> None:
    run("-h", "http://a", "backup", FILE)
    is_refused(run("-h", "http://a", "restore", FILE), "The databases d, e are there already")
    is_refused(run("-h", "http://a", "restore", "--db", "e", FILE), "The database e is there")
    before = all_of(node, "d")
    node.post("use-db d t; set key-1 changed; set new v")
    done = run("-h", "http://a", "restore", "--force", FILE)
    assert done == (0, "restored 3 databases, 2,502 entries in T s; replaced d, e\n", "")
    assert all_of(node, "d") == before
    node.post("use-db d t; remove key-1; set new v")
    assert run("-h", "http://a", "restore", "--merge", "--db", "d", FILE).status == 0
    assert node.post("use-db d t; get key-1; get new") == "empty;value v;1\n;value v\n"


def test_own_keys_of_admin_are_looked_after_by_the_node(run: Run, fresh: MemoryNode) -> None:
    run("-h", "http://a", "backup", FILE)
    fresh.post("use-db $admin nun-pwd; set own v")
    refused = run("-h", "http://b", "restore", FILE)
    is_refused(refused, "http://b refused: database already exists: $admin holds keys.")
    assert set(fresh.node.catalogue.by_name) == {b"$admin"}


def test_a_check_needs_no_node(run: Run, net: Network) -> None:
    run("-h", "http://a", "backup", FILE)
    net.bodies.clear()
    status, out, err = run("restore", "--check", FILE)
    assert (status, err, net.bodies) == (0, "", [])
    assert out.splitlines()[:3] == [
        "$admin: 0 entries, strategy newer",
        "d: 2,501 entries, strategy none",
        "e: 1 entry, strategy newer",
    ]
    assert out.splitlines()[3].startswith("whole; made 2026-01-01T00:00:00+00:00 by nuntwist ")


def test_a_damaged_file_is_found_before_anything_is_sent(run: Run, net: Network) -> None:
    run("-h", "http://a", "backup", FILE)
    whole = Path(FILE).read_bytes()
    net.bodies.clear()
    spoiled = whole[:-200] + bytes([whole[-200] ^ 1]) + whole[-199:]
    for content in (spoiled, whole[:-1], whole + b"x", b"", b"something else"):
        Path(FILE).write_bytes(content)
        for words in (("restore", FILE), ("restore", "--check", FILE)):
            is_refused(run("-h", "http://b", *words), f"{FILE} is damaged at byte ")
    assert net.bodies == []


# -- files -----------------------------------------------------------------------------------------


def test_files_that_are_there(run: Run, net: Network) -> None:
    Path(FILE).write_text("old")
    is_refused(run("-h", "http://a", "backup", FILE), f"{FILE} is there already: --force")
    assert net.bodies == []
    assert Path(FILE).read_text() == "old"
    os.symlink(FILE, "link")
    assert run("-h", "http://a", "backup", "--force", "link").status == 0
    assert os.path.islink("link")
    assert run("restore", "--check", FILE).status == 0


def test_what_cannot_be_written_or_read(run: Run, tmp_path: Path) -> None:
    here = ("-h", "http://a")
    is_refused(run(*here, "backup", "no/x"), "no/x cannot be read or written: No such file")
    is_refused(run(*here, "backup", "--force", "."), ". is not a file")
    is_refused(run(*here, "backup", "--force", os.devnull), "is not a file")
    is_refused(run(*here, "backup", "a\0b"), "a?b is not a name of a file")
    is_refused(run(*here, "restore", "no"), "no cannot be read or written: No such file")
    is_refused(run(*here, "restore", "."), "Is a directory")
    is_refused(run(*here, "restore", os.devnull), "is not a file")
    is_refused(run(*here, "backup", "s3://bucket"), "is not the name of an object")
    is_refused(run(*here, "export", "--db", "d", "s3://b/k"), "export writes to a file")
    assert os.listdir(tmp_path) == []


def test_a_file_that_came_meanwhile_is_kept(run: Run, net: Network, tmp_path: Path) -> None:
    def come(body: str) -> None:
        Path(FILE).write_text("of another")

    net.faults = come
    is_refused(run("-h", "http://a", "backup", FILE), "is there already")
    assert Path(FILE).read_text() == "of another"
    assert os.listdir(tmp_path) == [FILE]


def test_standard_output_and_input(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(("-h", "http://a", "backup", "-"), {}) == 0
    archive, said = capfdbinary.readouterr()
    assert said.startswith(b"3 databases, 2,502 entries, ")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(archive)))
    assert main(("-h", "http://b", "restore", "-"), {}) == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(archive[:-3])))
    assert main(("restore", "--check", "-"), {}) == 1
    assert b"the backup is damaged at byte" in capfdbinary.readouterr().err


# -- what can go wrong on the way ------------------------------------------------------------------


def test_a_node_that_refuses(run: Run, net: Network, tmp_path: Path) -> None:
    is_refused(run("-p", "no", "-h", "http://a", "backup", FILE), "does not accept this user")
    unknown = "http://a refused: x is not a valid database name."
    is_refused(run("-h", "http://a", "backup", "--db", "x", FILE), unknown)
    is_refused(run("-h", "http://c", "backup", FILE), "Cannot reach http://c: Connection refused")
    is_refused(run("-h", "ftp://a", "backup", FILE), "is not the URL of a node")
    net.faults = lambda body: (500, "broken") if "backup-read" in body else None
    is_refused(run("-h", "http://a", "backup", FILE), "answered with status 500: broken")
    assert net.sent("backup-drop") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("no such backup", "http://a refused: no such backup."),
        ("backup-data ****\n", "gave a piece that is no base64."),
        ("backup-data é\n", "gave a piece that is no base64."),
        ("backup-data \n;backup-end\n", "the backup is damaged at byte 0: it is cut short."),
        (f"backup-data {base64.b64encode(b'x' * 99).decode()}\n", "does not begin as a backup"),
        ("", "http://a refused: an empty answer."),
    ],
)
def test_an_answer_that_makes_no_sense(
    run: Run, net: Network, tmp_path: Path, answer: str, words: str
) -> None:
    net.faults = lambda body: f"valid auth\n;{answer}" if "backup-read" in body else None
    is_refused(run("-h", "http://a", "backup", FILE), words)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("damage", ["cut", "bit"])
def test_a_backup_that_is_damaged_on_the_way_is_not_kept(
    run: Run, net: Network, node: MemoryNode, tmp_path: Path, damage: str
) -> None:
    def spoil(body: str) -> str | None:
        if "backup-read" not in body:
            return None
        head, middle, rest = node.post(body).partition("backup-data ")
        text, end, rest = rest.partition("\n")
        data = bytearray(base64.b64decode(text))
        if damage == "cut":
            del data[-1:]
        else:
            data[1_000] ^= 4
        return f"{head}{middle}{base64.b64encode(data).decode()}{end}{rest}"

    net.faults = spoil
    is_refused(run("-h", "http://a", "backup", FILE), "the backup is damaged at byte ")
    assert os.listdir(tmp_path) == []


def test_a_restore_that_is_refused_on_the_way(run: Run, net: Network, fresh: MemoryNode) -> None:
    run("-h", "http://a", "backup", FILE)
    refusals = {
        "restore-begin": "too many restores at once",
        "restore-write": "empty;storage unavailable: the log failed;no such restore",
        "restore-commit": "database already exists: d",
    }
    for word, answer in refusals.items():
        net.bodies.clear()
        net.faults = lambda body, w=word, a=answer: f"valid auth\n;{a}" if w in body else None  # type: ignore[misc]
        text = answer.removeprefix("empty;").partition(";")[0]
        is_refused(run("-h", "http://b", "restore", FILE), f"http://b refused: {text}.")
        assert net.sent("restore-drop") == (word != "restore-begin")
    assert fresh.node.catalogue.staged() == []


def test_a_commit_without_an_answer_is_not_known(run: Run, net: Network) -> None:
    run("-h", "http://a", "backup", FILE)
    net.stuck = "restore-commit"
    words = "No answer from http://b within 60 s, so whether the databases were restored is not"
    is_refused(run("-h", "http://b", "restore", FILE), words)


@pytest.mark.parametrize(("word", "dropped"), [("backup-read", 1), ("backup-begin", 0)])
def test_ctrl_c_in_a_backup(
    run: Run, net: Network, react: React, node: MemoryNode, tmp_path: Path, word: str, dropped: int
) -> None:
    net.stuck, react.interrupt = word, True
    is_refused(run("-h", "http://a", "backup", FILE), "Interrupted; nothing was changed.")
    assert net.sent("backup-drop") == dropped
    assert not node.node.backups._under_way
    assert os.listdir(tmp_path) == []


def test_ctrl_c_in_a_restore(run: Run, net: Network, react: React, fresh: MemoryNode) -> None:
    run("-h", "http://a", "backup", FILE)
    net.stuck, react.interrupt = "restore-write", True
    is_refused(run("-h", "http://b", "restore", FILE), "Interrupted; nothing was changed.")
    assert net.sent("restore-drop") == 1
    assert not fresh.node.restores._under_way
    is_refused(run("-h", "http://b", "restore", "--merge", FILE), "what was sent was set.")


# -- export ----------------------------------------------------------------------------------------


def test_an_export(run: Run) -> None:
    done = run("-h", "http://a", "export", "--db", "d", "x.jsonl")
    lines = Path("x.jsonl").read_bytes().decode().splitlines()
    assert done.out == f"2,500 keys, {os.path.getsize('x.jsonl'):,} bytes in T s\n"
    entries = {entry["key"]: entry for entry in map(json.loads, lines)}
    assert len(entries) == len(lines) == 2_500
    assert entries["key-8"] == {"key": "key-8", "value": "v;8", "version": 0}
    assert '{"key": "key-7", "value": "é", "version": 42}' in lines
    everything = run("-h", "http://a", "export", "--db", "d", "--all", "-")
    assert '{"key": "$$token", "value": "$scrypt$' in everything.out
    assert everything.err.startswith("2,501 keys, ")
    is_refused(run("-h", "http://a", "export", "--db", "d", "x.jsonl"), "is there already")


def test_nobody_reads_the_export(
    run: Run, net: Network, node: MemoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone(io.BytesIO):
        def write(self, data: object) -> int:
            raise BrokenPipeError

        def fileno(self) -> int:
            return os.open(os.devnull, os.O_WRONLY)

    class Output:
        buffer = Gone()
        fileno = buffer.fileno

        def isatty(self) -> bool:
            return False

        def flush(self) -> None:
            pass

    monkeypatch.setattr(sys, "stdout", Output())
    assert run("-h", "http://a", "export", "--db", "d", "-").status == 0
    assert net.sent("backup-drop") == 1
    assert not node.node.backups._under_way


# -- words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("backup",), "backup needs a file"),
        (("backup", "x", "y"), "'y' is one word too many"),
        (("backup", ""), "the name of the file is empty"),
        (("backup", "--db", "a b", "x"), "must be one word"),
        (("backup", "--db", "a|b", "x"), "holds no |"),
        (("restore",), "restore needs a file"),
        (("restore", "--force", "--merge", "x"), "exclude each other"),
        (("export", "x"), "export needs one --db"),
        (("export", "--db", "a", "--db", "b", "x"), "export needs one --db"),
        (("export", "--db", "a"), "export needs a file"),
        (("import", "--db", "a"), "import needs one of a file, --host and --nundb-dir"),
        (("import", "--db", "a", "--host", "http://x", "f"), "import needs one of"),
        (("import", "f"), "import needs one --db"),
        (("import", "--db", "a", "--host", "http://x"), "needs --token or --source-token"),
        (("import", "--db", "a", "-s", "odd", "f"), "--strategy must be one of"),
        (("import", "--db", "a", "--token", "x y", "f"), "--token must be one word"),
        (("import", "--db", "a", "--source-user", "u", "f"), "--source-user goes with --host"),
        (("import", "--nundb-dir", "x", "--token", "t"), "--token is for one --db"),
    ],
)
def test_wrong_usage(run: Run, words: tuple[str, ...], part: str) -> None:
    refused = run(*words)
    assert refused.status == 1
    assert part in refused.err
    assert refused.err.count("\n") == 1


@pytest.mark.parametrize("topic", ["backup", "restore", "export", "import"])
def test_help(run: Run, topic: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    explained = run("help", topic)
    assert explained.status == 0
    assert explained.out.startswith(f"Usage: nun-db [options] {topic} ")
    with pytest.raises(SystemExit) as ended:
        main((topic, "--help"), {})
    assert ended.value.code == 0
    assert capfdbinary.readouterr().out.decode() == explained.out
    assert f"    {topic} " in run("help").out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_for_terminals() -> None:
    now = [10.0]
    terminal = Terminal()
    progress = Progress(terminal, lambda: now[0])
    progress.begin("entries", 2_000)
    now[0] += 1
    progress.show(1_000, 5_000_000)
    assert terminal.getvalue() == "\r1,000 of 2,000 entries, 5,000,000 bytes, 5.0 MB/s"
    progress.show(1_001, 5_000_001)
    assert terminal.getvalue().count("\r") == 1
    progress.clear()
    assert terminal.getvalue().endswith("\r" + " " * 49 + "\r")
    file = io.StringIO()
    silent = Progress(file, lambda: now[0])
    silent.begin("bytes", 1)
    silent.show(1, 1)
    silent.clear()
    assert file.getvalue() == ""
    Progress(None, lambda: 0.0).show(1, 1)


def test_numbers_in_words() -> None:
    assert counted(1, "entry", "entries") == "1 entry"
    assert counted(0, "entry", "entries") == "0 entries"
    assert counted(1_234_567, "byte") == "1,234,567 bytes"
