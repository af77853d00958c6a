"""``nun-db oplog``: what is printed, sentences and exit statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from nuntwist.cli import main
from nuntwist.cli_oplog_words import json_line, text_line
from nuntwist.files_on_disk import DiskFiles
from nuntwist.oplog.inspect import Logged
from nuntwist.oplog.record import encode
from nuntwist.oplog.segment import SEGMENT_HEAD, segment_name
from nuntwist.values import CREATE_DATABASE, DROP_DATABASE, NAME_DATABASE, REMOVE, SET, Epoch, Op

ONE, TWO, THREE = segment_name(1), segment_name(5), segment_name(6)
EPOCH = Epoch(3, 0xABC)
# 2026-01-02T03:04:05.678Z
STAMP = 1767323045678 << 16
HASH = b"scrypt$16384$8$1$c2FsdA$aGFzaA"


def op(index: int, kind: int, key: bytes, value: bytes | None = None, version: int = 0) -> Op:
    return (value, version, index, STAMP + index, kind, 1, key)


OPS = [
    op(1, CREATE_DATABASE, b"shop", b"newer " + HASH),
    op(2, SET, b"$$token", HASH),
    op(3, SET, b"$$user_ann", HASH),
    op(4, SET, "clé".encode(), "a\tb\\n\n€".encode(), 7),
    op(5, SET, b"raw", b"\xff\x00a"),
    op(6, REMOVE, b"raw", None, -1),
    op(7, DROP_DATABASE, b"shop", b""),
]


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A log of three segments: operations 1 to 4, 5, and 6 to 7."""
    for name, batches in (
        (ONE, [OPS[:3], OPS[3:4]]),
        (TWO, [OPS[4:5]]),
        (THREE, [OPS[5:6], OPS[6:]]),
    ):
        (tmp_path / name).write_bytes(SEGMENT_HEAD + b"".join(encode(EPOCH, 9, b) for b in batches))
    return tmp_path


@pytest.fixture
def run(directory: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    def begin(*words: str) -> Outcome:
        status = main(("oplog", "--dbs-dir", str(directory), *words), {})
        return Outcome(status, *capfd.readouterr())

    return begin


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "lock"}


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


# -- stat and verify ----------------------------------------------------------------------------


def test_stat(run: Run, directory: Path) -> None:
    before = contents(directory)
    os.chmod(directory, 0o500)
    try:
        told = run("stat")
    finally:
        os.chmod(directory, 0o700)
    size = sum(map(len, before.values()))
    assert (told.status, told.err) == (0, "")
    lines = told.out.splitlines()
    assert lines[0] == (
        f"{ONE}: operations 1 to 4, {len(before[ONE])} bytes, 2026-01-02T03:04:05.678Z to"
        " 2026-01-02T03:04:05.678Z, epoch 3.0000000000000abc"
    )
    assert lines[3:] == [f"3 segments, {size} bytes, 7 operations"]
    assert contents(directory) == before
    assert not (directory / "lock").exists()


def test_stat_as_json(run: Run, directory: Path) -> None:
    (directory / THREE).write_bytes((directory / THREE).read_bytes()[:-3])
    told = run("stat", "--json")
    assert told.status == 0
    data = json.loads(told.out)
    assert (data["first"], data["last"], data["operations"]) == (1, 6, 6)
    last = data["segments"][-1]
    assert last.pop("incomplete_bytes") > 60
    assert last == {
        "name": THREE,
        "first": 6,
        "last": 6,
        "operations": 1,
        "bytes": len((directory / THREE).read_bytes()),
        "epoch": "3.0000000000000abc",
        "first_stamp": STAMP + 6,
        "last_stamp": STAMP + 6,
        "damage": None,
    }


def test_an_incomplete_last_record_is_told_and_is_no_failure(run: Run, directory: Path) -> None:
    (directory / THREE).write_bytes((directory / THREE).read_bytes()[:-3])
    for word in ("stat", "verify"):
        told = run(word)
        assert (told.status, told.err) == (0, "")
        assert "incomplete last record of " in told.out
    told = run("dump")
    assert told.status == 0
    assert len(told.out.splitlines()) == 6
    assert told.err.startswith(f"{THREE} ends with an incomplete last record of ")
    # Nobody asked for the end.
    assert run("dump", "--count", "2").err == ""
    assert run("repair").out == "The log is not damaged; nothing was changed.\n"


