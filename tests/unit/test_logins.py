"""Failed logins of an address: who fails again and again has to wait, and nobody else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from nuntwist.core.limits import Limits
from nuntwist.core.logins import (
    ADDRESSES,
    FORGIVEN_SECONDS,
    LONGEST_PAUSE,
    LONGEST_WAIT,
    Logins,
    address_of,
)
from nuntwist.testing import LineConnection, MemoryNode


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("10.0.0.1:5000", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1"),
        ("[2001:db8::1]:5000", "2001:db8::/64"),
        ("2001:db8::1", "2001:db8::/64"),
        ("[2001:db8::ffff:1]:1", "2001:db8::/64"),
        ("[::ffff:10.0.0.1]:5000", "10.0.0.1"),
        ("[fe80::1%eth0]:5000", "fe80::/64"),
        ("/run/nun.sock", "/run/nun.sock"),
        ("http", "http"),
        ("", ""),
        ("[", ""),
        ("::::", "::::"),
    ],
)
def test_what_counts_as_one_address(peer: str, address: str) -> None:
    assert address_of(peer) == address


@given(st.text(max_size=30))
def test_any_text_has_an_address(peer: str) -> None:
    assert isinstance(address_of(peer), str)


def failing(limit: int = 3, times: int = 0) -> tuple[Clock, Logins]:
    clock = Clock()
    logins = Logins(limit, clock.seconds)
    for _ in range(times):
        logins.failed("a:1")
    return clock, logins


def test_it_is_said_once_when_waiting_begins() -> None:
    _, logins = failing(3)
    assert [logins.failed("a:1") for _ in range(5)] == [False, False, True, False, False]
    assert [logins.wait("a:9"), logins.wait("b:1")] == [0.0, 0.0]


def test_attempts_are_one_after_the_other_and_further_apart_with_each_failure() -> None:
    _, logins = failing(3, 3)
    assert [logins.wait("a:1") for _ in range(3)] == [0.0, 0.5, 1.0]
    _, logins = failing(3, 3)
    waits = []
    for _ in range(7):
        waits.append(logins.wait("a:1"))
        logins.failed("a:1")
    assert waits == [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert logins.wait("a:1") is None
    _, logins = failing(3, 90)
    assert [logins.wait("a:1") for _ in range(2)] == [0.0, LONGEST_PAUSE]


def test_who_would_wait_for_long_is_refused_and_makes_nobody_wait_longer() -> None:
    clock, logins = failing(3, 30)
    waits = [logins.wait("a:1") for _ in range(50)]
    assert waits == [0.0, 30.0, 60.0, *[None] * 47]
    clock.advance(LONGEST_WAIT)
    assert logins.wait("a:1") == 30.0


def test_time_forgives() -> None:
    clock, logins = failing(3, 4)
    logins.wait("a:1")
    assert logins.wait("a:1") != 0.0
    clock.advance(2 * FORGIVEN_SECONDS)
    assert [logins.wait("a:1") for _ in range(5)] == [0.0] * 5
    # It does not forgive more than there was.
    clock.advance(1_000.0)
    assert [logins.failed("a:1") for _ in range(3)] == [False, False, True]


def test_no_limit_is_no_waiting() -> None:
    _, logins = failing(0, 100)
    assert logins.wait("a:1") == 0.0


def test_addresses_are_not_remembered_for_ever() -> None:
    _, logins = failing(1, 5)
    logins.failed("b:1")
    for number in range(ADDRESSES - 1):
        logins.failed(f"{number}:1")
    assert logins.wait("a:1") == 0.0
    logins.wait("b:1")
    assert logins.wait("b:1") != 0.0


# -- over connections --


@pytest.fixture
def node() -> MemoryNode:
    node = MemoryNode(limits=Limits(failed_logins=3))
    node.admin("create-db d t").close()
    return node


def fail(node: MemoryNode, times: int) -> None:
    client = node.tcp()
    for _ in range(times):
        assert client.ask("use-db d wrong") == "error Invalid token \n"
    client.close()


def waiting(node: MemoryNode, command: str) -> LineConnection:
    client = node.tcp()
    client.send(command)
    assert client.received() == ""
    return client


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("use-db d t\nget k", "ok \nvalue <Empty>\nok \n"),
        ("use-db d x\nping", "error Invalid token \npong\nok \n"),
        ("auth no-one x\nping", "invalid auth\nok \npong\nok \n"),
    ],
)
def test_a_login_waits_its_turn_and_what_is_behind_it_too(
    node: MemoryNode, command: str, answer: str
) -> None:
    fail(node, 3)
    first = node.tcp()
    assert first.ask("use-db d t") == "ok \n"
    client = waiting(node, command)
    assert first.ask("ping") == "pong\nok \n"
    node.clock.advance(0.4)
    assert client.received() == ""
    node.clock.advance(0.2)
    node.settle()
    assert client.received() == answer
    assert node.node.counters.delayed_logins == 1


def test_who_has_gone_meanwhile_is_no_trouble(node: MemoryNode) -> None:
    fail(node, 3)
    node.tcp().ask("use-db d t")
    for _ in range(5):
        waiting(node, "use-db d t").close()
    node.clock.advance(60.0)
    node.settle()
    assert node.tcp().ask("use-db d t") == "ok \n"


def test_one_connection_fails_as_often_as_it_may_and_no_more(node: MemoryNode) -> None:
    """However many connections try at once, and whatever they try."""
    clients = [node.tcp() for _ in range(20)]
    for client in clients:
        client.send("use-db d wrong\n" * 50)
    for _ in range(60):
        node.clock.advance(1.0)
        node.settle()
    refused = "".join(client.received() for client in clients)
    assert node.node.counters.failed_logins < 40
    assert refused.count("Invalid token") == node.node.counters.failed_logins
    assert "too many failed logins" in refused
