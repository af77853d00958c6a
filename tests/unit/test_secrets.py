"""Tokens: hashed away from the reactor, remembered, and never shown, logged or stored in clear."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, execute
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from zope.interface.verify import verifyObject

from nuntwist import secrets
from nuntwist.interfaces import ISecrets
from nuntwist.secrets import ScryptSecrets, check_secret, hash_secret
from nuntwist.testing import FrameConnection, LineConnection, MemoryNode

STORED = hash_secret(b"right", b"salt" * 4, 1)


class Threads:
    """Threads that are done when told.

    :ivar waiting: what is to be run.
    :ivar count: how much there ever was to run.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[Deferred[Any], Callable[..., Any], tuple[Any, ...]]] = []
        self.count = 0

    def __call__(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        self.count += 1
        done: Deferred[Any] = Deferred()
        self.waiting.append((done, function, args))
        return done

    def run(self) -> None:
        """Do what waits now."""
        waiting, self.waiting = self.waiting, []
        for done, function, args in waiting:
            execute(function, *args).chainDeferred(done)


def make(threads: Callable[..., Deferred[Any]]) -> ScryptSecrets:
    return ScryptSecrets(threads, random.Random(7).randbytes, log_n=1)


def result_of(deferred: Deferred[Any]) -> list[Any]:
    found: list[Any] = []
    deferred.addBoth(found.append)
    return found


# -- stored strings --


def test_the_stored_string_says_how_it_was_made() -> None:
    stored = hash_secret(b"right", b"0123456789abcdef", 4)
    assert re.fullmatch(
        rb"\$scrypt\$ln=4,r=8,p=1\$MDEyMzQ1Njc4OWFiY2RlZg\$[A-Za-z0-9+/]{43}", stored
    )
    assert check_secret(b"right", stored)
    assert hash_secret(b"right", b"another salt", 4) != stored


def test_the_usual_cost() -> None:
    calls: list[tuple[Any, ...]] = []

    def note(*args: Any) -> Deferred[Any]:
        calls.append(args)
        return Deferred()

    ScryptSecrets(note, random.Random(1).randbytes).hash(b"right")
    function, secret, salt, log_n = calls[0]
    assert (function, secret, len(salt), log_n) == (hash_secret, b"right", 16, 14)


@given(st.binary(max_size=40))
@example(b"right ")
@example(b"righ")
@example(b"")
def test_another_secret_is_wrong(secret: bytes) -> None:
    assert check_secret(secret, STORED) == (secret == b"right")


@given(st.binary(max_size=80))
@example(b"")
@example(b"right")
@example(b"$scrypt$ln=1,r=8,p=1$$")
@example(b"$scrypt$ln=1,r=8,p=1$c2FsdA$!!!!")
@example(b"$scrypt$ln=1$c2FsdA$c2FsdA")
@example(b"$scrypt$ln=x,r=8,p=1$c2FsdA$c2FsdA")
@example(b"$scrypt$ln=99,r=8,p=1$c2FsdA$c2FsdA")
@example(b"$scrypt$ln=-1,r=8,p=1$c2FsdA$c2FsdA")
@example(b"$scrypt$ln=20,r=32,p=1$c2FsdA$c2FsdA")
@example(b"$scrypt$ln=17,r=1,p=1$c2FsdA$c2FsdA")
@example(b"$argon2$ln=1,r=8,p=1$c2FsdA$c2FsdA")
@example(b"$scrypt$ln=1,r=8,p=1$c2FsdA$c2FsdA$more")
def test_no_other_string_is_ever_right(stored: bytes) -> None:
    assert check_secret(b"right", stored) is False


@pytest.mark.parametrize(
    "costs", [b"ln=20,r=32,p=16", b"ln=17,r=8,p=1", b"ln=16,r=8,p=16", b"ln=1_0,r=8,p=1"]
)
def test_what_would_cost_too_much_is_not_tried(
    monkeypatch: pytest.MonkeyPatch, costs: bytes
) -> None:
    """It may come from an archive."""
    monkeypatch.setattr(secrets, "derive", lambda *_: pytest.fail("it was tried"))
    assert check_secret(b"right", b"$scrypt$" + costs + b"$c2FsdA$c2FsdA") is False


def test_a_cost_that_is_raised_can_still_be_checked() -> None:
    stored = hash_secret(b"right", b"salt", 15)
    assert check_secret(b"right", stored)
    assert not check_secret(b"wrong", stored)


@given(st.integers(0, len(STORED) - 1), st.integers(1, 255))
def test_a_changed_string_is_not_right(place: int, change: int) -> None:
    changed = bytes([STORED[place] ^ change])
    stored = STORED[:place] + changed + STORED[place + 1 :]
    # The last characters of the salt and of the hash have bits that say nothing.
    says_nothing = STORED[place + 1 : place + 2] in (b"", b"$")
    assert check_secret(b"right", stored) is False or says_nothing


# -- checks under way --


def test_it_is_what_the_seam_asks_for() -> None:
    assert verifyObject(ISecrets, make(Threads()))


def test_hash_and_verify() -> None:
    at_once = make(execute)
    (stored,) = result_of(at_once.hash(b"right"))
    assert result_of(at_once.verify(b"right", stored)) == [True]
    assert result_of(at_once.verify(b"wrong", stored)) == [False]
    assert result_of(at_once.hash(b"right")) != [stored]


def test_equal_checks_under_way_are_one() -> None:
    threads = Threads()
    keeper = make(threads)
    right = [result_of(keeper.verify(b"right", STORED)) for _ in range(5)]
    wrong = [result_of(keeper.verify(b"wrong", STORED)) for _ in range(5)]
    other = result_of(keeper.verify(b"right", hash_secret(b"right", b"else", 1)))
    assert threads.count == 3
    threads.run()
    assert right == [[True]] * 5
    assert wrong == [[False]] * 5
    assert other == [True]


def test_a_right_pair_is_remembered_and_a_wrong_one_is_not() -> None:
    threads = Threads()
    keeper = make(threads)
    keeper.verify(b"right", STORED)
    keeper.verify(b"wrong", STORED)
    threads.run()
    assert threads.count == 2
    for _ in range(5):
        assert result_of(keeper.verify(b"right", STORED)) == [True]
    assert threads.count == 2
    again = result_of(keeper.verify(b"wrong", STORED))
    assert threads.count == 3
    assert again == []


def test_the_pair_longest_unused_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "REMEMBERED", 3)
    threads = Threads()
    keeper = make(threads)
    stored = [hash_secret(b"right", b"%d" % number, 1) for number in range(4)]

    def check(number: int) -> bool:
        """Whether a check cost a hash."""
        before = threads.count
        keeper.verify(b"right", stored[number])
        threads.run()
        return threads.count > before

    assert [check(n) for n in (0, 1, 2)] == [True] * 3
    assert not check(0)
    assert check(3)
    assert [check(n) for n in (0, 2, 3)] == [False] * 3
    assert check(1)