def test_damage_is_told_with_status_1(run: Run, directory: Path) -> None:
    flip(directory / TWO, -1)
    before = contents(directory)
    sentence = "The log is damaged: nun-db oplog repair says what can be done.\n"
    told = run("verify")
    assert (told.status, told.err) == (1, sentence)
    assert told.out.splitlines()[1] == (
        f"{TWO} is damaged at byte 16: a record does not match its checksum"
    )
    told = run("stat")
    assert (told.status, told.err) == (1, sentence)
    assert ", damaged at byte 16: a record does not match" in told.out
    data = json.loads(run("stat", "--json").out)
    assert data["segments"][1]["damage"] == {
        "offset": 16,
        "reason": "a record does not match its checksum",
    }
    told = run("dump")
    assert told.status == 1
    assert len(told.out.splitlines()) == 4
    assert told.err == (
        f"{TWO} is damaged at byte 16: a record does not match its checksum;"
        " the operations before it were printed.\n"
    )
    assert contents(directory) == before


def test_a_damaged_base_is_told(run: Run, directory: Path) -> None:
    (directory / "oplog.base").write_bytes(b"nonsense")
    told = run("verify")
    assert told.status == 1
    assert told.out.startswith("oplog.base is damaged at byte 0: ")
    assert run("repair", "--yes").status == 0
    assert run("verify").status == 0


# -- dump -----------------------------------------------------------------------------------------


def test_dump(run: Run) -> None:
    told = run("dump")
    assert (told.status, told.err) == (0, "")
    rows = [line.split("\t") for line in told.out.splitlines()]
    assert rows[3] == [
        *("4", "2026-01-02T03:04:05.678Z", "set", "1", "clé", r"a\tb\\n\n€", "7"),
        *(str(STAMP + 4), "3.0000000000000abc", "0000000000000009"),
    ]
    assert [row[:1] + row[2:7] for row in rows] == [
        ["1", "create-database", "1", "shop", "newer <hidden>", "0"],
        ["2", "set", "1", "$$token", "<hidden>", "0"],
        ["3", "set", "1", "$$user_ann", "<hidden>", "0"],
        ["4", "set", "1", "clé", r"a\tb\\n\n€", "7"],
        ["5", "set", "1", "raw", r"\xff\x00a", "0"],
        ["6", "remove", "1", "raw", "-", "-1"],
        ["7", "drop-database", "1", "shop", "-", "0"],
    ]


def test_dump_as_json(run: Run) -> None:
    told = run("dump", "--json")
    found = [json.loads(line) for line in told.out.splitlines()]
    assert found[4] == {
        "index": 5,
        "time": "2026-01-02T03:04:05.678Z",
        "kind": "set",
        "db": 1,
        "key": "raw",
        "value": "\\xff\0a",
        "value_hex": "ff0061",
        "version": 0,
        "stamp": STAMP + 5,
        "epoch": "3.0000000000000abc",
        "origin": "0000000000000009",
    }
    assert [one.get("value") for one in found] == [
        *("newer <hidden>", "<hidden>", "<hidden>", "a\tb\\n\n€", "\\xff\0a", None, None),
    ]
    assert b"scrypt" not in told.out.encode()


def test_which_operations_are_dumped(run: Run) -> None:
    def indexes(*words: str) -> list[int]:
        return [int(line.partition("\t")[0]) for line in run("dump", *words).out.splitlines()]

    assert indexes("--from", "3", "--count", "3") == [3, 4, 5]
    assert indexes("--from", "7") == [7]
    assert indexes("--from", "8") == []
    assert indexes("--count", "0") == []
    assert indexes("--db", "1") == [1, 2, 3, 4, 5, 6, 7]
    assert indexes("--db", "2") == []


@pytest.mark.parametrize(
    ("value", "shown"), [(b"none " + HASH, "none <hidden>"), (HASH, "<hidden>"), (b"", "<hidden>")]
)
def test_no_hash_is_shown(value: bytes, shown: str) -> None:
    logged = Logged(EPOCH, 9, op(1, CREATE_DATABASE, b"d", value))
    assert text_line(logged).split("\t")[5] == shown
    assert json.loads(json_line(logged))["value"] == shown


def test_strange_operations_are_shown_all_the_same() -> None:
    logged = Logged(EPOCH, 9, (b"5", -2, 1, 2**64 - 1, NAME_DATABASE, 2**64 - 1, b"\xff"))
    fields = text_line(logged).split("\t")
    assert fields[:6] == ["1", "-", "name-database", str(2**64 - 1), r"\xff", "5"]
    data = json.loads(json_line(logged))
    assert (data["time"], data["key"], data["key_hex"]) == ("-", r"\xff", "ff")
    assert text_line(Logged(EPOCH, 9, op(2, SET, b"k", b""))).split("\t")[5] == ""


