"""Whom a node believes when it says for whom it has come: the proxies that an operator names.

A proxy that speaks HTTP adds to ``X-Forwarded-For`` the address of whoever came to it. Read from
the right, what is written by proxies that are trusted is true, up to the first address that is none
of theirs: that is the client. What stands left of it the client may have written itself. Where
something stands there that is no address, nobody knows, and the proxy's own address is left.
Pure.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNIX: Final = "unix"
"""Stands for everybody who comes over a unix socket."""
MOST_HOPS: Final = 16
"""Proxies that may stand one behind the other."""
LONGEST: Final = 64
"""Characters of one address in a header."""

_FORMS = re.compile(
    r"\[([0-9A-Fa-f:.]{2,45})\](?::[0-9]{1,5})?|([0-9.]{7,15})(?::[0-9]{1,5})?"
    r"|([0-9A-Fa-f:.]{2,45})"
)
"""An address, with a port or without."""


def address_in(text: str) -> Address | None:
    """The address that a text is, in one of the forms in which proxies write them."""
    match = _FORMS.fullmatch(text) if len(text) <= LONGEST else None
    if match is None:
        return None
    return _plain(match[1] or match[2] or match[3])


def _plain(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _network(text: str) -> Network:
    """A network; one of IPv4 written as IPv6 as what it is, as addresses are."""
    network = ipaddress.ip_network(text)
    mapped = network.network_address
    if isinstance(mapped, ipaddress.IPv6Address) and mapped.ipv4_mapped is not None:
        bits = network.prefixlen - 96
        if bits >= 0:
            return ipaddress.ip_network((mapped.ipv4_mapped, bits))
    return network


class Trusted:
    """The proxies that are believed.

    :param networks: addresses and networks, and perhaps :data:`UNIX`.
    """

    def __init__(self, networks: Sequence[str] = ()) -> None:
        self._networks = [_network(text) for text in networks if text != UNIX]
        self._unix = UNIX in networks

    def includes(self, host: str | None) -> bool:
        """Whether who comes from there is one of them.

        :param host: None for a unix socket.
        """
        if host is None:
            return self._unix
        if not self._networks:
            return False
        address = _plain(host)
        return address is not None and self._has(address)

    def _has(self, address: Address) -> bool:
        return any(address in network for network in self._networks)

    def client_behind(self, host: str | None, forwarded: Sequence[bytes]) -> str | None:
        """The client for whom a proxy has come.

        :param host: from where the connection comes; None for a unix socket.
        :param forwarded: each ``X-Forwarded-For`` of the request, in order.
        :return: its address; None where that is not known, or is the proxy itself.
        """
        if not forwarded or not self.includes(host):
            return None
        hops = b",".join(forwarded).decode("latin-1").rsplit(",", MOST_HOPS)[-MOST_HOPS:]
        for hop in reversed(hops):
            address = address_in(hop.strip(" \t"))
            if address is None:
                return None
            if not self._has(address):
                return str(address)
        return None


def forwarded_in(head: bytes) -> list[bytes]:
    """Each ``X-Forwarded-For`` in the head of a request.

    Lines end here where HTTP ends them and nowhere else: otherwise a client could hide one of its
    own in another header that a proxy lets through.
    """
    found = []
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"x-forwarded-for":
            found.append(value)
    return found
