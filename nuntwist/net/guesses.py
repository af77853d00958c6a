"""Who tries to be a node with a wrong secret, again and again, has to wait.

Anybody may begin a handshake, and a proof is a guess of the secret, which without
``NUN_CLUSTER_SECRET`` is the admin's password: so wrong ones are counted by address as wrong logins
are (:mod:`nuntwist.core.logins`), but apart from them. From an address that has failed too often a
proof is looked at now and then; others are refused, right or wrong. A node comes again by itself.
"""

from __future__ import annotations

from nuntwist.core.counters import Counters
from nuntwist.core.logins import Logins


class Guesses:
    """The wrong proofs of others.

    :param logins: of its own.
    :param counters: of the node.
    """

    def __init__(self, logins: Logins, counters: Counters) -> None:
        self._logins = logins
        self._counters = counters

    def may_try(self, peer: str) -> bool:
        """Whether a proof is looked at; else it was refused.

        :param peer: the address of the other side.
        """
        may = self._logins.may_now(peer)
        if not may:
            self._counters.delayed_logins += 1
        return may

    def wrong(self, peer: str) -> None:
        """A proof was wrong."""
        self._counters.failed_logins += 1
        self._logins.failed(peer)
