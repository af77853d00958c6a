"""Clients over WebSocket: commands in text frames, every message a frame of its own.

Autobahn does the handshake, control frames, fragments, large frames and everything that is
wrong; small text frames are taken from each chunk in one go (:mod:`nuntwist.net.frames`), and
replies go straight to the transport, already framed.

What is not a small text frame costs Autobahn tens of microseconds, so a flood of such frames
is fed to it a few a turn, and the connection is not read meanwhile. A partial frame at the end
of a chunk waits in ``_pending`` until it is whole (or, if large, until Autobahn has begun it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from OpenSSL import SSL
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from nuntwist.core.client import SIGNED_OUT, Client
from nuntwist.language.framing import is_plain, split_commands
from nuntwist.language.replies import FRAMES
from nuntwist.net.fast import SendingServer
from nuntwist.net.frames import frame_size, small_texts
from nuntwist.net.origins import LONGEST_ORIGIN
from nuntwist.net.outlet import Backpressure, is_busy, peer_name, tune
from nuntwist.net.parting import Parting
from nuntwist.net.proxies import forwarded_in
from nuntwist.net.rate import Meter
from nuntwist.net.unended import Unended

if TYPE_CHECKING:
    from nuntwist.net.websocket_port import FrameFactory

FRAMES_A_TURN = 32
"""Frames given to the general parser in one turn of one connection."""
LONGEST_HEAD = 14
"""Bytes of the longest frame head."""
LONGEST_SMALL = 125
"""Bytes of the longest frame that says its length in its second byte."""
LONGEST_HANDSHAKE = 16 << 10
"""Bytes of the longest request for an upgrade; browsers with many cookies send some KiB."""

(_SEMICOLON,) = b";"

ORIGIN_REFUSED = "WebSocket connection denied: origin"
"""What Autobahn's reason begins with where it refuses a page."""

GOING_AWAY = 1001
UNSUPPORTED_DATA = 1003
INVALID_PAYLOAD = 1007
POLICY_VIOLATION = 1008
TOO_MANY_REQUESTS = 429
PING = b"\x89\x00"
TOO_LATE = b"a message that has begun must end within %d s"


