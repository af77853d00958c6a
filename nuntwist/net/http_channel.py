"""One HTTP connection: how long its requests may take, and how large their bodies may be.

Twisted's channel reads requests; this one knows at each moment for what it waits, and for how long
at most::

    NEW ──a first byte──▶ HEAD ──the head is whole──▶ BODY ──it is whole──▶ ANSWER
                           ▲                                                  │ it is answered
                           └──────────── something more comes ────── KEPT ◀───┘

    NEW, HEAD   the time of a handshake, from when it was connected, or the head had begun
    BODY        the time of a command, from the end of the head on
    ANSWER      as long as the commands take
    KEPT        as long as a connection may be kept that says nothing (Twisted's own time-out)

Who takes longer for a request is told so (408) and let go. A body over the limit is refused (413)
when its length is known, or when it has come too far, and nothing of it is run.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.server import Request

from nuntwist.net.http_answer import bare_answer
from nuntwist.net.outlet import peer_name
from nuntwist.net.parting import Parting, unsent

if TYPE_CHECKING:
    from nuntwist.net.http import NqlSite

LONGEST_LENGTH = 20
"""Digits of the length of a body."""
TOO_LATE = bare_answer(b"408 Request Timeout", b"the request is too slow\n")


class LimitedRequest(Request):
    """A request whose body may not be longer than the site allows."""

    channel: Any
    _taken = 0
    _refused = False

    def gotLength(self, length: int | None) -> None:
        """The headers are there."""
        super().gotLength(length)
        if length is not None and length > self._limit():
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:
        """Some of the body is there."""
        self._taken += len(data)
        if self._taken > self._limit():
            self._refuse()
        if not self._refused:
            super().handleContentChunk(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """All of it is there. A refused body was not kept whole, so nothing of it is run."""
        if not self._refused:
            super().requestReceived(command, path, version)

    def _limit(self) -> int:
        return int(self.channel.site.body_limit)

    def _refuse(self) -> None:
        if self._refused:
            return
        self._refused = True
        text = b"a body may have at most %d bytes\n" % self._limit()
        self.channel.transport.write(bare_answer(b"413 Content Too Large", text))
        self.channel.loseConnection()


class Stage(Enum):
    """What an HTTP connection waits for."""

    NEW = "its first bytes"
    HEAD = "the end of a head"
    BODY = "the end of a body"
    ANSWER = "an answer of ours"
    KEPT = "another request"


class PatientChannel(HTTPChannel):
    """An HTTP connection on which a request has to be whole within a time.

    :ivar bucket: for the commands of all its requests, where they have a rate.
    """

    site: NqlSite
    transport: Any
    _stage = Stage.NEW
    _parting: Parting | None = None
    _left = 0

    def connectionMade(self) -> None:
        """Wait for a first request."""
        rate = self.site.guard.rate
        self.bucket = None if rate is None else rate.bucket()
        self.site.guard.handshakes.begin(self)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        """Take some of a request."""
        if self._parting is not None:
            return
        if self._stage is Stage.NEW:
            self._stage = Stage.HEAD
        elif data.strip(b"\r\n"):
            self._begin_head()
        super().dataReceived(data)
        # Behind a request without a body that is answered at once, Twisted keeps what is no whole
        # line yet, and shows it nobody.
        if self._stage is Stage.KEPT and self._buffer.strip(b"\r\n"):
            self._begin_head()

    def lineReceived(self, line: bytes) -> None:
        """A line of a head is there; before it there may be an empty one."""
        if line:
            self._begin_head()
        super().lineReceived(line)

    def _begin_head(self) -> None:
        if self._stage is Stage.KEPT:
            self._stage = Stage.HEAD
            self.site.guard.handshakes.begin(self)

    def headerReceived(self, line: bytes) -> bool:
        """A line of the headers is there.

        Twisted's own hands a length of any number of digits to ``int``, which raises an error for
        thousands, and nobody catches it.
        """
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and len(value.strip()) > LONGEST_LENGTH:
            text = b"a length of a body has too many digits\n"
            self.transport.write(bare_answer(b"400 Bad Request", text))
            self.loseConnection()
            return False
        received: bool = super().headerReceived(line)
        return received

    def allHeadersReceived(self) -> None:
        """The head is whole."""
        self.site.guard.handshakes.forget(self)
        self._stage = Stage.BODY
        if self.length != 0:
            self.site.guard.commands.begin(self)
        super().allHeadersReceived()

    def allContentReceived(self) -> None:
        """The request is whole."""
        self.site.guard.commands.forget(self)
        self._stage = Stage.ANSWER
        super().allContentReceived()

    def requestDone(self, request: Request) -> None:
        """It is answered; what came behind it is taken now."""
        self._stage = Stage.KEPT
        super().requestDone(request)

    def out_of_time(self) -> str | None:
        """End it; see :class:`nuntwist.net.patience.Hurried`."""
        if self._stage is Stage.NEW:
            # Over TLS that has not even begun nothing can be told.
            self.transport.abortConnection()
        else:
            self.transport.write(TOO_LATE)
            self.loseConnection()
        return peer_name(self.transport)

    def timeoutConnection(self) -> None:
        """Nothing has come for a while; what was answered last may still be on its way."""
        before, self._left = self._left, unsent(self.transport)
        if 0 < self._left != before:
            self.setTimeout(self.timeOut)
        else:
            self.loseConnection()

    def loseConnection(self) -> None:
        """Send what is left, then close."""
        super().loseConnection()
        if self._parting is None:
            self._parting = Parting(self.transport, self.site.guard.partings)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It is gone."""
        self.site.guard.gone(self.transport, reason, "HTTP")
        if self._parting is not None:
            self._parting.gone()
        self.site.guard.handshakes.forget(self)
        self.site.guard.commands.forget(self)
        super().connectionLost(reason)
