"""How two nodes prove to each other that they have the same secret, before they say anything else.

It is made of lines, so that it can begin on the port of the clients, which speak lines::

    connecting                                accepting
    peer 1 NODE NONCE            ──────────▶
                                 ◀──────────  peer 1 NODE NONCE
    prove PROOF                  ──────────▶
                                 ◀──────────  proof PROOF SET ADDRESS
    welcome PROOF SET ADDRESS    ──────────▶

or, from either, ``refused REASON``, and that is the end. A proof is an HMAC-SHA256 over the word
of its line, both first lines as they were sent, and what stands after the proof in its own line;
its key is made of the secret with scrypt. So

- the secret is never sent. Who reads along, or poses as a node that others connect to, gets a proof
  to try guesses on, each at the price of scrypt; its salt is the same for all, so a weak secret
  stays weak. Who only connects gets none: that side proves first;
- nothing that was recorded helps later, since each side's nonce is new;
- nothing can be sent back to where it came from, since each line has a word of its own: without
  them a ``proof`` would do as the ``welcome`` to it;
- who has not proved that it has the secret learns nothing of the set: its id and the addresses
  come with the second proof and the third.

It does not encrypt what follows, nor does it guard that against somebody between the two who
lets the handshake through and changes what comes after: TLS endpoints do. (A MAC on each frame
would stop the changing but not the reading, at a price on each of them; TLS stops both.)

The version stands before all that may change with it: a node of another version is told so even
where the rest of its first line has another shape.
"""

from __future__ import annotations

import hashlib
import hmac
import random
import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

VERSION: Final = 1
LONGEST: Final = 400
"""Bytes of a line, its end not counted."""

_VERSION = re.compile(rb"peer ([0-9]{1,9})( .*)?")
_FIRST = re.compile(rb"peer [0-9]{1,9} ([0-9a-f]{16}) [0-9a-f]{32}")
_PROVE = re.compile(rb"prove ([0-9a-f]{64})")
_LAST = re.compile(rb"(proof|welcome) ([0-9a-f]{64}) ([0-9a-f]{16}) ([!-~]{1,255})")
_REFUSED = re.compile(rb"refused ([ -~]{1,200})")

ITSELF: Final = "that is the node itself"
NOT_THE_SAME_SECRET: Final = "the two nodes do not have the same secret"
SAME_SECRET: Final = (
    "give both the same NUN_CLUSTER_SECRET, or the same NUN_USER and NUN_PWD where that is not set"
)
"""What to do about that."""
_NOT_UNDERSTOOD = "that is no line of the handshake"


def peer_key(secret: bytes) -> bytes:
    """The key to prove with; takes some 50 ms, so in a thread."""
    return hashlib.scrypt(secret, salt=b"nuntwist peer", n=1 << 14, r=8, p=1, dklen=32)


class Stage(Enum):
    """How far a handshake is."""

    BEGUN = "nothing has come"
    GREETED = "the other has said who it is"
    PROVED = "the other has proved that it has the secret"
    WELCOME = "both have proved it"
    REFUSED = "it has failed"


@dataclass(frozen=True, slots=True)
class Self:
    """What a node says of itself.

    :ivar node: its id.
    :ivar set_id: of the set it is in; 0 for none.
    :ivar address: where it can be reached, ``host:port``; ``-`` where that is not known.
    """

    node: int
    set_id: int
    address: str


Peer = Self
"""What it was told, and can rely on, of the other."""


