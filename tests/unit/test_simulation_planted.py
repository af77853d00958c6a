"""Faults that are put into the code on purpose: the simulation finds each within a few seeds.

docs/testing.md has the table of them. A fault that is found by nothing would say that the
simulation looks away there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import pytest
from twisted.internet.defer import succeed

from nuntwist.cluster.ballots import Beat, Stale, Victory
from nuntwist.cluster.bully import Bully
from nuntwist.cluster.commits import Commits
from nuntwist.cluster.confirming import Confirming
from nuntwist.cluster.forwards import Forward, Forwards
from nuntwist.cluster.identity import Identity
from nuntwist.cluster.incoming import Incoming
from nuntwist.cluster.outgoing import Log, last_index
from nuntwist.cluster.states import State
from nuntwist.cluster.stream import Applied, Cut, Have, Records
from nuntwist.core import forwarded
from nuntwist.core.assigning import Table
from nuntwist.core.desk import Desk
from nuntwist.core.handlers import HANDLERS
from nuntwist.core.pipeline import Pipeline
from nuntwist.core.seats import Case
from nuntwist.core.trays import Trays
from nuntwist.core.undo import Undo
from nuntwist.errors import CommandError
from nuntwist.language.replies import OK
from nuntwist.net.tcp import LineProtocol
from nuntwist.oplog import cutting
from nuntwist.simulation.plan import PLANS, Plan
from nuntwist.simulation.running import Run, simulate
from nuntwist.values import NO_EPOCH, SET, Epoch, Position

pytestmark = pytest.mark.many_cases

Patch = pytest.MonkeyPatch
Write = Callable[[bytes], None]


SEEDS = 15
"""Within so many each is found; as a rule it is one of the first two."""


def found(plan: Plan, seeds: Sequence[int]) -> str:
    """What the first of some seeds that fails says."""
    for seed in seeds:
        failure = simulate(seed, plan).failure
        if failure is not None:
            return failure
    return "nothing"


# -- elections -------------------------------------------------------------------------------------


def rank_without_the_log(patch: Patch) -> None:
    """The senior one wins, whatever it lacks."""

    def appended(self: Bully, position: Position) -> None:
        self._position = Position(NO_EPOCH, 0)

    patch.setattr(Bully, "appended", appended)


def handlers() -> dict[type, Any]:
    """How an election takes what comes."""
    from nuntwist.cluster import bully

    return dict(bully._HANDLERS)


def epoch_not_kept(patch: Patch) -> None:
    """A promise is forgotten with the process, so an epoch is promised twice."""

    def forgetful(self: Identity, epoch: Epoch, reached: int = 0) -> None:
        self.epoch = max(self.epoch, epoch)

    patch.setattr(Identity, "raise_epoch", forgetful)


def never_step_down(patch: Patch) -> None:
    """A primary does not heed that there is a later one."""

    def heard(self: Bully, sender: int, message: Any, now: float) -> None:
        if self.state is not State.PRIMARY:
            usual(self, sender, message, now)

    usual = Bully._heard
    deaf = {Victory: heard, Beat: heard, Stale: lambda self, sender, stale, now: None}
    patch.setattr("nuntwist.cluster.bully._HANDLERS", {**handlers(), **deaf})
    patch.setattr(Bully, "_is_cut_off", lambda self, now: False)


def serve_after_the_lease(patch: Patch) -> None:
    """A primary that hears of nobody goes on."""
    patch.setattr(Bully, "lease", lambda self: float("inf"))
    patch.setattr(Bully, "confirmed", lambda self: float("inf"))


# -- the log ---------------------------------------------------------------------------------------


def acknowledge_before_append(patch: Patch) -> None:
    """A secondary says that it has what it appends only with what comes next."""
    held: dict[Incoming, Records] = {}

    def records(self: Incoming, message: Records) -> None:
        if self in held and not message.data:
            return
        before = held.pop(self, None)
        if before is not None:
            usual(self, before)
        if self.in_step and re.search(rb"10\d\.\d", message.data):
            held[self] = message
            last = last_index(message.data)
            self._send(Applied(self._number, last, last))
        else:
            usual(self, message)

    usual = Incoming.records
    patch.setattr(Incoming, "records", records)


def commit_alone(patch: Patch) -> None:
    """The primary counts itself for a majority."""

    def advance(self: Commits) -> bool:
        reached = self.held_by(1)
        if reached < self._begins or reached <= self.index:
            return False
        self.index = reached
        return True

    patch.setattr(Commits, "_advance", advance)


def blind_common_point(patch: Patch) -> None:
    """Logs that have parted are taken for one."""

    def blind(log: Log, have: Have) -> int | None:
        return min(log.last.index, have.position.index)

    patch.setattr("nuntwist.cluster.outgoing.common_index", blind)


def cut_below(patch: Patch) -> None:
    """More is cut off than has parted."""

    def cut(self: Incoming, message: Cut) -> None:
        usual(self, replace(message, index=max(0, message.index - 3)))

    usual = Incoming.cut
    patch.setattr(Incoming, "cut", cut)


def forget_the_tail(patch: Patch) -> None:
    """What is cut off is kept nowhere."""
    patch.setattr(cutting, "keep", lambda *arguments: None)


# -- clients ---------------------------------------------------------------------------------------


def forward_twice(patch: Patch) -> None:
    """A forwarded write is done as often as it is sent."""

    def run(self: Forwards, sender: int, message: Forward) -> None:
        usual(self, sender, message)
        again = replace(message, request=message.request)
        self._later(0.05, usual, self, sender, again)

    usual = Forwards.run
    patch.setattr(Forwards, "run", run)
    patch.setattr(forwarded, "read_marker", lambda marker: (0, b""))


def reveal_before_commit(patch: Patch) -> None:
    """Clients are told of what no majority has."""
    patch.setattr(Undo, "visible", property(lambda self: self.durable))


def read_without_asking(patch: Patch) -> None:
    """A linearizable read does not ask the primary."""

    def read_index(self: Confirming) -> Any:
        return succeed(self._member.committed)

    patch.setattr(Confirming, "read_index", read_index)


def rewired(patch: Patch, wrap: Callable[[LineProtocol, Write], Write]) -> None:
    """Let something be between each client and its connection."""

    def begin(self: LineProtocol) -> None:
        usual(self)
        self.client.write = wrap(self, self.client.write)

    usual = LineProtocol._begin
    patch.setattr(LineProtocol, "_begin", begin)


def events_out_of_order(patch: Patch) -> None:
    """An event waits for the next one, and leaves behind it."""

    def wrap(protocol: LineProtocol, write: Write) -> Write:
        held: list[bytes] = []

        def swapped(data: bytes) -> None:
            if data.startswith(b"changed") and not held:
                held.append(data)
            else:
                write(data)
                while held:
                    write(held.pop())

        return swapped

    rewired(patch, wrap)


def reply_to_another(patch: Patch) -> None:
    """Two clients of a node that read get each other's answers."""
    held: dict[int, tuple[Write, bytes]] = {}

    def wrap(protocol: LineProtocol, write: Write) -> Write:
        place = id(protocol._clients)

        def swapped(data: bytes) -> None:
            if not data.startswith(b"value "):
                write(data)
            elif place not in held:
                held[place] = write, data
            else:
                other, answer = held.pop(place)
                other(data)
                write(answer)

        return swapped

    rewired(patch, wrap)


