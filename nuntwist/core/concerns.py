"""How many nodes must have a write before it is answered, and how new what is read must be.

A *write concern* is ``primary`` (the node that decides it), ``majority``, or a number of replicas
beside the primary. The narrowest one rules: that of the connection, else that of its database (a
key of it, so it is replicated and kept with it), else that of the node. Where the node's own is
``majority`` that is part of the road: nothing is revealed before (:mod:`nuntwist.core.undo`). Where
another one rules on a connection, or the node's own is a number, its client is *careful*: its
commands leave the hot road, and each write is answered by itself, when its concern is met or its
time is over. Through a secondary that is known by :mod:`nuntwist.cluster.counting`.

A write whose concern was not met in time may still survive, so the writer is told that the outcome
is unknown.

A *linearizable* read waits until the primary has found that it still is the primary, asked after
the read had come, and until all that it had logged by then is committed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from nuntwist.core.concern import MAJORITY, PRIMARY, TIMEOUT_MS, Concern
from nuntwist.core.takeback import NO_LONGER_PRIMARY
from nuntwist.errors import CommandError
from nuntwist.language.replies import Reply, failure

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.deciding import Outcome
    from nuntwist.core.pipeline import Pipeline


class _Waiting(NamedTuple):
    up_to: int
    replicas: int
    done: Deferred[None]
    timer: IDelayedCall
    writer: bool


class Concerns:
    """The concerns of a node's clients.

    :param call_later: IReactorTime.callLater.
    :ivar default: of the node.
    :ivar reached: gives the last index that so many replicas have; of a node alone, none has any.
    :ivar read_index: asks the primary for the index that a linearizable read has to wait for; a
        Deferred that fires with it, or fails with CommandError, and can be cancelled.
    """

    def __init__(self, pipeline: Pipeline, call_later: Callable[..., Any]) -> None:
        self._pipeline = pipeline
        self._call_later = call_later
        self._waiting: list[_Waiting] = []
        self.default = Concern(PRIMARY, TIMEOUT_MS)
        self.reached: Callable[[int], int] = lambda replicas: 0
        self.read_index: Callable[[], Deferred[int]] | None = None

    # -- whose concern rules -----------------------------------------------------------------

    def of(self, client: Client) -> Concern:
        """The concern that rules for a client, with its time."""
        found = client.concern
        if found is None and client.database is not None:
            found = client.database.concern
        if found is None:
            return self.default
        milliseconds = found.milliseconds
        return Concern(
            found.replicas, self.default.milliseconds if milliseconds is None else milliseconds
        )

    def time_of(self, client: Client) -> int:
        """For how many milliseconds a client's writes wait."""
        return _time_of(self.of(client))

    def holds(self, client: Client, writes: bool) -> bool:
        """Whether a command of a careful client, which reads or writes a key, waits by itself."""
        if not writes:
            return client.linearizable and self.read_index is not None
        replicas = self.of(client).replicas
        # A number is counted here; the node's own "majority" is part of the road.
        return replicas > 0 or replicas != self.default.replicas or client.concern is not None

    # -- writes ------------------------------------------------------------------------------

    def outcome(self, client: Client, outcome: Outcome) -> Outcome:
        """Let the answer to a write wait for its concern."""
        if isinstance(outcome, Reply):
            return self._after(client, outcome) if self._pipeline.journal.ops else outcome
        if isinstance(outcome, Deferred):
            late: Deferred[Any] = outcome
            return late.addCallback(lambda reply: self._after(client, reply))
        return outcome

    def _after(self, client: Client, reply: Reply) -> Any:
        if reply.error is not None:
            return reply
        journal = self._pipeline.journal
        index, undone = journal.index, journal.undone
        self._pipeline.commit()
        if journal.undone != undone:
            return failure(journal.said)

        def answer(result: Any) -> Reply:
            # Its own concern has decided; what the node as a whole reveals may come later.
            client.needed = min(client.needed, journal.revealed)
            return reply if not isinstance(result, Failure) else failure(_text_of(result))

        met: Deferred[Any] = self.met(index, self.of(client))
        return met.addBoth(answer)

    def met(self, index: int, concern: Concern) -> Deferred[None]:
        """Wait for a concern.

        :return: fires with None when it is met; fails with CommandError, whose text is for the
            writer, where it is not met in time or nobody knows any more.
        """
        text = b"outcome unknown: write concern not met in %d ms" % _time_of(concern)
        return self._wait(index, concern, text, True)

    def _wait(self, index: int, concern: Concern, text: bytes, writer: bool) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        if self._is_met(index, concern.replicas):
            done.callback(None)
            return done
        timer = self._call_later(_time_of(concern) / 1000.0, self._expire, done, text)
        self._waiting.append(_Waiting(index, concern.replicas, done, timer, writer))
        return done

    def _is_met(self, index: int, replicas: int) -> bool:
        journal = self._pipeline.journal
        if index > journal.index:
            # It was taken back, and what is there now is another operation.
            return False
        undo = journal.undo
        if index > journal.durable_index:
            return False
        if replicas == PRIMARY or (replicas == MAJORITY and undo is None):
            return True
        if replicas == MAJORITY:
            return undo is not None and index <= undo.settled
        return index <= self.reached(replicas)

    def _expire(self, done: Deferred[None], text: bytes) -> None:
        self._waiting = [one for one in self._waiting if one.done is not done]
        done.errback(CommandError(text))

    def advance(self) -> None:
        """More is durable, here or elsewhere, or committed."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if self._is_met(one.up_to, one.replicas):
                one.timer.cancel()
                one.done.callback(None)
            else:
                self._waiting.append(one)

    def give_up(self) -> None:
        """This node is no longer primary: nobody knows what becomes of its writes."""
        writers = [one for one in self._waiting if one.writer]
        self._waiting = [one for one in self._waiting if not one.writer]
        for one in writers:
            one.timer.cancel()
            one.done.errback(CommandError(NO_LONGER_PRIMARY))

    # -- reads -------------------------------------------------------------------------------

    def confirmed(self) -> Deferred[None]:
        """Wait until what is here is as new as a linearizable read needs: for the primary's answer,
        and then for what that asks for, each as long as a write waits for its concern.

        :return: fires with None; fails with CommandError, whose text is for the reader.
        """
        assert self.read_index is not None
        concern = Concern(MAJORITY, self.default.milliseconds)
        text = b"no primary has confirmed the read in %d ms" % _time_of(concern)
        asked = self.read_index()
        timer = self._call_later(_time_of(concern) / 1000.0, asked.cancel)

        def in_time(result: Any) -> Any:
            if timer.active():
                timer.cancel()
            if isinstance(result, Failure) and result.check(CancelledError):
                raise CommandError(text)
            return result

        answered: Deferred[Any] = asked.addBoth(in_time)
        return answered.addCallback(lambda index: self._wait(index, concern, text, False))


def _text_of(reason: Failure) -> bytes:
    error: Any = reason.value
    text: bytes = error.message
    return text


def _time_of(concern: Concern) -> int:
    return concern.milliseconds or TIMEOUT_MS
