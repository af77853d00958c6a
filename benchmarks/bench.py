"""What all measures share: settings, cores, the servers of a run, and taking turns."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from benchmarks.figures import Side
from benchmarks.load import Engine
from benchmarks.servers import Node, Process, RedisServer

AnyProcess = TypeVar("AnyProcess", bound=Process)

Player: TypeAlias = tuple[Process, Callable[[], float]]
"""A server, and what runs one turn of it and gives the figure."""


@dataclass(frozen=True)
class Settings:
    """How long and how large.

    :ivar rounds: turns of each server in the measures that take turns.
    :ivar seconds: length of a turn.
    :ivar connections: of the throughput measures.
    :ivar depths: commands a batch.
    :ivar watchers: sizes of the fan-out.
    :ivar deliveries: deliveries in a turn of the fan-out, about.
    :ivar idle: idle connections.
    :ivar hostile: hostile connections.
    :ivar keys: how many make "a million keys"; a multiple of 100,000.
    """

    rounds: int = 5
    seconds: float = 2.0
    connections: int = 50
    depths: tuple[int, ...] = (1, 16, 100)
    web_depths: tuple[int, ...] = (1, 16)
    watchers: tuple[int, ...] = (100, 1000, 5000)
    deliveries: int = 100_000
    idle: int = 5000
    keys: int = 1_000_000
    hostile: int = 10_000

    def facts(self) -> dict[str, object]:
        """Give them for the JSON file."""
        return asdict(self)


QUICK = Settings(
    rounds=2,
    seconds=0.5,
    watchers=(100, 1000),
    deliveries=20_000,
    idle=1000,
    keys=200_000,
    hostile=2000,
)
"""For a look in between; figures of it are rough."""


@dataclass(frozen=True)
class Sample:
    """One turn of one server: a figure, and the shares of a core used by both ends."""

    figure: float
    cpu: float
    generator: float


class Bench:
    """A run: where servers come from and how turns are taken.

    :param directory: for the data of the servers.
    :param tree: the source tree of the node.
    :param cores: the servers' core and the generator's, or None where there are not two.
    :param with_redis: whether Redis is there.
    :param say: takes a line about the progress.
    """

    def __init__(
        self,
        directory: Path,
        tree: Path,
        engine: Engine,
        settings: Settings,
        cores: tuple[int, int] | None,
        with_redis: bool,
        say: Callable[[str], None],
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.with_redis = with_redis
        self.say = say
        self._directory = directory
        self._tree = tree
        self._cores = cores
        self._core = cores[0] if cores else None
        self._made = 0

    @contextlib.contextmanager
    def node(
        self,
        tree: Path | None = None,
        name: str = "nuntwist",
        variables: Mapping[str, str] | None = None,
    ) -> Iterator[Node]:
        """A fresh node, running; removed at the end of the block."""
        made = Node(self._fresh(), self._core, tree or self._tree, name, variables)
        with self._running(made) as node:
            yield node

    @contextlib.contextmanager
    def redis(self, flush: str = "everysec") -> Iterator[RedisServer | None]:
        """A fresh Redis, running; removed at the end of the block. None without Redis."""
        if not self.with_redis:
            yield None
            return
        with self._running(RedisServer(self._fresh(), self._core, flush)) as redis:
            yield redis

    @contextlib.contextmanager
    def made_node(
        self, variables: Mapping[str, str] | None = None, pinned: bool = True
    ) -> Iterator[Node]:
        """A node that is not started yet; removed at the end of the block.

        :param pinned: whether it has to be on the servers' core.
        """
        node = Node(self._fresh(), self._core, self._tree, "nuntwist", variables)
        if not pinned and self._cores is not None:
            node.cores = set(self._cores)
        with contextlib.ExitStack() as end:
            end.callback(node.remove)
            yield node

    @contextlib.contextmanager
    def made_redis(self, primary: RedisServer | None) -> Iterator[RedisServer]:
        """A Redis that is not started yet; removed at the end of the block."""
        redis = RedisServer(self._fresh(), self._core)
        redis.primary = primary
        with contextlib.ExitStack() as end:
            end.callback(redis.remove)
            yield redis

    def _fresh(self) -> Path:
        self._made += 1
        return self._directory / f"server-{self._made}"

    @contextlib.contextmanager
    def _running(self, server: AnyProcess) -> Iterator[AnyProcess]:
        try:
            server.start()
            yield server
        finally:
            server.remove()

    def sample(self, server: Process, turn: Callable[[], float]) -> Sample:
        """Run one turn; measure what both ends used meanwhile."""
        begin, cpu, generator = time.monotonic(), server.cpu(), time.process_time()
        figure = turn()
        seconds = time.monotonic() - begin
        return Sample(
            figure,
            (server.cpu() - cpu) / seconds,
            (time.process_time() - generator) / seconds,
        )

    def turns(self, players: Sequence[Player]) -> list[Side]:
        """Let servers take turns, A B A B; give what each did."""
        samples: list[list[Sample]] = [[] for _ in players]
        for _ in range(self.settings.rounds):
            for kept, (server, turn) in zip(samples, players, strict=True):
                kept.append(self.sample(server, turn))
        return [side(kept) for kept in samples]


def side(samples: Sequence[Sample]) -> Side:
    """Sum up the turns of one server."""
    return Side(
        [sample.figure for sample in samples],
        statistics.median(sample.cpu for sample in samples),
        statistics.median(sample.generator for sample in samples),
    )


def choose_cores() -> tuple[int, int] | None:
    """Give a core for the servers and one for the generator; None where there is one only."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else None
