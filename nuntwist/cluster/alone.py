"""The election of a node that is a set of its own: it wins, in a new epoch each time."""

from __future__ import annotations

from collections.abc import Callable

from zope.interface import implementer

from nuntwist.cluster.identity import Identity
from nuntwist.errors import StartError
from nuntwist.interfaces import IElection
from nuntwist.values import Epoch


@implementer(IElection)
class AloneElection:
    """Always won.

    :param identity: keeps the epochs.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def start(self, elected: Callable[[Epoch], None]) -> None:
        """Win a new epoch.

        :raise StartError: it could not be kept.
        """
        epoch = Epoch(self._identity.epoch.number + 1, self._identity.node_id)
        try:
            self._identity.raise_epoch(epoch)
        except OSError as error:
            raise StartError(f"The epoch cannot be kept: {error.strerror}.") from None
        elected(epoch)

    def stop(self) -> None:
        """Nothing is under way."""
