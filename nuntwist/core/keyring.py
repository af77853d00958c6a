"""The keys that signed tokens are checked with, by the text that a database keeps of them.

Keys that hold a secret are sealed, and opening them takes as long as a login, away from the loop:
so what was opened is remembered, and who asks for the same meanwhile waits for the same opening.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.core.signing import Keys, keys_from
from nuntwist.errors import CommandError
from nuntwist.interfaces import ISecrets

REMEMBERED: Final = 1_000
"""Of how many databases keys are remembered; those used longest ago go first."""
_PLAIN: Final = b"{"


class Keyring:
    """The keys of a node's databases.

    :param secrets: seals and opens.
    """

    _log = Logger()

    def __init__(self, secrets: ISecrets) -> None:
        self._secrets = secrets
        self._known: OrderedDict[bytes, Keys | None] = OrderedDict()
        self._opening: dict[bytes, list[Deferred[Keys | None]]] = {}

    def to_keep(self, keys: Keys) -> Deferred[bytes]:
        """Fires with the text that a database keeps of its keys."""
        return self._secrets.seal(keys.text) if keys.secret else succeed(keys.text)

    def keys(self, kept: bytes, name: bytes) -> Deferred[Keys | None]:
        """Fires with the keys that a text was made of; with None where this node cannot open it.

        :param name: of the database, for the log.
        """
        if kept in self._known:
            self._known.move_to_end(kept)
            return succeed(self._known[kept])
        if kept.startswith(_PLAIN):
            return succeed(self._opened(kept, kept, name))
        asked: Deferred[Keys | None] = Deferred()
        waiting = self._opening.setdefault(kept, [])
        waiting.append(asked)
        if len(waiting) == 1:
            self._secrets.unseal(kept).addBoth(self._answer, kept, name)
        return asked

    def _answer(self, opened: bytes | Failure | None, kept: bytes, name: bytes) -> None:
        waiting = self._opening.pop(kept)
        if isinstance(opened, Failure):
            for asked in waiting:
                asked.errback(opened)
            return
        keys = self._opened(opened, kept, name)
        for asked in waiting:
            asked.callback(keys)

    def _opened(self, text: bytes | None, kept: bytes, name: bytes) -> Keys | None:
        keys = None
        try:
            keys = None if text is None else keys_from(text)
        except CommandError:
            # Of a later version, perhaps.
            keys = None
        if keys is not None and keys.secret and kept.startswith(_PLAIN):
            # Written past the command that seals: who has a backup has them.
            keys = None
        if keys is None:
            self._log.error(
                "the signing keys of the database {name} cannot be used, so its signed tokens are"
                " refused: the credentials or NUN_CLUSTER_SECRET were others when they were set, or"
                " they came in clear; set them again (set-signing-keys)",
                name=name.decode(),
            )
        self._known[kept] = keys
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return keys
