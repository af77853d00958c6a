"""``nun-db backup``, ``restore`` and ``export``: archives between a node and files.

What needs no node is done before one is asked: files are opened and checked, entries are read.
Then one conversation (:mod:`nuntwist.cli_session`) moves the archive. A sum of it is printed at
the end; while it lasts, a terminal on standard error shows how far it is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from twisted.internet.defer import Deferred, inlineCallbacks

from nuntwist.archive.entries import ADMIN, CONNECTIONS, SECURE
from nuntwist.archive.lines import line_of
from nuntwist.cli_archive import Contents, Follower, check
from nuntwist.cli_client import AskFailed, Poster
from nuntwist.cli_files import STANDARD, Sink, reading, writing
from nuntwist.cli_output import OutputEnded, complain, put
from nuntwist.cli_progress import Progress, counted, in_seconds
from nuntwist.cli_s3 import is_s3
from nuntwist.cli_session import (
    INTERRUPTED,
    Place,
    Session,
    download,
    run_in_reactor,
    upload,
)
from nuntwist.errors import NuntwistError
from nuntwist.values import KEY, Op

Begin = Callable[[int], None]


@dataclass
class Task:
    """One run of a subcommand.

    :ivar given: its options.
    :ivar place: gives the node; raises AskFailed where it makes no sense.
    :ivar make_client: as :func:`nuntwist.cli_client.make_client`.
    :ivar seconds: a clock that never goes back.
    """

    given: Mapping[str, Any]
    environment: Mapping[str, str]
    place: Callable[[], Place]
    make_client: Callable[..., Poster]
    progress: Progress
    seconds: Callable[[], float]

    def session(self, reactor: Any, place: Place | None = None) -> Session:
        """Begin to speak with the node, or with another one."""
        where = self.place() if place is None else place
        # Other servers may not keep connections well.
        keep = place is None
        return Session(reactor, self.make_client(reactor, where.host, where.ca_file, keep), where)


def run_task(work: Callable[[Task], int], task: Task) -> int:
    """Run a subcommand; whatever goes wrong is one sentence. Gives the exit status."""
    try:
        try:
            return work(task)
        finally:
            task.progress.clear()
    except NuntwistError as error:
        return complain(f"{str(error).rstrip('.')}.")
    except OutputEnded as ended:
        return ended.status
    except KeyboardInterrupt:
        return complain(INTERRUPTED)


def new_task(
    given: Mapping[str, Any],
    environment: Mapping[str, str],
    place: Callable[[], Place],
    make_client: Callable[..., Poster],
) -> Task:
    """A task with the clock and the standard error of this process."""
    progress = Progress(sys.stderr, time.monotonic)
    return Task(given, environment, place, make_client, progress, time.monotonic)


def say(task: Task, text: str, aside: bool = False) -> None:
    """Print a line.

    :param aside: whether standard output holds something else.
    """
    task.progress.clear()
    if aside:
        complain(text)
    else:
        put(f"{text}\n".encode("utf-8", "replace"))


# -- backup and export -----------------------------------------------------------------------------


def run_backup(task: Task) -> int:
    """Copy databases into a file."""
    given, began = task.given, task.seconds()
    with writing(given["file"], given["force"], task.environment) as sink:
        contents = _fetch(task, sink.write)
    sums = (
        counted(len(contents.counts), "database"),
        counted(contents.entries, "entry", "entries"),
        f"{counted(contents.size, 'byte')} {in_seconds(task.seconds() - began)}",
    )
    say(task, ", ".join(sums), given["file"] == STANDARD)
    return 0


def _fetch(
    task: Task,
    keep: Callable[[bytes], object],
    take: Callable[[list[Op]], None] | None = None,
) -> Contents:
    """Make a backup; gives what it holds when it is whole."""
    follower = Follower("the backup", take)

    def begin(entries: int) -> None:
        task.progress.begin("entries", entries)

    def one(data: bytes) -> None:
        follower.feed(data)
        keep(data)
        task.progress.show(follower.contents.entries, follower.contents.size)

    def work(reactor: Any) -> Deferred[None]:
        return download(task.session(reactor), task.given["names"], begin, one)

    run_in_reactor(work)
    return follower.finish()


class _Lines:
    """Entries as lines into a file."""

    def __init__(self, sink: Sink, secure: bool) -> None:
        self._sink = sink
        self._secure = secure
        self.count = 0
        self.size = 0

    def take(self, entries: list[Op]) -> None:
        """Write some."""
        lines = [
            line_of(op)
            for op in entries
            if op[KEY] != CONNECTIONS and (self._secure or not op[KEY].startswith(SECURE))
        ]
        if not lines:
            return
        data = "\n".join([*lines, ""]).encode()
        self.count += len(lines)
        self.size += len(data)
        self._sink.write(data)


def run_export(task: Task) -> int:
    """Write a database as lines."""
    given, began = task.given, task.seconds()
    if is_s3(given["file"]):
        raise AskFailed("export writes to a file or to standard output.")
    with writing(given["file"], given["force"], task.environment) as sink:
        lines = _Lines(sink, bool(given["all"]))
        _fetch(task, len, lines.take)
    sums = (
        counted(lines.count, "key"),
        f"{counted(lines.size, 'byte')} {in_seconds(task.seconds() - began)}",
    )
    say(task, ", ".join(sums), given["file"] == STANDARD)
    return 0


# -- restore ---------------------------------------------------------------------------------------


def run_restore(task: Task) -> int:
    """Put a backup into a node, or check it."""
    given = task.given
    with reading(given["file"], task.environment) as file:
        task.progress.begin("entries", 0)
        contents = check(given["file"], file, task.progress.show)
        names = list(given["names"])
        missing = [name for name in names if name not in contents.counts]
        if missing:
            held = ", ".join(contents.names())
            raise AskFailed(f"The backup has no database {missing[0]}; it has {held}.")
        if given["check"]:
            _tell(task, contents)
            return 0
        return send(task, file, names, names or contents.names(), contents.size)


def _tell(task: Task, contents: Contents) -> None:
    assert contents.head is not None
    head, counts = contents.head, contents.counts
    for member in head.members:
        entries = counted(counts[member.name.decode()], "entry", "entries")
        say(task, f"{member.name.decode()}: {entries}, strategy {member.strategy.decode()}")
    sums = (counted(contents.entries, "entry", "entries"), counted(contents.size, "byte"))
    say(task, f"whole; made {head.made} by {head.release}; {', '.join(sums)}")


def send(task: Task, file: IO[bytes], names: list[str], all_names: list[str], size: int) -> int:
    """Send an archive, and tell of it; arguments as those of :func:`sending`."""

    def work(reactor: Any) -> Deferred[str]:
        return sending(task, reactor, file, names, all_names, size)

    say(task, run_in_reactor(work, interruption(task)))
    return 0


def interruption(task: Task) -> str:
    """What to say of Ctrl-C."""
    return "Interrupted; what was sent was set." if task.given["mode"] == "merge" else INTERRUPTED


@inlineCallbacks
def already_there(
    task: Task, session: Session, names: list[str]
) -> Generator[Deferred[Any], Any, list[str]]:
    """Look which databases are there, and refuse to go on where they may not be.

    :return: fires with their names; fails with AskFailed.
    """
    listed: dict[str, str] = yield session.databases()
    # Whether $admin holds anything only the node can tell.
    there = [name for name in names if name in listed and name != ADMIN.decode()]
    if there and task.given["mode"] == "new":
        which = ", ".join(there)
        if len(there) == 1:
            raise AskFailed(f"The database {which} is there already: --force replaces it.")
        raise AskFailed(f"The databases {which} are there already: --force replaces them.")
    return there


@inlineCallbacks
def sending(
    task: Task,
    reactor: Any,
    file: IO[bytes],
    names: list[str],
    all_names: list[str],
    size: int,
) -> Generator[Deferred[Any], Any, str]:
    """Send an archive.

    :param names: which of its databases; none for all.
    :param all_names: the same, all said by name.
    :param size: its bytes.
    :return: fires with a line that tells of it; fails with AskFailed.
    """
    mode, began, session = task.given["mode"], task.seconds(), task.session(reactor)
    there: list[str] = yield already_there(task, session, all_names)
    task.progress.begin("bytes", size)
    done = yield upload(session, mode, names, file.read, lambda n: task.progress.show(n, n))
    databases, entries = done
    sums = f"{counted(databases, 'database')}, {counted(entries, 'entry', 'entries')}"
    more = f"; replaced {', '.join(there)}" if there and mode == "force" else ""
    return f"restored {sums} {in_seconds(task.seconds() - began)}{more}"
