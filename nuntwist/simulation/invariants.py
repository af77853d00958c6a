"""What must hold after every step, and at the end.

- An epoch of a set has one primary.
- Logs that agree on the epoch and the index of a record agree on everything before it: for each
  record that any node had, there is one hash of all up to there.
- A watcher is sent no older version of a key after a newer one.
- No state is found to differ from the primary's while nodes compare them.
- When the faults have stopped there is one primary, and all states and logs are equal.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from nuntwist.cluster.states import State
from nuntwist.core.state_hash import sum_of
from nuntwist.oplog.record import split
from nuntwist.values import INDEX, Epoch

if TYPE_CHECKING:
    from nuntwist.simulation.node import SimulatedNode

_PIECE: Final = 1 << 20


class Violation(AssertionError):
    """Something happened that must never happen."""


class Invariants:
    """Looks at nodes as something happens to them."""

    def __init__(self) -> None:
        self._primaries: dict[tuple[int, int], int] = {}
        self._hashes: dict[tuple[Epoch, int], bytes] = {}
        # Of each node, the ends of its records with the hash of all up to there.
        self._logs: dict[int, list[tuple[int, bytes]]] = {}
        self._turns: dict[int, tuple[State, int]] = {}

    def look(self, node: SimulatedNode) -> None:
        """Something has happened to a node.

        :raise Violation: it must not.
        """
        election = node.member.election
        if self._turns.get(node.place) != (election.state, election.number):
            self._turns[node.place] = election.state, election.number
            if election.state is State.PRIMARY:
                self._note_primary(node)
        if node.node.counters.states_differed:
            raise Violation(f"node {node.place} has found states that differ: a false alarm")
        known = self._logs.setdefault(node.place, [])
        last = node.oplog.last.index
        if last != (known[-1][0] if known else 0):
            self._read_log(node, known)

    def _note_primary(self, node: SimulatedNode) -> None:
        epoch = node.member.belonging.set_id, node.member.election.number
        first = self._primaries.setdefault(epoch, node.place)
        if first != node.place:
            raise Violation(f"epoch {epoch[1]} has two primaries: {first} and {node.place}")

    def written(self, node: SimulatedNode, first: int, data: bytes) -> None:
        """Records were written to a log."""
        known = self._logs.setdefault(node.place, [])
        while known and known[-1][0] >= first:
            known.pop()
        at, hashed = known[-1] if known else (0, b"")
        if at == first - 1:
            self._add(node, known, hashed, data)

    def _add(
        self, node: SimulatedNode, known: list[tuple[int, bytes]], hashed: bytes, data: bytes
    ) -> None:
        for record in split(data, "a log"):
            hashed = blake2b(hashed + record.data, digest_size=16).digest()
            known.append((record.ops[-1][INDEX], hashed))
            self._compare(node, record.epoch, known[-1][0], hashed)

    def _read_log(self, node: SimulatedNode, known: list[tuple[int, bytes]]) -> None:
        oplog = node.oplog
        while known and known[-1][0] > oplog.last.index:
            known.pop()
        at, hashed = known[-1] if known else (0, b"")
        if at < oplog.first - 1:
            # It has a copy of all up to there; perhaps a process before this one took it.
            known.clear()
            at = oplog.first - 1
            epoch = oplog.epoch_at(at)
            hashed = b"" if epoch is None else self._hashes.get((epoch, at), b"")
        while data := oplog.records(at, _PIECE):
            self._add(node, known, hashed, data)
            at, hashed = known[-1]

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
        self._turns.pop(node.place, None)

    # -- at the end --------------------------------------------------------------------------

    def unlike(self, nodes: list[SimulatedNode], now: float) -> str | None:
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


class WatchOrder:
    """What one watcher is sent.

    :param name: of the watcher, for the message.
    """

    def __init__(self, name: str) -> None:
        self._name = name
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
            raise Violation(f"{self._name} was sent {key} {now} after {before}")
        self._versions[key] = now
