"""What a node of a set does for its clients with the help of the others.

What its log needs that the primary's no longer has comes as a copy
(:mod:`nuntwist.cluster.copier`), what was cut off its log is offered
(:mod:`nuntwist.cluster.bargains`). Writes are forwarded (:mod:`nuntwist.cluster.forwards`), the
reads that must be are confirmed (:mod:`nuntwist.cluster.confirming`), and write concerns are
counted. It knows where arbiters are (:mod:`nuntwist.cluster.arbiters`). Its state is compared with
the primary's (:mod:`nuntwist.cluster.comparing`).
"""

from __future__ import annotations

from collections.abc import Collection

from twisted.logger import Logger

from nuntwist.cluster.arbiters import Registry
from nuntwist.cluster.bargains import Bargains
from nuntwist.cluster.comparing import Comparing
from nuntwist.cluster.confirming import Confirming
from nuntwist.cluster.copier import Copier
from nuntwist.cluster.counting import Counting
from nuntwist.cluster.forwards import Forwards
from nuntwist.cluster.member import Member
from nuntwist.cluster.offers import Offer, Offered
from nuntwist.core.concern import MAJORITY, Concern
from nuntwist.core.divergent import Deciding
from nuntwist.core.following import Following
from nuntwist.core.node import Node
from nuntwist.core.state_hash import EVERY
from nuntwist.errors import CommandError
from nuntwist.files import Files


class Serving:
    """The services of one node.

    :param following: the node, as the member has it.
    :param files: of the data directory.
    :param wait: for how long a write waits without a primary, in seconds.
    :param concern: the write concern of the node; its events follow it.
    :param check_every: positions from one check of the state to the next; the same on all nodes.
    """

    _log = Logger()

    def __init__(
        self,
        member: Member,
        node: Node,
        following: Following,
        files: Files,
        wait: float,
        concern: Concern,
        check_every: int = EVERY,
    ) -> None:
        self._member = member
        self.copier = Copier(member, node, files)
        self.bargains = Bargains(
            member.me,
            files,
            Deciding(node),
            member.send,
            lambda: member.election.number,
            member.clock.callLater,
        )
        following.cut_off = self.bargains.cut_off
        self.copier.on_placed = self.bargains.cut_off
        member.on_primary = self.bargains.primary
        member.handlers[Offer] = member.handlers[Offered] = self.bargains.received
        self.comparing = Comparing(member, node, self.copier, check_every)
        self.forwards = Forwards(member, node, wait)
        self.arbiters = Registry(member, node)
        member.on_stream = self._turned
        self.confirming = Confirming(member)
        self.forwards.forwarder.reached = Counting(member, node.pipeline.concerns).reached
        member.on_left = self._forget
        concerns, journal = node.pipeline.concerns, node.pipeline.journal
        concerns.default = concern
        concerns.reached = self._reached
        concerns.read_index = self.confirming.read_index
        if concern.replicas == MAJORITY:
            journal.by_commit = True

    def _turned(self, primary: int | None) -> None:
        self.forwards.turned(primary)
        self.arbiters.turned(primary)

    def _reached(self, replicas: int) -> int:
        reign = self._member.reign
        return 0 if reign is None else reign.commits.held_by(replicas + 1)

    def _forget(self, nodes: Collection[int]) -> None:
        try:
            self.forwards.forget(nodes)
        except CommandError as error:
            self._log.warn(
                "what the log keeps of nodes that have left stays: {error}", error=str(error)
            )

    def stop(self) -> None:
        """The node stops."""
        self.confirming.turned()
        self.arbiters.stop()
        self.comparing.stop()
        self.copier.stop()
        self.forwards.stop()
