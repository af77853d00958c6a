"""Imports go one way, and no module takes the global reactor as it is loaded."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "nuntwist"

SETUP = {"addresses", "settings", "config", "logs"}
BASE = {"", "errors", "values", "interfaces", "files", "files_on_disk", "heap", "plugins"} | SETUP
MIDDLE = BASE | {"archive", "language", "core", "oplog", "storage", "cluster"}
TOP = MIDDLE | {"net", "secrets", "replicas", "sentences", "certificates", "listening", "service"}

_TO_MOVE = {
    *("cli_archive", "cli_client", "cli_files", "cli_output", "cli_progress", "cli_s3"),
    "cli_session",
}
_MOVES = {"cli_session", "cli_transfer", "cli_transfer_options"}

MAY_IMPORT = {
    "errors": set(),
    "values": set(),
    "addresses": set(),
    "interfaces": {"values", "errors"},
    "heap": set(),
    "plugins": {"errors"},
    "scrypt": set(),
    "sealing": {"scrypt"},
    "secrets": {"values", "errors", "interfaces", "scrypt", "sealing"},
    "sentences": {"errors"},
    "files": {"errors", "values", "interfaces"},
    "files_on_disk": {"errors", "files"},
    "settings": {"addresses", "errors"},
    "config": {"settings", "addresses", "errors"},
    "logs": {"config", "settings", "errors"},
    "language": {"errors", "values"},
    "archive": {"errors", "values"},
    "core": BASE | {"language", "archive"},
    "oplog": BASE | {"language", "core"},
    "storage": BASE | {"language", "core"},
    "cluster": BASE | {"language", "core", "oplog", "storage"},
    "net": MIDDLE,
    "replicas": MIDDLE | {"net"},
    "certificates": MIDDLE | {"net", "sentences"},
    "listening": MIDDLE | {"net", "sentences", "certificates"},
    "service": TOP,
    "testing": TOP,
    "simulation": TOP | {"testing"},
    "tap": TOP,
    "cli_client": BASE,
    "cli_output": set(),
    "cli_oplog_words": BASE | {"core", "oplog"},
    "cli_oplog": BASE | {"core", "oplog", "cli_output", "cli_oplog_words"},
    "cli_progress": set(),
    "cli_s3": {"cli_client"},
    "cli_files": {"cli_client", "cli_output", "cli_s3"},
    "cli_transfer_options": {"cli_client", "cli_output"},
    "cli_session": {"cli_client"},
    "cli_signing": BASE | {"core", "cli_client"},
    "cli_archive": BASE | {"archive", "cli_client", "cli_files"},
    "cli_source": BASE | {"archive", "cli_client", "cli_session"},
    "cli_transfer": BASE | {"archive"} | _TO_MOVE,
    "cli_import": BASE | {"archive", "secrets", "cli_source", "cli_transfer"} | _TO_MOVE,
    "cli": TOP | {"tap", "cli_client", "cli_oplog", "cli_import", "cli_signing"} | _MOVES,
    "demo": TOP | {"tap", "cli"},
    "client": BASE | {"language"},
    "": set(),
}
"""Part of nuntwist ("" is the package itself) to the parts it may import, besides itself."""

MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(module: str) -> str:
    """``nuntwist.core.turns`` is of the part ``core``."""
    return [*module.split("."), ""][1]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Full names of what is imported anywhere in a tree, relative imports resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def at_load_time(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run as the module is imported: everything outside of functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from at_load_time(child)


def wrong_imports(source: str, module: str, package: str) -> list[str]:
    part = part_of(module)
    allowed = MAY_IMPORT[part] | {part}
    return [
        name
        for name in imported(ast.parse(source), package)
        if name.split(".")[0] == "nuntwist"
        and part_of(name) not in allowed
        and name not in ("nuntwist.__version__",)
    ]


def reactors(source: str, package: str) -> list[str]:
    found = []
    for node in at_load_time(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = imported(ast.Module([node], []), package)
            found += [n for n in names if (n + ".").startswith("twisted.internet.reactor.")]
    return found


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_one_way(path: Path) -> None:
    module = module_name(path)
    assert part_of(module) in MAY_IMPORT, f"say in MAY_IMPORT where {module} stands"
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    assert wrong_imports(path.read_text(), module, package) == []


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_no_module_takes_the_reactor_when_loaded(path: Path) -> None:
    module = module_name(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    assert reactors(path.read_text(), package) == []


def test_there_is_no_way_round() -> None:
    """The table itself has no circle: what a part may import may not import it."""
    for part, allowed in MAY_IMPORT.items():
        if part:
            assert not [p for p in allowed if p and p != part and part in MAY_IMPORT[p]]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("nuntwist.core.x", "import nuntwist.net.tcp"),
        ("nuntwist.core.x", "from nuntwist.oplog import files"),
        ("nuntwist.core.x", "from nuntwist import cluster"),
        ("nuntwist.core.x", "from ..storage import disk"),
        ("nuntwist.core.x", "def f():\n    from nuntwist.service import x"),
        ("nuntwist.language.x", "from nuntwist.core.turns import Turns"),
        ("nuntwist.values", "from nuntwist.errors import X"),
    ],
)
def test_a_wrong_import_is_seen(module: str, source: str) -> None:
    assert wrong_imports(source, module, module.rpartition(".")[0]) != []


@pytest.mark.parametrize(
    "source",
    [
        "from twisted.internet import reactor",
        "import twisted.internet.reactor",
        "if True:\n    from twisted.internet import defer, reactor as r",
        "class A:\n    from twisted.internet import reactor",
    ],
)
def test_a_reactor_is_seen(source: str) -> None:
    assert reactors(source, "nuntwist") != []
    assert reactors("def f():\n    from twisted.internet import reactor", "nuntwist") == []
