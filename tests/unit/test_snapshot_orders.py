"""Snapshots in files, with threads that end in any order and a node that is killed at any time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from nuntwist.core.limits import Limits
from nuntwist.files import MemoryFiles
from nuntwist.oplog.memory import MemoryOplog
from nuntwist.storage.disk import DiskStorage
from nuntwist.testing import MemoryNode
from nuntwist.values import KEY, VALUE, VERSION

State = dict[bytes, dict[bytes, tuple[bytes | None, int]]]
LIMITS = Limits(partitions=3, one_partition=8)


class Threads:
    """Threads that do what they were given when they are told to, in any order."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], object], Deferred[Any]]] = []

    def __call__(self, function: Callable[..., object], *arguments: object) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.waiting.append((partial(function, *arguments), done))
        return done

    def run(self, number: int) -> None:
        """Do one of them; its result arrives at once."""
        function, done = self.waiting.pop(number % len(self.waiting))
        try:
            result = function()
        except OSError:
            done.errback()
        else:
            done.callback(result)


class ShortOplog(MemoryOplog):
    """Keeps nothing that snapshots cover."""

    def forget(self, index: int, keep: int | None = None) -> Deferred[int]:
        return super().forget(index, 0)


class World:
    """A node, killed and started again on what is left."""

    def __init__(self) -> None:
        self.files, self.oplog = MemoryFiles(), ShortOplog()
        self.start()

    def start(self) -> None:
        self.threads = Threads()
        self.storage = DiskStorage(self.files, self.threads)
        self.node = MemoryNode(self.oplog, self.storage, LIMITS)

    def do(self, step: str | int) -> None:
        if step == "kill":
            before = self.state()
            self.files.restart()
            self.start()
            assert self.state() == before
        elif isinstance(step, str):
            # Each by a client of its own: nobody waits for another's answer.
            self.node.admin().send(step)
        elif self.threads.waiting:
            self.threads.run(step)
            self.node.settle()

    def end(self) -> None:
        """Let all come to an end; then what is kept is all there is."""
        while self.threads.waiting:
            self.do(0)
        admin = self.node.admin()
        admin.send("snapshot false $admin")
        while self.threads.waiting:
            self.do(0)
        assert admin.received() == "ok \n"
        assert self.node.node.snapshots.covered() == self.oplog.last.index
        self.do("kill")
        while self.threads.waiting:
            self.do(0)
        named = [name for one in self.storage._manifests.values() for name in one.names]
        parts = [name for name in self.files.names() if name.endswith(".part")]
        assert sorted(parts) == sorted(named)

    def state(self) -> State:
        found: State = {}
        for name, database in self.node.node.catalogue.by_name.items():
            ops = (op for shard in range(64) for op in database.entries(shard))
            # Names in $admin have the index of a creation, which is no version of a key.
            found[name] = {op[KEY]: (op[VALUE], op[VERSION]) for op in ops}
        del found[b"$admin"]
        return found


KEYS = st.integers(0, 11)
NAMES = st.sampled_from("aaab")
THREADS = st.integers(0, 3)
SNAPSHOTS = [f"snapshot {whole} {names}" for whole in ("false", "true") for names in ("a", "a|a")]
STEPS = st.lists(
    st.one_of(
        *[st.builds("use-db {} t\nset k{} {}".format, NAMES, KEYS, KEYS)] * 2,
        *[st.builds("use-db {} t\nremove k{}".format, NAMES, KEYS)] * 2,
        *[st.sampled_from([*SNAPSHOTS, "snapshot false $admin"])] * 3,
        *[THREADS] * 5,
        *[st.just("kill")] * 2,
        st.builds("create-db {} t".format, NAMES),
        st.builds("drop-db {}".format, NAMES),
    ),
    min_size=20,
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_any_order_of_threads_and_any_kill_leaves_what_was_answered(steps: list[Any]) -> None:
    world = World()
    for step in ("create-db a t", "use-db a t\n" + "\n".join(f"set k{n} 0" for n in range(12))):
        world.do(step)
    for step in steps:
        world.do(step)
    world.end()
