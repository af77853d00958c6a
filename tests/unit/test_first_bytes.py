"""Who has connected to the TCP port, by the first bytes."""

from __future__ import annotations

import pytest

from nuntwist.net.first_bytes import Who, who_begins


@pytest.mark.parametrize(
    ("data", "where_nodes_come", "elsewhere"),
    [
        (b"", Who.UNKNOWN, Who.CLIENT),
        (b"p", Who.UNKNOWN, Who.CLIENT),
        (b"peer", Who.UNKNOWN, Who.CLIENT),
        (b"peer ", Who.NODE, Who.CLIENT),
        (b"peer 1 2 3\n", Who.NODE, Who.CLIENT),
        (b"peers", Who.CLIENT, Who.CLIENT),
        (b"ping\n", Who.CLIENT, Who.CLIENT),
        (b"PEER ", Who.CLIENT, Who.CLIENT),
        (b"GET / HTTP/1.1\r\n", Who.BROWSER, Who.BROWSER),
        (b"PATCH /a", Who.BROWSER, Who.BROWSER),
        (b"POST", Who.CLIENT, Who.CLIENT),
        (b"GET key\n", Who.CLIENT, Who.CLIENT),
        (b"get /\n", Who.CLIENT, Who.CLIENT),
        (b"\nGET / HTTP/1.1", Who.CLIENT, Who.CLIENT),
    ],
)
def test_the_first_bytes_tell(data: bytes, where_nodes_come: Who, elsewhere: Who) -> None:
    assert who_begins(data, nodes=True) is where_nodes_come
    assert who_begins(data, nodes=False) is elsewhere
