"""``nun-db import``: lines, directories of NunDB and other servers, into nodes in memory."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nuntwist.archive import nundb
from nuntwist.testing import MemoryNode
from tests.unit.fake_node import FakeNunDB, Network, behind
from tests.unit.test_archive_nundb import files
from tests.unit.test_cli_transfer import Run, is_refused, react, run

__all__ = ["react", "run"]

HERE = ("-h", "http://b")
LINES = '{"key": "a", "value": "1"}\n{"key": "é", "value": "x; y", "version": 4}\n'
RESTORED = "restored 1 database, {} entries in T s\n"


@pytest.fixture
def fresh() -> MemoryNode:
    return MemoryNode()


@pytest.fixture
def net(fresh: MemoryNode) -> Network:
    return Network(b=behind(fresh))


def names(node: MemoryNode) -> set[bytes]:
    return set(node.node.catalogue.by_name)


# -- lines -----------------------------------------------------------------------------------------


def test_a_new_database_of_lines(run: Run, fresh: MemoryNode) -> None:
    Path("x").write_text(LINES)
    is_refused(run(*HERE, "import", "--db", "d", "x"), "The database d has no token: give one")
    assert names(fresh) == {b"$admin"}
    words = ("import", "--db", "d", "--token", "tok", "--strategy", "newer", "x")
    assert run(*HERE, *words) == (0, RESTORED.format(3), "")
    assert fresh.post("use-db d tok; get a; get-safe é") == (
        "empty;value 1\n;value-version 4 x; y\n"
    )
    assert "d : newer" in fresh.admin().ask("debug list-dbs")
    stored = fresh.node.catalogue.by_name[b"d"].value(b"$$token") or b""
    assert stored.startswith(b"$scrypt$ln=14,")
    is_refused(run(*HERE, *words), "The database d is there already: --force replaces it.")


def test_what_is_there_is_replaced_or_added_to(run: Run, fresh: MemoryNode) -> None:
    fresh.admin("create-db d tok", "use-db d tok", "set a old", "set b kept")
    Path("x").write_text(LINES)
    merged = run(*HERE, "import", "--db", "d", "--merge", "x")
    assert merged == (0, RESTORED.format(2), "")
    assert fresh.post("use-db d tok; get-safe a; get b") == (
        "empty;value-version 1 1\n;value kept\n"
    )
    forced = run(*HERE, "import", "--db", "d", "--force", "--token", "new", "x")
    assert forced.out.endswith("; replaced d\n")
    assert fresh.post("use-db d tok") == "Invalid token"
    assert fresh.post("use-db d new; get b") == "empty;value <Empty>\n"


def test_what_was_exported_comes_back_whole(run: Run, net: Network, fresh: MemoryNode) -> None:
    node = MemoryNode()
    net.servers["a"] = behind(node)
    node.admin("create-db d t", "use-db d t", "create-user ann s3cret", "set-permissions ann r *")
    node.post("use-db d t; set-safe k 6 v")
    assert run("-h", "http://a", "export", "--all", "--db", "d", "x").status == 0
    assert run(*HERE, "import", "--db", "d", "x") == (0, RESTORED.format(4), "")
    assert fresh.post("use-db d ann s3cret; get-safe k") == "empty;value-version 7 v\n"
    assert fresh.post("use-db d t; get k") == "empty;value v\n"


def test_tokens_in_clear_are_hashed(run: Run, fresh: MemoryNode) -> None:
    lines = '{"key": "$$token", "value": "tok"}\n{"key": "$$user_ann", "value": "s3cret"}\n'
    Path("x").write_text(lines)
    assert run(*HERE, "import", "--db", "d", "x").status == 0
    database = fresh.node.catalogue.by_name[b"d"]
    for key in (b"$$token", b"$$user_ann"):
        assert (database.value(key) or b"").startswith(b"$scrypt$ln=14,")
    assert fresh.post("use-db d tok; use-db d ann s3cret") == "empty;empty"


def test_of_a_key_that_comes_twice_the_last_counts(run: Run, fresh: MemoryNode) -> None:
    Path("x").write_text(LINES + '{"key": "a", "value": "2", "version": 9}\n')
    assert run(*HERE, "import", "--db", "d", "-t", "t", "x").status == 0
    assert fresh.post("use-db d t; get-safe a") == "empty;value-version 9 2\n"


def test_wrong_lines_change_nothing(
    run: Run, net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("x").write_text(LINES + "\n[]\n")
    words = ("import", "--db", "d", "--token", "t", "--force")
    refused = run(*HERE, *words, "x")
    is_refused(refused, "x, line 4: it is not a JSON object; nothing was changed.")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    is_refused(run(*HERE, *words, "-"), "standard input, line 1: it is not valid UTF-8")
    is_refused(run(*HERE, *words, "no"), "no cannot be read or written: No such file")
    assert net.bodies == []


def test_keys_of_admin(run: Run, fresh: MemoryNode) -> None:
    Path("x").write_text(LINES)
    assert run(*HERE, "import", "--db", "$admin", "x").status == 0
    assert fresh.post("use-db $admin nun-pwd; get a") == "empty;value 1\n"


# -- a directory of NunDB --------------------------------------------------------------------------


@pytest.fixture
def directory(run: Run) -> Path:
    """With two databases and the catalogue."""
    path = Path("nundb")
    path.mkdir()

    def put(name: str, strategy: int | None, *entries: tuple[bytes, bytes, int]) -> None:
        keys, values = files(*entries)
        (path / (name + nundb.KEYS)).write_bytes(keys)
        (path / (name + nundb.VALUES)).write_bytes(values)
        if strategy is not None:
            (path / (name + nundb.META)).write_bytes(struct.pack("<Qi", 3, strategy))

    put("shop", 2, (b"$$token", b"tok", 0), (b"$$user_ann", b"s3cret", 0), (b"k", b"a;b", 5))
    put("other", None, (b"$$token", b"o", 0), (b"gone", b"x", -1), (b"$connections", b"2", 1))
    put("$admin", 1, (b"$admin", b"{}", 0), (b"$$token", b"root", 0), (b"shop", b"{}", 0))
    (path / "keys-nun.keys").write_bytes(b"odd")
    return path


def test_all_databases_of_a_directory(run: Run, fresh: MemoryNode, directory: Path) -> None:
    done = run(*HERE, "import", "--nundb-dir", "nundb")
    assert done == (0, "restored 2 databases, 4 entries in T s\n", "")
    assert fresh.post("use-db shop ann s3cret; use-db shop tok; get-safe k") == (
        "empty;empty;value-version 5 a;b\n"
    )
    listed = fresh.admin().ask("debug list-dbs")
    assert "other : newer" in listed
    assert "shop : arbiter" in listed
    hashed = fresh.node.catalogue.by_name[b"shop"].value(b"$$user_ann") or b""
    assert hashed.startswith(b"$scrypt$")
    is_refused(run(*HERE, "import", "--nundb-dir", "nundb"), "other, shop are there already")


def test_one_database_of_a_directory(run: Run, fresh: MemoryNode, directory: Path) -> None:
    words = ("import", "--nundb-dir", "nundb", "--db", "shop", "-t", "new", "-s", "none")
    assert run(*HERE, *words).status == 0
    assert names(fresh) == {b"$admin", b"shop"}
    assert fresh.post("use-db shop tok; use-db shop new; get k") == (
        "Invalid token;empty;value a;b\n"
    )
    assert "shop : none" in fresh.admin().ask("debug list-dbs")


def test_own_keys_of_the_catalogue_come_too(run: Run, fresh: MemoryNode, directory: Path) -> None:
    keys, values = files((b"shop", b"{}", 0), (b"own", b"v", 2))
    (directory / ("$admin" + nundb.KEYS)).write_bytes(keys)
    (directory / ("$admin" + nundb.VALUES)).write_bytes(values)
    assert run(*HERE, "import", "--nundb-dir", "nundb").status == 0
    assert fresh.post("use-db $admin nun-pwd; get-safe own") == "empty;value-version 2 v\n"


def test_a_directory_that_cannot_be_read(
    run: Run, net: Network, fresh: MemoryNode, directory: Path
) -> None:
    def said(*words: str) -> str:
        refused = run(*HERE, "import", "--nundb-dir", *words)
        is_refused(refused, "")
        return refused.err

    assert said("nowhere") == "nowhere cannot be read: No such file or directory.\n"
    assert "nundb has no database x of a NunDB" in said("nundb", "--db", "x")
    Path("empty").mkdir()
    assert "empty has no databases of a NunDB" in said("empty")
    values = directory / ("shop" + nundb.VALUES)
    whole = values.read_bytes()
    values.write_bytes(whole[:-1])
    assert "shop-nun.data.values is damaged at byte 33: it ends within a value" in said("nundb")
    values.unlink()
    assert "shop-nun.data.values cannot be read: No such file" in said("nundb")
    values.write_bytes(whole)
    (directory / ("shop" + nundb.META)).write_bytes(b"x")
    assert "shop-nun.madadata is damaged at byte 0: it has 1 bytes" in said("nundb")
    (directory / "old-nun.data").write_bytes(b"x")
    assert "a database of an early NunDB, old:" in said("nundb")
    assert net.bodies == []


# -- another server --------------------------------------------------------------------------------

FROM = ("import", "--host", "http://s", "--db", "shop")
ADMIN = ("--source-user", "root", "--source-pwd", "pw")


@pytest.fixture
def source(net: Network) -> FakeNunDB:
    keys = {f"k-{number:04}": (f"v{number}", number) for number in range(450)}
    keys |= {"$connections": ("3", 7), "odd": ("a;value-version 1 b;", 2), "e": ("", 0)}
    keys |= {"$$token": ("tok", 0), "$$user_ann": ("s3cret", 1), "$$permission_$ann": ("r *", 2)}
    source = FakeNunDB("tok", keys)
    net.servers["s"] = source
    return source


def test_a_copy_without_an_admin(
    run: Run, net: Network, fresh: MemoryNode, source: FakeNunDB
) -> None:
    done = run(*HERE, *FROM, "--token", "tok")
    assert done == (0, RESTORED.format(453), "")
    assert fresh.post("use-db shop tok; get-safe k-0449; get-safe odd; get-safe e") == (
        "empty;value-version 449 v449\n;value-version 2 a;value-version 1 b;\n;value-version 0 \n"
    )
    assert "shop : none" in fresh.admin().ask("debug list-dbs")
    asked = [body for host, body in net.bodies if host == "s"]
    assert len(asked) == 4
    assert not any("auth" in body for body in asked)


def test_a_copy_as_admin(run: Run, fresh: MemoryNode, source: FakeNunDB) -> None:
    source.keys["$$permission_$bob"] = ("rw x,y|i z*", 3)
    done = run(*HERE, *FROM, "--source-token", "tok", *ADMIN)
    assert (done.status, done.err) == (0, "")
    assert fresh.post("use-db shop ann s3cret; get k-0001") == "empty;value v1\n"
    assert fresh.post("use-db shop tok; get k-0002") == "empty;value v2\n"
    assert "shop : arbiter" in fresh.admin().ask("debug list-dbs")
    again = run(*HERE, *FROM, "--source-token", "tok", "--token", "new", "--force", *ADMIN)
    assert again.status == 0
    assert fresh.post("use-db shop new") == "empty"


def test_the_password_may_stand_in_the_environment(run: Run, source: FakeNunDB) -> None:
    words = (*HERE, *FROM, "--token", "tok", "--source-user", "root")
    is_refused(run(*words), "--source-user needs --source-pwd or NUN_SOURCE_PWD.")
    is_refused(run(*words, NUN_SOURCE_PWD="no"), "http://s does not accept this user and password")
    assert run(*words, NUN_SOURCE_PWD="pw").status == 0


def test_answers_that_are_too_large_are_asked_for_in_smaller_ones(
    run: Run, net: Network, fresh: MemoryNode, source: FakeNunDB
) -> None:
    source.keys |= {f"k-{number:04}": ("x" * 1_000, 0) for number in range(40)}
    source.limit = 11_000
    assert run(*HERE, *FROM, "--token", "tok").status == 0
    assert len(net.bodies) > 10
    assert len(fresh.post("use-db shop tok; get k-0039")) > 1_000
    source.limit = 500
    net.bodies.clear()
    is_refused(run(*HERE, *FROM, "--token", "tok", "--force"), "answered with status 413")


def test_what_a_batch_does_not_tell_is_asked_for_alone(
    run: Run, net: Network, fresh: MemoryNode, source: FakeNunDB
) -> None:
    def spoil(body: str) -> str | None:
        several = body.count("get-safe") > 1 and "get-safe k-0100" in body
        return "empty;value-version 1 x\n" if several else None

    net.faults = spoil
    assert run(*HERE, *FROM, "--token", "tok") == (0, RESTORED.format(453), "")
    assert fresh.post("use-db shop tok; get k-0100; get k-0101") == (
        "empty;value v100\n;value v101\n"
    )
    net.faults = lambda body: "empty;permission denied\n" if "k-0100" in body else None
    refused = run(*HERE, *FROM, "--token", "tok", "--force")
    is_refused(refused, "http://s does not give the key 'k-0100': permission denied.")


def test_keys_with_commas_are_found(run: Run, fresh: MemoryNode, source: FakeNunDB) -> None:
    odd = {"1,2": "a", "1,2,3": "b", "x": "c", "y": "d", "x,y": "e", "q,r,s,t": "f", "q": "g"}
    source.keys |= {key: (value, 0) for key, value in odd.items()}
    done = run(*HERE, *FROM, "--token", "tok")
    assert (done.status, done.err) == (0, "")
    asked = ";".join(f"get {key}" for key in odd)
    answer = "".join(f";value {value}\n" for value in odd.values())
    assert fresh.post(f"use-db shop tok;{asked}") == f"empty{answer}"
    assert done.out == RESTORED.format(460)


def test_keys_that_go_meanwhile_are_told(run: Run, fresh: MemoryNode, source: FakeNunDB) -> None:
    source.gone = {"k-0003", "k-0004"}
    done = run(*HERE, *FROM, "--token", "tok")
    assert done == (
        0,
        RESTORED.format(451),
        "2 listed keys could not be read: removed meanwhile.\n",
    )


def test_a_source_that_hides_its_tokens(run: Run, net: Network, fresh: MemoryNode) -> None:
    node = MemoryNode()
    net.servers["s"] = behind(node)
    node.admin("create-db shop tok newer", "use-db shop tok", "create-user ann x", "set k v")
    words = ("--token", "tok", "--source-user", "nun", "--source-pwd", "nun-pwd")
    done = run(*HERE, *FROM, *words)
    assert done.status == 0
    assert done.err == (
        "The server does not show the tokens of its users; create them anew: ann.\n"
    )
    assert fresh.post("use-db shop tok; get k") == "empty;value v\n"
    assert "shop : newer" in fresh.admin().ask("debug list-dbs")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--db", "shop", "--token", "no"), "http://s refused: Invalid token."),
        (("--db", "no", "--token", "tok"), "http://s refused: Not a valid database name."),
    ],
)
def test_a_source_that_refuses(
    run: Run, net: Network, source: FakeNunDB, words: tuple[str, ...], part: str
) -> None:
    is_refused(run(*HERE, "import", "--host", "http://s", *words), part)
    assert net.sent("restore-begin") == 0


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda s: s.keys.update({"a;b": ("v", 0)}), "The key 'a;b' cannot be asked for"),
        (lambda s: s.keys.update({"bad": ("v", -7)}), "The key 'bad' of http://s cannot be taken"),
        (lambda s: s.keys.update({"bad": ("a\nb", 1)}), "cannot be taken: the value holds a line"),
    ],
)
def test_what_cannot_be_taken(
    run: Run, net: Network, source: FakeNunDB, spoil: Callable[[FakeNunDB], None], part: str
) -> None:
    spoil(source)
    is_refused(run(*HERE, *FROM, "--token", "tok"), part)
    assert net.sent("restore-begin") == 0


def test_sources_that_are_none(run: Run, net: Network) -> None:
    def said(host: str) -> str:
        words = ("import", "--host", host, "--db", "shop", "--token", "tok")
        refused = run(*HERE, *words)
        is_refused(refused, "")
        return refused.err

    assert said("http://x").startswith("Cannot reach http://x: ")
    assert "is not the URL of a node" in said("x")
    net.servers["s"] = lambda body: "<html>"
    assert said("http://s") == "http://s refused: <html>.\n"
    net.servers["s"] = lambda body: "empty;Not auth"
    assert said("http://s") == "http://s refused: Not auth.\n"
    assert net.sent("restore-begin") == 0


def test_a_database_that_is_there_is_not_copied_in_vain(
    run: Run, net: Network, fresh: MemoryNode, source: FakeNunDB
) -> None:
    fresh.admin("create-db shop t")
    is_refused(run(*HERE, *FROM, "--token", "tok"), "The database shop is there already")
    assert [host for host, _ in net.bodies] == ["b"]