def test_a_pair_cannot_be_mistaken_for_another() -> None:
    """Where the secret ends and the stored string begins is part of what is remembered."""
    threads = Threads()
    keeper = make(threads)
    keeper.verify(b"right", STORED)
    threads.run()
    keeper.verify(STORED[-1:] + b"right", STORED[:-1])
    keeper.verify(b"ight", STORED + b"r")
    assert threads.count == 3


def test_a_thread_that_fails_fails_all_who_wait() -> None:
    threads = Threads()
    keeper = make(threads)
    first, second = (result_of(keeper.verify(b"right", STORED)) for _ in range(2))
    threads.waiting.pop()[0].errback(MemoryError("no room"))
    assert [failure.type for failure in first + second] == [MemoryError, MemoryError]
    third = result_of(keeper.verify(b"right", STORED))
    threads.run()
    assert third == [True]


# -- over connections --


@pytest.fixture
def threads() -> Threads:
    return Threads()


@pytest.fixture
def node(threads: Threads) -> MemoryNode:
    """A node with the database d (token t), whose hashes are answered when told."""
    node = MemoryNode()
    node.admin("create-db d t").close()
    node.node.secrets = make(threads)
    return node


def finish(node: MemoryNode, threads: Threads) -> None:
    while threads.waiting:
        threads.run()
        node.settle()


