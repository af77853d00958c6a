"""Who has connected to the TCP port, by the first bytes.

::

    what has come                           who it is
    ``peer ``                               a node, where nodes may come
    nothing, or the beginning of that word  not known yet, where nodes may come
    a method of HTTP and `` /``             a browser, perhaps with commands in a body
    anything else                           a client

Once that is known nobody looks again: what comes later is none of these.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

PEER: Final = b"peer "
"""What another node begins with."""
HTTP_REQUESTS: Final = tuple(
    method + b" /" for method in (b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"DELETE", b"PATCH")
)


class Who(Enum):
    """Who it may be."""

    UNKNOWN = "more has to come"
    NODE = "another node of the set"
    BROWSER = "who speaks HTTP"
    CLIENT = "who sends commands"


def who_begins(data: bytes, nodes: bool) -> Who:
    """Who has sent all this, and nothing before it.

    :param nodes: whether nodes may come.
    """
    if nodes and data.startswith(PEER):
        return Who.NODE
    if nodes and PEER.startswith(data):
        return Who.UNKNOWN
    return Who.BROWSER if data.startswith(HTTP_REQUESTS) else Who.CLIENT