# -- arbiters --------------------------------------------------------------------------------------


def wait_for_lists_for_ever(patch: Patch) -> None:
    """A new primary gives nothing to anybody."""
    patch.setattr(Desk, "open", lambda self: None)


def stay_with_who_has_left(patch: Patch) -> None:
    """A conflict stays with an arbiter that has left."""
    patch.setattr(Table, "leave", lambda self, seat: None)
    patch.setattr(Table, "overdue", lambda self, most: [])


def lose_what_comes_early(patch: Patch) -> None:
    """A conflict is not sent where the word of the primary comes before its operation."""
    patch.setattr(Trays, "applied", lambda self: None)
    patch.setattr(Table, "overdue", lambda self, most: [])


def forget_what_waits_for_room(patch: Patch) -> None:
    """An arbiter that has room again is given nothing of what waits."""
    patch.setattr(Table, "_freed", lambda self, seat: None)


def count_what_is_decided(patch: Patch) -> None:
    """What an arbiter was sent stands in its window for ever."""
    patch.setattr(Case, "count_no_more", lambda self, conflicts: None)


def decide_what_is_decided(patch: Patch) -> None:
    """An answer that comes too late counts, too."""
    usual = HANDLERS["resolve"]

    def resolve(node: Any, client: Any, arguments: Any) -> Any:
        try:
            return usual(node, client, arguments)
        except CommandError:
            _, _, key, version, value = arguments
            node.pipeline.change(client.database, SET, key, value, version + 1)
            return OK

    patch.setitem(HANDLERS, "resolve", resolve)


