"""Copies of all in the life of a member: it gives them as the primary, and takes them as another.

- A secondary whose log cannot be made the beginning of the primary's asks for a copy: its own
  tail cannot be taken off, or the primary's log does not reach back to where theirs part.
- While a copy is being put in place on the disk the node is noted as doubtful: it has no vote and
  acknowledges nothing that counts, as it may come back with nothing. It is whole again when the
  primary says so and the copy is kept, whichever comes last.

The parts: :mod:`nuntwist.cluster.copy_sender`, :mod:`nuntwist.cluster.copy_receiver`,
:mod:`nuntwist.core.installing`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from nuntwist.cluster.copies import (
    CopyBegins,
    CopyEnds,
    CopyLost,
    CopyPiece,
    CopyTaken,
    CopyWanted,
)
from nuntwist.cluster.copy_receiver import CopyReceiver
from nuntwist.cluster.copy_sender import CopySender
from nuntwist.core.copying import Originals
from nuntwist.core.installing import Installing
from nuntwist.errors import CorruptData
from nuntwist.files import Files

if TYPE_CHECKING:
    from nuntwist.cluster.member import Member
    from nuntwist.core.node import Node


class Copier:
    """The copies of one node.

    :param member: its handlers are set.
    :param files: of the data directory.
    :ivar on_placed: is called when a copy is in place.
    :ivar on_kept: is called when a start would find it.
    :ivar on_given: is told of a node in which a copy of this one's is in place.
    """

    _log = Logger()

    def __init__(self, member: Member, node: Node, files: Files) -> None:
        self._member = member
        self._later = member.clock.callLater
        self._originals = Originals(node)
        self._installing = Installing(node, files, self._later)
        self._installing.doubt = member.doubt.begin
        self._installing.kept = self._kept
        self._journal = node.pipeline.journal
        self._sender: CopySender | None = None
        self._receiver: CopyReceiver | None = None
        self._primary: int | None = None
        self.on_placed: Callable[[], None] = lambda: None
        self.on_kept: Callable[[], None] = lambda: None
        self.on_given: Callable[[int], None] = lambda node: None
        self._journal.held_back = self._held_back
        member.copier = self
        member.handlers[CopyWanted] = member.handlers[CopyTaken] = self._asked
        for kind in (CopyBegins, CopyPiece, CopyEnds, CopyLost):
            member.handlers[kind] = self._given

    @property
    def is_kept(self) -> bool:
        """Whether a start would find what this node holds."""
        return self._installing.is_kept

    def _kept(self) -> None:
        self._member.doubt.kept()
        self.on_kept()

    @property
    def count(self) -> int:
        """How many nodes get a copy from this one."""
        return 0 if self._sender is None else self._sender.count

    def stop(self) -> None:
        """The node stops."""
        self.turned()
        self._installing.stop()

    # -- as the primary ----------------------------------------------------------------------

    def _held_back(self) -> int | None:
        return None if self._sender is None else self._sender.hold_back()

    def lead(self, number: int) -> None:
        """This node is the primary of an epoch."""
        self.turned()
        self._sender = CopySender(number, self._originals, self._member.send, self._later)
        self._sender.given = lambda node: self.on_given(node)

    def turned(self) -> None:
        """It is no more, nor does it follow whom it has followed."""
        if self._sender is not None:
            self._sender.end()
            self._sender = None
        if self._receiver is not None:
            self._receiver.end()
            self._receiver = None
        self._primary = None

    def lacking(self, node: int) -> None:
        """A node needs what the log here does not have any more."""
        if self._sender is not None:
            self._sender.offer(node)

    def unlinked(self, node: int) -> None:
        """The connection to a node is gone."""
        if self._sender is not None:
            self._sender.unlinked(node)

    def _asked(self, node: int, message: Any) -> None:
        if self._sender is not None:
            self._sender.received(node, message)

    # -- as a secondary ----------------------------------------------------------------------

    def follow(self, number: int, primary: int) -> None:
        """This node follows a primary, over a connection that may be a new one."""
        receiver = self._receiver
        if receiver is None or receiver.number != number or self._primary != primary:
            self.turned()
            self._primary = primary
            self._receiver = CopyReceiver(
                number,
                self._installing,
                lambda message: self._member.send(primary, message),
                self._placed,
                self._later,
            )

    def wanted(self, index: int, why: str) -> None:
        """What comes after an index cannot be taken off here."""
        self._log.warn("this node needs a copy of all: {why}", why=why)
        if self._receiver is not None:
            self._receiver.wanted(index)

    def differs(self, index: int) -> None:
        """What this node holds is not what the primary holds: it is not to be relied on.

        :param index: the last of the log here, which is the beginning of the primary's.
        """
        try:
            self._member.doubt.begin()
        except OSError as error:
            self._member.fail(error)
            return
        self.wanted(index, "its state is not that of its primary")

    def _given(self, node: int, message: Any) -> None:
        if node != self._primary or self._receiver is None:
            return
        try:
            self._receiver.received(message)
        except CorruptData as error:
            self._log.error("what the primary sends is damaged: {error}", error=str(error))
            self._member.links[node].close()

    def _placed(self) -> None:
        self._journal.let_go()
        self._member.replaced()
        self.on_placed()
