"""The election of a primary that an operator has named: nobody else can be it.

It is Bully (:mod:`nuntwist.cluster.bully`) with one candidate. All that keeps an epoch to one
primary stays: epochs are promised durably, and a majority of the members elects, for nodes may have
been told different names, or the name may have been changed while a part of the set was cut off.
Who is not named votes and follows, and asks for nothing: a row of the table that leads to STANDING
is never taken there.

Nobody elects a node whose log is shorter than its own. So a node is named that has all; one that
has not is not elected, and the transitions tell whose rank is higher.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nuntwist.cluster.bully import Bully


class Fixed(Bully):
    """The election as one node sees it; parameters as of :class:`Bully`.

    :param named: whether a node, by its id, is the one that is named.
    """

    def __init__(self, *given: Any, named: Callable[[int], bool], **more: Any) -> None:
        super().__init__(*given, **more)
        self.may_stand = named