def forget_the_version_before(patch: Patch) -> None:
    """What a key had before its conflicts is not kept with them."""
    usual = Pipeline.change

    def change(self: Pipeline, database: Any, kind: int, key: bytes, *rest: Any) -> Any:
        value, version = rest
        is_new = value is not None and value.startswith(b"resolve ")
        return usual(self, database, kind, key, value, 0 if is_new else version)

    patch.setattr(Pipeline, "change", change)


def leave_a_timer(patch: Patch) -> None:
    """Something is scheduled, and never taken back."""
    usual = Run._read_all

    def read_all(self: Run) -> None:
        usual(self)
        for node in self.cluster.nodes:
            node.process.callLater(1e6, lambda: None)

    patch.setattr(Run, "_read_all", read_all)


def plan(*faults: str, base: str = "usual", **more: Any) -> Plan:
    """A plan with few kinds of faults, so that few seeds are needed."""
    return replace(PLANS[base], faults=faults, **more)


ISOLATE = plan("isolate")
DISPUTES = plan("isolate", "crash", base="arbiters", rest=15.0)
ONE_EACH = replace(DISPUTES, config=replace(DISPUTES.config, arbiter_window=1))
LACKS = "primary of epoch .* lacks the write"
PARTED = "not alike: logs end at"

CASES: Final[list[tuple[Callable[[Patch], None], str, Plan, int]]] = [
    (rank_without_the_log, LACKS, plan("slow", "crash", "pause"), 5),
    (epoch_not_kept, "has two primaries", plan("crash", "isolate"), 4),
    (never_step_down, PARTED, ISOLATE, 5),
    (serve_after_the_lease, "node . serves, and node . is primary", ISOLATE, 5),
    (acknowledge_before_append, f"{LACKS}|{PARTED}", plan("crash", "pause"), 1),
    (commit_alone, f"{LACKS}|not linearizable", plan("isolate", "crash"), 6),
    (
        blind_common_point,
        "endless loop|not on what is before",
        replace(ISOLATE, seconds=8.0, rest=2.0),
        5,
    ),
    (cut_below, PARTED, ISOLATE, 5),
    (forget_the_tail, "was answered, and is lost", plan("isolate", base="primary"), 5),
    (forward_twice, "not linearizable", plan("drop"), 1),
    (reveal_before_commit, "was sent .* after", plan("isolate", watchers=10, keys=12), 8),
    (read_without_asking, "not linearizable", ISOLATE, 1),
    (events_out_of_order, "was sent .* after", plan(), 1),
    (reply_to_another, "not linearizable", plan(seconds=4.0), 1),
    (wait_for_lists_for_ever, "not decided", DISPUTES, 1),
    (stay_with_who_has_left, "not decided", DISPUTES, 1),
    (lose_what_comes_early, "not decided", DISPUTES, 1),
    (forget_what_waits_for_room, "not decided", ONE_EACH, 1),
    (count_what_is_decided, "not decided", DISPUTES, 1),
    (decide_what_is_decided, "not decided|while .* is what it was", DISPUTES, 1),
    (forget_the_version_before, "takes the place of a later one", DISPUTES, 1),
    (leave_a_timer, "delayed calls are left", plan(seconds=0.5), 1),
]
"""The fault, what the simulation says, the plan, and a seed from which on it is soon found."""


@pytest.mark.parametrize(
    ("fault", "failure", "made", "first"), CASES, ids=[case[0].__name__ for case in CASES]
)
def test_a_fault_in_the_code_is_found(
    fault: Callable[[Patch], None], failure: str, made: Plan, first: int, monkeypatch: Patch
) -> None:
    fault(monkeypatch)
    assert re.search(failure, found(made, range(first, first + SEEDS)))
