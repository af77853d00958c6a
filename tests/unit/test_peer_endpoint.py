"""The endpoint of another node reads its certificates anew for each connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.logger import LogEvent, globalLogPublisher

from nuntwist.net.peer_endpoint import Afresh


@pytest.fixture
def told() -> Iterator[list[str]]:
    found: list[str] = []

    def observe(event: LogEvent) -> None:
        found.append(event["why"])

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


class Made:
    """An endpoint with what its files held."""

    def __init__(self, what: str) -> None:
        self.what = what

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        return succeed(self.what)


class Disk:
    """What the files hold now.

    :ivar now: None for nothing that can be read.
    """

    def __init__(self) -> None:
        self.now: str | None = "second"
        self.why = "no such file"

    def make(self) -> Made:
        if self.now is None:
            raise ValueError(self.why)
        return Made(self.now)


def connected(endpoint: Any) -> str:
    results: list[str] = []
    endpoint.connect(None).addCallback(results.append)
    return results[0]


def test_each_connection_has_what_the_files_hold_then(told: list[str]) -> None:
    disk = Disk()
    endpoint = Afresh("tls:a:1", Made("first"), disk.make)
    assert connected(endpoint) == "second"
    disk.now = "third"
    assert connected(endpoint) == "third"
    assert told == []


def test_what_cannot_be_read_leaves_what_was_and_is_told_once(told: list[str]) -> None:
    disk = Disk()
    endpoint = Afresh("tls:a:1", Made("first"), disk.make)
    disk.now = None
    assert [connected(endpoint), connected(endpoint)] == ["first", "first"]
    assert told == ["no such file"]
    disk.now = "second"
    assert connected(endpoint) == "second"
    disk.now = None
    assert connected(endpoint) == "second"
    disk.why = "no certificate in it"
    assert connected(endpoint) == "second"
    assert told == ["no such file", "no such file", "no certificate in it"]
