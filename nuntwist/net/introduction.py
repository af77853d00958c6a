"""Connections that a proxy makes for others, and begins with whom it makes them for.

Before a port speaks lines, HTTP or TLS, a proxy in front of it may say in a few bytes who has come
to it: the PROXY protocol of HAProxy, version 1 (a line) or 2 (binary). It is spoken on ports whose
endpoint begins with ``haproxy:``, there it must be, and only proxies that are trusted are heard; of
anybody else nothing is read. :func:`read_header` reads it, :class:`Introducing` stands before the
factory of such a port. From the header on, the transport says that it comes from the client.

(Twisted has an endpoint of that name. It takes no header that comes in pieces, puts a wrapper
between a connection and its transport for good, and believes everybody and everything.)
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from nuntwist.net.guard import Guard
from nuntwist.net.outlet import peer_name
from nuntwist.net.proxies import UNIX

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
LONGEST_LINE: Final = 107
"""Bytes of a header of version 1, as it says itself."""
LONGEST: Final = 4096
"""Bytes that a header of version 2 may have behind its head: addresses, and what else it tells."""

_HEAD = 16
_WORD = b"PROXY "
_LINE = re.compile(rb"PROXY (TCP[46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) ([0-9]{1,5}) ([0-9]{1,5})")
_UNKNOWN = re.compile(rb"PROXY UNKNOWN( .*)?")
_LOCAL, _PROXY = 0x20, 0x21
_UNSPECIFIED, _TCP4, _TCP6, _UNIX = 0x00, 0x11, 0x21, 0x31

Client = IPv4Address | IPv6Address


class BadHeader(Exception):
    """What came is no header; the text says why."""


def read_header(data: bytes) -> tuple[Client | None, int] | None:
    """Read the header at the front.

    :return: the client (None where the proxy comes for itself, or does not say for whom), and how
        many bytes the header has; None where it is not whole.
    :raise BadHeader: it is none.
    """
    if data.startswith(_WORD) or _WORD.startswith(data):
        return _line(data)
    if data.startswith(SIGNATURE) or SIGNATURE.startswith(data):
        return _binary(data)
    raise BadHeader("it does not begin with one")


def _line(data: bytes) -> tuple[Client | None, int] | None:
    end = data.find(b"\r\n", 0, LONGEST_LINE)
    if end < 0:
        if len(data) >= LONGEST_LINE:
            raise BadHeader("its line does not end")
        return None
    line = data[:end]
    if _UNKNOWN.fullmatch(line):
        return None, end + 2
    match = _LINE.fullmatch(line)
    if match is None:
        raise BadHeader("its line is wrong")
    version = 4 if match[1] == b"TCP4" else 6
    source, _ = (_address(match[at].decode(), version) for at in (2, 3))
    ports = int(match[4]), int(match[5])
    if max(ports) > 0xFFFF:
        raise BadHeader("a port is wrong")
    return _client(source, ports[0]), end + 2


def _address(text: str, version: int) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.IPv4Address(text) if version == 4 else ipaddress.IPv6Address(text)
    except ValueError:
        raise BadHeader("an address is wrong") from None


def _client(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> Client:
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        if mapped is None:
            return IPv6Address("TCP", str(address), port)
        address = mapped
    return IPv4Address("TCP", str(address), port)


def _binary(data: bytes) -> tuple[Client | None, int] | None:
    if len(data) < _HEAD:
        return None
    command, family = data[12], data[13]
    size = int.from_bytes(data[14:_HEAD], "big")
    if command not in (_LOCAL, _PROXY):
        raise BadHeader("its version or its command is not known")
    if size > LONGEST:
        raise BadHeader("it is too long")
    if len(data) < _HEAD + size:
        return None
    end = _HEAD + size
    if command == _LOCAL or family in (_UNSPECIFIED, _UNIX):
        return None, end
    if family not in (_TCP4, _TCP6):
        raise BadHeader("its family is not known")
    wide = 4 if family == _TCP4 else 16
    if size < 2 * wide + 4:
        raise BadHeader("its addresses are not whole")
    body = data[_HEAD:end]
    packed = body[:wide]
    address = ipaddress.IPv4Address(packed) if wide == 4 else ipaddress.IPv6Address(packed)
    return _client(address, int.from_bytes(body[2 * wide : 2 * wide + 2], "big")), end


@implementer(IProtocolFactory)
class Introducing:
    """The factory of a port to which proxies come.

    :param factory: makes the protocols that come after the header.
    :param guard: says who is a proxy, and waits for the header.
    """

    def __init__(self, factory: Any, guard: Guard) -> None:
        self.wrappedFactory = factory
        self._guard = guard

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrappedFactory, name)

    def buildProtocol(self, addr: IAddress | None) -> IProtocol | None:
        """Make one, or None for whoever is no proxy."""
        host = getattr(addr, "host", None)
        if not self._guard.trusted.includes(host):
            self._guard.refuse_proxy(f"{host or UNIX}, which is not in NUN_TRUSTED_PROXIES")
            return None
        return Introduction(self.wrappedFactory, self._guard)

    def doStart(self) -> None:
        """A port listens."""
        self.wrappedFactory.doStart()

    def doStop(self) -> None:
        """A port does not listen any more."""
        self.wrappedFactory.doStop()


class Introduction(Protocol):
    """A connection of which the header has not come yet."""

    transport: Any

    def __init__(self, factory: Any, guard: Guard) -> None:
        self._factory = factory
        self._guard = guard
        self._held = b""

    def connectionMade(self) -> None:
        """Wait for the header."""
        self._guard.handshakes.begin(self)

    def dataReceived(self, data: bytes) -> None:
        """Take some of it, and what comes behind it."""
        self._held += data
        try:
            found = read_header(self._held)
        except BadHeader as error:
            peer = peer_name(self.transport)
            self._refuse(f"{peer}: no header of the PROXY protocol ({error})")
            return
        if found is not None:
            client, size = found
            self._guard.handshakes.forget(self)
            self._pass_on(client, self._held[size:])

    def _pass_on(self, client: Client | None, rest: bytes) -> None:
        transport = self.transport
        if client is not None and not transport.introduce(client):
            transport.abortConnection()
            return
        made = self._factory.buildProtocol(transport.getPeer())
        if made is None:
            transport.abortConnection()
            return
        transport.protocol = made
        made.makeConnection(transport)
        if rest:
            made.dataReceived(rest)

    def _refuse(self, why: str) -> None:
        self._guard.handshakes.forget(self)
        self._guard.refuse_proxy(why)
        # What comes behind it is not looked at.
        self.transport.pauseProducing()
        self.transport.abortConnection()

    def out_of_time(self) -> str | None:
        """End it; see :class:`nuntwist.net.patience.Hurried`."""
        self.transport.abortConnection()
        return peer_name(self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It is gone."""
        self._guard.handshakes.forget(self)
