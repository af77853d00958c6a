"""Who may do what to which key: patterns and permission lists, as protocol values.

A list reads ``rw some*,other|i count|r *``: groups separated by ``|``; a group is letters, a
space, and patterns separated by commas.  Letters are r (read), w (write), i (increment), x
(remove), l (list) and a (arbiter: decide conflicts).

A list that does not name ``l`` lets list all keys, as it did before there was that letter; one
that does lets list those alone that a pattern with ``l`` fits. The pattern ``-`` fits no key where
it is for ``l`` alone: ``l -`` lists nothing.
"""

from __future__ import annotations

from nuntwist.errors import CommandError

LETTERS = b"rwixla"
_NO_KEY = b"-"


def matches(pattern: bytes, key: bytes) -> bool:
    """Whether a key fits a pattern: ``x*`` begins, ``*x`` ends, ``x`` contains; ``*`` all."""
    if pattern.endswith(b"*"):
        return key.startswith(pattern[:-1])
    if pattern.startswith(b"*"):
        return key.endswith(pattern[1:])
    return pattern in key


class Permissions:
    """A parsed permission list.

    :param text: the list as stored; an empty one allows nothing.
    :raise CommandError: it is not one.
    """

    __slots__ = ("_groups", "_listing")

    def __init__(self, text: bytes = b"") -> None:
        self._groups: list[tuple[bytes, tuple[bytes, ...]]] = []
        for group in text.split(b"|") if text else ():
            letters, _, patterns = group.strip(b" ").partition(b" ")
            named = tuple(p for p in patterns.strip(b" ").split(b",") if p)
            if not letters or not named or letters.strip(LETTERS):
                raise CommandError(b"invalid permission list")
            self._groups.append((letters, named))
        listing = [
            (letters, pattern)
            for letters, patterns in self._groups
            for pattern in patterns
            if b"l" in letters
        ]
        shown = [p for letters, p in listing if letters.strip(b"l") or p != _NO_KEY]
        self._listing: tuple[bytes, ...] | None = tuple(shown) if listing else None

    @property
    def lists_all(self) -> bool:
        """Whether it does not say what may be listed, so that all may."""
        return self._listing is None

    def lists(self, key: bytes) -> bool:
        """Whether the list lets this key be listed."""
        return self._listing is None or any(matches(pattern, key) for pattern in self._listing)

    def names(self, letter: bytes) -> bool:
        """Whether the list gives this right to any key."""
        return any(letter in letters for letters, _ in self._groups)

    def allow(self, letter: bytes, key: bytes) -> bool:
        """Whether the list gives this right to this key."""
        return any(
            letter in letters and any(matches(pattern, key) for pattern in patterns)
            for letters, patterns in self._groups
        )
