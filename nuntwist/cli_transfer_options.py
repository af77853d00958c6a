"""The options of ``nun-db backup``, ``restore``, ``export`` and ``import``."""

from __future__ import annotations

from typing import ClassVar

from twisted.python import usage

from nuntwist import __version__
from nuntwist.cli_client import AskFailed, checked_word
from nuntwist.cli_output import Lines, OutputEnded

STRATEGIES = ("none", "newer", "arbiter")
Rows = list[list[str | None]]
_FORCE: list[str | None] = ["force", "f", "Replace databases that are there, and all they hold"]
_MERGE: list[str | None] = [
    "merge",
    None,
    "Set the entries in databases that are there; make those that are not",
]


def _print(text: str) -> int:
    lines = Lines()
    try:
        lines.say(text)
        lines.flush()
    except OutputEnded as ended:
        return ended.status
    return 0


class TransferOptions(usage.Options):
    """What all of them share.

    Parsed, they hold ``names`` (of databases), ``file`` and, where it applies, ``mode``.
    """

    def __init__(self) -> None:
        super().__init__()
        self["names"] = []
        self["file"] = None

    def opt_help(self) -> None:
        """Show this help and exit."""
        raise SystemExit(_print(str(self)))

    def opt_version(self) -> None:
        """Show the version and exit."""
        raise SystemExit(_print(f"nun-db {__version__}"))

    def opt_db(self, name: str) -> None:
        """Name of a database; may be given several times"""
        try:
            checked_word("The name of a database", name)
        except AskFailed as error:
            raise usage.UsageError(str(error).rstrip(".")) from None
        if "|" in name:
            raise usage.UsageError("the name of a database holds no |")
        if name not in self["names"]:
            self["names"].append(name)

    opt_d = opt_db

    def parseArgs(self, *words: str) -> None:
        """Take the file.

        :raise UsageError: there is none, or several.
        """
        if len(words) > 1:
            raise usage.UsageError(f"{words[1]!r} is one word too many; options come first")
        if words:
            if not words[0]:
                raise usage.UsageError("the name of the file is empty")
            self["file"] = words[0]

    def _choose_mode(self) -> None:
        if self["force"] and self["merge"]:
            raise usage.UsageError("--force and --merge exclude each other")
        self["mode"] = "force" if self["force"] else "merge" if self["merge"] else "new"


class BackupOptions(TransferOptions):
    """What to back up, and where to."""

    synopsis = "[--db NAME]... FILE|-|s3://BUCKET/KEY"
    longdesc = (
        "Copies databases, all where none is named ($admin too), as they are at one moment,"
        " from a running node that goes on working. The file is there only when it is whole and"
        " its checksums are right. Keep it safe: it holds all data, and the hashes of tokens."
    )
    optFlags: ClassVar[Rows] = [["force", "f", "Replace the file if it is there"]]

    def postOptions(self) -> None:
        """Check that there is a file.

        :raise UsageError: there is not.
        """
        if self["file"] is None:
            raise usage.UsageError("backup needs a file; - stands for standard output")


class RestoreOptions(TransferOptions):
    """What to restore, and how."""

    synopsis = "[--db NAME]... [--force|--merge] FILE|-|s3://BUCKET/KEY"
    longdesc = (
        "Puts the databases of a backup into a running node: all, or those that are named. All"
        " of the file is read and checked before anything is sent, and all databases appear at"
        " once or none does. With --merge entries come as they are sent."
    )
    optFlags: ClassVar[Rows] = [
        _FORCE,
        _MERGE,
        ["check", None, "Only check the file and tell what it holds; needs no node"],
    ]

    def postOptions(self) -> None:
        """Check what goes together.

        :raise UsageError: something does not.
        """
        if self["file"] is None:
            raise usage.UsageError("restore needs a file; - stands for standard input")
        self._choose_mode()


class ExportOptions(TransferOptions):
    """What to export, and where to."""

    synopsis = "--db NAME [--all] [--force] FILE|-"
    longdesc = (
        "Writes a database, as it is at one moment, as lines of JSON in UTF-8:"
        ' {"key": "k", "value": "v", "version": 0}. They come in no order.'
    )
    optFlags: ClassVar[Rows] = [
        ["all", "a", "With the keys that begin with $$: hashes of tokens, users, permissions"],
        ["force", "f", "Replace the file if it is there"],
    ]

    def postOptions(self) -> None:
        """Check that all is there.

        :raise UsageError: it is not.
        """
        if len(self["names"]) != 1:
            raise usage.UsageError("export needs one --db")
        if self["file"] is None:
            raise usage.UsageError("export needs a file; - stands for standard output")


class ImportOptions(TransferOptions):
    """What to import, where from, and how."""

    synopsis = (
        "--db NAME [options] FILE|-\n"
        "       nun-db [options] import --host URL --db NAME [options]\n"
        "       nun-db [options] import --nundb-dir DIR [--db NAME]... [options]"
    )
    longdesc = (
        "Puts entries into the node that --host before the word import names: from lines of"
        " JSON as export writes them, live from another server (a NunDB or a nuntwist), or from"
        " the directory of a NunDB that is stopped. All of it is read before anything is sent,"
        " and all databases appear at once or none does. Tokens that come in clear are hashed."
        " The password of the other server may stand in NUN_SOURCE_PWD."
    )
    optParameters: ClassVar[Rows] = [
        ["token", "t", None, "Token for a new database"],
        ["strategy", "s", None, "Strategy of a new database: none, newer or arbiter"],
        ["host", None, None, "URL of another server to copy from"],
        ["source-token", None, None, "Token of the database there; without it --token"],
        ["source-user", None, None, "Admin there; then users and permissions come too"],
        ["source-pwd", None, None, "Password there; without it NUN_SOURCE_PWD"],
        ["nundb-dir", None, None, "Directory of a NunDB to read"],
    ]
    optFlags: ClassVar[Rows] = [_FORCE, _MERGE]

    def postOptions(self) -> None:
        """Check what goes together.

        :raise UsageError: something does not.
        """
        self._choose_mode()
        given = [name for name in ("file", "host", "nundb-dir") if self[name] is not None]
        if len(given) != 1:
            raise usage.UsageError("import needs one of a file, --host and --nundb-dir")
        self["from"] = given[0]
        if self["from"] != "nundb-dir" and len(self["names"]) != 1:
            raise usage.UsageError("import needs one --db")
        if self["strategy"] not in (None, *STRATEGIES):
            raise usage.UsageError(f"--strategy must be one of {', '.join(STRATEGIES)}")
        if self["from"] == "nundb-dir" and self["token"] and len(self["names"]) != 1:
            raise usage.UsageError("--token is for one --db")
        for name in ("source-token", "source-user", "source-pwd"):
            if self["from"] != "host" and self[name] is not None:
                raise usage.UsageError(f"--{name} goes with --host")
        if self["from"] == "host" and not (self["source-token"] or self["token"]):
            raise usage.UsageError("import --host needs --token or --source-token")
        self._check_words()

    def _check_words(self) -> None:
        for name in ("token", "source-token"):
            if self[name] is None:
                continue
            try:
                checked_word(f"--{name}", self[name])
            except AskFailed as error:
                raise usage.UsageError(str(error).rstrip(".")) from None


OPTIONS: list[tuple[str, None, type[usage.Options], str]] = [
    ("backup", None, BackupOptions, "Copy databases of a node into a file"),
    ("restore", None, RestoreOptions, "Put a backup into a node, or check it"),
    ("export", None, ExportOptions, "Write a database as lines of JSON"),
    ("import", None, ImportOptions, "Put lines, or the databases of another server, into a node"),
]