def selected(node: MemoryNode, threads: Threads) -> LineConnection:
    client = node.tcp()
    client.send("use-db d t")
    finish(node, threads)
    assert client.received() == "ok \n"
    return client


def test_only_the_one_who_asked_waits(node: MemoryNode, threads: Threads) -> None:
    other = selected(node, threads)
    client, framed = node.tcp(), node.ws()
    client.send("use-db d wrong\nping\nuse-db d wrong\nset a 1\nget a")
    framed.send("use-db d wrong;ping")
    assert client.received() == ""
    assert framed.received() == []
    for number in range(5):
        assert other.ask(f"set k {number}") == "ok \n"
    finish(node, threads)
    no_database = "error no-db-selected\nerror error no-db-selected\n \n"
    wrong = "error Invalid token \n"
    assert client.received() == f"{wrong}pong\nok \n{wrong}{no_database}{no_database}"
    assert framed.received() == [wrong, "pong\n", "ok \n"]


def test_a_user_that_is_not_there_takes_as_long_as_a_wrong_token(
    node: MemoryNode, threads: Threads
) -> None:
    client = node.tcp()
    client.send("use-db d nobody t")
    assert client.received() == ""
    ((_, function, arguments),) = threads.waiting
    assert function is check_secret
    assert arguments == (b"t", node.node.secrets.nobodys)
    finish(node, threads)
    assert client.received() == "error Invalid token \n"
    # Though somebody is called so by then, with that very token.
    admin = node.admin()
    client.send("use-db d ana secret")
    admin.send("use-db d t\ncreate-user ana secret")
    finish(node, threads)
    assert admin.received() == "ok \nok \n"
    assert client.received() == "error Invalid token \n"


def test_nobodys_secret_is_none(threads: Threads) -> None:
    secrets = make(threads)
    assert not check_secret(b"", secrets.nobodys)
    cost = secrets.nobodys.rpartition(b"$")[0].rpartition(b"$")[0]
    hashed = secrets.hash(b"x")
    threads.run()
    stored: list[bytes] = []
    hashed.addCallback(stored.append)
    assert stored[0].startswith(cost + b"$")
    assert len(stored[0]) == len(secrets.nobodys)


def test_later_commands_keep_their_order(node: MemoryNode, threads: Threads) -> None:
    client = node.tcp()
    client.send("ping\nuse-db d t\nset a 1\nget a\nuse-db d t")
    assert client.received() == "pong\nok \n"
    client.transport.producerState = "producing"
    client.send("remove a\nget a")
    assert client.received() == ""
    finish(node, threads)
    assert client.received() == "ok \nok \nvalue 1\nok \nok \nok \nvalue <Empty>\nok \n"


def test_a_repeated_use_db_costs_no_hash(node: MemoryNode, threads: Threads) -> None:
    selected(node, threads)
    before = threads.count
    for _ in range(10):
        assert node.tcp().ask("use-db d t") == "ok \n"
    assert threads.count == before
    assert node.post("use-db d t; get k") == "empty;value <Empty>\n"


