"""The election that a configuration asks for, by name.

``bully`` and ``fixed`` are here; any other name is looked for among Twisted's plugins, where a
package puts elections of its own (:class:`nuntwist.interfaces.IElectionKind`, docs/extend.md).
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from zope.interface import implementer

from nuntwist.cluster.bully import Bully
from nuntwist.cluster.effects import Means
from nuntwist.cluster.fixed import Fixed
from nuntwist.errors import StartError
from nuntwist.interfaces import IElection, IElectionKind
from nuntwist.plugins import find


def make_bully(means: Means, kind: Any = Bully, **more: Any) -> Any:
    """Make a :class:`nuntwist.cluster.bully.Bully`, or what is derived from it.

    :param kind: the class.
    :param more: what that takes beside.
    """
    return kind(
        means.me,
        means.members,
        means.position,
        means.started,
        means.timing,
        means.chance,
        means.clock.seconds(),
        means.promised.number,
        means.promised.node,
        survives=means.survives,
        at_once=means.at_once,
        **more,
    )


def find_election(name: str) -> IElectionKind:
    """The kind of election of a name.

    :raise StartError: there is none.
    """
    asked = f"election {name!r}, which NUN_ELECTION asks for"
    found: IElectionKind = find(IElectionKind, _BUILT_IN, name, asked)
    return found


@implementer(IElectionKind)
class _Bully:
    name: ClassVar[str] = "bully"

    def make(self, means: Any) -> IElection:
        election: IElection = make_bully(means)
        return election


@implementer(IElectionKind)
class _Fixed:
    name: ClassVar[str] = "fixed"

    def make(self, means: Any) -> IElection:
        if not means.named:
            raise StartError("NUN_ELECTION is 'fixed' but no node is named: set NUN_FIXED_PRIMARY.")
        election: IElection = make_bully(
            means, Fixed, named=lambda node: means.address_of(node) == means.named
        )
        return election


BULLY: Final[IElectionKind] = _Bully()
"""What a set has that was not told otherwise."""
FIXED: Final[IElectionKind] = _Fixed()
_BUILT_IN: Final[dict[str, IElectionKind]] = {"bully": BULLY, "fixed": FIXED}
