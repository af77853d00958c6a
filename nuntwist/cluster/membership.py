"""Who is in a set, and which of two sets stays when they meet.

The members are state like any other: one key of ``$admin`` that only the primary writes, so they
are in the log, in snapshots and in copies, and come to each node with what was decided by them.
They change by one node at a time, and the next change waits until a majority has the last one:
then a majority of the old list and one of the new have a node in common, and no two primaries
can be elected by different lists (Ongaro, 2014, section 4.1).

A node that is started first makes a set of its own, whose only member it is: it is *lone*. A set
is *formed* when it has more than one member and a majority has stored that. Where nodes of two
sets meet, one of the sets gives way (:func:`gives_way`): its nodes join the other, and what was
only in their logs is a divergent tail.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from nuntwist.cluster.greeting import Hello

MOST_MEMBERS: Final = 32
"""How many a set may have."""
_ID = re.compile("[0-9a-f]{16}")
_ADDRESS = re.compile("[!-~]{1,255}")


@dataclass(frozen=True, slots=True)
class Membership:
    """The members of a set.

    :ivar set_id: 64 random bits; 0 for no set.
    :ivar members: the address of each, by id.
    """

    set_id: int = 0
    members: Mapping[int, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """As the key holds it."""
        members = {f"{node:016x}": address for node, address in sorted(self.members.items())}
        return json.dumps({"set": f"{self.set_id:016x}", "members": members}).encode()

    def joined(self, node: int, address: str) -> Membership:
        """With one more."""
        return Membership(self.set_id, {**self.members, node: address})

    def left(self, node: int) -> Membership:
        """With one less."""
        return Membership(self.set_id, {n: a for n, a in self.members.items() if n != node})

    def at(self, address: str) -> int | None:
        """Who is at an address; None for nobody."""
        return next((node for node, held in self.members.items() if held == address), None)


def decode_members(value: bytes | None) -> Membership:
    """Read what the key holds; nothing, or what cannot be read, is no set."""
    if value is None:
        return Membership()
    try:
        kept = json.loads(value)
        members = {_id(node): _address(address) for node, address in kept["members"].items()}
        if 0 in members or len(members) > MOST_MEMBERS:
            return Membership()
        return Membership(_id(kept["set"]), members)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Membership()


def _id(text: str) -> int:
    """``int`` takes more than is ever written: signs, spaces, underscores, any length."""
    if not _ID.fullmatch(text):
        raise ValueError(f"{text[:40]} is no id")
    return int(text, 16)


def _address(text: str) -> str:
    if not _ADDRESS.fullmatch(text):
        raise ValueError(f"{text[:40]} is no address")
    return text


def gives_way(mine: Hello, theirs: Hello, can_i: bool = True, can_they: bool = True) -> bool | None:
    """Whether this node's set gives way to the other node's.

    A formed one stays, or else the one with data, or else the longer running. But of two sets one
    of which was not formed, and whose node can never serve it, that one goes.

    :param can_i: whether this node can be a primary, and ``can_they`` whether the other can.
    :return: None where neither may: both are formed.
    """
    if not mine.formed and can_they and not can_i:
        return True
    if not theirs.formed and can_i and not can_they:
        return False
    if mine.formed and theirs.formed:
        return None
    return _standing(theirs) > _standing(mine)


def _standing(hello: Hello) -> tuple[bool, bool, int, int]:
    return hello.formed, hello.holds_data, -hello.since, hello.set_id
