"""A node's part in a replica set, put together for a reactor.

:func:`make_replicas` is called by the composition root for a node that was told of others, or that
has been in a set before; any other node is alone. What it makes:

- the member (:mod:`nuntwist.cluster.member`), which elects, replicates and follows;
- the doors, for nodes that connect to the port of the clients, and the peering, which connects to
  them (:mod:`nuntwist.net.peering`);
- what the commands show of it (:mod:`nuntwist.cluster.overview`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.protocol import Protocol
from twisted.logger import Logger

from nuntwist.cluster.belonging import Terms
from nuntwist.cluster.effects import Timing
from nuntwist.cluster.elections import find_election
from nuntwist.cluster.handshake import Self, peer_key
from nuntwist.cluster.identity import Identity
from nuntwist.cluster.member import Member
from nuntwist.cluster.overview import Overview
from nuntwist.cluster.retiring import Retiring
from nuntwist.cluster.serving import Serving
from nuntwist.config import NodeConfig
from nuntwist.core.concern import Concern, parse_concern
from nuntwist.core.counters import Counters
from nuntwist.core.database import MEMBERS_KEY
from nuntwist.core.following import Following
from nuntwist.core.logins import Logins
from nuntwist.core.node import Node
from nuntwist.core.state_hash import EVERY
from nuntwist.errors import StartError
from nuntwist.files import Files
from nuntwist.net.doors import Doors, Manner
from nuntwist.net.guesses import Guesses
from nuntwist.net.peer_endpoint import endpoint_for
from nuntwist.net.peering import Peering

LEASE_SHARE = 0.8
"""The lease of a primary, as a share of the silence after which others elect another."""
COMPARE_SHARE = 0.2
"""How long a winner waits for the positions of others, as a share of a round."""
CONNECT_SECONDS = 2
"""How long a connection attempt may take."""
BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass(frozen=True, slots=True)
class World:
    """What a node's part in a set needs of the world, beside a reactor.

    :ivar chance: for nonces, delays and ids.
    :ivar endpoint: gives the endpoint that connects to an address.
    :ivar boot: what the machine calls the time since it was started.
    :ivar key: of the secret of the set.
    :ivar check_every: positions from one check of the state to the next.
    """

    chance: random.Random
    endpoint: Callable[[str], Any]
    boot: str
    key: bytes
    check_every: int = EVERY


def real_world(config: NodeConfig, reactor: Any) -> World:
    """That of a process."""
    return World(
        random.SystemRandom(),
        lambda address: endpoint_for(reactor, address, CONNECT_SECONDS),
        _boot_id(),
        peer_key(config.peer_secret),
    )


class Replicas:
    """See the module's header.

    :param config: of the node.
    :param node: recovered.
    :param files: the data directory.
    :param world: other than that of a real process.
    :ivar comparing: knows the hash of this node's state, and whose state is the same.
    """

    _log = Logger()

    def __init__(
        self,
        config: NodeConfig,
        node: Node,
        identity: Identity,
        files: Files,
        reactor: Any,
        world: World | None = None,
    ) -> None:
        world = world or real_world(config, reactor)
        address = node.info.address
        self._node = node
        self._identity = identity
        self._bootstrap = [other for other in config.replicate_addresses if other != address]
        self._asked: set[str] = set()
        _note_start(config, identity, world)
        following = Following(node)
        self.member = _member(config, node, following, identity, reactor, world)
        self._serving = _serving(config, self.member, node, following, files, world)
        self.comparing = self._serving.comparing
        manner = _manner(config, self.member, node.counters, reactor, world)
        self.doors = Doors(manner)
        links = self.member.links
        self._peering = Peering(manner, world.endpoint, links.__contains__, links.at)
        self.member.on_addresses = self._reach
        node.replica_set = Overview(
            self.member,
            node.oplog,
            self._bootstrap,
            self._ask,
            self._name_of,
            self.comparing,
        )

    def _name_of(self, number: int) -> str:
        database = self._node.catalogue.by_id.get(number)
        return f"number {number}" if database is None else database.name.decode()

    # -- the life of it ----------------------------------------------------------------------

    def start(self) -> None:
        """Take part; before the node listens."""
        self.member.start()

    def connect(self) -> None:
        """Connect to the others; when the node listens."""
        self._reach()

    def open_door(self) -> Protocol | None:
        """The protocol for a connection that begins as a node; None when it is stopped."""
        return self.doors.open()

    def _ask(self, address: str) -> None:
        self._asked.add(address)
        self._reach()

    def _reach(self) -> None:
        wanted = {*self._bootstrap, *self._asked, *self.member.belonging.addresses()}
        self._peering.set_addresses(sorted(wanted))

    def hand_over(self) -> Deferred[None]:
        """Let another node be primary, if this one is; before the clients are sent away.

        :return: fires with None when this node may stop.
        """
        return Retiring(self.member).begin()

    def stop(self) -> Deferred[Any]:
        """Take no part any more.

        :return: fires with None when all connections are gone.
        """
        self._serving.stop()
        self.member.stop()
        return DeferredList([self._peering.stop(), self.doors.stop()])

    def note_stopped(self) -> None:
        """The log is closed in order."""
        try:
            self.member.doubt.note_reached()
            self._identity.note(clean=True)
        except OSError as error:
            self._log.warn(
                "that the node was stopped in order cannot be noted: {error}", error=str(error)
            )


def make_replicas(
    config: NodeConfig, node: Node, identity: Identity, files: Files, reactor: Any
) -> Replicas | None:
    """Make a node's part in a set; None for a node alone."""
    was_in_one = node.catalogue.admin.value(MEMBERS_KEY) is not None
    if not config.replicate_addresses and not was_in_one:
        # It has nobody to count with, so what is durable here stays.
        node.pipeline.journal.undo = None
        return None
    return Replicas(config, node, identity, files, reactor)


