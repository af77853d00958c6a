"""The command line ``nun-db``: options, subcommands, exit statuses.

``start`` becomes a node: this very process runs what ``twistd -n nundb`` runs, so there is no
child that could be left behind. ``create-db``, ``signing-keys`` and ``exec`` send commands to a
node by :mod:`nuntwist.cli_client`, inside ``task.react``, and print the answer.

Whatever goes wrong is one sentence on standard error and status 1. Standard output holds the
answer and nothing else, as UTF-8 whatever the locale says; that a reader such as ``head`` has
gone is no error.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, ClassVar

from twisted.internet.defer import Deferred
from twisted.python import usage
from twisted.python.failure import Failure

from nuntwist import __version__
from nuntwist.cli_client import (
    INVALID,
    AskFailed,
    Poster,
    ask,
    checked_credentials,
    checked_host,
    checked_text,
    checked_word,
    is_error,
    make_client,
    parts_of,
    quoted,
)
from nuntwist.cli_import import run_import
from nuntwist.cli_oplog import OplogOptions, run_oplog
from nuntwist.cli_session import Place
from nuntwist.cli_signing import signing_commands
from nuntwist.cli_transfer import new_task, run_backup, run_export, run_restore, run_task
from nuntwist.cli_transfer_options import OPTIONS as TRANSFER_OPTIONS
from nuntwist.tap import Options as NodeOptions

DEFAULT_HOST = "http://127.0.0.1:3013"
DEFAULT_USER, DEFAULT_PASSWORD = "nun", "nun-pwd"
INTERRUPTED = "Interrupted before there was an answer."
STRATEGIES = ("none", "newer", "arbiter")
_TRANSFERS = {
    "backup": run_backup,
    "restore": run_restore,
    "export": run_export,
    "import": run_import,
}
_FOR_ROOT = ("user", "pwd")
"""Options of a node that stand before the subcommand here."""


class _Options(usage.Options):
    """What all of them share: help and version go out as answers do."""

    def opt_help(self) -> None:
        """Show this help and exit."""
        raise SystemExit(write_out(f"{self}\n"))

    def opt_version(self) -> None:
        """Show the version and exit."""
        raise SystemExit(write_out(f"nun-db {__version__}\n"))

    def parseArgs(self, *words: str) -> None:
        """Refuse what is no option.

        :raise UsageError: there is something.
        """
        if words:
            raise usage.UsageError(f"{words[0]!r} is not an option here")


class StartOptions(_Options):
    """All that ``twistd nundb`` takes, but for the credentials."""

    synopsis = "[options]"
    longdesc = (
        "Runs a node in this process until SIGTERM or Ctrl-C. In brackets: the environment"
        " variable that an option overrides, and the default. --user and --pwd stand before"
        " the word start; without them the node listens on 127.0.0.1 only."
    )
    optParameters: ClassVar[list[list[str | None]]] = [
        row for row in NodeOptions.optParameters if row[0] not in _FOR_ROOT
    ]


class CreateDbOptions(_Options):
    """What a new database is called."""

    synopsis = "-d NAME -t TOKEN [-s STRATEGY]"
    longdesc = "Creates a database."
    optParameters: ClassVar[list[list[str | None]]] = [
        ["db-name", "d", None, "Name of the database"],
        ["db-token", "t", None, "Token that opens it"],
        ["strategy", "s", None, "What a conflict of versions leads to: none, newer or arbiter"],
    ]

    def postOptions(self) -> None:
        """Check that all is there.

        :raise UsageError: it is not.
        """
        for name, short in (("db-name", "d"), ("db-token", "t")):
            if self[name] is None:
                raise usage.UsageError(f"create-db needs --{name} (-{short})")
        if self["strategy"] not in (None, *STRATEGIES):
            raise usage.UsageError(f"--strategy must be one of {', '.join(STRATEGIES)}")


class SigningKeysOptions(_Options):
    """Which database, and from where."""

    synopsis = "-d NAME [--close] FILE"
    longdesc = (
        "Sets what signed tokens of a database are checked with. FILE holds a JWK set, public keys"
        " in PEM, or a secret of 32 bytes or more; with --remove and no FILE there are none any"
        " more. Without --close those stay connected who have come with a token of other keys."
    )
    optParameters: ClassVar[list[list[str | None]]] = [
        ["db-name", "d", None, "Name of the database"],
    ]
    optFlags: ClassVar[list[list[str | None]]] = [
        ["close", None, "Let go who is connected by a signed token"],
        ["remove", None, "Take no signed tokens any more"],
    ]

    def parseArgs(self, *words: str) -> None:
        """Take the file.

        :raise UsageError: there is none, or several, or one too many.
        """
        if len(words) != (0 if self["remove"] else 1):
            raise usage.UsageError("signing-keys takes one FILE, or --remove and none")
        self["file"] = words[0] if words else None

    def postOptions(self) -> None:
        """Check that all is there.

        :raise UsageError: it is not.
        """
        if self["db-name"] is None:
            raise usage.UsageError("signing-keys needs --db-name (-d)")


class ExecOptions(_Options):
    """The commands to run."""

    synopsis = '"COMMANDS"'
    longdesc = 'Runs commands, parted by semicolons, as in "use-db d token; set k v; get k".'

    def parseArgs(self, *words: str) -> None:
        """Take the commands.

        :raise UsageError: they are not one argument.
        """
        if len(words) != 1:
            raise usage.UsageError(
                "exec takes one argument, the commands in quotes; options stand before it"
            )
        self["commands"] = words[0]


class HelpOptions(_Options):
    """What to explain."""

    synopsis = "[SUBCOMMAND]"
    longdesc = "Explains nun-db, or one of its subcommands."

    def parseArgs(self, *words: str) -> None:
        """Take the subcommand.

        :raise UsageError: there are several.
        """
        if len(words) > 1:
            raise usage.UsageError("help takes one subcommand")
        self["topic"] = words[0] if words else None


class Options(_Options):
    """The options before the subcommand."""

    synopsis = "Usage: nun-db [options]"
    longdesc = (
        'The answer is printed as Response "...". The status is 0 when the node has answered,'
        " whatever it said; 1 when it did not, or refused user and password. A password given"
        " as an option can be seen in the list of processes: prefer NUN_PWD."
    )
    optParameters: ClassVar[list[list[str | None]]] = [
        ["user", "u", None, f"Name of the admin [NUN_USER; default {DEFAULT_USER}]"],
        ["pwd", "p", None, f"Password of the admin [NUN_PWD; default {DEFAULT_PASSWORD}]"],
        ["host", "h", DEFAULT_HOST, "URL of the node, http or https"],
        ["ca-file", None, None, "PEM file of certificates to trust for https, not the system's"],
        ["timeout", None, "10", "Seconds to wait for the answer"],
    ]
    optFlags: ClassVar[list[list[str | None]]] = [
        ["strict", None, "Status 1 when any command is answered with an error"],
    ]
    subCommands: ClassVar[list[tuple[str, None, type[usage.Options], str]]] = [
        ("start", None, StartOptions, "Run a node"),
        ("create-db", None, CreateDbOptions, "Create a database"),
        ("exec", None, ExecOptions, "Run commands"),
        ("signing-keys", None, SigningKeysOptions, "Set the keys of signed tokens"),
        *TRANSFER_OPTIONS,
        ("oplog", None, OplogOptions, "Read, check or repair the log of a node"),
        ("help", None, HelpOptions, "Explain a subcommand"),
    ]

    def opt_version(self) -> None:
        """Show the version and exit."""
        super().opt_version()

    opt_V = opt_version

    def postOptions(self) -> None:
        """Check what no subcommand does.

        :raise UsageError: something is missing or wrong.
        """
        if self.subCommand is None:
            names = ", ".join(name for name, *_ in self.subCommands)
            raise usage.UsageError(f"a subcommand is missing: one of {names}")
        try:
            seconds = float(self["timeout"])
        except ValueError:
            seconds = math.nan
        if not (math.isfinite(seconds) and seconds > 0):
            raise usage.UsageError("--timeout must be a number of seconds above 0")
        self["seconds"] = seconds

    def explain(self, topic: str | None) -> str:
        """Give the help on a subcommand, or on all.

        :raise UsageError: there is no such subcommand.
        """
        if topic is None:
            return str(Options())
        for name, _, make, _ in self.subCommands:
            if name == topic:
                about = make()
                about.parent, self.subCommand = self, name
                return str(about)
        raise usage.UsageError(f"there is no subcommand {topic!r} to explain")


def main(
    arguments: Sequence[str] | None = None, environment: MutableMapping[str, str] | None = None
) -> int:
    """Run ``nun-db``.

    :param arguments: without the program's name; None for those of the process.
    :param environment: None for that of the process.
    :return: the exit status.
    """
    environment = os.environ if environment is None else environment
    options = Options()
    try:
        options.parseOptions(list(sys.argv[1:] if arguments is None else arguments))
        if options.subCommand == "help":
            return write_out(options.explain(options.subOptions["topic"]) + "\n")
    except usage.UsageError as error:
        return complain(f"{error}; see nun-db --help.")
    if options.subCommand == "start":
        return start(options, environment)
    if options.subCommand == "oplog":
        return run_oplog(options.subOptions, environment)
    if options.subCommand in _TRANSFERS:
        return _transfer(options, environment)
    try:
        body = body_of(options, environment)
        host = checked_host(options["host"])
        return report(_ask_in_reactor(options, host, body), options)
    except AskFailed as error:
        return complain(str(error))
    except KeyboardInterrupt:
        return complain(INTERRUPTED)


def body_of(options: Options, environment: Mapping[str, str]) -> str:
    """Give what is posted to the node.

    :raise AskFailed: HTTP cannot carry it.
    """
    login, given = _login(options, environment), options.subOptions
    if options.subCommand == "signing-keys":
        return f"{login}; {signing_commands(given, login.split(' ', 2)[2])}"
    if options.subCommand == "exec":
        return f"{login}; {checked_text('The text of the commands', given['commands'])}"
    name = checked_word("The name of a database", given["db-name"])
    token = checked_word("The token of a database", given["db-token"])
    words = ("create-db", name, token, *filter(None, [given["strategy"]]))
    return f"{login}; {' '.join(words)}"


def _login(options: Options, environment: Mapping[str, str]) -> str:
    user = options["user"] or environment.get("NUN_USER") or DEFAULT_USER
    password = options["pwd"] or environment.get("NUN_PWD") or DEFAULT_PASSWORD
    return checked_credentials(user, password)


def _transfer(options: Options, environment: Mapping[str, str]) -> int:
    """Run what moves whole databases."""

    def place() -> Place:
        host, login = checked_host(options["host"]), _login(options, environment)
        return Place(host, login, options["ca-file"], options["seconds"])

    task = new_task(options.subOptions, environment, place, make_client)
    return run_task(_TRANSFERS[str(options.subCommand)], task)


def report(answer: str, options: Options) -> int:
    """Print an answer; gives the exit status."""
    status = write_out(f"Response {quoted(answer)}\n")
    parts = list(parts_of(answer))
    if parts[:1] == [INVALID]:
        return complain(f"{options['host']} does not accept this user and password.")
    if options["strict"] and any(map(is_error, parts)):
        return 1
    return status


def _ask_in_reactor(options: Options, host: str, body: str) -> str:
    """Run the reactor until there is an answer, or a signal.

    :raise AskFailed: there is no answer.
    """
    from twisted.internet import task

    outcome: list[str | Failure] = []

    def end() -> None:
        # On a signal all connections are closed, which would look like the node's doing.
        if not outcome:
            outcome.append(Failure(AskFailed(INTERRUPTED)))

    def session(reactor: Any) -> Deferred[Any]:
        reactor.addSystemEventTrigger("before", "shutdown", end)
        client: Poster = make_client(reactor, host, options["ca-file"])
        return ask(reactor, client, host, body, options["seconds"]).addBoth(outcome.append)

    with contextlib.suppress(SystemExit):
        task.react(session)
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    return str(outcome[0])


def start(options: Options, environment: MutableMapping[str, str]) -> int:
    """Be a node; returns when it has stopped in order.

    :raise SystemExit: it cannot start; the code is 1 or the sentence that says why.
    """
    for name, variable in (("user", "NUN_USER"), ("pwd", "NUN_PWD")):
        # Not as options: what twistd is given it may show.
        if options[name] is not None:
            environment[variable] = options[name]
    given = [f"--{name}={text}" for name, text in options.subOptions.items() if text is not None]
    sys.argv = [sys.argv[0], "--nodaemon", "--pidfile=", "nundb", *given]
    from twisted.scripts import twistd

    twistd.run()
    return 0


def complain(sentence: str) -> int:
    """Say what is wrong; gives the exit status."""
    # Without a place for complaints the status must do.
    with contextlib.suppress(OSError, AttributeError):
        sys.stderr.write(f"{sentence}\n")
        sys.stderr.flush()
    return 1


def _forget_output() -> None:
    """Send the rest nowhere; else Python tries again as it ends, and complains."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def write_out(text: str) -> int:
    """Write to standard output; gives the exit status."""
    if sys.stdout is None:
        return complain("Cannot write the answer: standard output is closed.")
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8", "replace"))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        _forget_output()
    except OSError as error:
        _forget_output()
        return complain(f"Cannot write the answer: {error.strerror}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
