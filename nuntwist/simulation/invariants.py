"""What must hold after every step, and at the end.

- An epoch of a set has one primary, and at most one node serves at a time.
- Logs that agree on the epoch and the index of a record agree on everything before it: for each
  record that any node had, there is one hash of all up to there.
- A write that was answered with a majority behind it is in the log of every later primary
  (:mod:`nuntwist.simulation.promises`).
- A watcher is sent no older version of a key after a newer one, but where its node has taken off
  what its set does not have.
- No state is found to differ from the primary's while nodes compare them, unless one was changed
  on purpose.
- When the faults have stopped there is one primary, and all states and logs are equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from nuntwist.cluster.states import State
from nuntwist.core.state_hash import sum_of
from nuntwist.oplog.record import split
from nuntwist.simulation.promises import Promises, Violation
from nuntwist.values import INDEX, NO_EPOCH, Epoch, Position

if TYPE_CHECKING:
    from nuntwist.simulation.node import SimulatedNode

NOWHERE: Final = Position(NO_EPOCH, 0)
_PIECE: Final = 1 << 20


class Invariants:
    """Looks at nodes as something happens to them.

    :param nodes: gives all there are.
    :ivar promises: what clients were answered.
    :ivar corrupted: whether the memory of a node was changed by the adversary.
    """

    def __init__(self, nodes: Callable[[], Iterable[SimulatedNode]] = tuple) -> None:
        self._nodes = nodes
        self.promises = Promises()
        self.corrupted = False
        self._primaries: dict[tuple[int, int], int] = {}
        self._hashes: dict[tuple[Epoch, int], bytes] = {}
        # Of each node, the ends of its records with the hash of all up to there.
        self._logs: dict[int, list[tuple[int, bytes]]] = {}
        self._ends: dict[int, Position] = {}
        self._turns: dict[int, tuple[State, int]] = {}

    def look(self, node: SimulatedNode) -> None:
        """Something has happened to a node.

        :raise Violation: it must not.
        """
        known = self._logs.setdefault(node.place, [])
        last = node.oplog.last
        if last != self._ends.get(node.place, NOWHERE):
            self._ends[node.place] = last
            if not known or known[-1][0] != last.index or not self._is_there(node, *known[-1]):
                self._read_log(node, known)
        election = node.member.election
        if self._turns.get(node.place) != (election.state, election.number):
            self._turns[node.place] = election.state, election.number
            if election.state is State.PRIMARY:
                self._note_primary(node)
        if node.node.counters.states_differed and not self.corrupted:
            raise Violation(f"node {node.place} has found states that differ: a false alarm")

    def _note_primary(self, node: SimulatedNode) -> None:
        number = node.member.election.number
        set_id = node.member.belonging.set_id
        first = self._primaries.setdefault((set_id, number), node.node_id)
        if first != node.node_id:
            raise Violation(f"epoch {number} has two primaries: {first} and {node.node_id}")
        for other in self._nodes():
            if other is not node and other.running and _serve_both(node, other):
                raise Violation(f"node {other.place} serves, and node {node.place} is primary")
        self.promises.leads(node.place, set_id, number, self.end_of(node))

    def end_of(self, node: SimulatedNode) -> bytes:
        """The hash of all that is in a node's log."""
        known = self._logs.get(node.place)
        return known[-1][1] if known else b""

    def written(self, node: SimulatedNode, first: int, data: bytes) -> None:
        """Records were written to a log."""
        known = self._logs.setdefault(node.place, [])
        while known and known[-1][0] >= first:
            known.pop()
        if known and not self._is_there(node, *known[-1]):
            # It has a copy of all up to there instead.
            return
        at, hashed = known[-1] if known else (0, b"")
        if at == first - 1:
            self._add(node, known, hashed, data)

    def _add(
        self, node: SimulatedNode, known: list[tuple[int, bytes]], hashed: bytes, data: bytes
    ) -> None:
        for record in split(data, "a log"):
            before = hashed
            hashed = blake2b(hashed + record.data, digest_size=16).digest()
            known.append((record.ops[-1][INDEX], hashed))
            self._compare(node, record.epoch, known[-1][0], hashed)
            self.promises.logged(record, hashed, before)

    def _read_log(self, node: SimulatedNode, known: list[tuple[int, bytes]]) -> None:
        oplog = node.oplog
        while known and not self._is_there(node, *known[-1]):
            known.pop()
        at, hashed = known[-1] if known else (oplog.first - 1, b"")
        if at < oplog.first - 1 or not known:
            # It has a copy of all up to there, or has forgotten the beginning.
            known.clear()
            at = oplog.first - 1
            epoch = oplog.epoch_at(at)
            hashed = b"" if epoch is None else self._hashes.get((epoch, at), b"")
            if at and not hashed:
                raise Violation(f"the log of node {node.place} begins where no other log was")
            known.append((at, hashed))
        while data := oplog.records(at, _PIECE):
            self._add(node, known, hashed, data)
            at, hashed = known[-1]

    def _is_there(self, node: SimulatedNode, index: int, hashed: bytes) -> bool:
        """Whether a node's log still has at an index what it was known to have there."""
        oplog = node.oplog
        if not oplog.first - 1 <= index <= oplog.last.index:
            return False
        epoch = oplog.epoch_at(index)
        return epoch is not None and self._hashes.get((epoch, index)) == hashed

    def _compare(self, node: SimulatedNode, epoch: Epoch, index: int, hashed: bytes) -> None:
        held = self._hashes.setdefault((epoch, index), hashed)
        if held != hashed:
            raise Violation(
                f"the log of node {node.place} agrees with another one on epoch {epoch.number} and"
                f" index {index}, and not on what is before"
            )

    def restarted(self, node: SimulatedNode) -> None:
        """A node has read its log anew."""
        self._logs.pop(node.place, None)
        self._ends.pop(node.place, None)
        self._turns.pop(node.place, None)

    # -- at the end --------------------------------------------------------------------------

    def unlike(self, nodes: Sequence[SimulatedNode], now: float) -> str | None:
        """In what nodes differ that should be the same by now; None where they do not."""
        serving = [node.place for node in nodes if node.member.election.serves(now)]
        if len(serving) != 1:
            return f"primaries: {serving}"
        ends = {node.place: node.oplog.last for node in nodes}
        if len(set(ends.values())) != 1:
            told = {place: (end.epoch.number, end.index) for place, end in ends.items()}
            return f"logs end at {told}"
        sums = {node.place: sum_of(node.node.catalogue) for node in nodes}
        return None if len(set(sums.values())) == 1 else f"states differ: {sums}"


