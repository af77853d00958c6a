"""Targets: backups, files of NunDB, and lines of JSON."""

from __future__ import annotations

import base64

from nuntwist import scrypt
from nuntwist.archive import nundb
from nuntwist.archive.entries import HIGHEST_VERSION, archive_of
from nuntwist.archive.format import End, Head, Member, Piece, Reader, Writer
from nuntwist.archive.lines import WrongLine, line_of, read_lines
from nuntwist.errors import CorruptData
from nuntwist.files import MemoryFiles
from nuntwist.language.parser import parse_number
from nuntwist.oplog.segments import FileOplog
from nuntwist.testing import MemoryNode
from nuntwist.values import IN_RESOLUTION, KEY, SET, VALUE, VERSION, Op
from tests.fuzz.oplog import CHEAP, content_of, use
from tests.fuzz.target import nothing_fails, put, tried, unbundle, ways_to_cut

LONGEST_REASON = 300


def archive(data: bytes) -> None:
    """An archive: the same in any pieces, and one that is whole can be written again."""
    results = []
    for pieces in ways_to_cut(data):
        found = list[Piece]()
        reader = Reader("a test")
        said = ""
        try:
            for piece in pieces:
                for one in reader.feed(piece):
                    found.append(one)
            reader.finish()
        except CorruptData as error:
            said = error.reason
            _check_reason(error)
        results.append((found, said))
    assert all(result == results[0] for result in results)
    if results and not results[0][1]:
        assert _entries(_written(results[0][0])) == _entries(results[0][0])


def _check_reason(error: CorruptData) -> None:
    """It goes to a terminal, or to a client as one line."""
    assert "\n" not in str(error)
    assert len(error.reason) <= LONGEST_REASON
    str(error).encode()


def _written(pieces: list[Piece]) -> list[Piece]:
    writer, written = Writer(), b""
    for piece in pieces:
        if isinstance(piece, Head):
            written += writer.begin(piece)
        elif isinstance(piece, Member):
            written += writer.member(piece)
        elif isinstance(piece, list):
            written += writer.entries(piece)
        elif isinstance(piece, End):
            written += writer.end()
    return list(Reader("a test").feed(written))


def _entries(pieces: list[Piece]) -> list[object]:
    found: list[object] = []
    for piece in pieces:
        found += piece if isinstance(piece, list) else [piece]
    return found


def restore(data: bytes) -> None:
    """An archive that an admin sends to a node: it comes in whole, or nothing of it does; and
    whatever came in can be worked with, and survives a restart."""
    with nothing_fails(), put(scrypt, MOST_WORK=CHEAP):
        for mode in ("new", "force", "merge"):
            kept = MemoryFiles()
            node = MemoryNode(oplog=FileOplog(kept, 7))
            admin = node.admin("create-db shop t", "use-db shop t", "set apple 1")
            before = content_of(node)
            admin.ask(f"restore-begin {mode}")
            said = admin.ask(f"restore-write 1 {base64.b64encode(data).decode()}\nrestore-commit 1")
            # Where the archive brings a write concern, the answer waits for that.
            node.clock.advance(10)
            said += admin.received()
            answers = said.splitlines()
            assert len(answers) == 2 + ("restored" in said), said
            if "restored" not in said and mode != "merge":
                assert content_of(node)[1:] == before[1:]
            use(node)
            content = content_of(node)
            node.oplog.close()
            again = MemoryNode(oplog=FileOplog(kept, 7), storage=node.storage)
            assert content_of(again) == content


def entries(data: bytes) -> None:
    """The same from lines, so that a text of another length is no damage: each is the version,
    the key and the value of an entry; the first one is the strategy and the name."""
    first, *rest = data.split(b"\n")
    strategy, _, name = first.decode("utf-8", "replace").encode().partition(b" ")
    ops: list[Op] = []
    for line in rest:
        version, key, value = (*line.split(b" ", 2), b"", b"")[:3]
        number = parse_number(version)
        if number is not None:
            ops.append((value, number, 0, 0, SET, 0, key))
    restore(b"".join(archive_of([(Member(name, strategy), ops)], "", "")))


def lines(data: bytes) -> None:
    """Lines of JSON."""
    try:
        found = list(read_lines(data.split(b"\n")))
    except WrongLine as error:
        assert "\n" not in str(error)
        assert len(str(error)) <= LONGEST_REASON
        str(error).encode()
        return
    for op in found:
        _check_entry(op)
        assert list(read_lines([line_of(op).encode()])) == [op]


def _check_entry(op: Op) -> None:
    key, value = op[KEY], op[VALUE]
    assert value is not None
    assert key
    assert not {*b" \n"} & {*key}
    assert b"\n" not in value
    key.decode()
    value.decode()
    assert 0 <= op[VERSION] <= HIGHEST_VERSION or op[VERSION] == IN_RESOLUTION


def files(data: bytes) -> None:
    """The files of a database of NunDB."""
    meta, keys, values = unbundle(data, 3)
    strategy = tried(CorruptData, nundb.strategy_in, "meta", meta)
    assert strategy in (None, b"none", b"newer", b"arbiter")
    try:
        found = list(nundb.entries_in("d", keys, values))
    except CorruptData as error:
        str(error).encode()
        assert len(error.reason) <= LONGEST_REASON
        return
    for op in found:
        _check_entry(op)
    assert len({op[KEY] for op in found}) == len(found)
