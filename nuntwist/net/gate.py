"""How many may be connected: in all, and from one address.

Who is over a limit is closed as it comes in, before anything is kept of it. The port for lines
takes a few more, because other nodes of the set come there too and look like clients until their
first bytes: of these ``SPARE`` a client is told that there are too many, and a node goes on.

Connections over unix sockets are not counted, as the file system decides who reaches them; but
those of proxies are, which bring others.

Behind a proxy that is trusted it is not known at first who comes. So its connections count in all,
and with an address only once that is known (``enter_as``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory
from twisted.logger import Logger
from zope.interface import implementer

from nuntwist.core.counters import Counters
from nuntwist.core.logins import address_of
from nuntwist.net.proxies import Trusted

SPARE: Final = 64
"""Connections beyond the limits that may be nodes."""
TELL_SECONDS: Final = 60.0
"""How often at most it is logged that some were refused."""


class Gate:
    """Counts who is connected.

    :param most: connections in all.
    :param most_of_one: from one address; 0 for any number.
    :param counters: of the node.
    :param seconds: monotonic time, in seconds.
    :param trusted: the proxies that come for others; None for none.
    """

    _log = Logger()

    def __init__(
        self,
        most: int,
        most_of_one: int,
        counters: Counters,
        seconds: Callable[[], float],
        trusted: Trusted | None = None,
    ) -> None:
        self._trusted = trusted or Trusted()
        self._most, self._most_of_one = most, most_of_one
        self._counters = counters
        self._seconds = seconds
        self._all = 0
        self._by_address: dict[str, int] = {}
        self._told_at: float | None = None
        self._untold = 0

    def enter(self, host: str | None, spare: int = 0) -> bool:
        """Count a connection, if it may be there.

        :param host: None where it comes over a unix socket.
        :param spare: how many more than the limits there may be.
        """
        address = None if host is None else address_of(host)
        if self._over(address, 1 - spare):
            self.refused(host)
            return False
        self._all += 1
        if address is not None and not self._trusted.includes(host):
            self._by_address[address] = self._by_address.get(address, 0) + 1
        return True

    def leave(self, host: str | None) -> None:
        """A connection that was counted is gone."""
        self._all -= 1
        if host is not None and not self._trusted.includes(host):
            self.leave_as(host)

    def enter_as(self, host: str, spare: int = 0) -> bool:
        """Count the address of a client behind a proxy, if it may be there.

        :param spare: as for :meth:`enter`.
        """
        if self._trusted.includes(host):
            # One proxy behind another: who has come is still to be told.
            return True
        address = address_of(host)
        known = self._by_address.get(address, 0) + 1
        if self._most_of_one and known - spare > self._most_of_one:
            self.refused(host)
            return False
        self._by_address[address] = known
        return True

    def leave_as(self, host: str) -> None:
        """A client behind a proxy, which was counted, is gone."""
        if self._trusted.includes(host):
            return
        address = address_of(host)
        left = self._by_address[address] - 1
        if left:
            self._by_address[address] = left
        else:
            del self._by_address[address]

    def is_over(self, host: str | None) -> bool:
        """Whether there are more than the limits, one from this address among them."""
        return self._over(None if host is None else address_of(host), 0)

    def refused(self, host: str | None) -> None:
        """Note that a connection was refused."""
        self._counters.refused_connections += 1
        self._untold += 1
        now = self._seconds()
        if self._told_at is not None and now < self._told_at + TELL_SECONDS:
            return
        self._told_at = now
        self._log.warn(
            "connections that were refused: {count}, the last one from {host}, with {connected}"
            " there; see who they are, or raise NUN_MAX_CONNECTIONS or"
            " NUN_MAX_CONNECTIONS_PER_ADDRESS and the limit of open files of this process",
            count=self._untold,
            host=host or "a unix socket",
            connected=self._all,
        )
        self._untold = 0

    def _over(self, address: str | None, more: int) -> bool:
        if self._all + more > self._most:
            return True
        if address is None:
            return False
        of_one = self._by_address.get(address, 0) + more
        return bool(self._most_of_one) and of_one > self._most_of_one


def spare_of(factory: Any) -> int:
    """How many more than the limits there may be on a port, by its factory."""
    while (inner := factory.__dict__.get("wrappedFactory")) is not None:
        factory = inner
    return SPARE if getattr(factory, "takes_nodes", False) else 0


@implementer(IProtocolFactory)
class Gated:
    """A factory whose protocols are made only for those who may come in.

    :param factory: makes them.
    :param gate: is told of each by this; that it is gone, by its transport.
    :ivar spare: how many more than the limits there may be.
    """

    def __init__(self, factory: Any, gate: Gate) -> None:
        self._factory = factory
        self._gate = gate
        self.spare = spare_of(factory)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._factory, name)

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        """Make one, or None: then the port closes the connection."""
        host: str | None = getattr(addr, "host", None)
        if not self._gate.enter(host, self.spare):
            return None
        made: IProtocol | None = self._factory.buildProtocol(addr)
        if made is None:
            self._gate.leave(host)
        return made

    def doStart(self) -> None:
        """A port listens."""
        self._factory.doStart()

    def doStop(self) -> None:
        """A port does not listen any more."""
        self._factory.doStop()
