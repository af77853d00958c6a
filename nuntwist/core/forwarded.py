"""Forwarded commands, on the primary: run as if their clients were here, and each request once.

A request comes from a node, on a lane (:mod:`nuntwist.core.forwards`), with a number. For each
identity in it a client is made here that has no connection: its commands take the ordinary road,
so they are authorised, decided, logged, taken back where the log fails, and answered when they
are durable, like any other. The marker of the request is put in the same batch, so in the same
record; a command that is logged alone takes it along (``Client.mark``).

A request that is under way is not begun again; one whose number the marker has is answered from
it; one with a lower number is refused with that number. A request that changed nothing leaves
no marker, and is run again if it comes again: its sender was not answered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.core.alone import stands_alone
from nuntwist.core.client import Client
from nuntwist.core.database import FORWARDED_PREFIX, SHARDS, TOMBSTONE_VERSION
from nuntwist.core.forwards import (
    PLAIN,
    Identity,
    Item,
    is_forwarded,
    marker_key,
    marker_value,
    read_marker,
)
from nuntwist.core.outcomes import OUTCOMES, encode_replies, read_replies
from nuntwist.core.signed import Signed
from nuntwist.errors import CommandError, StorageUnavailable
from nuntwist.language.parser import Request
from nuntwist.language.replies import Reply, failure
from nuntwist.values import ADMIN_ID, INDEX, KEY, REMOVE, SET, Op

if TYPE_CHECKING:
    from nuntwist.core.node import Node

Answer = Callable[[int, bytes], None]
"""Is given what must be revealed before the clients are answered, and the encoded replies."""

GIVEN_UP: Final = b"outcome unknown: the primary has lost the answer"


class _Client(Client):
    """One identity of a request; its own outlet, as what it is sent comes all at once.

    :ivar sent: what came; None until then.
    """

    __slots__ = ("_done", "count", "lines", "sent")

    def __init__(self, peer: str, done: Callable[[], None]) -> None:
        self.sent: bytes | None = None
        self.lines: list[bytes] = []
        self.count = 0
        self._done = done
        super().__init__(_Outlet(self), OUTCOMES, peer)

    def arrived(self, data: bytes) -> None:
        """All its commands are answered."""
        if self.sent is None:
            self.sent = data
            self._done()


class _Outlet:
    """The transport of such a client."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    def write(self, data: bytes) -> None:
        """Take the answers."""
        self._client.arrived(data)

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""

    def end(self) -> None:
        """Nothing to end."""

    def abort(self, reason: str) -> None:
        """The answers are more than may be kept."""
        self._client.arrived(encode_replies([failure(GIVEN_UP)] * self._client.count))


class _Job:
    """A request under way.

    :ivar answer: whom to tell.
    :ivar then: the request of the same lane that comes after it.
    :ivar marked: the index of its marker, where it has one.
    :ivar dropped: whether this node is no primary any more.
    """

    __slots__ = (
        "answer",
        "clients",
        "dropped",
        "items",
        "lane",
        "marked",
        "request",
        "sender",
        "then",
    )

    def __init__(
        self, sender: int, lane: int, request: int, items: Sequence[Item], answer: Answer
    ) -> None:
        self.sender = sender
        self.lane = lane
        self.request = request
        self.items = items
        self.answer = answer
        self.clients: dict[Identity, _Client] = {}
        self.then: tuple[int, Sequence[Item], Answer] | None = None
        self.marked = 0
        self.dropped = False


