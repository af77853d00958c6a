"""The state in memory becomes that of a copy: which databases stay, and who is told of what."""

from __future__ import annotations

import pytest

from nuntwist.core.copying import Aside, Original, Originals
from nuntwist.core.database import Database
from nuntwist.core.exchange import Exchange, differ, is_same
from nuntwist.testing import MemoryNode
from nuntwist.values import ADMIN_ID, REMOVE, SET, Op


def entry(value: bytes | None, version: int = 1) -> Op:
    return (value, version, 5, 70, SET if value is not None else REMOVE, 3, b"k")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (None, None, False),
        (None, entry(b"1"), True),
        (entry(b"1"), None, True),
        # A tombstone and nothing are the same to who watches.
        (None, entry(None), False),
        (entry(None), None, False),
        (entry(None), entry(b"1"), True),
        (entry(b"1"), entry(b"1"), False),
        (entry(b"1"), entry(b"2"), True),
        (entry(b"1"), entry(b"1", 2), True),
    ],
)
def test_who_watches_is_told_of_another_value_or_version(
    old: Op | None, new: Op | None, told: bool
) -> None:
    assert differ(old, new) is told


def admin_with(name: bytes, stamp: int | None) -> Database:
    """A ``$admin`` that has, or has not, the entry of a database."""
    admin = Database(ADMIN_ID, b"$admin", b"newer")
    if stamp is not None:
        admin.store((b"{}", 0, 3, stamp, SET, ADMIN_ID, name))
    return admin


@pytest.mark.parametrize(
    ("here", "there", "same"),
    [
        (70, 70, True),
        (70, 71, False),
        # A stamp of 0 is not known.
        (0, 71, True),
        (70, 0, True),
        (None, None, True),
        (70, None, False),
        (None, 70, False),
    ],
)
def test_a_database_is_the_same_where_it_was_made_by_the_same_operation(
    here: int | None, there: int | None, same: bool
) -> None:
    old, new = Database(3, b"d", b"newer"), Database(3, b"d", b"newer")
    assert is_same(admin_with(b"d", here), admin_with(b"d", there), old, new) is same


def test_another_name_or_none_is_another_database() -> None:
    admin, old = admin_with(b"d", 70), Database(3, b"d", b"newer")
    assert not is_same(admin, admin, old, Database(3, b"e", b"newer"))
    assert not is_same(admin, admin, old, None)


def copy_of(node: MemoryNode) -> Aside:
    """All of it, taken aside."""
    begun: list[Original] = []
    Originals(node.node).begin().addCallback(begun.append)
    node.settle()
    [original] = begun
    aside = Aside(original.position, original.stamp, original.outlines)
    for number, entries in original.entries():
        aside.add(number, entries)
    aside.finish(aside.count)
    return aside


def test_what_stays_is_the_same_object_and_who_watches_is_told_afterwards() -> None:
    there, here = MemoryNode(), MemoryNode()
    for node in (there, here):
        node.admin("create-db d t", "use-db d t", "set same 1", "set other 1", "set gone 1")
    there.admin("use-db d t", "set other 2", "remove gone")
    there.admin("create-db more t")
    here.admin("create-db lost t")
    watcher = here.tcp()
    watcher.ask("use-db d t")
    for key in ("same", "other", "gone"):
        watcher.ask(f"watch {key}")
    catalogue = here.node.catalogue
    database = catalogue.by_name[b"d"]
    here.settle()
    exchange = Exchange(here.node, copy_of(there))
    exchange.run()
    assert catalogue.by_name.keys() == there.node.catalogue.by_name.keys()
    assert b"lost" not in catalogue.by_name
    assert catalogue.by_name[b"d"] is catalogue.by_id[database.number] is database
    assert database.value(b"other") == b"2"
    assert watcher.received() == ""
    assert exchange.tell() == 2
    here.settle()
    assert sorted(watcher.received().split("\n")[:-1]) == [
        "changed other 2",
        "changed-version other 1 2",
        "removed gone",
    ]
