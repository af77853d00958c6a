"""A connection to another node of the set.

Its life::

    connected ──▶ the handshake, in lines ──▶ welcome: frames both ways ──▶ gone
                    │ refused, rubbish, or too slow: closed, and told why in the log

While it is welcome, each side says something at least every beat, ``Idle`` if there is nothing
else: a partition that drops everything shows in no socket, but in silence. A connection that is
silent for too long is cut off, so that the next one begins on fresh timers of TCP.

Nothing waits here: what is sent goes to the transport. A stream has a window, and ballots are
small and few; a node that talks but takes nothing for ``FULL_SECONDS`` is cut off, so they cannot
heap up for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from typing import Protocol as Interface

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.addresses import in_short
from nuntwist.cluster.frame_forms import FrameError
from nuntwist.cluster.frames import FrameReader, Message, encode
from nuntwist.cluster.handshake import (
    ITSELF,
    LONGEST,
    NOT_THE_SAME_SECRET,
    SAME_SECRET,
    Accepting,
    Connecting,
    Peer,
    Stage,
)
from nuntwist.cluster.stream import Idle
from nuntwist.net.failed_tls import words_of
from nuntwist.net.guesses import Guesses
from nuntwist.net.log_limits import LogLimit
from nuntwist.net.outlet import give_up_soon, peer_name, tune

HANDSHAKE_SECONDS = 5.0
"""How long the handshake may take in all."""
FULL_SECONDS = 30.0
"""For how long the transport may take nothing more."""
QUIET_SHARE = 2.0
"""How long the other side may say nothing in a handshake that this side has begun, as a share of
the silence after which a link is cut off. It may be somebody between the two that has answered."""
CLOSING_SECONDS = 1.0
"""How long a connection may take to end in order, before it is cut off."""
GREETING = b"ok "
"""What the port of the clients says to everybody who connects."""

TOO_MANY_GUESSES = (
    "too many proofs from this address were wrong: another one is looked at in a while"
)
"""Without them being wrong: who is right comes again, and is let in then."""

_IDLE = encode(Idle())


class Links(Interface):
    """Who has to do with the connections to other nodes."""

    def linked(self, link: PeerProtocol) -> None:
        """One is welcome; ``link.peer`` says who it is."""

    def received(self, link: PeerProtocol, message: Message) -> None:
        """A message has come."""

    def unlinked(self, link: PeerProtocol) -> None:
        """One that was welcome is gone."""


class PeerProtocol(Protocol):
    """One connection.

    :param handshake: of this side, not begun.
    :param links: is told what happens.
    :param clock: IReactorTime.
    :param beat: seconds after which an idle side says so.
    :param silence: seconds of silence after which it is cut off.
    :param settled: is called once: with None when the other is welcome, with the reason where
        it ended before. Where this side has made the connection, whoever is called tells the
        log of that reason.
    :param limit: of the lines that strangers make in the log; None for no limit.
    :param gone: is called once, when the connection is gone.
    :param guesses: knows who may prove something to this side; None where all may.
    :ivar peer: the other node, while it is welcome.
    :ivar connecting: whether this side has made the connection.
    :ivar heard: when something came last, in seconds of the clock.
    :ivar full: whether the transport takes no more for now.
    """

    transport: Any
    _log = Logger()

    def __init__(
        self,
        handshake: Connecting | Accepting,
        links: Links,
        clock: Any,
        beat: float,
        silence: float,
        settled: Callable[[str | None], None] | None = None,
        limit: LogLimit | None = None,
        gone: Callable[[], None] | None = None,
        guesses: Guesses | None = None,
    ) -> None:
        self.peer: Peer | None = None
        self.connecting = isinstance(handshake, Connecting)
        self.full = False
        self._handshake = handshake
        self._links = links
        self._clock = clock
        self._beat = beat
        self._silence = silence
        self._line = b""
        self._reader = FrameReader()
        self._timer: IDelayedCall | None = None
        self._said = self.heard = self._full_since = self._until = 0.0
        self._ended = False
        self._settled = settled
        self._limit = limit
        self._gone = gone
        self._guesses = guesses

    @property
    def refusal(self) -> str | None:
        """Why one of the two has refused the other; None where neither has."""
        return self._handshake.refusal

    # -- the transport -----------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Begin the handshake."""
        tune(self.transport)
        give_up_soon(self.transport)
        self.transport.registerProducer(self, True)
        self.heard = self._clock.seconds()
        self._until = self.heard + HANDSHAKE_SECONDS
        self._await_line()
        if isinstance(self._handshake, Connecting):
            self.transport.write(self._handshake.begin())

    def dataReceived(self, data: bytes) -> None:
        """Take lines, then frames."""
        if self._ended:
            return
        self.heard = self._clock.seconds()
        if self.peer is None:
            data = self._shake(data)
        if data and self.peer is not None:
            self._read(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It is gone."""
        self._ended = True
        self._clear_timer()
        if self._settled is not None:
            # Of TLS, for one, only the reason tells what was not right.
            more = "" if reason.check(ConnectionDone) else f" ({words_of(reason)})"
            self._settle(f"the connection was closed{more}")
        if self.peer is not None:
            self.peer = None
            self._links.unlinked(self)
        gone, self._gone = self._gone, None
        if gone is not None:
            gone()

    def pauseProducing(self) -> None:
        """The transport is full; said again with each write while it is."""
        if not self.full:
            self.full, self._full_since = True, self._clock.seconds()

    def resumeProducing(self) -> None:
        """The transport takes more."""
        self.full = False

    def stopProducing(self) -> None:
        """The transport is going."""
        self.full = True

    # -- the handshake -----------------------------------------------------------------------

    def _shake(self, data: bytes) -> bytes:
        """Take the lines of the handshake; give what comes after its end."""
        data = self._line + data
        while self.peer is None and not self._ended:
            line, end, rest = data.partition(b"\n")
            if not end:
                if len(data) > LONGEST:
                    self._end("it does not speak as a node does")
                break
            data = rest
            self._take(line.removesuffix(b"\r"))
        self._line, rest = (data, b"") if self.peer is None else (b"", data)
        return rest

    def _take(self, line: bytes) -> None:
        handshake = self._handshake
        greets = isinstance(handshake, Connecting) and handshake.stage is Stage.BEGUN
        if greets and line == GREETING:
            return
        proves = isinstance(handshake, Accepting) and handshake.stage is Stage.GREETED
        guesses = self._guesses if proves else None
        if guesses is not None and not guesses.may_try(peer_name(self.transport)):
            self.transport.write(b"refused %b\n" % TOO_MANY_GUESSES.encode())
            self._end(TOO_MANY_GUESSES)
            return
        answer = handshake.receive(line)
        if answer:
            self.transport.write(answer)
        if handshake.stage is Stage.REFUSED:
            if guesses is not None and handshake.refusal == NOT_THE_SAME_SECRET:
                guesses.wrong(peer_name(self.transport))
            self._end(str(handshake.refusal))
        elif handshake.peer is not None:
            self.peer = handshake.peer
            self._said = self._clock.seconds()
            self._set_timer(self._beat, self._look)
            self._settle(None)
            self._links.linked(self)

    def _await_line(self) -> None:
        """End a handshake that takes too long."""
        now = self._clock.seconds()
        quiet = self.heard + QUIET_SHARE * self._silence
        if now >= self._until:
            self._end("its handshake took too long")
        elif self.connecting and now >= quiet:
            self._end("it does not answer")
        else:
            until = min(self._until, quiet) if self.connecting else self._until
            self._set_timer(until - now, self._await_line)

    # -- messages ----------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Send a message; once the connection is gone it goes nowhere."""
        if self.peer is not None and not self._ended:
            self._said = self._clock.seconds()
            self.transport.write(encode(message))

    def close(self) -> None:
        """End it, when what was sent is on its way."""
        if not self._ended:
            self._ended = True
            self._leave()

    def _read(self, data: bytes) -> None:
        try:
            messages = self._reader.feed(data)
        except FrameError as error:
            self._end(f"what it sends is damaged: {error}")
            return
        for message in messages:
            if self._ended:
                return
            if not isinstance(message, Idle):
                self._links.received(self, message)

    def _look(self) -> None:
        """Say something where nothing was said, and see whether the other does."""
        now = self._clock.seconds()
        if now - self.heard >= self._silence:
            self._end(f"it has been silent for {now - self.heard:.1f} s")
            return
        if self.full and now - self._full_since >= FULL_SECONDS:
            self._end(f"it has taken nothing for {FULL_SECONDS:g} s")
            return
        if not self.full and now - self._said >= self._beat:
            self._said = now
            self.transport.write(_IDLE)
        self._set_timer(self._beat, self._look)

    # -- the end -----------------------------------------------------------------------------

    def drop(self, why: str) -> None:
        """End it at once."""
        if not self._ended:
            self._end(why)

    def _settle(self, why: str | None) -> None:
        settled, self._settled = self._settled, None
        if settled is not None:
            settled(why)

    def _end(self, why: str) -> None:
        self._ended = True
        self._clear_timer()
        self._tell(why)
        self._settle(why)
        if self.peer is None:
            # The refusal is to arrive.
            self._leave()
        else:
            self.transport.abortConnection()

    def _tell(self, why: str) -> None:
        """Tell the log, unless somebody else does or there is nothing to it."""
        if self.peer is None and (self.refusal == ITSELF or self._is_told()):
            return
        more: str | None = ""
        if self.peer is None and self._limit is not None:
            more = self._limit.pass_on(self._same(why))
        if more is not None:
            remedy = f": {SAME_SECRET}" if self.peer is None and NOT_THE_SAME_SECRET in why else ""
            why += remedy
            self._log.warn(
                "closed the connection to the node {peer}: {why}{more}",
                peer=peer_name(self.transport)
                if self.peer is None
                else in_short(self.peer.address),
                why=why,
                more=more,
            )

    def _same(self, why: str) -> object:
        """What makes two lines the same, where an operator has to do something and the other
        comes again and again meanwhile: from where, and why."""
        host = getattr(self.transport.getPeer(), "host", None)
        again = NOT_THE_SAME_SECRET in why or why == TOO_MANY_GUESSES
        return (host, why) if host is not None and again else None

    def _is_told(self) -> bool:
        return self.connecting and self._settled is not None

    def _leave(self) -> None:
        """End in order, within a time."""
        self._set_timer(CLOSING_SECONDS, self.transport.abortConnection)
        # While somebody may want to send more, a full transport does not end, and TLS never does.
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _set_timer(self, seconds: float, call: Callable[[], None]) -> None:
        self._clear_timer()
        self._timer = self._clock.callLater(seconds, call)

    def _clear_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
