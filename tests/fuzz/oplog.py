"""Targets: the log on the disk, and a start from it."""

from __future__ import annotations

from nuntwist import scrypt
from nuntwist.core.database import CONNECTIONS_KEY, SHARDS
from nuntwist.core.limits import Limits
from nuntwist.errors import CorruptData, StartError
from nuntwist.files import MemoryFiles
from nuntwist.language.parser import parse_number
from nuntwist.oplog import reader
from nuntwist.oplog.base import NAME as BASE
from nuntwist.oplog.base import read_base, write_base
from nuntwist.oplog.inspect import Logged, SegmentReport, look, operations
from nuntwist.oplog.reader import Record
from nuntwist.oplog.record import encode
from nuntwist.oplog.segment import SEGMENT_HEAD, Segment, segment_name
from nuntwist.oplog.segments import FileOplog
from nuntwist.testing import MemoryNode
from nuntwist.values import (
    BEGIN_EPOCH,
    CREATE_DATABASE,
    DATABASE,
    INDEX,
    KEY,
    KIND,
    NAME_DATABASE,
    STAMP,
    VALUE,
    VERSION,
    Epoch,
    Op,
)
from tests.fuzz.target import nothing_fails, put, tried

NAME = segment_name(1)
FIRST_STAMP = 1767323045678 << 16
LIMITS = Limits(line=4_000, failed_logins=0)
CHEAP = 16
"""What checking a secret may cost here: that has a target of its own."""
WINDOWS = (64, 1 << 20)


def _files(data: bytes) -> MemoryFiles:
    files = MemoryFiles()
    files.contents[NAME] = bytearray(data)
    return files


def segment(data: bytes) -> None:
    """A segment: whoever looks at it finds the same records, and the same damage."""
    files = _files(data)
    found = []
    for window in WINDOWS:
        with put(reader, WINDOW=window, FIRST_WINDOW=window):
            found.append(_records(files))
    assert found[0] == found[1]
    (report,) = look(files)
    seen: list[Logged | SegmentReport] = []
    try:
        seen += operations(files)
        damage = None
    except CorruptData as error:
        damage = error
    assert str(report.damage) == str(damage)
    log = FileOplog(files, 7)
    opened = tried((CorruptData, StartError), lambda: log.open() or True)
    if damage is None:
        assert opened
        kept = [op for ops in log.read(0) for op in ops]
        assert kept == [one.op for one in seen if isinstance(one, Logged)]
        assert log.last.index == len(kept)
        assert tried(CorruptData, lambda: Segment(files, 1).check()) == 0
    else:
        assert 0 <= damage.offset <= len(data)


def _records(files: MemoryFiles) -> tuple[list[Record], str]:
    found = list[Record]()
    start = len(SEGMENT_HEAD)
    with files.open_read(NAME) as file:
        file.seek(start)
        try:
            # What comes before the damage is taken, too.
            found.extend(reader.records(file, NAME, start, files.size(NAME)))
        except CorruptData as error:
            return found, str(error)
    return found, ""


def base(data: bytes) -> None:
    """Where the log begins."""
    files = MemoryFiles()
    files.contents[BASE] = bytearray(data)
    found = tried(CorruptData, read_base, files)
    if found is not None:
        assert 0 <= found.index < 1 << 64
        assert 0 <= found.epoch.number < 1 << 64
        write_base(files, found)
        assert read_base(files) == found


def start(data: bytes) -> None:
    """A node that starts from a log with right checksums, whatever the texts in it say.

    It starts, or says why not; what it is then can be listed, written to, kept and read again.
    """
    files = _files(data)
    log = FileOplog(files, 7)
    with nothing_fails(), put(scrypt, MOST_WORK=CHEAP):
        if tried((CorruptData, StartError), lambda: log.open() or True) is None:
            return
        found = tried(CorruptData, lambda: [op for ops in log.read(0) for op in ops])
        if found is None or not all(map(_is_possible, found)):
            return
        node = tried((CorruptData, StartError), lambda: MemoryNode(oplog=log))
        if node is None:
            return
        use(node)
        before = content_of(node)
        log.close()
        again = MemoryNode(oplog=FileOplog(files, 7), storage=node.storage)
        assert content_of(again) == before


