"""Connections that other nodes make to this one, and what all connections to nodes share.

A client's port hands over whoever begins as a node (:mod:`nuntwist.net.tcp`); :class:`Doors` makes
the protocol for it. As anybody can begin so, no more than ``MOST_BEGUN`` handshakes are under way
at once; the oldest makes room.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred

from nuntwist.cluster.handshake import Accepting, Connecting, Self
from nuntwist.net.guesses import Guesses
from nuntwist.net.log_limits import LogLimit
from nuntwist.net.peer import Links, PeerProtocol

MOST_BEGUN: Final = 64
"""Handshakes of others that may be under way at once."""


class Manner:
    """What all connections to nodes have in common.

    :param me: gives what this node says of itself.
    :param key: see :func:`nuntwist.cluster.handshake.peer_key`.
    :param links: is told what happens.
    :param clock: IReactorTime.
    :param chance: for nonces and delays; in a node from the operating system.
    :param beat: seconds after which an idle side says so.
    :param silence: seconds of silence after which a connection is cut off.
    :param guesses: knows whose proofs are looked at; None where all are.
    """

    def __init__(
        self,
        me: Callable[[], Self],
        key: bytes,
        links: Links,
        clock: Any,
        chance: random.Random,
        beat: float,
        silence: float,
        guesses: Guesses | None = None,
    ) -> None:
        self._me = me
        self._key = key
        self._links = links
        self._beat = beat
        self._silence = silence
        self._guesses = guesses
        self.clock = clock
        self.chance = chance
        self.limit = LogLimit(clock.seconds)

    def make(
        self,
        side: type[Connecting | Accepting],
        settled: Callable[[str | None], None],
        gone: Callable[[], None],
    ) -> PeerProtocol:
        """Make the protocol of a connection.

        :param settled: is called once: with None when it is welcome, with the reason where it
            ended before that.
        :param gone: is called once, when it is gone.
        """
        handshake = side(self._me(), self._key, self.chance)
        return PeerProtocol(
            *(handshake, self._links, self.clock, self._beat, self._silence),
            settled=settled,
            limit=self.limit,
            gone=gone,
            guesses=self._guesses,
        )


class Doors:
    """Takes connections of other nodes.

    :ivar dropped: how many handshakes made room for others.
    """

    def __init__(self, manner: Manner) -> None:
        self._manner = manner
        self._begun: dict[PeerProtocol, None] = {}
        self._open: dict[PeerProtocol, None] = {}
        self._stopped: list[Deferred[None]] = []
        self._is_stopped = False
        self.dropped = 0

    def open(self) -> PeerProtocol | None:
        """The protocol for a connection that begins as a node; None once it is stopped."""
        if self._is_stopped:
            return None
        if len(self._begun) >= MOST_BEGUN:
            oldest = next(iter(self._begun))
            self.dropped += 1
            oldest.drop("too many others have begun a handshake")
        protocol = self._manner.make(
            Accepting, lambda _: self._done(protocol), lambda: self._gone(protocol)
        )
        self._begun[protocol] = self._open[protocol] = None
        return protocol

    def _done(self, protocol: PeerProtocol) -> None:
        del self._begun[protocol]

    def _gone(self, protocol: PeerProtocol) -> None:
        del self._open[protocol]
        self._look()

    def stop(self) -> Deferred[None]:
        """Take no more, and end those that were taken.

        :return: fires with None when they are gone.
        """
        stopped: Deferred[None] = Deferred()
        self._stopped.append(stopped)
        self._is_stopped = True
        for protocol in tuple(self._open):
            protocol.close()
        self._look()
        return stopped

    def _look(self) -> None:
        if not self._open:
            stopped, self._stopped = self._stopped, []
            for one in stopped:
                one.callback(None)
