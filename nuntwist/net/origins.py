"""Whose pages a browser may have connect: the origins that are allowed.

Programs send no origin, and are not concerned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

NULL: Final = "null"
"""The origin of pages from a file, and of sandboxed frames."""
LONGEST_ORIGIN: Final = 100
"""Characters of an origin that is refused, in the log."""
_PORTS: Final = {"https": 443, "http": 80}


def full_origin(origin: str) -> str:
    """An origin with its port.

    :param origin: as in a setting, or in a header.
    :raise ValueError: it is none.
    """
    parts = urlsplit(origin.lower())
    port = parts.port or _PORTS.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}:{port}"


class Origins:
    """The pages that may connect.

    :param allowed: their origins, in lower case; empty for all.
    """

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self._any = not allowed
        self._null = NULL in allowed
        self._allowed = frozenset(full_origin(one) for one in allowed if one != NULL)

    def admit(self, origin: str | None) -> bool:
        """Whether a page of an origin may send commands.

        :param origin: the header; None where there is none.
        """
        if self._any or origin is None:
            return True
        if origin == NULL:
            return self._null
        try:
            return full_origin(origin) in self._allowed
        except ValueError:
            return False
