"""How a node learns that its primary still is the primary: for linearizable reads.

A read that may return nothing older than what anybody was told before it asks for an index: all
up to that must be here and committed before it is answered. The primary gives the last index of
its log, but only once a majority has answered a heartbeat that was sent *after* the question had
come: so no other primary was elected before that (Ongaro, 2014, section 6.4). All questions that
wait share one heartbeat; the next one is sent when that is answered.

A secondary asks its primary (``Confirm``) and then reads what it has itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple

from twisted.internet.defer import Deferred, fail

from nuntwist.cluster.states import State
from nuntwist.errors import CommandError

if TYPE_CHECKING:
    from nuntwist.cluster.member import Member

NO_PRIMARY: Final = b"no primary"
TOO_MANY: Final = b"too many linearizable reads wait"
MOST_WAITING: Final = 10_000
"""Questions that may wait on one node."""


@dataclass(frozen=True, slots=True)
class Confirm:
    """:ivar question: its number, given back in the answer."""

    number: int
    question: int


@dataclass(frozen=True, slots=True)
class Confirmed:
    """:ivar index: what the reader must have; 0 where the sender is no primary any more."""

    number: int
    question: int
    index: int


class _Question(NamedTuple):
    """Somebody who waits for a heartbeat to be answered.

    :ivar came: when it was asked, in seconds.
    :ivar last: the last index of the log then.
    """

    came: float
    last: int
    answer: Callable[[int], None]


class Confirming:
    """Questions and answers of one node.

    :param member: its handlers are set.
    """

    def __init__(self, member: Member) -> None:
        self._member = member
        self._numbers = count(1)
        self._asked: dict[int, Deferred[int]] = {}
        self._waiting: list[_Question] = []
        member.handlers[Confirm] = self._confirm
        member.handlers[Confirmed] = self._confirmed
        member.on_obeyed = self.look
        member.on_turned = self.turned
        # What it was asked over that connection, or has answered, may be lost.
        member.on_parted = self.turned

    def read_index(self) -> Deferred[int]:
        """Ask for the index that a read has to wait for.

        :return: fires with it; fails with CommandError where there is no primary, or none any
            more, or the connection to it is gone; can be cancelled.
        """
        member = self._member
        if len(self._asked) >= MOST_WAITING:
            return fail(CommandError(TOO_MANY))
        question = next(self._numbers)

        def forget(_: object) -> None:
            self._asked.pop(question, None)

        done: Deferred[int] = Deferred(forget)
        self._asked[question] = done
        primary = member.election.primary
        if primary == member.me:
            self._ask(lambda index: self._answered(question, index))
        elif primary is not None and primary in member.links:
            member.send(primary, Confirm(member.election.number, question))
        else:
            self._answered(question, 0)
        return done

    def turned(self) -> None:
        """The primary is another one, or none: no answer will come."""
        waiting, self._waiting = self._waiting, []
        for question in waiting:
            question.answer(0)
        for number in tuple(self._asked):
            self._answered(number, 0)

    # -- as the primary ----------------------------------------------------------------------

    def _confirm(self, sender: int, message: Confirm) -> None:
        number = message.number

        def answer(index: int) -> None:
            self._member.send(sender, Confirmed(number, message.question, index))

        if number != self._member.election.number or len(self._waiting) >= MOST_WAITING:
            answer(0)
        else:
            self._ask(answer)

    def _ask(self, answer: Callable[[int], None]) -> None:
        member = self._member
        if member.election.state is not State.PRIMARY:
            answer(0)
            return
        now = member.clock.seconds()
        alone = not self._waiting
        self._waiting.append(_Question(now, member.oplog.last.index, answer))
        if alone:
            self._beat()
            # With nobody to ask, it is answered already.
            self.look()

    def _beat(self) -> None:
        member = self._member
        member.election.beat_now(member.clock.seconds())
        member.carry_out()

    def look(self) -> None:
        """A secondary has answered a heartbeat."""
        if not self._waiting:
            return
        election = self._member.election
        since = election.confirmed()
        answered = [one for one in self._waiting if one.came <= since]
        if not answered:
            return
        self._waiting = [one for one in self._waiting if one.came > since]
        if self._waiting:
            self._beat()
        for one in answered:
            one.answer(one.last)

    # -- as whoever asks ---------------------------------------------------------------------

    def _confirmed(self, sender: int, message: Confirmed) -> None:
        self._answered(message.question, message.index)

    def _answered(self, question: int, index: int) -> None:
        done = self._asked.pop(question, None)
        if done is None:
            return
        if index:
            done.callback(index)
        else:
            done.errback(CommandError(NO_PRIMARY))
