"""Backups are of one moment; restores are all or nothing."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import pytest
from twisted.internet.defer import Deferred, maybeDeferred

from nuntwist.archive.format import End, Head, Member, Reader, Writer
from nuntwist.core.database import MEMBERS_KEY
from nuntwist.core.transfers import AT_ONCE, IDLE_SECONDS
from nuntwist.errors import StorageUnavailable
from nuntwist.files import MemoryFiles
from nuntwist.oplog.memory import MemoryOplog
from nuntwist.oplog.segments import FileOplog
from nuntwist.storage.disk import DiskStorage
from nuntwist.testing import LineConnection, MemoryNode
from nuntwist.values import KEY, SET, VALUE, VERSION, Op
from tests.unit.memory_set import MemorySet

Contents = dict[bytes, dict[bytes, tuple[bytes | None, int]]]


def contents(archive: bytes) -> Contents:
    """What an archive holds: for each database value and version of each key."""
    reader = Reader("the archive")
    found: Contents = {}
    current: dict[bytes, tuple[bytes | None, int]] = {}
    for piece in reader.feed(archive):
        if isinstance(piece, Member):
            current = found[piece.name] = {}
        elif isinstance(piece, list):
            assert not current.keys() & {op[KEY] for op in piece}
            current.update({op[KEY]: (op[VALUE], op[VERSION]) for op in piece})
        else:
            assert isinstance(piece, Head | End)
    reader.finish()
    return found


def begin(admin: LineConnection, names: str = "") -> str:
    """Begin a backup; gives its number."""
    word, number, entries = admin.ask(f"backup-begin {names}").removesuffix("\nok \n").split(" ")
    assert (word, int(entries) >= 0) == ("backup", True)
    return number


def read_on(admin: LineConnection, number: str) -> bytes:
    """The next piece; nothing at the end."""
    answer = admin.ask(f"backup-read {number}").removesuffix("\nok \n")
    if answer == "backup-end":
        return b""
    return base64.b64decode(answer.removeprefix("backup-data "), validate=True)


def rest_of(admin: LineConnection, number: str) -> bytes:
    """All that is left of a backup."""
    return b"".join(iter(lambda: read_on(admin, number), b""))


def backup(node: MemoryNode, names: str = "") -> bytes:
    """A whole backup."""
    admin = node.admin()
    return rest_of(admin, begin(admin, names))


def restore(
    admin: LineConnection, archive: bytes, mode: str = "new", size: int = 1_000
) -> list[str]:
    """Restore an archive in pieces; gives what was answered from the first error on, or at the
    end."""
    number = admin.ask(f"restore-begin {mode}").split()[1]
    for start in range(0, len(archive), size):
        text = base64.b64encode(archive[start : start + size]).decode()
        answer = admin.ask(f"restore-write {number} {text}")
        if answer != "ok \n":
            return answer.splitlines()
    return admin.ask(f"restore-commit {number}").splitlines()


def raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def archive_of(name: str, entries: Sequence[tuple[str, str, int]], strategy: str = "none") -> bytes:
    """An archive of one database; what is no UTF-8 is written as Python's surrogates."""
    member, writer = Member(name.encode(), strategy.encode()), Writer()
    ops: list[Op] = [
        (raw(value), version, 0, 0, SET, 0, raw(key)) for key, value, version in entries
    ]
    head = Head("2026-01-01T00:00:00+00:00", 0, "test", (member,))
    return writer.begin(head) + writer.member(member) + writer.entries(ops) + writer.end()


def using(node: MemoryNode, name: str = "d") -> LineConnection:
    """A client of a database."""
    client = node.tcp()
    assert client.ask(f"use-db {name} t") == "ok \n"
    return client


@pytest.fixture
def node() -> MemoryNode:
    node = MemoryNode()
    node.admin("create-db d t", "create-db e t newer", "use-db $admin nun-pwd", "set own 1")
    client = using(node)
    for number in range(300):
        client.send(f"set key-{number} value-{number}")
    for _ in range(3):
        client.send("set key-7 again")
    client.send("remove key-8")
    using(node, "e").send("set é;x,| ü ")
    return node


