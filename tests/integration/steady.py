"""Statements that hold where no node is held up: nobody is elected, something is done soon.

A node that stands still for longer than the suspicion time-out is deposed, and rightly; so on a
machine that is busy with something else such a statement says nothing of the nodes.  Therefore each
of them is asked all the time whether it is there.  What failed while one of them was late is done
again, a few times; what failed while none was has failed.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from tests.integration.harness import OK, Lines
from tests.integration.replica_set import NodeSet

TRIES = 4
"""How often something is done at most; then the machine is too busy to say anything."""
LATE = 0.2
"""Seconds without an answer that may matter."""
LEASE = 0.4
"""Seconds that matter: so long a lease lasts."""
ASKED_EVERY = 0.02

Test = Callable[..., None]


class Pulse(threading.Thread):
    """Asks a node whether it is there, all the time that it runs and is not made to stand still.

    :ivar longest: seconds of the longest time without an answer.
    """

    def __init__(self, nodes: NodeSet, place: int) -> None:
        super().__init__(daemon=True)
        self.longest = 0.0
        self._nodes, self._place = nodes, place
        self._over = threading.Event()

    def run(self) -> None:
        """Ask until told to stop."""
        while not self._over.wait(ASKED_EVERY):
            # It is about to start, or ends.
            with suppress(OSError, AssertionError):
                if self._place in self._nodes.running:
                    with self._nodes.processes[self._place].tcp() as client:
                        self._ask(client)

    def _ask(self, client: Lines) -> None:
        last, pauses = time.monotonic(), self._nodes.pauses
        while not self._over.is_set():
            assert client.ask("ping")[-1] == OK
            now = time.monotonic()
            if pauses == self._nodes.pauses:
                self.longest = max(self.longest, now - last)
            last, pauses = now, self._nodes.pauses
            self._over.wait(ASKED_EVERY)

    def end(self) -> float:
        """Stop; gives the longest time."""
        self._over.set()
        return self.longest


def steadily(again: Callable[[Any], None]) -> Callable[[Test], Test]:
    """Make a test one that is done again where a node was held up while it failed.

    :param again: brings the nodes, which are the first argument of the test, into the state in
        which it begins.
    """

    def made(test: Test) -> Test:
        @functools.wraps(test)
        def repeated(nodes: NodeSet, *arguments: Any, **named: Any) -> None:
            for number in range(TRIES):
                pulses = [Pulse(nodes, place) for place in range(len(nodes.processes))]
                for pulse in pulses:
                    pulse.start()
                try:
                    test(nodes, *arguments, **named)
                    return
                except (AssertionError, OSError, ValueError) as error:
                    longest = max(pulse.end() for pulse in pulses)
                    if longest < (LATE if number < TRIES - 1 else LEASE):
                        raise
                    print(f"not counted, for a node was late by {longest:.2f} s: {error}")
                finally:
                    for pulse in pulses:
                        pulse.end()
                if number < TRIES - 1:
                    again(nodes)
            pytest.skip(f"this machine is too busy: a node was late by {longest:.2f} s")

        return repeated

    return made
