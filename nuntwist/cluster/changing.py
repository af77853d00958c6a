"""The members of a set change one at a time, as its primary decides.

Who wants to be a member *learns* first: it gets the stream and does not count. When it has all that
there was as it came it is made a member. Who is to leave waits for its turn; those who leave go
before those who learn::

    learns ──has all──▶┐
                       ├─▶ logged ──committed, and looked at──▶ settled: the next one
    leaves ──its turn─▶┘

The next change waits until the last one is committed, and the first one until an operation of this
epoch is (Ongaro's correction of 2015 to single-server changes). So a majority of the old list and
one of the new have a node in common, and no two primaries are elected by different lists.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger

from nuntwist.addresses import in_short
from nuntwist.cluster.commits import Commits
from nuntwist.cluster.membership import MOST_MEMBERS, Membership
from nuntwist.errors import CommandError, StorageUnavailable


class Changing:
    """The changes of one epoch.

    :param membership: of the set now.
    :param begins: the index of the first operation of the epoch.
    :param commits: tells what a majority has.
    :param has_all: tells whether a node has, on its disk, all that there was when it came, and an
        operation of this epoch.
    :param follows: tells whether a node has a stream.
    :param configure: logs the members, as they are kept, and gives the index of that operation;
        raises StorageUnavailable where it could not be logged.
    :param changed: is called when a change was logged.
    :ivar membership: of the set, as the log has it.
    :ivar learners: who is to be a member, with its address, by id.
    """

    _log = Logger()

    def __init__(
        self,
        membership: Membership,
        begins: int,
        commits: Commits,
        has_all: Callable[[int], bool],
        follows: Callable[[int], bool],
        configure: Callable[[bytes], int],
        changed: Callable[[], None],
    ) -> None:
        self.membership = membership
        self.learners: dict[int, str] = {}
        self._begins = begins
        self._commits = commits
        self._has_all = has_all
        self._follows = follows
        self._configure = configure
        self._changed = changed
        self._changing = 0
        self._becomes: Membership | None = None
        self._leaves: deque[tuple[int, Deferred[None]]] = deque()
        self._left: Deferred[None] | None = None

    def learn(self, node: int, address: str) -> None:
        """A node that is no member wants to be one."""
        if node not in self.learners:
            self._log.info("the node at {address} joins the set", address=in_short(address))
        self.learners[node] = address
        # It may have all by now, and nothing else need come that would tell.
        self.next()

    def unlinked(self, node: int) -> None:
        """The connection to a node is gone: it has to ask anew."""
        self.learners.pop(node, None)

    def leave(self, node: int) -> Deferred[None]:
        """Take a member out, when it is its turn.

        :return: fires with None when that is committed; fails with CommandError where it is not
            to be, or not known whether it is.
        """
        if any(waiting == node for waiting, _ in self._leaves):
            return fail(CommandError(b"that node is leaving already"))
        done: Deferred[None] = Deferred()
        self._leaves.append((node, done))
        self.next()
        return done

    def reconfigured(self, membership: Membership) -> None:
        """The members have changed, as the log has it. (The next change is for when it is known
        who counts now.)"""
        self.membership = membership
        if self._becomes == membership:
            self._becomes = None
        for node in membership.members:
            self.learners.pop(node, None)

    @property
    def is_settled(self) -> bool:
        """Whether the last change of the members is committed, so that another may be made."""
        # One that is committed and was not looked at yet would be undone by another, made from
        # the members before it.
        reached = self._commits.index >= max(self._changing, self._begins)
        return reached and self._becomes is None

    def next(self) -> None:
        """Make the next change of the members, where it is time for it."""
        if not self.is_settled:
            return
        if self._left is not None:
            left, self._left = self._left, None
            left.callback(None)
        change = self._choose()
        if change is None:
            return
        self._log.info(
            "the members of the set become {members}",
            members=", ".join(sorted(map(in_short, change.members.values()))),
        )
        try:
            self._becomes = change
            self._changing = self._configure(change.encode())
        except StorageUnavailable as error:
            self._becomes = None
            self._log.error("the members cannot be changed now: {error}", error=str(error))
            self._not_left(b"storage unavailable: " + str(error).encode())
        else:
            self._changed()

    def _not_left(self, why: bytes) -> None:
        left, self._left = self._left, None
        if left is not None:
            left.errback(CommandError(why))

    def _choose(self) -> Membership | None:
        members = self.membership
        while self._leaves:
            node, done = self._leaves.popleft()
            if node in members.members:
                self._left = done
                return members.left(node)
            done.callback(None)
        if len(members.members) >= MOST_MEMBERS:
            return None
        for node, address in self.learners.items():
            if not self._has_all(node):
                continue
            before = members.at(address)
            if before is not None:
                # One that was there under that name is no more: it goes first.
                return members.left(before) if not self._follows(before) else None
            return members.joined(node, address)
        return None

    def end(self) -> None:
        """The epoch is over."""
        unknown = b"outcome unknown: this node is no longer primary"
        waiting = [done for _, done in self._leaves]
        self._leaves.clear()
        for done in waiting:
            done.errback(CommandError(unknown))
        self._not_left(unknown)
