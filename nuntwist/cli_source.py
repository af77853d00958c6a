"""Copies a database live from another server, a NunDB or a nuntwist, over its text protocol.

Each POST begins with ``use-db`` (and ``auth``, where there is an admin), then lists the keys or
reads a batch of them. Messages end with a newline and no value holds one, so an answer is split
at ``\\n;``, whatever semicolons the values have. Where that does not give one value a key, or
the answer is too large for the server, the batch is halved, down to one key.

A listing parts keys with commas, and so cannot be told from one of keys that hold commas: what
is listed and not there, or listed twice, is looked for again, joined with its neighbours.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, inlineCallbacks

from nuntwist.archive.entries import (
    CONNECTIONS,
    SIGNING_KEYS,
    TOKEN,
    WrongEntry,
    entry,
    is_secret,
)
from nuntwist.cli_client import AskFailed, AskRefused, first_line
from nuntwist.cli_session import Session
from nuntwist.values import Op

BATCH_KEYS, BATCH_BYTES = 200, 60_000
"""What one request asks for, at most."""
EMPTY, HIDDEN = "<Empty>", "<hidden>"
NEIGHBOURS: Final = 4
"""How many pieces of a listing may be one key with commas."""
TOO_LARGE = 413
_VALUE = re.compile(r"value-version (-?[0-9]{1,19}) (.*)\Z", re.DOTALL)


class Source:
    """A database of another server.

    :param session: with that server; with a login where there is an admin.
    :param name: of the database.
    :param token: that opens it.
    :param report: called with how many keys were read, and their bytes.
    :ivar gone: how many keys were listed and not there.
    :ivar hidden: the secrets that the server does not show.
    """

    def __init__(
        self, session: Session, name: str, token: str, report: Callable[[int, int], None]
    ) -> None:
        self._session = session
        self._opening = f"use-db {name} {token}"
        self._report = report
        self._size = 0
        self._entries: dict[str, Op] = {}
        self._missing: list[str] = []
        self.gone = 0
        self.hidden: list[str] = []

    @inlineCallbacks
    def copy(self, begin: Callable[[int], None]) -> Generator[Deferred[Any], Any, list[Op]]:
        """Read all keys.

        :param begin: called with how many there are, about.
        :return: fires with the entries; fails with AskFailed.
        """
        listed: list[str] = yield self._keys()
        begin(len(listed))
        for batch in _batches(list(dict.fromkeys(listed))):
            yield self._read(batch)
        missing, self._missing = self._missing, []
        again = self._with_commas(listed, missing)
        for batch in _batches(again):
            yield self._read(batch)
        joined = {part for key in again if key in self._entries for part in key.split(",")}
        self.gone = len([key for key in missing if key not in joined])
        return list(self._entries.values())

    @inlineCallbacks
    def _send(self, commands: str) -> Generator[Deferred[Any], Any, str]:
        answer: str = yield self._session.send(f"{self._opening};{commands}")
        if not answer.startswith("empty;"):
            raise self._session.refusal(answer.partition(";")[0])
        return answer.removeprefix("empty;")

    @inlineCallbacks
    def _keys(self) -> Generator[Deferred[Any], Any, list[str]]:
        answer: str = yield self._send("keys")
        if not answer.startswith("keys ") or not answer.endswith("\n"):
            raise self._session.refusal(answer)
        skipped = CONNECTIONS.decode()
        keys = [key for key in answer[5:-1].split(",") if key and key != skipped]
        odd = next((key for key in keys if ";" in key or key != key.strip()), None)
        if odd is not None:
            raise AskFailed(f"The key {odd!r} cannot be asked for over HTTP; nothing was copied.")
        return keys

    @inlineCallbacks
    def _read(self, keys: Sequence[str]) -> Generator[Deferred[Any], Any, None]:
        try:
            answer = yield self._send(";".join(f"get-safe {key}" for key in keys))
        except AskRefused as error:
            if error.code != TOO_LARGE or len(keys) == 1:
                raise
            found = None
        else:
            found = _values(answer, len(keys))
        if found is not None:
            for key, (version, value) in zip(keys, found, strict=True):
                self._take(key, version, value)
            self._report(len(self._entries), self._size)
        elif len(keys) == 1:
            raise AskFailed(
                f"{self._session.host} does not give the key {keys[0]!r}: {first_line(answer)}."
            )
        else:
            middle = len(keys) // 2
            yield self._read(keys[:middle])
            yield self._read(keys[middle:])

    def _take(self, key: str, version: int, value: str) -> None:
        if value == EMPTY:
            self._missing.append(key)
            return
        name = key.encode()
        if (is_secret(name) or name == SIGNING_KEYS) and value == HIDDEN:
            if name != TOKEN:
                self.hidden.append(key)
            return
        try:
            self._entries[key] = entry(name, value.encode(), version)
        except WrongEntry as error:
            raise AskFailed(
                f"The key {key!r} of {self._session.host} cannot be taken: {error}."
            ) from None
        self._size += len(name) + len(value)

    def _with_commas(self, listed: Sequence[str], missing: Sequence[str]) -> list[str]:
        """Keys that may be behind pieces of the listing that were not there, or there twice."""
        counts = Counter(listed)
        odd = frozenset(missing) | {key for key, count in counts.items() if count > 1}
        found: dict[str, None] = {}
        for at, key in enumerate(listed):
            if key not in odd:
                continue
            for length in range(2, NEIGHBOURS + 1):
                for start in range(max(at - length + 1, 0), at + 1):
                    parts = listed[start : start + length]
                    if len(parts) == length:
                        found[",".join(parts)] = None
        return [key for key in found if key not in self._entries]


def _values(answer: str, count: int) -> list[tuple[int, str]] | None:
    """Version and value of each key asked for; None where the answer does not tell."""
    if not answer.endswith("\n"):
        return None
    parts = answer[:-1].split("\n;")
    found = [_VALUE.match(part) for part in parts]
    if len(parts) != count or None in found:
        return None
    return [(int(one[1]), one[2]) for one in found if one is not None]


def _batches(keys: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for key in keys:
        batch.append(key)
        size += len(key.encode()) + 10
        if len(batch) >= BATCH_KEYS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
