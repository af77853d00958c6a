"""The verbs that NunDB's nodes speak, as an admin can send them to a node by hand.

None sets a role or writes past the log: what would make a node primary starts an election,
and what carries a write is that write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nuntwist.addresses import parse_peer
from nuntwist.core.handlers import databases, writing
from nuntwist.core.handlers.common import named
from nuntwist.errors import CommandError
from nuntwist.language.parser import shorten
from nuntwist.language.replies import OK, Reply

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.deciding import Outcome
    from nuntwist.core.node import Node


ALONE = b"this node is alone: start it with NUN_REPLICATE_ADDR to be in a set"


def accept(node: Node, client: Client, arguments: object) -> Reply:
    """A message that changes nothing on a node that is a set of its own."""
    return OK


def stand(node: Node, client: Client, arguments: object) -> Reply:
    """Stand for election: a node alone wins a new epoch."""
    node.stand_again()
    return OK


def step_down(node: Node, client: Client, arguments: object) -> Outcome:
    """Be primary no more, where another can be."""
    if node.replica_set is None:
        node.stand_again()
        return OK
    return node.replica_set.step_down().addCallback(lambda _: OK)


def join(node: Node, client: Client, arguments: tuple[bytes]) -> Outcome:
    """Ask a node into the set; when it has all there is, it is a member."""
    address = _address(arguments[0])
    if node.replica_set is None:
        raise CommandError(ALONE)
    return node.replica_set.join(address).addCallback(lambda _: OK)


def leave(node: Node, client: Client, arguments: tuple[bytes]) -> Outcome:
    """Take a member out of the set; answered when a majority has that."""
    address = _address(arguments[0])
    if node.replica_set is None:
        raise CommandError(ALONE)
    left = node.replica_set.leave(address)
    return left.addCallback(lambda _: OK)


def _address(text: bytes) -> str:
    try:
        return parse_peer(text.decode())
    except ValueError as error:
        raise CommandError(b"invalid address: " + str(error).encode()) from None


def election(node: Node, client: Client, arguments: tuple[bytes, bytes]) -> Reply:
    """Take part in an election."""
    what, _ = arguments
    if what not in (b"candidate", b"alive", b"win"):
        raise CommandError(b"unknown election command: " + shorten(what))
    if what == b"win":
        node.stand_again()
    return OK


def rp(node: Node, client: Client, arguments: tuple[bytes, bytes]) -> Outcome:
    """Run the command that another node sent; one inside another is refused."""
    _, text = arguments
    if text.lstrip(b" ").partition(b" ")[0] == b"rp":
        raise CommandError(b"rp cannot carry rp")
    return node.pipeline.deciding.carried(client, text)


def replicate(node: Node, client: Client, arguments: tuple[bytes, bytes, int, bytes]) -> Outcome:
    """Write a key of any database."""
    name, key, version, value = arguments
    return writing.write(node, client, named(node, name), key, value, version)


def replicate_remove(node: Node, client: Client, arguments: tuple[bytes, bytes]) -> Outcome:
    """Remove a key of any database."""
    name, key = arguments
    return writing.erase(node, client, named(node, name), key)


def replicate_increment(node: Node, client: Client, arguments: tuple[bytes, bytes, int]) -> Outcome:
    """Add to a key of any database."""
    name, key, amount = arguments
    return writing.add(node, client, named(node, name), key, amount)


def replicate_snapshot(node: Node, client: Client, arguments: tuple[bytes, bytes]) -> Outcome:
    """Write snapshots of databases."""
    names, reclaim = arguments
    if reclaim not in (b"true", b"false"):
        raise CommandError(b"replicate-snapshot takes true or false: " + shorten(reclaim))
    return databases.snapshot_named(node, names, reclaim == b"true")
