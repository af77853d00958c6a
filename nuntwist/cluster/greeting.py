"""What two nodes tell each other of the sets they are in.

Over a link, ``Hello`` comes before all else, and again whenever something in it has changed. What
is said about an election or the log counts only between nodes whose last ``Hello`` names the same
set.

============  ====================================================================================
``Hello``     either: this is my set, and this is what I am in it
``Joining``   a node to one of the set it wants to be in: take me in (only the primary does)
``Admitted``  the primary to it: these are the members; follow me, and I copy the log to you
``Whole``     the primary to a member whose log may have lost its end: it has all again
``Invited``   the primary to a node that is in no set, or has left it: an operator wants you in
============  ====================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

from nuntwist.values import Position


@dataclass(frozen=True, slots=True)
class Hello:
    """What a node is.

    :ivar number: of the epoch that it serves or follows; 0 for none.
    :ivar set_id: 0 for none.
    :ivar formed: whether more than one node has ever stored that id.
    :ivar whole: whether its log can be relied on to have all that it has acknowledged.
    :ivar holds_data: whether there is a database but for ``$admin``.
    :ivar serves: whether it is the primary.
    :ivar member: whether it is a member of that set, as far as it knows.
    :ivar since: when the first node of the set was started, in milliseconds since 1970.
    :ivar position: where its log ends.
    """

    number: int
    set_id: int
    formed: bool
    whole: bool
    holds_data: bool
    serves: bool
    member: bool
    since: int
    position: Position


@dataclass(frozen=True, slots=True)
class Joining:
    """:ivar set_id: of the set."""

    number: int
    set_id: int


@dataclass(frozen=True, slots=True)
class Admitted:
    """:ivar members: a :class:`nuntwist.cluster.membership.Membership`, as it is kept."""

    number: int
    members: bytes


@dataclass(frozen=True, slots=True)
class Whole:
    """:ivar number: of the epoch that the primary serves."""

    number: int


@dataclass(frozen=True, slots=True)
class Invited:
    """:ivar set_id: of the set."""

    number: int
    set_id: int


Greeting = Hello | Joining | Admitted | Whole | Invited
