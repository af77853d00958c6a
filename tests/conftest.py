"""What all tests share: how hypothesis runs, marks by directory, and the rule for unit tests."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator
from pathlib import Path
from typing import NoReturn

import coverage
import pytest
from hypothesis import HealthCheck, settings

from tests.ports import free_ports

_HERE = Path(__file__).parent

# A busy machine must not fail a test for being slow; in CI every run tries the same examples.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything under tests/integration, and what tries many cases."""
    for item in items:
        if _HERE / "integration" in item.path.parents:
            item.add_marker(pytest.mark.integration)
        if item.get_closest_marker("hypothesis"):
            item.add_marker(pytest.mark.many_cases)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Measure no coverage where many cases are tried.

    It would only say that one of them came by, and makes such a test three times as slow.
    (The mark no_cover of pytest-cov is for this, but each process of pytest-xdist measures twice,
    and what began first goes on then.)
    """
    stopped = []
    if item.get_closest_marker("many_cases") is not None:
        while (measuring := coverage.Coverage.current()) is not None:
            measuring.stop()
            stopped.append(measuring)
    try:
        return (yield)
    finally:
        for measured in reversed(stopped):
            measured.start()


@pytest.fixture(autouse=True)
def _no_real_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unit tests touch no real socket: one that tries fails."""
    if not {_HERE / "unit", _HERE / "fuzz"} & {*request.path.parents}:
        return

    def refuse(*_: object) -> NoReturn:
        pytest.fail("a unit test may not open a real connection or port")

    for name in ("bind", "connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)


@pytest.fixture
def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses right now."""
    (port,) = free_ports(1)
    return port