def _member(
    config: NodeConfig,
    node: Node,
    following: Following,
    identity: Identity,
    reactor: Any,
    world: World,
) -> Member:
    address = node.info.address
    told_of = {*config.replicate_addresses, address}
    return Member(
        identity,
        following,
        node.oplog,
        reactor,
        _timing(config),
        world.chance,
        node.info.process_id,
        Terms(address, len(told_of), config.election_quorum, config.fixed_primary or None),
        find_election(config.election),
    )


def _serving(
    config: NodeConfig,
    member: Member,
    node: Node,
    following: Following,
    files: Files,
    world: World,
) -> Serving:
    no_primary = config.no_primary_wait_ms
    patience = _timing(config).round if no_primary is None else no_primary / 1000.0
    return Serving(*(member, node, following, files, patience, _concern(config), world.check_every))


def _manner(
    config: NodeConfig, member: Member, counters: Counters, reactor: Any, world: World
) -> Manner:
    timing = _timing(config)
    logins = Logins(config.failed_logins, reactor.seconds)
    return Manner(
        lambda: Self(member.me, member.belonging.set_id, member.terms.address),
        world.key,
        member,
        reactor,
        world.chance,
        timing.beat,
        2 * timing.suspicion,
        Guesses(logins, counters),
    )


def _concern(config: NodeConfig) -> Concern:
    replicas = parse_concern(config.write_concern.encode()).replicas
    return Concern(replicas, config.write_concern_timeout_ms)


def _timing(config: NodeConfig) -> Timing:
    suspicion, wait = config.suspicion_ms / 1000.0, config.election_timeout_ms / 1000.0
    return Timing(
        config.heartbeat_ms / 1000.0,
        suspicion,
        suspicion * LEASE_SHARE,
        wait,
        wait * COMPARE_SHARE,
    )


def _note_start(config: NodeConfig, identity: Identity, world: World) -> None:
    try:
        identity.note_start(world.boot, config.durability == "disk")
    except OSError as error:
        raise StartError(
            f"The data directory {config.dbs_dir} cannot be written: {error.strerror}."
        ) from None


def _boot_id() -> str:
    """What the machine calls the time since it was started; empty where it does not say."""
    try:
        with open(BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
