"""How a secondary learns that enough replicas have a write: for concerns of a number of replicas.

Only the primary knows what each replica has. A secondary whose client asks for a number has the
write's index from the outcome (:mod:`nuntwist.core.forwarding`); it asks the primary to say when
so many replicas have all up to there, and waits itself no longer than the concern says::

    secondary ──Count──▶ primary ··· so many have it ···▶ Counted
                                 ··· not in time, or no primary any more ···▶ nothing

An index means the same on both, as the question carries the epoch: one of another epoch is passed
over, and the secondary asks anew when it has sent its request to the next primary.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nuntwist.cluster.states import State
from nuntwist.core.concern import LONGEST_MS, MOST_REPLICAS, Concern
from nuntwist.errors import CommandError

if TYPE_CHECKING:
    from nuntwist.cluster.member import Member
    from nuntwist.core.concerns import Concerns

MOST_WAITING: Final = 1_000
"""Questions that wait on the primary, of all nodes; of more the askers' time runs out."""


@dataclass(frozen=True, slots=True)
class Count:
    """Secondary to primary: tell me when so many replicas have all up to an index.

    :ivar question: its number, given back in the answer.
    :ivar milliseconds: for how long the asker waits.
    """

    number: int
    question: int
    index: int
    replicas: int
    milliseconds: int


@dataclass(frozen=True, slots=True)
class Counted:
    """Primary to secondary: they have."""

    number: int
    question: int


class Counting:
    """Questions and answers of one node.

    :param member: its handlers are set.
    :param concerns: of the node, which count where it is the primary.
    """

    def __init__(self, member: Member, concerns: Concerns) -> None:
        self._member = member
        self._concerns = concerns
        self._numbers = count(1)
        self._asked: dict[int, Deferred[None]] = {}
        self._waiting = 0
        member.handlers[Count] = self._count
        member.handlers[Counted] = self._counted

    def reached(self, index: int, replicas: int, milliseconds: int) -> Deferred[None]:
        """Ask for when enough replicas have an operation of the primary's epoch.

        :return: fires with None then, and not at all where that is not in time; whoever waits no
            longer has to cancel it.
        """
        member, question = self._member, next(self._numbers)

        def forget(_: object) -> None:
            self._asked.pop(question, None)

        done: Deferred[None] = Deferred(forget)
        self._asked[question] = done
        asked = Count(member.election.number, question, index, replicas, milliseconds)
        primary = member.election.primary
        if primary == member.me:
            self._count(member.me, asked)
        elif primary is not None:
            member.send(primary, asked)
        return done

    def _count(self, sender: int, message: Count) -> None:
        """As the primary."""
        election = self._member.election
        if (
            election.state is not State.PRIMARY
            or message.number != election.number
            or self._waiting >= MOST_WAITING
            or not 0 < message.replicas <= MOST_REPLICAS
            or not 0 < message.milliseconds <= LONGEST_MS
        ):
            return

        def answer(result: object) -> None:
            self._waiting -= 1
            if isinstance(result, Failure):
                # Too late, or nobody knows: the asker's own time tells its client.
                result.trap(CommandError)
            elif sender == self._member.me:
                self._counted(sender, Counted(message.number, message.question))
            else:
                self._member.send(sender, Counted(message.number, message.question))

        self._waiting += 1
        concern = Concern(message.replicas, message.milliseconds)
        self._concerns.met(message.index, concern).addBoth(answer)

    def _counted(self, sender: int, message: Counted) -> None:
        """As whoever has asked."""
        done = self._asked.pop(message.question, None)
        if done is not None:
            done.callback(None)
