"""Fixtures of the tests on real nodes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from tests.integration.harness import Process, no_trace_of_trouble
from tests.ports import sole_use

# Where the tests are run in the background of a script they ignore Ctrl-C, and every process that
# they start would too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

Start = Callable[..., Process]
"""Starts a node; arguments as :class:`harness.Process`, without the directory."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start nodes that are gone after the test."""
    numbers = count()
    with ExitStack() as stack:

        def begin(*options: str, **arguments: dict[str, str]) -> Process:
            where = tmp_path / f"node-{next(numbers)}"
            return stack.enter_context(Process(where, *options, **arguments))

        yield begin


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A node for all tests of a module that can share one; its log must hold no trouble."""
    with Process(tmp_path_factory.mktemp("shared")) as node:
        yield node
        assert node.child is not None
        assert node.child.poll() is None
        no_trace_of_trouble(node.log)


@pytest.fixture
def default_ports() -> Iterator[tuple[int, ...]]:
    """Those of a node that is told of none: one test at a time starts such a node."""
    with sole_use(3012):
        yield 3012, 3013, 3014


@pytest.fixture
def node(start: Start) -> Process:
    """A fresh node with the default settings."""
    return start()