# -- repair ---------------------------------------------------------------------------------------


def test_repair_without_yes_only_says_what_it_would_do(run: Run, directory: Path) -> None:
    flip(directory / TWO, -1)
    before = contents(directory)
    told = run("repair")
    assert contents(directory) == before
    assert (told.status, told.err) == (1, "Nothing was changed: add --yes to do it.\n")
    size = len(before[TWO]) - 16
    lines = told.out.splitlines()
    assert lines[:3] == [
        f"{TWO} is damaged at byte 16: a record does not match its checksum:"
        f" {size} bytes would be moved to {TWO}.cut-16",
        f"{THREE} is damaged at byte 0: it begins with index 6, where 5 must stand:"
        f" it would be renamed to {THREE}.cut-0",
        "Lost are operations 5 to 7; the log ends at operation 4.",
    ]
    assert "where snapshots cover operation 5, move all segments that begin before 6" in lines[3]
    assert '("The log ends at operation 4, but the snapshot ...")' in lines[4]
    assert "move all its database-* files away" in lines[4]


def test_repair(run: Run, directory: Path) -> None:
    flip(directory / TWO, -1)
    before = contents(directory)
    told = run("repair", "--yes")
    assert (told.status, told.err) == (0, "")
    assert f" bytes were moved to {TWO}.cut-16" in told.out
    assert f"it was renamed to {THREE}.cut-0" in told.out
    assert "Lost are operations 5 to 7" in told.out
    assert contents(directory) == {
        ONE: before[ONE],
        TWO: before[TWO][:16],
        f"{TWO}.cut-16": before[TWO][16:],
        f"{THREE}.cut-0": before[THREE],
    }
    assert run("verify").status == 0
    assert len(run("dump").out.splitlines()) == 4
    assert run("repair", "--yes") == (0, "The log is not damaged; nothing was changed.\n", "")


def test_a_log_without_its_beginning_needs_a_backup(run: Run, directory: Path) -> None:
    (directory / ONE).unlink()
    flip(directory / THREE, -1)
    told = run("repair", "--yes")
    assert "Lost are operations from 7 on; the log ends at operation 6." in told.out
    assert "restore the whole data directory from a backup" in told.out
    assert "move all its" not in told.out


def test_a_repair_that_loses_nothing_says_so(run: Run, directory: Path) -> None:
    with (directory / ONE).open("ab") as file:
        file.write(b"xyz")
    told = run("repair", "--yes")
    assert told.status == 0
    assert told.out.splitlines()[1:] == ["No operation is lost."]
    assert len(run("dump").out.splitlines()) == 7


def test_a_running_node_keeps_repair_out(run: Run, directory: Path) -> None:
    flip(directory / TWO, -1)
    node = DiskFiles(str(directory))
    node.lock()
    before = contents(directory)
    for words in (("repair",), ("repair", "--yes")):
        told = run(*words)
        assert (told.status, told.out) == (1, "")
        assert "is used by another process" in told.err
        assert told.err.count("\n") == 1
    assert contents(directory) == before
    # Reading needs no lock.
    assert run("verify").status == 1
    node.unlock()
    assert run("repair", "--yes").status == 0
    assert run("repair", "--yes").status == 0


def test_what_a_newer_release_wrote_is_not_cut(run: Run, directory: Path) -> None:
    newer: Op = (b"", 0, 8, STAMP + 8, 99, 1, b"k")
    with (directory / THREE).open("ab") as file:
        file.write(encode(EPOCH, 9, [newer]))
    before = contents(directory)
    told = run("repair", "--yes")
    assert (told.status, told.out) == (1, "")
    assert "a newer release wrote it; use that release: nothing was changed." in told.err
    assert contents(directory) == before


# -- usage ----------------------------------------------------------------------------------------