def test_a_backup_holds_what_there_is(node: MemoryNode) -> None:
    found = contents(backup(node))
    assert list(found) == [b"$admin", b"d", b"e"]
    assert found[b"$admin"] == {b"own": (b"1", 0)}
    token = found[b"d"].pop(b"$$token")
    assert (token[0] or b"").startswith(b"$scrypt")
    expected = {b"key-%d" % n: (b"value-%d" % n, 0) for n in range(300) if n not in (7, 8)}
    assert found[b"d"] == expected | {b"key-7": (b"again", 3)}
    assert found[b"e"]["é;x,|".encode()] == ("ü ".encode(), 0)
    assert list(contents(backup(node, "e|d"))) == [b"e", b"d"]


def test_it_is_of_the_moment_it_began(node: MemoryNode) -> None:
    before = contents(backup(node))
    admin, client = node.admin(), using(node)
    number = begin(admin)
    # Most of it is given in the first piece, so nothing may be read before all this.
    client.send(
        "set key-1 other\nset key-1 third\nset new v\nremove key-2\nremove key-3\nset key-3 x"
    )
    client.send("increment key-9\nset key-10 a;set key-10 b")
    client.deliver(b"".join(b"set key-%d later\nset more-%d x\n" % (n, n) for n in range(11, 90)))
    node.admin("drop-db e", "create-db f t", "set-permissions all r *")
    assert contents(rest_of(admin, number)) == before
    assert client.ask("get key-1") == "value third\nok \n"
    assert node.node.catalogue.by_name[b"d"].scans == []


def test_a_large_one_comes_in_pieces_while_writes_go_on(node: MemoryNode) -> None:
    client, admin = using(node), node.admin()
    for number in range(60):
        client.send(f"set large-{number} {number % 10}{'x' * 30_000}")
    client.send("set huge " + "y" * 700_000)
    before = contents(backup(node))
    number = begin(admin)
    data = b""
    for turn in range(1_000):
        piece = read_on(admin, number)
        if not piece:
            break
        data += piece
        assert len(piece) <= 256 << 10
        client.send(f"set large-{turn % 60} changed\nset key-{turn} changed\nremove key-{turn + 1}")
    assert turn > 8
    assert contents(data) == before


def test_what_is_taken_back_meanwhile_is_as_it_was(node: MemoryNode) -> None:
    before = contents(backup(node))
    admin, client = node.admin(), using(node)
    number = begin(admin)
    append = node.oplog.append

    def full(*_: object) -> None:
        raise StorageUnavailable("No space left on device")

    node.oplog.append = full  # type: ignore[method-assign]
    assert "storage unavailable" in client.ask("set key-1 lost\nset key-1 twice\nremove key-2")
    node.oplog.append = append  # type: ignore[method-assign]
    client.ask("set key-3 after")
    assert contents(rest_of(admin, number)) == before


class SlowOplog(MemoryOplog):
    """A log that makes durable later."""

    waiting: Deferred[None] | None = None
    slow = False

    def append(self, epoch: object, ops: Sequence[Op]) -> Deferred[None] | None:
        super().append(epoch, ops)  # type: ignore[arg-type]
        if not self.slow:
            return None
        self.waiting = Deferred()
        return self.waiting


@pytest.mark.parametrize("lost", [False, True])
def test_it_waits_for_the_log(lost: bool) -> None:
    log = SlowOplog()
    node = MemoryNode(log)
    node.admin("create-db d t")
    admin, client = node.admin(), using(node)
    log.slow = True
    client.send("set k v")
    admin.send("backup-begin d")
    node.settle()
    assert admin.received() == ""
    assert log.waiting is not None
    if lost:
        log.waiting.errback(StorageUnavailable("No space left on device"))
        node.settle()
        assert admin.received() == "error storage unavailable: the log failed \n"
        assert node.node.catalogue.by_name[b"d"].scans == []
    else:
        log.waiting.callback(None)
        node.settle()
        assert admin.received().startswith("backup 1 ")
        assert contents(rest_of(admin, "1"))[b"d"][b"k"] == (b"v", 0)