class Executor:
    """Runs the requests of all nodes.

    :param node: the primary, while it is.
    :param call_later: IReactorTime.callLater.
    """

    _log = Logger()

    def __init__(self, node: Node, call_later: Callable[..., Any]) -> None:
        self._node = node
        self._call_later = call_later
        self._jobs: dict[tuple[int, int], _Job] = {}
        self._reign = 0

    def stop(self) -> None:
        """This node is no primary any more: nobody is told of what is under way, and what it has
        not logged yet it does not log."""
        self._reign += 1
        for job in self._jobs.values():
            job.dropped = True
        self._jobs.clear()

    def run(
        self, sender: int, lane: int, request: int, items: Sequence[Item], answer: Answer
    ) -> int | None:
        """Run a request, or answer it once more.

        :param sender: the id of the node it comes from.
        :param answer: called once, now or later; not at all where this node is stopped before,
            or the request is sent again meanwhile: then with what came last.
        :return: None; or the number of a later request of that lane, and then nothing is done.
        """
        job = self._jobs.get((sender, lane))
        if job is None:
            return self._begin(sender, lane, request, items, answer)
        latest = job.request if job.then is None else job.then[0]
        if request < latest:
            return latest
        if request == job.request:
            job.answer = answer
        else:
            # It has given up the one that is under way. They are run one after the other.
            job.then = (request, items, answer)
        return None

    def forget(self, nodes: Collection[int]) -> None:
        """Remove the markers of nodes that are in the set no more; on the primary.

        :raise CommandError: writes are refused.
        """
        prefixes = tuple(b"%b%016x_" % (FORWARDED_PREFIX, node) for node in nodes)
        admin = self._node.catalogue.admin
        keys = [
            op[KEY]
            for shard in range(SHARDS)
            for op in admin.entries(shard)
            if op[KEY].startswith(prefixes)
        ]
        for key in keys:
            self._node.pipeline.change(admin, REMOVE, key, None, TOMBSTONE_VERSION)

    # -- one request -------------------------------------------------------------------------

    def _begin(
        self, sender: int, lane: int, request: int, items: Sequence[Item], answer: Answer
    ) -> int | None:
        marker = self._node.catalogue.admin.find(marker_key(sender, lane))
        seen, replies = read_marker(marker)
        if request < seen:
            return seen
        job = _Job(sender, lane, request, items, answer)
        self._jobs[sender, lane] = job
        if marker is not None and request == seen:
            self._answer_again(job, marker[INDEX], replies)
        elif lane == PLAIN:
            self._run_plain(job)
        else:
            self._run_alone(job)
        return None

    def _answer_again(self, job: _Job, index: int, replies: bytes) -> None:
        def taken_back(reason: Failure) -> None:
            reason.trap(StorageUnavailable)
            if self._end(job):
                self.run(job.sender, job.lane, job.request, job.items, job.answer)

        durable = self._node.pipeline.journal.durable(index)
        durable.addCallbacks(lambda _: self._finish(job, index, replies), taken_back)

    def _run_plain(self, job: _Job) -> None:
        pipeline = self._node.pipeline
        before, replies = pipeline.journal.index, []
        for item in job.items:
            client = self._client_of(job, item)
            request = self._request(item, alone=False)
            reply = (
                request if isinstance(request, Reply) else pipeline.deciding.reply(client, request)
            )
            pipeline.answer(client, reply)
            client.lines.append(item.text)
            client.count += 1
            replies.append(reply)
        for client in job.clients.values():
            pipeline.keep(client, (client.lines, 0, len(client.lines)))
        if pipeline.journal.index > before:
            self._mark(job, replies)
            pipeline.turns.open()
        else:
            pipeline.commit()

    def _run_alone(self, job: _Job) -> None:
        pipeline = self._node.pipeline
        (item,) = job.items
        client = self._client_of(job, item)
        client.count = 1
        client.mark = partial(self._marker, job)
        pipeline.commit()
        request = self._request(item, alone=True)
        outcome = (
            request if isinstance(request, Reply) else pipeline.deciding.outcome(client, request)
        )
        if isinstance(outcome, Reply) and pipeline.journal.ops:
            self._mark(job, [outcome])
        pipeline.alone.answer(client, outcome, writes=True)

    def _request(self, item: Item, alone: bool) -> Request | Reply:
        """What an item asks for, where it may come this way at all."""
        request = self._node.pipeline.deciding.parse(item.text)
        if isinstance(request, Request) and (
            not is_forwarded(request) or stands_alone(request) != alone
        ):
            return failure(b"this is no command to forward")
        return request

    def _client_of(self, job: _Job, item: Item) -> _Client:
        identity = item.identity
        client = job.clients.get(identity)
        if client is None:
            peer = f"the node {job.sender:016x}"
            client = job.clients[identity] = _Client(peer, partial(self._answered, job))
            is_over = item.until is not None and self._node.wall() >= item.until
            if item.database is not None and not is_over:
                # One that is gone is none, as for who had selected it; so is one that is selected
                # by a token which has ended while the command waited.
                client.database = self._node.catalogue.by_id.get(item.database)
            client.user = None if client.database is None else item.user
            client.admin = item.admin
            if client.database is not None and item.rights is not None:
                client.signed[client.database] = _signed(item.rights)
        return client

    # -- its marker --------------------------------------------------------------------------

    def _mark(self, job: _Job, replies: list[Reply]) -> None:
        value = marker_value(job.request, encode_replies(replies))
        key = marker_key(job.sender, job.lane)
        op = self._node.pipeline.change(self._node.catalogue.admin, SET, key, value, 0)
        job.marked = op[INDEX]

    def _marker(self, job: _Job, reply: Reply, place: int) -> Op:
        """The marker, to be logged together with so many other operations."""
        if job.dropped:
            raise CommandError(GIVEN_UP)
        value = marker_value(job.request, encode_replies([reply]))
        key = marker_key(job.sender, job.lane)
        return self._node.pipeline.journal.make(SET, ADMIN_ID, key, value, 0, place=place)

    # -- its end -----------------------------------------------------------------------------

    def _answered(self, job: _Job) -> None:
        clients = list(job.clients.values())
        if any(client.sent is None for client in clients):
            return
        journal = self._node.pipeline.journal
        index = max(job.marked, *(client.needed for client in clients))
        if job.lane != PLAIN:
            # What it saw when it was decided, later than it began, is revealed by now.
            index = max(index, journal.revealed)
        self._finish(job, min(index, journal.index), _in_order(job))

    def _finish(self, job: _Job, index: int, replies: bytes) -> None:
        if self._end(job):
            job.answer(index, replies)
            if job.then is not None:
                # Not from within what has just answered this one.
                self._call_later(0.0, self._run_then, self._reign, job.sender, job.lane, job.then)

    def _end(self, job: _Job) -> bool:
        if job.dropped:
            return False
        del self._jobs[job.sender, job.lane]
        return True

    def _run_then(
        self, reign: int, sender: int, lane: int, then: tuple[int, Sequence[Item], Answer]
    ) -> None:
        if reign == self._reign:
            self.run(sender, lane, *then)


def _signed(rights: bytes) -> Signed:
    """What a signed token lets do; nothing where that cannot be read, as of a later version."""
    try:
        return Signed(rights)
    except CommandError:
        return Signed(b"")


def _in_order(job: _Job) -> bytes:
    """The answers to the clients of a request, in the order of its commands."""
    clients = list(job.clients.values())
    if len(clients) == 1:
        return clients[0].sent or b""
    answers = {
        identity: iter(read_replies(client.sent or b"")) for identity, client in job.clients.items()
    }
    replies = [next(answers[item.identity]) for item in job.items]
    return encode_replies(replies)