def admin(data: bytes) -> None:
    """Commands of an admin, over TCP: each is answered, and a start from the log and the snapshots
    gives what they have made."""
    with nothing_fails(), put(scrypt, MOST_WORK=CHEAP):
        files = MemoryFiles()
        node = MemoryNode(oplog=FileOplog(files, 7), limits=LIMITS)
        node.admin("create-db d t", "use-db d t", "set a 1").close()
        client = node.admin("use-db d t")
        client.deliver(data + b"\n")
        node.clock.advance(10)
        client.taken().decode()
        assert client.closed or client.ask("ping").endswith("pong\nok \n")
        use(node)
        before = content_of(node)
        node.oplog.close()
        again = MemoryNode(oplog=FileOplog(files, 7), storage=node.storage)
        assert content_of(again) == before


def replay(data: bytes) -> None:
    """The same from lines, so that a text of another length is no damage: each is the kind, the
    database, the version, the key and the value of an operation."""
    ops: list[Op] = []
    for line in data.split(b"\n"):
        kind, database, version, key, value = (*line.split(b" ", 4), *[b""] * 5)[:5]
        numbers = [parse_number(one) for one in (kind, database, version)]
        if None not in numbers and 0 < numbers[0] <= BEGIN_EPOCH and numbers[1] >= 0:
            index = len(ops) + 1
            ops.append((value, numbers[2], index, FIRST_STAMP + index, *numbers[:2], key))
    start(SEGMENT_HEAD + b"".join(encode(Epoch(1, 7), 7, [op]) for op in ops))


def _is_possible(op: Op) -> bool:
    """Whether a node may have logged this, under a right checksum: a database is known by the
    index of its first operation, names and keys are texts, and there is a next stamp and version.
    """
    try:
        (op[KEY] + (op[VALUE] or b"")).decode()
    except UnicodeDecodeError:
        return False
    kind, value = op[KIND], op[VALUE] or b""
    return (
        op[STAMP] < 1 << 63
        and abs(op[VERSION]) < 1 << 62
        and (kind != CREATE_DATABASE or (op[DATABASE] == op[INDEX] and b" " in value))
        and (kind != NAME_DATABASE or (value.isdigit() and len(value) < 20) or not value)
        and not {*b" \n"} & {*op[KEY]}
        and b"\n" not in value
    )


def use(node: MemoryNode) -> None:
    """List, read, change, remove and keep what a node holds."""
    admin = node.admin("debug list-dbs", "debug list-dbs json", "list-users", "snapshot true")
    for name in sorted(node.node.catalogue.by_name):
        for text in (
            b"use-db %b nun-pwd" % name,
            b"keys",
            b"set new 1",
            b"conflicts",
            b"list-users",
            b"snapshot true",
        ):
            admin.deliver(text + b"\n")
        database = node.node.catalogue.by_name.get(name)
        if database is None:
            continue
        for key in [key for shard in range(SHARDS) for key in database.shards[shard]][:10]:
            for text in (b"get-safe %b", b"set %b 5", b"increment %b", b"remove %b", b"set %b v"):
                admin.deliver(text % key + b"\n")
        for key, pending in list(database.conflicts.items())[:5]:
            for number in [one.rpartition(b"_")[2] for one in pending]:
                admin.deliver(b"resolve %b %b %b 0 v\n" % (number, name, key))
    node.clock.advance(1)


def content_of(node: MemoryNode) -> list[object]:
    """What the databases hold, but for what is of this process alone."""
    return [
        (
            number,
            database.name,
            sorted(
                op
                for shard in database.shards
                for op in shard.values()
                if op[VALUE] is not None and op[KEY] != CONNECTIONS_KEY
            ),
        )
        for number, database in sorted(node.node.catalogue.by_id.items())
    ]
