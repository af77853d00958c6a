"""A secondary follows its primary: it takes what comes, and begins anew where its log could not.

Each primary's log comes as one stream (:mod:`nuntwist.cluster.incoming`). A stream stops where the
log here takes nothing, as on a full disk, and begins anew every second until it does; it stops for
good where a promise would be broken, or after a failed flush, which only a restart mends. Up to
which index a majority is known to have the log is kept from one stream to the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from nuntwist.cluster.incoming import Incoming
from nuntwist.cluster.stream import Cut, Records
from nuntwist.errors import CorruptData

if TYPE_CHECKING:
    from nuntwist.cluster.member import Member

MEND_SECONDS: Final = 1.0
"""Seconds until a node tries again to follow whose log could not take something."""


class Pursuit:
    """What one node takes of its primaries, one after the other.

    :param member: the node's part in its set.
    :ivar incoming: the stream of the primary there is; None while this node follows nobody.
    :ivar committed: up to which index a majority is known to have the log.
    """

    _log = Logger()

    def __init__(self, member: Member) -> None:
        self._member = member
        self.incoming: Incoming | None = None
        self.committed = 0
        self._mending = False
        self._mend_timer: IDelayedCall | None = None

    def follow(self, primary: int) -> None:
        """Take what a primary sends, from now on."""
        member = self._member
        member.note_stream(None)
        link = member.links.get(primary)
        peer = None if link is None else link.peer
        member.machine.stand_by(None if peer is None else peer.address)
        incoming = self.incoming = Incoming(
            member.machine,
            member.election.number,
            lambda message: member.send(primary, message),
            self.committed,
        )
        incoming.stopped_late = lambda: self._stopped_late(incoming)
        if member.copier is not None:
            member.copier.follow(member.election.number, primary)
            incoming.needs_copy = member.copier.wanted
        incoming.begin()

    def forget(self) -> None:
        """There is no primary to follow."""
        self.incoming = None

    def stop(self) -> None:
        """The node takes no part any more."""
        if self._mend_timer is not None and self._mend_timer.active():
            self._mend_timer.cancel()
        self._mend_timer = None

    def received(self, node: int, message: Records | Cut) -> None:
        """A node has sent a part of its log, or where this node's parts from it."""
        member, incoming = self._member, self.incoming
        if incoming is None or not member.election.heard_of(
            node, message.number, member.clock.seconds()
        ):
            return
        try:
            if isinstance(message, Records):
                incoming.records(message)
            else:
                incoming.cut(message)
                member.doubt.note_cut()
        except CorruptData as error:
            self._log.error("what the primary sends is damaged: {error}", error=str(error))
            member.links[node].close()
            return
        self.committed = incoming.committed
        member.election.appended(member.oplog.last)
        member.note_stream(node if incoming.in_step and incoming.stopped is None else None)
        if incoming.stopped is not None:
            self._mend(incoming)
        elif self._mending and incoming.in_step:
            self._mending = False
            self._log.info("this node follows its primary again")
        member.look()

    def _stopped_late(self, incoming: Incoming) -> None:
        if self.incoming is incoming and self._member.running:
            self._member.note_stream(None)
            self._mend(incoming)

    def _mend(self, incoming: Incoming) -> None:
        """Begin anew with a primary whose records the log here could not take just now."""
        member = self._member
        if not incoming.may_mend or member.oplog.failed is not None or incoming.mended:
            return
        incoming.mended = True
        if not self._mending:
            self._mending = True
            self._log.error(
                "this node cannot take what its primary sends, and tries again every {seconds:g} s;"
                " free space or mend the disk, nothing has to be restarted: {why}",
                seconds=MEND_SECONDS,
                why=incoming.stopped,
            )

        def again() -> None:
            if self.incoming is incoming and member.election.primary is not None and member.running:
                self.follow(member.election.primary)
                member.carry_out()

        # One of an earlier stream is nobody's concern any more.
        self.stop()
        self._mend_timer = member.clock.callLater(MEND_SECONDS, again)
