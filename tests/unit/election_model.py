"""A replica set reduced to its elections and logs, under a seeded adversary.

Each node is a :class:`Bully` and a log of (epoch number, value); primaries write, send what others
lack, and count.  All waits are on one heap of events, so a seed is a run.  The model checks as it
goes:

- an epoch has one primary, and no two nodes serve at the same time;
- logs that agree on an entry agree on everything before it;
- what a majority has acknowledged is in the log of every later primary;
- when the faults stop there is a primary soon, and the logs become equal.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from nuntwist.cluster.ballots import Ballot
from nuntwist.cluster.bully import Bully
from nuntwist.cluster.effects import Keep, Send, Timing, Turned
from nuntwist.cluster.states import State
from nuntwist.values import NO_EPOCH, Epoch, Position

FAULTS = ("crash", "restart", "pause", "cut", "bridge", "loss", "slow", "start", "heal")

Entry = tuple[int, int]
"""The number of the epoch it was made in, and a value that no other entry has."""


@dataclass(frozen=True)
class Append:
    """Entries for a secondary.

    :ivar after: how many entries come before them, the last of which is of the epoch ``before``.
    """

    number: int
    after: int
    before: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Appended:
    """:ivar reached: how much of the primary's log the sender has; where it does not ``match``,
    how much it has at most."""

    number: int
    reached: int
    match: bool


@dataclass
class Node:
    """One process, and its disk.

    :ivar promised: number and node, on the disk.
    :ivar bully: None while it is down.
    """

    me: int
    log: list[Entry] = field(default_factory=list)
    promised: tuple[int, int] = (0, 0)
    bully: Bully | None = None
    life: int = 0
    wakes: float = 0.0
    has: dict[int, int] = field(default_factory=dict)
    matched: dict[int, int] = field(default_factory=dict)
    sent: dict[int, int] = field(default_factory=dict)
    committed: int = 0

    @property
    def position(self) -> Position:
        epoch = Epoch(self.log[-1][0], 0) if self.log else NO_EPOCH
        return Position(epoch, len(self.log))


class Model:
    """A run.

    :ivar acknowledged: for each value that a majority has, its index, and the epoch in which
        that was known first.
    :ivar turns: every transition, with its time and node.
    """

    def __init__(self, seed: int, size: int = 3, timing: Timing | None = None) -> None:
        self.chance = random.Random(seed)
        self.timing = timing or Timing()
        self.now = 0.0
        self.nodes = {number: Node(number) for number in range(1, size + 1)}
        self.cut: set[tuple[int, int]] = set()
        self.loss = 0.0
        self.delays = (0.0005, 0.003)
        self.acknowledged: dict[int, tuple[int, int]] = {}
        self.turns: list[tuple[float, int, Turned]] = []
        self.primaries: dict[int, int] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._values = 0

    # -- time --------------------------------------------------------------------------------

    def at(self, time: float, call: Callable[[], None]) -> None:
        """Let something happen."""
        self._count += 1
        heapq.heappush(self._events, (time, self._count, call))

    def run(self, seconds: float) -> None:
        """Let time go by."""
        until = self.now + seconds
        while self._events and self._events[0][0] <= until:
            time, _, call = heapq.heappop(self._events)
            self.now = max(self.now, time)
            call()
        self.now = until

    # -- processes ---------------------------------------------------------------------------

    def start(self, me: int) -> None:
        """Begin a process on what its disk has."""
        node = self.nodes[me]
        node.life += 1
        node.bully = Bully(
            me,
            self.nodes,
            node.position,
            int(self.now * 1000) + 1,
            self.timing,
            self.chance,
            self.now,
            *node.promised,
        )
        for other in self.nodes.values():
            if other is not node and other.bully is not None:
                other.bully.link(me, True, self.now)
                node.bully.link(other.me, True, self.now)
        self._do(node)

    def crash(self, me: int) -> None:
        """End a process; what it has sent may still arrive."""
        node = self.nodes[me]
        node.bully, node.life = None, node.life + 1
        for other in self.nodes.values():
            if other.bully is not None:
                other.bully.link(me, False, self.now)
                self._do(other)

    def pause(self, me: int, seconds: float) -> None:
        """Stop a process for a while; what comes meanwhile waits."""
        self.nodes[me].wakes = self.now + seconds

    def tick(self, node: Node, life: int) -> None:
        """Its time has come, unless it was started anew since."""
        if life == node.life and node.bully is not None:
            if self.now < node.wakes:
                self.at(node.wakes, lambda: self.tick(node, life))
                return
            node.bully.tick(self.now)
            self._replicate(node)
            self._do(node)

    # -- messages ----------------------------------------------------------------------------

    def send(self, sender: int, to: int, message: Ballot | Append | Appended) -> None:
        """Put a message on its way."""
        if (sender, to) in self.cut or self.chance.random() < self.loss:
            return
        life = self.nodes[to].life
        self.at(
            self.now + self.chance.uniform(*self.delays),
            lambda: self._arrive(sender, to, life, message),
        )

    def _arrive(self, sender: int, to: int, life: int, message: Ballot | Append | Appended) -> None:
        node = self.nodes[to]
        if node.bully is None or node.life != life:
            return
        if self.now < node.wakes:
            self.at(node.wakes, lambda: self._arrive(sender, to, life, message))
            return
        if isinstance(message, Append):
            self._append(node, sender, message)
        elif isinstance(message, Appended):
            self._appended(node, sender, message)
        else:
            node.bully.receive(sender, message, self.now)
        self._do(node)

    def _do(self, node: Node) -> None:
        bully = node.bully
        assert bully is not None
        for effect in bully.effects():
            if isinstance(effect, Keep):
                assert effect.number >= node.promised[0]
                node.promised = (effect.number, effect.node)
            elif isinstance(effect, Send):
                self.send(node.me, effect.to, effect.message)
            else:
                self._turned(node, effect)
        self._check()
        life, due = node.life, bully.due
        self.at(max(due, self.now), lambda: self._due(node, life, due))

    def _due(self, node: Node, life: int, due: float) -> None:
        # Only the latest time counts that it has named.
        if node.bully is not None and node.bully.due == due:
            self.tick(node, life)

    def _turned(self, node: Node, turned: Turned) -> None:
        self.turns.append((self.now, node.me, turned))
        if turned.after is State.PRIMARY:
            first = self.primaries.setdefault(turned.number, node.me)
            assert first == node.me, f"epoch {turned.number} has primaries {first} and {node.me}"
            for value, (index, number) in self.acknowledged.items():
                if number > turned.number:
                    # It was stopped when it won; it serves nobody any more.
                    continue
                held = node.log[index - 1][1] if index <= len(node.log) else None
                assert held == value, f"{node.me} lacks {value} at {index} as primary"
            node.has, node.matched, node.sent, node.committed = {}, {}, {}, 0
            self.write(node, serving=False)

    # -- the log -----------------------------------------------------------------------------

    def write(self, node: Node, serving: bool = True) -> None:
        """Append an entry, where the node is a primary that serves."""
        bully = node.bully
        if bully is None or self.now < node.wakes or (serving and not bully.serves(self.now)):
            return
        self._values += 1
        node.log.append((bully.number, self._values))
        bully.appended(node.position)
        self._replicate(node)

    def _replicate(self, node: Node) -> None:
        if node.bully is None or node.bully.state is not State.PRIMARY:
            return
        for other in self.nodes:
            if other != node.me:
                after = min(node.has.get(other, len(node.log)), len(node.log))
                before = node.log[after - 1][0] if after else 0
                entries = tuple(node.log[after : after + 50])
                self.send(node.me, other, Append(node.bully.number, after, before, entries))

    def _append(self, node: Node, sender: int, message: Append) -> None:
        bully = node.bully
        assert bully is not None
        if (bully.primary, bully.number) != (sender, message.number):
            return
        if bully.promised != message.number:
            return
        log, after = node.log, message.after
        if after > len(log) or (after and log[after - 1][0] != message.before):
            self.send(node.me, sender, Appended(message.number, min(after - 1, len(log)), False))
            return
        for place, entry in enumerate(message.entries, after):
            if place < len(log) and log[place][0] != entry[0]:
                del log[place:]
            if place == len(log):
                log.append(entry)
        bully.appended(node.position)
        reached = after + len(message.entries)
        self.send(node.me, sender, Appended(message.number, reached, True))

    def _appended(self, node: Node, sender: int, message: Appended) -> None:
        bully = node.bully
        assert bully is not None
        if bully.state is not State.PRIMARY or bully.number != message.number:
            return
        node.has[sender] = message.reached
        if not message.match:
            self._replicate(node)
            return
        node.matched[sender] = max(node.matched.get(sender, 0), message.reached)
        others = [node.matched.get(other, 0) for other in self.nodes if other != node.me]
        index = sorted([len(node.log), *others], reverse=True)[len(self.nodes) // 2]
        # Entries of an earlier epoch are not safe by being counted.
        if index and node.log[index - 1][0] == bully.number:
            for place in range(node.committed, index):
                self.acknowledged.setdefault(node.log[place][1], (place + 1, bully.number))
            node.committed = max(node.committed, index)
        if message.reached < len(node.log) and message.reached > node.sent.get(sender, 0):
            node.sent[sender] = message.reached
            self._replicate(node)

    # -- what must hold ----------------------------------------------------------------------

    def serving(self) -> list[int]:
        """Who serves now; a node that is stopped serves nobody."""
        return [
            node.me
            for node in self.nodes.values()
            if node.bully is not None and self.now >= node.wakes and node.bully.serves(self.now)
        ]

    def _check(self) -> None:
        assert len(self.serving()) <= 1, f"{self.serving()} serve at {self.now}"
        for node in self.nodes.values():
            assert node.bully is None or node.bully.broken == 0, "an epoch has primaries"

    def check_logs(self) -> None:
        """Logs that agree on an entry agree on what is before it."""
        logs = [node.log for node in self.nodes.values()]
        for one in logs:
            for other in logs:
                same = [
                    place
                    for place in range(min(len(one), len(other)))
                    if one[place] == other[place]
                ]
                if same:
                    assert one[: same[-1]] == other[: same[-1]], "logs agree after a difference"

    def heal(self) -> None:
        """No more faults."""
        self.cut.clear()
        self.loss, self.delays = 0.0, (0.0005, 0.003)
        for node in self.nodes.values():
            node.wakes = min(node.wakes, self.now)
            if node.bully is None:
                self.start(node.me)


def adversary(model: Model, seconds: float) -> None:
    """Let faults of all kinds come and go for a while, under steady writes."""
    chance, nodes = model.chance, list(model.nodes)
    end = model.now + seconds

    def cut() -> None:
        side = {node for node in nodes if chance.random() < 0.5}
        both = chance.random() < 0.6
        for one in nodes:
            for other in nodes:
                if (one in side) != (other in side) and (both or one in side):
                    model.cut.add((one, other))

    def bridge() -> None:
        middle = chance.choice(nodes)
        rest = [node for node in nodes if node != middle]
        half = len(rest) // 2
        for one in rest[:half]:
            for other in rest[half:]:
                model.cut |= {(one, other), (other, one)}

    def fault() -> None:
        if model.now >= end:
            return
        node = chance.choice(nodes)
        what = chance.choice(FAULTS)
        if what == "crash" and model.nodes[node].bully is not None:
            model.crash(node)
        elif what == "restart":
            model.crash(node)
            model.start(node)
        elif what == "start" and model.nodes[node].bully is None:
            model.start(node)
        elif what == "pause":
            model.pause(node, chance.uniform(0.05, 2.0))
        elif what == "cut":
            cut()
        elif what == "bridge":
            bridge()
        elif what == "loss":
            model.loss = chance.choice([0.0, 0.02, 0.2, 0.35])
        elif what == "slow":
            model.delays = chance.choice([(0.0005, 0.003), (0.01, 0.1), (0.001, 0.4), (0.001, 1.5)])
        elif what == "heal":
            model.cut.clear()
        model.at(model.now + chance.expovariate(2.0), fault)

    def write() -> None:
        model.write(model.nodes[chance.choice(nodes)])
        if model.now < end + 4.0:
            model.at(model.now + 0.02, write)

    model.at(model.now + 1.0, fault)
    model.at(model.now, write)
    model.run(seconds)
    model.heal()
