"""``nun-db import``: lines, another server or a directory of NunDB become an archive, which is
restored.

So an import is all or nothing as a restore is, and nothing is sent before all was read.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import IO, Any

from twisted.internet.defer import Deferred, inlineCallbacks

from nuntwist.archive import nundb
from nuntwist.archive.entries import ADMIN, secured, with_token
from nuntwist.archive.format import Member
from nuntwist.archive.lines import LONGEST, WrongLine, read_lines
from nuntwist.cli_archive import made_of
from nuntwist.cli_client import (
    AskFailed,
    checked_credentials,
    checked_host,
    checked_word,
)
from nuntwist.cli_files import STANDARD, reading, shown
from nuntwist.cli_progress import counted
from nuntwist.cli_session import Place, run_in_reactor
from nuntwist.cli_source import Source
from nuntwist.cli_transfer import Task, already_there, interruption, say, send, sending
from nuntwist.secrets import hash_secret
from nuntwist.values import Op

_COST = 14
"""As a node hashes."""
_SALT_BYTES = 16

Database = tuple[Member, Iterable[Op]]
Made = AbstractContextManager[IO[bytes]]


def run_import(task: Task) -> int:
    """Put entries from elsewhere into a node."""
    if task.given["from"] == "host":
        say(task, run_in_reactor(lambda reactor: _from_server(task, reactor), interruption(task)))
        return 0
    read = _of_lines if task.given["from"] == "file" else _of_directory
    with ExitStack() as opened:
        databases = read(task, opened)
        names = [member.name.decode() for member, _ in databases]
        file = opened.enter_context(_archive(databases, task.given["token"], task.given["mode"]))
        return send(task, file, [], names, _size(file))


def _archive(databases: list[Database], token: str | None, mode: str) -> Made:
    """An archive of databases as a node keeps them: with hashes, and a token where it is new."""
    return made_of([(member, _kept(member, found, token, mode)) for member, found in databases])


def _kept(member: Member, entries: Iterable[Op], token: str | None, mode: str) -> Iterable[Op]:
    given = None if token is None or member.name == ADMIN else token.encode()
    found = secured(entries, given, _hashed)
    return found if mode == "merge" else with_token(member.name, found)


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _hashed(secret: bytes) -> bytes:
    return hash_secret(secret, os.urandom(_SALT_BYTES), _COST)


def _member(name: str, strategy: str | None) -> Member:
    chosen = "newer" if name.encode() == ADMIN else strategy or "none"
    return Member(name.encode(), chosen.encode())


# -- lines -----------------------------------------------------------------------------------------


def _of_lines(task: Task, opened: ExitStack) -> list[Database]:
    given = task.given
    file = opened.enter_context(reading(given["file"], task.environment))
    name = "standard input" if given["file"] == STANDARD else shown(given["file"])
    return [(_member(given["names"][0], given["strategy"]), _lines(name, file))]


def _lines(name: str, file: IO[bytes]) -> Iterator[Op]:
    pieces = iter(lambda: file.readline(LONGEST + 1), b"")
    try:
        yield from read_lines(pieces)
    except WrongLine as error:
        raise WrongLine(f"{name}, {error}; nothing was changed") from None


# -- a directory of NunDB --------------------------------------------------------------------------


def _of_directory(task: Task, opened: ExitStack) -> list[Database]:
    directory, names = task.given["nundb-dir"], task.given["names"]
    try:
        listing = os.listdir(directory)
        found = nundb.databases_in(listing)
        missing = [name for name in names if name not in found]
        if missing:
            raise AskFailed(f"{shown(directory)} has no database {missing[0]} of a NunDB.")
        if not found:
            raise AskFailed(f"{shown(directory)} has no databases of a NunDB.")
        _check_old(directory, listing)
        read = [_database(task, directory, name, opened) for name in names or found]
    except OSError as error:
        where = shown(str(error.filename or directory))
        raise AskFailed(f"{where} cannot be read: {error.strerror}.") from None
    # An $admin that holds nothing of its own need not be there.
    return [one for one in read if one[0].name != ADMIN or one[1]]


def _check_old(directory: str, listing: list[str]) -> None:
    old = nundb.old_databases_in(listing)
    if old:
        raise AskFailed(
            f"{shown(directory)} has a database of an early NunDB, {shown(old[0])}:"
            " start a NunDB of today on it once, which rewrites it."
        )


def _database(task: Task, directory: str, name: str, opened: ExitStack) -> Database:
    checked_word(f"The name of the database {shown(name)}", name)
    keys, values = (
        _content(os.path.join(directory, name + ending), opened)
        for ending in (nundb.KEYS, nundb.VALUES)
    )
    entries = nundb.entries_in(name, keys, values)
    strategy = task.given["strategy"]
    if strategy is None:
        try:
            meta = _content(os.path.join(directory, name + nundb.META), opened)
            strategy = nundb.strategy_in(name + nundb.META, meta).decode()
        except FileNotFoundError:
            strategy = "newer"
    if name.encode() == ADMIN:
        return _member(name, strategy), nundb.of_admin(entries)
    return _member(name, strategy), entries


def _content(path: str, opened: ExitStack) -> nundb.Content:
    """What a file holds, without reading all of it."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            # There are no maps of nothing.
            return b""
        return opened.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


# -- another server --------------------------------------------------------------------------------


def _place_of_source(task: Task) -> Place:
    """Where the other server is.

    :raise AskFailed: that makes no sense.
    """
    given, own = task.given, task.place()
    login = ""
    if given["source-user"] is not None:
        password = given["source-pwd"] or task.environment.get("NUN_SOURCE_PWD") or ""
        if not password:
            raise AskFailed("--source-user needs --source-pwd or NUN_SOURCE_PWD.")
        login = checked_credentials(given["source-user"], password)
    return Place(checked_host(given["host"]), login, own.ca_file, own.seconds)


@inlineCallbacks
def _from_server(task: Task, reactor: Any) -> Generator[Deferred[Any], Any, str]:
    """Copy a database of another server; fires with a line that tells of it."""
    given, place, name = task.given, _place_of_source(task), task.given["names"][0]
    # Before all of it is copied in vain.
    yield already_there(task, task.session(reactor), [name])
    session = task.session(reactor, place)
    strategy: str | None = given["strategy"]
    if strategy is None and place.login:
        listed: Mapping[str, str] = yield session.databases()
        strategy = listed.get(name)
    token: str = given["source-token"] or given["token"]
    source = Source(session, name, token, task.progress.show)
    entries: list[Op] = yield source.copy(lambda count: task.progress.begin("keys", count))
    member = _member(name, strategy)
    if member.name == ADMIN:
        entries = nundb.of_admin(entries)
    with _archive([(member, entries)], given["token"] or token, given["mode"]) as file:
        line: str = yield sending(task, reactor, file, [], [name], _size(file))
    for note in _notes(source):
        say(task, note, aside=True)
    return line


USER_PREFIX = "$$user_"


def _notes(source: Source) -> Iterator[str]:
    if source.gone:
        yield f"{counted(source.gone, 'listed key')} could not be read: removed meanwhile."
    hidden = [key for key in source.hidden if key.startswith(USER_PREFIX)]
    if len(hidden) < len(source.hidden):
        yield "The server does not show the keys of signed tokens; set them anew: signing-keys."
    if hidden:
        users = ", ".join(key.removeprefix(USER_PREFIX) for key in hidden)
        yield f"The server does not show the tokens of its users; create them anew: {users}."