class FrameProtocol(WebSocketServerProtocol):
    """One WebSocket connection.

    :ivar heard: see :class:`nuntwist.net.idle.Silent`.
    """

    factory: FrameFactory
    client: Client | None = None
    transport: Any
    current_frame: Any
    http_request_data: bytes
    websocket_origin: str
    current_frame_masker: Any
    inside_message: bool
    message_data_total_length: int
    CONFIG_ATTRS: list[str] = []  # noqa: RUF012  # as Autobahn declares it
    """What Autobahn copies from the factory for each connection, and writes a text about for a log
    that is off: half of what a connection costs. It is copied below."""

    def connectionMade(self) -> None:
        """Begin the handshake."""
        self._pending = b""
        self._feeding = self._anew = False
        self._peer_close: tuple[int, bytes] | None = None
        self._parting: Parting | None = None
        self._lost = False
        vars(self).update(self.factory.options)
        self.heard = True
        self._guard = guard = self.factory.guard
        self._unended = Unended(self, guard.commands, guard.unfinished)
        self._meter: Meter | None = None
        self._forwarded: str | None = None
        super().connectionMade()
        tune(self.transport)
        self._guard.handshakes.begin(self)

    def onConnect(self, request: ConnectionRequest) -> None:
        """Somebody asks for an upgrade; a proxy says for whom.

        :raise ConnectionDeny: there are too many of that one.
        """
        guard = self._guard
        host = getattr(self.transport.getPeer(), "host", None)
        client = guard.trusted.client_behind(host, forwarded_in(self.http_request_data))
        if client is not None:
            if guard.gate is not None and not guard.gate.enter_as(client):
                raise ConnectionDeny(TOO_MANY_REQUESTS, "too many connections")
            self._forwarded = client

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: Any = None) -> None:
        """The upgrade is refused; an operator is told of a page whose origin is not allowed."""
        if reason.startswith(ORIGIN_REFUSED):
            peer = self._guard.trusted.client_behind(
                getattr(self.transport.getPeer(), "host", None),
                forwarded_in(self.http_request_data),
            )
            origin = self.websocket_origin[:LONGEST_ORIGIN]
            self._guard.refuse_page(f"{peer or peer_name(self.transport)}, of the origin {origin}")
        super().failHandshake(reason, code, responseHeaders)

    def onOpen(self) -> None:
        """The handshake is done: from here on there is a client."""
        pipeline = self.factory.pipeline
        self._guard.handshakes.forget(self)
        self._guard.idle.join(self)
        self.client = Client(self, FRAMES, self._forwarded or peer_name(self.transport))
        self._meter = self._guard.meter(pipeline, self.client)
        self._pass_on = (self._meter or pipeline).receive
        self.client.write = self.transport.write
        if isinstance(self.transport, SendingServer):
            self.transport.lend_to(self.client)
        self.factory.clients.add(self)
        pipeline.connections.connect(self.client)
        self.transport.registerProducer(Backpressure(pipeline, self.client), True)

    def dataReceived(self, data: bytes) -> None:
        """Take small text frames in one go; give the rest to Autobahn."""
        self.heard = True
        if self.client is None:
            data = self._shake_hands(data)
            if not data:
                return
        if self._pending:
            data = self._pending + data
            self._pending = b""
        if self._feeding:
            self._pending = data
        else:
            self._take(data)
        if self._pending or self.inside_message or self._unended.noted:
            self._note_unfinished()

    def _note_unfinished(self) -> None:
        # What waits for our turns is not the other side's to end.
        begun = bool(self._pending or self.inside_message) and not self._feeding
        begun = begun and self.client is not None and not self.client.closed
        self._unended.note(begun, self._anew, self._held())
        self._anew = False

    def _held(self) -> int:
        """Bytes of a message that is not whole."""
        size = len(self._pending)
        if self.inside_message:
            size += int(self.message_data_total_length)
            if self.current_frame is not None:
                # It counts a frame as soon as it begins.
                size -= int(self.current_frame.length - self.current_frame_masker.pointer())
        return size

    def give_up(self) -> str:
        """Close at once; see :class:`nuntwist.net.unfinished.Sender`."""
        self.abort("input")
        return self._forwarded or peer_name(self.transport)

    def out_of_time(self) -> str | None:
        """End it; see :class:`nuntwist.net.patience.Hurried`."""
        if self.client is None:
            self.abort("handshake")
            return peer_name(self.transport)
        if self.client.ending or self._unended.waits_for_us(self.client):
            return None
        peer = self.client.peer
        self.sendCloseFrame(POLICY_VIOLATION, TOO_LATE % self._guard.commands.allowed)
        return peer

    def is_busy(self) -> bool:
        """See :class:`nuntwist.net.idle.Silent`."""
        client = self.client
        return self._unended.not_read or self._feeding or client is None or is_busy(client)

    def nudge(self) -> None:
        """Send a ping, as long as no answer is sent in parts."""
        if self.client is not None and not self.client.streaming:
            self.transport.write(PING)

    def end_silence(self) -> str:
        """End it; see :class:`nuntwist.net.idle.Silent`."""
        self.sendCloseFrame(GOING_AWAY, b"silent for too long")
        return self._forwarded or peer_name(self.transport)

    def _shake_hands(self, data: bytes) -> bytes:
        """Give Autobahn the request for the upgrade, and only that.

        :return: the frames that came right behind it, where it was accepted.
        """
        begun = len(self.data)
        end = (self.data[-3:] + data).find(b"\r\n\r\n")
        size = len(data) if end < 0 else end + 4 - min(begun, 3)
        if begun + size > LONGEST_HANDSHAKE:
            self.dropConnection(abort=True)
            return b""
        self._dataReceived(data[:size])
        return b"" if self.client is None else data[size:]

    def _take(self, data: bytes) -> None:
        for _ in range(FRAMES_A_TURN):
            if not data or self.state == self.STATE_CLOSED:
                return
            if self._between_messages():
                texts, used = small_texts(data)
                if used:
                    self._anew = True
                    self._run(texts)
                    data = data[used:]
                    continue
            size = self._next_size(data)
            if size is None:
                self._pending = data
                return
            self._dataReceived(data[:size])
            data = data[size:]
            if self._between_messages():
                self._anew = True
        if data:
            self._pending = data
            self._feeding = True
            self.transport.pauseProducing()
            self.factory.call_later(0.0, self._feed_more)

    def _feed_more(self) -> None:
        if self._lost:
            return
        self._feeding = False
        data, self._pending = self._pending, b""
        self._take(data)
        self._note_unfinished()
        if self._feeding or self.client is None:
            return
        if self.client.closed:
            # The answer to our close frame is still to be read.
            self.transport.resumeProducing()
        else:
            self.factory.pipeline.turns.enqueue(self.client)

    def _between_messages(self) -> bool:
        return (
            self.state == self.STATE_OPEN
            and self.current_frame is None
            and not self.inside_message
            and not self.data
        )

    def _next_size(self, data: bytes) -> int | None:
        """How many bytes to give to Autobahn now; None to wait for more."""
        if self.current_frame is not None:
            return int(self.current_frame.length - self.current_frame_masker.pointer())
        size = frame_size(data)
        if size is None:
            return None if len(data) < LONGEST_HEAD else len(data)
        if size > len(data) and data[1] & 0x7F <= LONGEST_SMALL:
            return None
        return size

    def _run(self, texts: list[bytes]) -> None:
        whole = b"\n".join(texts)
        if not whole.isascii():
            for text in texts:
                self._run_text(text)
            return
        simple = _SEMICOLON not in whole and whole[:1] != b" " and b"\n " not in whole
        if not simple or whole.count(b"\n") >= len(texts) or b"" in texts:
            self._receive_split(texts)
        else:
            self._receive(texts, is_plain(whole))

    def _run_text(self, text: bytes) -> None:
        try:
            text.decode("utf-8")
        except UnicodeDecodeError:
            self._fail_connection(INVALID_PAYLOAD, "text is not valid UTF-8")
            return
        self._receive_split([text])

    def _receive_split(self, texts: list[bytes]) -> None:
        lines = [line for text in texts for line in split_commands(text)]
        # The commands are looked at as they are after line ends were taken out of them: before,
        # a line end may stand between a space and the "$" of a secure key.
        self._receive(lines, is_plain(b"\n".join(lines)))

    def _receive(self, lines: list[bytes], plain: bool) -> None:
        if self.client is not None and lines:
            self._pass_on(self.client, (lines, plain))

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """A message that came through Autobahn."""
        if isBinary:
            self._fail_connection(UNSUPPORTED_DATA, "binary messages are not supported")
        else:
            self._receive_split([payload])

    def onCloseFrame(self, code: int, reasonRaw: bytes) -> bool | None:
        """The other side closes: what it sent before is still done, and answered."""
        if self.client is None or self.client.closed:
            closed: bool | None = super().onCloseFrame(code, reasonRaw)
            return closed
        self._peer_close = (code, reasonRaw)
        (self._meter or self.factory.pipeline.connections).finish(self.client)
        return False

    def sendCloseFrame(
        self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False
    ) -> None:
        """Nothing may follow a close frame, so the client ends here."""
        self._detach()
        super().sendCloseFrame(code, reasonUtf8, isReply)

    def dropConnection(self, abort: bool = False) -> None:
        """Send what is left, then close; or close at once."""
        super().dropConnection(abort)
        if not (abort or self._lost or self._parting):
            self._parting = Parting(self.transport, self._guard.partings)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._lost = True
        self._guard.gone(self.transport, reason, "WebSocket")
        if self._parting is not None:
            self._parting.gone()
        self.factory.closing.discard(self)
        self._guard.handshakes.forget(self)
        self._guard.unfinished.forget(self)
        if self._forwarded is not None and self._guard.gate is not None:
            self._guard.gate.leave_as(self._forwarded)
            self._forwarded = None
        self._detach()
        # Autobahn logs each of these as an error, in words that say nothing.
        super().connectionLost(Failure(ConnectionLost()) if reason.check(SSL.Error) else reason)

    def _detach(self) -> None:
        self.factory.clients.discard(self)
        self._guard.commands.forget(self)
        self._guard.idle.leave(self)
        if self.client is not None and not self.client.closed:
            self.factory.pipeline.connections.disconnect(self.client)
            self.transport.unregisterProducer()
            self.transport.resumeProducing()

    # -- the outlet of the client --------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send frames."""
        self.transport.write(data)

    def pause_reading(self) -> None:
        """Deliver no more input."""
        self._unended.pause()
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Deliver input again, unless Autobahn still has some to eat, or some waits."""
        if self._meter is not None and self._meter.holds:
            return
        self._unended.resume()
        if not self._feeding:
            self.transport.resumeProducing()

    def end(self) -> None:
        """Close with a close frame."""
        self.factory.closing.add(self)
        if self._peer_close is not None:
            super().onCloseFrame(*self._peer_close)
            return
        farewell = b"the node is stopping"
        if self.client is not None and self.client.farewell is not None:
            farewell = self.client.farewell
        # Whoever was signed out need not try again; with 1001 clients do.
        self.sendCloseFrame(POLICY_VIOLATION if farewell == SIGNED_OUT else GOING_AWAY, farewell)

    def abort(self, reason: str) -> None:
        """Close at once."""
        self.transport.abortConnection()
