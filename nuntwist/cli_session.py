"""Backups and restores as a conversation with a node: commands over HTTP, one POST at a time.

A :class:`Session` sends a command as the admin and gives its answer; a refusal of the node
becomes a sentence. :func:`download` and :func:`upload` move an archive with it: whatever ends
them early, an error or a cancel, the node is told to give up what it holds.

:func:`run_in_reactor` runs such a conversation from beginning to end. On Ctrl-C it is cancelled,
and the reactor stops when the node was told.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.python.failure import Failure

from nuntwist.cli_client import INVALID, AskFailed, Poster, ask, first_line

INTERRUPTED = "Interrupted; nothing was changed."
AT_ONCE = 4
"""Pieces asked for or sent in one POST."""
PIECE = 256 << 10
"""Bytes of an archive in one command."""
LEAST_SECONDS = 60.0
"""An answer may wait for snapshots and for the disk."""
DROP_SECONDS = 5.0
_BACKUP = re.compile(r"backup ([0-9]{1,19}) ([0-9]{1,19})\n\Z")
_RESTORE = re.compile(r"restore ([0-9]{1,19})\n\Z")
_RESTORED = re.compile(r"restored ([0-9]{1,19}) ([0-9]{1,19})\n\Z")
_LISTED = re.compile(r"^(\S+) : (\w+)", re.MULTILINE)
_TAKEN, _GONE = "empty;", ";no such restore"

T = TypeVar("T")


class Refused(AskFailed):
    """The node answered, and the answer is no."""


@dataclass(frozen=True)
class Place:
    """Where a node is, and who asks it.

    :ivar host: its URL.
    :ivar login: the command that authenticates; empty for none.
    :ivar ca_file: a PEM file of the certificates to trust; None for those of the system.
    :ivar seconds: how long an answer may take.
    """

    host: str
    login: str
    ca_file: str | None
    seconds: float


class Session:
    """Speaks with a node.

    :param client: a treq client.
    """

    def __init__(self, reactor: Any, client: Poster, place: Place) -> None:
        self._reactor = reactor
        self._client = client
        self._place = place
        self.host = place.host

    @inlineCallbacks
    def send(self, body: str) -> Generator[Deferred[Any], Any, str]:
        """Send commands, parted by semicolons.

        :return: fires with the answer, without the part of ``auth``; fails with AskFailed.
        """
        login, seconds = self._place.login, max(self._place.seconds, LEAST_SECONDS)
        whole = f"{login};{body}" if login else body
        answer: str = yield ask(self._reactor, self._client, self.host, whole, seconds)
        if not login:
            return answer
        if answer.startswith(INVALID):
            raise Refused(f"{self.host} does not accept this user and password.")
        return answer.removeprefix("valid auth\n;")

    @inlineCallbacks
    def expect(self, command: str, form: re.Pattern[str]) -> Generator[Deferred[Any], Any, Any]:
        """Send a command whose answer has a form.

        :return: fires with the match; fails with AskFailed.
        """
        answer: str = yield self.send(command)
        found = form.match(answer)
        if found is None:
            raise self.refusal(answer)
        return found

    def refusal(self, answer: str) -> Refused:
        """What to say of an error."""
        reason = first_line(answer.removeprefix("error ")) or "an empty answer"
        return Refused(f"{self.host} refused: {reason}.")

    @inlineCallbacks
    def drop(self, command: str) -> Generator[Deferred[Any], Any, None]:
        """Tell the node to give something up; that it cannot be told is no error."""
        place = self._place
        with contextlib.suppress(AskFailed):
            body = f"{place.login};{command}"
            yield ask(self._reactor, self._client, self.host, body, DROP_SECONDS)

    @inlineCallbacks
    def databases(self) -> Generator[Deferred[Any], Any, dict[str, str]]:
        """Ask for the databases.

        :return: fires with the strategy of each, by name.
        """
        answer: str = yield self.send("debug list-dbs")
        if not answer.startswith("dbs-list"):
            raise self.refusal(answer)
        return dict(_LISTED.findall(answer.partition("\n")[2]))


@inlineCallbacks
def download(
    session: Session, names: list[str], begin: Callable[[int], None], take: Callable[[bytes], None]
) -> Generator[Deferred[Any], Any, None]:
    """Make a backup.

    :param names: of databases; none for all.
    :param begin: called with the number of entries to come.
    :param take: called with each piece of the archive.
    :return: fires with None when all was given; fails with AskFailed, or what ``take`` raised.
    """
    begun = yield session.expect(" ".join(["backup-begin", "|".join(names)]).strip(), _BACKUP)
    number = begun[1]
    try:
        begin(int(begun[2]))
        while True:
            answer: str = yield session.send(";".join([f"backup-read {number}"] * AT_ONCE))
            for piece in _pieces(session, answer):
                if piece is None:
                    return
                take(piece)
    except BaseException:
        yield session.drop(f"backup-drop {number}")
        raise


def _pieces(session: Session, answer: str) -> Iterator[bytes | None]:
    """The pieces in an answer; None for the end."""
    for part in answer.split("\n;"):
        if part.rstrip("\n") == "backup-end":
            yield None
            return
        if not part.startswith("backup-data "):
            raise session.refusal(part)
        try:
            yield base64.b64decode(part[12:].rstrip("\n"), validate=True)
        except ValueError:
            # Of letters that are not ASCII it is no binascii.Error.
            raise AskFailed(f"{session.host} gave a piece that is no base64.") from None


@inlineCallbacks
def upload(
    session: Session,
    mode: str,
    names: list[str],
    read: Callable[[int], bytes],
    report: Callable[[int], None],
) -> Generator[Deferred[Any], Any, tuple[int, int]]:
    """Restore an archive.

    :param mode: ``new``, ``force`` or ``merge``.
    :param names: which databases of it; none for all.
    :param read: gives the next bytes of it, as many as asked for; fewer at its end.
    :param report: called with how many bytes have been taken.
    :return: fires with how many databases and entries were restored; fails with AskFailed.
    """
    begun = yield session.expect(
        " ".join(["restore-begin", mode, "|".join(names)]).strip(), _RESTORE
    )
    number, sent = begun[1], 0
    try:
        while data := read(PIECE * AT_ONCE):
            pieces = [data[at : at + PIECE] for at in range(0, len(data), PIECE)]
            texts = (base64.b64encode(piece).decode() for piece in pieces)
            answer: str = yield session.send(
                ";".join(f"restore-write {number} {text}" for text in texts)
            )
            _all_taken(session, answer, len(pieces))
            sent += len(data)
            report(sent)
        done = yield _commit(session, number)
    except BaseException:
        yield session.drop(f"restore-drop {number}")
        raise
    return int(done[1]), int(done[2])


@inlineCallbacks
def _commit(session: Session, number: str) -> Generator[Deferred[Any], Any, Any]:
    try:
        done = yield session.expect(f"restore-commit {number}", _RESTORED)
    except Refused:
        raise
    except AskFailed as error:
        unknown = "so whether the databases were restored is not known"
        raise AskFailed(f"{str(error).rstrip('.')}, {unknown}.") from None
    return done


def _all_taken(session: Session, answer: str, count: int) -> None:
    if answer == ";".join(["empty"] * count):
        return
    begin, end = 0, len(answer)
    while answer.startswith(_TAKEN, begin):
        begin += len(_TAKEN)
    # What came after the first error was answered with this.
    while answer.endswith(_GONE, begin, end):
        end -= len(_GONE)
    raise session.refusal(answer[begin:end])


def run_in_reactor(work: Callable[[Any], Deferred[T]], interrupted: str = INTERRUPTED) -> T:
    """Run the reactor until the work is done, or a signal ends it.

    :param work: called with the reactor.
    :param interrupted: what to say of a signal.
    :raise AskFailed: it was interrupted; and whatever the work fails with.
    """
    from twisted.internet import task

    outcome: list[Any] = []

    def session(reactor: Any) -> Deferred[Any]:
        def end() -> Deferred[Any] | None:
            if outcome:
                return None
            outcome.append(Failure(AskFailed(interrupted)))
            running.cancel()
            return finished

        finished: Deferred[Any] = Deferred()
        reactor.addSystemEventTrigger("before", "shutdown", end)
        running = work(reactor)
        running.addBoth(outcome.append)
        return running.addCallback(lambda _: finished.callback(None))

    with contextlib.suppress(SystemExit):
        task.react(session)
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    result: T = outcome[0]
    return result
