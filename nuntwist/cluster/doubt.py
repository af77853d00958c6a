"""Whether the log of a node has all that the node has acknowledged; where that is open, it is
*doubtful*.

A doubtful member counts for nothing: its vote counts only where all members give theirs, and what
it acknowledges is not counted (:mod:`nuntwist.cluster.reign`)::

           the log is shorter than it was, or its state differs from the primary's,
           or a copy is about to be put in its place
    whole ──────────────────────────────────────────────────────────────────────────▶ doubtful
      ▲                                                                                   │
      └── the primary says that it has all again, and that is kept on its disk; ──────────┘
          or all members elect it, so nobody has more

That it is doubtful is kept (:mod:`nuntwist.cluster.identity`), and so is up to where the log has
been durable here: with each epoch, as a tail is cut off, and when the node stops in order. From
that a start knows that the log has less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.logger import Logger

if TYPE_CHECKING:
    from nuntwist.cluster.member import Member

_NONE: Final = -1
"""The number of no epoch."""


class Doubt:
    """The doubt of one node.

    :param member: the node's part in its set.
    """

    _log = Logger()

    def __init__(self, member: Member) -> None:
        self._member = member
        self._whole_in = _NONE

    def look_at_log(self) -> None:
        """Where the log has less than this node has had, it does not count until it has all.

        :raise OSError: that cannot be kept.
        """
        member = self._member
        standing, last = member.identity.standing, member.oplog.last.index
        lost = member.machine.members is None or last < standing.reached
        if standing.formed and lost and not standing.doubtful:
            self._log.error(
                "the log of this node ends at {last}, but it was a member of the set {set_id:016x}"
                " with all up to {reached}: it does not count until its primary has given it all"
                " again",
                last=last,
                set_id=standing.formed,
                reached=standing.reached,
            )
            member.identity.note(doubtful=True, reached=last)

    # -- up to where the log was durable -----------------------------------------------------

    def note_reached(self) -> None:
        """Keep how far the log is durable here: the node stops.

        :raise OSError: it could not be kept.
        """
        self._member.identity.note(reached=self._member.machine.durable)

    def note_cut(self) -> None:
        """What was taken off is not missed after a start."""
        member = self._member
        if member.oplog.last.index < member.identity.standing.reached:
            member.note(reached=member.machine.durable)

    # -- doubtful, and whole again -----------------------------------------------------------

    def begin(self) -> None:
        """This node is about to give up what it has acknowledged, or must: it counts again only
        when it is told so after this.

        :raise OSError: that cannot be kept, so nothing must be given up.
        """
        self._whole_in = _NONE
        self._member.identity.note(doubtful=True)
        self._member.election.doubtful.add(self._member.me)

    def told_whole(self, number: int) -> None:
        """The primary of an epoch says that this node has all again."""
        if number == self._member.election.number:
            self._whole_in = number
            self.kept()

    def kept(self) -> None:
        """What this node holds is on its disk: if it was told that it is all, it is whole."""
        member = self._member
        told = self._whole_in == member.election.number
        if told and (member.copier is None or member.copier.is_kept):
            self._end()
            member.carry_out()

    def elected(self) -> None:
        """This node is the primary: where it is doubtful all have elected it, so nobody has
        more."""
        if self._member.identity.standing.doubtful:
            self._end()

    def _end(self) -> None:
        self._member.note(doubtful=False)
        self._member.election.doubtful.discard(self._member.me)
