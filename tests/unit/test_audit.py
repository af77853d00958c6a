"""Who has logged in and what admins did, written down without secrets."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, globalLogPublisher

from nuntwist.core.audit import Audit, shown
from nuntwist.language.commands import TABLE, Kind
from nuntwist.language.parser import parse
from nuntwist.logs import AUDIT_AGAIN_SECONDS, AuditFile
from nuntwist.testing import MemoryNode
from tests.unit.forwarding_set import answers, formed


@pytest.fixture
def noted() -> Iterator[list[tuple[str, ...]]]:
    """Who, where, what, with what, and what came of it, of each event."""
    events: list[tuple[str, ...]] = []

    def see(event: LogEvent) -> None:
        if event.get("log_namespace") == "nuntwist.audit":
            names = ("who", "database", "command", "arguments", "outcome")
            events.append(tuple(str(event[name]) for name in names))

    globalLogPublisher.addObserver(see)
    yield events
    globalLogPublisher.removeObserver(see)


def audited() -> MemoryNode:
    node = MemoryNode()
    node.node.pipeline.deciding.audit = Audit(node.node.catalogue)
    return node


def test_what_admins_do_and_who_logs_in(noted: list[tuple[str, ...]]) -> None:
    node = audited()
    admin = node.tcp()
    for command in (
        "auth nun wrong",
        "auth nun nun-pwd",
        "auth nun wrong",
        "list-users",
        "create-db d hush",
        "create-db d hush",
        "use-db d hush",
        "create-user ana hush2",
        "set-permissions ana r *|i count",
        "set-token close ana hush3",
        "set $$note hush4",
        "get $$token",
        "set plain hush5",
        "get plain",
        "keys",
        "ping",
        "nonsense",
    ):
        admin.ask(command)
    assert noted == [
        ("nobody", "-", "auth", "nun ***", "invalid"),
        ("admin", "-", "auth", "nun ***", "ok"),
        # It is answered as valid: what was right before still counts.
        ("admin", "-", "auth", "nun ***", "invalid"),
        ("admin", "-", "list-users", "", "error error no-db-selected"),
        ("admin", "-", "create-db", "d *** none", "ok"),
        ("admin", "-", "create-db", "d *** none", "error database already exists"),
        ("admin", "d", "use-db", "d ***", "ok"),
        ("admin", "d", "create-user", "ana ***", "ok"),
        ("admin", "d", "set-permissions", "ana r *|i count", "ok"),
        ("admin", "d", "set-token", "close ana ***", "ok"),
        ("admin", "d", "set", "$$note ***", "ok"),
        ("admin", "d", "get", "$$token", "ok"),
    ]
    assert "hush" not in str(noted)


def test_what_is_refused_too(noted: list[tuple[str, ...]]) -> None:
    node = audited()
    node.admin("create-db d t", "use-db d t", "create-user ana hush").close()
    noted.clear()
    client = node.tcp()
    for command in (
        "use-db nowhere hush",
        "use-db d hush",
        "use-db d ana hush",
        "use-db d two hush words",
        "use-db d ana wrong",
        "use-db $admin ana hush",
        "create-db e hush",
        "remove $$user_ana",
        "set a 1",
    ):
        client.ask(command)
    assert noted == [
        ("nobody", "-", "use-db", "nowhere ***", "error Not a valid database name"),
        ("nobody", "-", "use-db", "d ***", "error Invalid token"),
        ("user ana", "d", "use-db", "d ana ***", "ok"),
        # What names no user may be a part of a password.
        ("user ana", "d", "use-db", "d *** ***", "error Invalid token"),
        ("user ana", "d", "use-db", "d ana ***", "error Invalid token"),
        ("user ana", "d", "use-db", "$admin *** ***", "error Invalid token"),
        ("user ana", "d", "create-db", "e *** none", "error Not auth"),
        (
            *("user ana", "d", "remove", "$$user_ana"),
            "error To read security keys you must auth as an admin!",
        ),
    ]


def test_what_permissions_became_is_written_down_whole(noted: list[tuple[str, ...]]) -> None:
    node = audited()
    admin = node.admin("create-db d t", "use-db d t")
    noted.clear()
    listed = "r " + ",".join(f"part{n}*" for n in range(100))
    for command in ("set-permissions ana", "set $$permission_$ana", "set-safe $$permission_$ana 9"):
        admin.ask(f"{command} {listed}")
    admin.ask("set $$permission_$ana")
    admin.ask("set-permissions ana r " + "x" * 5_000)
    assert [arguments for *_, arguments, _ in noted] == [
        f"ana {listed}",
        f"$$permission_$ana {listed}",
        f"$$permission_$ana 9 {listed}",
        "$$permission_$ana",
        f"ana r {'x' * 4_094}...",
    ]


def test_nothing_is_written_down_where_nobody_asks(noted: list[tuple[str, ...]]) -> None:
    MemoryNode().admin("create-db d t").close()
    assert noted == []


def test_a_secondary_notes_what_it_forwards_and_its_primary_the_rest(
    noted: list[tuple[str, ...]],
) -> None:
    three = formed()
    for node in three.nodes.values():
        node.node.pipeline.deciding.audit = Audit(node.node.catalogue)
    admin = three.nodes[2].admin("use-db d t")
    noted.clear()
    assert answers(three, admin, "create-user ana hush") == "ok \n"
    assert noted == [
        ("admin", "d", "create-user", "ana ***", "forwarded"),
        ("admin", "d", "create-user", "ana ***", "ok"),
    ]


@pytest.mark.parametrize("command", TABLE, ids=lambda command: command.word)
def test_the_table_says_of_each_argument_whether_it_is_a_secret(command: Any) -> None:
    """Names that stand for one are secret, and what is long or holds another command."""
    for argument in command.arguments:
        likely = argument.name in ("TOKEN", "PWD", "VALUE", "BASE64", "COMMAND", "KEYS")
        if command.word != "help":
            assert argument.secret == likely, argument


def test_no_argument_that_is_secret_is_shown() -> None:
    for command in TABLE:
        words = {
            Kind.WORD: b"hush",
            Kind.REST: b"hush hush",
            Kind.VERSION: 1,
            Kind.NUMBER: 1,
        }
        texts = shown(command, [words[argument.kind] for argument in command.arguments])
        for argument, text in zip(command.arguments, texts, strict=True):
            assert ("hush" not in text) >= argument.secret
    assert shown(parse(b"use-db d pass word more").command, (b"d", b"pass", b"word more")) == [
        "d",
        "***",
        "***",
    ]


# -- the file --


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_of_json_each_and_nothing_else_in_it(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    path.write_text('{"before": 1}\n')
    file = AuditFile(str(path), Clock().seconds)
    try:
        Logger(namespace="nuntwist.other").info("no part of it")
        audited().admin("create-db d hush").close()
    finally:
        file.close()
    audited().admin("create-db e t").close()
    first, auth, create = lines(path)
    assert first == {"before": 1}
    assert auth["fields"]["command"] == "auth"
    assert auth["logger"] == "nuntwist.audit"
    assert create["fields"] == {
        "peer": create["fields"]["peer"],
        "who": "admin",
        "database": "-",
        "command": "create-db",
        "arguments": "d *** none",
        "outcome": "ok",
    }
    assert "hush" not in path.read_text()


def test_it_is_for_its_owner_alone(tmp_path: Path) -> None:
    AuditFile(str(tmp_path / "new"), Clock().seconds).close()
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600
    with pytest.raises(OSError, match="No such file"):
        AuditFile(str(tmp_path / "not" / "there"), Clock().seconds)


def test_a_full_disk_is_told_of_and_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, told = Clock(), list[LogEvent]()

    def see(event: LogEvent) -> None:
        if event.get("lost"):
            told.append(event)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = AuditFile(str(tmp_path / "audit"), clock.seconds)
    globalLogPublisher.addObserver(see)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            assert audited().admin("create-db d t").ask("ping") == "pong\nok \n"
            assert [event["lost"] for event in told] == [1]
            clock.advance(AUDIT_AGAIN_SECONDS)
            audited().admin().close()
        assert [event["lost"] for event in told] == [1, 3]
        audited().admin().close()
    finally:
        globalLogPublisher.removeObserver(see)
        file.close()
    assert len(lines(tmp_path / "audit")) == 1
