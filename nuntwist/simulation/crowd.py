"""The clients of a run: which there are, as its plan says, and when they come and go.

Writers and watchers have the usual database, disputers and arbiters one of their own
(:mod:`nuntwist.simulation.disputes`). Each has a number above the places of nodes, and a process
and chance of its own. The arbiters stay when the others stop, until all is decided.
"""

from __future__ import annotations

from nuntwist.simulation.client import Client, Seat
from nuntwist.simulation.clients import Watcher, Writer
from nuntwist.simulation.cluster import CLIENTS, Cluster
from nuntwist.simulation.disputes import Arbiter, Disputer
from nuntwist.simulation.history import History
from nuntwist.simulation.process import Process


class Crowd:
    """The clients of one run.

    :param history: takes what the writers do.
    :ivar given: of which conflict each value was an answer of an arbiter, by number.
    """

    def __init__(self, cluster: Cluster, history: History) -> None:
        self.given: dict[bytes, bytes] = {}
        self._cluster = cluster
        self._history = history
        self._clients: list[Client] = []
        self._arbiters: list[Arbiter] = []
        self._last = CLIENTS

    def start(self) -> None:
        """Make them, as the plan says, and let them connect."""
        plan, cluster = self._cluster.plan, self._cluster
        promises = cluster.invariants.promises
        primary = cluster.primary()
        promises.set_id = 0 if primary is None else primary.set_id
        self._clients += [self._writer() for _ in range(plan.writers)]
        cuts = _no_cuts if plan.keeps_all else self._cuts
        self._clients += [Watcher(self._seat(), plan.keys, cuts) for _ in range(plan.watchers)]
        self._clients += [
            Disputer(self._seat(), promises, plan.keys) for _ in range(plan.disputers)
        ]
        self._arbiters += [
            Arbiter(self._seat(), promises, self.given) for _ in range(plan.arbiters)
        ]
        for client in (*self._clients, *self._arbiters):
            client.start()

    def _seat(self) -> Seat:
        """The next one."""
        cluster = self._cluster
        self._last += 1
        process = Process(cluster.clock)
        return Seat(
            self._last,
            process,
            cluster.chance(f"client {self._last}"),
            lambda: cluster.places,
            cluster.way_from(self._last, process),
        )

    def _writer(self) -> Writer:
        plan, seat = self._cluster.plan, self._seat()
        promises = self._cluster.invariants.promises
        # Where the usual concern is the primary's alone, half of the writers ask for more.
        majority = plan.keeps_all or seat.number % 2 == 0
        return Writer(seat, self._history, promises, plan.keys, plan.reads, majority)

    def _cuts(self, place: int) -> int:
        counters = self._cluster.nodes[place - 1].node.counters
        return counters.tails_cut + counters.copies_taken

    @property
    def processes(self) -> list[Process]:
        """Those of all."""
        return [client.process for client in (*self._clients, *self._arbiters)]

    def stop(self) -> None:
        """All but the arbiters go."""
        for client in self._clients:
            client.stop()

    def let_decide(self) -> None:
        """No arbiter is silent any more."""
        for arbiter in self._arbiters:
            arbiter.diligent = True

    def stop_arbiters(self) -> None:
        """They go, too."""
        for arbiter in self._arbiters:
            arbiter.stop()


def _no_cuts(place: int) -> int:
    return 0
