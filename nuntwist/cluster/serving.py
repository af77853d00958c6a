"""What a node of a set does for its clients with the help of the others.

Writes are forwarded (:mod:`nuntwist.cluster.forwards`), the reads that must be are confirmed
(:mod:`nuntwist.cluster.confirming`), and write concerns are counted.
"""

from __future__ import annotations

from nuntwist.cluster.confirming import Confirming
from nuntwist.cluster.forwards import Forwards
from nuntwist.cluster.member import Member
from nuntwist.core.concern import MAJORITY, Concern
from nuntwist.core.node import Node


class Serving:
    """The services of one node.

    :param wait: for how long a write waits without a primary, in seconds.
    :param concern: the write concern of the node; its events follow it.
    """

    def __init__(self, member: Member, node: Node, wait: float, concern: Concern) -> None:
        self._member = member
        self.forwards = Forwards(member, node, wait)
        self.confirming = Confirming(member)
        concerns, journal = node.pipeline.concerns, node.pipeline.journal
        concerns.default = concern
        concerns.reached = self._reached
        concerns.read_index = self.confirming.read_index
        if concern.replicas == MAJORITY:
            journal.by_commit = True

    def _reached(self, replicas: int) -> int:
        reign = self._member.reign
        return 0 if reign is None else reign.commits.held_by(replicas + 1)

    def stop(self) -> None:
        """The node stops."""
        self.confirming.turned()
        self.forwards.stop()