def test_create_db_twice_at_once(node: MemoryNode, threads: Threads) -> None:
    first, second = node.admin(), node.admin()
    first.send("create-db e one")
    second.send("create-db e two")
    assert len(threads.waiting) == 2
    finish(node, threads)
    assert first.received() == "create-db success\nok \n"
    assert second.received() == "error database already exists \n"
    client = node.tcp()
    client.send("use-db e two\nuse-db e one")
    finish(node, threads)
    assert client.received() == "error Invalid token \nok \n"


def test_a_connection_that_closes_while_it_waits(node: MemoryNode, threads: Threads) -> None:
    other = selected(node, threads)
    other.send("watch $connections")
    other.received()
    client, framed, admin = node.tcp(), node.ws(), node.admin()
    client.send("use-db d T\nset a 1")
    framed.send("use-db d t2")
    admin.send("create-db e t\nuse-db e t")
    for connection in (client, framed, admin):
        connection.close()
    finish(node, threads)
    assert other.received() == ""
    assert other.ask("get a") == "value <Empty>\nok \n"
    database = node.node.catalogue.by_name[b"d"]
    assert list(database.selected) == [other.protocol.client]
    assert node.node.counters.connections == 1


def test_a_connection_with_the_right_token_that_closes_is_not_counted(
    node: MemoryNode, threads: Threads
) -> None:
    other = selected(node, threads)
    node.node.secrets = make(threads)
    client = node.tcp()
    client.send("use-db d t\nset a 1")
    client.close()
    finish(node, threads)
    assert other.ask("get $connections") == "value 1\nok \n"
    assert other.ask("get a") == "value <Empty>\nok \n"


def test_a_database_dropped_while_its_token_is_checked(node: MemoryNode, threads: Threads) -> None:
    client, admin = node.tcp(), node.admin()
    client.send("use-db d t")
    admin.send("drop-db d\ncreate-db d t")
    finish(node, threads)
    assert client.received() == "error Not a valid database name \n"
    assert admin.received() == "drop-db success\nok \ncreate-db success\nok \n"


def test_a_database_dropped_while_a_user_is_made(node: MemoryNode, threads: Threads) -> None:
    admin, other = node.admin(), node.admin()
    admin.send("use-db d t")
    finish(node, threads)
    admin.received()
    admin.send("create-user ana secret")
    other.send("drop-db d")
    before = node.oplog.last.index
    finish(node, threads)
    assert admin.received() == "error Not a valid database name \n"
    assert node.oplog.last.index == before


def test_a_token_changed_while_it_is_checked(node: MemoryNode, threads: Threads) -> None:
    admin = node.admin()
    admin.send("use-db d t")
    finish(node, threads)
    admin.send("set $$token new")
    hashing = threads.waiting.pop()
    node.node.secrets = make(threads)
    client = node.tcp()
    client.send("use-db d t")
    checking = threads.waiting.pop()
    for done, function, args in (hashing, checking):
        done.callback(function(*args))
        node.settle()
    assert client.received() == "error Invalid token \n"


def test_an_old_token_is_refused_though_it_was_remembered(
    node: MemoryNode, threads: Threads
) -> None:
    selected(node, threads).close()
    admin = node.admin()
    admin.send("use-db d t\nset $$token new")
    finish(node, threads)
    client = node.tcp()
    client.send("use-db d t\nuse-db d new")
    finish(node, threads)
    assert client.received() == "error Invalid token \nok \n"


def test_an_empty_token_is_refused(node: MemoryNode, threads: Threads) -> None:
    admin = node.admin()
    admin.send("use-db d t\nset $$token\nset $$user_ana ")
    finish(node, threads)
    assert admin.received() == "ok \n" + "error a token cannot be empty \n" * 2
    assert selected(node, threads).ask("ping") == "pong\nok \n"


# -- nowhere in clear --

WORDS = ("tango", "uniform", "victor", "whiskey", "xray", "yankee", "zulu", "nun-pwd")
"""Every secret of the conversation below."""


@pytest.fixture
def logged() -> Iterator[list[LogEvent]]:
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    try:
        yield events
    finally:
        globalLogPublisher.removeObserver(events.append)


