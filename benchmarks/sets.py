"""Replica sets of nodes, and Redis with replicas, as child processes.

All servers of a set share one core, and the load generator has another: on a machine of two cores
there is no fairer way, and it is the same for both. So a write with two replicas costs the core
three times, with us and with Redis.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from benchmarks.bench import Bench
from benchmarks.servers import Node, RedisServer, ServerError

PATIENCE = 60.0
"""Seconds a set may take to be what is waited for."""


def wait_until(true: Callable[[], bool], what: str, patience: float = PATIENCE) -> float:
    """Wait for something; give the seconds that took.

    :raise ServerError: it took too long.
    """
    begin = time.monotonic()
    while not true():
        if time.monotonic() - begin > patience:
            raise ServerError(f"{what}: that took more than {patience:g} s")
        time.sleep(0.01)
    return time.monotonic() - begin


def introduce(nodes: Sequence[Node]) -> None:
    """Tell nodes that are to be a set of each other, before they start."""
    addresses = ",".join(node.address for node in nodes)
    for node in nodes:
        node.set_variables({"NUN_REPLICATE_ADDR": addresses, "NUN_EXTERNAL_ADDR": node.address})


def follows(primary: Node, node: Node) -> bool:
    """Whether a node is a member and has all that the primary had when it was asked.

    The node is asked after the primary: while others write it may be ahead of that answer.
    """
    try:
        state, theirs = primary.state(), node.state()
    except (OSError, ServerError):
        return False
    members = {one["address"] for one in state["replicas"] if one["member"] and one["connected"]}
    same = all(state[name] == theirs[name] for name in ("set_id", "epoch", "primary"))
    return node.address in members and same and theirs["last"] >= state["last"]


def primary_of(nodes: list[Node]) -> Node:
    """The primary of a set, as its nodes see it, when all see the same.

    :raise ServerError: there is none for a long time.
    """

    def told() -> set[str | None]:
        try:
            return {node.state()["primary"] for node in nodes}
        except (OSError, ServerError):
            return {None}

    wait_until(lambda: len(told()) == 1 and None not in told(), "a primary")
    (address,) = told()
    return next(node for node in nodes if node.address == address)


@contextmanager
def nodes(
    bench: Bench, count: int, variables: Mapping[str, str] | None = None
) -> Iterator[list[Node]]:
    """A formed set, its primary first; a node alone where ``count`` is 1."""
    with ExitStack() as running:
        made = [running.enter_context(bench.made_node(variables)) for _ in range(count)]
        if count > 1:
            introduce(made)
        made[0].start()
        for node in made[1:]:
            node.start(node.listens)
        for node in made[1:]:
            wait_until(partial(follows, made[0], node), "a node to follow")
        yield made


@contextmanager
def redis_with_replicas(bench: Bench, replicas: int) -> Iterator[RedisServer | None]:
    """A Redis with some replicas that have all it has; None without Redis."""
    if not bench.with_redis:
        yield None
        return
    with ExitStack() as running:
        primary = running.enter_context(bench.made_redis(None))
        primary.start()
        for _ in range(replicas):
            running.enter_context(bench.made_redis(primary)).start()
        wait_until(lambda: primary.replicas() == replicas, "Redis' replicas")
        yield primary
