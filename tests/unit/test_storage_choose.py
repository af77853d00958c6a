"""Storages are found by name; those that are not built in among the plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import maybeDeferred

import twisted.plugins
from nuntwist.config import make_config
from nuntwist.errors import ConfigError, StartError
from nuntwist.files import MemoryFiles
from nuntwist.interfaces import BOTH, READ, WRITE
from nuntwist.storage.choose import Means, find_kind, make_storage
from nuntwist.storage.disk import DiskStorage
from nuntwist.storage.split import SplitStorage

PLUGIN = """
from twisted.plugin import IPlugin
from zope.interface import implementer
from nuntwist.interfaces import IStorageKind
from nuntwist.storage.memory import MemoryStorage

@implementer(IPlugin, IStorageKind)
class Forgetful:
    name, elsewhere = "forgetful", True

    def make(self, means, role):
        storage = MemoryStorage()
        storage.made_for = means, role
        return storage

forgetful = Forgetful()
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of plugins, one of which cannot be imported."""
    (tmp_path / "forgetful_plugin.py").write_text(PLUGIN)
    (tmp_path / "broken_plugin.py").write_text("import nothing_that_there_is\n")
    monkeypatch.setattr(twisted.plugins, "__path__", [*twisted.plugins.__path__, str(tmp_path)])


def means(**strategies: str) -> Means:
    environment = {f"NUN_STORAGE_{name}": value for name, value in strategies.items()}
    return Means(make_config({}, environment), MemoryFiles(), maybeDeferred, maybeDeferred, 7)


@pytest.mark.usefixtures("plugin")
def test_a_storage_of_a_plugin_is_found_by_its_name() -> None:
    given = means(STRATEGY="Forgetful")
    made: Any = make_storage(given)
    assert made.made_for == (given, BOTH)
    assert find_kind("forgetful").elsewhere
    assert not find_kind("disk").elsewhere


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(("name", "role"), [("READ_STRATEGY", READ), ("WRITE_STRATEGY", WRITE)])
def test_beside_another_one_it_has_one_role(name: str, role: str) -> None:
    given = means(**{name: "forgetful"})
    made: Any = make_storage(given)
    assert isinstance(made, SplitStorage)
    parts = {READ: made._read, WRITE: made._write}
    assert parts.pop(role).made_for == (given, role)
    ((_, other),) = parts.items()
    assert isinstance(other, DiskStorage)


@pytest.mark.usefixtures("plugin")
def test_an_unknown_name_stops_the_start_with_those_there_are() -> None:
    with pytest.raises(StartError, match=r"There is no storage 'tape', .*: disk, s3, forgetful"):
        make_storage(means(STRATEGY="tape"))


@pytest.mark.parametrize("name", ["", "Über", "a b", "-x", "9"])
def test_what_can_be_no_name_is_refused_with_the_configuration(name: str) -> None:
    if not name:
        assert isinstance(make_storage(means(STRATEGY=name)), DiskStorage)
        return
    with pytest.raises(ConfigError, match="it must be disk, s3, or the name of a storage"):
        means(STRATEGY=name)
