"""Failed logins, counted by address: whoever fails again and again has to wait.

Each address has a level, which rises by one with a failure and falls by one every
``FORGIVEN_SECONDS`` (a leaky bucket; Turner, 1986). Below the limit nothing happens. From there on
logins of that address are tried one after the other, with a pause between two that doubles with
each failure: also right ones, as whether they are right is what is being tried out. A login that
would have to wait longer than ``LONGEST_WAIT`` is refused like a wrong one.

So an address gets a few attempts a minute, from however many connections, and keeps nothing busy
meanwhile: not the threads that hash, not the loop.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

FORGIVEN_SECONDS: Final = 6.0
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
LONGEST_WAIT: Final = 60.0
ADDRESSES: Final = 10_000
"""How many addresses are remembered; the one that failed longest ago goes first."""


class _Record:
    """One address.

    :ivar level: its failures that are not forgiven, as of ``since``.
    :ivar free: when the next attempt may be made.
    """

    __slots__ = ("free", "level", "since")

    def __init__(self, now: float) -> None:
        self.level, self.since, self.free = 0.0, now, now


class Logins:
    """The failed logins of a node.

    :param limit: failures of an address from which its logins have to wait; 0 for never.
    :param seconds: monotonic time, in seconds.
    """

    def __init__(self, limit: int, seconds: Callable[[], float]) -> None:
        self._limit = limit
        self._seconds = seconds
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def wait(self, peer: str) -> float | None:
        """How long a login has to wait, in seconds; None where it is refused at once.

        :param peer: as :attr:`nuntwist.core.client.Client.peer`.
        """
        record = self._records.get(address_of(peer))
        if record is None or not self._limit:
            return 0.0
        now = self._seconds()
        over = self._level(record, now) - self._limit
        if over < 0:
            return 0.0
        wait = max(0.0, record.free - now)
        if wait > LONGEST_WAIT:
            return None
        # Before it is known how this one ends: others come meanwhile.
        record.free = now + wait + _pause(over)
        return wait

    def may_now(self, peer: str) -> bool:
        """Whether a login may be tried at once, for those who cannot wait: of an address that has
        failed too often one may, and the next after the pause.

        :param peer: as for :meth:`wait`.
        """
        record = self._records.get(address_of(peer))
        if record is None or not self._limit:
            return True
        now = self._seconds()
        over = self._level(record, now) - self._limit
        if over < 0:
            return True
        if now < record.free:
            return False
        record.free = now + _pause(over)
        return True

    def failed(self, peer: str) -> bool:
        """A login has failed.

        :return: whether the address has to wait from now on, and had not before.
        """
        if not self._limit:
            return False
        address, now = address_of(peer), self._seconds()
        record = self._records.setdefault(address, _Record(now))
        self._records.move_to_end(address)
        if len(self._records) > ADDRESSES:
            self._records.popitem(last=False)
        before = self._level(record, now)
        record.level, record.since = before + 1.0, now
        return before < self._limit <= record.level

    @staticmethod
    def _level(record: _Record, now: float) -> float:
        return max(0.0, record.level - (now - record.since) / FORGIVEN_SECONDS)


def _pause(over: float) -> float:
    pause: float = FIRST_PAUSE * 2.0 ** min(over, 60.0)
    return min(pause, LONGEST_PAUSE)


def address_of(peer: str) -> str:
    """What counts as one address: the host; of IPv6 the network of 64 bits that a customer has."""
    host = peer
    if peer.startswith("["):
        host = peer[1:].partition("]")[0]
    elif peer.count(":") == 1:
        host = peer.partition(":")[0]
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