class _Handshake:
    """What both sides do.

    :param me: what to say.
    :param key: see :func:`peer_key`.
    :param chance: for the nonce; in a node from the operating system.
    :ivar stage: how far it is.
    :ivar peer: the other, when it is welcome.
    :ivar refusal: why it has failed; None while it has not.
    """

    def __init__(self, me: Self, key: bytes, chance: random.Random) -> None:
        self._me = me
        self._key = key
        self._mine = b"peer %d %016x %b" % (VERSION, me.node, chance.randbytes(16).hex().encode())
        self._theirs = b""
        self._node = 0
        self.stage = Stage.BEGUN
        self.peer: Peer | None = None
        self.refusal: str | None = None

    def receive(self, line: bytes) -> bytes:
        """A line has come, without its end.

        :return: what to send, with its end; perhaps nothing. Where it is ``refused``, the
            connection is to be closed after it.
        """
        if self.stage in (Stage.WELCOME, Stage.REFUSED):
            raise ValueError("the handshake is over")
        refused = _REFUSED.fullmatch(line) if len(line) <= LONGEST else None
        if refused is not None:
            self._fail(f"the other node says: {refused[1].decode()}")
            return b""
        if len(line) > LONGEST:
            return self._refuse(_NOT_UNDERSTOOD)
        if self.stage is Stage.BEGUN:
            version = _VERSION.fullmatch(line)
            if version is not None and int(version[1]) != VERSION:
                return self._refuse(f"version {VERSION} is spoken here, not {int(version[1])}")
        return self._take(line)

    def _take(self, line: bytes) -> bytes:
        raise NotImplementedError

    def _greeted(self, line: bytes) -> bytes | None:
        """The first line of the other: nothing if it is right, else the refusal."""
        match = _FIRST.fullmatch(line)
        if match is None:
            return self._refuse(_NOT_UNDERSTOOD)
        self._theirs, self._node = line, int(match[1], 16)
        if self._node == self._me.node:
            return self._refuse(ITSELF)
        self.stage = Stage.GREETED
        return None

    def _proof(self, word: bytes, told: bytes = b"") -> bytes:
        parts = b"\n".join((word, *self._first_lines(), told))
        return hmac.new(self._key, parts, hashlib.sha256).hexdigest().encode()

    def _first_lines(self) -> tuple[bytes, bytes]:
        """That of the connecting side, and that of the accepting one."""
        raise NotImplementedError

    def _tell(self, word: bytes) -> bytes:
        """A line with a proof, and what the other may know then."""
        told = b"%016x %b" % (self._me.set_id, self._me.address.encode())
        return b"%b %b %b\n" % (word, self._proof(word, told), told)

    def _told(self, line: bytes, word: bytes) -> bytes | None:
        """Such a line of the other: nothing if it is right, else the refusal."""
        match = _LAST.fullmatch(line)
        if match is None or match[1] != word:
            return self._refuse(_NOT_UNDERSTOOD)
        right = self._proof(word, b"%b %b" % (match[3], match[4]))
        if not hmac.compare_digest(match[2], right):
            return self._refuse(NOT_THE_SAME_SECRET)
        self.peer = Peer(self._node, int(match[3], 16), match[4].decode())
        self.stage = Stage.WELCOME
        return None

    def _refuse(self, why: str) -> bytes:
        self._fail(why)
        return b"refused %b\n" % why.encode()

    def _fail(self, why: str) -> None:
        self.refusal, self.stage = why, Stage.REFUSED


class Connecting(_Handshake):
    """The side that has connected."""

    def begin(self) -> bytes:
        """What to send first."""
        return self._mine + b"\n"

    def _first_lines(self) -> tuple[bytes, bytes]:
        return self._mine, self._theirs

    def _take(self, line: bytes) -> bytes:
        if self.stage is Stage.BEGUN:
            refusal = self._greeted(line)
            return b"prove %b\n" % self._proof(b"prove") if refusal is None else refusal
        refusal = self._told(line, b"proof")
        return self._tell(b"welcome") if refusal is None else refusal


class Accepting(_Handshake):
    """The side that was connected to."""

    def _first_lines(self) -> tuple[bytes, bytes]:
        return self._theirs, self._mine

    def _take(self, line: bytes) -> bytes:
        if self.stage is Stage.BEGUN:
            refusal = self._greeted(line)
            return self._mine + b"\n" if refusal is None else refusal
        if self.stage is Stage.GREETED:
            return self._proved(line)
        refusal = self._told(line, b"welcome")
        return b"" if refusal is None else refusal

    def _proved(self, line: bytes) -> bytes:
        match = _PROVE.fullmatch(line)
        if match is None:
            return self._refuse(_NOT_UNDERSTOOD)
        if not hmac.compare_digest(match[1], self._proof(b"prove")):
            return self._refuse(NOT_THE_SAME_SECRET)
        self.stage = Stage.PROVED
        return self._tell(b"proof")