def test_backups_that_are_left_alone_or_too_many_are_refused(node: MemoryNode) -> None:
    admin = node.admin()
    numbers = [begin(admin) for _ in range(AT_ONCE)]
    assert admin.ask("backup-begin") == "error too many backups at once \n"
    assert admin.ask(f"backup-drop {numbers[0]}") == "ok \n"
    assert admin.ask(f"backup-read {numbers[0]}") == "error no such backup \n"
    begin(admin)
    for _ in range(3):
        node.clock.advance(IDLE_SECONDS - 1)
        admin.ask(f"backup-read {numbers[1]}")
        if _ == 0:
            numbers[1] = (
                begin(admin) if "end" in admin.ask(f"backup-read {numbers[1]}") else numbers[1]
            )
    node.clock.advance(IDLE_SECONDS)
    assert admin.ask(f"backup-read {numbers[2]}") == "error no such backup \n"
    assert node.node.catalogue.by_name[b"d"].scans == []
    assert node.tcp().ask("backup-begin") == "error Not auth \n"
    assert admin.ask("backup-begin x") == "error x is not a valid database name \n"
    assert admin.ask("backup-read x") == "error invalid number: x \n"


# -- restores --------------------------------------------------------------------------------------


def test_a_fresh_node_gets_all(node: MemoryNode) -> None:
    archive = backup(node)
    files = MemoryFiles()
    fresh = on_files(files)
    admin = fresh.admin()
    assert restore(admin, archive) == ["restored 3 303", "ok "]
    assert contents(backup(fresh)) == contents(archive)
    assert using(fresh).ask("get-safe key-7") == "value-version 3 again\nok \n"
    assert "e : newer" in admin.ask("debug list-dbs")
    assert admin.ask("use-db $admin nun-pwd") == "ok \n"
    assert admin.ask("keys") == "keys ,$$token,$admin,$connections,d,e,own\nok \n"
    for snapshotted in (False, True):
        if snapshotted:
            fresh.node.snapshots.take_changed()
            fresh.settle()
        files.restart()
        fresh = on_files(files)
        assert contents(backup(fresh)) == contents(archive)


def on_files(files: MemoryFiles) -> MemoryNode:
    """A node on files in memory."""
    return MemoryNode(FileOplog(files, 1), DiskStorage(files, maybeDeferred))


def test_what_is_there_is_not_overwritten_unless_forced(node: MemoryNode) -> None:
    archive = backup(node, "d")
    admin = node.admin()
    before = contents(backup(node))
    assert restore(admin, archive) == ["error database already exists: d "]
    assert contents(backup(node)) == before
    client, watcher, framed = using(node), using(node), node.ws()
    assert framed.ask("use-db d t") == ["ok \n"]
    watcher.ask("watch key-1")
    client.ask("set key-1 changed")
    watcher.received()
    assert restore(admin, archive, "force", 77) == ["restored 1 300", "ok "]
    assert contents(backup(node)) == before
    # Whoever had it selected has to come again.
    assert client.closed
    assert watcher.closed
    assert framed.received_frames()[-1] == (8, b"\x03\xe9the database was replaced")
    assert using(node).ask("get key-1") == "value value-1\nok \n"
    assert node.node.catalogue.staged() == []


@pytest.mark.parametrize("version", ["9" * 5_000, "9223372036854775807", "-3", "+5", "1_0"])
def test_a_conflict_whose_version_makes_no_sense_does_not_stop_the_node(version: str) -> None:
    conflict = f"resolve 4 d {version} k a b"
    entries = [("$$token", "h", 0), ("k", "a", -2), ("$conflicts_k_4", conflict, 0)]
    files = MemoryFiles()
    node = on_files(files)
    assert restore(node.admin(), archive_of("d", entries, "arbiter")) == ["restored 1 3", "ok "]
    node.oplog.close()
    files.restart()
    node = on_files(files)
    again = node.node.catalogue.by_name[b"d"]
    assert again.conflicts == {b"k": [b"$conflicts_k_4"]}
    assert node.admin("use-db d nun-pwd").ask("resolve 4 d k 0 b") == "ok \n"


def test_only_what_is_asked_for_is_taken(node: MemoryNode) -> None:
    archive = backup(node)
    fresh = MemoryNode()
    admin = fresh.admin()
    number = admin.ask("restore-begin new e|$admin").split()[1]
    admin.ask(f"restore-write {number} {base64.b64encode(archive).decode()}")
    assert admin.ask(f"restore-commit {number}") == "restored 2 3\nok \n"
    assert list(contents(backup(fresh))) == [b"$admin", b"e"]
    number = admin.ask("restore-begin new nope").split()[1]
    answer = admin.ask(f"restore-write {number} {base64.b64encode(archive).decode()}")
    assert answer == "error the backup has no database nope \n"


