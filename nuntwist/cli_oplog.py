"""``nun-db oplog``: looking at the log of a node on the disk, and repairing it.

``stat``, ``dump`` and ``verify`` only read, and may be used beside a running node; ``repair``
takes the lock of the data directory. Hashes of tokens are never shown.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, ClassVar, Final

from twisted.python import usage

from nuntwist import __version__
from nuntwist.cli_oplog_words import (
    as_data,
    consequences,
    done,
    in_words,
    incomplete,
    json_line,
    planned,
    text_line,
)
from nuntwist.cli_output import Lines, OutputEnded, complain
from nuntwist.errors import CorruptData, StartError
from nuntwist.files_on_disk import DiskFiles
from nuntwist.oplog.inspect import Logged, damage_of_base, look, operations, operations_in
from nuntwist.oplog.record import Newer
from nuntwist.oplog.repair import carry_out, plan
from nuntwist.oplog.segment import segments_in

_ASK_REPAIR = "The log is damaged: nun-db oplog repair says what can be done."


# -- options -------------------------------------------------------------------------------------


class _Options(usage.Options):
    """What all of them share: help and version go out as answers do."""

    def opt_help(self) -> None:
        """Show this help and exit."""
        raise SystemExit(_print(str(self)))

    def opt_version(self) -> None:
        """Show the version and exit."""
        raise SystemExit(_print(f"nun-db {__version__}"))

    def parseArgs(self, *words: str) -> None:
        """Refuse what is no option.

        :raise UsageError: there is something.
        """
        if words:
            raise usage.UsageError(f"{words[0]!r} is not an option here")

    def whole(self, name: str, lowest: int) -> int | None:
        """Give the number that an option holds; None where it was not given.

        :raise UsageError: it is none.
        """
        text = self[name]
        if text is None:
            return None
        if not (text.isascii() and text.isdecimal() and len(text) <= 20) or int(text) < lowest:
            raise usage.UsageError(f"--{name} must be a whole number from {lowest}")
        return int(text)


class StatOptions(_Options):
    """How to show the segments."""

    synopsis = "[--json]"
    longdesc = "Tells what each segment of the log holds, and what is wrong with it."
    optFlags: ClassVar[list[list[str | None]]] = [["json", None, "Print one JSON object"]]


class DumpOptions(_Options):
    """Which operations to show, and how."""

    synopsis = "[--json] [--from INDEX] [--db ID] [--count N] [FILE]"
    longdesc = (
        "Prints operations, one a line: index, time, kind, id of the database, key, value,"
        " version, stamp, epoch and origin, parted by tabs. Hashes of tokens are hidden."
        " FILE is a file of the data directory, or any path: what a node of a set has cut off its"
        " log (divergent-EPOCH-INDEX.op); without it the log itself is printed."
    )
    optParameters: ClassVar[list[list[str | None]]] = [
        ["from", None, None, "Index of the first operation to print"],
        ["db", None, None, "Id of the only database to print operations of"],
        ["count", None, None, "How many operations to print at most"],
    ]
    optFlags: ClassVar[list[list[str | None]]] = [["json", None, "Print a JSON object a line"]]

    def parseArgs(self, *words: str) -> None:
        """Take the name of a file.

        :raise UsageError: there is more.
        """
        super().parseArgs(*words[1:])
        self["file"] = words[0] if words else None

    def postOptions(self) -> None:
        """Read the numbers.

        :raise UsageError: one is none.
        """
        self["first"] = self.whole("from", 1) or 1
        self["database"] = self.whole("db", 0)
        self["most"] = self.whole("count", 0)


class VerifyOptions(_Options):
    """Nothing to choose."""

    synopsis = ""
    longdesc = "Checks the whole log as a start of the node does; the status is 1 for damage."


class RepairOptions(_Options):
    """Whether to do it."""

    synopsis = "[--yes]"
    longdesc = (
        "Cuts a damaged log where the damage begins, so that a node starts with it. What is cut"
        " off is kept beside it, in files whose names hold .cut-; what it held is lost to the"
        " node. Without --yes only says what it would do. The node must be stopped."
    )
    optFlags: ClassVar[list[list[str | None]]] = [["yes", None, "Do it"]]


class OplogOptions(_Options):
    """Where the log is, and what to do with it."""

    synopsis = "[--dbs-dir DIR]"
    longdesc = "Reads, checks or repairs the log of a node in its data directory."
    optParameters: ClassVar[list[list[str | None]]] = [
        ["dbs-dir", None, None, "Data directory of the node [NUN_DBS_DIR; default dbs]"],
    ]
    subCommands: ClassVar[list[tuple[str, None, type[usage.Options], str]]] = [
        ("stat", None, StatOptions, "Tell what the log holds"),
        ("dump", None, DumpOptions, "Print its operations"),
        ("verify", None, VerifyOptions, "Check all of it"),
        ("repair", None, RepairOptions, "Cut it where it is damaged"),
    ]

    def postOptions(self) -> None:
        """Check that there is something to do.

        :raise UsageError: there is not.
        """
        if self.subCommand is None:
            names = ", ".join(name for name, *_ in self.subCommands)
            raise usage.UsageError(f"oplog needs one of {names}")


# -- running -------------------------------------------------------------------------------------


def run_oplog(options: OplogOptions, environment: Mapping[str, str]) -> int:
    """Run one of the subcommands.

    :param options: parsed, with a subcommand.
    :return: the exit status: 1 where the log is damaged, or it could not be done.
    """
    directory = options["dbs-dir"] or environment.get("NUN_DBS_DIR") or "dbs"
    named = options.subOptions.get("file")
    if named is not None and os.path.dirname(named):
        directory, options.subOptions["file"] = os.path.split(named)
    run = _RUN[str(options.subCommand)]
    lines = Lines()
    try:
        if not os.path.isdir(directory):
            return complain(f"There is no directory {directory}; give another with --dbs-dir.")
        if named is None and not segments_in(DiskFiles(directory, as_it_is=True)):
            return complain(f"There is no operation log in {directory}.")
        status = run(directory, options.subOptions, lines)
        lines.flush()
        return status
    except OutputEnded as ended:
        return ended.status
    except StartError as error:
        return complain(str(error))
    except OSError as error:
        name = os.path.basename(error.filename or "") or directory
        return complain(f"{name} cannot be read or written: {error.strerror}.")
    except KeyboardInterrupt:
        return complain("Interrupted.")


def _stat(directory: str, given: StatOptions, lines: Lines) -> int:
    reports = list(look(DiskFiles(directory, as_it_is=True)))
    whole = [report for report in reports if report.operations]
    total: dict[str, Any] = {
        "first": whole[0].first if whole else None,
        "last": whole[-1].last if whole else None,
        "operations": sum(report.operations for report in reports),
        "bytes": sum(report.size for report in reports),
    }
    if given["json"]:
        total["segments"] = [as_data(report) for report in reports]
        lines.say(json.dumps(total, ensure_ascii=False))
    else:
        for report in reports:
            lines.say(f"{report.name}: {in_words(report)}")
        segments = "1 segment" if len(reports) == 1 else f"{len(reports)} segments"
        lines.say(f"{segments}, {total['bytes']} bytes, {total['operations']} operations")
    return _ended(any(report.damage is not None for report in reports), lines)


def _ended(damaged: bool, lines: Lines) -> int:
    # All that is printed stands before the complaint, where both go to one place.
    lines.flush()
    return complain(_ASK_REPAIR) if damaged else 0


def _dump(directory: str, given: DumpOptions, lines: Lines) -> int:
    show = json_line if given["json"] else text_line
    files, name = DiskFiles(directory, as_it_is=True), given["file"]
    if name is None:
        found = operations(files, given["first"], given["database"])
    else:
        found = operations_in(files, name, given["first"], given["database"])
    try:
        for one in islice(found, given["most"]):
            if isinstance(one, Logged):
                lines.say(show(one))
            else:
                lines.flush()
                complain(f"{one.name} ends with an {incomplete(one)}.")
    except CorruptData as damage:
        lines.flush()
        return complain(f"{damage}; the operations before it were printed.")
    return 0


def _verify(directory: str, given: VerifyOptions, lines: Lines) -> int:
    files = DiskFiles(directory, as_it_is=True)
    damaged = damage_of_base(files)
    if damaged is not None:
        lines.say(str(damaged))
    for report in look(files):
        damaged = damaged or report.damage
        if report.damage is not None:
            lines.say(str(report.damage))
        else:
            lines.say(f"{report.name}: {in_words(report)}")
        lines.flush()
    return _ended(damaged is not None, lines)


def _repair(directory: str, given: RepairOptions, lines: Lines) -> int:
    files = DiskFiles(directory)
    files.lock()
    try:
        todo = plan(files)
        if not todo.cuts:
            lines.say("The log is not damaged; nothing was changed.")
            return 0
        newer = next((cut for cut in todo.cuts if isinstance(cut.damage, Newer)), None)
        if newer is not None:
            return complain(f"{newer.damage}; use that release: nothing was changed.")
        for cut in todo.cuts:
            if given["yes"]:
                lines.say(done(cut, carry_out(files, cut)))
                lines.flush()
            else:
                lines.say(planned(cut))
        for line in consequences(todo, given["yes"]):
            lines.say(line)
        lines.flush()
        return 0 if given["yes"] else complain("Nothing was changed: add --yes to do it.")
    finally:
        files.unlock()


_RUN: Final[dict[str, Callable[[str, Any, Lines], int]]] = {
    "stat": _stat,
    "dump": _dump,
    "verify": _verify,
    "repair": _repair,
}


def _print(text: str) -> int:
    lines = Lines()
    try:
        lines.say(text)
        lines.flush()
    except OutputEnded as ended:
        return ended.status
    return 0
