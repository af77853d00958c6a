"""What the documents say of the project is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nuntwist.language.commands import BY_WORD
from nuntwist.settings import SETTINGS
from nuntwist.testing import LineConnection, MemoryNode

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "examples" / "README.md",
        ROOT / "benchmarks" / "README.md",
    ]
)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)")
FILE = re.compile(r"`((?:nuntwist|tests|docs|benchmarks|examples|tac)/[\w./-]*)`")
VARIABLE = re.compile(r"\bNUN_[A-Z0-9_]*[A-Z0-9]\b")
OF_THE_K6_SCRIPT = {"NUN_URL", "NUN_DATABASE", "NUN_TOKEN"}
OF_THE_COMMAND_LINE = {"NUN_SOURCE_PWD"}
OF_THE_ELECTION_MODEL = {"NUN_ELECTION_SEEDS"}
OF_THE_SLOW_LINKS = {"NUN_SLOW_SECONDS"}
OF_THE_FAILOVERS = {
    "NUN_FAILOVER_KILLS",
    "NUN_FAILOVER_ROUNDS",
    "NUN_HISTORY_SECONDS",
    "NUN_HISTORY_SEED",
}
OF_THE_CRASH_TEST = {"NUN_CRASH_SEED", "NUN_CRASH_KILLS", "NUN_CRASH_SECONDS", "NUN_CRASH_ROOT"}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pages
def test_links_lead_somewhere(page: Path) -> None:
    lost = [
        target for target in LINK.findall(page.read_text()) if not (page.parent / target).exists()
    ]
    assert lost == []


@pages
def test_files_that_are_named_exist(page: Path) -> None:
    lost = [name for name in FILE.findall(page.read_text()) if not (ROOT / name).exists()]
    assert lost == []


@pages
def test_variables_that_are_named_exist(page: Path) -> None:
    known = {setting.variable for setting in SETTINGS}
    known |= OF_THE_K6_SCRIPT | OF_THE_COMMAND_LINE | OF_THE_CRASH_TEST | OF_THE_ELECTION_MODEL
    known |= OF_THE_SLOW_LINKS | OF_THE_FAILOVERS
    assert set(VARIABLE.findall(page.read_text())) <= known


def test_the_sessions_about_users_are_so() -> None:
    node, clients = MemoryNode(user="admin", password="password"), dict[str, LineConnection]()
    text = (ROOT / "docs" / "users.md").read_text()
    sessions = re.findall(r"^```session (\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(sessions) > 10
    for name, lines in sessions:
        client = clients.setdefault(name, node.tcp())
        came, *exchanges = re.split(r"^> ", lines, flags=re.MULTILINE)
        assert client.received() == came
        for exchange in exchanges:
            command, answer = exchange.split("\n", 1)
            # In the page no line ends in a space, but for one that has nothing else.
            got = re.sub(r"(?<=.) +$", "", str(client.ask(command)), flags=re.MULTILINE)
            assert got == re.sub(r"(?<=.) +$", "", answer, flags=re.MULTILINE), command


@pages
def test_targets_of_make_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = re.findall(r"(?:^ *|`|\n)make ([a-z-]+)", page.read_text())
    assert set(used) <= targets


def test_the_readme_leads_to_every_document() -> None:
    linked = {
        (ROOT / target).resolve() for target in LINK.findall((ROOT / "README.md").read_text())
    }
    documents = {*(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"}
    assert documents <= linked


def test_the_decisions_are_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = set(LINK.findall((folder / "README.md").read_text()))
    assert listed == {path.name for path in folder.glob("0*.md")}


def test_the_architecture_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for package in (ROOT / "nuntwist").iterdir():
        if (package / "__init__.py").exists():
            assert f"`nuntwist/{package.name}/`" in text, package.name


def test_the_readme_names_commands_that_are() -> None:
    table = (ROOT / "README.md").read_text().partition("## What it does")[2].partition("\n## ")[0]
    words = {"get", "set", "remove", "increment", "keys", "set-safe", "watch"}
    assert words <= set(re.findall(r"`([a-z-]+)`", table))
    assert {word.encode() for word in words} <= set(BY_WORD)


def test_python_in_the_documents_runs() -> None:
    found = [block for page in PAGES for block in blocks(page, "python")]
    assert found
    for block in found:
        exec(compile(block, "document", "exec"), {})