def converse(node: MemoryNode) -> tuple[list[str], FrameConnection]:
    """Set and use every kind of secret; gives all that clients were sent."""
    admin, watcher, sent = node.admin(), node.ws(), []
    watcher.ask("auth nun nun-pwd")
    for text in (
        "create-db e tango",
        "use-db e tango",
        "create-user ana uniform",
        "set $$user_bob victor",
        "set-safe $$user_eve 4 whiskey",
        "rp 1 set $$user_zoe xray",
        "replicate e $$user_joe 3 yankee",
    ):
        sent.append(admin.ask(text))
    watcher.send("use-db e tango;watch $$token;watch $$user_ana")
    sent += watcher.received()
    sent.append(admin.ask("set $$token zulu"))
    sent.append(admin.ask("create-user ana uniform"))
    for name in ("$$token", "$$user_ana", "$$user_bob", "$$user_eve", "$$user_joe"):
        sent.append(admin.ask(f"get {name}"))
        sent.append(admin.ask(f"get-safe {name}"))
    for text in ("keys", "debug pending-ops", "debug list-dbs", "snapshot false e", "help"):
        sent.append(admin.ask(text))
    for text in ("use-db e zulu", "use-db e ana uniform", "use-db e zoe xray"):
        assert node.tcp().ask(text) == "ok \n"
    for text in ("use-db e tango", "use-db e ana zulu", "auth nun tango", "auth tango nun-pwd"):
        sent.append(node.tcp().ask(text))
    return sent, watcher


def test_a_secret_is_nowhere_in_clear(logged: list[LogEvent]) -> None:
    node = MemoryNode()
    sent, watcher = converse(node)
    assert sent[0] == "create-db success\nok \n"
    kept: list[object] = [op for batch in node.oplog.read(0) for op in batch]
    node.storage.load(kept.append, kept.extend)
    kept += [op for d in node.node.catalogue.by_id.values() for s in d.shards for op in s.values()]
    texts = [repr(op) for op in kept] + sent + watcher.received()
    texts += [str(formatEvent(event)) + repr(event.get("log_failure")) for event in logged]
    assert len(kept) > 20
    assert any("wrong credentials" in text for text in texts)
    for text in texts:
        for word in WORDS:
            assert word not in text
    assert "scrypt" not in "".join(sent)


def test_events_of_secrets_are_hidden() -> None:
    _, watcher = converse(MemoryNode())
    assert watcher.received() == [
        "changed $$token <hidden>\n",
        "changed-version $$token 1 <hidden>\n",
        "changed $$user_ana <hidden>\n",
        "changed-version $$user_ana 1 <hidden>\n",
    ]


def test_reading_a_secret_shows_that_there_is_one() -> None:
    node = MemoryNode()
    converse(node)
    admin = node.admin("use-db e zulu")
    assert admin.ask("get $$token") == "value <hidden>\nok \n"
    assert admin.ask("get-safe $$user_eve") == "value-version 5 <hidden>\nok \n"
    assert admin.ask("get $$user_nobody") == "value <Empty>\nok \n"
    assert admin.ask("increment $$token") == "error Key is not numeric \n"
    assert admin.ask("remove $$token") == "error $$token key cannot be removed \n"


@pytest.mark.parametrize("transport", ["tcp", "ws", "http"])
def test_a_new_token_counts_at_once_on_every_transport(transport: str) -> None:
    node = MemoryNode()
    node.admin("create-db d t", "use-db d t", "set $$token new").close()
    if transport == "http":
        assert node.post("use-db d t; use-db d new") == "Invalid token;empty"
    elif transport == "ws":
        assert node.ws().ask("use-db d t;use-db d new") == ["error Invalid token \n", "ok \n"]
    else:
        assert node.tcp().ask("use-db d t\nuse-db d new") == "error Invalid token \nok \n"