def test_nothing_is_seen_of_one_that_is_not_committed(node: MemoryNode) -> None:
    archive = backup(node)
    files = MemoryFiles()
    for snapshotted in (False, True):
        fresh = on_files(files)
        admin = fresh.admin()
        number = admin.ask("restore-begin new").split()[1]
        assert (
            admin.ask(f"restore-write {number} {base64.b64encode(archive[:-9]).decode()}")
            == "ok \n"
        )
        assert list(contents(backup(fresh))) == [b"$admin"]
        assert admin.ask("debug list-dbs") == "dbs-list \n$admin : newer\nok \n"
        assert admin.ask("use-db $restoring d") == "error Not a valid database name \n"
        if snapshotted:
            fresh.node.snapshots.take_changed()
            fresh.settle()
        else:
            assert admin.ask(f"restore-commit {number}").startswith("error the backup is damaged")
            assert fresh.node.catalogue.staged() == []
            admin.ask("restore-begin new")
        files.restart()
        fresh = on_files(files)
        assert fresh.node.catalogue.staged() == []
        assert list(fresh.node.catalogue.by_id) == [0]
        files.restart()
    assert list(on_files(files).node.catalogue.by_id) == [0]


def test_a_damaged_one_changes_nothing(node: MemoryNode) -> None:
    archive = bytearray(backup(node, "d"))
    archive[len(archive) // 2] ^= 1
    fresh = MemoryNode()
    (answer,) = restore(fresh.admin(), bytes(archive))
    assert answer.startswith("error the backup is damaged at byte ")
    assert fresh.node.catalogue.staged() == []
    assert fresh.admin().ask("restore-write 1 AAAA") == "error no such restore \n"


def test_one_left_alone_is_given_up(node: MemoryNode) -> None:
    archive = backup(node, "d")
    fresh = MemoryNode()
    admin = fresh.admin()
    admin.ask("restore-begin new")
    admin.ask(f"restore-write 1 {base64.b64encode(archive[:2_000]).decode()}")
    assert len(fresh.node.catalogue.staged()) == 1
    fresh.clock.advance(IDLE_SECONDS)
    fresh.settle()
    assert fresh.node.catalogue.staged() == []
    assert admin.ask("restore-write 1 AAAA") == "error no such restore \n"


@pytest.mark.parametrize(
    ("archive", "answer"),
    [
        (archive_of("d", [("k", "v", 0)]), "error no token for the database d "),
        (
            archive_of("d", [("a b", "v", 0)]),
            "error the backup holds what no client could set: a b ",
        ),
        (
            archive_of("d", [("k", "v\nw", 0)]),
            "error the backup holds what no client could set: k ",
        ),
        (
            archive_of("$admin", [("", "v", 0)]),
            "error the backup holds what no client could set:  ",
        ),
        (
            archive_of("d", [("$$token", "h", 0), ("k", "v", (1 << 63) - 1)]),
            "error the backup holds what no client could set: k ",
        ),
        (
            archive_of("d", [("$$token", "h", 0), ("k\nok ", "v", 0)]),
            "error the backup holds what no client could set: k?ok  ",
        ),
        (
            archive_of("d", [("$$token", "h", 0), ("k\udc80", "v", 0)]),
            "error the backup holds what no client could set: k\ufffd ",
        ),
        (archive_of("d\nok ", [("$$token", "h", 0)]), "error invalid database name: d?ok  "),
        (archive_of("d", [("$$token", "h", 0)], "a\nb"), "error unknown strategy: a?b "),
        (
            archive_of("$admin", [("k", "v", -3)]),
            "error the backup holds what no client could set: k ",
        ),
        (archive_of("$x", [("$$token", "h", 0)]), "error invalid database name: $x "),
        (archive_of("a b", [("$$token", "h", 0)]), "error invalid database name: a b "),
        (archive_of("d", [("$$token", "h", 0)], "odd"), "error unknown strategy: odd "),
    ],
)
def test_what_makes_no_sense_is_refused(archive: bytes, answer: str) -> None:
    node = MemoryNode()
    assert restore(node.admin(), archive) == [answer]
    assert list(node.node.catalogue.by_id) == [0]


def test_wrong_commands_are_refused(node: MemoryNode) -> None:
    admin = node.admin()
    assert admin.ask("restore-begin over") == (
        "error restore-begin takes new, force or merge: over \n"
    )
    assert admin.ask("restore-begin new") == "restore 1\nok \n"
    assert admin.ask("restore-write 1 AAA") == "error restore-write takes base64 \n"
    assert admin.ask("restore-commit 1").startswith("error the backup is damaged at byte 0")
    assert node.tcp().ask("restore-begin new") == "error Not auth \n"


def test_a_merge_adds_and_replaces(node: MemoryNode) -> None:
    watcher, admin = using(node), node.admin()
    watcher.ask("watch key-7")
    entries = [("key-7", "merged", 1), ("new", "v", 5), ("$$token", "nonsense", 9)]
    assert restore(admin, archive_of("d", entries), "merge") == ["restored 1 3", "ok "]
    assert watcher.received() == "changed key-7 merged\nchanged-version key-7 4 merged\n"
    client = using(node)
    assert client.ask("get-safe new") == "value-version 5 v\nok \n"
    assert client.ask("get key-9") == "value value-9\nok \n"
    token = [("$$token", "scrypt$x", 0), ("k", "v", 2)]
    assert restore(admin, archive_of("fresh", token), "merge") == ["restored 1 2", "ok "]
    assert node.node.catalogue.by_name[b"fresh"].value(b"k") == b"v"


def test_a_log_that_fails_gives_it_up(node: MemoryNode) -> None:
    archive = backup(node, "d")
    fresh = MemoryNode()
    admin = fresh.admin()
    admin.ask("restore-begin new")
    half = len(archive) // 2
    admin.ask(f"restore-write 1 {base64.b64encode(archive[:half]).decode()}")
    append = fresh.oplog.append

    def full(*_: object) -> None:
        raise StorageUnavailable("No space left on device")

    fresh.oplog.append = full  # type: ignore[method-assign]
    answer = admin.ask(f"restore-write 1 {base64.b64encode(archive[half:]).decode()}")
    assert answer.startswith("error storage unavailable")
    fresh.oplog.append = append  # type: ignore[method-assign]
    assert admin.ask("restore-commit 1") == "error no such restore \n"
    assert fresh.node.catalogue.by_name.keys() == {b"$admin"}


# -- of a set --------------------------------------------------------------------------------------


def test_a_backup_of_one_set_is_restored_in_another_and_leaves_its_members_alone() -> None:
    one, other = MemorySet(3), MemorySet(3, seed=7)
    for nodes in (one, other):
        nodes.run(3.0)
    one.nodes[1].admin("create-db d t", "use-db d t", "set k v", "use-db $admin nun-pwd", "set a 1")
    one.run(1.0)
    archive = backup(one.nodes[2])
    assert set(contents(archive)[b"$admin"]) == {b"a"}
    kept = other.nodes[1].node.catalogue.admin.value(MEMBERS_KEY)
    assert restore(other.nodes[1].admin(), archive)[-1] == "ok "
    other.run(1.0)
    for me in other.ids:
        catalogue = other.nodes[me].node.catalogue
        assert catalogue.by_name[b"d"].value(b"k") == b"v"
        assert catalogue.admin.value(b"a") == b"1"
        assert catalogue.admin.value(MEMBERS_KEY) == kept
    assert other.primary() == 1


def test_the_members_in_an_older_backup_are_passed_over() -> None:
    nodes = MemorySet(3)
    nodes.run(3.0)
    kept = nodes.nodes[1].node.catalogue.admin.value(MEMBERS_KEY)
    archive = archive_of("$admin", [("$$members", "x", 9), ("a", "1", 0)], "newer")
    assert restore(nodes.nodes[1].admin(), archive, "force")[-1] == "ok "
    nodes.run(1.0)
    assert nodes.nodes[1].node.catalogue.admin.value(MEMBERS_KEY) == kept
    assert nodes.nodes[3].node.catalogue.admin.value(b"a") == b"1"
