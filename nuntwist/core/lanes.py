"""What is forwarded and not answered yet: of a connection, and on a lane
(:mod:`nuntwist.core.forwarding`)."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from nuntwist.core.client import Client
from nuntwist.core.forwards import Item
from nuntwist.language.replies import Reply


class Forwards:
    """What a connection has forwarded.

    :ivar count: commands that are not answered.
    :ivar size: their bytes.
    :ivar alone: whether they are one that stands alone.
    :ivar drains: whether it waits for what was sent to it before to leave.
    """

    __slots__ = ("alone", "count", "drains", "size")

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        self.alone = False
        self.drains = False


class Entry(NamedTuple):
    """One command.

    :ivar came: when, in seconds.
    """

    client: Client
    item: Item
    size: int
    came: float


class Lane:
    """A lane.

    :ivar under_way: the commands of the request under way; none where it is free.
    :ivar request: its number.
    :ivar outcome: what must be revealed, and the replies, where the primary has answered.
    :ivar counting: waits for enough replicas to have it, where a client asks for a number.
    """

    __slots__ = ("counting", "number", "outcome", "queue", "request", "timer", "under_way")

    def __init__(self, number: int, queue: deque[Entry]) -> None:
        self.number = number
        self.queue = queue
        self.under_way: list[Entry] = []
        self.request = 0
        self.outcome: tuple[int, list[Reply]] | None = None
        self.counting: Deferred[None] | None = None
        self.timer: IDelayedCall | None = None

    def drop_outcome(self) -> None:
        """What was answered is told, or may be lost."""
        self.outcome = None
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        self.timer = None
        counting, self.counting = self.counting, None
        if counting is not None:
            counting.cancel()