def test_a_directory_that_is_not_there_is_not_made(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "none"
    for word in ("stat", "dump", "verify", "repair"):
        assert main(("oplog", "--dbs-dir", str(missing), word), {}) == 1
        assert capfd.readouterr() == (
            "",
            f"There is no directory {missing}; give another with --dbs-dir.\n",
        )
        assert not missing.exists()
        assert main(("oplog", word), {"NUN_DBS_DIR": str(tmp_path)}) == 1
        assert capfd.readouterr() == ("", f"There is no operation log in {tmp_path}.\n")
        assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_read_is_one_sentence(
    run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: DiskFiles, name: str) -> None:
        raise PermissionError(13, "Permission denied", str(directory / name))

    monkeypatch.setattr(DiskFiles, "open_read", refuse)
    for words in (("stat",), ("dump",), ("verify",), ("repair", "--yes")):
        told = run(*words)
        assert told.status == 1
        assert told.err in (
            f"{ONE} cannot be read or written: Permission denied.\n",
            "oplog.base cannot be read or written: Permission denied.\n",
        )


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ((), "oplog needs one of stat, dump, verify, repair"),
        (("nope",), "nope"),
        (("stat", "more"), "'more' is not an option"),
        (("dump", "--from", "0"), "--from must be a whole number from 1"),
        (("dump", "--count", "-1"), "--count must be a whole number from 0"),
        (("dump", "--db", "shop"), "--db must be a whole number from 0"),
        (("dump", "--from", "1" * 30), "--from must be"),
        (("verify", "--json"), "--json"),
    ],
)
def test_wrong_usage_is_one_sentence(run: Run, words: tuple[str, ...], part: str) -> None:
    told = run(*words)
    assert (told.status, told.out) == (1, "")
    assert part in told.err
    assert told.err.count("\n") == 1


@pytest.mark.parametrize("words", [("oplog",), ("oplog", "dump"), ("oplog", "repair")])
def test_help(capfd: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        main((*words, "--help"), {})
    assert ended.value.code == 0
    out = capfd.readouterr().out
    assert out.startswith("Usage: nun-db [options] oplog ")
    assert out.splitlines()[0].count("oplog") == 1
    if len(words) == 1:
        assert main(("help", *words), {}) == 0
        assert capfd.readouterr().out == out


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(("oplog", "stat", "--version"), {})
    assert ended.value.code == 0
    assert capfd.readouterr().out.startswith("nun-db ")


@pytest.fixture
def long_log(tmp_path: Path) -> Path:
    ops = [op(index, SET, b"key", b"x" * 200) for index in range(1, 5001)]
    (tmp_path / ONE).write_bytes(SEGMENT_HEAD + encode(EPOCH, 9, ops))
    return tmp_path


def test_a_reader_that_goes_early_is_no_error(long_log: Path) -> None:
    command = [sys.executable, "-m", "nuntwist.cli", "oplog", "--dbs-dir", str(long_log), "dump"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"1\t")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


def test_a_closed_or_full_output_is_one_sentence(
    long_log: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("oplog", "--dbs-dir", str(long_log), "dump")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        assert main(words, {}) == 1
    assert capfd.readouterr().err == "Cannot write the answer: standard output is closed.\n"
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        assert main(words, {}) == 1
        patch.undo()
    assert capfd.readouterr().err == "Cannot write the answer: No space left on device.\n"


# -- what was cut off ------------------------------------------------------------------------------


def test_a_file_that_was_cut_off_is_printed(directory: Path, run: Run) -> None:
    name = "divergent-3-5.op"
    (directory / name).write_bytes(SEGMENT_HEAD + encode(EPOCH, 9, OPS[4:6]))
    whole = run("dump").out.splitlines()
    assert run("dump", name) == (0, "\n".join(whole[4:6]) + "\n", "")
    assert run("dump", str(directory / name)).out.splitlines() == whole[4:6]
    assert run("dump", "--from", "6", name).out.splitlines() == whole[5:6]
    assert run("dump", "--count", "1", name).out.splitlines() == whole[4:5]
    assert json.loads(run("dump", "--json", name).out.splitlines()[0])["index"] == 5
    # It is no part of the log.
    assert run("dump").out.splitlines() == whole


def test_a_file_that_was_cut_off_may_be_incomplete_damaged_or_missing(
    directory: Path, run: Run
) -> None:
    name = "divergent-3-5.op"
    data = SEGMENT_HEAD + encode(EPOCH, 9, OPS[4:5]) + encode(EPOCH, 9, OPS[5:6])
    (directory / name).write_bytes(data[:-1])
    outcome = run("dump", name)
    assert (outcome.status, outcome.out.count("\n")) == (0, 1)
    assert f"{name} ends with an incomplete last record" in outcome.err
    (directory / name).write_bytes(data)
    flip(directory / name, len(data) - 1)
    outcome = run("dump", name)
    assert (outcome.status, outcome.out.count("\n")) == (1, 1)
    assert "is damaged" in outcome.err
    assert run("dump", "divergent-1-1.op").status == 1
    assert run("dump", name, "more").status == 1
