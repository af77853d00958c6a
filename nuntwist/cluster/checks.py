"""Whether the nodes of a set have the same state: the primary compares.

At each check (:mod:`nuntwist.core.state_hash`) a secondary sends what it has, and the primary,
which has checked the same index, compares. That two differ means that a node has lost or damaged
something without noticing, or that the software is wrong: an alarm, counted and logged, and the
secondary is to be given a copy of all (:mod:`nuntwist.cluster.comparing`). A check that the other
side does not have (the primary is new, or one of them began its sum later) is not compared.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from twisted.logger import Logger

REMEMBERED: Final = 64
"""Checks of its own that a primary remembers: 64,000 positions."""
WAITING: Final = 8
"""Checks of one secondary that wait for the primary's own; of more the oldest go."""


@dataclass(frozen=True, slots=True)
class Checked:
    """Secondary to primary: the hash of my state after the operation at an index, which is
    committed.

    :ivar number: of the epoch that the primary serves.
    """

    number: int
    index: int
    sum: int


@dataclass(frozen=True, slots=True)
class Differs:
    """Primary to secondary: your state is not mine; nothing more comes before you have a copy of
    all.

    :ivar number: of the epoch that the primary serves.
    :ivar index: of the check at which they differed.
    """

    number: int
    index: int


class Checks:
    """What the primary compares in its epoch.

    :param alarm: is told a node and the index at which its state differs, once; nothing more is
        compared with that node until :meth:`forget`.
    :param name: gives the address of a node, for the log.
    :ivar alarms: how many states were found to differ.
    :ivar agreed: up to which index each secondary was found to have the same state.
    """

    _log = Logger()

    def __init__(self, alarm: Callable[[int, int], None], name: Callable[[int], str] = hex) -> None:
        self._alarm = alarm
        self._name = name
        self._mine: OrderedDict[int, int] = OrderedDict()
        self._waiting: dict[int, OrderedDict[int, int]] = {}
        self._differs: set[int] = set()
        self.alarms = 0
        self.agreed: dict[int, int] = {}

    def mine(self, index: int, sum: int) -> None:
        """The primary itself has made a check."""
        self._mine[index] = sum
        while len(self._mine) > REMEMBERED:
            self._mine.popitem(last=False)
        for node, waiting in list(self._waiting.items()):
            theirs = waiting.pop(index, None)
            if theirs is not None:
                self._compare(node, index, theirs)

    def theirs(self, node: int, index: int, sum: int) -> None:
        """A secondary has told one."""
        if index in self._mine:
            self._compare(node, index, sum)
            return
        waiting = self._waiting.setdefault(node, OrderedDict())
        waiting[index] = sum
        while len(waiting) > WAITING:
            waiting.popitem(last=False)

    def _compare(self, node: int, index: int, theirs: int) -> None:
        if node in self._differs:
            return
        mine = self._mine[index]
        if mine == theirs:
            self.agreed[node] = max(index, self.agreed.get(node, 0))
            return
        self.alarms += 1
        self._differs.add(node)
        self._waiting.pop(node, None)
        self._log.error(
            "the state of the node at {address} is not that of this primary: after operation"
            " {index} its hash is {theirs:016x} and not {mine:016x}; they agreed at {agreed}; it"
            " counts for nothing until it has a copy of all. Look at the memory and the disks of"
            " both machines; which side is wrong nobody knows, so compare what you can with a"
            " back-up",
            address=self._name(node),
            index=index,
            theirs=theirs,
            mine=mine,
            agreed=self.agreed.get(node, 0),
        )
        self._alarm(node, index)

    def forget(self, node: int) -> None:
        """A node is gone, or has been given a copy of all: what it said before does not count."""
        self._differs.discard(node)
        self._waiting.pop(node, None)
        self.agreed.pop(node, None)
