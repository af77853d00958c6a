"""What a configuration names: what is here, or what a package brings as a Twisted plugin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.plugin import getPlugins

from nuntwist.errors import StartError


def find(kind: Any, built_in: Mapping[str, Any], name: str, asked: str) -> Any:
    """What provides an interface and has a name.

    :param kind: the interface, which has a ``name``.
    :param built_in: what is here, by name; it cannot be replaced by a plugin.
    :param asked: what is asked for and by whom, for the operator.
    :raise StartError: there is none.
    """
    found = built_in.get(name)
    if found is not None:
        return found
    plugins = {str(plugin.name): plugin for plugin in getPlugins(kind)}
    if name not in plugins:
        names = ", ".join([*built_in, *sorted(plugins)])
        raise StartError(f"There is no {asked}; there are: {names}.")
    return plugins[name]
