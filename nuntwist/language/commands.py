"""The command table: every command of the language, as data.

The parser, ``list-commands``, ``help``, the authorise stage and docs/commands.md all come
from this one table; what a command does is bound to its word in ``nuntwist.core.handlers``.

The style (a command is data: arity, rights, write flag) is learnt from Valkey's
``src/commands/*.json``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntFlag

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


class Needs(IntFlag):
    """What a connection must have passed before a command."""

    NOTHING = 0
    ADMIN = 1
    """``auth`` with the credentials of the node."""
    DATABASE = 2
    """``use-db``."""
    ADMIN_OR_DATABASE = 4
    """One of the two."""


class Kind(Enum):
    """How an argument is cut from the text."""

    WORD = "word"
    """Up to the next space, not empty."""
    REST = "rest"
    """Everything that is left, spaces and all."""
    VERSION = "version"
    """A word that is a signed 32 bit number, as NunDB's clients send versions."""
    NUMBER = "number"
    """A word that is a signed 64 bit number."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a command.

    :param name: as help shows it.
    :param default: what stands for a missing one; with ``None`` it must be there.
    :param secret: whether it is written down nowhere: a token, a value, or a command that may hold
        one.
    """

    name: str
    kind: Kind = Kind.WORD
    default: bytes | int | None = None
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the language.

    :param word: what a client sends first.
    :param arguments: in order; optional ones come last, a REST is the last of all.
    :param needs: what the connection must have passed.
    :param right: the permission letter for the key in the first argument (r, w, i, x), or
        empty where the command names no key. (Two more, l and a, are asked for by ``keys``, and
        by ``arbiter`` and ``resolve``.)
    :param writes: whether it can change data.
    :param waits: whether it may wait for something (a hash, a disk), or changes what the
        connection is; such a command is never in one batch with others.
    :param missing: the error where a needed argument is missing.
    :param help: one line.
    :param aliases: other words for the same.
    :param cluster: spoken between nodes; for an operator only by hand.
    """

    word: str
    arguments: tuple[Argument, ...]
    needs: Needs
    help: str
    missing: str = ""
    right: str = ""
    writes: bool = False
    waits: bool = False
    aliases: tuple[str, ...] = ()
    cluster: bool = False

    @property
    def synopsis(self) -> str:
        """The word and its arguments, optional ones in brackets."""
        names = [a.name if a.default is None else f"[{a.name}]" for a in self.arguments]
        return " ".join([self.word, *names])


def _key(missing_word: str) -> str:
    return f"{missing_word} must contain a key"


_KEY = Argument("KEY")
_DB = Argument("DB")
_VALUE = Argument("VALUE", Kind.REST, b"", secret=True)
_ID = Argument("ID", Kind.NUMBER)
_NODE = Argument("NODE", Kind.WORD, b"")
_MEMBER = Argument("ADDRESS")
_N, _A, _D = Needs.NOTHING, Needs.ADMIN, Needs.DATABASE

TABLE: tuple[Command, ...] = (
    Command(
        "auth",
        (Argument("USER", default=b""), Argument("PWD", Kind.REST, default=b"", secret=True)),
        _N,
        "Makes this connection an admin's.",
        waits=True,
    ),
    Command(
        "use-db",
        (_DB, Argument("USER_OR_TOKEN"), Argument("TOKEN", Kind.REST, default=b"", secret=True)),
        _N,
        "Selects a database with its token, as one of its users, or (as jwt) with a signed token.",
        missing="use-db must be followed by a database name and a token",
        waits=True,
        aliases=("use",),
    ),
    Command(
        "create-db",
        (_DB, Argument("TOKEN", secret=True), Argument("STRATEGY", default=b"none")),
        _A,
        "Creates a database; the strategy for conflicts is none, newer or arbiter.",
        missing="create-db must be followed by a token",
        writes=True,
        waits=True,
    ),
    Command(
        "drop-db",
        (_DB,),
        _A,
        "Removes a database with all it holds.",
        missing="drop-db must be followed by a database name",
        writes=True,
        waits=True,
    ),
    Command("get", (_KEY,), _D, "Reads a key.", missing=_key("get"), right="r"),
    Command(
        "get-safe", (_KEY,), _D, "Reads a key and its version.", missing=_key("get-safe"), right="r"
    ),
    Command("set", (_KEY, _VALUE), _D, "Sets a key.", missing=_key("set"), right="w", writes=True),
    Command(
        "set-safe",
        (_KEY, Argument("VERSION", Kind.VERSION), _VALUE),
        _D,
        "Sets a key if nobody has changed it since that version.",
        missing="set-safe must be followed by a version and key",
        right="w",
        writes=True,
    ),
    Command(
        "increment",
        (_KEY, Argument("N", Kind.NUMBER, 1)),
        _D,
        "Adds N (1 if not given) to a key that holds a whole number.",
        missing=_key("increment"),
        right="i",
        writes=True,
    ),
    Command(
        "remove", (_KEY,), _D, "Removes a key.", missing=_key("remove"), right="x", writes=True
    ),
    Command(
        "keys",
        (Argument("PATTERN", default=b""),),
        _D,
        "Lists keys: all, x* those that begin, *x that end, x that contain.",
        waits=True,
        aliases=("ls",),
    ),
    Command(
        "watch",
        (_KEY,),
        _D,
        "Tells this connection each change of a key.",
        missing=_key("watch"),
        right="r",
    ),
    Command("unwatch", (_KEY,), _D, "Ends a watch.", missing=_key("unwatch")),
    Command("unwatch-all", (), _D, "Ends all watches of this connection on the database."),
    Command(
        "arbiter",
        (),
        _D,
        "Makes this connection an arbiter: it is sent its share of the conflicts.",
    ),
    Command(
        "resolve",
        (Argument("OPID"), _DB, _KEY, Argument("VERSION", Kind.VERSION), _VALUE),
        Needs.ADMIN_OR_DATABASE,
        "The arbiter's answer to a conflict.",
        missing="resolve must be followed by an operation id, a database, a key and a version",
        writes=True,
    ),
    Command(
        "create-user",
        (Argument("NAME"), Argument("TOKEN", secret=True)),
        _A | _D,
        "Creates a user of the selected database, or gives one a new token.",
        missing="create-user must contain a name and a token",
        writes=True,
        waits=True,
    ),
    Command(
        "set-permissions",
        (Argument("NAME"), Argument("LIST", Kind.REST)),
        _A | _D,
        "Sets what a user (or all) may do: rw some*,other|i count|r *|l -",
        missing="permission list is mandatory",
        writes=True,
        waits=True,
    ),
    Command(
        "drop-user",
        (Argument("NAME"),),
        _A | _D,
        "Removes a user of the selected database, and lets those go who are connected as it.",
        missing="drop-user must contain a name",
        writes=True,
        waits=True,
    ),
    Command(
        "list-users",
        (),
        _A | _D,
        "Lists the users of the selected database.",
        waits=True,
    ),
    Command(
        "get-permissions",
        (Argument("NAME"),),
        _A | _D,
        "Shows what a user (or all) may do in the selected database.",
        missing="get-permissions must contain a name",
        waits=True,
    ),
    Command(
        "set-token",
        (
            Argument("keep|close"),
            Argument("USER_OR_TOKEN"),
            Argument("TOKEN", default=b"", secret=True),
        ),
        _A | _D,
        "Gives the selected database, or one of its users, a new token; connections that are"
        " there are kept, or closed.",
        missing="set-token takes keep or close, then a token, or a user and a token",
        writes=True,
        waits=True,
    ),
    Command(
        "set-signing-keys",
        (Argument("keep|close"), Argument("KEYS", Kind.REST, secret=True)),
        _A | _D,
        "Sets what signed tokens of the selected database are checked with: a JWK set, a secret of"
        " 32 bytes or more, or none; connections that are there by one are kept, or closed.",
        missing="set-signing-keys takes keep or close, then a JWK set, a secret, or none",
        writes=True,
        waits=True,
    ),
    Command(
        "get-signing-keys",
        (),
        _A | _D,
        "Lists how signed tokens of the selected database have to be signed.",
        waits=True,
    ),
    Command(
        "snapshot",
        (Argument("RECLAIM", default=b""), Argument("DB|DB", Kind.REST, b"")),
        _A,
        "Writes snapshots of databases (the selected one) to storage.",
        waits=True,
    ),
    Command(
        "cluster-state",
        (Argument("json", default=b""),),
        _A,
        "Lists the members of the replica set and their roles; as JSON, all there is to know.",
    ),
    Command("metrics-state", (), _A, "Shows counters of this node."),
    # Stands alone, so that what was written before it is in the log.
    Command("oplog-state", (), _A, "Shows what the log of this node holds.", waits=True),
    Command(
        "oplog-clean",
        (Argument("KEEP_BYTES", Kind.NUMBER, 0),),
        _A,
        "Drops what snapshots cover from the log of this node, but for so many bytes.",
        waits=True,
    ),
    Command(
        "debug",
        (Argument("WHAT", default=b""), Argument("json", default=b"")),
        _A,
        "Shows pending-ops, pending-conflicts, list-dbs [json], elections or process-info;"
        " force-election.",
        waits=True,
    ),
    Command(
        "backup-begin",
        (Argument("DB|DB", Kind.REST, b""),),
        _A,
        "Begins a backup of databases (all); use nun-db backup.",
        waits=True,
    ),
    Command(
        "backup-read",
        (_ID,),
        _A,
        "Gives the next piece of a backup.",
        missing="backup-read must be followed by a number",
        waits=True,
    ),
    Command(
        "backup-drop",
        (_ID,),
        _A,
        "Gives up a backup.",
        missing="backup-drop must be followed by a number",
        waits=True,
    ),
    Command(
        "restore-begin",
        (Argument("MODE"), Argument("DB|DB", Kind.REST, b"")),
        _A,
        "Begins to take in a backup: new, force or merge; use nun-db restore.",
        missing="restore-begin takes new, force or merge: ",
        writes=True,
        waits=True,
    ),
    Command(
        "restore-write",
        (_ID, Argument("BASE64", Kind.REST, secret=True)),
        _A,
        "Takes in the next piece of a backup.",
        missing="restore-write must be followed by a number and base64",
        writes=True,
        waits=True,
    ),
    Command(
        "restore-commit",
        (_ID,),
        _A,
        "Lets all that was taken in appear at once.",
        missing="restore-commit must be followed by a number",
        writes=True,
        waits=True,
    ),
    Command(
        "restore-drop",
        (_ID,),
        _A,
        "Gives up a restore.",
        missing="restore-drop must be followed by a number",
        waits=True,
    ),
    Command("list-commands", (), _A, "Lists the words of all commands."),
    Command("help", (Argument("COMMAND", default=b""),), _N, "Explains commands, one line each."),
    Command("ping", (), _N, "Answers pong."),
    Command(
        "write-concern",
        (Argument("CONCERN", Kind.REST, b""),),
        _N,
        "How many nodes must have what this connection writes before it is answered: primary,"
        " majority or a number of replicas, and for how many milliseconds to wait; or default.",
        waits=True,
    ),
    Command(
        "set-write-concern",
        (Argument("CONCERN", Kind.REST),),
        _A | _D,
        "Sets the write concern of the selected database, kept and replicated with it.",
        missing="set-write-concern must be followed by a write concern",
        writes=True,
        waits=True,
    ),
    Command(
        "read-concern",
        (Argument("CONCERN"),),
        _N,
        "How new what this connection reads must be: local, or linearizable.",
        missing="read-concern must be followed by local or linearizable",
        waits=True,
    ),
    Command(
        "join",
        (_MEMBER,),
        _A,
        "Asks the node at an address into the set.",
        missing="join must be followed by the address of a node",
        cluster=True,
        waits=True,
    ),
    Command(
        "leave",
        (_MEMBER,),
        _A,
        "Takes the member at an address out of the set.",
        missing="leave must be followed by the address of a node",
        cluster=True,
        waits=True,
    ),
    Command("replicate-join", (_NODE,), _A, "Tells members of a new one.", cluster=True),
    Command("replicate-leave", (_NODE,), _A, "Tells members that one left.", cluster=True),
    Command("set-primary", (_NODE,), _A, "Starts an election.", cluster=True, waits=True),
    Command("set-secoundary", (_NODE,), _A, "Makes this node step down.", cluster=True, waits=True),
    Command(
        "election",
        (Argument("WHAT"), Argument("REST", Kind.REST, b"")),
        _A,
        "Messages of an election: candidate ID NAME, alive NAME, win.",
        missing="election must be followed by candidate, alive or win",
        cluster=True,
        waits=True,
    ),
    Command(
        "replicate-since",
        (Argument("NODE"), Argument("POSITION", Kind.NUMBER)),
        _A,
        "Asks for the operations after a position.",
        missing="replicate-since must be followed by a node and a position",
        cluster=True,
    ),
    Command(
        "rp",
        (Argument("OPID"), Argument("COMMAND", Kind.REST, secret=True)),
        _A,
        "Carries a command of another node.",
        missing="rp must be followed by an operation id and a command",
        writes=True,
        cluster=True,
        waits=True,
    ),
    Command(
        "ack",
        (Argument("OPID"), Argument("NODE")),
        _A,
        "Acknowledges an operation.",
        missing="ack must be followed by an operation id and a node",
        cluster=True,
    ),
    Command(
        "replicate",
        (_DB, _KEY, Argument("VERSION", Kind.VERSION), _VALUE),
        _A,
        "Sets a key of a database.",
        missing="replicate must be followed by a database, a key and a version",
        writes=True,
        cluster=True,
        waits=True,
    ),
    Command(
        "replicate-remove",
        (_DB, _KEY),
        _A,
        "Removes a key of a database.",
        missing="replicate-remove must be followed by a database and a key",
        writes=True,
        cluster=True,
        waits=True,
    ),
    Command(
        "replicate-increment",
        (_DB, _KEY, Argument("N", Kind.NUMBER, 1)),
        _A,
        "Adds to a key of a database.",
        missing="replicate-increment must be followed by a database and a key",
        writes=True,
        cluster=True,
        waits=True,
    ),
    Command(
        "replicate-snapshot",
        (Argument("DB|DB"), Argument("RECLAIM", default=b"false")),
        _A,
        "Writes snapshots of databases to storage.",
        missing="replicate-snapshot must be followed by database names",
        cluster=True,
        waits=True,
    ),
)


def _words() -> Iterator[tuple[bytes, Command]]:
    for command in TABLE:
        for word in (command.word, *command.aliases):
            yield word.encode(), command


BY_WORD: dict[bytes, Command] = dict(_words())
"""Every word of the language, aliases too, with its command."""
