"""The command table: everything that is made from it agrees with it."""

from __future__ import annotations

import pathlib

import pytest

from nuntwist.core.handlers import HANDLERS
from nuntwist.language import docs
from nuntwist.language.commands import BY_WORD, TABLE, Command, Kind, Needs
from nuntwist.testing import MemoryNode

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "commands.md"
each_command = pytest.mark.parametrize("command", TABLE, ids=lambda command: command.word)


def test_every_row_has_a_handler_and_every_handler_a_row() -> None:
    assert set(HANDLERS) == {command.word for command in TABLE}


def test_no_word_is_given_twice() -> None:
    words = [word for command in TABLE for word in (command.word, *command.aliases)]
    assert len(words) == len(set(words)) == len(BY_WORD)


@each_command
def test_optional_arguments_come_last_and_rest_the_last_of_all(command: Command) -> None:
    optional = [argument.default is not None for argument in command.arguments]
    assert optional == sorted(optional)
    assert all(argument.kind is not Kind.REST for argument in command.arguments[:-1])


@each_command
def test_a_needed_argument_has_an_error_text(command: Command) -> None:
    needs_one = any(argument.default is None for argument in command.arguments)
    assert bool(command.missing) == needs_one


@each_command
def test_a_right_is_a_letter_for_a_key(command: Command) -> None:
    assert command.right in ("", "r", "w", "i", "x")
    if command.right:
        assert command.arguments[0].name == "KEY"
        assert command.needs & Needs.DATABASE


@each_command
def test_help_is_one_line(command: Command) -> None:
    line = docs.help_line(command)
    assert line.startswith(command.synopsis + ": ")
    assert "\n" not in line
    assert docs.help_message(command.word.encode()) == f"help {line}\n".encode()
    for alias in command.aliases:
        assert alias in line
        assert docs.help_message(alias.encode()) == docs.help_message(command.word.encode())


def test_help_has_a_line_a_command() -> None:
    message = docs.help_message(b"")
    assert message is not None
    lines = message.decode().splitlines()
    assert lines == ["help ", *map(docs.help_line, TABLE)]
    assert docs.help_message(b"nope") is None


def test_the_page_of_the_docs_is_not_stale() -> None:
    assert PAGE.read_text() == docs.page(), "run: make docs"


def test_the_page_has_every_word() -> None:
    page = docs.page()
    for command in TABLE:
        assert f"`{command.synopsis}`".replace("|", "\\|") in page


def test_list_commands_lists_every_word() -> None:
    node = MemoryNode()
    answer = node.admin().ask("list-commands")
    assert answer.startswith("commands-list ,")
    assert answer.endswith("\nok \n")
    listed = answer.splitlines()[0].removeprefix("commands-list ,").split(",")
    assert listed == [word.decode() for word in BY_WORD]


@each_command
def test_what_a_command_needs_is_asked_for(command: Command) -> None:
    """A connection that has passed nothing is refused, by every command that needs something."""
    arguments = ["1"] * len(command.arguments)
    answer = MemoryNode().tcp().ask(" ".join([command.word, *arguments]))
    if command.needs & Needs.ADMIN:
        assert answer == "error Not auth \n"
    elif command.needs:
        assert answer == "error no-db-selected\nerror error no-db-selected\n \n"
    else:
        assert "Not auth" not in answer
        assert "no-db-selected" not in answer
