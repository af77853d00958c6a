"""Targets: what clients say, as lines, commands and small texts."""

from __future__ import annotations

from nuntwist.core.concern import LONGEST_MS, MAJORITY, MOST_REPLICAS, PRIMARY, parse_concern
from nuntwist.core.outcomes import encode_replies, read_replies
from nuntwist.core.permissions import Permissions, matches
from nuntwist.errors import CommandError
from nuntwist.language.commands import BY_WORD, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN, Kind
from nuntwist.language.framing import TOO_LONG, LineFramer, split_commands
from nuntwist.language.parser import parse, parse_number, unparse
from tests.fuzz.target import tried, ways_to_cut

LIMIT = 64
LONGEST_ERROR = 400
"""Bytes of an error text, at most, whatever was sent."""
_LIMITS = {Kind.VERSION: (INT32_MIN, INT32_MAX), Kind.NUMBER: (INT64_MIN, INT64_MAX)}


def lines(data: bytes) -> None:
    """However a line comes, it is the same; what the hot road may take is what it may take."""
    expected = [
        line if len(line) <= LIMIT else TOO_LONG for line in data.split(b"\n")[: data.count(b"\n")]
    ]
    for pieces in ways_to_cut(data):
        framer, found = LineFramer(LIMIT), []
        for piece in pieces:
            chunk = framer.feed(piece)
            assert framer.pending <= LIMIT
            if chunk is not None:
                found += chunk[0]
                assert not chunk[1] or all(map(_is_plain, chunk[0]))
        assert found == expected


def _is_plain(line: bytes) -> bool:
    if line == TOO_LONG:
        return True
    line.decode()
    return not line.endswith((b";", b"\r")) and b" $" not in line


def split(data: bytes) -> None:
    """Commands between semicolons: none is empty, none has a line end, and none is lost."""
    found = split_commands(data)
    for one in found:
        assert one.strip(b" ")
        assert b"\n" not in one
        assert b";" not in one
    assert split_commands(b";".join(found)) == found
    flat = data.replace(b"\r\n", b"").replace(b"\n", b"")
    assert b"".join(found).replace(b" ", b"") == flat.replace(b";", b"").replace(b" ", b"")


def command(data: bytes) -> None:
    """A command is refused with a text that fits the wire, or written and read again the same."""
    try:
        request = parse(data)
    except CommandError as error:
        error.message.decode()
        assert len(error.message) <= LONGEST_ERROR
        return
    for argument, value in zip(request.command.arguments, request.arguments, strict=True):
        limits = _LIMITS.get(argument.kind)
        assert isinstance(value, bytes if limits is None else int)
        assert limits is None or limits[0] <= value <= limits[1]  # type: ignore[operator]
    assert parse(unparse(request)) == request
    assert BY_WORD[request.command.word.encode()] is request.command


def number(data: bytes) -> None:
    """A number is a sign and ASCII digits, no more."""
    found = parse_number(data)
    digits = data[1:] if data[:1] in (b"+", b"-") else data
    plain = 0 < len(digits) <= 19 and not digits.strip(b"0123456789")
    if found is None:
        assert not plain or not INT64_MIN <= int(data) <= INT64_MAX
    else:
        assert plain
        assert found == int(data)


def outcomes(data: bytes) -> None:
    """Replies on their way between nodes."""
    replies = tried(ValueError, read_replies, data)
    if replies is not None:
        assert read_replies(encode_replies(replies)) == replies


def concern(data: bytes) -> None:
    """A write concern, as a client writes it and as a key holds it."""
    found = tried(CommandError, parse_concern, data)
    if found is None:
        return
    assert found.replicas in (PRIMARY, MAJORITY) or 0 < found.replicas <= MOST_REPLICAS
    assert found.milliseconds is None or 0 < found.milliseconds <= LONGEST_MS
    assert parse_concern(found.encode()) == found


def permissions(data: bytes) -> None:
    """A list of permissions, and keys to try it on."""
    text, _, key = data.partition(b"\n")
    found = tried(CommandError, Permissions, text)
    if found is None:
        return
    for letter in b"rwixla":
        one = bytes((letter,))
        assert not found.allow(one, key) or found.names(one)
    assert found.lists(key) or not found.lists_all
    for pattern in text.replace(b"|", b",").split(b","):
        wild = pattern.startswith(b"*") or pattern.endswith(b"*")
        assert wild or matches(pattern, key) == (pattern in key)