def _serve_both(node: SimulatedNode, other: SimulatedNode) -> bool:
    now = node.process.seconds()
    one, two = node.member, other.member
    same = one.belonging.set_id == two.belonging.set_id
    return same and one.election.serves(now) and two.election.serves(now)


class WatchOrder:
    """What one watcher is sent.

    :param name: of the watcher, for the message.
    :param cuts: gives how often its node has taken off something that clients may have been told
        of. Each time it is told once of each key what has survived, which may be older.
    """

    def __init__(self, name: str, cuts: Callable[[], int] = lambda: 0) -> None:
        self._name = name
        self._cuts = cuts
        self._cuts_before = cuts()
        self._older: Counter[str] = Counter()
        self._versions: dict[str, tuple[int, str]] = {}
        self.seen = 0

    def take(self, line: str) -> None:
        """A line has come.

        :raise Violation: it tells of something older than the one before.
        """
        if not line.startswith("changed-version "):
            return
        _, key, version, value = line.split(" ", 3)
        self.seen += 1
        now = int(version), value
        before = self._versions.get(key)
        if before is not None and (now[0] < before[0] or (now[0] == before[0] and now != before)):
            # What was on its way when something was taken off comes later than that.
            self._older[key] += 1
            if self._older[key] > self._cuts() - self._cuts_before:
                raise Violation(f"{self._name} was sent {key} {now} after {before}")
        self._versions[key] = now
