"""Prints the command table: as the lines of ``help`` and as the page docs/commands.md.

``python -m nuntwist.language.docs > docs/commands.md`` writes the page; a test fails when it
is stale.
"""

from __future__ import annotations

import sys

from nuntwist.language.commands import BY_WORD, TABLE, Command, Needs

_HEADER = """\
# Commands

This page is generated from the command table (`nuntwist/language/commands.py`) by
`make docs`; change the table, not the page. Arguments in brackets may be left out. "Right" is
the letter a user needs for the key (r read, w write, i increment, x remove); what `l` (list) and
`a` (arbiter) are for is in [users.md](users.md).

| command | needs | right | changes data | what it does |
|---|---|---|---|---|
"""

_CLUSTER = """
## Spoken between nodes

An admin may send these by hand; none of them sets a role or writes past the log.

| command | needs | right | changes data | what it does |
|---|---|---|---|---|
"""

_NEEDS = {
    Needs.NOTHING: "",
    Needs.ADMIN: "admin",
    Needs.DATABASE: "database",
    Needs.ADMIN | Needs.DATABASE: "admin, database",
    Needs.ADMIN_OR_DATABASE: "admin or database",
}


def help_line(command: Command) -> str:
    """What ``help`` says of a command, in one line."""
    also = f" (also: {', '.join(command.aliases)})" if command.aliases else ""
    return f"{command.synopsis}: {command.help}{also}"


def help_message(word: bytes) -> bytes | None:
    """The message of ``help WORD``, or of ``help`` where the word is empty.

    :return: None where there is no such command.
    """
    if not word:
        return ("help \n" + "".join(help_line(c) + "\n" for c in TABLE)).encode()
    command = BY_WORD.get(word)
    return None if command is None else f"help {help_line(command)}\n".encode()


def _row(command: Command) -> str:
    words = ", ".join(f"`{w}`" for w in (command.synopsis, *command.aliases)).replace("|", "\\|")
    writes = "yes" if command.writes else ""
    text = command.help.replace("|", "\\|")
    return f"| {words} | {_NEEDS[command.needs]} | {command.right} | {writes} | {text} |\n"


def page() -> str:
    """The text of docs/commands.md."""
    client = "".join(_row(c) for c in TABLE if not c.cluster)
    nodes = "".join(_row(c) for c in TABLE if c.cluster)
    return _HEADER + client + _CLUSTER + nodes


if __name__ == "__main__":
    sys.stdout.write(page())
