"""Entries as JSON lines: ``{"key": "k", "value": "v", "version": 3}``, in UTF-8.

A line is one key. The version may be left out, and is 0 then. Empty lines are skipped. Anything
else is refused with the number of the line, so that no misspelt field is passed over in silence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from nuntwist.archive.entries import LARGEST, WrongEntry, entry
from nuntwist.errors import NuntwistError
from nuntwist.values import KEY, VALUE, VERSION, Op

LONGEST: Final = 6 * LARGEST + 1_000
"""Bytes of a line, at most: JSON may need six for one."""
_quoted = json.JSONEncoder(ensure_ascii=False).encode
_FIELDS = frozenset(("key", "value", "version"))


class WrongLine(NuntwistError):
    """A line that cannot be read; the text is ``line N: what is wrong``."""


def line_of(op: Op) -> str:
    """An entry as a line, without its end."""
    key, value = _quoted(op[KEY].decode()), _quoted((op[VALUE] or b"").decode())
    return f'{{"key": {key}, "value": {value}, "version": {op[VERSION]}}}'


def read_lines(lines: Iterable[bytes]) -> Iterator[Op]:
    """The entries in lines.

    :param lines: each at most LONGEST + 1 bytes long.
    :raise WrongLine: one cannot be read.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield _read(line)
        except WrongEntry as error:
            raise WrongLine(f"line {number}: {error}") from None


def _read(line: bytes) -> Op:
    if len(line) > LONGEST:
        raise WrongEntry(f"it has over {LONGEST} bytes")
    try:
        fields: Any = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise WrongEntry("it is not valid UTF-8") from None
    except (ValueError, RecursionError):
        raise WrongEntry("it is not JSON") from None
    if not isinstance(fields, dict):
        raise WrongEntry("it is not a JSON object")
    unknown = sorted(fields.keys() - _FIELDS)
    if unknown:
        raise WrongEntry(f"there is no field {unknown[0][:40]!r}")
    version = fields.get("version", 0)
    if not isinstance(version, int) or isinstance(version, bool):
        raise WrongEntry('"version" must be a whole number')
    return entry(_text(fields, "key"), _text(fields, "value"), version)


def _text(fields: dict[str, Any], name: str) -> bytes:
    text = fields.get(name)
    if not isinstance(text, str):
        raise WrongEntry(f'"{name}" must be a text')
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise WrongEntry(f"the {name} is not valid UTF-8") from None
