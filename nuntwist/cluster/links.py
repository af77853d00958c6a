"""The connections of a node to the others of its set: one to each.

Of two connections between the same two nodes (each has connected to the other) the one stays that
the node with the lower id has made; both ends know that, so they close the same one. Of two that
the same node has made the later one stays: whoever has made both of them knows that the first is
gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nuntwist.cluster.machine import Link


class LinkTable(Mapping[int, Link]):
    """The connections that are there, by the id of the other node.

    :param me: the id of the node.
    """

    def __init__(self, me: int) -> None:
        self._me = me
        self._links: dict[int, Link] = {}

    def __getitem__(self, node: int) -> Link:
        return self._links[node]

    def __iter__(self) -> Iterator[int]:
        return iter(self._links)

    def __len__(self) -> int:
        return len(self._links)

    def stays(self, node: int, link: Link) -> bool:
        """Whether the connection to a node that is there, if any is, stays, and not a new one."""
        before = self._links.get(node)
        if before is None or before.connecting == link.connecting:
            return False
        return before.connecting == (self._me < node)

    def put(self, node: int, link: Link) -> None:
        """A connection to a node is there, and takes the place of any other."""
        self._links[node] = link

    def drop(self, node: int) -> None:
        """There is none to a node any more."""
        del self._links[node]

    def node_of(self, link: Link) -> int | None:
        """To which node a connection is; None for one that was closed as another one stays."""
        return next((node for node, held in self._links.items() if held is link), None)

    def at(self, address: str) -> int | None:
        """The node that says that it is reached at an address; None for nobody."""
        for node, link in self._links.items():
            if link.peer is not None and link.peer.address == address:
                return node
        return None
